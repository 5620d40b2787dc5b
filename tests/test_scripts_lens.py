"""The lens alone: what it draws of a trace, what it asks and tells, and that nothing of it is lost or run."""

import base64
import copy
import math
import re

import numpy as np
import pytest
from browsing import page_tests as pytestmark  # noqa: F401
from hostile_texts import ALL
from script_page import blank, texts  # noqa: F401
from synthetic_trace import CHUNK, HEADS, LAYERS, LENGTH, pack, synthetic_view

from app.lens import RetroLens
from indexing.neighbours import DRAWN, SQUARED_L2, WITH_FIRST_CHUNK

SCRIPTS = tuple(
    f"lens/js/{name}.js"
    for name in (
        "page",
        "strip",
        "text",
        "inspector",
        "cards",
        "map",
        "heads",
        "raw",
        "writes",
        "change",
        "forms",
        "lens",
    )
)

YES = {"can": True, "why": "", "differs": [], "far": None}
TOKENS = """() => Object.fromEntries([...document.querySelectorAll(".lens-token")].map((one) =>
  [one.dataset.i, {
  text: one.textContent, label: one.getAttribute("aria-label"), names: [...one.classList],
  paint: getComputedStyle(one).backgroundColor }]))"""
PAINT = {"orange": (214, 121, 24), "blue": (37, 99, 235), "teal": (13, 148, 136), "grey": (113, 113, 122)}


def trace(name="t1", **options):
    return {**synthetic_view(**options), "id": name}


def percent(share):
    value = share * 100
    if 0 < value < 0.1:
        return "< 0.1 %"
    return (f"{value:.1f}" if value < 9.95 else f"{math.floor(value + 0.5)}") + " %"


def signed(value):
    return ("−" if value < 0 and f"{abs(value):.2f}" != "0.00" else "+") + f"{abs(value):.2f}"


def weights_of(packed):
    data = np.frombuffer(base64.b64decode(packed["data"]), np.uint8) / 255 * packed["scale"]
    return data.reshape(packed["rows"], packed["cols"])


def strength(value, full):
    return math.floor(min(1, (value / full) ** 0.7) * 32 + 0.5) / 32 if value > 0 else 0


