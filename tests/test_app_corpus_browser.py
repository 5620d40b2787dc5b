"""The tab Corpus in a real browser: from a text to a search, reloads, deleting, small screens."""

from browsing import in_both_themes, page_tests, unreadable

pytestmark = page_tests

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


def test_a_pasted_text_is_built_looked_into_and_used(open_page):
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
    page.set_viewport_size({"width": 390, "height": 900})
    for _ in in_both_themes(page):
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        parts = "#steps *, #corpus-tabs [role=tab], .facts *, .findings *, .legend *, .status-line *"
        assert not unreadable(page, parts)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.locator("#use").click()
    page.wait_for_function("document.querySelector('#datastore input').value === 'inns'")
    assert page.get_by_role("tab", name="Explore").get_attribute("aria-selected") == "true"
    page = open_page()  # a reload would cut off a connection, of which Gradio complains on the console
    look(page)
    page.locator("#listing [role=gridcell]").filter(has_text="inns", visible=True).first.wait_for()


def test_a_reload_loses_neither_what_was_pasted_nor_what_is_being_built(server, browser):
    # Not by `open_page`: Gradio complains on the console of a connection that a reload cuts off.
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.address)
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
    assert not (server.home / "datastores" / "long").exists()
    context.close()


def test_documents_are_deleted_after_a_question_and_a_datastore_after_its_name(open_page, server, tmp_path):
    page = open_page()
    page.get_by_role("tab", name="Corpus").click()
    table = tmp_path / "names.csv"
    table.write_text(
        "title,text\n"
        + "".join(
            f'{i} {p},"{INNS} {i}"\n' for i, p in enumerate(["plain", "<b onclick=x>", "${window.__pwned=1}"])
        )
    )
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7")
    page.locator("#files input[type=file]").set_input_files([tmp_path / "broken.pdf", table])
    page.locator("#text-told").get_by_text("Left out: Cannot read broken.pdf").wait_for()
    assert "3 documents" in page.locator("#text-told").inner_text()
    page.locator("#to-chunks").click()
    page.locator(".preview-notes summary", has_text="1 file was left out").wait_for()
    page.locator(".preview-note", has_text="Cannot read broken.pdf").wait_for()  # without a click
    page.locator("#to-index").click()
    page.get_by_text("Ask for another index").click()
    page.locator("#index-factory input, #index-factory textarea").fill("HNSW32")
    page.locator("#advice h4", has_text="HNSW32: a graph").wait_for()
    page.locator("#index-factory input, #index-factory textarea").fill("")
    page.locator("#advice h4", has_text="Exact search").wait_for()
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
    # Seen from the button, which is further down than a window is high.
    line = page.locator("#store-progress .status-line").bounding_box()
    assert page.evaluate("scrollY") > 0 and 0 <= line["y"] < 200
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
    assert not (server.home / "datastores" / "names").exists()
