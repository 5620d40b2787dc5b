"""What Train draws: the list of runs, their curves, what they wrote while they were trained."""

import math
import re

import pytest
from browsing import page_tests as pytestmark  # noqa: F401
from hostile_texts import ALL
from script_page import blank, texts  # noqa: F401

from app.train import Curves, RunList, Samples

SCRIPTS = tuple(f"train/{name}.js" for name in ("run_list", "curves", "samples"))


def drawn(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


# ---- the list


def listed(*names, **more):
    runs = [
        {
            "name": name,
            "shown": f"{name} <b>",
            "state": state,
            "fraction": fraction,
            "line": f"step {n}",
            "colour": colour,
        }
        for n, (name, state, fraction, colour) in enumerate(
            zip(
                names,
                ("running", "stopped", "failed"),
                (0.25, 1.5, -1),
                ("#12ab9f", "red", None),
                strict=False,
            )
        )
    ]
    return {"runs": runs, "chosen": "a", "compared": [], "empty": "No runs yet.", "news": 1, **more}


def test_runs_are_chosen_and_compared_from_the_keyboard_too(blank):  # noqa: F811
    page = blank.page
    part = blank.put(RunList(), listed("a", "b", ALL[0]))
    assert texts(page, ".run-head b") == ["a <b>", "b <b>", ALL[0] + " <b>"]
    assert page.eval_on_selector_all(".run-state", "(all) => all.map((one) => one.dataset.state)") == [
        "running",
        "stopped",
        "failed",
    ]
    assert page.eval_on_selector_all(".run-track i", "(all) => all.map((one) => one.style.width)") == [
        "25%",
        "100%",
        "0%",
    ]
    assert page.eval_on_selector_all(
        ".run-choose", "(all) => all.map((one) => one.getAttribute('aria-pressed'))"
    ) == ["true", "false", "false"]
    colours = page.eval_on_selector_all(
        ".run-compare", "(all) => all.map((one) => one.style.getPropertyValue('--run-colour'))"
    )
    assert colours == ["#12ab9f", "", ""]
    page.focus(".run-choose >> nth=2")
    page.keyboard.press("Enter")
    assert part.events() == [["choose", {"name": ALL[0]}]]
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert part.events() == [["compare", {"names": [ALL[0]]}]]
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == f"Compare {ALL[0]} <b>"
    # Drawn anew twice a second, with the keyboard where it was and marked what the server says.
    part.give(listed("a", "b", ALL[0], compared=["b"]))
    drawn(page)
    assert page.eval_on_selector_all(".run-compare input", "(all) => all.map((one) => one.checked)") == [
        False,
        True,
        False,
    ]
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == f"Compare {ALL[0]} <b>"
    page.keyboard.press("Space")
    assert part.events() == [["compare", {"names": ["b", ALL[0]]}]]
    page.focus(".run-choose >> nth=1")
    part.give(listed("b"))
    drawn(page)
    assert page.evaluate("document.activeElement.dataset.run") == "b"
    assert page.locator(".run-compare").count() == 0  # with what?
    for value, words in ((listed(), "No runs yet."), (None, ""), (listed(note="3 more"), "No runs yet.")):
        part.give(value)
        drawn(page)
        assert page.inner_text(".run-list") == words


# ---- the curves

STEPS = list(range(0, 2000, 50))
LOSS = [9 * math.exp(-step / 300) + 2 + 0.3 * math.sin(step) for step in STEPS]
HELD = [500, 1000, 1500]
ON, OFF, RANDOM, WRITE = [3.0, 2.5, 2.25], [3.0, 2.75, 2.625], [3.1, 2.9, None], [0.1, 0.2, 0.4]


def run(name="first", colour="#1f77b4", **more):
    return {
        "name": name,
        "colour": colour,
        "training": {
            "step": STEPS,
            "tokens": [step * 512 for step in STEPS],
            "loss": LOSS,
            "tokens_per_second": [1000 + step for step in STEPS],
        },
        "held_out": {
            "step": HELD,
            "tokens": [step * 512 for step in HELD],
            "on": ON,
            "off": OFF,
            "random": RANDOM,
            "write_strength": WRITE,
        },
        "written": [],
        **more,
    }


def of_panel(page, n):
    """The readout of each line, and its path in the numbers of the axes: fitted by the ticks beside them."""
    return page.evaluate(
        """(n) => { const figure = document.querySelectorAll(".curve")[n], at = (one, name) =>
          +one.getAttribute(name);
          const ticks = [...figure.querySelectorAll(".curve-tick")].map((one) =>
            [one.getAttribute("text-anchor"), at(one, "x"), at(one, "y"), one.textContent]);
          const lines = [...figure.querySelectorAll("path.curve-line, path.curve-raw")].map((one) =>
            [one.getAttribute("class"), one.getAttribute("d"), one.getAttribute("stroke")]);
          return { ticks, lines, read: figure.querySelector(".curve-read").textContent }; }""",
        n,
    )


def number(text):
    size = {"k": 1e3, "M": 1e6}.get(text[-1], 1)
    return float(text.replace("−", "-").rstrip(" kM")) * size


def scale_of(ticks, which, place):
    """pixel -> value, by two ticks."""
    pairs = sorted({(tick[place], number(tick[3])) for tick in ticks if (tick[0] == "end") == (which == "y")})
    (a, va), (b, vb) = pairs[0], pairs[-1]
    assert which == "x" or (va > vb) == (a < b)  # more is higher
    return lambda pixel: va + (pixel - a) * (vb - va) / (b - a)


def curve(found, kind, nth=0):
    x, y = scale_of(found["ticks"], "x", 1), scale_of(found["ticks"], "y", 2)
    paths = [d for names, d, _ in found["lines"] if names == kind]
    return [(x(float(a)), y(float(b) + 4)) for a, b in re.findall(r"([-\d.]+) ([-\d.]+)", paths[nth])]


def close(found, xs, ys):
    """Within what two pixels are."""
    assert len(found) == len(xs)
    for (x, y), at, value in zip(found, xs, ys, strict=True):
        assert x == pytest.approx(at, abs=12) and y == pytest.approx(
            value, abs=0.02 * max(1, abs(max(ys) - min(ys)))
        ), (x, y, at, value)


def test_curves_go_through_what_was_measured(blank):  # noqa: F811
    page = blank.page
    part = blank.put(Curves(), {"runs": [run()], "note": "", "empty": "Nothing."})
    drawn(page)
    loss = of_panel(page, 0)
    close(curve(loss, "curve-line curve-bold"), HELD, ON)
    close(curve(loss, "curve-line curve-dashed"), HELD, OFF)
    close(curve(loss, "curve-line curve-dotted"), HELD[:2], RANDOM[:2])  # what is missing is not drawn
    close(curve(loss, "curve-raw"), STEPS, LOSS)

    def smoothed(values, by):
        total = weight = 0.0
        for value in values:
            total, weight = total * by + value * (1 - by), weight * by + 1 - by
            yield total / weight

    close(curve(loss, "curve-line curve-thin"), STEPS, list(smoothed(LOSS, 0.6)))
    gain = of_panel(page, 1)
    close(curve(gain, "curve-line curve-bold"), HELD, [off - on for off, on in zip(OFF, ON, strict=True)])
    assert gain["read"] == "now: gain +0.375"
    close(curve(of_panel(page, 2), "curve-line curve-bold"), HELD, WRITE)
    close(curve(of_panel(page, 3), "curve-raw"), STEPS, [1000 + step for step in STEPS])
    assert loss["read"].endswith("On 2.250") and "Off 2.625" in loss["read"]
    # Smoothing is the visitor's, and stays when numbers come.
    page.locator(".curve-controls input[type=range]").fill("0.9")
    close(curve(of_panel(page, 0), "curve-line curve-thin"), STEPS, list(smoothed(LOSS, 0.9)))
    page.click(".curve-axes label >> nth=1")
    longer = run()
    longer["training"] = {name: [*values, values[-1] * 1.1] for name, values in longer["training"].items()}
    part.give({"runs": [longer], "note": "at work", "empty": ""})
    drawn(page)
    thin = curve(of_panel(page, 0), "curve-line curve-thin")
    assert thin[-1][0] == pytest.approx(STEPS[-1] * 512 * 1.1, rel=0.02)
    assert thin[-1][1] == pytest.approx(list(smoothed([*LOSS, LOSS[-1] * 1.1], 0.9))[-1], abs=0.1)
    assert page.inner_text(".curve-note") == "at work"


def test_a_place_is_read_by_pointer_and_keys_and_enlarged(blank):  # noqa: F811
    page = blank.page
    part = blank.put(Curves(), {"runs": [run(), run("<i>", "#ff7f0e"), run("bad", "javascript:1")]})
    drawn(page)
    assert "first On 2.250" in of_panel(page, 0)["read"] and "<i> On 2.250" in of_panel(page, 0)["read"]
    assert "bad" not in page.inner_text(".curves")  # a colour is a colour
    page.focus(".curve-plot >> nth=0")
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    read = of_panel(page, 0)["read"]
    at = int(re.match(r"step ([\d,]+): ", read)[1].replace(",", ""))
    assert 800 < at < 1200  # half of the width from the end
    near = min(range(3), key=lambda n: abs(HELD[n] - at))
    assert (
        f"first On {ON[near]:.3f}" in read
        and f"gain +{OFF[near] - ON[near]:.3f}" in of_panel(page, 1)["read"]
    )
    page.keyboard.press("Escape")
    assert of_panel(page, 0)["read"].startswith("now: ")
    picture = page.locator(".curve-plot >> nth=0")
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 60)
    assert of_panel(page, 1)["read"].startswith("step ")  # all panels follow
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 60, steps=3)
    page.mouse.up()
    shown = [number(tick[3]) for tick in of_panel(page, 2)["ticks"] if tick[0] == "middle"]
    assert min(shown) > 700 and max(shown) < 1750
    page.click(".curve-whole")
    shown = [number(tick[3]) for tick in of_panel(page, 2)["ticks"] if tick[0] == "middle"]
    assert min(shown) < 500 and page.is_hidden(".curve-whole")
    # The same as a table.
    page.click(".curve-table summary")
    page.wait_for_selector(".curve-table tbody tr")  # a fold tells of its opening a moment later
    rows = page.eval_on_selector_all(
        ".curve-table tbody tr",
        "(rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent))",
    )
    assert [row[:7] for row in rows[:3]] == [
        ["first", "500", "3.000", "3.000", "3.100", "0.000", "0.100"],
        ["first", "1,000", "2.500", "2.750", "2.900", "0.250", "0.200"],
        ["first", "1,500", "2.250", "2.625", "–", "0.375", "0.400"],
    ]
    assert len(rows) == 6
    part.give({"runs": [run(ALL[0])]})
    drawn(page)
    assert texts(page, ".curve-table tbody tr >> nth=0")[0].startswith(ALL[0])


