"""Texts that would do something as HTML, script, template, Markdown or style, in all that strangers can hand
in, on every screen: none runs, none loads anything, and they are shown as they are."""

import gzip
import json
import shutil
import time
from urllib.parse import quote

import pytest
from browsing import page_tests
from hostile_texts import ALL, LOADING, OTHERS, REMOTE, RUNNING, SEE, SEEN, TEMPLATES, WATCH
from live_app import live_app
from synthetic_trace import synthetic_file

from indexing import paths
from indexing.build import build
from indexing.corpus import Document
from indexing.embedder import DEFAULT_EMBEDDER, open_embedder
from indexing.tokenizer import Tokenizer
from retro_core.measurements import LOG_FILE, ORDER_FILE, PROCESS_FILE, TEXTS_FILE

pytestmark = page_tests

PROMPT = " ".join([*RUNNING[:2], *TEMPLATES[:2], LOADING[0], OTHERS[0]])  # a few: the model reads it
# A line break and what turns writing round are shown by a sign.
PLAIN = [one for one in ALL if one.isprintable()]


def test_there_are_over_a_hundred_and_the_probes_see_those_that_run_load_or_stay(browser):
    assert len(set(ALL)) == len(ALL) > 100
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url) if REMOTE in request.url else None)
    page.add_init_script(WATCH)
    page.route("http://page.test/**", lambda route: route.fulfill(body="<p>", content_type="text/html"))
    page.goto("http://page.test/")
    page.evaluate(
        """hostile => Promise.all(hostile.map((html) => new Promise((done) => {
             const frame = document.createElement("iframe");
             frame.onload = done;
             frame.srcdoc = html;
             document.body.append(frame);
             setTimeout(done, 3000);
           })))""",
        [*RUNNING, *LOADING],
    )
    page.evaluate("html => document.body.insertAdjacentHTML('beforeend', html)", RUNNING[0])
    for template in TEMPLATES[:3]:  # what becomes of a template of gr.HTML
        page.evaluate("inner => { try { new Function('return `' + inner + '`')(); } catch {} }", template)
    page.wait_for_function(f"window.__pwned.length > {len(RUNNING) // 2}")
    seen = page.evaluate(SEE)
    ran = {number for number in seen["ran"]}
    assert {1, 301, 302, 303} <= ran
    assert len(ran & set(range(1, len(RUNNING) + 1))) > 0.8 * len(RUNNING), ran
    assert len(set(asked)) > len(LOADING) // 2
    assert seen["elements"]
    page.close()


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRO_HOME", str(home))
        _make_datastore()
        _make_run()
        _make_measurement()
    with live_app(home) as app:
        yield app


def _make_datastore():
    documents = [Document(f"d{n}", one, f"{one}\n{one}", one) for n, one in enumerate(ALL)]
    tokenizer = Tokenizer.load(paths.model_dir(paths.DEMO_MODEL))
    list(build("hostile", documents, tokenizer, open_embedder(DEFAULT_EMBEDDER)))


