"""The tab Corpus in a real browser: from a text to a search, reloads, untrusted text, small screens."""

import pytest
from test_app_browser import (  # noqa: F401
    CONTRAST,
    PAYLOAD,
    browser,
    frames,
    open_page,
    pytestmark,
    server,
    sync_api,
)

from indexing import paths

INNS = "The Quibbling Heron is an inn at Marrow Ford, kept by Ada Brisket. "


def make(page, text):
    """To the last step, with a text pasted."""
    page.get_by_role("tab", name="Corpus").click()
    page.locator("#pasted textarea").fill(text)
    page.locator("#text-told").get_by_text("of 64 tokens").wait_for()
    page.locator("#to-chunks").click()
    page.wait_for_selector(".preview-chunk")
    page.locator("#to-index").click()
    page.wait_for_selector("#advice dl")
    page.locator("#to-build").click()
    page.locator("#corpus-name").wait_for()


def name_it(page, name):
    page.locator("#corpus-name input, #corpus-name textarea").fill(name)
    page.locator("#index").click()


def look(page):
    page.get_by_role("tab", name="Corpus").click()
    page.get_by_role("tab", name="Look into one").click()
    page.wait_for_selector("#card dl")


def test_a_pasted_text_is_built_looked_into_and_used(open_page):  # noqa: F811
    page = open_page()
    make(page, INNS * 30)
    name_it(page, "inns")
    page.wait_for_function(
        "document.querySelector('#store-progress')?.textContent.includes('Built')", timeout=90_000
    )
    page.wait_for_function("document.querySelector('#card h4')?.textContent === 'inns'")
    page.locator("#query textarea").fill("Who keeps the inn?")
    page.locator("#search").click()
    page.locator(".finding", has_text="Ada Brisket").first.wait_for()
    page.locator(".finding-source summary").first.click()
    assert page.locator(".finding-source mark").first.inner_text() in INNS * 30
    page.wait_for_function("document.querySelector('#map-legend').textContent.includes('◆ is your text')")
    page.wait_for_selector("#map .js-plotly-plot")
    page.locator("#use").click()
    page.wait_for_function("document.querySelector('#datastore input').value === 'inns'")
    assert page.get_by_role("tab", name="Explore").get_attribute("aria-selected") == "true"
    page = open_page()  # a reload would cut off a connection, of which Gradio complains on the console
    look(page)
    page.locator("#listing [role=gridcell]").filter(has_text="inns", visible=True).first.wait_for()


def test_a_reload_loses_neither_what_was_pasted_nor_what_is_being_built(server, browser):  # noqa: F811
    # Not by `open_page`: Gradio complains on the console of a connection that a reload cuts off.
    context = browser.new_context()
    page = context.new_page()
    page.goto(server[0])
    make(page, " ".join(f"{i} {INNS}" for i in range(4000)))
    name_it(page, "long")
    pace = "document.querySelector('#index-progress')?.textContent.includes('chunks/s')"
    page.wait_for_function(pace, timeout=90_000)
    page.reload()
    page.get_by_role("tab", name="Corpus").click()
    page.wait_for_function(pace)
    assert page.locator("#index").is_disabled()
    page.locator("#cancel").click()
    page.wait_for_function("document.querySelector('#index-progress').textContent.includes('Cancelled')")
    page.wait_for_function("!document.querySelector('#index').disabled")
    page.reload()
    page.get_by_role("tab", name="Corpus").click()
    # Whether the browser had noted the end before it was reloaded decides which step is shown.
    page.locator("#steps button", has_text="Text").first.click()
    page.wait_for_function("document.querySelector('#pasted textarea')?.value.startsWith('0 The Quibbling')")
    assert not (server[2] / "datastores" / "long").exists()
    context.close()


