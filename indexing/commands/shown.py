"""How commands show what they do: results on stdout, progress on stderr."""

import json
import sys


def progress(what: str, done: int, total: int) -> None:
    """One line, overwritten on a terminal and repeated in a log."""
    end = "\r" if sys.stderr.isatty() and done < total else "\n"
    of = f" of {total:,}" if total else ""
    print(f"{what}: {done:,}{of}", end=end, file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def measured(measure: str, distance: float | None, score: float | None) -> str:
    """What a neighbour was ordered by, and how far it is, as far as either is known; see `Neighbours`."""
    facts = [] if score is None else [f"{measure} {score:.3f}" if score >= 0.1 else f"{measure} {score:.4f}"]
    facts += [] if distance is None else [f"squared distance {distance:.3f}"]
    return ", ".join(facts or [measure])
