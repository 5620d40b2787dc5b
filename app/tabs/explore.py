"""Explore: a prompt in, the model's reading and writing out."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency

from app import services, settings, text, work
from app.errors import shows_errors
from app.lens import RetroLens
from app.live import LiveText
from app.parts import StatusLine
from app.tabs import more_models
from indexing import paths
from indexing.errors import InputError, RetroError, TraceError
from retro_core.bases import ModelInfo
from retro_core.config import GenerationConfig, bounds

# Saving happens in the page: the server keeps no file for it.
_SAVE_JS = """
async (saved) => {
  if (!saved) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([saved.text], { type: "application/json" }));
  link.download = saved.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
"""


@dataclass
class Explore:
    """What the rest of the page connects to: choices that change while it is open."""

    model: gr.Dropdown
    datastore: gr.Dropdown
    base: gr.Radio
    chose: Dependency  # the event of another model or datastore


def build() -> Explore:
    """Lay out the tab, inside a `gr.Tab`, and wire it."""
    recorded = services.recorded()
    shown = gr.State(recorded[0] if recorded else None)  # id of the finished trace in the lens
    saved = gr.JSON(visible=False)
    with gr.Row(elem_classes="prompt-row"):
        prompt = gr.Textbox(
            label="Prompt",
            info=text.PROMPT_HINT,
            placeholder=text.EXAMPLES[0].prompt,
            lines=4,
            max_lines=8,
            elem_id="prompt",
            scale=5,
        )
        with gr.Column(scale=1, min_width=250, elem_classes="prompt-side"):
            with gr.Row(elem_classes="run-row"):
                run_button = gr.Button("Run", variant="primary", elem_id="run", min_width=90)
                stop_button = gr.Button("Stop", interactive=False, elem_id="stop", min_width=70)
            with gr.Group():
                model = gr.Dropdown(
                    choices=more_models.model_choices(),
                    value=paths.DEMO_MODEL,
                    show_label=False,
                    label="Model",
                    container=False,
                    elem_id="model",
                    elem_classes="choice",
                )
                retrieval = gr.Checkbox(True, label="Retrieval, from", elem_id="retrieval")
                datastore = gr.Dropdown(
                    choices=[info.name for info in services.datastores()],
                    value=services.default_datastore(),
                    show_label=False,
                    label="Datastore",
                    container=False,
                    elem_id="datastore",
                    elem_classes="choice",
                )
    with gr.Row(elem_classes="chips"):
        for example in text.EXAMPLES:
            chip = gr.Button(example.label, size="sm", min_width=0, elem_classes="chip")
            values = json.dumps([example.prompt, example.datastore])
            chip.click(None, outputs=[prompt, datastore], js=f"() => {values}", api_visibility="private")
        progress = StatusLine(elem_id="progress")
    with gr.Column(elem_classes="folds"):
        sampling = _settings()
        folded, base = more_models.build(model)
    lens = RetroLens(
        services.view(recorded[0]) if recorded else None, fetch_map=attention_map, elem_id="lens"
    )
    with gr.Row(elem_classes="chips"):
        save_button = gr.Button("Save this trace (.retro.json)", size="sm", min_width=0, elem_id="save")
        open_button = gr.UploadButton(
            "Open a trace", size="sm", min_width=0, file_types=[".json", ".gz"], elem_id="open"
        )
        recorded_buttons = [
            gr.Button(_short_title(trace_id), size="sm", min_width=0, elem_classes="chip")
            for trace_id in recorded
        ]

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    work.wire(
        [run_button.click, prompt.submit],
        run,
        inputs=[prompt, model, retrieval, datastore, *sampling],
        outputs=[lens, progress, shown],
        buttons=[run_button, stop_button],
        progress=progress,
        queue="model",
        session=_session,
        waiting="Waiting for the model…",
    )
    stop_button.click(stop, outputs=progress, queue=False, **quiet)
    chose = gr.on(
        [model.change, datastore.change],
        choose,
        inputs=[model, datastore],
        outputs=[progress, sampling[-1], folded, base],
        **quiet,
    )
    open_button.upload(open_trace, inputs=open_button, outputs=[lens, progress, shown], **quiet)
    for trace_id, button in zip(recorded, recorded_buttons, strict=True):
        button.click(partial(show_trace, trace_id), outputs=[lens, progress, shown], **quiet)
    save_button.click(save_trace, inputs=shown, outputs=saved, **quiet).success(
        None, inputs=saved, js=_SAVE_JS, api_visibility="private"
    )
    return Explore(model, datastore, base, chose)


def _settings() -> list[gr.components.Component]:
    """The folded settings, in the order in which `run` takes them."""
    with gr.Accordion("Settings", open=False, elem_classes="fold"):
        with gr.Row():
            max_new_tokens = _slider("max_new_tokens", "New tokens", 1)
            num_neighbours = _slider("num_neighbours", "Neighbours (k)", 1)
            temperature = _slider("temperature", "Temperature", 0.05)
            top_k = _slider("top_k", "Top k", 1)
            top_p = _slider("top_p", "Top p", 0.01)
        with gr.Row():
            min_p = _slider("min_p", "Min p", 0.01)
            repetition_penalty = _slider("repetition_penalty", "Repetition", 0.05)
            seed = gr.Number(**_named("seed", "Seed"), precision=0)
            stop_strings = gr.Textbox(
                **{**_named("stop", "Stop at"), "value": "", "elem_id": "stop_strings"},
                placeholder="one a line; \\n = line break",
                lines=1,
                max_lines=4,
            )
            int8 = gr.Checkbox(**_named("int8", "8-bit weights"))
    sampling = [max_new_tokens, num_neighbours, temperature, top_k, top_p, min_p, repetition_penalty, seed]
    return [*sampling, stop_strings, int8]


def _named(name: str, label: str) -> dict[str, Any]:
    """Default and help text of a setting, for its control."""
    _, _, default, help_text = bounds(GenerationConfig, name)
    return {"value": default, "label": label, "info": help_text, "elem_id": name, "min_width": 180}


def _slider(name: str, label: str, step: float) -> gr.Slider:
    low, high, _, _ = bounds(GenerationConfig, name)
    return gr.Slider(low, high, step=step, **_named(name, label))


def _short_title(trace_id: str) -> str:
    title = services.view(trace_id)["title"] or trace_id
    return title[:60]


@shows_errors
def choose(model_name: str, datastore_name: str | None) -> tuple[Any, Any, Any, Any]:
    """(progress, whether 8-bit weights can be had, the folded part More models, the base chosen there).

    A model whose base is not here leads to where it can be fetched.
    """
    info = next((info for info in services.models() if info.name == model_name), None)
    int8 = gr.Checkbox(interactive=True) if info and not info.base else gr.Checkbox(False, interactive=False)
    if info and info.state == "here":
        told = "" if info.fitted else text.NOT_FITTED.format(model=model_name)
        if info.fitted and datastore_name and services.is_read_as_text(datastore_name, model_name):
            told = text.READ_AS_TEXT.format(datastore=datastore_name, model=model_name)
        return told, int8, gr.skip(), gr.skip()
    try:
        services.model_info(model_name)
    except RetroError as error:
        wanted = next((base.name for base in services.bases() if info in services.fitted_to(base)), None)
        return str(error), int8, gr.Accordion(open=True), gr.Radio(value=wanted)
    return "", int8, gr.skip(), gr.skip()


@shows_errors
def run(
    prompt: str,
    model_name: str,
    retrieval: bool,
    datastore_name: str | None,
    max_new_tokens: int,
    num_neighbours: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    seed: int,
    stop_strings: str,
    int8: bool,
    request: gr.Request | None = None,
) -> Iterator[tuple[Any, Any, Any]]:
    """Yield (lens, progress, id of the finished trace), chunk by chunk."""
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_neighbours=num_neighbours,
        temperature=float(temperature),
        top_k=top_k,
        top_p=float(top_p),
        min_p=float(min_p),
        repetition_penalty=float(repetition_penalty),
        seed=seed,
        stop=stops(stop_strings),
        int8=bool(int8),
        retrieval=bool(retrieval),
    )
    info = services.model_info(model_name)
    check_prompt(prompt, model_name)
    if retrieval and not datastore_name:
        raise InputError(
            "There is no datastore to look things up in. Make one in Corpus, or switch retrieval off."
        )
    session = _session(request)
    yield gr.skip(), _loading(info, retrieval), gr.skip()
    model = services.model(model_name)
    datastore = services.datastore(datastore_name, model) if retrieval else None
    # Only now: these two import torch, which the page must not wait for.
    from retro_core.explain import explain
    from retro_core.generation import generate

    live = LiveText(services.new_id(), model, datastore, config)
    drawn = 0.0
    try:
        for event in generate(model.model, model.tokenizer, prompt, datastore, config):
            if services.stop_requested(session):
                break
            if live.take(event) or time.monotonic() - drawn > settings.SECONDS_BETWEEN_DRAWINGS:
                drawn = time.monotonic()
                yield live.view(), "", gr.skip()
        if not drawn:
            yield gr.skip(), "Stopped before anything was written.", gr.skip()
            return
        summary = _summary(live, services.stop_requested(session))
        yield live.view("measuring", "measuring what retrieval changed…"), "", gr.skip()
        ids = [token["id"] for token in live.tokens]
        trace = explain(model, ids, live.neighbours, datastore, config, prompt_tokens=live.prompt_tokens)
        trace_id = services.keep(live.finish(trace), live.trace_id)
        yield services.view(trace_id), summary, trace_id
    finally:
        services.forget_stop(session)


def stops(lines: str | None) -> list[str]:
    """The strings that end a text, one a line; the two characters \\n stand for a line break.

    Raises InputError if there are too many.
    """
    found = [line.replace("\\n", "\n") for line in (lines or "").splitlines() if line]
    if len(found) > settings.MAX_STOPS:
        raise InputError(
            f"Up to {settings.MAX_STOPS} texts can be stopped at, got {len(found)}. Remove some."
        )
    return found


def check_prompt(prompt: str, model_name: str) -> None:
    """Raises InputError if the prompt is empty or too long for this model."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError("The prompt is empty. Type a beginning, or take one of the examples.")
    count = len(prompt)
    if count <= settings.MAX_PROMPT_CHARACTERS:
        count = len(services.tokenizer(model_name).encode(prompt))
        if count <= settings.MAX_PROMPT_TOKENS:
            return
        raise InputError(
            f"The prompt has {count:,} tokens; up to {settings.MAX_PROMPT_TOKENS:,} fit. "
            "Shorten it, or index the long text in Corpus and ask about it here."
        )
    raise InputError(
        f"The prompt has {count:,} characters; up to {settings.MAX_PROMPT_TOKENS:,} tokens fit, about "
        f"{settings.MAX_PROMPT_TOKENS * 4:,} characters. Shorten it, or index the long text in Corpus."
    )


