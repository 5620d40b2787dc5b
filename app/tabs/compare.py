"""Compare: one prompt written on from several datastores, and one text read in several ways."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from app import owners, policy, same_text, services, settings, side_by_side, text, typed, work
from app.compare import SameText, SideBySide
from app.errors import shows_errors
from app.live import LiveText
from app.parts import StatusLine
from app.policy import Action, Visitor, permit
from app.tabs import more_models
from app.tabs.explore import check_prompt
from indexing import paths
from indexing.errors import InputError
from indexing.retrievers import Fixed, Lookup, Reader, open_lookup
from retro_core.bases import ModelInfo
from retro_core.config import GenerationConfig, bounds

if TYPE_CHECKING:
    from retro_core.checkpoint import LoadedModel

# Values of choices that are no datastore or model: no name has a colon.
OFF, NONE = ":off", ":none"
OFF_FORM, EDIT_FORM = "off", "edit"
READ_AT_FIRST = [OFF_FORM, "dense", "bm25", "hybrid-rrf", "random", EDIT_FORM]
WRITTEN_AT_FIRST = 32  # tokens: a fact is short
_CLICK = "() => document.querySelector('{}').click()"


@dataclass
class Compare:
    """What the rest of the page connects to: choices that change while it is open; see `refresh`."""

    choices: list[gr.components.Component]


def build() -> Compare:
    """Lay out the tab, inside a `gr.Tab`, and wire it."""
    with gr.Tabs(elem_id="compare-parts"):
        with gr.Tab("Write side by side", id="write"):
            of_writing = _build_writing()
        with gr.Tab("Same text, other reading", id="read"):
            of_reading = _build_reading()
    return Compare([*of_writing, *of_reading])


def _build_writing() -> list[gr.components.Component]:
    gr.Markdown(text.COMPARE_WRITING, elem_classes="compare-intro")
    first, second = _editions()
    with gr.Row(elem_classes="chips"):
        chips = [
            gr.Button(label, size="sm", min_width=0, elem_classes="chip compare-chip")
            for label, _ in text.SWAPS
        ]
        progress = StatusLine(elem_id="compare-progress")
    with gr.Row(elem_classes="prompt-row"):
        with gr.Column(scale=5, min_width=300, elem_classes="compare-asks"):
            prompt = gr.Textbox(
                text.SWAPS[0][1],
                label="Prompt, the same for all",
                placeholder=text.SWAPS[0][1],
                lines=2,
                max_lines=8,
                elem_id="compare-prompt",
            )
            with gr.Row(elem_classes="compare-sources"):
                stores = [
                    _store(f"{which} text reads from", f"compare-store-{which.lower()}", value, others)
                    for which, value, others in (
                        ("First", first, [OFF]),
                        ("Second", second, [OFF]),
                        ("Third", OFF, [OFF, NONE]),
                    )
                ]
        with gr.Column(scale=1, min_width=230, elem_classes="prompt-side"):
            with gr.Row(elem_classes="run-row"):
                run_button = gr.Button("Run", variant="primary", elem_id="compare-run", min_width=90)
                stop_button = gr.Button("Stop", interactive=False, elem_id="compare-stop", min_width=70)
            model = _model("Model, the same for all", "compare-model")
    with gr.Accordion("Settings, and how the datastores are looked into", open=False, elem_classes="fold"):
        with gr.Row():
            forms = [
                gr.Dropdown(
                    choices=[(words, name) for name, words in text.LOOKED_INTO.items()],
                    value="dense",
                    label=f"{which} datastore is looked into",
                    elem_id=f"compare-form-{which.lower()}",
                    min_width=180,
                )
                for which in ("First", "Second", "Third")
            ]
        with gr.Row():
            sampling = [
                _slider("max_new_tokens", "New tokens", 1, WRITTEN_AT_FIRST),
                _slider("num_neighbours", "Neighbours (k)", 1),
                _slider("temperature", "Temperature", 0.05, 0.0),
                gr.Number(**_named("seed", "Seed"), precision=0),
            ]
    typed.keep([prompt, sampling[-1]])
    view = SideBySide(services.recorded_comparison("side-by-side"), elem_id="compare-view")
    work.wire(
        [run_button.click, prompt.submit],
        run,
        inputs=[prompt, model, *stores, *forms, *sampling],
        outputs=[view, progress],
        buttons=[run_button, stop_button],
        progress=progress,
        queue="model",
        session=_session,
        waiting="Waiting for the model…",
    )
    work.wire_stop(stop_button, stop, progress, "Stopping; what is there stays.")
    for chip, (_, words) in zip(chips, text.SWAPS, strict=True):
        values = json.dumps([words, first, second, OFF, *("dense",) * 3])
        chip.click(
            None, outputs=[prompt, *stores, *forms], js=f"() => {values}", api_visibility="private"
        ).then(None, js=_CLICK.format("#compare-run"), api_visibility="private")
    return [model, *stores]


def _build_reading() -> list[gr.components.Component]:
    gr.Markdown(text.COMPARE_READING, elem_classes="compare-intro")
    example = text.SAME_TEXTS[0]
    with gr.Row(elem_classes="chips"):
        chips = [
            gr.Button(one.label, size="sm", min_width=0, elem_classes="chip same-chip")
            for one in text.SAME_TEXTS
        ]
    with gr.Row(elem_classes="prompt-row"):
        with gr.Column(scale=3, min_width=300):
            beginning = gr.Textbox(
                example.beginning,
                label="Beginning (may be empty)",
                info="Given, not scored: it is what the first neighbours are looked up with.",
                lines=2,
                max_lines=6,
                elem_id="same-beginning",
            )
            scored = gr.Textbox(
                example.text, label="Text to score", lines=3, max_lines=12, elem_id="same-scored"
            )
        with gr.Column(scale=2, min_width=280):
            edit = gr.Textbox(
                example.edit,
                label="My own neighbour",
                info="What “my edit” reads in place of all neighbours.",
                lines=3,
                max_lines=6,
                elem_id="same-edit",
            )
            num_neighbours = _slider("num_neighbours", "Neighbours (k)", 1, elem_id="same-k")
    typed.keep([beginning, scored, edit])
    forms = gr.CheckboxGroup(
        choices=_reading_choices(), value=READ_AT_FIRST, label="Read it with", elem_id="same-forms"
    )
    first, second = example.datastore, example.other
    with gr.Row(elem_classes="compare-sources"):
        store = _store("Datastore", "same-store", first if first in _names() else OFF, [OFF])
        other_store = _store(
            "and another datastore", "same-other-store", second if second in _names() else NONE, [NONE]
        )
        model = _model("Model", "same-model")
        other_model = _model("and another model", "same-other-model", NONE)
    with gr.Row(elem_classes="chips"):
        with gr.Row(elem_classes="run-row"):
            run_button = gr.Button("Read", variant="primary", elem_id="same-run", min_width=90)
            stop_button = gr.Button("Stop", interactive=False, elem_id="same-stop", min_width=70)
        progress = StatusLine(elem_id="same-progress")
    view = SameText(services.recorded_comparison("same-text"), elem_id="same-view")
    work.wire(
        [run_button.click],
        read,
        inputs=[beginning, scored, model, other_model, store, other_store, forms, edit, num_neighbours],
        outputs=[view, progress],
        buttons=[run_button, stop_button],
        progress=progress,
        queue="model",
        session=_session,
        waiting="Waiting for the model…",
    )
    work.wire_stop(stop_button, stop, progress, "Stopping; what is there stays.")
    for chip, one in zip(chips, text.SAME_TEXTS, strict=True):
        values = json.dumps([one.beginning, one.text, one.datastore, one.other, one.edit])
        chosen = [beginning, scored, store, other_store, edit]
        chip.click(None, outputs=chosen, js=f"() => {values}", api_visibility="private").then(
            None, js=_CLICK.format("#same-run"), api_visibility="private"
        )
    return [model, other_model, store, other_store]


# ------------------------------------------------------------------------------------------- controls


def _names(who: Visitor | None = None) -> list[str]:
    return [info.name for info in services.datastores(who)]


def _editions() -> tuple[str, str]:
    """The two datastores that the page begins with."""
    names, swapped = _names(), list(text.EDITIONS)
    if set(swapped) <= set(names):
        return swapped[0], swapped[1]
    return services.default_datastore() or OFF, OFF


def _store_choices(others: Sequence[str], who: Visitor | None = None) -> list[tuple[str, str]]:
    labels = {OFF: "no retrieval", NONE: "– none –"}
    return [*services.datastore_choices(who), *((labels[other], other) for other in others)]


def _store(label: str, elem_id: str, value: str, others: Sequence[str]) -> gr.Dropdown:
    return gr.Dropdown(
        choices=_store_choices(others), value=value, label=label, elem_id=elem_id, min_width=150
    )


def _model(label: str, elem_id: str, value: str = paths.DEMO_MODEL) -> gr.Dropdown:
    return gr.Dropdown(
        choices=_model_choices(value == NONE), value=value, label=label, elem_id=elem_id, min_width=150
    )


def _model_choices(may_be_none: bool) -> list[tuple[str, str]]:
    return [*more_models.model_choices(), *([("– none –", NONE)] if may_be_none else [])]


def _reading_choices() -> list[tuple[str, str]]:
    return [
        ("no retrieval (Retro[Off])", OFF_FORM),
        *((words, name) for name, words in text.LOOKED_INTO.items()),
        ("my edit", EDIT_FORM),
    ]


def _named(name: str, label: str, value: Any = None, elem_id: str = "") -> dict[str, Any]:
    """Help text of a setting, for its control, and its default if there is no `value`."""
    _, _, default, help_text = bounds(GenerationConfig, name)
    value = default if value is None else value
    elem_id = elem_id or f"compare-{name}"
    return {"value": value, "label": label, "info": help_text, "elem_id": elem_id, "min_width": 180}


def _slider(name: str, label: str, step: float, value: Any = None, elem_id: str = "") -> gr.Slider:
    low, high, _, _ = bounds(GenerationConfig, name)
    return gr.Slider(low, high, step=step, **_named(name, label, value, elem_id))


def refresh(
    model: str,
    first: str,
    second: str,
    third: str,
    read_model: str,
    other_model: str,
    store: str,
    other_store: str,
    request: gr.Request | None = None,
) -> list[dict[str, Any]]:
    """As the tab is opened: what was made since the start. What is chosen is sent back only if it is gone."""
    who = policy.visitor(request)

    def update(choices: list[tuple[str, str]], value: str, default: str) -> dict[str, Any]:
        if value in [name for _, name in choices]:
            return gr.update(choices=choices)
        return gr.update(choices=choices, value=default)

    models, off = _model_choices(False), _store_choices([OFF], who)
    return [
        update(models, model, paths.DEMO_MODEL),
        update(off, first, OFF),
        update(off, second, OFF),
        update(_store_choices([OFF, NONE], who), third, NONE),
        update(models, read_model, paths.DEMO_MODEL),
        update(_model_choices(True), other_model, NONE),
        update(off, store, OFF),
        update(_store_choices([NONE], who), other_store, NONE),
    ]


# ------------------------------------------------------------------------------------------- writing


@shows_errors
def run(
    prompt: str,
    model_name: str,
    first: str,
    second: str,
    third: str,
    first_form: str,
    second_form: str,
    third_form: str,
    max_new_tokens: int,
    num_neighbours: int,
    temperature: float,
    seed: int,
    request: gr.Request | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Yield (view, progress) while the texts are written, a token of each in turn."""
    who = permit(Action.COMPARE, request)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_neighbours=num_neighbours,
        temperature=float(temperature) if isinstance(temperature, int) else temperature,
        seed=seed,
    )
    who.expect_tokens(config.max_new_tokens)
    sources = columns([(first, first_form), (second, second_form), (third, third_form)], who)
    info = services.model_info(model_name)
    check_prompt(prompt, model_name)
    session = _session(request)
    yield gr.skip(), _loading([info], any(name for name, _ in sources))
    model = services.model(model_name)
    stores = [services.datastore(name, model, who) if name else None for name, _ in sources]
    lookups = [
        None if store is None else open_lookup(form, store)
        for store, (_, form) in zip(stores, sources, strict=True)
    ]
    # Only now: this one imports torch, which the page must not wait for.
    from retro_core.comparison import write_side_by_side

    run_id = services.new_id()
    live = [LiveText(run_id, model, store, replace(config, retrieval=store is not None)) for store in stores]
    drawn = started = time.monotonic()
    try:
        for told in _prepared(lookups, session):
            yield gr.skip(), told
        events = write_side_by_side(model.model, model.tokenizer, prompt, lookups, config)
        with closing(events):
            for place, event in events:
                if services.stop_requested(session):
                    break
                if live[place].take(event) or time.monotonic() - drawn > settings.SECONDS_BETWEEN_DRAWINGS:
                    drawn = time.monotonic()
                    yield side_by_side.view(live, sources, busy=True), {"text": "Writing…", "tone": "busy"}
        stopped = services.stop_requested(session)
        if not any(one.tokens for one in live):
            yield gr.skip(), "Stopped before anything was written."
            return
        count = sum(one.written for one in live)
        words = f"{count} tokens in {time.monotonic() - started:.1f} s"
        told = f"Stopped after {words}; what is written stays." if stopped else f"Wrote {words}."
        told += "" if info.fitted else " " + text.NOT_FITTED.format(model=model_name)
        yield (
            side_by_side.view(live, sources, busy=False, stopped=stopped),
            {"text": told, "tone": "good"},
        )
    finally:
        services.forget_stop(session)


