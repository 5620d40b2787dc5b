"""Explore: a prompt in, the model's reading and writing out."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from app import services, settings, text, work
from app.errors import shows_errors
from app.lens import RetroLens
from app.live import LiveText
from app.parts import StatusLine
from indexing import paths
from indexing.errors import InputError, RetroError, TraceError
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
    """What other tabs connect to."""

    datastore: gr.Dropdown


def build() -> Explore:
    """Lay out the tab, inside a `gr.Tab`, and wire it."""
    recorded = services.recorded()
    shown = gr.State(recorded[0] if recorded else None)  # id of the finished trace in the lens
    saved = gr.JSON(visible=False)
    with gr.Row(elem_classes="prompt-row"):
        prompt = gr.Textbox(
            label="Prompt",
            info=text.PROMPT_HINT,
            placeholder=text.EXAMPLES[0][1],
            lines=4,
            max_lines=8,
            elem_id="prompt",
            scale=5,
        )
        with gr.Column(scale=1, min_width=200, elem_classes="prompt-side"):
            with gr.Row(elem_classes="run-row"):
                run_button = gr.Button("Run", variant="primary", elem_id="run", min_width=90)
                stop_button = gr.Button("Stop", interactive=False, elem_id="stop", min_width=70)
            with gr.Group():
                retrieval = gr.Checkbox(True, label="Retrieval, from", elem_id="retrieval")
                datastore = gr.Dropdown(
                    choices=[info.name for info in services.datastores()],
                    value=services.default_datastore(),
                    show_label=False,
                    label="Datastore",
                    container=False,
                    elem_id="datastore",
                )
    with gr.Row(elem_classes="chips"):
        for label, example in text.EXAMPLES:
            chip = gr.Button(label, size="sm", min_width=0, elem_classes="chip")
            chip.click(None, outputs=prompt, js=f"() => {json.dumps(example)}", api_visibility="private")
        progress = StatusLine(elem_id="progress")
    sampling = _settings()
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
        inputs=[prompt, retrieval, datastore, *sampling],
        outputs=[lens, progress, shown],
        buttons=[run_button, stop_button],
        progress=progress,
        queue="model",
        session=_session,
        waiting="Waiting for the model…",
    )
    stop_button.click(stop, outputs=progress, queue=False, **quiet)
    open_button.upload(open_trace, inputs=open_button, outputs=[lens, progress, shown], **quiet)
    for trace_id, button in zip(recorded, recorded_buttons, strict=True):
        button.click(partial(show_trace, trace_id), outputs=[lens, progress, shown], **quiet)
    save_button.click(save_trace, inputs=shown, outputs=saved, **quiet).success(
        None, inputs=saved, js=_SAVE_JS, api_visibility="private"
    )
    return Explore(datastore)


def _settings() -> list[gr.components.Component]:
    """The folded settings, in the order in which `run` takes them."""
    with gr.Accordion("Settings", open=False, elem_classes="fold"):
        with gr.Row():
            max_new_tokens = _slider("max_new_tokens", "New tokens", 1)
            num_neighbours = _slider("num_neighbours", "Neighbours (k)", 1)
            temperature = _slider("temperature", "Temperature", 0.05)
        with gr.Row():
            top_k = _slider("top_k", "Top k", 1)
            top_p = _slider("top_p", "Top p", 0.01)
            _, _, default, help_text = bounds(GenerationConfig, "seed")
            seed = gr.Number(default, label="Seed", info=help_text, precision=0, elem_id="seed")
    return [max_new_tokens, temperature, top_k, top_p, seed, num_neighbours]


def _slider(name: str, label: str, step: float) -> gr.Slider:
    low, high, default, help_text = bounds(GenerationConfig, name)
    return gr.Slider(low, high, value=default, step=step, label=label, info=help_text, elem_id=name)


def _short_title(trace_id: str) -> str:
    title = services.view(trace_id)["title"] or trace_id
    return title[:60]


@shows_errors
def run(
    prompt: str,
    retrieval: bool,
    datastore_name: str | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    num_neighbours: int,
    request: gr.Request | None = None,
) -> Iterator[tuple[Any, Any, Any]]:
    """Yield (lens, progress, id of the finished trace), chunk by chunk."""
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        temperature=float(temperature),
        top_k=top_k,
        top_p=float(top_p),
        seed=seed,
        num_neighbours=num_neighbours,
        retrieval=bool(retrieval),
    )
    check_prompt(prompt)
    if retrieval and not datastore_name:
        raise InputError(
            "There is no datastore to look things up in. Make one in Corpus, or switch retrieval off."
        )
    session = _session(request)
    yield gr.skip(), _loading(retrieval), gr.skip()
    model = services.model()
    datastore = services.datastore(datastore_name) if retrieval else None
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


def check_prompt(prompt: str) -> None:
    """Raises InputError if the prompt is empty or too long."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError("The prompt is empty. Type a beginning, or take one of the examples below the box.")
    count = len(prompt)
    if count <= settings.MAX_PROMPT_CHARACTERS:
        count = len(services.tokenizer().encode(prompt))
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


def _loading(retrieval: bool) -> dict[str, Any]:
    if not services.model_is_loaded() or (retrieval and not services.embedder_is_loaded()):
        return {"text": text.LOADING_MODEL, "tone": "busy"}
    return {"text": "Starting…", "tone": "busy"}


def _summary(live: LiveText, stopped: bool) -> dict[str, Any]:
    seconds = time.monotonic() - live.started
    rate = live.written / max(seconds, 1e-3)
    words = f"{live.written} tokens in {seconds:.1f} s ({rate:.0f} tokens/s)"
    if stopped:
        return {"text": f"Stopped after {words}.", "tone": "good"}
    ended = " The model ended the document there." if live.reason == "end of document" else ""
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
