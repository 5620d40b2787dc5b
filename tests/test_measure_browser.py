"""Measure in a real browser: what was recorded at once, a text of one's own from the click to the numbers, a
reload on the way, and a slider that asks nobody."""

import json

from browsing import PAYLOAD, PAYLOADS, page_tests

from indexing import paths
from indexing.build import build
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.embedder import DEFAULT_EMBEDDER, open_embedder
from indexing.tokenizer import Tokenizer
from retro_core.measurements import list_measurements

pytestmark = page_tests


def open_measure(page):
    tab = page.get_by_role("tab", name="Measure")
    if not tab.is_visible():  # on a small screen it is in a menu
        page.locator(".overflow-menu > button").first.click()
        tab = page.locator(".overflow-dropdown button", has_text="Measure")
    tab.click()
    page.wait_for_selector("#measure-view .measure > *")


def choose(page, field, words):
    page.locator(f"#{field} input").click()
    page.get_by_role("option", name=words).first.click()


def test_the_recorded_measurement_is_read_without_asking_anybody(open_page):
    page = open_page(width=390)
    open_measure(page)
    assert "Retrieval helps on factbook" in page.locator(".measure-headline").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    slider = page.get_by_role("slider", name="α")
    result = json.loads((paths.ASSETS / "models/demo/evaluation.json").read_text())["probes"]
    for name in ("factbook", "bible"):
        page.locator(".measure-probes button", has_text=name).click()
        took = page.evaluate(  # at once, so nobody else can have been asked
            """() => {
                const slider = document.querySelector(".measure-slider input"), begun = performance.now();
                slider.value = "0";
                slider.dispatchEvent(new Event("input", { bubbles: true }));
                document.querySelector(".measure-told").getBoundingClientRect();
                return performance.now() - begun;
            }"""
        )
        point = result[name]["leakage"][0]
        told = page.locator(".measure-told").inner_text()
        assert f"On {point['bpb']['on']:.3f}, Off {point['bpb']['off']:.3f}" in told
        assert f"over {point['chunks']:,} of" in told
        assert took < 100
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert "α ≤ 25 %" in page.locator(".measure-told").inner_text()
    before = page.locator(".measure-value b").first.inner_text()
    page.get_by_role("button", name="Perplexity").click()
    assert page.locator(".measure-value b").first.inner_text() != before
    for picture in page.locator(".measure-figure svg").all():
        assert picture.get_attribute("aria-label") and picture.bounding_box()["width"] <= 390
    shares = page.evaluate(_SHARES)
    assert shares and all(abs(drawn - said) < 1 for drawn, said in shares)


# How wide each piece of a bar of shares is, and what it says, in %.
_SHARES = """() => [...document.querySelectorAll(".measure-share span")].map((piece) => [
  100 * piece.getBoundingClientRect().width / piece.parentElement.getBoundingClientRect().width,
  parseFloat(piece.title.match(/([\\d.]+) ?%/)[1]),
])"""


def test_a_text_of_ones_own_is_measured_through_a_reload(server, browser, open_page, monkeypatch):
    control = browser.new_page()
    control.set_content(f"<div>{PAYLOADS[0]}</div>")
    control.wait_for_function("window.__pwned === 'img'")  # such a payload does run where nobody takes care
    control.close()
    monkeypatch.setenv("RETRO_HOME", str(server.home))
    bundled = Datastore.open("factbook")
    pages = [bundled.documents[number] for number in range(4)]
    tokenizer = Tokenizer.load(paths.model_dir(paths.DEMO_MODEL))
    hostile = [Document("h", PAYLOAD, f"{PAYLOAD}\n{pages[0].text[:1500]}", PAYLOAD)]
    list(build("few-pages", [*pages, *hostile], tokenizer, open_embedder(DEFAULT_EMBEDDER)))

    page = open_page()
    open_measure(page)
    page.get_by_label("Text of mine").check()
    page.locator("#measure-text textarea").fill(f"{PAYLOAD}\n\n{pages[0].text[:1800]}")
    choose(page, "measure-datastore", "few-pages")
    page.locator("#measure-run").click()
    page.wait_for_function("!document.querySelector('#measure-stop').disabled")
    assert page.locator("#measure-run").is_disabled()

    page = open_page()  # as after a reload
    open_measure(page)
    page.wait_for_function(
        "document.querySelector('#measure-progress').textContent.includes('Measured')", timeout=400_000
    )
    page.wait_for_selector(".measure-cards .measure-card")
    shown = page.locator("#measure-view").inner_text()
    measured = list_measurements()[0]
    result = json.loads((measured.folder / "evaluation.json").read_text())
    on = result["probes"]["my text"]["readings"]["on"]
    assert f"{on['bpb']:.3f}" in shown and "reading from few-pages" in shown
    assert "exact: all compared" in shown and "1 text of mine: " + PAYLOAD[:20] in shown
    assert str(server.home) not in shown + json.dumps(result)
    page.wait_for_function("!document.querySelector('#measure-run').disabled")
    assert page.locator("#measure-stop").is_disabled()

    with page.expect_download() as waiting:
        page.locator("#measure-export-csv").click()
    assert waiting.value.suggested_filename.endswith("-tables.zip")
    choose(page, "measure-beside", "Recorded")
    page.wait_for_selector(".measure-card:has-text('Side by side')")
    page.locator("#measure-delete").click()
    page.locator("#measure-delete-yes").click()
    page.wait_for_function("document.querySelector('.measure h2').textContent.startsWith('Recorded')")
    assert list_measurements() == []