def test_documents_are_deleted_after_a_question_and_a_datastore_after_its_name(open_page, server, tmp_path):  # noqa: F811
    page = open_page()
    page.get_by_role("tab", name="Corpus").click()
    table = tmp_path / "names.csv"
    table.write_text(
        "title,text\n"
        + "".join(
            f'{i} {p},"{INNS} {i}"\n' for i, p in enumerate(["plain", "<b onclick=x>", "${window.__pwned=1}"])
        )
    )
    page.locator("#files input[type=file]").set_input_files(table)
    page.locator("#text-told").get_by_text("3 documents").wait_for()
    page.locator("#to-chunks").click()
    page.locator("#to-index").click()
    page.locator("#to-build").click()
    name_it(page, "names")
    page.wait_for_function("document.querySelector('#card h4')?.textContent === 'names'", timeout=90_000)
    page.locator("#documents-fold button").first.click()
    page.get_by_label("<b onclick=x>").check()
    page.locator("#delete").click()
    page.locator("#delete-yes").click()
    page.wait_for_function("document.querySelector('#card').textContent.includes('2 and 1 deleted')")
    page.get_by_role("button", name="Check and tidy").click()
    page.locator("#verify").click()
    page.wait_for_function(
        "document.querySelector('#store-progress').textContent.includes('as it was written')"
    )
    page.get_by_role("button", name="Copy, rename, export").click()
    page.locator("#export").click()
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "names.retro-datastore.zip"
    page.get_by_role("button", name="Remove it").click()
    page.locator("#remove-name input, #remove-name textarea").fill("names")
    page.locator("#remove").click()
    page.wait_for_function("document.querySelector('#store-progress').textContent.includes('Removed names')")
    page.wait_for_function("document.querySelector('#chosen input').value === 'factbook'")
    assert not (server[2] / "datastores" / "names").exists()


def test_untrusted_text_is_shown_as_it_is_in_every_step(open_page):  # noqa: F811
    page = open_page()
    make(page, PAYLOAD)
    page.locator("#steps button", has_text="Chunks").first.click()
    page.wait_for_selector(".preview-chunk")
    shown = page.evaluate(
        "[...document.querySelectorAll('.preview-chunk')]"
        ".map(chunk => chunk.textContent.slice(chunk.firstChild.textContent.length)).join('')"
    )
    assert shown == PAYLOAD
    page.locator("#to-index").click()
    page.locator("#to-build").click()
    name_it(page, "payload")
    page.wait_for_function("document.querySelector('#card h4')?.textContent === 'payload'", timeout=90_000)
    page.locator("#query textarea").fill(PAYLOAD)
    page.locator("#search").click()
    page.locator(".finding").first.wait_for()
    assert PAYLOAD[:40] in page.locator(".findings").text_content()
    page.wait_for_function("document.querySelector('#map-legend').textContent.includes('◆')")
    page.wait_for_selector("#map .scatterlayer .point")
    page.locator("#map .scatterlayer .point").last.hover(force=True)
    page.locator("#map .hoverlayer text").first.wait_for()
    assert "onerror" in page.locator("#map .hoverlayer").text_content()
    page.locator("#documents-fold button").first.click()
    page.locator("#documents label").first.wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone_and_its_words_can_be_read(open_page, theme):  # noqa: F811
    page = open_page(width=390, query=f"?__theme={theme}")
    page.get_by_role("tab", name="Corpus").click()
    page.wait_for_selector("#steps")
    frames(page, 10)
    parts = '"#steps *, #corpus-tabs [role=tab], .facts *, .findings *, .legend *, .status-line *"'
    contrast = CONTRAST.replace('".retro-lens *, #header *"', parts)
    assert parts in contrast
    for tab in ("Make a datastore", "Look into one"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate(contrast) >= 4.5
    page.wait_for_selector("#card dl")
    page.locator("#query textarea").fill("rivers")
    page.get_by_label("by words (BM25)").check()
    page.locator(".finding").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(contrast) >= 4.5
    assert paths.DEMO_DATASTORE in page.locator("#card").inner_text()
