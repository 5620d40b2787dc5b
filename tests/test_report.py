"""A report says what the numbers say, shows anybody's text as text, and needs nothing but itself."""

import copy
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from indexing.errors import InputError
from retro_core.evaluation import figures
from retro_core.evaluation.layout import Items, Paragraph, Table, to_html, to_markdown
from retro_core.evaluation.report import (
    comparison,
    report,
    write_comparison,
    write_report,
)
from retro_core.evaluation.result import load_result
from retro_core.evaluation.verdicts import copying, helps, in_short

EVIL = [
    "<script>window.__pwned=1</script>",
    "<img src=x onerror=window.__pwned=1>",
    '"><svg onload=window.__pwned=1>',
    "$\\frac{1}{2}$ ${globalThis.__pwned=1} {{constructor}}",
    "[link](javascript:window.__pwned=1) ![](http://evil.example/x.png) `code` | cell",
    "\u202eright to left\x00\x0b end",
    "</title><style>*{display:none}</style>",
    "x" * 5000,
]


def gain(change: float, spread: float = 0.02, off: float = 2.0) -> dict:
    from math import exp

    ends = [change - spread, change + spread]
    return {
        "nats": off + change, "ci95": [off + ends[0], off + ends[1]], "bpb": 0.9 + change / 3,
        "perplexity": exp(off + change), "minus_off": change, "minus_off_ci95": ends, "ratio": exp(change),
        "ratio_ci95": [exp(end) for end in ends], "worse": 0.3,
    }  # fmt: skip


def probe(on: float = -0.3, random: float = 0.001, left: float = 0.9, title: str = "a page") -> dict:
    """left: share of the gain in bits per byte over the chunks that share nothing"""
    found = {"on": gain(on), "off": gain(0.0), "random": gain(random)}
    alphas = [eighth / 8 for eighth in range(1, 9)]
    bins = [
        {"low": x / 8, "high": (x + 1) / 8, "items": 9 - x, "weight": 60.0, "x": x / 8, "mean": 0.1 * x,
         "ci95": [0.1 * x - 0.05, 0.1 * x + 0.05]} for x in range(8)
    ]  # fmt: skip
    relation = {"chunks": 44, "bins": bins, "spearman": 0.5, "spearman_ci95": [0.4, 0.6], "pearson": 0.4,
                "pearson_ci95": [0.3, 0.5]}  # fmt: skip
    compared = {"gain": gain(-0.1), "on_minus_this": -0.2, "on_minus_this_ci95": [-0.3, -0.1],
                "share_of_gain": 0.3, "share_of_gain_ci95": [0.2, 0.4], "read_per_token": 6.0}  # fmt: skip
    size = {"seed": 0, "documents": 7, "chunks": 70}
    return {
        "documents": 11, "tokens": 1300, "bytes": 5000, "worse": 0.31,
        "readings": {n: {k: g[k] for k in ("nats", "ci95", "bpb", "perplexity")} for n, g in found.items()},
        "differences": {
            f"{n}-off": {"nats": g["minus_off"], "ci95": g["minus_off_ci95"], "ratio": g["ratio"],
                         "ratio_ci95": g["ratio_ci95"]} for n, g in found.items() if n != "off"
        },
        "per_document": [
            {"document": i, "title": f"{title} {i}", "tokens": 99, "bytes": 400,
             "bits": {"on": 140.0 + 10 * i, "off": 200.0}, "gain": 60.0 - 10 * i} for i in range(11)
        ],
        "leakage": [
            {"alpha": a, "chunks": int(100 * a) + 60, "bytes": 900,
             "bpb": {"off": 1.0, "on": 1.0 - 0.2 * (left + (1 - left) * (a - 0.125) / 0.875)},
             "ci95": {"on": [0.7, 0.9], "off": [0.9, 1.1]}} for a in alphas
        ],
        "relations": {"overlap": relation, "distance": relation},
        "sweeps": {
            "k": [{"num_neighbours": k, "gain": gain(-0.1 * k)} for k in (1, 2, 3)],
            "size": [{**size, "share": s, "gain": gain(-s)} for s in (0.1, 0.1, 1.0)],
            "nprobe": [{"nprobe": p, "lists": 8, "recall": p / 8, "gain": gain(-0.1)} for p in (1, 8)],
        },
        "comparators": {
            "documents": 4, "tokens": 500, "off": gain(0.0), "on": gain(-0.3),
            "copying": {"compared": compared}, "knn_lm": {"compared": compared}, "in_context": None,
        },
        "skipped": {"oracle": "nothing to search"},
    }  # fmt: skip


