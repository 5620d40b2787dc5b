"""A button that starts long work, and the one beside it that stops it. See `services` for stopping."""

import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio.events import Dependency

from app import line, policy, services, settings
from app.errors import shows_errors
from app.line import Line

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
) -> Dependency:
    """Run the generator `work` on any of `triggers`, one visitor at a time in `queue`, first come first
    served. The event of the work is returned, for what follows it.

    outputs  `progress` is one of them: it says how many come first, and about how long that takes
    buttons  (start, stop): one of them can be pressed at a time, also after an error
    session  under which the visitor's wish to stop this work is kept; an old wish is forgotten at the start
    waiting  said in `progress` until the server answers
    meanwhile  said to those in line, behind their place in it
    """

    def begin(request: gr.Request) -> tuple[Any, ...]:
        services.forget_stop(session(request))
        return gr.Button(interactive=False), gr.Button(interactive=True), {"text": waiting, "tone": "busy"}

    def end() -> tuple[gr.Button, gr.Button]:
        return gr.Button(interactive=True), gr.Button(interactive=False)

    def fail() -> tuple[Any, ...]:
        return *end(), ""

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    shown = [*buttons, progress]
    said = outputs.index(progress)
    in_turn = taking_turns(work, _lines[queue], len(outputs), said, session, meanwhile)
    worked = gr.on(triggers, begin, outputs=shown, queue=False, **quiet).then(
        in_turn,
        inputs=inputs,
        outputs=outputs,
        # Those in line wait inside of the handler, where they can be told so.
        concurrency_id=f"in line for {queue}",
        concurrency_limit=settings.MAX_IN_LINE + 2,
        **quiet,
    )
    worked.then(end, outputs=buttons, queue=False, **quiet)
    worked.failure(fail, outputs=shown, queue=False, **quiet)  # `then` does not follow an error
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

    def only(told: Any) -> tuple[Any, ...]:
        return tuple(told if place == said else gr.skip() for place in range(num_outputs))

    @shows_errors
    @functools.wraps(work)
    def in_turn(*args: Any, **named: Any) -> Iterator[Any]:
        request = next((one for one in args if isinstance(one, gr.Request)), None)
        with served.joined(*policy.place_in_line(request)) as ticket:
            before = served.before(ticket)
            while before:
                words = f"{line.told(before, served.seconds(before))} {meanwhile}".rstrip()
                yield only({"text": words, "tone": "busy"})
                if services.stop_requested(session(request)):
                    services.forget_stop(session(request))
                    yield only("Left the line.")
                    return
                before = served.before(ticket, _PATIENCE)
            with served.served():
                yield from work(*args, **named)

    return in_turn


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
