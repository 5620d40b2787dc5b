"""What the Measure tab draws, as pure functions: a result of `retro_core evaluate` -> JSON for the component.

See docs/formats.md for the result. Everything may be missing: a result that is still being made has only some
parts, and others were made with some alone.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from app import text
from app.tabs import measure_words as words
from retro_core.evaluation.verdicts import in_short

_MOST_DOCUMENTS = 400
_MOST_POINTS = 700
_READINGS = ("on", "off", "random", "shuffled", "bm25", "n_only", "f_only", "oracle")
_COMPARATORS = ("copying", "in_context", "knn_lm")


def view(
    result: Mapping[str, Any], *, name: str, title: str, about: str, busy: bool = False, headline: bool = True
) -> dict[str, Any]:
    """name: by which the page knows it · title, about: what was compared with what · busy: more parts will
    come"""
    probes = result.get("probes") or {}
    measured = any("readings" in probe for probe in probes.values()) or result.get("swap")
    return {
        "id": name,
        "title": title,
        "about": about,
        "busy": busy,
        "headline": list(in_short(result)) if headline and measured else [],
        "words": words.MEASURED,
        "probes": [probe_view(of, probe) for of, probe in probes.items()],
        "swap": swap_view(result.get("swap")),
        "how": how(result),
        "command": result.get("command") or "",
    }


def probe_view(name: str, probe: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "documents": probe.get("documents") or 0,
        "tokens": probe.get("tokens") or 0,
        "bars": bars(probe),
        "worse": probe.get("worse"),
        "leakage": leakage(probe),
        "slope": ((probe.get("slope") or {}).get("on-off") or {}).get("value"),
        "relations": {
            what: relation
            for what in ("overlap", "distance")
            if (relation := _relation((probe.get("relations") or {}).get(what)))
        },
        "points": _points(probe.get("chunks") or []),
        "k": _swept(probe, "k", "num_neighbours"),
        "size": _sizes(probe),
        "nprobe": _swept(probe, "nprobe", "nprobe"),
        "index": probe.get("index"),
        "comparators": _comparators(probe),
        "list": _documents(probe),
        "skipped": [[part, why] for part, why in (probe.get("skipped") or {}).items()],
    }


def bars(probe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A reading each: bits per byte and perplexity with their intervals, and what lies between it and Off."""
    found = probe.get("readings") or {}
    made = []
    for name in [one for one in _READINGS if one in found]:
        one = found[name]
        less = (probe.get("differences") or {}).get(f"{name}-off")
        made.append(
            {
                "key": name,
                "name": words.READINGS.get(name, name),
                "bpb": one["bpb"],
                "bpb_ci95": one["bpb_ci95"],
                "perplexity": one["perplexity"],
                "perplexity_ci95": [math.exp(end) for end in one["ci95"]] if one["ci95"] else None,
                "ratio": less and less["ratio"],
                "ratio_ci95": less and less["ratio_ci95"],
                "worse": less and less["worse"],
            }
        )
    return made