def _make_run():
    folder = paths.runs_dir() / "hostile"
    shutil.copytree(paths.ASSETS / "runs" / "toy", folder)
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    every = "\n".join(ALL)
    for sample in samples:
        sample |= {"prompt": every, "on": every, "off": every, "original": every, "read": ALL[:8]}
        sample |= {"tokens": ALL, "lp_on": [-0.1] * len(ALL), "lp_off": [-3.0] * len(ALL)}
    (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    (folder / "log.txt").write_text(every[-5000:], encoding="utf-8")
    status = {
        "state": "failed",
        "pid": 1,
        "pid_started": None,
        "step": 5,
        "steps": 9,
        "message": every[:2000],
    }
    (folder / "status.json").write_text(json.dumps({**status, "updated": time.time()}))


def _make_measurement():
    folder = paths.measurements_dir() / "hostile"
    folder.mkdir(parents=True)
    order = {
        "title": " ".join(ALL), "kind": "mine", "probe": "my text", "model": RUNNING[1],
        "datastore": RUNNING[2], "parts": ["losses"], "readings": ["off"],
    }  # fmt: skip
    (folder / ORDER_FILE).write_text(json.dumps(order))
    (folder / TEXTS_FILE).write_text(json.dumps({"text": RUNNING[0]}) + "\n")
    (folder / PROCESS_FILE).write_text(json.dumps({"pid": 2**22 + 1, "pid_started": 1, "started": 1.0}))
    (folder / LOG_FILE).write_text("\n".join(ALL))


@pytest.fixture(scope="module")
def page(app, browser):
    """One page for all screens. `page.look(where)` fails if anything was taken for more than text by then."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.add_init_script(WATCH)
    page = context.new_page()
    page.set_default_timeout(60_000)
    foreign = []
    page.on(
        "request",
        lambda sent: (
            None if sent.url.startswith((app.address, "data:", "blob:")) else foreign.append(sent.url)
        ),
    )
    page.on("dialog", lambda dialog: (foreign.append(dialog.message), dialog.dismiss()))

    def look(where):
        page.wait_for_timeout(200)
        assert page.evaluate(SEE) == SEEN, where
        assert foreign == [], where
        assert page.url.startswith(app.address), where

    page.look = look
    page.goto(app.address)
    page.wait_for_selector(".lens-token")
    yield page
    context.close()


def tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()


def unfold(page):
    """Open all that is folded on the screen."""
    page.evaluate(
        "() => { for (const e of document.querySelectorAll('details')) e.open = true;"
        " for (const e of document.querySelectorAll('.fold > button')) if (!e.classList.contains('open'))"
        " e.click(); }"
    )


def shows(page, selector, texts):
    """All of the texts, letter for letter."""
    shown = page.evaluate(
        "s => [...document.querySelectorAll(s)].map((e) => e.value ?? e.textContent).join('\\n')", selector
    )
    missing = [one for one in texts if one not in shown]
    assert not missing, missing[:3]


def choose(page, selector, value):
    page.locator(f"{selector} input").first.click()
    page.get_by_role("option", name=value).first.click()


def trace_file(folder):
    """Every text in a token, a title, a neighbour, an alternative, and the names of all things."""
    trace = synthetic_file(num_chunks=3, payload=RUNNING[0])
    tokens = trace["tokens"]
    for place, one in enumerate(ALL):
        token = tokens[len(tokens) - len(ALL) + place]
        token["text"] = one
        token["alts_on"] = [[one, score] for _, score in token["alts_on"]]
    trace["title"] = " ".join(ALL)
    trace["model"]["name"] = RUNNING[3]
    trace["datastore"]["name"] = RUNNING[4]
    for chunk in trace["chunks"]:
        chunk["query"] = " ".join(ALL)
        for card in chunk["neighbours"]:
            card["title"] = " ".join(ALL)
            card["document_id"] = RUNNING[5]
            card["tokens"][: len(ALL[:100])] = ALL[:100]
    file = folder / f"{RUNNING[0].replace('/', '')}.retro.json.gz"
    file.write_bytes(gzip.compress(json.dumps(trace).encode()))
    return file


def test_a_trace(page, tmp_path):
    tab(page, "Explore")
    page.locator("#open input, input#open, #open ~ input[type=file], input[type=file]").first.set_input_files(
        trace_file(tmp_path)
    )
    page.wait_for_function("document.querySelector('#progress').textContent.includes('Opened')")
    unfold(page)
    for number in range(page.locator(".lens-card-tab").count()):
        page.locator(".lens-card-tab").nth(number).click()
        page.locator(".lens-reads").first.hover()
        page.keyboard.press("Enter")
        page.look(f"chunk {number + 1} of a trace")
    shows(page, ".lens-text", PLAIN[-40:])
    shows(page, ".lens-cards", PLAIN[:20])
    shows(page, ".lens-title", PLAIN[:20])
    bad = tmp_path / f"{RUNNING[0].replace('/', '')}.json"
    bad.write_text("{")
    page.locator("input[type=file]").first.set_input_files(bad)
    page.get_by_text("is not a trace").first.wait_for()
    page.look("a file that is no trace")


def test_a_prompt_its_datastore_and_a_link(page, app):
    page.evaluate(
        "texts => { for (const name of ['prompt', 'corpus-draft', 'theme'])"
        " localStorage.setItem('retro-' + name, texts); }",
        PROMPT,
    )
    names = ("tab", "example", "prompt", "chunk", "datastore", "model", "token", "__theme")
    asked = [f"{name}={quote(one, safe='')}" for name, one in zip(names, ALL[::18], strict=False)]
    page.goto(f"{app.address}/?{'&'.join(asked)}")
    page.wait_for_selector(".lens-token")
    page.look("an address")
    page.goto(app.address)
    page.wait_for_selector(".lens-token")
    page.locator("#prompt textarea").fill(PROMPT)
    choose(page, "#datastore", "hostile")
    unfold(page)
    page.locator("#max_new_tokens input[type=number]").fill("8")
    page.locator("#stop_strings textarea, #stop_strings input").first.fill(RUNNING[0])
    page.locator("#run").click()
    page.wait_for_function(
        "document.querySelector('#progress').textContent.includes('Wrote')", timeout=120_000
    )
    shows(page, ".lens-text", RUNNING[:1])
    unfold(page)
    page.look("what was written")


def test_a_corpus(page, tmp_path):
    tab(page, "Corpus")
    page.get_by_role("tab", name="Make a datastore").click()
    page.locator("#pasted textarea").fill("\n\n".join(ALL[:60]))
    rows = tmp_path / f"{RUNNING[0].replace('/', '')}.jsonl"
    rows.write_text("".join(json.dumps({"text": one, "title": one, one: one}) + "\n" for one in ALL))
    page.locator("#files input[type=file]").set_input_files(rows)
    page.locator("#text-told").get_by_text("documents").wait_for()
    page.locator("#to-chunks").click()
    page.wait_for_selector(".preview-chunk")
    page.look("chunks")
    shows(page, ".preview-chunk", ALL[:20])
    page.locator("#steps button", has_text="Text").first.click()
    broken = tmp_path / f"{LOADING[0].replace('/', '')}.jsonl"
    broken.write_text('{"text": "a"}\n' * 6 + "{" + RUNNING[1])
    page.locator("#files input[type=file]").first.set_input_files(broken)
    page.get_by_text("Line 7 of").first.wait_for()
    page.look("a file that cannot be read")


def test_a_datastore(page):
    tab(page, "Corpus")
    page.get_by_role("tab", name="Look into one").click()
    choose(page, "#chosen", "hostile")
    page.wait_for_function("document.querySelector('#card h4')?.textContent === 'hostile'")
    unfold(page)
    page.locator("#query textarea").fill(PROMPT)
    page.locator("#search").click()
    page.locator(".finding").first.wait_for()
    page.wait_for_function("document.querySelector('#map-legend').textContent.includes('◆')")
    page.wait_for_selector("#map .scatterlayer .point")
    begins = ["".join(one.split())[:20] for one in ALL]
    for number, told in ((0, "character"), (-1, "your text")):  # a chunk, and the last of the query's
        page.locator("#map .scatterlayer .point").nth(number).hover(force=True)
        box = page.locator("#map .hoverlayer", has_text=told)
        box.locator("text").first.wait_for()
        said = "".join(box.text_content().split())  # its lines are broken
        assert any(one in said for one in begins), said
    page.locator("#find textarea, #find input").first.fill(RUNNING[0])
    unfold(page)
    page.look("a datastore")
    shows(page, "#documents, #documents *", [RUNNING[0]])
    for field in ("#new-name", "#remove-name"):
        page.locator(f"{field} textarea, {field} input").first.fill(RUNNING[0])
    page.locator("#copy").click()
    page.get_by_text("cannot be used").first.wait_for()
    page.look("a name that cannot be")


def test_comparisons(page):
    tab(page, "Compare")
    page.get_by_role("tab", name="Write side by side").click()
    page.locator("#compare-prompt textarea").fill(PROMPT)
    choose(page, "#compare-store-first", "hostile")
    unfold(page)
    page.locator("#compare-max_new_tokens input[type=number]").fill("2")
    page.locator("#compare-run").click()
    page.wait_for_function(
        "document.querySelector('#compare-progress').textContent.includes('Wrote')", timeout=120_000
    )
    page.look("texts side by side")
    shows(page, ".compare-given", [PROMPT])
    shown = page.locator(".compare-neighbour header").all_text_contents()
    assert shown and all(any(one in title for one in ALL) for title in shown[:2]), shown
    page.get_by_role("tab", name="Same text, other reading").click()
    choose(page, "#same-store", "hostile")
    page.locator("#same-beginning textarea").fill("")
    page.locator("#same-scored textarea").fill(PROMPT)
    page.locator("#same-edit textarea").fill(ALL[0])  # a neighbour holds 128 tokens
    page.locator("#same-run").click()
    page.wait_for_function(
        "document.querySelector('#same-progress').textContent.includes('Read ')", timeout=120_000
    )
    page.look("one text, read in several ways")
    shows(page, ".same-tokens", [PROMPT])
    page.locator(".same-tokens").focus()
    page.keyboard.press("ArrowRight")
    assert "nats" in page.locator(".same-tip").inner_text()


def test_runs_and_measurements(page):
    tab(page, "Train")
    page.locator("[data-run=hostile]").first.click()
    page.wait_for_selector(".samples-card")
    unfold(page)
    page.wait_for_function("document.querySelector('.samples').textContent.includes('onerror')")
    page.look("a run")
    page.get_by_label("Name of the run").fill(RUNNING[0])
    page.locator("#train-start").click()
    page.look("a run's name")
    tab(page, "Measure")
    page.locator("#measure-shown input").first.click()
    page.get_by_role("option").filter(has_text="onerror").first.click()
    page.wait_for_function("document.querySelector('#measure-progress').textContent.length > 5")
    unfold(page)
    page.look("a measurement")


def test_texts_in_every_box_of_every_tab(page):
    """Whatever boxes there are: each takes a hostile text, and loses the focus."""
    for name in ("Explore", "Compare", "Corpus", "Train", "Measure", "Learn"):
        tab(page, name)
        page.wait_for_timeout(300)
        unfold(page)
        boxes = page.locator("textarea:visible, input[type=text]:visible, input[type=search]:visible")
        for number in range(min(boxes.count(), 30)):
            box = boxes.nth(number)
            if box.is_visible() and box.is_editable() and not box.get_attribute("role"):
                box.fill(PROMPT[:400] if name == "Learn" else ALL[number % len(ALL)])
                box.blur()
        page.look(f"every box of {name}")