def test_curves_without_numbers_say_so(blank):  # noqa: F811
    page = blank.page
    nothing = {"step": [], "tokens": [], "loss": [], "tokens_per_second": []}
    unmeasured = {"step": [], "tokens": [], "on": [], "off": [], "random": [], "write_strength": []}
    part = blank.put(Curves(), None)
    for value, words in (
        ({"runs": [], "empty": "Choose a run."}, "Choose a run."),
        ({"runs": [run(training=nothing, held_out=unmeasured)], "news": {}}, "nothing measured yet"),
        ({"runs": [run(held_out=unmeasured)]}, "now: training"),
        (
            {
                "runs": [
                    run(
                        held_out={
                            **unmeasured,
                            "step": [5],
                            "tokens": [9],
                            "on": [2.5],
                            "off": [None],
                            "random": [None],
                            "write_strength": [None],
                        }
                    )
                ]
            },
            "On 2.500",
        ),
        (
            {
                "runs": [
                    run(
                        training={
                            **nothing,
                            "step": [0],
                            "tokens": [0],
                            "loss": [None],
                            "tokens_per_second": [None],
                        }
                    )
                ]
            },
            "On 2.250",
        ),
        (None, ""),
    ):
        part.give(value)
        drawn(page)
        assert words in page.text_content(".curves"), value
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        drawn(page)
    drawings = page.eval_on_selector_all(
        ".curve path",
        "(all) => all.map((one) => one.getAttribute('d')).filter((d) => /NaN|Infinity/.test(d))",
    )
    assert drawings == []


