"""A result's numbers as tables for spreadsheets: one CSV file each, in one zip."""

import csv
import io
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from indexing import paths

Row = Sequence[Any]
# A spreadsheet takes a cell that begins so for a formula, and runs it.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_WHEN = (1980, 1, 1, 0, 0, 0)  # the same result gives the same bytes


def tables(result: Mapping[str, Any]) -> dict[str, tuple[Row, list[Row]]]:
    """File name -> (columns, rows) of every table there is something to put into."""
    found: dict[str, tuple[Row, list[Row]]] = {}
    probes = result.get("probes") or {}
    names = [paths.slug(name) for name in probes]
    for place, (name, probe) in enumerate(zip(names, probes.values(), strict=True)):
        stem = name if names.index(name) == place else f"{name}-{place + 1}"
        for table, columns, rows in _of_probe(probe):
            if rows:
                found[f"{stem}.{table}.csv"] = columns, rows
    for table, columns, rows in _of_swap(result.get("swap") or {}):
        if rows:
            found[f"{table}.csv"] = columns, rows
    return found


def to_csv(columns: Row, rows: Sequence[Row]) -> str:
    """Numbers as they are; texts so that no spreadsheet takes them for formulas."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([guarded(cell) for cell in columns])
    writer.writerows([guarded(cell) for cell in row] for row in rows)
    return file.getvalue()


def guarded(cell: Any) -> Any:
    """A text that a spreadsheet could take for a formula begins with an apostrophe."""
    if isinstance(cell, str) and cell.lstrip(" ").startswith(_FORMULA):
        return "'" + cell
    return "" if cell is None else cell


def to_zip(result: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (columns, rows) in tables(result).items():
            # With a mark at the beginning, or some spreadsheets take UTF-8 for something else.
            content = ("\ufeff" + to_csv(columns, rows)).encode("utf-8", "replace")
            archive.writestr(zipfile.ZipInfo(name, _WHEN), content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _of_probe(probe: Mapping[str, Any]) -> Iterator[tuple[str, Row, list[Row]]]:
    readings, differences = probe.get("readings") or {}, probe.get("differences") or {}
    columns = [
        "reading", "nats_per_token", "low", "high", "perplexity", "bits_per_byte", "bpb_low", "bpb_high",
        "minus_off_nats", "minus_off_low", "minus_off_high", "perplexity_ratio_to_off", "tokens_worse",
    ]  # fmt: skip
    rows = []
    for name, one in readings.items():
        less = differences.get(f"{name}-off") or {}
        rows.append([
            name, one["nats"], *_ends(one["ci95"]), one["perplexity"], one["bpb"], *_ends(one["bpb_ci95"]),
            less.get("nats"), *_ends(less.get("ci95")), less.get("ratio"), less.get("worse"),
        ])  # fmt: skip
    yield "readings", columns, rows
    names = [name for name in readings if any(name in row["bpb"] for row in probe.get("leakage") or [])]
    yield (
        "leakage",
        ["alpha", "chunks", "bytes", *(f"{n}_{what}" for n in names for what in ("bpb", "low", "high"))],
        [
            [row["alpha"], row["chunks"], row["bytes"]]
            + [x for n in names for x in (row["bpb"].get(n), *_ends((row.get("ci95") or {}).get(n)))]
            for row in probe.get("leakage") or []
        ],
    )
    for what, relation in (probe.get("relations") or {}).items():
        yield (
            f"gain-by-{what}",
            [f"{what}_from", f"{what}_to", f"mean_{what}", "gain_nats_per_token", "low", "high", "chunks"],
            [
                [one["low"], one["high"], one["x"], one["mean"], *_ends(one["ci95"]), one["items"]]
                for one in relation["bins"]
            ],
        )
    yield (
        "correlations",
        ["property", "chunks", "spearman", "low", "high", "pearson", "pearson_low", "pearson_high"],
        [
            [what, one["chunks"], one["spearman"], *_ends(one["spearman_ci95"]), one["pearson"]]
            + _ends(one["pearson_ci95"])
            for what, one in (probe.get("relations") or {}).items()
        ],
    )
    sweeps = probe.get("sweeps") or {}
    for sweep, facts in (
        ("k", ["num_neighbours"]),
        ("size", ["share", "seed", "documents", "chunks"]),
        ("nprobe", ["nprobe", "lists", "recall"]),
    ):
        gains = ["minus_off_nats", "low", "high", "perplexity_ratio_to_off", "bits_per_byte", "tokens_worse"]
        rows = [
            [*(point[fact] for fact in facts), *_gain(point["gain"])] for point in sweeps.get(sweep) or []
        ]
        yield f"sweep-{sweep}", [*facts, *gains], rows
    index = (probe.get("index") or {}).get("found") or []
    yield "index", list(index[0]) if index else [], [list(one.values()) for one in index]
    yield (
        "documents",
        ["document", "title", "tokens", "bytes", *(f"{n}_nats_per_token" for n in readings), "gain"],
        [_document(row, list(readings)) for row in probe.get("per_document") or []],
    )
    yield (
        "chunks",
        ["document", "chunk", "tokens", "gain_nats", "overlap", "jaccard", "distance"],
        [
            [one[key] for key in ("document", "chunk", "tokens", "gain", "overlap", "jaccard", "distance")]
            for one in probe.get("chunks") or []
        ],
    )


def _document(row: Mapping[str, Any], readings: Sequence[str]) -> Row:
    nats = {name: bits * math.log(2) / max(1, row["tokens"]) for name, bits in row["bits"].items()}
    gain = nats["off"] - nats["on"] if {"on", "off"} <= nats.keys() else None
    return [
        row["document"], row["title"], row["tokens"], row["bytes"], *(nats.get(n) for n in readings), gain,
    ]  # fmt: skip


def _of_swap(swap: Mapping[str, Any]) -> Iterator[tuple[str, Row, list[Row]]]:
    readings = swap.get("readings") or []
    names = [row["reading"] for row in readings if row["own"] is not None]
    yield (
        "fact-swap",
        ["reads", *(f"writes_{name}" for name in names), "neither"],
        [
            [row["reading"], *(row["says"][name]["value"] for name in names), row["neither"]["value"]]
            for row in readings
        ],
    )
    yield (
        "fact-swap-fields",
        ["field", "prompts", "swaps"],
        [[row["field"], row["count"], row["swaps"]] for row in swap.get("fields") or []],
    )


def _gain(gain: Mapping[str, Any]) -> Row:
    return [
        gain["minus_off"], *_ends(gain["minus_off_ci95"]), gain["ratio"], gain["bpb"], gain["worse"],
    ]  # fmt: skip


def _ends(interval: Sequence[float] | None) -> list[float | None]:
    return list(interval) if interval else [None, None]