def is_painted(found, ink, opacity):
    """A colour as the browser says it."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", found)]
    if opacity == 0:
        return len(numbers) == 4 and numbers[3] == 0
    return tuple(numbers[:3]) == PAINT[ink] and numbers[3] == pytest.approx(opacity * 0.65, abs=0.011)


@pytest.fixture
def show(blank):  # noqa: F811
    """Draws a value in a lens, and says whether it can be changed where that is asked."""

    def draw(value, standing=YES):
        lens = blank.put(RetroLens(fetch_map=lambda *asked: {}), value, "lens")
        lens.blank = blank
        if standing and lens.asked("standing"):
            lens.answer("standing", standing)
        blank.page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        return lens

    return draw


def settle(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def chosen(page):
    return int(page.get_attribute(".lens-strip [aria-selected=true]", "data-chunk"))


def press(page, key):
    page.focus(".lens-text")
    page.keyboard.press(key)
    settle(page)


def test_each_token_is_painted_by_what_retrieval_gained(show):
    value = trace()
    page = show(value).page
    found = page.evaluate(TOKENS)
    assert [int(i) for i in found] == list(range(9, len(value["tokens"])))  # the padding is no token
    assert texts(page, ".lens-padding") == ["9 × padding"]
    for i, one in found.items():
        token = value["tokens"][int(i)]
        if token["lp_on"] is None:
            assert is_painted(one["paint"], "", 0)
            continue
        gain = token["lp_on"] - token["lp_off"]
        opacity = math.floor(min(1, abs(gain) / 2) * 32 + 0.5) / 32
        assert is_painted(one["paint"], "orange" if gain > 0 else "blue", opacity), (i, gain, one)
        on, off = (percent(math.exp(token[name])) for name in ("lp_on", "lp_off"))
        assert one["label"].endswith(f": with retrieval {on}, without {off}")
    # Which tokens asked, which read, and what of that is copied.
    chunk = value["chunks"][chosen(page)]
    for name, (start, stop) in {"lens-asks": chunk["ask"], "lens-reads": chunk["read"]}.items():
        marked = [int(i) for i, one in found.items() if name in one["names"]]
        assert marked == [i for i in range(start, stop) if i >= 9]
    copied = [int(i) - chunk["read"][0] for i, one in found.items() if "lens-copied" in one["names"]]
    assert copied == list(range(*chunk["neighbours"][0]["copy_read"][0]))
    # The other colourings, by key and by button.
    press(page, "g")
    for i, one in page.evaluate(TOKENS).items():
        on = value["tokens"][int(i)]["lp_on"]
        if on is not None:
            assert is_painted(one["paint"], "grey", math.floor(math.exp(on) * 24 + 0.5) / 32)
    page.click("[data-value=plain]")
    assert all(is_painted(one["paint"], "", 0) for one in page.evaluate(TOKENS).values())
    assert page.get_attribute("[data-value=plain]", "aria-checked") == "true"
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.dataset.value") == "probability"


def test_the_film_strip_and_the_story_say_what_was_measured(show):
    value = trace()
    value["chunks"][1]["neighbours"][0]["distance"] = 0.4
    value["chunks"][2].update(neighbours=[], attention=None, gain=None)
    far = [[0.2, 0.3], [0.97, 0.98], []]
    lens = show(value, {**YES, "far": far})
    page = lens.page
    gains = [chunk["gain"] for chunk in value["chunks"]]
    best = 0 if gains[0] > gains[1] else 1
    assert chosen(page) == best
    assert texts(page, ".lens-tab-gain") == [
        *(f"{signed(gain)} nats/token" for gain in gains[:2]), "found nothing",
    ]  # fmt: skip
    for number, chunk in enumerate(value["chunks"]):
        bars = page.evaluate(
            "(n) => ['up', 'down'].map((which) => (document.querySelectorAll('.lens-spark')[n]"
            ".querySelector('.lens-' + which)?.getAttribute('d').match(/M/g) || []).length)",
            number,
        )
        apart = [t["lp_on"] - t["lp_off"] for t in value["tokens"][slice(*chunk["read"])]]
        assert bars == [sum(gain > 0 for gain in apart), sum(gain <= 0 for gain in apart)]
    page.focus(".lens-strip [aria-selected=true]")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert chosen(page) == 0 and page.evaluate("document.activeElement.dataset.chunk") == "0"
    story = page.inner_text(".lens-story")
    assert "Chunk 1 asked" in story and "2 neighbours in factbook in 21 ms" in story
    assert f"{signed(gains[0])} nats per token" in story and "8 of them in a row" in story
    assert page.locator(".lens-warning").count() == 0
    page.keyboard.press("ArrowRight")
    assert "No close neighbour: the nearest, L2 0.40, is farther than 97 %" in page.inner_text(
        ".lens-warning"
    )
    assert texts(page, ".lens-far")[0].startswith("⚠ Farther than 97 %")
    page.keyboard.press("ArrowRight")
    assert "found nothing in factbook, so chunk 4 is written from memory" in page.inner_text(".lens-story")
    assert page.inner_text(".lens-map-empty") == "No neighbours, hence no cross-attention."
    tabs = page.evaluate(
        "[...document.querySelectorAll('.lens-strip [role=tab]')].map((one) => one.tabIndex)"
    )
    assert tabs == [-1, -1, 0]  # one stop for the Tab key


def test_cards_say_how_close_how_much_read_and_how_much_copied(show):
    value = trace()
    page = show(value).page
    cards = value["chunks"][chosen(page)]["neighbours"]
    for j, card in enumerate(cards):
        node = page.locator(".lens-neighbour").nth(j)
        meters = dict(
            zip(
                node.locator(".lens-meter .lens-label").all_text_contents(),
                node.locator(".lens-meter .lens-num").all_text_contents(),
                strict=True,
            )
        )
        own = card["influence"]["own"]
        assert meters == {
            "closeness": f"L2 {card['distance']:.2f}", "copied": percent(card["copied"]),
            "attention": percent(card["share"]), "influence": signed(own),
        }  # fmt: skip
        wide = node.locator(".lens-meter i").evaluate_all(
            "(all) => all.map((one) => parseFloat(one.style.width))"
        )
        largest = max(0.05, *(other["influence"]["own"] for other in cards))
        shares = [card["closeness"], card["copied"], card["share"], own / largest]
        assert wide == pytest.approx([100 * share for share in shares], abs=0.01)
        assert node.locator(".lens-where").inner_text() == f"@ {card['offset']}"
        cells = node.locator(".lens-cell").evaluate_all(
            "(all) => all.map((one) => [+one.dataset.col, one.textContent])"
        )
        kept = [p for p in range(LENGTH) if p < CHUNK or p < CHUNK + card["f_len"]]
        assert cells == [[j * LENGTH + p, card["tokens"][p].replace("\n", "↵\n")] for p in kept]
        copied = node.locator(".lens-copied").evaluate_all("(all) => all.map((one) => +one.dataset.col)")
        assert copied == [j * LENGTH + p for p in range(*card["copy_neighbour"][0])]
        after = node.locator(".lens-continues").evaluate("(one) => +one.nextElementSibling.dataset.col")
        assert after == j * LENGTH + CHUNK
        assert f"without it {signed(-own)} nats per token here" in node.locator(".lens-effect").inner_text()
    doubts = texts(page, ".lens-doubt")
    assert doubts == [
        "more attention than #2, but less influence",
        "less attention than #1, but more influence",
    ]


@pytest.mark.parametrize("metric, order", [
    (SQUARED_L2, "nearest first"), ("", "nearest first"), (DRAWN, "drawn at random"),
    (WITH_FIRST_CHUNK, "by similarity with first chunks, best first"),
])  # fmt: skip
def test_the_order_of_the_cards_is_said(show, metric, order):
    value = trace()
    value["datastore"]["metric"] = metric
    assert show(value).page.inner_text(".lens-found-note") == f"in factbook, {order}"


def test_one_selection_runs_through_text_neighbours_and_map(show):
    value = trace()
    page = show(value).page
    chunk = value["chunks"][chosen(page)]
    weights = weights_of(chunk["attention"])
    start = chunk["read"][0]
    # A word: where it looked.
    page.hover(f".lens-token[data-i='{start + 5}']")
    settle(page)
    full = weights.max()
    cells = page.evaluate(
        "[...document.querySelectorAll('.lens-cell')].map((one) => [+one.dataset.col, "
        "getComputedStyle(one).backgroundColor])"
    )
    assert all(is_painted(paint, "teal", strength(weights[5, col], full)) for col, paint in cells)
    said = page.inner_text(".lens-inspector")
    token = value["tokens"][start + 5]
    assert f"with retrieval {percent(math.exp(token['lp_on']))}" in said
    assert f"without {percent(math.exp(token['lp_off']))}" in said
    assert f"{signed(token['lp_on'] - token['lp_off'])} nats" in said
    tokens = [text for card in chunk["neighbours"] for text in card["tokens"]]
    top = np.argsort(-weights[5], kind="stable")[:4]
    chips = [chip.replace("“", "").split("” ") for chip in texts(page, ".lens-inspector .lens-chip")]
    assert [chip[1] for chip in chips] == [
        f"#{col // LENGTH + 1} · {percent(weights[5, col])}" for col in top
    ]
    assert [chip[0] for chip in chips] == [tokens[col].replace("\n", "↵").strip() or "(space)" for col in top]
    for card in chunk["neighbours"]:
        assert f"#{card['rank']} {signed(card['influence']['tokens'][5])}" in said
    assert "layer\xa01\xa00.31 · layer\xa03\xa00.12" in said
    # A word that read other neighbours says whose, and a click leads there.
    other = chunk["read"][1] if chosen(page) < 2 else chunk["ask"][0]
    page.hover(f".lens-token[data-i='{other}']")
    settle(page)
    here, there = chosen(page), chosen(page) + (1 if chosen(page) < 2 else -1)
    assert f"This token read the neighbours of chunk {there + 1}" in page.inner_text(".lens-inspector")
    page.click(f".lens-token[data-i='{other}']")
    assert chosen(page) == there
    page.click(f".lens-card-tab >> nth={here}")
    # A neighbour's word: who looked there.
    col = int(top[0])
    page.hover(f".lens-cell[data-col='{col}']")
    settle(page)
    painted = page.evaluate(TOKENS)
    column = weights[:, col]
    for i, one in painted.items():
        row = int(i) - start
        share = strength(column[row], column.max()) if 0 <= row < len(column) else 0
        assert is_painted(one["paint"], "teal", share), i
    assert f"{percent(column.mean())} of the window" in page.inner_text(".lens-inspector")
    # The map itself: the same row, the same column and the weight in words; the colour is the weight's.
    page.locator(".lens-over").scroll_into_view_if_needed()
    box = page.locator(".lens-over").bounding_box()
    seen = 0
    for x, y in ((0.2, 0.3), (0.31, 0.62), (0.77, 0.5), (0.6, 0.11), (0.9, 0.95)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        settle(page)
        at = page.evaluate(
            """([x, y]) => { const canvas = document.querySelector(".lens-base");
              const pixel = canvas.getContext("2d").getImageData(Math.round(x * canvas.width),
                Math.round(y * canvas.height), 1, 1).data;
              return { i: document.querySelector(".lens-token.lens-active")?.dataset.i, pixel: [...pixel],
                col: document.querySelector(".lens-cell.lens-active")?.dataset.col }; }""",
            [x, y],
        )
        if at["col"] is None:
            continue
        seen += 1
        row, col = int(at["i"]) - start, int(at["col"])
        assert page.inner_text(".lens-map-tip").endswith(
            f"(#{col // LENGTH + 1}): {percent(weights[row, col])}"
        )
        near = [
            strength(weights[row, c], full) for c in range(max(0, col - 1), min(col + 2, weights.shape[1]))
        ]
        colours = [
            [low + (high - low) * share for low, high in zip((244, 248, 248), (13, 128, 118), strict=True)]
            for share in near
        ]
        assert any(np.abs(np.array(at["pixel"][:3]) - colour).max() <= 2 for colour in colours), (row, col)
    assert seen >= 3
    page.mouse.click(box["x"] + 0.2 * box["width"], box["y"] + 0.3 * box["height"])
    assert page.locator(".lens-pinned").count() == 1
    page.mouse.move(2, 2)
    # Numbers of neighbours, and Escape.
    press(page, "Escape")
    press(page, "2")
    assert texts(page, ".lens-rank[aria-pressed=true]") == ["#2"]
    own = weights[:, LENGTH:].sum(1)
    paint = page.evaluate(TOKENS)
    assert all(
        is_painted(paint[str(start + row)]["paint"], "teal", strength(own[row], own.max()))
        for row in range(len(own))
    )
    press(page, "Escape")
    assert page.locator(".lens-rank[aria-pressed=true]").count() == 0


def test_the_map_follows_the_theme_and_the_scale_that_is_asked_for(show):
    value = trace()
    lens = show(value)
    page = lens.page
    pen = "document.querySelector('.lens-base').getContext('2d')"
    pixels = f"() => [...{pen}.getImageData(0, 60, 400, 1).data].join()"
    light = page.evaluate(pixels)
    weights = weights_of(value["chunks"][chosen(page)]["attention"])
    said = " ".join(page.inner_text(".lens-scale").split())
    assert said == f"attention 0 {percent(weights.max())} (×{1 / weights.max():.1f})"
    page.check(".lens-row-scale")
    assert page.evaluate(pixels) != light and "maximum of the row" in page.inner_text(".lens-scale")
    page.uncheck(".lens-row-scale")
    assert page.evaluate(pixels) == light
    lens.blank.dark()
    settle(page)
    assert page.evaluate(pixels) != light
    lens.blank.dark(False)
    # What every token looks at can be left out, and how much that is is said.
    sink = weights.copy()
    sink[:, 3] += 0.5
    value["id"] = "t2"
    value["chunks"][chosen(page)]["attention"] = pack(sink)
    lens.give(value)
    settle(page)
    page.check(".lens-sinks")
    settle(page)
    shared = weights_of(value["chunks"][chosen(page)]["attention"])[:, 3].mean()
    assert f"{percent(shared)} of the weight left out" in page.inner_text(".lens-scale")
    # Full screen keeps the map and gives it back; the dialog holds the keyboard.
    page.click(".lens-enlarge")
    assert page.evaluate(
        "document.querySelector('.lens-full').open && document.querySelector('.lens-full .lens-map') !== null"
    )
    page.keyboard.press("Escape")
    page.wait_for_selector(".lens-full", state="hidden")
    assert page.evaluate("document.activeElement.className").count("lens-enlarge")


def test_a_head_is_asked_for_and_an_answer_that_comes_too_late_is_not_drawn(show):
    value = trace()
    lens = show(value)
    page = lens.page
    u = chosen(page)
    rows, cols = (value["chunks"][u]["attention"][name] for name in ("rows", "cols"))
    small = {
        "layers": 2,
        "heads": HEADS,
        "rows": 2,
        "cols": 4,
        "data": base64.b64encode(bytes(range(0, 64))).decode(),
        "focus": [[0.1 * h for h in range(HEADS)]] * 2,
    }
    assert lens.asked("heads") == [{"trace": "t1", "chunk": u}]
    lens.answer("heads", small)
    wide = page.eval_on_selector_all(".lens-focus i", "(all) => all.map((one) => one.style.width)")
    assert wide == ["0%", "10%", "20%", "30%"] * 2
    assert (
        page.eval_on_selector_all(".lens-thumb", "(all) => all.map((one) => [one.width, one.height])")
        == [[4, 2]] * 8
    )

    second = page.eval_on_selector_all(
        ".lens-thumb", "(all) => all.map((one) => one.getContext('2d').getImageData(1, 0, 1, 1).data[0])"
    )
    assert second == pytest.approx([244 - 231 * strength(8 * n + 1, 255) for n in range(8)], abs=1)

    def head(layer, number):
        page.click(f".lens-picker [data-layer='{layer}'][data-head='{number}']")

    def drawn(weights, at):
        tip = page.inner_text(".lens-scale")
        return f"{percent(weights.max())}" in tip

    random = np.random.default_rng(5)
    one, two = (random.random((rows, cols)) * share / cols for share in (1.5, 0.7))
    head(0, 1)
    head(1, 2)
    assert lens.asked("attention_map") == [
        {"trace": "t1", "chunk": u, "layer": 0, "head": 1},
        {"trace": "t1", "chunk": u, "layer": 1, "head": 2},
    ]
    lens.answer("attention_map", pack(two), which=1)
    settle(page)
    assert drawn(two, None)
    lens.answer("attention_map", pack(one))
    settle(page)
    assert drawn(two, None) and not drawn(one, None)
    assert page.get_attribute("[data-layer='1'][data-head='2']", "aria-pressed") == "true"
    head(0, 1)  # what came late is kept all the same
    settle(page)
    assert lens.asked("attention_map") == [] and drawn(one, None)
    page.click(".lens-picker [data-layer='1'][data-head='2']", modifiers=["Shift"])
    settle(page)
    assert drawn((one + two) / 2, None)
    # Where none comes, that is said and the mean is shown.
    for answer in (
        lambda: lens.answer("attention_map", {"error": "This trace is gone."}),
        lambda: lens.silence("attention_map"),
    ):
        head(1, 0)
        answer()
        settle(page)
        assert page.inner_text(".lens-map-tip") in (
            "This trace is gone.",
            "The server did not answer. Is it still running?",
        )
        assert texts(page, ".lens-picker [aria-pressed=true]") == ["mean of all"]
    press(page, "h")
    assert (
        page.get_attribute(".lens-picker [aria-pressed=true]", "aria-label")
        == f"layer {LAYERS[0]}, all heads"
    )
    lens.silence("attention_map")


def test_the_tables_hold_the_same_numbers_and_make_no_formulas(show):
    value = trace()
    chunk = value["chunks"][0]
    for other in value["chunks"][1:]:
        other["gain"] = -1
    value["tokens"][chunk["read"][0]]["text"] = "=1+1"
    chunk["neighbours"][0]["tokens"][0] = "@SUM(1)"
    lens = show(value)
    page = lens.page
    start, stop = chunk["read"]
    weights = weights_of(chunk["attention"])
    page.click(".lens-raw summary")
    page.wait_for_selector(".lens-raw table")
    rows = page.eval_on_selector_all(
        ".lens-raw tbody tr", "(rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent))"
    )
    names = texts(page, ".lens-raw th")
    assert len(rows) == stop - start and all(len(row) == len(names) for row in rows)
    for n, row in enumerate(rows):
        token = value["tokens"][start + n]
        own = [f"{card['influence']['tokens'][n]:.3f}".replace("-", "−") for card in chunk["neighbours"]]
        parts = [percent(weights[n, at : at + CHUNK].sum()) for at in range(0, weights.shape[1], CHUNK)]
        expected = [
            str(start + n),
            token["text"].replace("\n", "↵").strip() or "(space)",
            percent(math.exp(token["lp_on"])),
            percent(math.exp(token["lp_off"])),
            signed(token["lp_on"] - token["lp_off"]),
        ]
        assert row[:5] == expected
        assert [cell.replace("-", "−") for cell in row[5:7]] == own
        assert row[7:9] == ["0.310", "0.120"] and row[9:13] == parts
    page.click(".lens-copy")
    page.wait_for_function("document.querySelector('.lens-copy').textContent === 'Copied'")
    lines = [
        line.split("\t")
        for line in page.evaluate("navigator.clipboard.readText()").replace("\r", "").split("\n")
    ]
    assert (
        lines[0][:2] == ["token", "#1 '@SUM(1)"] or lines[0][1] == "#1 @SUM(1)"
    )  # after "#1 " it is no formula
    assert lines[1][0] == "'=1+1"
    np.testing.assert_allclose(np.array([line[1:] for line in lines[1:]], float), weights, atol=6e-6)
    # Write strength, as bars of one scale.
    page.click(".lens-writes summary")
    page.wait_for_selector(".lens-write rect")
    tall = page.eval_on_selector_all(
        ".lens-write",
        "(all) => all.map((one) => [...one.querySelectorAll('rect')].map((bar) => "
        "+bar.getAttribute('height')))",
    )
    assert [len(bars) for bars in tall] == [stop - start] * 2
    assert 25 < max(tall[0]) <= 30  # of a picture that is 30 high
    assert tall[1][0] / tall[0][0] == pytest.approx(0.12 / 0.31, abs=0.01)
    assert [text.split("mean ")[1] for text in texts(page, ".lens-write")] == ["0.31", "0.12"]
    page.hover(".lens-write rect >> nth=7")
    settle(page)
    assert page.get_attribute(".lens-token.lens-active", "data-i") == str(start + 7)


def test_muting_shows_at_once_what_was_measured_and_leads_back(show):
    value = trace()
    lens = show(value)
    page = lens.page
    u = chosen(page)
    chunk = value["chunks"][u]
    start, stop = chunk["read"]
    before = page.evaluate(TOKENS)
    press(page, "m")
    assert lens.events() == []  # nobody had to be asked
    own = chunk["neighbours"][0]["influence"]
    now = page.evaluate(TOKENS)
    for row, effect in enumerate(own["tokens"]):
        on = value["tokens"][start + row]["lp_on"] - effect
        assert now[str(start + row)]["label"].split("with retrieval ")[1].split(",")[0] == percent(
            math.exp(on)
        )
    total = -sum(own["tokens"])
    verb = "loses" if total < 0 else "gains"
    notice = page.inner_text(".lens-notice")
    assert (
        f"Without #1 this chunk {verb} {abs(total) / (stop - start):.2f} nats per token ({abs(total):.1f} "
        f"in all)" in notice
    )
    later = own["downstream"]
    assert f"What comes after it: {signed(-later)} nats per token." in notice
    assert page.get_attribute(".lens-neighbour >> nth=0", "class").count("lens-muted")
    old, new = chunk["gain"], chunk["gain"] - own["own"]
    assert texts(page, ".lens-tab-gain")[u] == f"{signed(old)} → {signed(new)} nats"
    # As it was, and as it is; the colour of the change is offered.
    page.click("[data-before=true]")
    assert page.evaluate(TOKENS)[str(start + 3)]["label"] == before[str(start + 3)]["label"]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(TOKENS)[str(start + 3)]["label"] == now[str(start + 3)]["label"]
    page.click("[data-value=change]")
    for row, effect in enumerate(own["tokens"]):
        opacity = math.floor(min(1, abs(effect) / 2) * 32 + 0.5) / 32
        paint = page.evaluate(TOKENS)[str(start + row)]["paint"] if row < 3 else None
        assert paint is None or is_painted(paint, "orange" if effect < 0 else "blue", opacity)
    # The model is asked for more: with what is muted here as a wish.
    page.click("[data-action=measure]")
    mute = {"kind": "mute", "chunk": u, "rank": 1}
    assert lens.events() == [["wish", {"kind": "change", "trace": "t1", "changes": [mute]}]]
    assert "Reading the text again without #1" in page.inner_text(".lens-notice")
    lens.give({"refused": "This model is busy <b>now</b>."})
    page.wait_for_selector(".lens-notice-refused")
    assert "This model is busy <b>now</b>." in page.inner_text(".lens-notice")
    assert page.locator(".lens-muted").count() == 1  # what is shown stays
    page.click("[data-action=dismiss]")
    page.click("[data-action=back]")
    assert page.evaluate(TOKENS)[str(start + 3)]["label"] == before[str(start + 3)]["label"]
    assert page.is_hidden(".lens-notice") and lens.events() == []


def test_wishes_carry_what_was_typed_and_forms_keep_the_keyboard(show):
    value = trace()
    lens = show(value)
    page = lens.page
    u = chosen(page)

    def act(name, nth=0):
        page.click(f".lens-neighbour >> nth={nth} >> [data-action={name}]")

    act("edit", 1)
    card = value["chunks"][u]["neighbours"][1]
    assert page.input_value(".lens-form textarea") == "".join(card["tokens"])
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    page.keyboard.press("2")  # types; no key of the lens
    assert page.locator(".lens-rank[aria-pressed=true]").count() == 0
    page.keyboard.press("Escape")
    assert page.locator(".lens-form").count() == 0
    assert page.evaluate("document.activeElement.dataset.action") == "edit"
    act("paste")
    page.keyboard.press("Control+Enter")
    assert lens.events() == []  # nothing typed
    page.fill(".lens-form textarea", "Böen <img src=x>\n=1")
    page.keyboard.press("Control+Enter")
    paste = {"kind": "paste", "chunk": u, "rank": 1, "text": "Böen <img src=x>\n=1"}
    assert lens.events() == [["wish", {"kind": "change", "trace": "t1", "changes": [paste]}]]
    # What came of it, edited again: one change and not two.
    change = {
        "kind": "change",
        "of": "t1",
        "requests": [paste],
        "before": {
            "lp_on": [t["lp_on"] for t in value["tokens"]],
            "gain": [c["gain"] for c in value["chunks"]],
            "text": "",
        },
    }
    changed = {**copy.deepcopy(value), "id": "t2", "change": change}
    changed["chunks"][u]["neighbours"][0].update(changed="pasted", influence=None)
    lens.give(changed)
    settle(page)
    assert lens.asked("standing") == [{"trace": "t1"}]
    lens.answer("standing", YES)
    assert texts(page, ".lens-changed") == ["pasted"] and chosen(page) == u
    act("edit")
    page.fill(".lens-form textarea", "Calm")
    page.click(".lens-go")
    once = [{"kind": "paste", "chunk": u, "rank": 1, "text": "Calm"}]
    assert lens.events() == [["wish", {"kind": "change", "trace": "t1", "changes": once}]]
    lens.give({**changed, "change": {**change, "requests": once}})
    settle(page)
    lens.answer("standing", YES)
    act("swap", 1)
    other = 1 if u != 1 else 0
    page.select_option(".lens-form select", f"{other}/1")
    page.click(".lens-go")
    swap = {"kind": "swap", "chunk": u, "rank": 2, "other_chunk": other, "other_rank": 1}
    assert lens.events() == [["wish", {"kind": "change", "trace": "t1", "changes": [*once, swap]}]]
    lens.give({"refused": "No."})
    settle(page)
    page.click("[data-action=dismiss]")
    page.click("[data-action=back]")
    assert lens.events() == [["restore", {"trace": "t1"}]]
    lens.give({**changed, "sent": "late"})  # the queue may bring the last of it again
    settle(page)
    assert texts(page, ".lens-changed") == []


def test_a_text_that_comes_again_closes_nothing_that_was_opened_meanwhile(show):
    """As the server's answer to "back" does, which is shown already, and what it says of changing it."""
    value = trace()
    lens = show(value)
    page = lens.page
    page.click(".lens-neighbour >> nth=1 >> [data-action=edit]")
    page.fill(".lens-form textarea", "half a senten")
    for give in (
        lambda: lens.give({**copy.deepcopy(value), "sent": "again"}),
        lambda: lens.answer("standing", {**YES, "map": ""}),  # another button: the cards are made anew
    ):
        before = page.evaluate_handle("document.querySelector('.lens-neighbour')")
        give()
        settle(page)
        assert page.input_value(".lens-neighbour >> nth=1 >> .lens-form textarea") == "half a senten"
        assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
        assert page.locator("[data-action=edit][aria-expanded=true]").count() == 1
    assert not before.evaluate("card => card.isConnected")
    page.click(".lens-neighbour >> nth=1 >> [data-action=edit]")  # the second press closes
    assert page.locator(".lens-form").count() == 0
    page.click(".lens-neighbour >> nth=1 >> [data-action=edit]")
    lens.give({**copy.deepcopy(value), "id": "another"})
    settle(page)
    assert page.locator(".lens-form").count() == 0


