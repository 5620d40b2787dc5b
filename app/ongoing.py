"""Writing that goes on while its page is loaded anew, since a handler ends with its page.

A thread drains the generator, and the page watches; the browser keeps the id by which it finds it again.
When nobody watches any more it goes on: for `settings.ALONE_AT_MOST` seconds, but once somebody else waits
for the model, only as long as a page takes to be loaded anew. Then it is stopped as by the button, so that
whoever comes back finds what was written until then. After a restart of the server the id leads to nothing.
"""

import contextvars
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from app import services, settings
from app.policy import Visitor

_moved = threading.Condition()
_ongoing: OrderedDict[str, "Ongoing"] = OrderedDict()  # oldest first


@dataclass(eq=False)
class Ongoing:
    """owner: whose it is, None for whoever has the id · session: under which a wish to stop it is kept
    is_wanted: whether others wait for what it takes · values: the last of each output · moves: when each was
    last another · watching: sessions of the pages that do · left: when the last of them went away"""

    id: str
    owner: str | None
    session: str
    is_wanted: Callable[[], bool]
    values: list[Any]
    moves: list[int]
    move: int = 0
    active: bool = True
    error: Exception | None = None
    watching: list[str] = field(default_factory=list)
    left: float = field(default_factory=time.monotonic)

    def is_abandoned(self) -> bool:
        away = time.monotonic() - self.left
        patience = settings.ALONE_BEFORE_OTHERS if self.is_wanted() else settings.ALONE_AT_MOST
        return not self.watching and away > patience


def begin(
    steps: Iterator[tuple[Any, ...]],
    num_outputs: int,
    session: str,
    who: Visitor,
    is_wanted: Callable[[], bool] = lambda: False,
) -> Ongoing:
    """Let `steps`, which yields values for `num_outputs` outputs, go on by itself."""
    owner = who.owner if who.keeps else None
    values = [gr.skip() for _ in range(num_outputs)]
    new = Ongoing(services.new_id(), owner, session, is_wanted, values, [0] * num_outputs)
    with _moved:
        _ongoing[new.id] = new
        for ended in [one for one in _ongoing.values() if not one.active][: -settings.TRACES_KEPT]:
            del _ongoing[ended.id]
    # A GPU is lent to the visitor whom Gradio knows in the context of the handler.
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(_drain, new, steps), daemon=True, name="writing").start()
    return new


def find(known: Any, who: Visitor) -> Ongoing | None:
    """None if there is none of this id, or no longer, or it is another visitor's."""
    with _moved:
        found = _ongoing.get(known) if isinstance(known, str) else None
    return found if found and (found.owner is None or who.owns(found.owner)) else None


def watch(one: Ongoing, session: str) -> Iterator[tuple[Any, ...]]:
    """What its outputs are now, then whatever changes, until it has ended; what is missed in between is not
    made up for. Closing this leaves it be. Raises the error that it ended with."""
    seen = -1
    with _watched(one, session):
        while True:
            with _moved:
                while one.active and one.move == seen:
                    _moved.wait()
                values, last, active = _since(one, seen), one.move, one.active
            if last != seen:
                seen = last
                yield values
            if not active:
                if one.error is not None:
                    raise one.error
                return


def stop(session: str) -> None:
    """Ask that to stop which this page began or watches."""
    with _moved:
        watched = [one.session for one in _ongoing.values() if one.active and session in one.watching]
    for begun_by in {session, *watched}:
        services.request_stop(begun_by)


@contextmanager
def _watched(one: Ongoing, session: str) -> Iterator[None]:
    with _moved:
        one.watching.append(session)
    try:
        yield
    finally:
        with _moved:
            one.watching.remove(session)
            one.left = time.monotonic()


def _since(one: Ongoing, seen: int) -> tuple[Any, ...]:
    return tuple(
        value if moved > seen else gr.skip() for value, moved in zip(one.values, one.moves, strict=True)
    )


def _drain(one: Ongoing, steps: Iterator[tuple[Any, ...]]) -> None:
    error = None
    try:
        for values in steps:
            with _moved:
                one.move += 1
                for place, value in enumerate(values):
                    if value != gr.skip():
                        one.values[place], one.moves[place] = value, one.move
                _moved.notify_all()
            if one.is_abandoned():
                services.request_stop(one.session)
    except Exception as failed:
        error = failed
    with _moved:
        one.active, one.error = False, error
        _moved.notify_all()
