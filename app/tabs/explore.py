"""Explore: a prompt in, the model's reading and writing out."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from app import lent, ongoing, policy, services, settings, text, typed, work
from app.errors import shows_errors
from app.live import LiveText
from app.parts import StatusLine
from app.policy import Action, Visitor, permit
from app.tabs import explore_change, explore_result, more_models
from indexing import paths
from indexing.errors import InputError, RetroError
from indexing.retrievers import DEFAULT_RETRIEVER, Lookup
from retro_core.bases import ModelInfo
from retro_core.config import GenerationConfig, bounds
from retro_core.trace import Trace

WRITE, READ = text.TASKS
_HINTS = {WRITE: ("Prompt", text.PROMPT_HINT), READ: ("Text", text.READING_HINT)}


@dataclass
class Explore:
    """What the rest of the page connects to: choices that change while it is open."""

    model: gr.Dropdown
    datastore: gr.Dropdown
    base: gr.Radio
    chose: Dependency  # the event of another model or datastore
    controls: dict[str, gr.components.Component]  # all that a run depends on, by name
    result: explore_result.Result
    buttons: list[gr.Button]  # run, stop
    own: gr.Button  # leads to Corpus
    live: gr.Button  # leads to Compare


def build(seen: gr.BrowserState, running: gr.BrowserState) -> Explore:
    """Lay out the tab, inside a `gr.Tab`, and wire it.

    seen     see `explore_result.Result`
    running  what the browser keeps of a text that is being written
    """
    live = explore_result.build_first_example()
    with gr.Row(elem_classes="prompt-row", elem_id="prompt-row"):
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
            task = gr.Radio(
                choices=[(words, name) for name, words in text.TASKS.items()],
                value=WRITE,
                label="What the model does with the text",
                show_label=False,
                container=False,
                elem_id="task",
            )
            with gr.Row(elem_classes="run-row"):
                run_button = gr.Button("Run", variant="primary", elem_id="run", min_width=90)
                stop_button = gr.Button("Stop", interactive=False, elem_id="stop", min_width=70)
            with gr.Group():
                retrieval = gr.Checkbox(True, label="Retrieval, from", elem_id="retrieval")
                datastore = gr.Dropdown(
                    choices=services.datastore_choices(),
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
            values = json.dumps([example.prompt, example.datastore, WRITE])
            chip.click(
                None, outputs=[prompt, datastore, task], js=f"() => {values}", api_visibility="private"
            )
        own = gr.Button(text.OWN_TEXT, size="sm", min_width=0, elem_id="own-text")
        progress = StatusLine(elem_id="progress")
    with gr.Row(elem_classes="folds"):
        model, form, sampling = _settings()
        folded, base = more_models.build(model)
    result = explore_result.build(progress, seen)
    lens, shown = result.lens, result.shown

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    controls = {
        "prompt": prompt, "task": task, "model": model, "retrieval": retrieval, "datastore": datastore,
        "retriever": form, **sampling,
    }  # fmt: skip
    ran = work.wire(
        [run_button.click, prompt.submit],
        run,
        inputs=[prompt, model, retrieval, datastore, *sampling.values(), task, form],
        outputs=[lens, progress, shown],
        buttons=[run_button, stop_button],
        progress=progress,
        queue="model",
        session=session_of,
        waiting="Waiting for the model…",
        meanwhile="Recorded examples need no waiting.",
        running=running,
    )
    result.follow(ran)
    buttons = [run_button, stop_button]
    for changed in explore_change.wire(
        lens, shown, progress, [model, datastore], buttons, session_of, running
    ):
        result.follow(changed)
    work.wire_stop(stop_button, stop, progress, "Stopping; what is written stays.")
    hints = json.dumps({name: {"label": words[0], "info": words[1]} for name, words in _HINTS.items()})
    task.change(
        None,
        inputs=task,
        outputs=prompt,
        js=f"(task) => ({{ __type__: 'update', ...({hints})[task] }})",
        api_visibility="private",
    )
    chose = gr.on(
        [model.change, datastore.change],
        choose,
        inputs=[model, datastore],
        outputs=[progress, sampling["int8"], folded, base],
        **quiet,
    )
    return Explore(model, datastore, base, chose, controls, result, buttons, own, live)


def _settings() -> tuple[gr.Dropdown, gr.Dropdown, dict[str, gr.components.Component]]:
    """(model, retriever, the other settings by name, in the order in which `run` takes them), folded."""
    with gr.Accordion(
        "Settings: model, retriever, sampling", open=False, elem_classes="fold", elem_id="settings"
    ):
        with gr.Row():
            model = gr.Dropdown(
                choices=more_models.model_choices(),
                value=paths.DEMO_MODEL,
                label="Model",
                info=text.MODEL_HINT,
                elem_id="model",
                min_width=180,
            )
            form = gr.Dropdown(
                choices=[(words, name) for name, words in text.LOOKED_INTO.items()],
                value=DEFAULT_RETRIEVER,
                label="Retriever",
                info=text.RETRIEVER_HINT,
                elem_id="form",
                min_width=180,
            )
            num_neighbours = _slider("num_neighbours", "Neighbours (k)", 1)
        with gr.Row():
            max_new_tokens = _slider("max_new_tokens", "New tokens", 1)
            temperature = _slider("temperature", "Temperature", 0.05)
            top_k = _slider("top_k", "Top k", 1)
            top_p = _slider("top_p", "Top p", 0.01)
            min_p = _slider("min_p", "Min p", 0.01)
        with gr.Row():
            repetition_penalty = _slider("repetition_penalty", "Repetition", 0.05)
            seed = gr.Number(**_named("seed", "Seed"), precision=0)
            stop_strings = gr.Textbox(
                **{**_named("stop", "Stop at"), "value": "", "elem_id": "stop_strings"},
                placeholder="one a line; \\n = line break",
                lines=1,
                max_lines=4,
            )
            int8 = gr.Checkbox(**_named("int8", "8-bit weights"))
    typed.keep([seed, stop_strings])
    return (
        model,
        form,
        {
            "max_new_tokens": max_new_tokens,
            "num_neighbours": num_neighbours,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "seed": seed,
            "stop_strings": stop_strings,
            "int8": int8,
        },
    )


def _named(name: str, label: str) -> dict[str, Any]:
    """Default and help text of a setting, for its control."""
    _, _, default, help_text = bounds(GenerationConfig, name)
    return {"value": default, "label": label, "info": help_text, "elem_id": name, "min_width": 180}


def _slider(name: str, label: str, step: float) -> gr.Slider:
    low, high, _, _ = bounds(GenerationConfig, name)
    return gr.Slider(low, high, step=step, **_named(name, label))


@shows_errors
def choose(
    model_name: str, datastore_name: str | None, request: gr.Request | None = None
) -> tuple[Any, Any, Any, Any]:
    """(progress, whether 8-bit weights can be had, the folded part More models, the base chosen there).

    A model whose base is not here leads to where it can be fetched.
    """
    info = next((info for info in services.models() if info.name == model_name), None)
    int8 = gr.Checkbox(interactive=True) if info and not info.base else gr.Checkbox(False, interactive=False)
    if info and info.state == "here":
        told = "" if info.fitted else text.NOT_FITTED.format(model=model_name)
        who = policy.visitor(request)
        if info.fitted and datastore_name and services.is_read_as_text(datastore_name, model_name, who):
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
    task: str = WRITE,
    form: str = DEFAULT_RETRIEVER,
    request: gr.Request | None = None,
) -> Iterator[tuple[Any, Any, Any]]:
    """Yield (lens, progress, id of the finished trace), chunk by chunk."""
    who = permit(Action.SCORE if task == READ else Action.GENERATE, request)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_neighbours=num_neighbours,
        temperature=_number(temperature),
        top_k=top_k,
        top_p=_number(top_p),
        min_p=_number(min_p),
        repetition_penalty=_number(repetition_penalty),
        seed=seed,
        stop=stops(stop_strings),
        int8=bool(int8),
        retrieval=bool(retrieval),
    )
    if task not in _HINTS:
        raise InputError(f"Expected {WRITE} or {READ}, got {str(task)[:80]!r}. Choose one beside Run.")
    if form not in text.LOOKED_INTO:
        raise InputError(
            f"There is no retriever {str(form)[:80]!r}. Choose one of {', '.join(text.LOOKED_INTO)}."
        )
    if task == WRITE:
        who.expect_tokens(config.max_new_tokens)
    info = services.model_info(model_name)
    check_prompt(prompt, model_name, task)
    if retrieval and not datastore_name:
        raise InputError(
            "There is no datastore to look things up in. Make one in Corpus, or switch retrieval off."
        )
    session = session_of(request)
    try:
        for told in _stages(info, retrieval):
            yield gr.skip(), told, gr.skip()
        model = services.model(model_name)
        lookup = services.lookup(datastore_name, form, model, who) if retrieval else None
        for told in prepared(lookup, session):
            yield gr.skip(), told, gr.skip()
        if task == WRITE:
            yield from _write(prompt, model, lookup, form, config, session, who)
        else:
            yield from _read(prompt, model, lookup, config, session, who)
    finally:
        services.forget_stop(session)


def _write(
    prompt: str,
    model: Any,
    lookup: Lookup | None,
    form: str,
    config: GenerationConfig,
    session: str,
    who: Visitor,
) -> Iterator[tuple[Any, Any, Any]]:
    # Only now: it imports torch, which the page must not wait for.
    from retro_core.explain import explain

    live = LiveText(services.new_id(), model, lookup and lookup.datastore, config)
    drawn = 0.0
    with closing(lent.generated(prompt, model, lookup, form, config, who)) as events:
        for event in events:
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
    trace = explain(model, ids, live.neighbours, live.datastore, config, prompt_tokens=live.prompt_tokens)
    trace_id = services.keep(live.finish(trace), live.trace_id, who)
    yield services.view(trace_id, who), summary, trace_id


def _read(
    words: str, model: Any, lookup: Lookup | None, config: GenerationConfig, session: str, who: Visitor
) -> Iterator[tuple[Any, Any, Any]]:
    """Nothing is written: the text as it is, with what each chunk would have looked up."""
    from retro_core.explain import score
    from retro_core.generation import Prompted, encode_prompt

    started = time.monotonic()
    datastore = lookup and lookup.datastore
    live = LiveText(services.new_id(), model, datastore, config, title=text.READ_TITLE)
    ids = encode_prompt(model.tokenizer, words, model.config.chunk_size).tolist()
    pad = sum(token == model.tokenizer.pad_id for token in ids)
    live.take(Prompted(ids, model.tokenizer.token_texts(ids), pad))
    yield live.view("measuring", f"looking up and reading {len(ids) - pad} tokens…"), "", gr.skip()
    if services.stop_requested(session):
        yield gr.skip(), "Stopped before anything was read.", gr.skip()
        return
    trace = score(model, words, datastore, config, retriever=lookup, title=text.READ_TITLE)
    trace_id = services.keep(trace, live.trace_id, who)
    told = {"text": summary_of_reading(trace, time.monotonic() - started), "tone": "good"}
    yield services.view(trace_id, who), told, trace_id


def prepared(lookup: Lookup | None, session: str) -> Iterator[dict[str, Any]]:
    """Progress while words are counted, where that has to be done first."""
    for event in lookup.prepare() if lookup else ():
        if services.stop_requested(session):
            return
        words = f"Counting words of {lookup.datastore.name}: {event.done:,} of {event.total:,} chunks"
        yield {"text": words, "fraction": event.done / max(1, event.total), "tone": "busy"}


def _number(value: Any) -> Any:
    """A slider sends 1 for 1.0; anything that is no number is left for GenerationConfig to refuse."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


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


