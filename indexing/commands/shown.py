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
