"""Visitors who want the same thing, one after the other, and told how long they wait."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app import settings
from indexing.errors import InputError

_REMEMBERED = 8  # of those who were served last, to tell how long one takes
_ASSUMED = 6.0  # seconds that one takes, before anybody was served


@dataclass(eq=False)
class Ticket:
    whose: str


class Line:
    """Safe to use from several threads. Each visitor has a ticket; the first in line is being served."""

    def __init__(self) -> None:
        self._moved = threading.Condition()
        self._tickets: list[Ticket] = []
        self._took: deque[float] = deque(maxlen=_REMEMBERED)

    @contextmanager
    def joined(self, whose: str = "", most: int = 0) -> Iterator[Ticket]:
        """A ticket, given back at the end. Raises InputError if too many wait, or as many as `most` of
        `whose`."""
        ticket = Ticket(whose)
        with self._moved:
            if most and sum(other.whose == whose for other in self._tickets) >= most:
                raise InputError(
                    f"{most} texts of yours are in line already. Wait until they have had their turn; the "
                    "recorded examples can be looked at meanwhile."
                )
            if len(self._tickets) > settings.MAX_IN_LINE:
                raise InputError(
                    f"{settings.MAX_IN_LINE} visitors are waiting already. Try again in a minute; the "
                    "recorded examples can be looked at meanwhile."
                )
            self._tickets.append(ticket)
        try:
            yield ticket
        finally:
            with self._moved:
                self._tickets.remove(ticket)
                self._moved.notify_all()

    def before(self, ticket: Ticket, patience: float = 0.0) -> int:
        """How many come first, the one who is being served among them: 0 means that it is one's turn.

        patience  seconds to wait for the line to move, if somebody comes first
        """
        with self._moved:
            place = self._tickets.index(ticket)
            if place and patience:
                self._moved.wait(patience)
                place = self._tickets.index(ticket)
        return place

    @contextmanager
    def served(self) -> Iterator[None]:
        """Around what the first in line came for: its time tells others how long they wait; that of what was
        refused would not."""
        started = time.monotonic()
        yield
        with self._moved:
            self._took.append(time.monotonic() - started)

    def is_wanted(self) -> bool:
        """Whether others wait for whoever is being served."""
        with self._moved:
            return len(self._tickets) > 1

    def seconds(self, before: int) -> float:
        """About how long until it is the turn of somebody who has so many before."""
        with self._moved:
            took = sorted(self._took)
        return before * (took[len(took) // 2] if took else _ASSUMED)


def told(before: int, seconds: float) -> str:
    """What a visitor who waits is told."""
    if before == 1:
        return f"Next in line, about {_rounded(seconds)} s…"
    return f"{_ordinal(before)} in line, about {_rounded(seconds)} s…"


def _rounded(seconds: float) -> int:
    return max(1, round(seconds)) if seconds < 10 else round(seconds / 5) * 5


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 < number % 100 < 14 else ending}"