def check_prompt(prompt: str, model_name: str, task: str = WRITE) -> None:
    """Raises InputError if the prompt is empty or too long for this model."""
    if not isinstance(prompt, str) or not prompt.strip():
        if task == READ:
            raise InputError("There is no text to read. Paste one, or take one of the examples.")
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


def _stages(info: ModelInfo, retrieval: bool) -> Iterator[dict[str, Any]]:
    """What a first run waits for, one after the other."""
    if not services.model_is_loaded(info.name):
        base = f", and {info.base} under it" if info.base and info.fitted else ""
        yield {"text": text.LOADING_MODEL.format(model=info.name + base), "tone": "busy"}
        services.model(info.name)
    # Looking something up loads the embedder.
    waits = retrieval and not services.embedder_is_loaded()
    yield {"text": text.LOADING_EMBEDDER if waits else "Starting…", "tone": "busy"}


def _summary(live: LiveText, stopped: bool) -> dict[str, Any]:
    seconds = time.monotonic() - live.started
    rate = live.written / max(seconds, 1e-3)
    words = f"{live.written} tokens in {seconds:.1f} s ({rate:.0f} tokens/s)"
    if stopped:
        return {"text": f"Stopped after {words}.", "tone": "good"}
    ended = text.ENDED.get(live.reason, "")
    return {"text": f"Wrote {words}.{ended}", "tone": "good"}