def estimate(value: float) -> dict:
    return {"value": value, "ci95": [value - 0.05, value + 0.05]}


def swap(text: str = "Population: 5") -> dict:
    def of(reading: str) -> dict:
        own = reading != "off"
        return {
            "reading": reading, "own": estimate(0.6) if own else None, "other": estimate(0.1),
            "neither": estimate(0.3), "says": {"old": estimate(0.2), "new": estimate(0.6)},
            "reachable": estimate(0.9) if own else None,
        }  # fmt: skip

    return {
        "count": 210, "countries": 28, "swaps": estimate(0.61), "swaps_reachable": estimate(0.7),
        "prefers": estimate(0.8), "readings": [of("old"), of("new"), of("off")],
        "fields": [{"field": text, "count": 3, "swaps": 0.5}],
        "examples": [{"id": "1", "prompt": text, "answers": {}, "texts": {"old": text}, "said": {}}],
    }  # fmt: skip


def result(**probes: dict) -> dict:
    return {
        "format": "retro-evaluation", "version": 1, "created": "2026-11-22T07:00:00Z",
        "model": {"name": "tiny", "fingerprint": "ab" * 32, "parameters": 7}, "command": "python -m x",
        "settings": {"num_neighbours": 2, "max_len": 512, "stride": 0}, "probes": probes, "questions": {},
        "swap": None,
    }  # fmt: skip


@pytest.mark.parametrize("found, verdict", [
    (probe(-0.3), "helps"), (probe(-0.01), "unclear"), (probe(0.3), "hurts"),
])  # fmt: skip
def test_the_first_sentence_follows_from_the_interval(found, verdict):
    assert helps(found) == verdict
    said = in_short(result(held=found))[0]
    words = {
        "helps": "Retrieval helps on held (perplexity 0.74 of that without [0.73, 0.76])",
        "unclear": "no difference can be told",
        "hurts": "Retrieval hurts on held",
    }
    assert words[verdict] in said


def test_a_sure_gain_of_a_percent_is_small():
    found = probe()
    found["differences"]["on-off"] |= {"nats": -0.01, "ci95": [-0.012, -0.008], "ratio": 0.99}
    assert helps(found) == "hardly" and "sure but small" in in_short(result(a=probe(), held=found))[0]


@pytest.mark.parametrize("left, verdict", [(0.1, "mostly"), (0.5, "partly"), (0.9, "little")])
def test_copying_is_told_by_what_is_left_without_it(left, verdict):
    assert copying(probe(left=left)) == verdict
    few = probe(left=left)
    few["leakage"][0]["chunks"] = 3
    assert copying(few) is None, "three chunks say nothing"


def test_irrelevant_neighbours_that_hurt_are_told():
    harmless, harmful = in_short(result(held=probe())), in_short(result(held=probe(random=0.05)))
    assert any("do no harm" in s for s in harmless) and any("worse on held (+5.1%)" in s for s in harmful)


class Seen(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_data(self, data):
        self.texts.append(data)


def test_anybodys_text_is_shown_as_text(tmp_path):
    evil = " ".join(EVIL)
    hostile = result(**{evil: probe()})
    for row, text in zip(hostile["probes"][evil]["per_document"], EVIL, strict=False):
        row["title"] = text
    hostile["swap"], hostile["command"] = swap(EVIL[0]), f"{evil}\n```\n{EVIL[1]}"
    hostile["model"]["name"] = evil
    files = write_report(hostile, tmp_path)
    seen = Seen()
    seen.feed(files[-1].read_text(encoding="utf-8"))
    assert not {"script", "img", "iframe", "object", "link", "base"} & set(seen.tags)
    assert not [a for a in seen.attributes if a[1].startswith("on") or "javascript:" in str(a[2])]
    outside = [a for a in seen.attributes if a[1] in ("src", "href", "xlink:href") and a[2][0] != "#"]
    assert not outside, "it needs nothing from elsewhere"
    for drawing in tmp_path.glob("figures/*.svg"):
        tags = {element.tag.split("}")[1] for element in ET.parse(drawing).iter()}  # it is valid XML
        assert not {"script", "image", "foreignObject", "a"} & tags
    assert all(text[:12].replace("\u202e", "\ufffd") in "".join(seen.texts) for text in EVIL), (
        "nothing is lost"
    )
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    bare = re.sub(r"(?ms)^(`{3,})\n.*?^\1$|</?(?:details|summary)>", "", markdown)
    assert not re.search(r"<[a-zA-Z/!]", bare), "no tag survives"
    links = re.findall(r"(?<!\\)\]\(([^)]*)\)", bare)
    assert links and all(link.startswith("figures/") for link in links)


def test_the_same_result_gives_the_same_bytes(tmp_path):
    keys = ("documents", "tokens", "readings", "differences", "leakage", "relations")
    found = result(held={key: probe()[key] for key in keys})
    one, other = (write_report(found, tmp_path / name) for name in "ab")
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in other] and len(one) == 7
    assert all(p.stat().st_size < 60_000 for p in one if p.suffix == ".svg")


