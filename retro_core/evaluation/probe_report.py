"""The part of a report on one probe: pictures first, the numbers folded below them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from retro_core.evaluation import figures
from retro_core.evaluation.cells import (
    LABELS,
    difference,
    difference_cells,
    gain_cells,
    interval,
    number,
    point,
    short,
)
from retro_core.evaluation.figures import Point
from retro_core.evaluation.layout import Folded, Heading, Items, Paragraph, Part, Picture, Table

_MOST_ROWS = 40  # of a table of documents


def probe_parts(stem: str, name: str, probe: Mapping[str, Any]) -> list[Part]:
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
        reading: difference(probe, reading) for reading in probe.get("readings") or {} if reading != "off"
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
            number(found["nats"], 4),
            number(found["perplexity"]),
            number(found["bpb"]),
            *difference_cells(probe, reading),
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
                number(row["bpb"]["on"]),
                number(row["bpb"]["off"]),
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
            f"{short(scale * one['low'])}–{short(scale * one['high'])}",
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
                    interval((low, high) if low is not None else None, "{:+.3f}").strip(),
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
                number(gain["nats"], 4),
                f"{gain['minus_off']:+.4f}{interval(gain['minus_off_ci95'], '{:+.4f}')}",
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
    points = [point("On", found["on"])]
    rows = [["On", *gain_cells(found["on"]), "–", "–"]]
    for key, other in others.items():
        compared = other["compared"]
        points.append(point(LABELS[key], compared["gain"]))
        rows.append(
            [
                LABELS[key],
                *gain_cells(compared["gain"]),
                f"{compared['on_minus_this']:+.4f}{interval(compared['on_minus_this_ci95'], '{:+.4f}')}",
                f"{compared['read_per_token']:.1f}",
            ]
        )
    alike = (others.get("knn_lm") or {}).get("on_in_store")
    if alike:
        points.append(point("On, of kNN-LM's documents", alike))
        rows.append(["On, of kNN-LM's documents", *gain_cells(alike), "–", "–"])
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
