"""A button that starts long work, and the one beside it that stops it. See `services` for stopping."""

import functools
import html
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from app import line, ongoing, policy, services, settings
from app.errors import OUR_FAULT, shows_errors
from app.line import Line
from app.tasks import NOTHING

_lines: defaultdict[str, Line] = defaultdict(Line)  # by the name of the queue
_PATIENCE = 1.0  # seconds between two looks at one's place in line


def wire(
    triggers: Sequence[Callable],
    work: Callable,
    *,
    inputs: Sequence[gr.components.Component],
    outputs: Sequence[gr.components.Component],
    buttons: Sequence[gr.Button],
    progress: gr.components.Component,
    queue: str,
    session: Callable[[gr.Request], str],
    waiting: str,
    meanwhile: str = "",
    running: gr.BrowserState | None = None,
) -> Dependency:
    """Run the generator `work` on any of `triggers`, one visitor at a time in `queue`, first come first
    served. The event of the work is returned, for what follows it.

    outputs  `progress` is one of them: it says how many come first, and about how long that takes
    buttons  (start, stop): one of them can be pressed at a time, also after an error
    session  under which the visitor's wish to stop this work is kept; an old wish is forgotten at the start
    waiting  said in `progress` until the server answers
    meanwhile  said to those in line, behind their place in it
    running  where the browser keeps what goes on, if it is to go on when the page goes away; see `resume`
    """

    def begin(request: gr.Request) -> tuple[Any, ...]:
        services.forget_stop(session(request))
        return gr.Button(interactive=False), gr.Button(interactive=True), {"text": waiting, "tone": "busy"}

    def end() -> tuple[gr.Button, gr.Button]:
        return gr.Button(interactive=True), gr.Button(interactive=False)

    def fail() -> tuple[Any, ...]:
        return *end(), "", *(NOTHING for _ in kept)

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    shown = [*buttons, progress]
    said = outputs.index(progress)
    in_turn = taking_turns(work, _lines[queue], len(outputs), said, session, meanwhile)
    kept = [] if running is None else [running]
    if kept:
        in_turn = going_on(in_turn, len(outputs), session, _lines[queue].is_wanted)
    worked = gr.on(triggers, begin, outputs=shown, queue=False, **quiet).then(
        in_turn,
        inputs=inputs,
        outputs=[*outputs, *kept],
        # Those in line wait inside of the handler, where they can be told so.
        concurrency_id=f"in line for {queue}",
        concurrency_limit=settings.MAX_IN_LINE + 2,
        # The last work's answer may be there before its event is over: what is begun then is not dropped.
        trigger_mode="multiple",
        **quiet,
    )
    worked.then(end, outputs=buttons, queue=False, **quiet)
    worked.failure(fail, outputs=[*shown, *kept], queue=False, **quiet)  # `then` does not follow an error
    return worked


def taking_turns(
    work: Callable,
    served: Line,
    num_outputs: int,
    said: int,
    session: Callable[[gr.Request | None], str],
    meanwhile: str = "",
) -> Callable:
    """`work`, whose generators run one after the other; output number `said` tells those who wait."""

    @shows_errors
    @functools.wraps(work)
    def in_turn(*args: Any, **named: Any) -> Iterator[Any]:
        request = _request(args)
        with served.joined(*policy.place_in_line(request)) as ticket:
            before = served.before(ticket)
            while before:
                words = f"{line.told(before, served.seconds(before))} {meanwhile}".rstrip()
                yield _only({"text": words, "tone": "busy"}, said, num_outputs)
                if services.stop_requested(session(request)):
                    services.forget_stop(session(request))
                    yield _only("Left the line.", said, num_outputs)
                    return
                before = served.before(ticket, _PATIENCE)
            with served.served():
                yield from work(*args, **named)

    return in_turn


