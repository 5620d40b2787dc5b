"""What Train shows of runs, as pure views of what they logged: values of the components in `app.train`."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from app import owners, text
from app.errors import sentence
from indexing.errors import InputError
from retro_core.run_folder import FAILED, FINISHED
from retro_core.runs import History, RunInfo

MOST_COMPARED = 6
# Okabe and Ito's, of which the first six are told apart on light and dark.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]


def listed(infos: Sequence[RunInfo], chosen: str | None, compared: Sequence[str]) -> dict[str, Any]:
    """The value of `RunList`."""
    drawn = compared if len(compared) > 1 else ()
    return {
        "runs": [
            {
                "name": info.name,
                "shown": owners.shown(info.name),
                "state": info.state,
                "fraction": min(1.0, info.step / info.steps) if info.steps else 0.0,
                "line": line(info),
                "colour": COLOURS[drawn.index(info.name)] if info.name in drawn else "",
            }
            for info in infos
        ],
        "chosen": chosen,
        "compared": list(compared),
        "empty": text.NO_RUNS,
        "note": text.TICK_ANOTHER if len(compared) == 1 else "",
    }


def line(info: RunInfo) -> str:
    """Where a run stands, in one line."""
    words = [f"step {_progress(info)}"]
    on, off = (_number((info.held_out or {}).get(key)) for key in ("on", "off"))
    if on is not None and off is not None:
        words.append(f"On {on:.2f}, Off {off:.2f}")
    left = _number((info.training or {}).get("seconds_left"))
    if info.active and left is not None:
        words.append(f"{duration(left)} left")
    if not info.active and info.updated:
        words.append(when(info.updated))
    if info.active and not info.training:
        words.append("starting, which takes some seconds")
    return " · ".join(words)


def facts(info: RunInfo) -> dict[str, Any]:
    """The value of `Facts` about one run."""
    on, off = (_number((info.held_out or {}).get(key)) for key in ("on", "off"))
    rows = [["State", info.state], ["Step", _progress(info)]]
    loss = _number((info.training or {}).get("loss"))
    if on is not None and off is not None:
        rows += [["On", f"{on:.3f}"], ["Off", f"{off:.3f}"], ["Gain from reading", f"{off - on:+.3f}"]]
    elif loss is not None:
        rows.append(["Loss", f"{loss:.3f}"])
    rate, left = (_number((info.training or {}).get(key)) for key in ("tokens_per_second", "seconds_left"))
    if info.active and rate is not None and left is not None:
        rows += [["Speed", f"{rate:,.0f} tokens/s"], ["Left", duration(left)]]
    if info.started:
        rows.append(["Started", when(info.started)])
    if info.state == FAILED and info.exit_code is not None:
        rows.append(["Exit code", str(info.exit_code)])
    notes = [said(info.message)] if info.message else []
    if info.state == FINISHED and on is not None and off is not None:
        notes.append(verdict(off - on))
    if info.state == FINISHED:
        notes.append(text.TRAIN_FURTHER)
    return {"title": owners.shown(info.name), "facts": rows, "notes": notes}


def verdict(gain: float) -> str:
    """What a finished run shows, in words."""
    if gain > 0.05:
        return text.LEARNED_TO_READ.format(gain=gain)
    if gain < -0.05:
        return text.READING_HURTS.format(gain=-gain)
    return text.LEARNED_NOTHING_YET


def drawn(histories: Sequence[tuple[str, History]], note: str = "") -> dict[str, Any]:
    """The value of `Curves`: runs by name, each with what it logged."""
    return {
        "runs": [
            {
                "name": owners.shown(name),
                "colour": COLOURS[number % len(COLOURS)],
                "training": _rounded(history.training),
                "held_out": _rounded(history.held_out),
                "written": [
                    {"layer": layer, "strength": strength}
                    for layer, strength in _rounded(history.written).items()
                ],
            }
            for number, (name, history) in enumerate(histories)
        ],
        "note": note,
        "empty": text.NO_CURVES,
    }


def differing(names: Sequence[str], settings: dict[str, list[Any]]) -> str:
    """Which settings of compared runs differ, in one line."""
    if not settings:
        return "These runs have the same settings."
    shown = []
    for key, values in list(settings.items())[:8]:
        each = (f"{owners.shown(name)} {_short(value)}" for name, value in zip(names, values, strict=True))
        shown.append(f"{key}: {', '.join(each)}")
    more = f" · and {len(settings) - 8} more" if len(settings) > 8 else ""
    return "What differs – " + " · ".join(shown) + more


def said(words: str) -> str:
    """A text of a run as the page shows it: without this server's folders."""
    return sentence(InputError(words))


def when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%d %b %H:%M")


def duration(seconds: float) -> str:
    """For example '1 min 20 s'."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        minutes, rest = divmod(seconds, 60)
        return f"{minutes} min {rest:02} s" if minutes < 10 else f"{minutes} min"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest:02} min"


def _progress(info: RunInfo) -> str:
    """Of a run whose files are damaged it is not known how far it was to go."""
    return f"{info.step:,} of {info.steps:,}" if info.steps else f"{info.step:,}"


def _short(value: Any) -> str:
    words = said(str(value))
    return words if len(words) <= 48 else f"…{words[-47:]}"


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _rounded(columns: dict[Any, list[float | None]]) -> dict[Any, list[float | None]]:
    """Five figures are more than can be seen, and a fraction of the bytes."""
    return {
        name: [None if value is None else float(f"{value:.5g}") for value in column]
        if name not in ("step", "tokens")
        else [None if value is None else round(value) for value in column]
        for name, column in columns.items()
    }
