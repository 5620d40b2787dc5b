"""Numbers of a result as they stand in a report's sentences, tables and pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

from retro_core.evaluation.figures import Point

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


def difference(probe: Mapping[str, Any], reading: str) -> Mapping[str, Any] | None:
    return (probe.get("differences") or {}).get(f"{reading}-off")


def difference_cells(probe: Mapping[str, Any], reading: str) -> list[str]:
    found = difference(probe, reading)
    if not found:
        return ["–", "–"]
    return [f"{found['nats']:+.4f}{interval(found['ci95'], '{:+.4f}')}", f"{found['ratio']:.3f}"]


def interval(ends: Sequence[float] | None, form: str) -> str:
    return f" [{form.format(ends[0])}, {form.format(ends[1])}]" if ends and None not in ends else ""


def number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.{digits if abs(value) < 10 else 2}f}"


def short(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"


def percent(value: float | Mapping[str, Any] | None) -> str:
    if isinstance(value, Mapping):
        value = value.get("value")
    return "–" if value is None else f"{value:.1%}"


def share_words(estimate: Mapping[str, Any] | None) -> str:
    """An Estimate of a share: 61% [52%, 70%]"""
    if estimate is None:
        return "–"
    ends = estimate.get("ci95")
    between = f" [{ends[0]:.0%}, {ends[1]:.0%}]" if ends else ""
    return "–" if estimate["value"] is None else f"{estimate['value']:.0%}{between}"


def listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def point(label: str, gain: Mapping[str, Any]) -> Point:
    return Point(label, gain["minus_off"], *(gain["minus_off_ci95"] or (None, None)))


def gain_cells(gain: Mapping[str, Any]) -> list[str]:
    change = f"{gain['minus_off']:+.4f}{interval(gain['minus_off_ci95'], '{:+.4f}')}"
    return [number(gain["nats"], 4), change, f"{gain['ratio']:.3f}"]
