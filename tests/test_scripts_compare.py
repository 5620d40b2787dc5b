"""What Compare draws: texts side by side, and one text under several readings."""

import math
import re

import pytest
from browsing import page_tests as pytestmark  # noqa: F401
from hostile_texts import ALL
from script_page import blank, texts  # noqa: F401

from app.compare import SameText, SideBySide

SCRIPTS = ("compare/side_by_side.js", "compare/same_text.js")


def drawn(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def card(rank, **more):
    return {"rank": rank, "title": f"T{rank}", "closeness": 0.9, "n": [["found ", ""], ["12", "said copied"]],
            "f": [[" and on", "copied"]], **more}  # fmt: skip


def column(source="factbook", **more):
    return {
        "source": source,
        "by": "by meaning",
        "stage": "64 tokens.",
        "lookups": [{"chunk": 1, "neighbours": [card(1)]}],
        "text": [["The lamp ", "shared"], ["is 12", "said copied"], [" m\n", "__proto__ constructor"]],
        **more,
    }


def side_by_side(*columns, **more):
    return {
        "id": "x",
        "title": "T",
        "note": "Texts differ.",
        "busy": False,
        "headline": [["Same model: ", False], ["12\nm", True]],
        "verdict": "It stands.",
        "given": "Given <b>\n",
        "columns": list(columns),
        "news": 1,
        **more,
    }


def test_texts_stand_beside_what_they_read_and_show_where_they_part(blank):  # noqa: F811
    page = blank.page
    part = blank.put(SideBySide())
    assert "Nothing to show yet" in page.inner_text(".compare-empty")
    many = [{"chunk": 1, "neighbours": [card(n) for n in range(1, 6)]}, {"chunk": 2, "neighbours": []}]
    other = column("", by="", text=[["The lamp ", "shared"], [ALL[0], ""]], lookups=[])
    part.give(side_by_side(column(lookups=many), other))
    drawn(page)
    assert texts(page, ".compare-column h4") == ["factbooklooked into by meaning", "no retrievalRetro[Off]"]
    spans = page.eval_on_selector_all(
        ".compare-text >> nth=0 >> span", "(all) => all.map((one) => [one.textContent, one.className])"
    )
    assert spans == [
        ["Given <b>↵\n", "compare-given"],
        ["The lamp ", "compare-shared"],
        ["texts part here", "compare-mark compare-parts"],
        ["is 12", "compare-said compare-copied"],
        [" m↵\n", ""],
    ]
    assert texts(page, ".compare-text >> nth=1")[0].endswith(ALL[0])
    assert (
        page.inner_text(".compare-headline strong") == "12 ↵ m"
        and page.inner_text(".compare-verdict") == "It stands."
    )
    read = page.locator(".compare-read").nth(0)
    assert read.locator(".compare-rank").all_text_contents() == ["#1", "#2", "#3", "#4", "#5"]
    assert (
        read.locator("summary").all_text_contents() == ["2 more"]
        and "Nothing was found." in read.inner_text()
    )
    assert read.locator("h5").all_text_contents() == ["What it read", "Lookup 1", "Lookup 2"]
    assert read.locator(".compare-passage").nth(0).text_content() == "found 12continues ▸ and on"
    assert read.locator(".compare-close").nth(0).inner_text() == "closeness 0.90"
    assert read.get_attribute("aria-label") == "What it read, factbook"
    read.focus()
    assert page.evaluate("document.activeElement.className") == "compare-read"
    # While it is written, a caret; nothing moves for who asks for rest.
    part.give(
        side_by_side(
            column(
                stage="12 of 64 tokens",
                text=[],
                lookups=[{"chunk": 1, "neighbours": [card(1, closeness=None, f=[])]}],
            ),
            column(stage="64 tokens."),
            busy=True,
            headline=[],
            verdict="",
        )
    )
    drawn(page)
    assert page.locator(".compare-caret").count() == 1 and page.locator(".compare-close").count() == 1
    assert "Writing" in page.inner_text(".compare-top")
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate("document.getAnimations().filter((one) => one.playState === 'running').length") == 0
    for value in (None, {"columns": 3}, "words", side_by_side(headline=[])):
        part.give(value)
        drawn(page)
        assert page.locator(".compare-column").count() == 0 and page.text_content(".side-by-side")


TOKENS = ["The", " lamp", " is", " lit", "\n", ALL[1], " end"]
NATS = {
    "Off": [2, 3, 1, 4, 0.1, 5, 1],
    "dense": [2, 1, 1.2, 4.6, 0.1, 1, 1.4],
    "BM25": [1, 3, 1, 4, 0.1, 2, 1],
}
READ = {"Off": [[], []], "dense": [["a", "b"], ["b"]], "BM25": [["b"], ["c"]]}


def setting(of, group=0, less=None, **more):
    nats = NATS[of]
    return {
        "name": of,
        "group": group,
        "bpb": sum(nats) / 20,
        "ci95": [sum(nats) / 20 - 0.1, sum(nats) / 20 + 0.2],
        "perplexity": math.exp(sum(nats) / 7),
        "perplexity_ci95": None,
        "less": less,
        "nats": nats,
        "read": READ[of],
        **more,
    }


def same_text(*settings, **more):
    group = {"tokens": TOKENS, "windows": [0] * 7, "by": "m"}
    neighbours = {key: {"title": f"T {key} <b>", "text": f"text {key}\u202e", "source": key} for key in "abc"}
    return {
        "id": "x",
        "title": "T",
        "busy": False,
        "headline": "dense is best",
        "beginning": "At first",
        "notes": ["a note"],
        "settings": list(settings),
        "groups": [group],
        "neighbours": neighbours,
        "news": {},
        **more,
    }


def test_one_text_is_compared_bar_by_bar_and_token_by_token(blank):  # noqa: F811
    page = blank.page
    part = blank.put(SameText())
    assert "Nothing to show yet" in page.inner_text(".compare-empty")
    less = {"value": -0.21, "ci95": [-0.4, -0.05]}
    all_three = [
        setting("Off"),
        setting("dense", less=less),
        setting("BM25", less={"value": -0.2, "ci95": None}),
    ]
    part.give(same_text(*all_three))
    drawn(page)
    largest = max(one["ci95"][1] for one in all_three) * 1.04
    bars = page.eval_on_selector_all(
        ".same-bar",
        "(all) => all.map((one) => [...one.children].map((part) => [parseFloat(part.style.width), "
        "parseFloat(part.style.left) || 0]))",
    )
    for (fill, whisker), one in zip(bars, all_three, strict=True):
        assert fill[0] == pytest.approx(100 * one["bpb"] / largest, abs=0.01)
        low, high = one["ci95"]
        assert whisker == pytest.approx([100 * (high - low) / largest, 100 * low / largest], abs=0.01)
    numbers = texts(page, ".same-numbers")
    assert numbers == [f"{o['bpb']:.2f} ({o['ci95'][0]:.2f} to {o['ci95'][1]:.2f})" for o in all_three]
    assert "−0.21 (−0.40 to −0.05)" in texts(page, ".same-more")[1]
    assert f"perplexity {all_three[0]['perplexity']:.2f}" in texts(page, ".same-more")[0]
    # The first, and the one that expected the text best.
    assert page.eval_on_selector_all(".same-pair select", "(all) => all.map((one) => one.value)") == [
        "0",
        "1",
    ]

    def painted():
        return page.eval_on_selector_all(
            ".same-token", "(all) => all.map((one) => [one.textContent, one.style.backgroundColor])"
        )

    def expected(left, right):
        found = []
        for text, a, b in zip(TOKENS, NATS[left], NATS[right], strict=True):
            opacity = min(1, abs(a - b) / 3) * 0.5 + 0.15
            ink = "214, 121, 24" if a > b else "37, 99, 235"
            found.append(
                [text.replace("\n", "↵\n"), f"rgba({ink}, {opacity:.2f})" if abs(a - b) > 0.5 else ""]
            )
        return found

    def same(found, wanted):
        return [
            [t, re.sub(r"0?\.(\d+)\)", lambda m: f"{float('0.' + m[1]):.2f})", c)] for t, c in found
        ] == wanted

    assert same(painted(), expected("Off", "dense"))
    assert page.inner_text(".same-tip").startswith("2 tokens are likelier under dense, 1 under Off")
    page.hover(".same-token >> nth=1")
    assert page.inner_text(".same-tip") == "“lamp” 5.0 % under Off, 37 % under dense: +2.00 nats"
    page.focus(".same-tokens")
    for key, token in (
        ("ArrowRight", "lamp"),
        ("ArrowRight", "lit"),
        ("ArrowRight", None),
        ("ArrowRight", None),
        ("ArrowLeft", "lit"),
    ):
        page.keyboard.press(key)
        if token:
            assert page.inner_text(".same-tip").startswith(f"“{token}”")
    page.keyboard.press("Escape")
    assert "tokens are likelier" in page.inner_text(".same-tip")
    page.click("details summary")
    page.wait_for_selector("details tbody tr")
    rows = page.eval_on_selector_all(
        "details tbody tr", "(rows) => rows.map((row) => [...row.children].map((cell) => cell.textContent))"
    )
    assert rows[0] == ["2", "lamp", "5.0 %", "37 %", "+2.00"] and len(rows) == 3
    lists = texts(page, ".same-neighbours section h5")
    assert "Only dense · 2" in lists and not any("Only Off · " in one and "· 0" not in one for one in lists)
    # Another pair: kept while numbers come, and where the keyboard is.
    page.select_option(".same-pair select >> nth=0", "1")
    page.select_option(".same-pair select >> nth=1", "2")
    assert same(painted(), expected("dense", "BM25"))
    assert page.evaluate("document.activeElement.dataset.key") == "right"
    lists = dict(one.split(" · ") for one in texts(page, ".same-neighbours section h5"))
    assert lists == {"In common": "1", "Only dense": "1", "Only BM25": "1"}
    common = page.locator(".same-neighbours section").nth(0)
    assert (
        "T b <b>" in common.inner_text()
        and "read by window 1, 2" in common.inner_text()
        and "text b⟨U+202E⟩" in common.inner_text()
    )
    part.give(same_text(*all_three, notes=["more came"]))
    drawn(page)
    assert page.eval_on_selector_all(".same-pair select", "(all) => all.map((one) => one.value)") == [
        "1",
        "2",
    ]
    part.give(same_text(*all_three, id="another"))
    drawn(page)
    assert page.eval_on_selector_all(".same-pair select", "(all) => all.map((one) => one.value)") == [
        "0",
        "1",
    ]


def test_what_cannot_be_compared_is_said(blank):  # noqa: F811
    page = blank.page
    part = blank.put(SameText())
    group = {"tokens": TOKENS, "windows": [0] * 7, "by": "m"}
    for value, words in (
        ({"busy": True, "settings": []}, "Reading…"),
        ({"settings": 3}, "Nothing to show yet"),
        ("words", "Nothing to show yet"),
        (
            same_text(setting("Off", ci95=None), headline="", title=""),
            "How well the model expected this text",
        ),
        (
            same_text(setting("Off"), setting("dense", 1), groups=[group, group]),
            "These two cut the text into other tokens",
        ),
        (same_text(setting("Off", name=ALL[0]), setting("Off", name=ALL[1])), ALL[0]),
        (None, "Nothing to show yet"),
    ):
        part.give(value)
        drawn(page)
        assert words in page.text_content(".same-text"), words
