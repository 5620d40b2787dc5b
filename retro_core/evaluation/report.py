"""A result of `measure` as something to read: Markdown with figures, and one HTML file.

    write_report(result, folder)     report.md, figures/*.svg, report.html
    write_comparison(results, folder)  two results or more side by side

What is not in a result is not in its report. Words like "helps" and "mostly copying" follow from the numbers
by the thresholds below, which are in no other place.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from indexing import paths
from indexing.errors import InputError
from indexing.files import write_bytes
from retro_core.evaluation import figures
from retro_core.evaluation.figures import Point
from retro_core.evaluation.layout import (
    Command,
    Folded,
    Heading,
    Items,
    Paragraph,
    Part,
    Picture,
    Table,
    pictures,
    to_html,
    to_markdown,
)
from retro_core.evaluation.result import FORMAT, HTML_FILE, RESULT_FILE, VERSION

MARKDOWN_FILE, FIGURES_DIR = "report.md", "figures"

# A perplexity ratio On / Off from which on the gain is too small to speak of, even where it is sure.
HARDLY = 0.98
# Neighbours drawn at random may change the perplexity by this share before they count as a harm.
HARMLESS = 0.01
# What is left of the gain, in bits per byte, over the chunks that share at most this much with a neighbour …
NO_LEAKAGE = 0.125
# … below which shares of the whole gain it is called mostly, or partly, copying.
MOSTLY_COPYING, PARTLY_COPYING = 0.25, 0.75
# Fewer chunks or documents than these are too few to say anything about.
FEW_CHUNKS, FEW_DOCUMENTS = 50, 8

LABELS = {
    "on": "On",
    "off": "Off",
    "random": "random neighbours",
    "shuffled": "neighbours of other chunks",
    "bm25": "BM25's neighbours",
    "n_only": "without continuations (N only)",
    "f_only": "continuations alone (F only)",
    "oracle": "best possible neighbours",
    "in_context": "neighbour before the text",
    "knn_lm": "kNN-LM",
    "copying": "Off + copying words",
}
_MOST_ROWS = 40  # of a table of documents


def load_result(path: Path) -> dict[str, Any]:
    """A result, from its folder or its file. Raises InputError if there is none, or it is of another kind."""
    path = Path(path)
    file = path / RESULT_FILE if path.is_dir() else path
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"There is no result to read in {file}: {error}. Make one with `python -m retro_core evaluate "
            "… --out DIR`."
        ) from error
    if not isinstance(result, dict) or result.get("format") != FORMAT or result.get("version") != VERSION:
        raise InputError(
            f"Expected {file} to be a {FORMAT} of version {VERSION}. Evaluate again to make one."
        )
    return result


def write_report(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write report.md, its figures and report.html; the files, the HTML last. The same result gives the same
    bytes."""
    return _write(report(result), _title(result), folder)


