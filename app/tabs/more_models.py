"""More models, folded into Explore: language models to be fetched, on which RETRO-fitted ones stand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from app import policy, services, text, work
from app.errors import shows_errors
from app.parts import Facts, StatusLine
from app.policy import Action, permit
from indexing import paths
from indexing.errors import InputError
from retro_core.bases import BaseInfo, Converting, Fetched, FetchEvent, Fetching, fetch


def build(model: gr.Dropdown) -> tuple[gr.Accordion, gr.Radio]:
    """Lay out the folded part and wire it. Once a base is here, what is fitted to it is chosen in `model`."""
    with (
        gr.Accordion("More models", open=False, elem_classes="fold", elem_id="more-models") as folded,
        gr.Row(),
    ):
        with gr.Column(scale=4, min_width=280):
            base = gr.Radio(
                choices=base_choices(),
                value=None,
                label="Language models to RETRO-fit",
                info=text.FITTING,
                elem_id="base",
            )
        with gr.Column(scale=6, min_width=280):
            facts = Facts(describe(None), elem_id="base-facts")
            with gr.Row(visible=False, elem_classes="fetch-row") as buttons:
                fetch_button = gr.Button("Fetch", variant="primary", size="md", elem_id="fetch", min_width=90)
                cancel_button = gr.Button(
                    "Cancel", interactive=False, size="md", elem_id="cancel-fetch", min_width=70
                )
            progress = StatusLine(elem_id="fetch-progress")

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    base.change(
        show_base, inputs=base, outputs=[facts, buttons, fetch_button, progress], queue=False, **quiet
    )
    work.wire(
        [fetch_button.click],
        fetch_base,
        inputs=base,
        outputs=[progress, facts, buttons, base, model],
        buttons=[fetch_button, cancel_button],
        progress=progress,
        queue="fetch",
        session=_session,
        waiting="Waiting for another visitor's fetch…",
    )
    cancel_button.click(cancel, outputs=progress, queue=False, **quiet)
    return folded, base


def model_choices() -> list[tuple[str, str]]:
    """(label, name) of every model."""
    return [(_model_label(info), info.name) for info in services.models()]


def _model_label(info: Any) -> str:
    if info.state != "here":
        return f"{info.name} · needs {info.base}"
    if not info.fitted:
        return f"{info.name} · not fitted yet"
    return f"{info.name} · on {info.base}" if info.base else info.name


def base_choices() -> list[tuple[str, str]]:
    """(label, name) of every base that can be had."""
    return [(f"{info.name} · {info.state}", info.name) for info in services.bases()]


def _session(request: gr.Request | None) -> str:
    """Under which stopping is asked for; apart from the visitor's other work."""
    return f"fetch {(request.session_hash if request else None) or ''}"


def _base(name: str | None) -> BaseInfo:
    """Raises InputError unless it is one of the list: nothing else is fetched for a page."""
    info = next((info for info in services.bases() if info.name == name), None)
    if info is None:
        raise InputError(f"There is no {name!r} among the models to be fetched. Choose one of the list.")
    return info


@shows_errors
def show_base(name: str | None, request: gr.Request | None = None) -> tuple[Any, Any, Any, Any]:
    """(facts, row of buttons, the button to fetch, progress): what it is, before anything is fetched."""
    info = _base(name) if name else None
    refused = policy.refusal(Action.FETCH_MODEL, policy.visitor(request))
    can = info is not None and info.state != "here" and not refused
    button = gr.Button(_offer(info)) if can else gr.skip()
    return describe(info, refused), gr.Row(visible=can), button, ""


def _offer(info: BaseInfo) -> str:
    what = f"Fetch {_size(info.download)}" if info.download else f"Unpack {_size(info.disk)}"
    return f"{what} ({info.licence})"


def describe(info: BaseInfo | None, refused: str = "") -> dict[str, Any]:
    """The value of `Facts`. refused: why it is not fetched here, if it is not"""
    if info is None:
        return {"notes": [text.NO_BASE_CHOSEN]}
    here = info.state == "here"
    facts = [["Licence", info.licence]]
    if info.parameters:
        facts.append(["Parameters", f"{info.parameters / 1e6:,.0f} M"])
    if not here:
        facts.append(["To fetch", _size(info.download) if info.download else "nothing, it is installed"])
    facts += [["On disk", _size(info.disk)], ["From", info.source]]
    notes, commands = [], []
    fitted = [model.name for model in services.fitted_to(info)]
    if fitted:
        notes.append(
            f"Fitted to it: {', '.join(fitted)}. " + ("Choose one above, beside Run." if here else "")
        )
    elif here:
        notes.append(text.TO_FIT)
        commands = fitting_commands(info)
    if not here and refused:
        notes.append(refused)
    return {"title": info.title, "facts": facts, "notes": notes, "commands": commands}


def fitting_commands(info: BaseInfo) -> list[str]:
    """From a file of training texts to a fitted model, in the base's own tokens."""
    texts = _shown(paths.datastores_dir() / "fit-texts")
    return [
        f"python -m indexing build fit-texts train.jsonl --tokenizer {_shown(info.folder)}",
        f"python -m indexing neighbours --query {texts} --index {texts} --out fit-set",
        f"python -m retro_core train --base {info.name} --data-spec fit-set/data.spec.json --run my-fit",
        "python -m retro_core export my-fit my-model --half",
    ]


def _shown(path: Path) -> str:
    """A path as a shell takes it, the user's home as ~."""
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


@shows_errors
def fetch_base(
    name: str | None, request: gr.Request | None = None
) -> Iterator[tuple[Any, Any, Any, Any, Any]]:
    """Yield (progress, facts, row of buttons, choice of base, choice of model)."""
    permit(Action.FETCH_MODEL, request)
    info = _base(name)
    session = _session(request)
    unchanged = (gr.skip(),) * 4
    yield {"text": "Starting…", "tone": "busy"}, *unchanged
    events = fetch(info.name)
    try:
        for event in events:
            if isinstance(event, Fetched):
                yield _fetched(_base(name))
                return
            if services.stop_requested(session):
                yield "Cancelled; nothing was kept.", *unchanged
                return
            yield fetch_progress(event), *unchanged
    finally:
        events.close()  # also when the page goes away: whatever is unfinished is removed
        services.forget_stop(session)


def _fetched(info: BaseInfo) -> tuple[Any, Any, Any, Any, Any]:
    chosen = next((model.name for model in services.fitted_to(info)), info.name)
    model = gr.Dropdown(choices=model_choices(), value=chosen)
    progress = {"text": f"{info.name} is here. {chosen} is chosen above, beside Run.", "tone": "good"}
    return progress, describe(info), gr.Row(visible=False), gr.Radio(choices=base_choices()), model


def fetch_progress(event: FetchEvent) -> Any:
    """The progress line of one event."""
    if isinstance(event, Fetching):
        if not event.total:
            return {"text": f"Fetching: {_size(event.done)}", "tone": "busy"}
        words = f"Fetching: {event.done / 1e6:,.0f} of {_size(event.total)}"
        return {"text": words, "fraction": event.done / event.total, "tone": "busy"}
    if isinstance(event, Converting):
        words = f"Unpacking: {event.done} of {event.total} tensors"
        return {"text": words, "fraction": event.done / max(1, event.total), "tone": "busy"}
    return gr.skip()


@shows_errors
def cancel(request: gr.Request | None = None) -> dict[str, Any]:
    services.request_stop(_session(request))
    return {"text": "Cancelling…", "tone": "busy"}
