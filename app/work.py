"""A button that starts long work, and the one beside it that stops it. See `services` for stopping."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from app import services


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
) -> None:
    """Run the generator `work` on any of `triggers`, one visitor at a time in `queue`.

    buttons  (start, stop): one of them can be pressed at a time, also after an error
    session  under which the visitor's wish to stop this work is kept; an old wish is forgotten at the start
    waiting  said in `progress` until `work` reports, as another visitor's work may come first
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
    worked = gr.on(triggers, begin, outputs=shown, queue=False, **quiet).then(
        work, inputs=inputs, outputs=outputs, concurrency_id=queue, concurrency_limit=1, **quiet
    )
    worked.then(end, outputs=buttons, queue=False, **quiet)
    worked.failure(fail, outputs=shown, queue=False, **quiet)  # `then` does not follow an error
