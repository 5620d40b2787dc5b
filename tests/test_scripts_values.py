"""Functions of the page's scripts that need no component: tables of cases, counted again in Python."""

import base64
import math

import numpy as np
import pytest
from browsing import page_tests as pytestmark  # noqa: F401
from script_page import blank  # noqa: F401
from synthetic_trace import pack

from app import lens
from app.measure import _HERE as MEASURE
from app.scripts import script

SCRIPTS = ("elements.js", "lens/js/values.js")
FUNCTIONS = script(lens.VALUES)


@pytest.fixture
def call(blank):  # noqa: F811
    def run(name, *values, source=FUNCTIONS):
        body = "([source, name, values]) => Function(source + '; return ' + name)()(...values)"
        return blank.page.evaluate(body, [source, name, list(values)])

    def many(name, cases, source=FUNCTIONS):
        body = """([source, name, all]) => { const called = Function(source + '; return ' + name)();
          return all.map((one) => called(...one)); }"""
        given = [case[0] if isinstance(case[0], tuple) else (case[0],) for case in cases]
        assert blank.page.evaluate(body, [source, name, given]) == [case[1] for case in cases]

    run.many = many
    return run


def test_numbers_and_words_are_written_as_people_read_them(call):
    call.many(
        "percent",
        [
            (0, "0.0 %"),
            (0.0004, "< 0.1 %"),
            (0.001, "0.1 %"),
            (0.0945, "9.4 %"),
            (0.0994, "9.9 %"),
            (0.0996, "10 %"),
            (0.5, "50 %"),
            (0.999, "100 %"),
            (1, "100 %"),
        ],
    )
    call.many(
        "signed", [(1.9, "+1.90"), (-1.904, "−1.90"), (0, "+0.00"), (-0.004, "+0.00"), (-0.006, "−0.01")]
    )
    call.many("difference", [(0.004, "±0.00"), (-0.0049, "±0.00"), (0.006, "+0.01"), (-2, "−2.00")])
    call.many(
        "verdict",
        [
            (0.11, "retrieval helped"),
            (0.1, "little difference"),
            (-0.1, "little difference"),
            (-0.2, "retrieval hurt"),
        ],
    )
    call.many("known", [(0, True), (None, False), ("1", False), (math.inf, False), (math.nan, False)])
    call.many(
        "farText",
        [
            (None, ""),
            (0.949, ""),
            (0.96, "farther than 96 % of this datastore's own chunks are from their nearest neighbour"),
            (1, "farther than 99 % of this datastore's own chunks are from their nearest neighbour"),
        ],
    )
    call.many(
        "effectText",
        [
            (({"perToken": 0.004, "total": 0.2},), "hardly changes"),
            (({"perToken": -1.95, "total": -62.3},), "loses 1.95 nats per token (62.3 in all)"),
            (({"perToken": 0.5, "total": 3},), "gains 0.50 nats per token (3.0 in all)"),
        ],
    )
    call.many(
        "wishText",
        [
            (({"kind": "mute", "rank": 1, "chunk": 1},), "#1 of chunk 2 muted"),
            (({"kind": "edit", "rank": 2, "chunk": 0},), "#2 of chunk 1 edited"),
            (({"kind": "paste", "rank": 2, "chunk": 0},), "your text as #2 of chunk 1"),
            (
                ({"kind": "swap", "rank": 2, "chunk": 0, "other_rank": 1, "other_chunk": 0},),
                "#2 of chunk 1 swapped with #1",
            ),
            (
                ({"kind": "swap", "rank": 2, "chunk": 0, "other_rank": 1, "other_chunk": 3},),
                "#2 of chunk 1 swapped with #1 of chunk 4",
            ),
        ],
    )
    call.many(
        "withoutIt",
        [
            (({"own": 0.31, "downstream": None},), "without it −0.31 nats per token here"),
            (({"own": -0.2, "downstream": 0.001},), "without it +0.20 nats per token here, ±0.00 later"),
        ],
    )


def test_nothing_in_a_text_is_hidden_and_nothing_is_lost(call):
    hidden = [*range(0, 9), *range(0x0B, 0x20), *range(0x7F, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F),
              *range(0x2066, 0x206A), 0xFEFF]  # fmt: skip
    call.many("display", [(chr(code), f"⟨U+{code:04X}⟩") for code in hidden])
    plain = "tab\tline\n“–” ü 東京 👩‍👩‍👧 <b>&amp; \\ ${x} {{y}}"
    assert call("display", plain) == plain
    call.many("displayToken", [("a\nb", "a↵\nb"), ("\u202e", "⟨U+202E⟩"), ("", "")])
    call.many(
        "displayWord",
        [
            (" the", "the"), ("\n", "↵"), ("", "(part of a character)"), ("   ", "(space)"),
            ("x" * 28, "x" * 28), ("x" * 29, "x" * 27 + "…"),
        ],
    )  # fmt: skip
    call.many(
        "shorten",
        [
            (("short  one\n", 20), "short one"),
            (("the words before and the end", 12), "… and the end"),
        ],
    )