def test_a_branch_and_a_fork_say_where_and_how(show):
    value = trace()
    value["sampling"] = {"temperature": 0.0, "seed": 4}
    lens = show(value)
    page = lens.page
    u = chosen(page)
    page.click(".lens-branch")
    assert page.get_attribute(".lens-branch", "aria-expanded") == "true"
    # With nothing changed the same seed and no temperature would write the same text again.
    assert [page.input_value(f".lens-fields input >> nth={n}") for n in (0, 1)] == ["0.8", "5"]
    page.fill(".lens-fields input >> nth=0", "0.35")
    page.click(".lens-go")
    asked = {"kind": "branch", "trace": "t1", "changes": [], "chunk": u, "seed": 5, "temperature": 0.35}
    assert lens.events() == [["wish", asked]]
    i = value["chunks"][u]["read"][0] + 2
    page.mouse.move(2, 2)
    settle(page)
    assert page.locator(".lens-alt").count() > 0
    assert page.locator(".lens-fork").count() == 0  # only where a token is pinned
    page.click(f".lens-token[data-i='{i}']")
    labels = page.eval_on_selector_all(
        ".lens-fork", "(all) => all.map((one) => one.getAttribute('aria-label'))"
    )
    token = value["tokens"][i]
    others = [(text, lp, which) for which, name in (("with retrieval", "alts_on"), ("without", "alts_off"))
              for text, lp in token[name] if text != token["text"]]  # fmt: skip
    assert labels == [
        f"Fork here: write on with {text.strip() or '↵'}, {percent(math.exp(lp))} {which}"
        for text, lp, which in others
    ]
    page.click(".lens-fork >> nth=0")
    asked = {"kind": "fork", "trace": "t1", "changes": [], "position": i, "token": others[0][0]}
    assert lens.events() == [["wish", asked]]
    fork = {
        "kind": "fork",
        "of": "t1",
        "at": i,
        "token": [token["text"], others[0][0]],
        "requests": [],
        "before": {"text": "was <i>"},
    }
    lens.give({**copy.deepcopy(value), "id": "t3", "change": fork})
    settle(page)
    notice = page.inner_text(".lens-notice")
    assert f"A fork: “{others[0][0].strip()}” in place of" in notice
    assert page.text_content(".lens-was-text") == "was <i>"