def columns(
    chosen: Sequence[tuple[str | None, str | None]], who: Visitor | None = None
) -> list[tuple[str, str]]:
    """(datastore, how it is looked into) of each text, the datastore empty for Retro[Off].

    Raises InputError for what is no choice of the page, and for two that are the same."""
    found: list[tuple[str, str]] = []
    for name, form in chosen:
        if name == NONE:
            continue
        source = ("", "") if name == OFF else (_known_store(name, who), _known_form(form))
        if source in found:
            what = f"{owners.shown(source[0])} {text.LOOKED_INTO[source[1]]}" if source[0] else "nothing"
            raise InputError(
                f"Two of the texts would read the same, {what}: choose another datastore, or look into it in "
                "another way."
            )
        found.append(source)
    if len(found) < 2:
        raise InputError("There is only one text. Choose what a second one reads from.")
    return found


def _known_store(name: Any, who: Visitor | None) -> str:
    if not isinstance(name, str) or name not in _names(who):
        raise InputError(f"There is no datastore {str(name)[:80]!r} here. Choose one of the list.")
    return name


def _known_form(form: Any) -> str:
    """Never an address: the page asks no other machine."""
    if not isinstance(form, str) or form not in text.LOOKED_INTO:
        raise InputError(
            f"A datastore cannot be looked into {str(form)[:80]!r}. Choose among "
            f"{', '.join(text.LOOKED_INTO)}."
        )
    return form