def write_comparison(results: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """The same, of several results side by side."""
    return _write(comparison(results), "Models side by side", folder)


def _write(parts: Sequence[Part], title: str, folder: Path) -> list[Path]:
    drawn = {folder / FIGURES_DIR / f"{picture.name}.svg": picture.svg for picture in pictures(parts)}
    files = {
        **drawn,
        folder / MARKDOWN_FILE: to_markdown(parts, FIGURES_DIR),
        folder / HTML_FILE: to_html(parts, title),
    }
    for path, text in files.items():
        write_bytes(path, text.encode("utf-8", errors="replace"))
    return list(files)


def _title(result: Mapping[str, Any]) -> str:
    return f"Does retrieval help {result['model'].get('name') or 'this model'}?"


def report(result: Mapping[str, Any]) -> list[Part]:
    probes: Mapping[str, Any] = result["probes"]
    parts: list[Part] = [Heading(1, _title(result))]
    parts += [Paragraph(sentence, strong=not number) for number, sentence in enumerate(in_short(result))]
    parts += _overview(probes)
    parts += _swap(result.get("swap"))
    parts += _questions(result.get("questions") or {})
    for stem, (name, probe) in zip(_stems(list(probes)), probes.items(), strict=True):
        parts += _probe(stem, name, probe)
    parts += _how(result)
    return parts


# In short


def in_short(result: Mapping[str, Any]) -> list[str]:
    """What the numbers say, in a few sentences; the first answers the question."""
    measured = {name: probe for name, probe in result["probes"].items() if _difference(probe, "on")}
    verdicts = {name: helps(probe) for name, probe in measured.items()}
    few = [name for name, probe in measured.items() if probe["documents"] < FEW_DOCUMENTS]
    sentences = []
    if measured:
        groups = [
            ("helps", "Retrieval helps on {}."),
            ("hardly", "It is sure but small on {}."),
            ("unclear", "On {} no difference can be told from chance."),
            ("hurts", "It hurts on {}."),
        ]
        said = []
        for verdict, form in groups:
            mine = [name for name, found in verdicts.items() if found == verdict]
            if mine:
                form = form.replace("It ", "Retrieval ") if not said else form
                said.append(
                    form.format(_listed([f"{name} ({_ratio_words(measured[name])})" for name in mine]))
                )
        sentences.append(" ".join(said))
    if few:
        sentences.append(
            f"Fewer than {FEW_DOCUMENTS} documents are a sketch and not a measurement: {_listed(few)}."
        )
    copied = {
        name: copying(probe) for name, probe in measured.items() if verdicts[name] in ("helps", "hardly")
    }
    said = []
    for verdict, form in (
        (
            "mostly",
            "On {} most of the gain is copying: little is left of it where chunks share no more than "
            "an eighth of their tokens with a neighbour.",
        ),
        ("partly", "On {} part of the gain is copying."),
        ("little", "On {} the gain is there also where a chunk shares little with its neighbours."),
    ):
        mine = [name for name, found in copied.items() if found == verdict]
        if mine:
            said.append(form.format(_listed(mine)))
    sentences += [" ".join(said)] if said else []
    harm = {name: _difference(probe, "random") for name, probe in measured.items()}
    harm = {name: found for name, found in harm.items() if found}
    if harm:
        sure = {name: found["ratio"] - 1 for name, found in harm.items() if _is_sure(found)}
        bad = [f"{name} ({share:+.1%})" for name, share in sure.items() if share > HARMLESS]
        good = [f"{name} ({-share:.1%})" for name, share in sure.items() if share < -HARMLESS]
        said = [f"Irrelevant neighbours make the perplexity worse on {_listed(bad)}."] if bad else []
        if good:
            said.append(
                f"Even irrelevant neighbours help on {_listed(good)}: part of the gain is not what they say."
            )
        sentences.append(" ".join(said) or "Irrelevant neighbours do no harm that can be told.")
    swap = result.get("swap")
    if swap:
        sentences.append(
            f"With another datastore the facts change: in {_share(swap['swaps'])} of {swap['count']:,} "
            "prompts the model writes, with each datastore, the value that stands in it."
        )
    return sentences or ["Nothing was measured on held-out documents."]


def helps(probe: Mapping[str, Any]) -> str:
    """In a word: "helps"; "hardly", sure but very little; "unclear", if the interval includes no change;
    "hurts"."""
    found = _difference(probe, "on")
    if not _is_sure(found):
        return "unclear"
    if found["nats"] > 0:
        return "hurts"
    return "helps" if found["ratio"] <= HARDLY else "hardly"


def copying(probe: Mapping[str, Any]) -> str | None:
    """How much of the gain is: "mostly", "partly" or "little", by what is left of it where nothing leaks;
    None if that is not known."""
    rows = [row for row in probe.get("leakage") or [] if None not in (row["bpb"]["on"], row["bpb"]["off"])]
    strict = [row for row in rows if row["alpha"] <= NO_LEAKAGE and row["chunks"] >= FEW_CHUNKS]
    if not rows or not strict:
        return None
    gains = [row["bpb"]["off"] - row["bpb"]["on"] for row in (strict[-1], rows[-1])]
    if gains[1] <= 0:
        return None
    left = gains[0] / gains[1]
    return "mostly" if left < MOSTLY_COPYING else "partly" if left < PARTLY_COPYING else "little"


def _is_sure(difference: Mapping[str, Any]) -> bool:
    """Whether its interval is on one side of no difference."""
    low, high = difference["ci95"] or (0.0, 0.0)
    return not low <= 0 <= high


def _ratio_words(probe: Mapping[str, Any]) -> str:
    found = _difference(probe, "on")
    return f"perplexity {found['ratio']:.2f} of that without{_interval(found['ratio_ci95'], '{:.2f}')}"


# Parts


def _overview(probes: Mapping[str, Any]) -> list[Part]:
    measured = {name: probe for name, probe in probes.items() if _difference(probe, "on")}
    if not measured:
        return []
    rows = []
    for name, probe in measured.items():
        on, off, random = (probe["readings"].get(reading) for reading in ("on", "off", "random"))
        change, strange = _difference(probe, "on"), _difference(probe, "random")
        rows.append(
            [
                name,
                f"{probe['documents']:,}",
                f"{probe['tokens']:,}",
                _number(on["perplexity"]),
                _number(off["perplexity"]),
                f"{change['ratio']:.3f}{_interval(change['ratio_ci95'], '{:.3f}')}",
                _number(on["bpb"]),
                _number(off["bpb"]),
                f"{strange['ratio']:.3f}" if random and strange else "–",
                _percent(probe.get("worse")),
            ]
        )
    columns = [
        "held-out",
        "documents",
        "tokens",
        "perplexity On",
        "Off",
        "On ÷ Off [95 %]",
        "bits per byte On",
        "Off",
        "random ÷ Off",
        "tokens worse",
    ]
    points = [
        Point(
            name, _difference(probe, "on")["ratio"], *(_difference(probe, "on")["ratio_ci95"] or (None, None))
        )
        for name, probe in measured.items()
    ]
    picture = Picture(
        "overview",
        figures.intervals("Perplexity On over Off", points, "perplexity with retrieval ÷ without", 1.0),
        "Perplexity with retrieval ÷ without, with 95 % intervals by document: left of the line retrieval "
        "helps.",
    )
    return [Heading(2, "In numbers"), Table(columns, rows), picture]


def _probe(stem: str, name: str, probe: Mapping[str, Any]) -> list[Part]:
    drawn: list[Part] = []
    for make in (
        _readings, _leakage, _overlap, _distance, _sweep_k, _sweep_size, _sweep_nprobe, _index, _documents
    ):  # fmt: skip
        drawn += make(stem, name, probe)
    drawn += _comparators(stem, name, probe)
    skipped = [f"{part}: {why}" for part, why in (probe.get("skipped") or {}).items()]
    if not drawn and not skipped:
        return []
    shown = [part for part in drawn if isinstance(part, Picture)]
    tables = [part for part in drawn if not isinstance(part, Picture)]
    parts: list[Part] = [Heading(2, name), *shown]
    parts += [Folded("The numbers", tables)] if tables else []
    parts += [Paragraph("Not measured:"), Items(skipped)] if skipped else []
    return parts


def _readings(stem: str, name: str, probe: Mapping[str, Any]) -> list[Part]:
    differences = {
        reading: _difference(probe, reading) for reading in probe.get("readings") or {} if reading != "off"
    }
    differences = {reading: found for reading, found in differences.items() if found}
    if not differences:
        return []
    points = [
        Point(LABELS.get(reading, reading), found["nats"], *(found["ci95"] or (None, None)))
        for reading, found in differences.items()
    ]
    rows = [
        [
            LABELS.get(reading, reading),
            _number(found["nats"], 4),
            _number(found["perplexity"]),
            _number(found["bpb"]),
            *_difference_cells(probe, reading),
        ]
        for reading, found in probe["readings"].items()
    ]
    columns = [
        "reading",
        "nats per token",
        "perplexity",
        "bits per byte",
        "minus Off [95 %]",
        "perplexity ÷ Off's",
    ]
    return [
        Picture(
            f"{stem}-readings",
            figures.intervals(f"{name}: readings", points, "nats per token, minus Off", 0.0),
            "What is read, and what it changes: nats per token minus those of Off, with 95 % intervals by "
            "document. Left of the line is better; grey means no sure difference.",
        ),
        Table(columns, rows),
    ]


def _leakage(stem: str, name: str, probe: Mapping[str, Any]) -> list[Part]:
    rows = probe.get("leakage") or []
    names = [reading for reading in ("on", "off") if any(row["bpb"].get(reading) is not None for row in rows)]
    lines = {
        LABELS[reading]: [
            (100 * row["alpha"], row["bpb"][reading], *((row.get("ci95") or {}).get(reading) or (None, None)))
            for row in rows
            if row["bpb"].get(reading) is not None
        ]
        for reading in names
    }
    if not lines:
        return []
    table = Table(
        ["α", "chunks", "bytes", "bits per byte On", "Off"],
        [
            [
                f"{row['alpha']:.1%}",
                f"{row['chunks']:,}",
                f"{row['bytes']:,}",
                _number(row["bpb"]["on"]),
                _number(row["bpb"]["off"]),
            ]
            for row in rows
        ],
    )
    return [
        Picture(
            f"{stem}-leakage",
            figures.curves(
                f"{name}: bits per byte by leakage",
                lines,
                "only chunks with an overlap r(C) of at most α, %",
                "bits per byte",
                counts=[(100 * row["alpha"], row["chunks"]) for row in rows],
                counted="chunks",
                ticks=[100 * row["alpha"] for row in rows if row["alpha"] in (0.125, 0.25, 0.5, 0.75, 1.0)],
            ),
            "Bits per byte over the chunks that share at most α of their length with a neighbour. What On "
            "gains at the left end is not copied; the bars say over how few chunks that is.",
        ),
        table,
    ]


def _overlap(stem: str, name: str, probe: Mapping[str, Any]) -> list[Part]:
    return _relation(stem, name, probe, "overlap", "longest run shared with a neighbour ÷ chunk, %", 100)


def _distance(stem: str, name: str, probe: Mapping[str, Any]) -> list[Part]:
    return _relation(stem, name, probe, "distance", "squared distance of the nearest neighbour", 1)


def _relation(
    stem: str, name: str, probe: Mapping[str, Any], what: str, axis: str, scale: float
) -> list[Part]:
    found = (probe.get("relations") or {}).get(what)
    bins = [one for one in (found or {}).get("bins") or [] if one["mean"] is not None]
    if not bins:
        return []
    rows = [
        (
            f"{_short(scale * one['low'])}–{_short(scale * one['high'])}",
            one["mean"],
            *(one["ci95"] or (None, None)),
            one["items"],
        )
        for one in bins
    ]
    correlation = ", ".join(
        f"{kind} {found[key]:+.2f}"
        for kind, key in (("Spearman", "spearman"), ("Pearson", "pearson"))
        if found.get(key) is not None
    )
    return [
        Picture(
            f"{stem}-gain-{what}",
            figures.binned(f"{name}: gain against {what}", rows, axis, "gain, nats per token", "chunks"),
            f"Gain (Off minus On) against {what}: means of bins with 95 % intervals by document."
            + (f" Over single chunks: {correlation}." if correlation else ""),
        ),
        Table(
            [axis, "gain, nats per token", "95 %", "chunks"],
            [
                [
                    label,
                    f"{mean:+.3f}",
                    _interval((low, high) if low is not None else None, "{:+.3f}").strip(),
                    f"{items:,}",
                ]
                for label, mean, low, high, items in rows
            ],
        ),
    ]


def _sweep_k(stem: str, name: str, probe: Mapping[str, Any]) -> list[Part]:
    points = (probe.get("sweeps") or {}).get("k") or []
    if not points:
        return []
    line = [_swept(point["num_neighbours"], point["gain"]) for point in points]
    return [
        Picture(
            f"{stem}-sweep-k",
            _sweep_curve(f"{name}: number of neighbours", line, "neighbours read for each chunk (k)"),
            "How many neighbours are read: below 0 is better than none.",
        ),
        _sweep_table("k", [(f"{point['num_neighbours']:,}", point["gain"]) for point in points]),
    ]


def _sweep_size(stem: str, name: str, probe: Mapping[str, Any]) -> list[Part]:
    points = (probe.get("sweeps") or {}).get("size") or []
    if not points:
        return []
    shares = sorted({point["share"] for point in points})
    line = []
    for share in shares:
        mine = [point for point in points if point["share"] == share]
        chunks = sum(point["chunks"] for point in mine) / len(mine)
        gains = [point["gain"]["minus_off"] for point in mine]
        # Of several draws their spread; of the one whole datastore the interval by document.
        ends = (
            (min(gains), max(gains)) if len(mine) > 1 else (mine[0]["gain"]["minus_off_ci95"] or (None, None))
        )
        line.append((chunks, sum(gains) / len(gains), *ends))
    return [
        Picture(
            f"{stem}-sweep-size",
            _sweep_curve(f"{name}: size of the datastore", line, "chunks of the datastore"),
            "How large the datastore is: means over parts drawn at random, the band spans their draws.",
        ),
        _sweep_table(
            "documents of the datastore",
            [
                (f"{point['documents']:,} ({point['share']:.0%}, seed {point['seed']})", point["gain"])
                for point in points
            ],
        ),
    ]


def _sweep_nprobe(stem: str, name: str, probe: Mapping[str, Any]) -> list[Part]:
    points = (probe.get("sweeps") or {}).get("nprobe") or []
    if not points:
        return []
    line = [_swept(point["nprobe"], point["gain"]) for point in points]
    return [
        Picture(
            f"{stem}-sweep-nprobe",
            _sweep_curve(
                f"{name}: lists that a search reads", line, f"lists read of {points[-1]['lists']:,} (nprobe)"
            ),
            "What a quicker, less exact search costs: its recall of the true nearest was "
            + ", ".join(f"{point['recall']:.0%} with {point['nprobe']}" for point in points)
            + ".",
        ),
        _sweep_table(
            "nprobe",
            [(f"{point['nprobe']} (recall {point['recall']:.1%})", point["gain"]) for point in points],
        ),
    ]


def _index(stem: str, name: str, probe: Mapping[str, Any]) -> list[Part]:
    """No picture: times of one machine are read as numbers."""
    found = probe.get("index") or {}
    rows = [
        [
            one["name"] + (f", {one['nprobe']:,} of {one['lists']:,} lists" if one["lists"] else ""),
            f"{one['recall_at_2']:.1%}",
            f"{one['recall_at_10']:.1%}",
            f"{one['ms']:.2f}",
            f"{one['ms_95th']:.2f}",
            f"{one['bytes_per_vector']:,.0f}",
        ]
        for one in found.get("found") or []
    ]
    columns = ["index", "recall@2", "recall@10", "ms a query", "95 % within", "bytes a vector"]
    if not rows:
        return []
    return [
        Paragraph(
            f"Searching {found['vectors']:,} chunks with {found['queries']:,} held-out ones, one query at a "
            "time, beside comparing all (exact). Times hold for the machine that this was measured on, and "
            "what else it did."
        ),
        Table(columns, rows),
    ]


def _sweep_curve(title: str, line: Sequence[tuple], axis: str) -> str:
    """What On gains over Off at each point of a sweep."""
    return figures.curves(
        title, {"On": line}, axis, "nats per token, minus Off", logarithmic=True, reference=0.0
    )


def _swept(x: float, gain: Mapping[str, Any]) -> tuple[float, float, float | None, float | None]:
    return (x, gain["minus_off"], *(gain["minus_off_ci95"] or (None, None)))


def _sweep_table(what: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    return Table(
        [what, "nats per token", "minus Off [95 %]", "perplexity ÷ Off's"],
        [
            [
                label,
                _number(gain["nats"], 4),
                f"{gain['minus_off']:+.4f}{_interval(gain['minus_off_ci95'], '{:+.4f}')}",
                f"{gain['ratio']:.3f}",
            ]
            for label, gain in rows
        ],
    )


def _documents(stem: str, name: str, probe: Mapping[str, Any]) -> list[Part]:
    rows = [row for row in probe.get("per_document") or [] if {"on", "off"} <= row["bits"].keys()]
    if len(rows) < 2:
        return []
    lines = []
    for row in rows:
        on, off = (row["bits"][reading] * math.log(2) / row["tokens"] for reading in ("on", "off"))
        title = row["title"] or f"document {row['document'] + 1}"
        lines.append((off - on, [title, f"{row['tokens']:,}", f"{on:.3f}", f"{off:.3f}", f"{off - on:+.3f}"]))
    lines.sort(key=lambda line: -line[0])
    gains = [gain for gain, _ in lines]
    better = sum(gain > 0 for gain in gains)
    shown = lines if len(lines) <= _MOST_ROWS else lines[: _MOST_ROWS // 2] + lines[-_MOST_ROWS // 2 :]
    table = Table(["document", "tokens", "On", "Off", "gain"], [line for _, line in shown])
    parts: list[Part] = [
        Picture(
            f"{stem}-documents",
            figures.ranked(
                f"{name}: gain of each document", gains, "documents, by gain", "gain, nats per token"
            ),
            f"Gain of each document: {better:,} of {len(gains):,} are better with retrieval.",
        )
    ]
    if len(shown) < len(lines):
        parts.append(Paragraph(f"The documents with the largest and the smallest gain, of {len(lines):,}:"))
    return [*parts, table]


def _comparators(stem: str, name: str, probe: Mapping[str, Any]) -> list[Part]:
    found = probe.get("comparators") or {}
    others = {key: found[key] for key in ("copying", "in_context", "knn_lm") if found.get(key)}
    if not others:
        return []
    points = [_point("On", found["on"])]
    rows = [["On", *_gain_cells(found["on"]), "–", "–"]]
    for key, other in others.items():
        compared = other["compared"]
        points.append(_point(LABELS[key], compared["gain"]))
        rows.append(
            [
                LABELS[key],
                *_gain_cells(compared["gain"]),
                f"{compared['on_minus_this']:+.4f}{_interval(compared['on_minus_this_ci95'], '{:+.4f}')}",
                f"{compared['read_per_token']:.1f}",
            ]
        )
    alike = (others.get("knn_lm") or {}).get("on_in_store")
    if alike:
        points.append(_point("On, of kNN-LM's documents", alike))
        rows.append(["On, of kNN-LM's documents", *_gain_cells(alike), "–", "–"])
    return [
        Picture(
            f"{stem}-comparators",
            figures.intervals(f"{name}: comparators", points, "nats per token, minus Off", 0.0),
            f"Other ways to use the same datastore, on {found['documents']:,} documents: the neighbour "
            "before the text of the plain model, kNN-LM, and Off mixed with words that follow in the "
            "neighbours.",
        ),
        Table(
            [
                "way to read",
                "nats per token",
                "minus Off [95 %]",
                "perplexity ÷ Off's",
                "On minus this [95 %]",
                "tokens read for one",
            ],
            rows,
        ),
    ]


def _point(label: str, gain: Mapping[str, Any]) -> Point:
    return Point(label, gain["minus_off"], *(gain["minus_off_ci95"] or (None, None)))


def _gain_cells(gain: Mapping[str, Any]) -> list[str]:
    change = f"{gain['minus_off']:+.4f}{_interval(gain['minus_off_ci95'], '{:+.4f}')}"
    return [_number(gain["nats"], 4), change, f"{gain['ratio']:.3f}"]


def _swap(swap: Mapping[str, Any] | None) -> list[Part]:
    if not swap:
        return []
    readings = swap["readings"]
    names = [row["reading"] for row in readings if row["own"] is not None]
    groups = [f"reads {row['reading']}" if row["own"] is not None else "reads nothing" for row in readings]
    series = {f"{name}'s": [row["says"][name]["value"] for row in readings] for name in names} | {
        "neither": [row["neither"]["value"] for row in readings]
    }
    rows = [
        [
            group,
            *(_share(row["says"][name]) for name in names),
            _share(row["neither"]),
            _share(row["reachable"]),
        ]
        for group, row in zip(groups, readings, strict=True)
    ]
    reachable = swap.get("swaps_reachable")
    parts: list[Part] = [
        Heading(2, "Swap the datastore, and the facts change"),
        Paragraph(
            f"{swap['count']:,} prompts about {swap['countries']:,} subjects. With every datastore its own "
            f"value: {_share(swap['swaps'])}"
            + (f"; where all values could be read, {_share(reachable)}" if reachable else "")
            + f". With every datastore its own value is the likeliest: {_share(swap['prefers'])}."
        ),
        Picture(
            "swap",
            figures.bars("Fact swap", groups, series, "share of the prompts", top=1.0),
            "Whose value the model writes, by what it reads.",
        ),
        Table(["", *(f"writes {name}'s" for name in names), "neither", "stands in what was read"], rows),
    ]
    if swap.get("fields"):
        fields = [[row["field"] or "–", f"{row['count']:,}", f"{row['swaps']:.0%}"] for row in swap["fields"]]
        parts.append(Folded("By field", [Table(["field", "prompts", "swap"], fields)]))
    if swap.get("examples"):
        examples = [
            [row["prompt"], *(row["texts"].get(reading["reading"], "") for reading in readings)]
            for row in swap["examples"]
        ]
        parts.append(Folded("Examples", [Table(["prompt", *groups], examples)]))
    return parts


def _questions(sets: Mapping[str, Any]) -> list[Part]:
    if not sets:
        return []
    parts: list[Part] = [
        Heading(2, "Questions"),
        Paragraph(
            "Exact match and F1 of what the model writes after the question; chosen: the right answer is "
            "likelier than wrong ones; could be read: it stands in a neighbour."
        ),
    ]
    groups, rows = [], []
    series: dict[str, list[float | None]] = {"exact match": [], "F1": [], "chosen": []}
    for name, found in sets.items():
        for row in found["readings"]:
            groups.append(f"{name}: {LABELS[row['reading']]}")
            for label, key in (("exact match", "exact_match"), ("F1", "f1"), ("chosen", "chosen")):
                series[label].append(row[key]["value"] if row[key] else None)
            rows.append([
                groups[-1], f"{found['count']:,}", _share(row["exact_match"]), _share(row["f1"]),
                _share(row["chosen"]), _share(row["recalled"]), _share(row["exact_match_recalled"]),
            ])  # fmt: skip
    columns = ["", "questions", "exact match", "F1", "chosen", "could be read", "exact match of those"]
    parts += [
        Picture(
            "questions",
            figures.bars("Questions", groups, series, "share of the questions", top=1.0),
            "Answers with neighbours and without.",
        ),
        Table(columns, rows),
    ]
    for name, found in sets.items():
        if found.get("examples"):
            readings = [row["reading"] for row in found["readings"]]
            examples = [
                [
                    row["question"],
                    " / ".join(row["answers"][:3]),
                    *(row["texts"].get(r, "") for r in readings),
                ]
                for row in found["examples"]
            ]
            columns = ["question", "answers", *(LABELS[reading] for reading in readings)]
            parts.append(Folded(f"Examples: {name}", [Table(columns, examples)]))
    return parts


def _how(result: Mapping[str, Any]) -> list[Part]:
    settings, model = result.get("settings") or {}, result["model"]
    stride = settings.get("stride")
    facts = [
        f"Model {model.get('name', '')}"
        + (f", {model['parameters']:,} parameters" if model.get("parameters") else "")
        + (f", fingerprint {model['fingerprint'][:12]}" if model.get("fingerprint") else "")
        + ".",
        f"k = {settings.get('num_neighbours')} neighbours; windows of {settings.get('max_len')} tokens, each "
        f"moved on by {f'{stride:,} tokens' if stride else 'half of that'}; every token but a document's "
        "first is scored once.",
        "On and Off are one model with the same weights, with its neighbours and without. Intervals hold "
        "95 % of 2,000 resamples of whole documents.",
        "Gain is Off minus On in nats: above 0 retrieval helped. Perplexity is e to the nats per token.",
        "On documents with many near-copies in the datastore a large gain means that copying works; it is "
        "not what to expect of other texts.",
    ]
    parts: list[Part] = [Heading(2, "How this was measured"), Items(facts)]
    if result.get("command"):
        parts.append(Command(result["command"]))
    return [*parts, Paragraph(f"Made {result.get('created', '')}; all numbers are in {RESULT_FILE}.")]


# Side by side


def comparison(results: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Probes that several results have, and what each model gains on them. Raises InputError for fewer than
    two results."""
    if len(results) < 2:
        raise InputError(f"Expected two results or more to compare, got {len(results)}. Name another one.")
    names = [str(result["model"].get("name") or "model") for result in results]
    labels = [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, 1)]
    parts: list[Part] = [
        Heading(1, "Models side by side"),
        Paragraph(
            "Perplexities of models with different tokenizers cannot be compared, bits per byte can; On ÷ "
            "Off says what retrieval is worth to each."
        ),
    ]
    probes = list(dict.fromkeys(name for result in results for name in result["probes"]))
    for stem, name in zip(_stems(probes), probes, strict=True):
        found = [
            (label, result["probes"].get(name) or {}) for label, result in zip(labels, results, strict=True)
        ]
        found = [(label, probe) for label, probe in found if _difference(probe, "on")]
        if not found:
            continue
        points = [
            Point(label, _difference(p, "on")["ratio"], *(_difference(p, "on")["ratio_ci95"] or (None, None)))
            for label, p in found
        ]
        rows = []
        for label, probe in found:
            on, off, change = probe["readings"]["on"], probe["readings"]["off"], _difference(probe, "on")
            strange = _difference(probe, "random")
            rows.append(
                [
                    label,
                    f"{probe['documents']:,}",
                    _number(on["perplexity"]),
                    _number(off["perplexity"]),
                    f"{change['ratio']:.3f}{_interval(change['ratio_ci95'], '{:.3f}')}",
                    _number(on["bpb"]),
                    _number(off["bpb"]),
                    f"{strange['ratio']:.3f}" if strange else "–",
                    _percent(probe.get("worse")),
                ]
            )
        columns = [
            "model",
            "documents",
            "perplexity On",
            "Off",
            "On ÷ Off [95 %]",
            "bits per byte On",
            "Off",
            "random ÷ Off",
            "tokens worse",
        ]
        drawn = Picture(
            f"{stem}-models",
            figures.intervals(f"{name}: models", points, "perplexity with retrieval ÷ without", 1.0),
            "Perplexity with retrieval ÷ without, with 95 % intervals by document.",
        )
        parts += [Heading(2, name), drawn, Table(columns, rows)]
        if len({(probe["documents"], probe["tokens"]) for _, probe in found}) > 1:
            parts.append(Paragraph("Not all of these were measured on the same documents and tokens."))
    swaps = [
        (label, result["swap"]) for label, result in zip(labels, results, strict=True) if result.get("swap")
    ]
    if swaps:
        rows = [
            [label, f"{swap['count']:,}", _share(swap["swaps"]), _share(swap["prefers"])]
            for label, swap in swaps
        ]
        parts += [Heading(2, "Fact swap"), Table(["model", "prompts", "swaps", "prefers"], rows)]
    settings = [result.get("settings") for result in results]
    if any(one != settings[0] for one in settings):
        parts.append(Paragraph("These results were made with different settings."))
    return parts


# Numbers as words


def _difference(probe: Mapping[str, Any], reading: str) -> Mapping[str, Any] | None:
    return (probe.get("differences") or {}).get(f"{reading}-off")


def _difference_cells(probe: Mapping[str, Any], reading: str) -> list[str]:
    found = _difference(probe, reading)
    if not found:
        return ["–", "–"]
    return [f"{found['nats']:+.4f}{_interval(found['ci95'], '{:+.4f}')}", f"{found['ratio']:.3f}"]


def _interval(ends: Sequence[float] | None, form: str) -> str:
    return f" [{form.format(ends[0])}, {form.format(ends[1])}]" if ends and None not in ends else ""


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.{digits if abs(value) < 10 else 2}f}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"


def _percent(value: float | Mapping[str, Any] | None) -> str:
    if isinstance(value, Mapping):
        value = value.get("value")
    return "–" if value is None else f"{value:.1%}"


def _share(estimate: Mapping[str, Any] | None) -> str:
    """An Estimate of a share: 61% [52%, 70%]"""
    if estimate is None:
        return "–"
    ends = estimate.get("ci95")
    between = f" [{ends[0]:.0%}, {ends[1]:.0%}]" if ends else ""
    return "–" if estimate["value"] is None else f"{estimate['value']:.0%}{between}"


def _listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def _stems(names: Sequence[str]) -> list[str]:
    """How the names of each probe's figures begin: no two alike, in letters that every system takes."""
    stems = [re.sub(r"[^a-z0-9-]+", "-", paths.slug(name)).strip("-") or "probe" for name in names]
    return [stem if stems.index(stem) == place else f"{stem}-{place + 1}" for place, stem in enumerate(stems)]