def test_a_map_is_unpacked_to_the_weights_that_were_packed(call):
    random = np.random.default_rng(3)
    weights = random.random((5, 7)) / 7
    packed = pack(weights)
    body = """(packed) => { const m = unpack(packed); return { ...m, weights: [...m.weights],
      rowMax: [...m.rowMax], columnMean: [...m.columnMean], some: m.at(2, 3) }; }"""
    found = call(f"({body})", packed)
    # Counted from what travels, which is rounded to 255 steps of the largest.
    data = np.frombuffer(base64.b64decode(packed["data"]), np.uint8).reshape(5, 7) / 255 * packed["scale"]
    assert np.abs(data - weights).max() <= packed["scale"] / 255
    assert found["rows"] == 5 and found["cols"] == 7
    np.testing.assert_allclose(np.reshape(found["weights"], (5, 7)), data, atol=1e-7)
    np.testing.assert_allclose(found["rowMax"], data.max(1), atol=1e-7)
    np.testing.assert_allclose(found["columnMean"], data.mean(0), atol=1e-7)
    assert found["max"] == pytest.approx(data.max()) and found["meanMax"] == pytest.approx(data.mean(0).max())
    assert found["some"] == pytest.approx(data[2, 3])
    for nothing in (None, {}, {"rows": 1, "cols": 1, "data": ""}):
        assert call("unpack", nothing) is None
    # Means of heads, columns left out, and where everybody looks.
    both = call(
        "((a, b) => [...meanMap([unpack(a), unpack(b)]).weights])", packed, pack(weights[::-1].copy())
    )
    np.testing.assert_allclose(
        np.reshape(both, (5, 7)), (weights + weights[::-1]) / 2, atol=1.1 * packed["scale"] / 255
    )
    left = call("((a) => [...maskMap(unpack(a), new Set([1, 6])).weights])", packed)
    expected = data.copy()
    expected[:, [1, 6]] = 0
    np.testing.assert_allclose(np.reshape(left, (5, 7)), expected, atol=1e-7)
    sink = np.full((10, 8), 0.05)
    sink[:8, 2] = 0.65  # eight of ten tokens
    sink[:7, 4] = 0.65  # seven are too few
    sink[:, 7] = 0  # padding is no column
    assert call("((a) => sinkColumns(unpack(a)))", pack(sink)) == [2]
    assert call("((a) => sinkColumns(unpack(a)))", pack(sink[:3])) == []  # three tokens say nothing


def test_paint_grows_with_the_weight_and_says_nothing_of_nothing(call):
    cases = [(0, 1), (-1, 1), (1, 0), (math.nan, 1), (0.1, 1), (0.5, 1), (1, 1), (3, 1), (0.001, 0.01)]
    expected = [
        round(min(1, (value / full) ** 0.7) * 32) / 32 if value > 0 and full > 0 else 0
        for value, full in cases
    ]
    call.many("strength", list(zip(cases, expected, strict=True)))


def test_leaving_a_neighbour_out_takes_its_effect_from_each_token_that_read_it(call):
    tokens = [
        {"text": str(i), "lp_on": -float(i + 1), "lp_off": -9.0, "alts_on": [["x", -1]], "write": [1]}
        for i in range(6)
    ]
    tokens[4]["lp_on"] = None
    cards = [
        {
            "rank": rank,
            "changed": None,
            "share": 0.5,
            "copied": 0.1,
            "influence": {"own": rank / 10, "downstream": None, "tokens": [0.5 * rank, -1.0, 2.0]},
        }
        for rank in (1, 2)
    ]
    trace = {
        "tokens": tokens,
        "chunks": [{"index": 0, "read": [2, 5], "gain": 0.7, "overlap": 0.3, "neighbours": cards}],
    }
    found = call("withoutNeighbour", trace, 0, 1)
    assert [token["lp_on"] for token in found["tokens"]] == [-1, -2, -4, -3, None, -6]
    assert found["chunks"][0]["gain"] == pytest.approx(0.5)
    assert [card["changed"] for card in found["chunks"][0]["neighbours"]] == [None, "muted"]
    assert all(card["influence"] is None for card in found["chunks"][0]["neighbours"])
    assert trace["tokens"][2]["lp_on"] == -3 and found["tokens"][2]["alts_on"] == []
    for nothing in ((0, 2), (1, 0)):
        assert call("withoutNeighbour", trace, *nothing) is None
    done = call("effects", found, [token["lp_on"] for token in tokens])
    assert done == [{"chunk": 0, "tokens": 2, "perToken": 0, "total": 0}]
    assert call("effects", trace, [token["lp_on"] for token in tokens]) == []


def test_attention_and_influence_disagree_only_beyond_rounding(call):
    def cards(*pairs):
        return [
            {"rank": i + 1, "share": share, "influence": own if own is None else {"own": own}}
            for i, (share, own) in enumerate(pairs)
        ]

    call.many(
        "disagreement",
        [
            ((cards((0.6, 0.1), (0.4, 0.5)), 0), "more attention than #2, but less influence"),
            ((cards((0.6, 0.1), (0.4, 0.5)), 1), "less attention than #1, but more influence"),
            ((cards((0.6, 0.5), (0.4, 0.1)), 0), ""),
            ((cards((0.51, 0.1), (0.49, 0.12)), 0), ""),
            ((cards((0.6, None), (0.4, 0.5)), 0), ""),
            ((cards((None, 0.1), (0.4, 0.5)), 1), ""),
        ],
    )


def test_ticks_are_round_and_inside(call):
    charts = script(lens.VALUES, MEASURE / "charts.js")
    for given, expected in (
        ((0, 1, 5), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        ((0, 10, 4), [0, 2.5, 5, 7.5, 10]),
        ((-1, 1, 2), [-1, 0, 1]),
    ):
        assert call("ticksOf", *given, source=charts) == pytest.approx(expected)
    for low, high, count in ((0.013, 0.0179, 5), (3, 12345, 6), (-7.7, 0.2, 3)):
        found = call("ticksOf", low, high, count, source=charts)
        assert 1 <= len(found) <= count + 1 and all(
            low - 1e-9 <= at <= high + 1e-6 * (high - low) for at in found
        )
    assert call("ticksOf", 2, 2, 5, source=charts)[:1] in ([2], [])  # one value only: no endless loop
    call.many("short", [(1234.5, "1,235"), (0.12345, "0.123"), (-2, "−2"), (0, "0")], source=charts)