def test_figures_say_what_they_show_and_have_colours_for_dark_paper():
    drawn = figures.intervals("a < b", [figures.Point("$x$", -0.1, -0.2, 0.0)], "nats", 0.0)
    root = ET.fromstring(drawn)
    texts = ["".join(e.itertext()) for e in root.iter() if e.tag.endswith(("}text", "}title"))]
    assert texts[0] == "a < b" and "$x$" in texts and "nats" in texts
    assert "prefers-color-scheme: dark" in drawn and 'role="img"' in drawn
    for light in (figures.INK, figures.FAINT):
        assert f"stroke: {light}" in drawn or f"fill: {light}" in drawn, "the rules for dark find something"


def test_every_part_has_its_picture_and_its_numbers(tmp_path):
    found = result(**{"held out": probe()})
    found["swap"] = swap()
    write_report(found, tmp_path)
    names = {path.stem for path in tmp_path.glob("figures/*.svg")}
    expected = ("readings", "leakage", "gain-overlap", "gain-distance", "sweep-k", "sweep-size",
                "sweep-nprobe", "documents", "comparators")  # fmt: skip
    assert names == {"overview", "swap", *(f"held-out-{name}" for name in expected)}
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert all(f"figures/{name}.svg" in markdown for name in names)
    assert "oracle: nothing to search" in markdown and "61% \\[56%, 66%\\]" in markdown


def test_what_was_not_measured_is_not_in_the_report():
    bare = {key: probe()[key] for key in ("documents", "tokens", "readings", "differences")}
    parts = report(result(held=bare))
    assert not [part for part in parts if "leak" in getattr(part, "name", "")]
    assert report(result()) and "Nothing was measured" in in_short(result())[0]
    swept = {key: probe()[key] for key in ("documents", "tokens", "sweeps")}
    assert "were not compared" in in_short(result(held=swept))[0]


def test_two_results_side_by_side(tmp_path):
    other = result(held=probe(-0.1), more=probe())
    other["model"]["name"] = "other"
    write_comparison([result(held=probe()), other], tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| tiny |" in text and "| other |" in text and (tmp_path / "figures/held-models.svg").is_file()
    assert "0.741" in text and "0.905" in text
    fewer = copy.deepcopy(other)
    fewer["probes"]["held"]["documents"] = 5
    said = [p.text for p in comparison([result(held=probe()), fewer]) if isinstance(p, Paragraph)]
    assert any("Not all of these were measured on the same documents" in text for text in said)
    with pytest.raises(InputError, match="two results or more"):
        comparison([other])


def test_files_that_are_no_result_are_told(tmp_path):
    (tmp_path / "evaluation.json").write_text(json.dumps({"probes": {}}))
    with pytest.raises(InputError, match="Expected .* to be a retro-evaluation of version 1"):
        load_result(tmp_path)
    with pytest.raises(InputError, match="There is no result to read in"):
        load_result(tmp_path / "absent")
    (tmp_path / "evaluation.json").write_text(json.dumps(result()))
    assert load_result(tmp_path) == result()


def test_numbers_stand_on_the_right_and_cells_stay_cells():
    table = Table(["a", "b"], [["x|y", "+0.5"], ["z", "–"]])
    assert to_markdown([table]).splitlines()[1:3] == ["| --- | ---: |", "| x\\|y | +0.5 |"]
    assert "<td class='right'>+0.5</td>" in to_html([table, Items(["i"])], "t")