def test_the_source_of_a_neighbour_comes_or_says_why_not(show):
    lens = show(trace())
    page = lens.page
    u = chosen(page)
    source = ".lens-neighbour >> nth=0 >> [data-action=source]"
    found = {
        "title": "T<b>",
        "source": "a/b.txt",
        "offset": 12345,
        "before": "be",
        "text": "mid\u202e",
        "continuation": "co",
        "after": "af",
        "begins": True,
        "ends": False,
    }
    for answer, expected in (
        (lambda: lens.answer("source", found), "T<b> · a/b.txt · from character 12,345"),
        (lambda: lens.answer("source", {"error": "That datastore is gone."}), "That datastore is gone."),
        (lambda: lens.silence("source"), "The server did not answer. Is it still running?"),
    ):
        page.click(source)
        assert page.inner_text(".lens-source").startswith("Looking it up…")
        assert lens.asked("source") == [{"trace": "t1", "chunk": u, "rank": 1}]
        answer()
        settle(page)
        assert expected in page.inner_text(".lens-source")
        if "T<b>" in expected:
            text = page.text_content(".lens-source-text")
            assert text == "the document begins herebemid⟨U+202E⟩continues ▸coaf"
        page.click(".lens-source [data-action=cancel]")
    page.click(source)
    page.click(source)  # the second press closes, and what comes then is dropped
    lens.answer("source", found)
    assert page.locator(".lens-source").count() == 0