def going_on(
    work: Callable,
    num_outputs: int,
    session: Callable[[gr.Request | None], str],
    is_wanted: Callable[[], bool] = lambda: False,
) -> Callable:
    """`work`, which is not over when its page goes away; one more output, the last, is what the browser keeps
    of it meanwhile."""

    @shows_errors
    @functools.wraps(work)
    def begun(*args: Any, **named: Any) -> Iterator[Any]:
        request = _request(args)
        own, who = session(request), policy.visitor(request)
        one = ongoing.begin(work(*args, **named), num_outputs, own, who, is_wanted)
        known = {"id": one.id, "server": services.STARTED}
        for values in ongoing.watch(one, own):
            yield *values, known  # each time, see `resume`
        yield *(gr.skip() for _ in range(num_outputs)), NOTHING

    return begun


@dataclass(frozen=True)
class Found:
    """What became of work that the browser remembers. values: the last of each output, to begin with · told:
    the sentence that it failed with · interrupted: by a restart of the server · forgotten: it is over, and
    what came of it is gone"""

    one: ongoing.Ongoing | None = None
    values: tuple[Any, ...] = ()
    told: str = ""
    interrupted: bool = False
    forgotten: bool = False


def found(known: Any, who: policy.Visitor) -> Found:
    """known: what a browser keeps, which may be anything"""
    if not isinstance(known, dict) or not isinstance(known.get("id"), str):
        return Found()
    one = ongoing.find(known["id"], who)
    if one is None:
        restarted = known.get("server") != services.STARTED
        return Found(interrupted=restarted, forgotten=not restarted)
    if one.error is not None:
        return Found(told=html.unescape(getattr(one.error, "message", OUR_FAULT)))
    return Found(one if one.active else None, tuple(one.values))


def resume(num_outputs: int, said: int, session: Callable[[gr.Request | None], str]) -> Callable:
    """A handler that watches what was begun before the page was loaded anew: the id of what goes on -> (the
    outputs of `wire`, what the browser keeps, its buttons). Output number `said` is the progress.

    The buttons are set with each answer, though the first would do: two that arrive before the page knows
    their event are taken as one, the second, and what only the first one said is lost."""

    @shows_errors
    def watched(known: str | None = None, request: gr.Request | None = None) -> Iterator[tuple[Any, ...]]:
        one = ongoing.find(known, policy.visitor(request))
        if one is None:
            yield *_only(gr.skip(), said, num_outputs), gr.skip(), gr.skip(), gr.skip()
            return
        error = None
        try:
            for values in ongoing.watch(one, session(request)):
                yield *values, gr.skip(), gr.Button(interactive=False), gr.Button(interactive=True)
        except Exception as failed:
            error = failed
        yield (
            *_only("" if error else gr.skip(), said, num_outputs),
            NOTHING,
            gr.Button(interactive=True),
            gr.Button(interactive=False),
        )
        if error:
            raise error

    return watched


def _only(told: Any, said: int, num_outputs: int) -> tuple[Any, ...]:
    """Of so many outputs number `said` is told something, the others stay as they are."""
    return tuple(told if place == said else gr.skip() for place in range(num_outputs))


def _request(args: Sequence[Any]) -> gr.Request | None:
    return next((one for one in args if isinstance(one, gr.Request)), None)


@contextmanager
def turn(queue: str, request: gr.Request | None = None) -> Iterator[None]:
    """One's turn in `queue`, for work that nobody watches while it waits."""
    served = _lines[queue]
    with served.joined(*policy.place_in_line(request)) as ticket:
        while served.before(ticket, _PATIENCE):
            pass
        with served.served():
            yield


def wire_stop(button: gr.Button, stop: Callable, progress: gr.components.Component, words: str) -> None:
    """Let `button` call `stop`. The page itself says `words` at once: an answer of the server could come
    after the last word of what was stopped, and stay there."""
    said = json.dumps({"text": words, "tone": "busy"})
    button.click(None, outputs=progress, js=f"() => ({said})", api_visibility="private")
    button.click(stop, queue=False, show_progress="hidden", api_visibility="private")