# ---- the samples


def sample(**more):
    tokens = [" one", " two\n", ALL[0]]
    return {
        "prompt": "The text <b>",
        "on": "reads " + ALL[1],
        "off": "does not",
        "original": "as it was",
        "tokens": tokens,
        "lp_on": [-0.5, -2.0, None],
        "lp_off": [-1.5, -1.0, -1],
        "read": ["n1", "", ALL[2]],
        **more,
    }


def answer(part, step, value):
    part.answer("samples", value, which=[asked["step"] for asked in part.asked("samples")].index(step))


def test_samples_are_fetched_when_looked_at_and_late_ones_dropped(blank):  # noqa: F811
    page = blank.page
    steps = {
        "run": "r",
        "steps": [100, 2000, 30000],
        "gains": [[0.1, None], [0.5, 0.2], [-0.25, 0.4]],
        "empty": "None yet.",
    }
    part = blank.put(Samples(fetch=lambda *asked: {}), {**steps, "news": []})
    assert {"run": "r", "step": 30000} in part.asked("samples")  # the newest
    answer(part, 2000, {"samples": [sample(on="at 2000"), sample()]})
    answer(part, 30000, {"samples": [sample(), sample(tokens=[], read=[])]})
    page.wait_for_selector(".samples-card")
    assert page.inner_text(".samples-where") == "step 30,000 (3 of 3)"
    assert "gain −0.25" in page.inner_text(".samples-card >> nth=0") and "gain +0.40" in page.inner_text(
        ".samples-card >> nth=1"
    )
    painted = page.eval_on_selector_all(
        ".samples-token", "(all) => all.map((one) => [one.textContent, one.style.backgroundColor, one.title])"
    )
    share = 0.65 * round(32 * 0.5**0.7) / 32
    assert painted[0][1:] == [f"rgba(214, 121, 24, {share:.2f})", "with neighbours 61 %, without 22 %"]
    assert painted[1][1] == f"rgba(37, 99, 235, {share:.2f})" and painted[2] == [ALL[0], "", ""]
    assert texts(page, ".samples-card summary") == ["What it read: 2 neighbours"]
    assert texts(page, ".samples-card >> nth=0 >> .samples-text")[0] == "reads " + ALL[1]
    assert texts(page, ".samples-card >> nth=1 >> .samples-text")[2] == "as it was"
    page.click("summary")
    # Two steps, and the first answer last.
    slider = page.locator(".samples input")
    slider.fill("0")
    assert part.asked("samples") == [{"run": "r", "step": 100}]
    slider.fill("1")
    while part.asked("samples"):  # of 2,000 they are kept; those of 100 come late
        answer(part, 100, {"samples": [sample(on="at 100")]})
    page.wait_for_function("document.querySelector('.samples-list').textContent.includes('at 2000')")
    assert page.inner_text(".samples-where") == "step 2,000 (2 of 3)"
    slider.fill("0")  # kept: not asked for again
    page.wait_for_function("document.querySelector('.samples-list').textContent.includes('at 100')")
    assert part.asked("samples") == []
    # New steps: whoever looks at an old one goes on doing so.
    part.give({**steps, "steps": [*steps["steps"], 40000, 50000]})
    drawn(page)
    assert page.inner_text(".samples-where") == "step 100 (1 of 5)"
    slider.fill("3")
    slider.fill("4")
    asked = [one["step"] for one in part.asked("samples")]
    answer(part, 40000, {"samples": [sample(on="at 40000")]})
    drawn(page)
    assert "at 40000" not in page.inner_text(".samples-list")  # that is not where one is now
    while part.asked("samples"):
        part.silence("samples")
    page.wait_for_function(
        "document.querySelector('.samples-list').textContent.includes('The server does not answer')"
    )
    assert 50000 in asked
    slider.fill("2")
    slider.fill("4")
    while part.asked("samples"):
        part.answer("samples", {"error": "That run <b>is gone</b>."})
    page.wait_for_function(
        "document.querySelector('.samples-list').textContent === 'That run <b>is gone</b>.'"
    )
    slider.focus()
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    assert page.inner_text(".samples-where") == "step 30,000 (3 of 5)"
    assert slider.get_attribute("aria-valuetext") == "step 30000"
    # Another run: nothing of the first is left.
    part.give({"run": "s", "steps": [100], "empty": ""})
    drawn(page)
    assert {"run": "s", "step": 100} in part.asked("samples") and page.inner_text(".samples-list") == ""
    answer(part, 100, {"samples": []})
    for value, words in (
        ({"run": "s", "steps": [], "empty": "None yet."}, "None yet."),
        (None, ""),
        ({"run": None, "x": 1}, ""),
    ):
        part.give(value)
        drawn(page)
        assert page.inner_text(".samples") == words


def test_samples_play_from_the_first_to_the_last_and_lead_to_the_lens(blank):  # noqa: F811
    page = blank.page
    page.clock.install()
    part = blank.put(
        Samples(fetch=lambda *asked: {}), {"run": "r", "steps": [1, 2, 3], "gains": [], "empty": ""}
    )
    while part.asked("samples"):
        part.answer(
            "samples", {"samples": [sample(traced=True, on=f"at {part.asked('samples')[0]['step']} now")]}
        )
    page.wait_for_selector(".samples-open")
    page.click(".samples-open")
    assert part.events() == [["see", {"run": "r", "step": 3, "number": 0}]]
    seen = []
    page.click(".samples-play")
    for _ in range(4):
        while part.asked("samples"):
            part.answer("samples", {"samples": [sample(on=f"at {part.asked('samples')[0]['step']} now")]})
        seen.append(page.inner_text(".samples-where")[:6])
        page.clock.run_for(950)
    assert seen == ["step 1", "step 2", "step 3", "step 3"]
    assert page.inner_text(".samples-play") == "▶ Play"