def test_what_cannot_be_changed_here_says_so_and_can_be_looked_at(show):
    differs = [{"what": "model", "name": "demo", "then": "", "here": "abc"}]
    lens = show(trace(), {"can": False, "why": "Its model is not here.", "differs": differs, "far": None})
    page = lens.page
    assert "Its model is not here." in page.inner_text(".lens-standing")
    assert "model demo: unknown then, abc here" in page.inner_text(".lens-standing")
    state = page.eval_on_selector_all(
        ".lens-neighbour >> nth=0 >> [data-action]",
        "(all) => all.map((one) => [one.dataset.action, one.disabled])",
    )
    assert dict(state) == {"mute": False, "edit": True, "paste": True, "swap": True, "source": False}
    assert page.is_disabled(".lens-branch")
    page.click("[data-action=again]")
    assert lens.events() == [["wish", {"kind": "again", "trace": "t1", "changes": []}]]
    other = trace("t9", seed=4)
    lens.give(other)
    lens.give(trace("t10", seed=5))
    settle(page)
    assert lens.asked("standing") == [{"trace": "t9"}, {"trace": "t10"}]
    lens.silence("standing", 1)
    lens.answer("standing", YES)  # of the trace before: too late
    settle(page)
    assert "The server did not answer" in page.inner_text(".lens-standing")


