"""How commands show what they do: results on stdout, progress on stderr."""

import json
import sys
import time
from collections.abc import Iterable
from typing import Protocol

# Seconds between two lines about one stage: on a terminal, where they overwrite each other, and in a log.
_PAUSES = (0.2, 2.0)


class Event(Protocol):
    """What long work yields; the last one's `message` is its result."""

    stage: str
    done: int
    total: int
    message: str


def follow(events: Iterable[Event]) -> str:
    """Drain long work: progress on stderr with the time that is left, now and then; the last message."""
    stage, begun, shown, message = "", 0.0, 0.0, ""
    pause = _PAUSES[0] if sys.stderr.isatty() else _PAUSES[1]
    for event in events:
        now, message = time.monotonic(), event.message
        if event.stage == "done":
            continue
        first = event.stage != stage
        if first:
            stage, begun = event.stage, now
        if first or now - shown >= pause or 0 < event.total == event.done:
            progress(event.stage, event.done, event.total, _left(event, now - begun))
            shown = now
    return message


def _left(event: Event, seconds: float) -> str:
    """For example ', 92 a second, 3 min left'."""
    if seconds < 2 or not 0 < event.done < event.total:
        return ""
    rate = event.done / seconds
    left = (event.total - event.done) / rate
    return f", {rate:,.0f} a second, {f'{left / 60:,.0f} min' if left > 90 else f'{left:.0f} s'} left"


def progress(what: str, done: int, total: int, note: str = "") -> None:
    """One line, overwritten on a terminal and repeated in a log."""
    end = "\r" if sys.stderr.isatty() and done < total else "\n"
    of = f" of {total:,}" if total else ""
    print(f"{what}: {done:,}{of}{note}", end=end, file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def measured(measure: str, distance: float | None, score: float | None) -> str:
    """What a neighbour was ordered by, and how far it is, as far as either is known; see `Neighbours`."""
    facts = [] if score is None else [f"{measure} {score:.3f}" if score >= 0.1 else f"{measure} {score:.4f}"]
    facts += [] if distance is None else [f"squared distance {distance:.3f}"]
    return ", ".join(facts or [measure])