def leakage(probe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A point for each α: chunks, bytes, and bits per byte of On and Off with intervals."""
    return [
        {
            "alpha": row["alpha"],
            "chunks": row["chunks"],
            "bytes": row["bytes"],
            **{reading: row["bpb"].get(reading) for reading in ("on", "off")},
            **{f"{reading}_ci95": (row.get("ci95") or {}).get(reading) for reading in ("on", "off")},
        }
        for row in probe.get("leakage") or []
    ]


def _relation(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not found:
        return None
    bins = [
        {"low": one["low"], "high": one["high"], "x": one["x"], "mean": one["mean"], "ci95": one["ci95"],
         "items": one["items"]}
        for one in found["bins"]
        if one["mean"] is not None
    ]  # fmt: skip
    return {
        "chunks": found["chunks"],
        "bins": bins,
        "spearman": found["spearman"],
        "spearman_ci95": found["spearman_ci95"],
    }


def _points(chunks: Sequence[Mapping[str, Any]]) -> list[list[float | None]]:
    """[overlap, distance, gain a token] of single chunks."""
    return [
        [round(one["overlap"], 4), one["distance"] and round(one["distance"], 4),
         round(one["gain"] / max(1, one["tokens"]), 4)]
        for one in chunks[:_MOST_POINTS]
    ]  # fmt: skip


def _swept(probe: Mapping[str, Any], sweep: str, x: str) -> list[dict[str, Any]]:
    return [
        {
            "x": point[x],
            "y": point["gain"]["minus_off"],
            "ci95": point["gain"]["minus_off_ci95"],
            "ratio": point["gain"]["ratio"],
            "worse": point["gain"]["worse"],
            "recall": point.get("recall"),
        }
        for point in (probe.get("sweeps") or {}).get(sweep) or []
    ]


def _sizes(probe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A point for each share of the datastore: the mean of its draws, and what they span."""
    points = (probe.get("sweeps") or {}).get("size") or []
    made = []
    for share in sorted({point["share"] for point in points}):
        mine = [point for point in points if point["share"] == share]
        gains = [point["gain"]["minus_off"] for point in mine]
        ends = [min(gains), max(gains)] if len(mine) > 1 else mine[0]["gain"]["minus_off_ci95"]
        made.append(
            {
                "x": round(sum(point["chunks"] for point in mine) / len(mine)),
                "y": sum(gains) / len(gains),
                "ci95": ends,
                "ratio": math.exp(sum(gains) / len(gains)),
                "worse": sum(point["gain"]["worse"] for point in mine) / len(mine),
                "recall": None,
            }
        )
    return made


def _comparators(probe: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = probe.get("comparators") or {}
    if not any(found.get(name) for name in _COMPARATORS):
        return []
    rows = [_gain("on", found["on"], None)]
    for name in _COMPARATORS:
        if found.get(name):
            compared = found[name]["compared"]
            rows.append(_gain(name, compared["gain"], compared["read_per_token"]))
    return rows


def _gain(name: str, gain: Mapping[str, Any], read: float | None) -> dict[str, Any]:
    return {
        "name": words.READINGS.get(name, name),
        "minus_off": gain["minus_off"],
        "ci95": gain["minus_off_ci95"],
        "ratio": gain["ratio"],
        "worse": gain["worse"],
        "read": read,
    }


def _documents(probe: Mapping[str, Any]) -> list[list[Any]]:
    """[title, tokens, nats a token On, Off, gain], the largest gain first."""
    rows = []
    for row in probe.get("per_document") or []:
        if not {"on", "off"} <= row["bits"].keys():
            continue
        on, off = (row["bits"][name] * math.log(2) / max(1, row["tokens"]) for name in ("on", "off"))
        title = row["title"] or f"document {row['document'] + 1}"
        rows.append([title, row["tokens"], round(on, 4), round(off, 4), round(off - on, 4)])
    rows.sort(key=lambda row: -row[4])
    half = _MOST_DOCUMENTS // 2
    return rows if len(rows) <= _MOST_DOCUMENTS else rows[:half] + rows[-half:]


def swap_view(swap: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Whose value the model writes, by what it reads."""
    if not swap:
        return None
    readings = swap["readings"]
    names = [row["reading"] for row in readings if row["own"] is not None]
    return {
        "count": swap["count"],
        "countries": swap["countries"],
        "names": [text.EDITIONS.get(name, name) for name in names],
        "swaps": swap["swaps"],
        "prefers": swap["prefers"],
        "rows": [
            {
                "reads": text.EDITIONS.get(row["reading"], row["reading"]) if row["own"] else "nothing (Off)",
                "says": [row["says"][name]["value"] for name in names],
                "neither": row["neither"]["value"],
            }
            for row in readings
        ],
        "fields": [
            [row["field"] or "–", row["count"], row["swaps"]] for row in swap.get("fields") or []
        ],
        "examples": [
            [row["prompt"], *(row["texts"].get(reading["reading"], "") for reading in readings)]
            for row in swap.get("examples") or []
        ],
    }  # fmt: skip


def how(result: Mapping[str, Any]) -> list[str]:
    """How it was measured, in sentences."""
    settings, model = result.get("settings") or {}, result.get("model") or {}
    parameters = model.get("parameters")
    sentences = [
        f"Model {model.get('name', '')}"
        + (f", {parameters:,} parameters" if parameters else "")
        + f"; k = {settings.get('num_neighbours')} neighbours for each chunk of "
        f"{model.get('chunk_size', 64)} tokens.",
        *words.HOW_MEASURED,
    ]
    if settings.get("sweep_limit"):
        sentences.append(
            f"Sweeps, comparators and the index: on {settings['sweep_limit']} of the documents at most."
        )
    return sentences


def beside(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Two measurements or more, as rows: (title, result) of each."""
    rows = []
    for title, result in entries:
        for name, probe in (result.get("probes") or {}).items():
            change = (probe.get("differences") or {}).get("on-off")
            if not change:
                continue
            on, off = probe["readings"]["on"], probe["readings"]["off"]
            rows.append(
                {
                    "title": title,
                    "probe": name,
                    "documents": probe["documents"],
                    "tokens": probe["tokens"],
                    "on": on["bpb"],
                    "off": off["bpb"],
                    "ratio": change["ratio"],
                    "ratio_ci95": change["ratio_ci95"],
                    "worse": change["worse"],
                }
            )
    same = len({(row["documents"], row["tokens"]) for row in rows}) <= 1
    return {"rows": rows, "note": words.SAME_TEXT if same else words.OTHER_TEXT}