def without(value, *names):
    return {key: one for key, one in value.items() if key not in names}


def states():
    running = trace("r", num_chunks=1)
    running["tokens"] = running["tokens"][:70]
    for token in running["tokens"][64:]:
        token.update(lp_on=None, lp_off=None, alts_on=[], alts_off=[], write=None)
    running["chunks"][0].update(read=[64, 70], gain=None, overlap=None, attention=None, seconds=None)
    for card in running["chunks"][0]["neighbours"]:
        card.update(share=None, influence=None, copied=None, copies=None, copy_read=[], copy_neighbour=[])
    written = {"chunk": 0, "stage": "writing", "text": "writing, 6 of 64 tokens"}
    off = trace("off", num_chunks=1)
    off.update(retrieval=False, chunks=[], datastore=None)
    for token in off["tokens"]:
        token.update(lp_on=None, write=None)
    cut = {**running, "id": "cut", "status": {"stage": "stopped", "text": "stopped after 6 tokens"}}
    nothing = "Nothing to show yet: write a prompt and press Run."
    return {
        "nothing": (None, nothing),
        "words": ("some text", nothing),
        "numbers": (7, nothing),
        "a list": ([], nothing),
        "no tokens": ({"id": "x"}, nothing),
        "wrong tokens": ({"id": "x", "tokens": "abc"}, nothing),
        "refused": ({"refused": "You may not do that here."}, None),
        "first token": (
            {**running, "tokens": [], "chunks": [], "status": {"stage": "reading", "text": "reading"}},
            "reading",
        ),
        "looking": (
            {**running, "status": {"chunk": 0, "stage": "retrieving", "text": "looking"}},
            "for neighbours in factbook…",
        ),
        "writing": ({**running, "status": written}, "writing, 6 of 64 tokens"),
        "stopped": (cut, "stopped after 6 tokens"),
        "off": (off, "Retrieval is off"),
        "no chunk": ({**trace(), "chunks": []}, "the first chunk has nothing to ask with"),
        "unknown fields": (
            {**trace(), "news": {"a": 1}, "tokens": [{**t, "x": []} for t in trace()["tokens"]]},
            "Chunk",
        ),
        "no measures": (
            {**running, "tokens": [without(t, "alts_on", "alts_off", "write") for t in running["tokens"]]},
            "neighbours",
        ),
        "no sampling": (without(trace(), "sampling", "title", "created"), "Your prompt"),
    }