def _loading(info: ModelInfo, retrieval: bool) -> dict[str, Any]:
    if not services.model_is_loaded(info.name):
        base = f", and {info.base} under it" if info.base and info.fitted else ""
        return {"text": text.LOADING_MODEL.format(model=info.name + base), "tone": "busy"}
    if retrieval and not services.embedder_is_loaded():
        return {"text": text.LOADING_EMBEDDER, "tone": "busy"}
    return {"text": "Starting…", "tone": "busy"}


def _summary(live: LiveText, stopped: bool) -> dict[str, Any]:
    seconds = time.monotonic() - live.started
    rate = live.written / max(seconds, 1e-3)
    words = f"{live.written} tokens in {seconds:.1f} s ({rate:.0f} tokens/s)"
    if stopped:
        return {"text": f"Stopped after {words}.", "tone": "good"}
    ended = text.ENDED.get(live.reason, "")
    return {"text": f"Wrote {words}.{ended}", "tone": "good"}


def _session(request: gr.Request | None) -> str:
    return (request.session_hash if request else None) or ""


@shows_errors
def stop(request: gr.Request | None = None) -> dict[str, Any]:
    services.request_stop(_session(request))
    return {"text": "Stopping; what is written stays.", "tone": "busy"}


def attention_map(request: Any) -> dict[str, Any]:
    """One map for the lens, which may send anything: {"trace", "chunk", "layer" | None, "head" | None}."""
    try:
        if not isinstance(request, dict):
            raise TraceError("Expected a map's trace, chunk, layer and head.")
        numbers = [request.get(name) for name in ("chunk", "layer", "head")]
        if not all(number is None or (isinstance(number, int) and number >= 0) for number in numbers):
            raise TraceError("Expected whole numbers for a map's chunk, layer and head.")
        chunk, layer, head = numbers
        return services.trace(str(request.get("trace"))).attention_map(chunk, layer, head)
    except RetroError as error:
        return {"error": str(error)}


@shows_errors
def open_trace(path: str) -> tuple[Any, Any, Any]:
    name = Path(path).name
    trace_id = services.keep(services.read_trace(path))
    view = services.view(trace_id)
    return {**view, "title": view["title"] or name}, f"Opened {name}.", trace_id


@shows_errors
def save_trace(trace_id: str | None) -> dict[str, str]:
    if not trace_id:
        raise InputError("There is no finished trace to save yet. Run a prompt first.")
    value = services.trace(trace_id).to_json()
    beginning = "".join(token["text"] for token in value["tokens"])[:200]
    name = paths.slug("-".join((value["title"] or beginning).split()[:6])).strip("-._")
    return {"name": f"{name or 'trace'}.retro.json", "text": json.dumps(value, ensure_ascii=False)}


@shows_errors
def show_trace(trace_id: str) -> tuple[Any, Any, Any]:
    return services.view(trace_id), "", trace_id
