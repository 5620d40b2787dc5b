"""What Learn draws: each mini-lens of a lesson, the glossary with its filter, programs to copy."""

import base64
import math

import pytest
from browsing import page_tests as pytestmark  # noqa: F401
from hostile_texts import ALL
from script_page import ORIGIN, blank, texts  # noqa: F401

from app.learn import Glossary, Lessons, Snippets

SCRIPTS = (
    "learn/controls.js", "learn/lessons.js", "learn/glossary.js", "learn/snippets.js",
    *(f"learn/lenses/{name}.js" for name in (
        "attention", "chunks", "continuation", "gain", "influence", "limits", "swap", "windows",
    )),
)  # fmt: skip


def drawn(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def paints(page, selector):
    """Opacity of each, negative for blue."""
    found = page.eval_on_selector_all(selector, "(all) => all.map((one) => one.style.backgroundColor)")
    parts = [[float(n) for n in one[one.index("(") + 1 : -1].split(", ")] if one else None for one in found]
    return [
        0 if one is None else (one[3] if len(one) > 3 else 1) * (-1 if one[0] == 37 else 1) for one in parts
    ]


@pytest.fixture
def lesson(blank):  # noqa: F811
    def show(name, data, **more):
        part = blank.put(Lessons(fetch_lessons=lambda *asked: {}, fetch_tokens=lambda *asked: {}))
        assert blank.page.get_attribute(".lessons", "aria-busy") == "true"
        see = {"label": "See", "href": "?tab=corpus", "tab": "corpus", "example": None}
        part.answer(
            "lessons",
            {
                "lessons": [
                    {
                        "number": 3,
                        "title": "T <b>",
                        "words": ALL[0],
                        "lens": name,
                        "data": data,
                        "see": see,
                        **more,
                    }
                ]
            },
        )
        blank.page.wait_for_selector(".lesson")
        return part

    return show


def said(page, n=0):
    return page.locator(".learn-said").nth(n).inner_text()


def test_a_lesson_has_a_name_and_leads_on(lesson, blank):  # noqa: F811
    page = blank.page
    books = [
        {
            "name": "one",
            "title": ALL[1],
            "read": [" 12", ALL[2]],
            "read_copied": [[0, 1]],
            "written": [" 12", "; more"],
            "copied": [[0, 1]],
        },
        {
            "name": "two",
            "title": "t",
            "read": ["", " 7"],
            "read_copied": [],
            "written": [" 7\n"],
            "copied": [],
        },
    ]
    part = lesson("swap", {"prompt": "Q:", "books": books})
    assert (
        page.get_attribute(".lesson-lens", "aria-label") == "Try it: T <b>"
        and page.inner_text(".lesson-words") == ALL[0]
    )
    assert page.get_attribute(".lessons", "aria-busy") is None
    assert said(page) == "With one it writes “12”."
    assert texts(page, ".learn-large .learn-copied") == [" 12"] and paints(
        page, ".learn-passage:not(.learn-large) .learn-token"
    ) == [0.35, 0]
    page.focus("input[type=radio] >> nth=0")
    page.keyboard.press("ArrowRight")
    assert said(page) == "With two it writes “7”." and texts(page, ".learn-copied") == []
    page.click(".lesson-see")
    assert part.events() == [["see", {"number": 3}]] and page.url == ORIGIN
    assert page.get_attribute(".lesson-see", "href") == "?tab=corpus"


def test_without_a_server_each_part_of_learn_says_so(blank):  # noqa: F811
    page = blank.page
    nothing = lambda *asked: {}  # noqa: E731
    for component, name in (
        (Lessons(fetch_lessons=nothing, fetch_tokens=nothing), "lessons"),
        (Glossary(fetch_words=nothing), "words"),
        (Snippets(fetch_snippets=nothing), "snippets"),
    ):
        blank.put(component).silence(name)
        blank.put(component).answer(name, {"error": f"No {name} <b>."})
        drawn(page)
        assert texts(page, ".learn-said")[-2:] == [
            "The server did not answer. Load the page again.",
            f"No {name} <b>.",
        ]


def test_the_attention_lens_says_where_the_chosen_token_looked(lesson, blank):  # noqa: F811
    page = blank.page
    weights = [[0, 51, 102, 255, 0, 0], [255, 0, 0, 0, 0, 204]]
    packed = {"rows": 2, "cols": 6, "scale": 0.5, "data": base64.b64encode(bytes(sum(weights, []))).decode()}
    neighbours = [{"title": "T", "tokens": [" a", " b", " c"]}, {"title": "U", "tokens": [" d", "", ALL[0]]}]
    lesson("attention", {"map": packed, "written": [" word", " 12"], "neighbours": neighbours})
    assert said(page) == f"To write “12” the model gave 50 % of its look to “a” and 40 % to “{ALL[0][:27]}…”."
    page.hover(".learn-token >> nth=0")
    assert said(page) == "To write “word” the model gave 50 % of its look to “d” and 20 % to “c”."
    found = paints(page, ".learn-token")[2:]
    full = [round(min(1, (w / 255) ** 0.7) * 32) / 32 * 0.65 for w in (0, 51, 102, 255, 0)]
    assert found == pytest.approx(full, abs=0.002)
    page.focus(".learn-slider input")
    page.keyboard.press("ArrowRight")
    assert "“12”" in said(page) and page.get_attribute(".learn-slider input", "aria-valuetext") == " 12"


def test_the_chunk_lens_cuts_what_is_typed_and_drops_late_answers(lesson, blank):  # noqa: F811
    page = blank.page
    part = lesson("chunks", {"text": "t", "tokens": [" x"] * 130, "longest": 50})
    assert said(page) == "130 tokens: 2 chunks are whole and ask; the last 2 wait for more."
    assert texts(page, ".learn-mark") == ["chunk 1", "chunk 2", "2 of 64"]
    assert page.eval_on_selector_all(
        ".learn-chunk", "(all) => all.map((one) => one.querySelectorAll('.learn-piece').length)"
    ) == [64, 64, 2]
    page.fill("textarea", "one")
    page.wait_for_function("staged[0].calls.length === 2")
    page.fill("textarea", "two")
    page.wait_for_function("staged[0].calls.length === 3")
    assert part.asked("tokens") == [{"text": "one"}, {"text": "two"}]
    part.answer("tokens", {"tokens": [ALL[0]] * 64}, which=1)
    drawn(page)
    part.answer("tokens", {"tokens": ["late"]})
    drawn(page)
    assert said(page) == "64 tokens: 1 chunk is whole and asks." and texts(page, ".learn-piece")[0] == ALL[0]
    for answer, words in (
        (lambda: part.answer("tokens", {"error": "Too long <b>."}), "Too long <b>."),
        (lambda: part.silence("tokens"), "The server did not answer. Is it still running?"),
    ):
        page.fill("textarea", words)
        page.wait_for_function("staged[0].calls.at(-1).waits")
        answer()
        drawn(page)
        assert said(page) == words
    assert page.get_attribute("textarea", "maxlength") == "50"
    page.fill("textarea", "")
    page.wait_for_function("staged[0].calls.at(-1).waits")
    part.answer("tokens", {"tokens": []})
    drawn(page)
    assert said(page) == "0 tokens: none is whole, so nothing is asked yet."


def test_the_continuation_lens_counts_what_was_copied_from_which_half(lesson, blank):  # noqa: F811
    page = blank.page
    copies = [
        {"part": "N", "read": [0, 3], "neighbour": [0, 3]},
        {"part": "F", "read": [3, 7], "neighbour": [6, 10]},
    ]
    lesson(
        "continuation",
        {
            "neighbour": list("abcd"),
            "continuation": list("ghijk"),
            "split": 5,
            "written": list("abcghijz"),
            "copies": copies,
            "title": ALL[0],
        },
    )
    assert (
        said(page)
        == "4 of the 8 tokens that were written stand in the continuation (F), in runs of three or more."
    )
    assert paints(page, ".learn-token") == [0] * 4 + [0, 0.35, 0.35, 0.35, 0.35] + [0] * 3 + [0.35] * 4 + [0]
    page.check("input[type=radio] >> nth=0")
    assert said(page).startswith("3 of the 8 tokens") and texts(page, ".learn-copied") == list("abc")
    assert page.locator(".learn-dim").count() == 1


def test_the_gain_lens_is_the_difference_of_two_surprises(lesson, blank):  # noqa: F811
    page = blank.page
    lps = [(-0.5, -2.5), (-1.0, -0.5), (-0.1, -0.102)]
    lesson(
        "gain",
        {
            "given": ["Given ", ALL[0]],
            "tokens": [{"text": f" w{n}", "lp_on": on, "lp_off": off} for n, (on, off) in enumerate(lps)],
        },
    )
    assert said(page, 0) == "Gain: +0.50 nats per token."
    assert said(page, 1) == "“w0”: 61 % with what was read, 8.2 % without. Gain +2.00 nats."
    assert paints(page, ".learn-token") == pytest.approx([0.65, -0.1625, 0], abs=0.004)
    page.check("input[type=radio] >> nth=0")
    assert said(page, 0).startswith("On: surprise 0.53 nats per token.")
    assert paints(page, ".learn-token") == pytest.approx([math.exp(on) / 2 for on, _ in lps], abs=0.004)
    page.check("input[type=radio] >> nth=1")
    assert said(page, 0).startswith("Off: surprise 1.03 nats per token.")
    assert paints(page, ".learn-token") == pytest.approx([math.exp(off) / 2 for _, off in lps], abs=0.004)
    page.click(".learn-token >> nth=2")
    assert said(page, 1).endswith("Gain ±0.00 nats.") and page.inner_text(".learn-place") == "3 of 3"


def test_the_influence_lens_takes_neighbours_away(lesson, blank):  # noqa: F811
    page = blank.page
    neighbours = [
        {"rank": 1, "title": "T", "share": 0.75, "influence": -0.5, "tokens": [-1, 0.0]},
        {"rank": 2, "title": ALL[0], "share": 0.25, "influence": 2.0, "tokens": [1.0, 3.0]},
    ]
    lesson("influence", {"written": [" a", " b"], "neighbours": neighbours})
    assert texts(page, ".learn-number") == ["75 %", "−0.50", "25 %", "+2.00"]
    assert page.eval_on_selector_all(".learn-track i", "(all) => all.map((one) => one.style.width)") == [
        "75%",
        "25%",
        "25%",
        "100%",
    ]
    assert said(page) == "All neighbours are read." and paints(page, ".learn-token") == [0, 0]
    page.check("input[type=radio] >> nth=2")
    assert "Without #2, which gets 25 % of the attention, the text changes by −2.00 nats per token." in said(
        page
    )
    assert paints(page, ".learn-token") == pytest.approx([0.325, 0.65], abs=0.002)
    page.check("input[type=radio] >> nth=1")
    assert paints(page, ".learn-token") == pytest.approx([-0.325, 0], abs=0.002) and "by +0.50 nats" in said(
        page
    )


def test_the_limits_and_windows_lenses_show_each_kind_and_each_chunk(lesson, blank):  # noqa: F811
    page = blank.page
    kinds = [
        {
            "text": ALL[0],
            "library": "lib",
            "documents": 27,
            "nats": {"on": 1.5, "off": 2.0, "random": 2.5},
            "worse": 0.4,
        },
        {
            "text": "news",
            "library": "lib",
            "documents": 3,
            "nats": {"on": 1.0, "off": 1.0, "random": 1.25},
            "worse": 0.5,
        },
    ]
    lesson("limits", {"kinds": kinds})
    assert texts(page, ".learn-number") == ["1.50", "2.00", "2.50"]
    assert page.eval_on_selector_all(".learn-track i", "(all) => all.map((one) => one.style.width)") == [
        "60%",
        "80%",
        "100%",
    ]
    better = "0.50 nats per token better, and yet 40 % of the tokens become less likely."
    assert said(page) == f"{ALL[0]}, read with lib: {better}"
    page.check("input[type=radio] >> nth=1")
    assert page.eval_on_selector_all(".learn-track i", "(all) => all.map((one) => one.style.width)") == [
        "40%",
        "40%",
        "50%",
    ]
    page.evaluate("document.querySelector('.main').replaceChildren()")
    chunks = [
        {"ask": [0, 4], "read": [4, 8], "found": ["T", ALL[1]]},
        {"ask": [4, 8], "read": [8, 10], "found": ["U"]},
    ]
    lesson("windows", {"size": 4, "pad": 1, "tokens": ["", *"bcdefghij"], "chunks": chunks})
    squares = "(all) => all.map((one) => one.className)"
    asking, reading = "learn-asking", "learn-reading"
    assert page.eval_on_selector_all(".learn-row i", squares) == [
        "learn-void",
        asking,
        asking,
        f"{asking} {reading}",
        reading,
        reading,
        reading,
        "",
        "",
        "",
    ]
    assert (
        said(page)
        == f"Chunk 1 asked and found T and {ALL[1]}. It is read from the last square of chunk 1 on."
    )
    assert (
        page.inner_text(".learn-asks") == "asks bcd"
        and page.inner_text(".learn-reads") == "reads, and so writes efgh"
    )
    page.focus("input[type=range]")
    page.keyboard.press("ArrowRight")
    assert (
        page.inner_text(".learn-reads") == "reads, and so writes ij"
        and page.inner_text(".learn-place") == "2 of 2"
    )
    assert texts(page, ".learn-row-name") == ["chunk 1", "chunk 2", "chunk 3"]


def test_the_glossary_is_filtered_while_one_types(blank):  # noqa: F811
    page = blank.page
    words = [
        ["chunk", "64 tokens of a text", "passage"],
        ["gain", "Off minus On, of a CHUNK too", ""],
        [ALL[0], ALL[1], ALL[2]],
    ]
    blank.put(Glossary(fetch_words=lambda *asked: {})).answer("words", {"words": words})
    page.wait_for_selector(".glossary dt")
    assert texts(page, ".glossary dt") == ["chunk", "gain", ALL[0]] and texts(page, ".glossary-not") == [
        " not: passage",
        f" not: {ALL[2]}",
    ]
    for typed, count, told in (
        ("", 3, "3 words"),
        (" Chunk ", 2, "2 words"),
        ("minus", 1, "1 word"),
        ("zzz", 0, "No word of the glossary has this in it."),
    ):
        page.fill("input[type=search]", typed)
        assert (
            page.locator(".glossary dt:visible").count() == count and page.inner_text("[role=status]") == told
        )


def test_snippets_name_this_page_and_can_be_copied(blank):  # noqa: F811
    page = blank.page
    code = "Client('http://127.0.0.1:7860/')\nget http://127.0.0.1:7860 <b>${x}"
    blank.put(Snippets(fetch_snippets=lambda *asked: {})).answer(
        "snippets", {"snippets": [{"title": ALL[0], "language": "python", "code": code}]}
    )
    page.wait_for_selector(".snippet")
    here = code.replace("http://127.0.0.1:7860", ORIGIN.rstrip("/"))
    assert page.text_content(".snippet code") == here and page.inner_text(".snippet h3") == ALL[0]
    page.focus(".snippet button")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.snippet button').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()").replace("\r", "") == here
    page.evaluate("void (navigator.clipboard.writeText = () => Promise.reject(new Error()))")
    page.click(".snippet button")
    page.wait_for_function("document.querySelector('.snippet button').textContent === 'Ctrl+C copies'")
    assert page.evaluate("getSelection().toString().replaceAll('\\r', '')") == here
    assert page.get_attribute(".snippet pre", "tabindex") == "0"