def test_every_state_has_words_and_throws_nothing(show, blank):  # noqa: F811
    lens = show(None)
    page = lens.page
    for name, (value, words) in states().items():
        lens.give(value)
        settle(page)
        if words:
            assert words in page.inner_text(".retro-lens"), name
        if isinstance(value, dict) and isinstance(value.get("tokens"), list):
            page.focus(".lens-text")
            for key in ("ArrowRight", "ArrowDown", "Enter", "1", "m", "h", "g", "?", "Escape"):
                page.keyboard.press(key)
            page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
            settle(page)
            busy = (value.get("status") or {}).get("stage") in ("reading", "retrieving", "writing")
            assert page.get_attribute(".retro-lens", "aria-busy") == str(busy).lower(), name
        assert blank.wrong == [], name
    lens.give(None)
    settle(page)
    assert page.inner_text(".lens-empty") == "Nothing to show yet: write a prompt and press Run."
    lens.send('{"id": "half of a te')  # what a proxy cut off
    settle(page)
    assert page.inner_text(".unreadable") == "What came from the server cannot be read. Reload the page."
    lens.give(trace("t1"))
    settle(page)
    assert page.locator(".unreadable").count() == 0 and page.locator(".lens-token").count() > 100
    first = show(states()["writing"][0], standing=None)  # as the first value of a page, too
    assert first.page.locator(".retro-lens").count() == 2


