"""What Measure draws: a measurement with its pictures, several beside each other."""

import re

import pytest
from browsing import page_tests as pytestmark  # noqa: F401
from hostile_texts import ALL
from script_page import blank, texts  # noqa: F401

from app.measure import MeasureView
from app.tabs.measure_words import MEASURED

SCRIPTS = ("measure/measure.js", "measure/charts.js")


def drawn(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def bar(key, bpb, ratio=None, ci95=None, **more):
    return {
        "key": key,
        "name": f"{key} <b>",
        "bpb": bpb,
        "bpb_ci95": [bpb - 0.1, bpb + 0.1],
        "perplexity": bpb * 10,
        "perplexity_ci95": [bpb * 9, bpb * 11],
        "ratio": ratio,
        "ratio_ci95": ci95,
        **more,
    }


def point(alpha, chunks, on, off):
    return {
        "alpha": alpha,
        "chunks": chunks,
        "on": on,
        "off": off,
        "on_ci95": [on - 0.01, on + 0.01],
        "off_ci95": None,
    }


def swept(x, y, **more):
    return {"x": x, "y": y, "ci95": [y - 0.02, y + 0.03], "ratio": 0.9, "worse": 0.4, "recall": None, **more}


LEAKAGE = [point(0.125, 40, 1.2, 1.25), point(0.5, 90, 1.1, 1.25), point(1, 120, 1.0, 1.3)]


def probe(name="held <b>", **more):
    relation = {"bins": [{"x": 0.1, "low": 0, "high": 0.2, "mean": -0.1, "ci95": [-0.2, 0.0], "items": 40},
                         {"x": 0.4, "low": 0.2, "high": 1, "mean": 0.3, "ci95": None, "items": 1200}],
                "spearman": 0.42, "spearman_ci95": [0.3, 0.5], "chunks": 1240}  # fmt: skip
    return {
        "name": name,
        "documents": 27,
        "tokens": 123456,
        "worse": 0.4375,
        "bars": [
            bar("on", 1.0, 0.8, [0.7, 0.9]),
            bar("off", 1.25),
            bar("random", 1.3, 1.1, [1.05, 1.2]),
            bar("bm25", 1.2, 0.99, [0.9, 1.1]),
        ],
        "leakage": LEAKAGE,
        "slope": 0.1,
        "relations": {"overlap": relation},
        "points": [[0.1, 0.5, -0.2], [0.6, None, 0.4]],
        "k": [swept(1, -0.1), swept(2, -0.2), swept(8, -0.15)],
        "size": [],
        "nprobe": [swept(1, -0.1, recall=0.5), swept(4, 0.05, recall=0.9)],
        "index": {
            "vectors": 9001,
            "queries": 200,
            "found": [
                {
                    "name": "IVF",
                    "lists": 64,
                    "nprobe": 8,
                    "recall_at_10": 0.75,
                    "recall_at_2": 0.8,
                    "ms": 0.5,
                    "ms_95th": 0.9,
                    "bytes_per_vector": 1536,
                }
            ],
        },
        "comparators": [
            {
                "name": "kNN-LM",
                "minus_off": -0.125,
                "ci95": [-0.2, -0.1],
                "ratio": 0.88,
                "worse": 0.3,
                "read": None,
            }
        ],
        "list": [[ALL[0], 1200, 1.0, 1.5, 0.5], ["b", 800, 2.0, 1.75, -0.25]],
        "skipped": [["knn", ALL[1]]],
        **more,
    }


def value(*probes, **more):
    shown = {
        "id": "m",
        "title": ALL[2],
        "about": "model on text",
        "busy": False,
        "headline": ["Retrieval helps.", "A bit."],
        "words": MEASURED,
        "probes": list(probes),
        "swap": None,
        "how": ["By <i>"],
        "command": "python -m x",
        "news": 1,
        **more,
    }
    return {"shown": shown, "beside": None}


def plot(page, n):
    """Ticks beside and below, and marks: [words, x, y] in the numbers of the axes."""
    found = page.evaluate(
        """(n) => { const svg = document.querySelectorAll(".measure-figure svg")[n], at = (one, name) =>
          +one.getAttribute(name);
          return { y: [...svg.querySelectorAll("text[text-anchor=end]")].map((one) => [at(one, "y") - 4,
            one.textContent]),
            marks: [...svg.querySelectorAll(".measure-mark")].map((one) => [one.textContent,
              one.tagName === "rect" ? at(one, "x") + 4 : at(one, "cx"),
              one.tagName === "rect" ? at(one, "y") + 4 : at(one, "cy"), one.getAttribute("class")]),
            at: svg.querySelector(".measure-marked") && at(svg.querySelector(".measure-marked"), "x1"),
              label: svg.getAttribute("aria-label"),
            bad: /NaN|Infinity|undefined/.test(svg.outerHTML) }; }""",
        n,
    )
    assert not found["bad"]
    ticks = [(y, float(text.replace("−", "-"))) for y, text in found["y"] if re.fullmatch(r"[−\d.]+", text)]
    (a, va), (b, vb) = ticks[0], ticks[-1]
    assert (va < vb) == (a > b)  # more is higher
    return found, [va + (y - a) * (vb - va) / (b - a) for _, _, y, _ in found["marks"]]


def test_numbers_are_drawn_as_they_were_measured(blank):  # noqa: F811
    page = blank.page
    part = blank.put(MeasureView(), value(probe(), probe("other")))
    drawn(page)
    assert page.inner_text("h2") == ALL[2] and "Retrieval helps." in page.inner_text(".measure-headline")
    rows = page.locator(".measure-bars >> nth=0 >> .measure-bar")
    most = 1.4 * 1.02
    for n, one in enumerate(probe()["bars"]):
        fill, whisker = (
            rows.nth(n)
            .locator(".measure-track i, .measure-track em")
            .evaluate_all(
                "(all) => all.map((one) => [parseFloat(one.style.width), parseFloat(one.style.left) || 0])"
            )
        )
        assert fill[0] == pytest.approx(100 * one["bpb"] / most, abs=0.01)
        assert whisker == pytest.approx([20 / most, 100 * (one["bpb"] - 0.1) / most], abs=0.01)
    assert texts(page, ".measure-bars >> nth=0 >> .measure-value")[:2] == [
        "1.000 [0.900, 1.100]",
        "1.250 [1.150, 1.350]",
    ]
    assert [more.rsplit(": ")[-1] for more in texts(page, ".measure-bars >> nth=0 >> .measure-more")] == [
        "helps",
        "hurts",
        "no sure difference",
    ]
    tones = rows.locator("i").evaluate_all("(all) => all.map((one) => one.className)")
    assert [tone.split()[0] for tone in tones] == [
        "measure-helped",
        "measure-off",
        "measure-hurt",
        "measure-unsure",
    ]
    page.click(".measure-scale button >> nth=1")
    assert (
        texts(page, ".measure-value")[0] == "10.00 [9.000, 11.00]"
        and page.evaluate("document.activeElement.textContent") == "Perplexity"
    )
    assert "44 % of the tokens were made worse" in page.inner_text(".measure")
    # The pictures, by what their axes say.
    found, y = plot(page, 0)
    assert y == pytest.approx([1.25, 1.25, 1.3, 1.2, 1.1, 1.0], abs=0.01)
    assert found["marks"][-1][0] == "On, α 100 %: 1.000 [0.990, 1.010] bits per byte"
    _, y = plot(page, 1)
    assert y == pytest.approx([-0.1, 0.3], abs=0.01)
    assert "Spearman’s ρ = +0.42 [+0.30, +0.50] over 1,240 chunks." in page.inner_text(".measure")
    found, y = plot(page, 2)
    assert y == pytest.approx([0.1, 0.2, 0.15], abs=0.01)
    xs = [mark[1] for mark in found["marks"]]
    assert (xs[1] - xs[0]) / (xs[2] - xs[0]) == pytest.approx(1 / 3, abs=0.01)  # by doublings
    found, y = plot(page, 3)
    assert [mark[3].split("-")[-1] for mark in found["marks"]] == [
        "helped",
        "hurt",
    ] and "recall 90 %" in found["marks"][1][0]
    # The slider of α.
    page.locator(".measure-slider input").focus()
    page.keyboard.press("ArrowLeft")
    told = page.inner_text(".measure-told")
    assert told == (
        "α ≤ 50 %: On 1.100, Off 1.250 bits per byte, over 90 of 120 chunks. Reading saves 0.150 bits a "
        "byte there."
        " That is 50 % of the whole gain."
    )
    found, _ = plot(page, 0)
    assert found["at"] == pytest.approx(found["marks"][1][1])
    page.keyboard.press("ArrowLeft")
    assert page.inner_text(".measure-told").endswith(
        "That is 17 % of the whole gain. So few chunks are a sketch only."
    )
    assert page.get_attribute(".measure-slider input", "aria-valuetext") == "α 12.5 %"
    # A part more comes: the slider and what was unfolded stay.
    page.click(".measure-card:has(.measure-slider) summary")
    part.give(value(probe(worse=0.5), probe("other"), busy=True))
    drawn(page)
    assert page.locator(".measure-slider input").input_value() == "0" and "More comes" in page.inner_text(
        ".measure"
    )
    assert page.evaluate("document.querySelector('.measure-card:has(.measure-slider) details').open")
    rows = page.eval_on_selector_all(
        ".measure-card:has(.measure-slider) tbody tr",
        "(rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent))",
    )
    assert rows[0] == ["12.5 %", "40", "1.200 [1.190, 1.210]", "1.250", "+0.050"]
    wide = texts(page, ".measure-recall")
    assert wide[0] == "75 %" and wide[1:] == ["+0.500", "−0.250"]
    fills = page.eval_on_selector_all(
        ".measure-both i", "(all) => all.map((one) => [one.style.left, one.style.width])"
    )
    assert fills == [["50%", "50%"], ["25%", "25%"]]
    assert "1 of 2 documents are better with retrieval" in page.text_content(".measure") and ALL[
        0
    ] in page.text_content(".measure")
    assert f"knn ({ALL[1]})" in page.text_content(".measure")
    page.focus(".measure-probes button >> nth=1")
    page.keyboard.press("Enter")
    assert page.get_attribute(".measure-probes button >> nth=1", "aria-pressed") == "true"
    assert page.evaluate("document.activeElement.textContent").startswith("other")
    page.set_viewport_size({"width": 390, "height": 800})
    drawn(page)
    assert page.evaluate(
        "[...document.querySelectorAll('.measure-figure svg')].every((one) => "
        "one.getBoundingClientRect().right <= 390)"
    )


def test_a_swap_of_facts_and_runs_beside_each_other(blank):  # noqa: F811
    page = blank.page
    swap = {
        "names": ["2015 <b>", "2025"],
        "rows": [
            {"reads": "2015", "says": [0.75, 0.05], "neither": 0.2},
            {"reads": "2025", "says": [0.1, 0.9], "neither": 0},
        ],
        "swaps": {"value": 0.625, "ci95": [0.5, 0.7]},
        "prefers": {"value": 0.9},
        "count": 1234,
        "countries": 20,
        "fields": [[ALL[0], 10, 0.5]],
        "examples": [[ALL[1], "a", "b"]],
    }
    beside = {
        "note": "Both.",
        "rows": [
            {
                "title": ALL[2],
                "probe": "p",
                "ratio": ratio,
                "ratio_ci95": ci95,
                "on": 1,
                "off": 1.25,
                "worse": 0.4,
                "documents": 3,
                "tokens": 4000,
            }
            for ratio, ci95 in ((0.8, [0.7, 0.9]), (1.2, [1.1, 1.3]), (0.95, None))
        ],
    }
    part = blank.put(MeasureView(), {**value(swap=swap), "beside": beside})
    drawn(page)
    pieces = page.eval_on_selector_all(
        ".measure-swap .measure-share span",
        "(all) => all.map((one) => [+one.style.flexGrow, one.textContent])",
    )
    assert pieces == [[0.75, "75 %"], [0.05, ""], [0.2, "20 %"], [0.1, "10 %"], [0.9, "90 %"]]
    assert "its own value: 63 % [50 %, 70 %] of 1,234 prompts about 20 countries" in page.inner_text(
        ".measure"
    )
    assert page.get_attribute(".measure-swap .measure-share >> nth=1", "aria-label").endswith(
        "writes neither: 0.0 %"
    )
    most = 1.3 * 1.02
    fills = page.eval_on_selector_all(
        "[role=list] .measure-track i",
        "(all) => all.map((one) => [one.className, parseFloat(one.style.width)])",
    )
    assert [name for name, _ in fills] == ["measure-helped", "measure-hurt", "measure-unsure"]
    assert [wide for _, wide in fills] == pytest.approx(
        [100 * ratio / most for ratio in (0.8, 1.2, 0.95)], abs=0.01
    )
    marks = page.eval_on_selector_all(
        ".measure-track s", "(all) => all.map((one) => parseFloat(one.style.left))"
    )
    assert marks == pytest.approx([100 / most] * 3, abs=0.01)
    empty = probe(
        bars=[],
        worse=None,
        leakage=[],
        relations={},
        points=[],
        k=[],
        nprobe=[],
        index=None,
        comparators=[],
        list=[],
        skipped=[],
        documents=0,
    )
    one_point = probe(
        leakage=LEAKAGE[:1],
        k=[swept(1, 0)],
        relations={"overlap": {"bins": [], "spearman": None}},
        bars=[{**bar(key, 1), "bpb": None, "bpb_ci95": None} for key in ("on", "off")],
    )
    for given, words in (
        ({"shown": None, "beside": None, "empty": "Choose a <b>."}, "Choose a <b>."),
        ({"shown": None, "beside": beside}, "Side by side"),
        (None, "Nothing was measured yet"),
        (value(empty, busy=True, headline=[], how=[]), "More comes as it is measured."),
        (value(one_point), "Perplexity"),
        (value(), "model on text"),
        ("words", "Nothing was measured yet"),
    ):
        part.give(given)
        drawn(page)
        assert words in page.text_content(".measure"), words