def summary_of_reading(trace: Trace, seconds: float) -> str:
    """How well the text was expected, with its neighbours and without."""
    tokens = [token for token in trace.data["tokens"] if token["lp_on"] is not None]
    if not tokens:
        return "Read a single token: there is nothing before it from which it could be expected."
    size = sum(len(token["text"].encode()) for token in tokens)
    ways = {"with retrieval": "lp_on", "without": "lp_off"}
    if not trace.data["retrieval"]:
        ways = {"without retrieval": "lp_off"}
    nats = {way: -sum(token[name] for token in tokens) for way, name in ways.items()}
    perplexity = " · ".join(f"{math.exp(sum_ / len(tokens)):,.1f} {way}" for way, sum_ in nats.items())
    bits = " · ".join(f"{sum_ / math.log(2) / max(1, size):.2f} {way}" for way, sum_ in nats.items())
    told = f"Read {len(tokens) + 1} tokens in {seconds:.1f} s. Perplexity {perplexity}. Bits per byte {bits}."
    if trace.data["retrieval"] and not any(stop > start for start, stop in _windows(trace)):
        told += " Shorter than a chunk: nothing in it could read its neighbours."
    return told


def _windows(trace: Trace) -> list[list[int]]:
    return [chunk["read"] for chunk in trace.data["chunks"]]


def session_of(request: gr.Request | None) -> str:
    return (request.session_hash if request else None) or ""


@shows_errors
def stop(request: gr.Request | None = None) -> None:
    ongoing.stop(session_of(request))
