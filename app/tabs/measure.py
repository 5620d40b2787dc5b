"""Measure: does retrieval help a model, by how much and why, on text that it has not seen."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from app import owners, policy, services, settings, typed
from app.errors import shows_errors
from app.measure import MeasureView
from app.parts import Facts, StatusLine
from app.policy import Action, Visitor, permit
from app.tabs import measure_export, measure_text, measure_view, more_models
from app.tabs import measure_words as words
from indexing import paths
from indexing.chunking import CHUNK_SIZE
from indexing.corpus import SUFFIXES
from indexing.errors import InputError
from retro_core import measurements
from retro_core.config import EvaluationConfig, bounds
from retro_core.evaluation.result import HTML_FILE, RESULT_FILE, load_result
from retro_core.measurements import Measurement, Order

# Values of the lists that are no measurement: no name has a colon.
RECORDED, NONE = ":recorded", ":none"
_LISTED = 50  # measurements in the list
_DOCUMENTS = (1, 60, 12)  # fewest, most, at first
_FILTERS = [("– keep all –", 0.0), ("1/2", 0.5), ("1/4", 0.25), ("1/8", 0.125)]
_PAUSE = 2.0  # seconds between two looks at a measurement that is going on


@dataclass
class Measure:
    """What the rest of the page connects to: choices that change while it is open; see `refresh`."""

    choices: list[gr.components.Component]


def build(tab: gr.Tab) -> Measure:
    """Lay out the tab, inside the `gr.Tab` that is `tab`, and wire it."""
    refusal = policy.refusal(Action.EVALUATE)
    gr.Markdown(words.INTRO, elem_classes="compare-intro")
    with gr.Row(elem_classes="prompt-row"):
        with gr.Column(scale=5, min_width=300):
            source = gr.Radio(
                choices=[(label, name) for name, label in words.SOURCES.items()],
                value=measure_text.HELD_OUT,
                label="Measure on",
                elem_id="measure-source",
            )
            told = gr.Markdown(words.SOURCE_TOLD[measure_text.HELD_OUT], elem_id="measure-told")
            with gr.Row(visible=False) as own:
                pasted = gr.Textbox(
                    label="Text",
                    placeholder="Paste some pages: a few thousand words make a measurement, fewer a sketch.",
                    lines=5,
                    max_lines=12,
                    elem_id="measure-text",
                    scale=3,
                    min_width=260,
                )
                files = gr.File(
                    label="or files",
                    file_count="multiple",
                    file_types=list(SUFFIXES),
                    height=150,
                    elem_id="measure-files",
                    scale=2,
                    min_width=200,
                )
            amount = gr.Radio(
                choices=[(label, name) for name, (label, _, _) in words.AMOUNTS.items()],
                value="quick",
                label="How much",
                elem_id="measure-amount",
            )
        with gr.Column(scale=2, min_width=250, elem_classes="prompt-side"):
            model = gr.Dropdown(
                choices=more_models.model_choices(),
                value=paths.DEMO_MODEL,
                label="Model",
                elem_id="measure-model",
            )
            datastore = gr.Dropdown(
                choices=services.datastore_choices(),
                value=services.default_datastore(),
                label="Reads from",
                elem_id="measure-datastore",
            )
            with gr.Row(elem_classes="run-row"):
                run = gr.Button(
                    "Measure", variant="primary", interactive=not refusal, elem_id="measure-run", min_width=90
                )
                stop_button = gr.Button("Stop", interactive=False, elem_id="measure-stop", min_width=70)
                go_on = gr.Button("Go on", visible=False, elem_id="measure-go-on", min_width=70)
    with gr.Accordion("Settings", open=False, elem_classes="fold"), gr.Row():
        low, high, at_first = _DOCUMENTS
        documents = gr.Slider(
            low, high, step=1, value=at_first, label="Documents", elem_id="measure-documents", min_width=180,
            info="at most, of the bundled pages or the datastore: always the same ones, to be compared",
        )  # fmt: skip
        num_neighbours = gr.Slider(1, 10, step=1, **_named("num_neighbours", "Neighbours (k)"))
        leakage = gr.Dropdown(
            choices=_FILTERS,
            value=0.0,
            label="Leave near-copies out",
            info="neighbours that have more than this share of the next chunk in one run",
            elem_id="measure-leakage",
            min_width=180,
        )
        swap = gr.Checkbox(
            False,
            label="Fact swap too",
            info="prompts about two editions of the Factbook; minutes more",
            elem_id="measure-swap",
        )
    progress = StatusLine(refusal, elem_id="measure-progress")
    if refusal:
        with gr.Row(elem_classes="step-row"):
            Facts({"commands": [words.COMMAND]}, elem_id="measure-command")
            if policy.on_a_space():
                gr.DuplicateButton("Duplicate this Space", size="md", elem_id="measure-duplicate")
    with gr.Row(elem_classes="measure-row"):
        chosen = gr.Dropdown(
            choices=_recorded_choice(),
            value=RECORDED,
            label="Show",
            elem_id="measure-shown",
            scale=4,
            min_width=220,
        )
        beside = gr.Dropdown(
            choices=[("– nothing –", NONE)], value=NONE, label="Beside it", elem_id="measure-beside", scale=3,
            min_width=180,
        )  # fmt: skip
    with gr.Row(elem_classes="chips"):
        exports = {
            kind: gr.Button(label, size="sm", min_width=0, elem_id=f"measure-export-{kind}")
            for kind, (label, *_) in measure_export.KINDS.items()
        }
        remove = gr.Button("Delete…", size="sm", min_width=0, interactive=False, elem_id="measure-delete")
    with gr.Row(visible=False, elem_classes="step-row") as question:
        asked_to = StatusLine(elem_id="measure-question")
        yes = gr.Button("Delete it", size="sm", variant="stop", min_width=0, elem_id="measure-delete-yes")
        no = gr.Button("Keep it", size="sm", min_width=0, elem_id="measure-delete-no")
    view = MeasureView(_recorded_value(), elem_id="measure-view")
    saved = gr.JSON(visible=False)
    drawn = gr.State(_drawn(None, NONE, None))
    doomed = gr.State(None)  # what the question is about: another one may be chosen before it is answered
    timer = gr.Timer(_PAUSE, active=False)

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    seen = [chosen, beside, drawn]
    shown = [chosen, beside, drawn, view, progress, run, stop_button, go_on, remove, timer]
    source.change(show_source, inputs=source, outputs=[told, own], queue=False, **quiet)
    typed.keep([pasted])
    wanted = [source, pasted, files, amount, model, datastore, documents, num_neighbours, leakage, swap]
    # Its click cannot be repeated while it is answered: reading files may take seconds.
    run.click(
        lambda: (gr.Button(interactive=False), {"text": "Reading the text…", "tone": "busy"}),
        outputs=[run, progress],
        queue=False,
        **quiet,
    )
    begun = run.click(begin, inputs=wanted, outputs=chosen, trigger_mode="once", **quiet)
    went_on = go_on.click(resume, inputs=chosen, outputs=chosen, **quiet)
    stopped = stop_button.click(stop, inputs=chosen, outputs=chosen, **quiet)
    deleted = yes.click(delete, inputs=doomed, outputs=[chosen, question], **quiet)
    for event in (begun, went_on, stopped, deleted):
        event.then(look, inputs=seen, outputs=shown, **quiet)
        event.failure(look, inputs=seen, outputs=shown, **quiet)  # `then` does not follow an error
    chosen.input(lambda: gr.Row(visible=False), outputs=question, queue=False, **quiet)
    for event in (chosen.input, beside.input):
        event(look, inputs=seen, outputs=shown, **quiet)
    timer.tick(look, inputs=seen, outputs=shown, queue=False, **quiet)
    tab.select(arrive, inputs=seen, outputs=shown, queue=False, **quiet)
    remove.click(ask_to_delete, inputs=chosen, outputs=[question, asked_to, doomed], queue=False, **quiet)
    no.click(lambda: gr.Row(visible=False), outputs=question, queue=False, **quiet)
    for kind, button in exports.items():
        button.click(_exporter(kind), inputs=chosen, outputs=saved, **quiet).success(
            None, inputs=saved, js=measure_export.SAVE_JS, api_visibility="private"
        )
    return Measure([model, datastore])


def refresh(model: str | None, datastore: str | None, request: gr.Request | None = None) -> tuple[Any, Any]:
    """(choices of models, of datastores): what there is now. What is chosen stays while it is there."""
    stores = services.datastore_choices(policy.visitor(request))
    kept = datastore if datastore in [name for _, name in stores] else services.default_datastore()
    models = more_models.model_choices()
    chosen = model if model in [name for _, name in models] else paths.DEMO_MODEL
    return gr.Dropdown(choices=models, value=chosen), gr.Dropdown(choices=stores, value=kept)


def _named(name: str, label: str) -> dict[str, Any]:
    """Default and help text of a setting, for its control."""
    _, _, default, help_text = bounds(EvaluationConfig, name)
    return {
        "value": default,
        "label": label,
        "info": help_text,
        "elem_id": f"measure-{name}",
        "min_width": 180,
    }


@shows_errors
def show_source(source: str) -> tuple[Any, Any]:
    """(what is measured on, in words; whether a text can be given)."""
    if source not in words.SOURCES:
        raise InputError(
            f"Expected one of {', '.join(words.SOURCES)}, got {source[:50]!r}. Choose one of them."
        )
    return words.SOURCE_TOLD[source], gr.Row(visible=source == measure_text.MINE)


# ---------------------------------------------------------------------------------------------- begin


@shows_errors
def begin(
    source: str,
    pasted: str | None,
    files: list[str] | None,
    amount: str,
    model: str,
    datastore: str | None,
    documents: int,
    num_neighbours: int,
    leakage: float,
    swap: bool,
    request: gr.Request | None = None,
) -> Any:
    """Begin a measurement in a process of its own; it is chosen."""
    who = permit(Action.EVALUATE, request)
    if amount not in words.AMOUNTS:
        raise InputError(
            f"Expected one of {', '.join(words.AMOUNTS)}, got {amount[:50]!r}. Choose one of them."
        )
    low, high, _ = _DOCUMENTS
    if not low <= documents <= high:
        raise InputError(f"Expected {low} to {high} documents, got {documents:g}. Choose a number between.")
    if leakage not in [share for _, share in _FILTERS]:
        raise InputError("Expected a share of the list for near-copies to leave out. Choose one of it.")
    if not datastore:
        raise InputError("There is no datastore to read from. Make one in Corpus, then measure with it.")
    info = services.model_info(model)
    if not info.fitted:
        raise InputError(
            f"{model} is not RETRO-fitted yet: neighbours change nothing that it writes, so there is nothing "
            "to measure. More models, in Explore, shows how to fit it."
        )
    services.snapshot(datastore, who)
    found = measure_text.documents(source, datastore, pasted, files, int(documents))
    tokenizer = services.tokenizer(model)
    if all(len(tokenizer.encode(one.text[: CHUNK_SIZE * 20])) <= CHUNK_SIZE for one in found):
        raise InputError(
            f"The text has fewer than {CHUNK_SIZE + 1} tokens, and the first {CHUNK_SIZE} read nothing. Give "
            "a longer one: some pages."
        )
    _, parts, readings = words.AMOUNTS[amount]
    order = Order(
        title=measure_text.title(source, owners.shown(datastore), found),
        kind=source,
        probe={"mine": "my text", "datastore": "documents"}.get(source, source),
        model=model,
        datastore=datastore,
        parts=parts,
        readings=readings,
        settings={"num_neighbours": int(num_neighbours), "sweep_limit": min(8, int(documents))},
        leakage=leakage or None,
        swap=swap,
    )
    name = who.names(measurements.new_name())
    measurements.start(name, order, found, settings.MEASUREMENTS_AT_ONCE)
    return _list(who, name)


@shows_errors
def resume(chosen: str | None, request: gr.Request | None = None) -> Any:
    who = permit(Action.EVALUATE, request)
    measurements.resume(_mine(chosen, who).name, settings.MEASUREMENTS_AT_ONCE)
    return gr.skip()


@shows_errors
def stop(chosen: str | None, request: gr.Request | None = None) -> Any:
    who = permit(Action.EVALUATE, request, counts=False)
    measurements.stop(_mine(chosen, who).name)
    return gr.skip()


@shows_errors
def ask_to_delete(chosen: str | None, request: gr.Request | None = None) -> tuple[Any, Any, str]:
    """(the question's row, the question, what it is about)."""
    info = _mine(chosen, permit(Action.EVALUATE, request, counts=False))
    return gr.Row(visible=True), {"text": words.DELETING.format(title=label(info)), "tone": "bad"}, info.name


@shows_errors
def delete(doomed: str | None, request: gr.Request | None = None) -> tuple[Any, Any]:
    """(the list with another one chosen, the question's row)."""
    who = permit(Action.EVALUATE, request, counts=False)
    measurements.delete(_mine(doomed, who).name)
    return _list(who, RECORDED), gr.Row(visible=False)


def _mine(chosen: str | None, who: Visitor) -> Measurement:
    """Raises InputError if this visitor has no measurement of that name to change."""
    if not chosen or chosen == RECORDED:
        raise InputError("No measurement of yours is chosen. Choose one under Show.")
    info = _seen(chosen, who)
    if not who.may_change(info.name):
        raise InputError(
            "This measurement is everybody's here and is not changed by visitors. Make your own."
        )
    return info


def _seen(name: str, who: Visitor) -> Measurement:
    """Raises InputError if there is none of that name for this visitor."""
    if not who.may_see(paths.check_name(name)):
        raise InputError("There is no such measurement here. Choose one of the list.")
    return measurements.show(name)


# ---------------------------------------------------------------------------------------------- look


@shows_errors
def arrive(
    chosen: str | None, beside: str | None, drawn: list[Any] | None, request: gr.Request | None = None
) -> tuple[Any, ...]:
    """As `look`, when the tab is opened: what is going on comes first."""
    who = policy.visitor(request)
    running = next((one for one in _visible(who) if one.active), None)
    if running is not None and chosen in (None, RECORDED):
        chosen = running.name
    return _look(who, chosen, beside, drawn)


@shows_errors
def look(
    chosen: str | None, beside: str | None, drawn: list[Any] | None, request: gr.Request | None = None
) -> tuple[Any, ...]:
    """The tab as the disk says it is now: (list, list beside, what is drawn, view, progress, buttons, timer).
    What has not changed is not sent again."""
    return _look(policy.visitor(request), chosen, beside, drawn)


def _look(who: Visitor, chosen: str | None, beside: str | None, drawn: list[Any] | None) -> tuple[Any, ...]:
    found = {one.name: one for one in _visible(who)}
    info = found.get(chosen or "")
    chosen = info.name if info else RECORDED
    other = found.get(beside or "")
    beside = other.name if other else RECORDED if beside == RECORDED and chosen != RECORDED else NONE
    now = _drawn(info, beside, other)
    entries = _choices(found.values())
    refusal = policy.refusal(Action.EVALUATE, who)
    changes = info is not None and who.may_change(info.name)
    active = info is not None and info.active
    return (
        gr.Dropdown(choices=entries, value=chosen),
        gr.Dropdown(
            choices=[("– nothing –", NONE), *(one for one in entries if one[1] != chosen)], value=beside
        ),
        now,
        gr.skip() if drawn == now else _value(info, other, beside == RECORDED),
        line(info, refusal, time.time()),
        gr.Button(interactive=not refusal and not any(one.active for one in found.values())),
        gr.Button(interactive=active and changes),
        gr.Button(visible=changes and info.state in (measurements.STOPPED, measurements.FAILED)),
        gr.Button(interactive=changes and not active),
        gr.Timer(active=any(one.active for one in found.values())),
    )


def _drawn(info: Measurement | None, beside: str, other: Measurement | None) -> list[Any]:
    """What the view depends on: None for what is recorded."""
    mine = [info.name, info.changed, info.state] if info else [RECORDED]
    return [*mine, beside, other.changed if other else None]


def _visible(who: Visitor) -> list[Measurement]:
    mine = [one for one in measurements.list_measurements() if who.may_see(one.name)]
    return mine[:_LISTED]


def _list(who: Visitor, chosen: str) -> Any:
    return gr.Dropdown(choices=_choices(_visible(who)), value=chosen)


def _choices(found: Any) -> list[tuple[str, str]]:
    return [*_recorded_choice(), *((label(one), one.name) for one in found)]


def label(info: Measurement) -> str:
    """An entry of the list."""
    when = time.strftime("%d %b %H:%M UTC", time.gmtime(info.started)) if info.started else info.name[:13]
    state = "" if info.state == measurements.FINISHED else f" · {words.STATES[info.state]}"
    read = owners.shown(info.order.datastore)
    return f"{when} · {info.order.model} reads {read} · {info.order.title[:70]}{state}"


def line(info: Measurement | None, refusal: str, now: float) -> dict[str, Any]:
    """What the line of progress says."""
    if info is None:
        return {"text": refusal}
    if info.state == measurements.FAILED:
        return {"text": f"{info.message} Finished parts are kept: Go on computes the others.", "tone": "bad"}
    if info.state == measurements.STOPPED:
        return {"text": "Stopped. Finished parts are kept and shown; Go on computes the others."}
    if info.state == measurements.FINISHED:
        return {"text": "Measured.", "tone": "good"}
    note = info.progress
    if not note:
        waited = max(0, round(now - info.started))
        return {"text": f"Loading the model and looking the text up ({waited} s)…", "tone": "busy"}
    said = (
        f"{words.DOING.get(note.get('part'), 'working')} (part {note.get('number')} of {note.get('count')})"
    )
    if note.get("total"):
        said += f", {note['stage']}: {note['done']:,} of {note['total']:,}"
    left = note.get("left")
    if isinstance(left, int | float):
        said += f" · about {duration(left)} left"
    share = note.get("share")
    return {"text": said[:1].upper() + said[1:], "fraction": share or None, "tone": "busy"}


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# ---------------------------------------------------------------------------------------------- draw


def _value(info: Measurement | None, other: Measurement | None, recorded_beside: bool) -> dict[str, Any]:
    """What the component draws."""
    shown = _recorded_view() if info is None else _view(info)
    value: dict[str, Any] = {"shown": shown, "beside": None, "empty": ""}
    if shown is None:
        value["empty"] = (
            words.NOTHING_RECORDED if info is None else "Nothing to draw yet: the first part is due."
        )
    second = _recorded() if recorded_beside else _result(other) if other else None
    first = _recorded() if info is None else _result(info)
    if first and second:
        other_title = words.RECORDED if recorded_beside else label(other)
        mine = words.RECORDED if info is None else label(info)
        value["beside"] = measure_view.beside([(mine, first), (other_title, second)])
    return value


def _view(info: Measurement) -> dict[str, Any] | None:
    result = _result(info)
    if not result:
        return None
    order = info.order
    left_out = (
        f" Neighbours with more than {order.leakage:.1%} of the next chunk in one run were left out."
        if order.leakage
        else ""
    )
    about = (
        f"The model {order.model} on {order.title}, reading from {owners.shown(order.datastore)} and reading "
        f"nothing.{left_out} {words.SOURCE_NOTES[order.kind]}"
    )
    return measure_view.view(
        result, name=info.name, title=order.title, about=about, busy=info.active, headline=not info.active
    )


def _result(info: Measurement) -> dict[str, Any] | None:
    return measurements.result(info.name)


def _recorded() -> dict[str, Any] | None:
    """The measurement that ships with the bundled model."""
    folder = paths.ASSETS / "models" / paths.DEMO_MODEL
    return load_result(folder) if Path(folder / RESULT_FILE).is_file() else None


def _recorded_view() -> dict[str, Any] | None:
    result = _recorded()
    if result is None:
        return None
    return measure_view.view(result, name=RECORDED, title=words.RECORDED, about=words.RECORDED_ABOUT)


def _recorded_value() -> dict[str, Any]:
    return _value(None, None, False)


def _recorded_choice() -> list[tuple[str, str]]:
    return [(words.RECORDED, RECORDED)]


# ---------------------------------------------------------------------------------------------- export


def _exporter(kind: str) -> Any:
    @shows_errors
    def export(chosen: str | None, request: gr.Request | None = None) -> dict[str, str]:
        """A file, for the page to save."""
        who = permit(Action.LOOK_UP, request)
        info = None
        if not chosen or chosen == RECORDED:
            name, result = "bundled-model", _recorded()
        else:
            info = _seen(chosen, who)
            name, result = owners.shown(info.name), _result(info)
        if not result:
            raise InputError(
                "There is nothing to export yet. Wait for the first part, or choose another one."
            )
        drawn = None if info is None else info.folder / HTML_FILE
        return measure_export.exported(kind, name, owners.shown_in(result), drawn)

    return export
