"""Compare in a real browser: one click to two datastores side by side, hostile documents, small screens."""

import pytest
from test_app_browser import (  # noqa: F401
    BROWSER,
    CONTRAST,
    PAYLOAD,
    PAYLOADS,
    browser,
    frames,
    open_page,
    server,
)

from app import text
from indexing import paths
from indexing.build import build
from indexing.corpus import Document
from indexing.embedder import DEFAULT_EMBEDDER, open_embedder
from indexing.tokenizer import Tokenizer

pytestmark = [
    pytest.mark.page,
    pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install chromium"),
]


def open_compare(page, part="Write side by side"):
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("tab", name=part).click()
    page.wait_for_selector(".compare-columns" if part.startswith("Write") else ".same-bars")


def wait_for(page, selector, words):
    page.wait_for_function(
        "([s, words]) => document.querySelector(s).textContent.includes(words)",
        arg=[selector, words],
        timeout=120_000,
    )


def test_one_click_shows_two_editions_side_by_side(open_page):  # noqa: F811
    page = open_page()
    open_compare(page)
    assert page.locator("#compare-view .compare-title").inner_text() == "Recorded example"
    assert "the 2015 edition" in page.locator("#compare-view .compare-headline").inner_text()
    page.get_by_role("button", name=text.SWAPS[3][0]).click()
    wait_for(page, "#compare-progress", "Wrote")
    assert page.locator("#compare-view .compare-title").count() == 0
    columns = [page.locator(".compare-column").nth(i).inner_text() for i in range(3)]
    assert columns[0].startswith("factbook-2015") and "36.7 years" in columns[0]
    assert columns[1].startswith("factbook-2025") and "41.9 years" in columns[1]
    assert columns[2].startswith("no retrieval") and "It read nothing" in columns[2]
    headline = page.locator("#compare-view .compare-headline")
    assert headline.inner_text().startswith("Same model, same prompt: with the 2015 edition it writes")
    assert headline.locator("strong").count() in (1, 3)
    page.wait_for_function("!document.querySelector('#compare-run').disabled")
    assert page.locator("#compare-stop").is_disabled()


def test_hostile_documents_are_shown_as_they_are(server, browser, open_page, monkeypatch):  # noqa: F811
    control = browser.new_page()
    control.set_content(f"<div>{PAYLOADS[0]}</div>")
    control.wait_for_function("window.__pwned === 'img'")  # the payload is one
    control.close()
    monkeypatch.setenv("RETRO_HOME", str(server[2]))
    hostile = [Document("a", PAYLOAD, PAYLOAD, "x"), Document("b", "Plain", "Rivers flow to the sea.", "y")]
    tokenizer = Tokenizer.load(paths.model_dir(paths.DEMO_MODEL))
    list(build("hostile", hostile, tokenizer, open_embedder(DEFAULT_EMBEDDER)))
    page = open_page()
    open_compare(page)
    page.locator("#compare-store-first input").click()
    page.get_by_role("option", name="hostile").click()
    page.locator("#compare-prompt textarea").fill(PAYLOAD)
    page.locator("#compare-prompt textarea").press("Control+Enter")
    wait_for(page, "#compare-progress", "Wrote")
    shown = page.locator(".compare-column").first
    assert PAYLOAD in shown.locator(".compare-given").text_content()
    assert PAYLOAD in shown.locator(".compare-neighbour header").first.text_content()
    assert PAYLOADS[0] in shown.locator(".compare-read").text_content()

    open_compare(page, "Same text, other reading")
    page.locator("#same-store input").click()
    page.get_by_role("option", name="hostile").click()
    page.locator("#same-beginning textarea").fill("")
    page.locator("#same-scored textarea").fill(PAYLOAD * 2)
    page.locator("#same-run").click()
    wait_for(page, "#same-progress", "Read 10 of 10")
    assert page.locator(".same-tokens").text_content() == PAYLOAD * 2
    assert PAYLOADS[0] in page.locator(".same-neighbours").text_content()
    page.locator(".same-tokens").focus()
    page.keyboard.press("ArrowRight")
    assert "nats" in page.locator(".same-tip").inner_text()


def test_the_recorded_reading_shows_intervals_and_what_each_two_read_in_common(open_page):  # noqa: F811
    page = open_page()
    open_compare(page, "Same text, other reading")
    names = page.locator(".same-name").all_inner_texts()
    assert names[0] == "no retrieval" and names[-1] == "my edit" and len(names) == 10
    assert page.locator(".same-bar em").count() == 10
    assert page.locator(".same-row", has_text="factbook-2025, by words").locator(".same-better").count() == 1
    cell = page.get_by_role("button", name="neighbours of factbook-2025, by meaning (dense) are also read by")
    cell.filter(has_text="of").nth(1).focus()  # with the same datastore's BM25
    page.keyboard.press("Enter")
    assert page.locator(".same-overlaps [aria-pressed=true]").evaluate(
        "node => node === document.activeElement"
    )
    assert page.locator(".same-pair select").nth(1).evaluate("n => n.selectedOptions[0].text") == names[3]
    assert page.locator(".same-neighbours section").first.inner_text().startswith("In common · 2")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("part", ["Write side by side", "Same text, other reading"])
def test_a_phone_shows_it_without_scrolling_sideways_and_in_readable_colours(open_page, theme, part):  # noqa: F811
    page = open_page(width=390, query=f"?__theme={theme}")
    open_compare(page, part)
    frames(page, 10)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(CONTRAST.replace(".retro-lens *, #header *", ".side-by-side *, .same-text *")) >= 4.5