def _loading(infos: Sequence[ModelInfo], looks_up: bool) -> dict[str, Any]:
    for info in infos:
        if not services.model_is_loaded(info.name):
            base = f", and {info.base} under it" if info.base and info.fitted else ""
            return {"text": text.LOADING_MODEL.format(model=info.name + base), "tone": "busy"}
    if looks_up and not services.embedder_is_loaded():
        return {"text": text.LOADING_EMBEDDER, "tone": "busy"}
    return {"text": "Starting…", "tone": "busy"}


def _prepared(lookups: Sequence[Any], session: str) -> Iterator[dict[str, Any]]:
    """Progress while words are counted, where that has to be done first."""
    for lookup in lookups:
        for event in lookup.prepare() if isinstance(lookup, Lookup) else ():
            if services.stop_requested(session):
                return
            words = f"Counting words of {lookup.datastore.name}: {event.done:,} of {event.total:,} chunks"
            yield {"text": words, "fraction": event.done / max(1, event.total), "tone": "busy"}


def _session(request: gr.Request | None) -> str:
    """Under which stopping is asked for; apart from the visitor's run in Explore."""
    return f"compare {(request.session_hash if request else None) or ''}"


@shows_errors
def stop(request: gr.Request | None = None) -> None:
    services.request_stop(_session(request))