def test_hostile_text_is_text_everywhere(show, blank):  # noqa: F811
    value = trace(num_chunks=1, payload=" ".join(ALL))
    value["model"]["name"] = value["datastore"]["name"] = ALL[0]
    for card in value["chunks"][0]["neighbours"]:
        card["document_id"] = ALL[1]
    for token in value["tokens"][64:70]:
        token["alts_on"] = [[text, -1.0] for text in ALL[:5]]
    standing = {
        "can": True,
        "why": ALL[2],
        "far": None,
        "differs": [{"what": ALL[3], "name": ALL[4], "then": "a", "here": ALL[5]}],
    }
    lens = show(value, standing)
    page = lens.page
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    page.click(".lens-token[data-i='66']")
    for name in ("edit", "swap", "source"):
        page.click(f".lens-neighbour >> nth=0 >> [data-action={name}]")
    lens.answer(
        "source",
        dict.fromkeys(("title", "source", "before", "text", "continuation", "after"), ALL[0]) | {"offset": 1},
    )
    press(page, "m")
    lens.give({"refused": ALL[7]})
    settle(page)
    assert ALL[7] in page.inner_text(".lens-notice")
    assert page.text_content(".lens-token[data-i='69']").startswith(ALL[0])
    blank.check()


def test_a_text_that_grows_keeps_what_was_chosen_and_where_one_reads(show):
    whole = trace("run", num_chunks=4)

    def part(length):
        value = copy.deepcopy(whole)
        value["tokens"] = value["tokens"][:length]
        value["chunks"] = [c for c in value["chunks"] if c["ask"][1] <= length]
        for chunk in value["chunks"]:
            chunk["read"][1] = max(chunk["read"][0], min(chunk["read"][1], length))
            chunk.update(attention=None)
        return {**value, "status": {"chunk": len(value["chunks"]) - 1, "stage": "writing", "text": "writing"}}

    lens = show(part(200))
    page = lens.page
    assert chosen(page) == 2  # the chunk at work
    page.click(".lens-card-tab >> nth=0")
    page.click(".lens-token[data-i='100']")
    page.hover(".lens-text")  # whoever reads is not moved
    page.evaluate(
        "document.querySelector('.lens-text').scrollTop = 20; window.kept = "
        "document.querySelector('.lens-token[data-i=\"100\"]')"
    )
    page.focus(".lens-text")
    top = page.evaluate("document.querySelector('.lens-text').scrollTop")
    lens.give(part(260))
    settle(page)
    assert chosen(page) == 0 and page.get_attribute(".lens-pinned", "data-i") == "100"
    assert page.evaluate("document.querySelector('.lens-text').scrollTop") == top
    assert page.evaluate("document.contains(window.kept) && document.activeElement.className") == "lens-text"
    assert page.locator(".lens-card-tab").count() == 4
    lens.give(whole)  # done: the same
    settle(page)
    assert chosen(page) == 0 and page.get_attribute(".lens-pinned", "data-i") == "100"
    lens.give(trace("another"))
    settle(page)
    assert page.locator(".lens-pinned").count() == 0
    gains = [chunk["gain"] for chunk in trace("another")["chunks"]]
    assert chosen(page) == gains.index(max(gains))
    lens.give({**trace("linked"), "opened_at": 2})
    settle(page)
    assert chosen(page) == 2


def test_the_keyboard_reaches_all_in_order_and_nothing_moves_for_who_asks_for_rest(show, blank):  # noqa: F811
    value = trace()
    value["status"] = {"chunk": 2, "stage": "writing", "text": "writing"}
    lens = show(value)
    page = lens.page
    moving = "document.getAnimations().filter((one) => one.playState === 'running').length"
    assert page.evaluate(moving) > 0
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(moving) == 0
    lens.give(without(value, "status"))
    settle(page)
    lens.answer("standing", YES)
    order = []
    page.evaluate("document.activeElement.blur()")
    for _ in range(60):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate("""() => { const one = document.activeElement, at = one.closest(
          ".lens-card-tab, [data-value], .lens-text, .lens-rank, [data-action], .lens-map input, " +
          ".lens-picker button, summary, .lens-enlarge");
          return at && (at.dataset.action || at.classList[0] || at.dataset.value || at.tagName); }""")
        )
        if page.evaluate("document.activeElement === document.body"):
            break
    seen = [one for n, one in enumerate(order) if one and one not in order[:n]]
    assert seen[:3] == ["lens-card-tab", "gain", "lens-text"]
    assert seen.index("branch") < seen.index("lens-rank") < seen.index("mute") < seen.index("lens-pick")
    assert seen[-1] == "SUMMARY"
    nameless = page.evaluate("""[...document.querySelectorAll(
      ".retro-lens button, .retro-lens [role]")].filter((one) =>
      one.checkVisibility() && !(one.getAttribute("aria-label") || one.textContent.trim() ||
        one.getAttribute("aria-hidden"))).map((one) => one.outerHTML)""")
    assert nameless == [] or all('role="status"' in one for one in nameless)
    # Arrow keys among tokens, cards; Enter pins, Escape clears.
    press(page, "ArrowRight")
    first = int(page.get_attribute(".lens-token.lens-active", "data-i"))
    press(page, "ArrowRight")
    assert int(page.get_attribute(".lens-token.lens-active", "data-i")) == first + 1
    active = page.get_attribute(".lens-text", "aria-activedescendant")
    assert page.get_attribute(f"#{active}", "data-i") == str(first + 1)
    page.keyboard.press("Enter")
    assert page.get_attribute(".lens-pinned", "data-i") == str(first + 1)
    page.keyboard.press("Escape")
    assert page.locator(".lens-pinned").count() == 0
    page.focus(".lens-rank >> nth=0")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == "#2"
    page.keyboard.press("Control+m")  # the browser's
    assert page.locator(".lens-muted").count() == 0