# ------------------------------------------------------------------------------------------- reading


@shows_errors
def read(
    beginning: str,
    scored: str,
    model_name: str,
    other_model: str,
    store_name: str,
    other_store: str,
    forms: list[str],
    edit: str,
    num_neighbours: int,
    request: gr.Request | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Yield (view, progress), a setting at a time."""
    who = permit(Action.COMPARE, request)
    config = GenerationConfig(num_neighbours=num_neighbours)
    names = [model_name, *([] if other_model in (NONE, model_name) else [other_model])]
    infos = [services.model_info(name) for name in names]
    store_names = [_known_store(name, who) for name in (store_name, other_store) if name not in (OFF, NONE)]
    store_names = list(dict.fromkeys(store_names))
    wanted = chosen_forms(forms, bool(store_names))
    check_text(beginning, scored, names)
    if EDIT_FORM in wanted and not (isinstance(edit, str) and edit.strip()):
        raise InputError("“My edit” has no text to read. Type one under “My own neighbour”.")
    session = _session(request)
    looks_up = any(form in text.LOOKED_INTO for form in wanted)
    yield gr.skip(), _loading(infos, looks_up)
    models = [services.model(name) for name in names]
    from retro_core.comparison import read_side_by_side

    ways, sources = _ways(models, store_names, wanted, edit, who)
    run_id, found, started = services.new_id(), [], time.monotonic()
    try:
        for told in _prepared([way.retriever for way in ways], session):
            yield gr.skip(), told
        events = read_side_by_side(ways, beginning, scored, config.num_neighbours)
        given = beginning + scored if beginning.strip() else scored
        shown = {"run_id": run_id, "given": given}
        with closing(events):
            while len(found) < len(ways):
                told = {
                    "text": f"Reading {len(found) + 1} of {len(ways)}: {ways[len(found)].name}",
                    "fraction": len(found) / len(ways),
                    "tone": "busy",
                }
                drawn = same_text.view(found, sources, busy=True, **shown) if found else gr.skip()
                yield drawn, told
                if services.stop_requested(session):
                    break
                found.append(next(events))
        if not found:
            yield gr.skip(), "Stopped before anything was read."
            return
        words = f"{len(found)} of {len(ways)} in {time.monotonic() - started:.1f} s"
        told = f"Stopped after {words}." if len(found) < len(ways) else f"Read {words}."
        notes = [text.NOT_FITTED.format(model=info.name) for info in infos if not info.fitted]
        yield (
            same_text.view(found, sources, busy=False, notes=notes, **shown),
            {"text": told, "tone": "good"},
        )
    finally:
        services.forget_stop(session)


def chosen_forms(forms: Any, has_store: bool) -> list[str]:
    """In the order of the page. Raises InputError for what is no choice of it, and for a way to look things
    up without a datastore."""
    known = [form for _, form in _reading_choices()]
    if not isinstance(forms, list) or not forms:
        raise InputError(
            "No way to read is chosen. Choose two or more, for example no retrieval and by meaning."
        )
    strange = [form for form in forms if form not in known]
    if strange:
        raise InputError(
            f"There is no way to read {str(strange[0])[:80]!r}. Choose among {', '.join(known)}."
        )
    if not has_store and any(form in text.LOOKED_INTO for form in forms):
        raise InputError(
            "There is no datastore to look things up in. Choose one, or only no retrieval and my edit."
        )
    return [form for form in known if form in forms]


def check_text(beginning: Any, scored: Any, model_names: Sequence[str]) -> None:
    """Raises InputError if there is nothing to score, or too much."""
    if not isinstance(beginning, str) or not isinstance(scored, str) or not scored.strip():
        raise InputError("There is no text to score. Type one, or take one of the examples above.")
    for name in model_names:
        check_prompt(beginning + scored, name)


def _ways(
    models: Sequence["LoadedModel"],
    store_names: Sequence[str],
    forms: Sequence[str],
    edit: str,
    who: Visitor,
) -> tuple[list[Any], list[Reader | None]]:
    """(settings, where the neighbours of each come from)"""
    from retro_core.comparison import Setting

    ways, sources = [], []
    for model in models:
        prefix = f"{model.name}: " if len(models) > 1 else ""
        stores = [services.datastore(name, model, who) for name in store_names]
        for form in forms:
            if form == OFF_FORM:
                ways.append(Setting(f"{prefix}no retrieval", model, None))
                sources.append(None)
            elif form == EDIT_FORM:
                given = Fixed(model.config.chunk_size, model.tokenizer, everywhere=[edit])
                ways.append(Setting(f"{prefix}my edit", model, given))
                sources.append(None)
            else:
                for name, store in zip(store_names, stores, strict=True):
                    words = (f"{owners.shown(name)}, " if len(stores) > 1 else "") + text.LOOKED_INTO[form]
                    ways.append(Setting(prefix + words, model, open_lookup(form, store)))
                    sources.append(store)
    return ways, sources
