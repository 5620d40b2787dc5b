"""The left half of Train: what to train, on what, what that takes, the exact command; and the button."""

import dataclasses
import json
import shlex
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import owners, policy, services, tasks, text, typed
from app.errors import sentence, shows_errors
from app.parts import Facts, StatusLine
from app.policy import Action, Rule, Visitor, permit
from app.tabs import corpus_make, train_runs, train_sets
from app.tabs.train_sets import OWN, TOY, Wanted
from indexing import paths
from indexing.corpus import SUFFIXES
from indexing.errors import InputError, RetroError
from indexing.training_sets import training_set
from retro_core import runs
from retro_core.bases import base_folder
from retro_core.config import TrainConfig, as_arguments, bounds
from retro_core.presets import PRESETS, RUN_PRESETS

_FIT = "fit"
_SIZES = [name for name in PRESETS if not name.startswith("reference")]
_NO_SETTINGS = "{}"  # where Gradio would draw an empty box
# Settings that have a control: (field, label)
_NUMBERS = [
    ("steps", "Steps"), ("batch_size", "Batch size"), ("max_len", "Window (tokens)"),
    ("num_neighbours", "Neighbours (k)"), ("evaluate_every", "Evaluate every"), ("save_every", "Save every"),
    ("learning_rate", "Learning rate"), ("seed", "Seed"),
]  # fmt: skip


@dataclass
class Form:
    """What the tab connects to.

    asked   what `start` takes, in its order; `preview` all but the last three
    begun   {"name", "source", "at"} of the run that began last
    offered, offers  what the server would have in fields, see `app.typed`, and these fields
    previewed, refreshed, watched  what `preview`, `refresh` and `reattach` fill
    """

    asked: list[gr.components.Component]
    begun: gr.State
    offered: gr.JSON
    offers: list[gr.components.Component]
    previewed: list[gr.components.Component]
    refreshed: list[gr.components.Component]
    watched: list[gr.components.Component]


def build(task: gr.BrowserState) -> Form:
    """Lay out the left half and wire it."""
    begun = gr.State(None)
    offered = gr.JSON(visible=False)
    preset = gr.Radio(
        choices=[(words.label, name) for name, words in text.RUNS.items()],
        value="toy",
        label="What to train",
        elem_id="train-preset",
    )
    told = gr.Markdown(text.RUNS["toy"].help, elem_id="train-help")
    base = gr.Dropdown(
        choices=[],
        label="Language model to RETRO-fit",
        info=text.WHERE_BASES_ARE,
        visible=False,
        elem_id="train-base",
    )
    who = policy.visitor()
    source = gr.Dropdown(
        choices=train_sets.choices(who), value=f"set:{TOY}", label="Train it on", elem_id="train-source"
    )
    with gr.Column(visible=False) as own:
        pasted = gr.Textbox(
            label="Paste a text",
            info=text.ENOUGH_TEXT,
            lines=5,
            max_lines=10,
            elem_id="train-text",
        )
        files = gr.File(
            label="or choose files: text, web pages, PDF, Word, tables",
            file_count="multiple",
            file_types=list(SUFFIXES),
            height=150,
            elem_id="train-files",
        )
        own_name = gr.Textbox(
            label="Name of the datastore it becomes",
            placeholder="my-texts",
            max_lines=1,
            elem_id="train-own-name",
        )
    estimate = Facts({"notes": [text.ESTIMATING]}, elem_id="estimate")
    with gr.Row(elem_classes="step-row"):
        start_button = gr.Button("Start training", variant="primary", elem_id="train-start", min_width=150)
        cancel_button = gr.Button("Cancel", visible=False, size="md", elem_id="train-cancel", min_width=80)
    progress = StatusLine(elem_id="train-progress")
    with gr.Column(visible=False, elem_id="train-refused") as refused:
        StatusLine({"text": policy.refusal(Action.TRAIN), "tone": "bad"})
        if policy.on_a_space():
            gr.DuplicateButton("Duplicate this Space", size="md", elem_id="train-duplicate")
    with gr.Accordion("Settings", open=False, elem_classes="fold", elem_id="train-settings"):
        run_name = gr.Textbox(**_named("run", "Name of the run"), max_lines=1, placeholder="chosen for you")
        model = gr.Dropdown(
            choices=_SIZES, **{**_named("model", "Size"), "value": "toy", "info": text.SIZE_HELP}
        )
        with gr.Row():
            numbers = [_number(name, label) for name, label in _NUMBERS]
    fold = gr.Accordion("The exact command, and all settings", open=False, elem_classes="fold")
    with fold:
        command = Facts(None, elem_id="train-command")
        values = gr.Code(
            _NO_SETTINGS, language="json", label="config.json", interactive=False, elem_id="train-config"
        )

    chosen = [preset, source, base, run_name, model, *numbers]
    asked = [*chosen, pasted, files, own_name]
    previewed = [estimate, command, values]
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    typed.keep([*chosen, pasted, own_name])
    # What a preset stands for is no news: without the server it is there before anything can be typed.
    presets = json.dumps({name: preset_values(name) for name in RUN_PRESETS}, ensure_ascii=False)
    waits = json.dumps(Facts.text({"notes": [text.ESTIMATING]}), ensure_ascii=False)
    chooses = f"(chosen) => [{waits}, ...({presets})[chosen]]"
    preset.input(None, preset, [estimate, told, base, model, *numbers], js=chooses, **quiet)
    shows_own = f"(chosen) => ({{__type__: 'update', visible: chosen === {json.dumps(OWN)}}})"
    source.change(None, source, own, js=shows_own, **quiet)
    gr.on(
        [control.change for control in chosen],
        preview,
        inputs=chosen,
        outputs=previewed,
        trigger_mode="always_last",
        **quiet,
    )
    watched = [task, begun, progress, start_button, cancel_button]
    start_button.click(start, inputs=asked, outputs=watched, concurrency_limit=None, **quiet)
    cancel_button.click(cancel, inputs=task, outputs=progress, queue=False, **quiet)
    refreshed = [offered, source, base, refused, start_button, fold]
    return Form(asked, begun, offered, [source, base, numbers[0]], previewed, refreshed, watched)


def _named(name: str, label: str) -> dict[str, Any]:
    """Default and help text of a setting, for its control."""
    default, help_text = bounds(TrainConfig, name)[2:]
    value = "" if name == "run" else RUN_PRESETS["toy"].get(name, default)
    return {"value": value, "label": label, "info": help_text, "elem_id": f"train-{name}", "min_width": 150}


def _number(name: str, label: str) -> gr.Number:
    low, high, default, _ = bounds(TrainConfig, name)
    whole = {"precision": 0} if isinstance(default, int) else {"step": 0.0001}
    return gr.Number(**_named(name, label), minimum=low, maximum=high, **whole)


# ---------------------------------------------------------------------------------------------- choose


def preset_values(preset: str) -> list[Any]:
    """[words about it, choice of base, size, *the numbers] as the page sets them."""
    values = _preset(preset)
    usual = TrainConfig()
    numbers = [values.get(name, getattr(usual, name)) for name, _ in _NUMBERS]
    base = gr.update(visible=preset == _FIT)
    sized = not {"base", "weights"} & values.keys()  # else it has the size of what it begins with
    model = gr.update(value=values.get("model", usual.model), visible=sized)
    return [text.RUNS[preset].help, base, model, *numbers]


def base_choices() -> list[tuple[str, str]]:
    """Language models that are here."""
    return [(info.name, info.name) for info in services.bases() if info.state == "here"]


def _preset(name: str) -> dict[str, Any]:
    if name not in RUN_PRESETS:
        raise InputError(f"Expected one of {', '.join(RUN_PRESETS)}, got {name!r}. Choose one of the list.")
    return RUN_PRESETS[name]


@shows_errors
def refresh(
    source: str | None, base: str | None, steps: float | None, request: gr.Request | None = None
) -> tuple[Any, ...]:
    """(offers, what there is to train on, bases, why not, the button, the command): whenever the tab is
    looked at."""
    who = policy.visitor(request)
    may, most = _rule(who).allowed, _rule(who).steps
    choices, bases = train_sets.choices(who), base_choices()
    gone = source not in [value for _, value in choices]
    other = base not in [value for _, value in bases]
    return (
        typed.offer(
            (source, f"set:{TOY}") if gone else None,
            (base, bases[0][1] if bases else None) if other else None,
            (steps, most) if most and (steps or 0) > most else None,
        ),
        gr.update(choices=choices),
        gr.update(choices=bases),
        gr.update(visible=not may),
        gr.update(interactive=may),
        gr.skip() if may else gr.update(open=True),
    )


def config_of(
    preset: str, base: str | None, run_name: str, model: str | None, numbers: list[float | None], who: Visitor
) -> TrainConfig:
    """The settings as they are asked for, without what is trained on.

    Raises ConfigError (a value), InputError (a name, a base that is not here, more steps than are allowed).
    """
    values = dict(_preset(preset))
    for (name, label), number in zip(_NUMBERS, numbers, strict=True):
        if number is None:
            raise InputError(f"{label} is empty. Type a number.")
        wants_whole = isinstance(bounds(TrainConfig, name)[2], int)
        values[name] = int(number) if wants_whole and float(number).is_integer() else number
    values["learning_rate"] = float(values["learning_rate"])
    if preset == _FIT:
        if base not in [value for _, value in base_choices()]:
            raise InputError(text.NO_BASE_HERE)
        values["base"] = base
    elif "weights" not in values:
        if model not in _SIZES:
            raise InputError(f"Expected a size of {', '.join(_SIZES)}, got {model!r}. Choose one of them.")
        values["model"] = model
    if who.rule.steps and values["steps"] > who.rule.steps:
        raise InputError(
            f"Up to {who.rule.steps} steps are trained here, got {values['steps']:,}. Ask for fewer, or "
            "train on your own computer."
        )
    values["run"] = who.names(_free_name(preset, run_name))
    return TrainConfig(**values)


def _free_name(preset: str, typed: str) -> str:
    """What was typed, or the preset's name with the first number that is free."""
    if typed.strip():
        return paths.check_name(typed.strip())
    taken = {owners.shown(info.name) for info in runs.list_runs()}
    return next(name for number in range(1, 100_000) if (name := f"{preset}-{number}") not in taken)


def _on(config: TrainConfig, wanted: Wanted) -> TrainConfig:
    """The settings with the set that they train on."""
    made = wanted.made
    if made is None:
        return config
    tokenizer = config.tokenizer if config.base else train_sets.tokenizer_of(made)
    return dataclasses.replace(
        config, data_spec=str(made.data_spec), validation=str(made.validation), tokenizer=tokenizer
    )


# ---------------------------------------------------------------------------------------------- preview


@shows_errors
def preview(
    preset: str,
    source: str | None,
    base: str | None,
    run_name: str | None,
    model: str | None,
    steps: float | None,
    batch_size: float | None,
    max_len: float | None,
    num_neighbours: float | None,
    evaluate_every: float | None,
    save_every: float | None,
    learning_rate: float | None,
    seed: float | None,
    request: gr.Request | None = None,
) -> tuple[Any, Any, Any]:
    """(what the run takes, its command, its settings)."""
    who = dataclasses.replace(permit(Action.PREVIEW, request), rule=_rule(policy.visitor(request)))
    numbers = [
        steps, batch_size, max_len, num_neighbours, evaluate_every, save_every, learning_rate, seed
    ]  # fmt: skip
    try:
        config = config_of(preset, base, run_name or "", model, numbers, who)
        wanted = train_sets.wanted(source or "", config.base, who)
    except RetroError as error:
        return {"notes": [sentence(error)]}, {"notes": [text.NO_COMMAND]}, _NO_SETTINGS
    config = _on(config, wanted)
    return estimated(config, wanted), commands(config, wanted), shown_settings(config)


def preview_after(
    begun: dict[str, Any] | None, request: gr.Request | None = None, *chosen: Any
) -> tuple[Any, Any, Any]:
    """What `preview` says of what is `chosen`, once a run has begun: the next one has another name. Gradio
    asks at each start of the page too, when none has, and what that takes would bring torch with it."""
    return preview(*chosen, request=request) if begun else (gr.skip(),) * 3


def _rule(who: Visitor) -> Rule:
    return policy.rule(Action.TRAIN, who.mode, who.role)


def estimated(config: TrainConfig, wanted: Wanted) -> dict[str, Any]:
    """The value of `Facts`."""
    # Only now: it imports torch, which the page must not wait for.
    from retro_core import estimates

    notes, first = [], []
    counted = config
    if wanted.made is None:
        if wanted.datastore:
            first = [["First", f"neighbours of {wanted.chunks:,} chunks are found, once"]]
        if config.base:
            return {
                "facts": [*first, ["Trains on", owners.shown(wanted.datastore) or "a text of your own"]],
                "notes": [text.ESTIMATED_LATER],
            }
        toy = training_set(TOY)  # what a run takes hardly depends on which texts it reads
        counted = dataclasses.replace(config, data_spec=str(toy.data_spec), validation=str(toy.validation))
    try:
        found = estimates.estimate(counted)
    except RetroError as error:
        return {"notes": [sentence(error)]}
    try:
        estimates.check_fits(config, found)
    except RetroError as error:
        notes.append(sentence(error))
    free = f" of {estimates.bytes_in_words(found.free_memory_bytes)} free" if found.free_memory_bytes else ""
    trained = "" if found.trained == found.parameters else f", {found.trained:,} of them trained"
    facts = [
        ["Time", estimates.in_words(found.seconds)],
        ["Memory", f"{estimates.bytes_in_words(found.memory_bytes)}{free}"],
        ["Disk", estimates.bytes_in_words(found.disk_bytes)],
        ["Model", f"{found.parameters:,} parameters{trained}"],
        *first,
    ]
    if wanted.made is not None:
        made = wanted.made
        facts.append(
            ["Trains on", f"{made.documents:,} documents, {made.chunks:,} chunks; "
             f"{made.held_out_documents:,} held out"]
        )  # fmt: skip
    return {"facts": facts, "notes": [*notes, *map(sentence, map(InputError, found.warnings))]}


def commands(config: TrainConfig, wanted: Wanted) -> dict[str, Any]:
    """The value of `Facts`: what to type to have the same run, in the program's folder."""
    words = _changed(config)
    lines = []
    if wanted.made is None:
        name = wanted.name or "my-texts"
        again = f" --tokenizer {train_sets.shown(base_folder(config.base))}" if config.base else ""
        lines.append(f"python -m indexing training-set {name} {wanted.datastore or 'my-texts'}{again}")
        where = train_sets.shown(paths.training_sets_dir() / name)
        words = ["--data-spec", f"{where}/train/data.spec.json", *words]
        words += ["--validation", f"{where}/held-out/data.spec.json"]

    lines.append(" ".join(["python -m retro_core train", *words]))
    return {"commands": lines}


def _changed(config: TrainConfig) -> list[str]:
    """The options of a command line for what is not as it usually is. A file below $RETRO_HOME or ~ stays as
    the shell is to read it; no name of ours needs quotes."""
    words = []
    for argument, usual in zip(as_arguments(_shown(config)), as_arguments(TrainConfig()), strict=True):
        if argument != usual:
            option, given, value = argument.partition("=")
            plain = value.startswith(("$RETRO_HOME/", "~/"))
            words += [option, *([value if plain else shlex.quote(value)] if given else [])]
    return words


def shown_settings(config: TrainConfig) -> str:
    """config.json, with files as a command names them."""
    return json.dumps(_shown(config).to_dict(), indent=2, ensure_ascii=False)


def _shown(config: TrainConfig) -> TrainConfig:
    """The same settings with files as a command names them."""
    files = ("data_spec", "validation", "tokenizer")
    named = {name: getattr(config, name) for name in files if "/" in getattr(config, name)}
    return dataclasses.replace(
        config, run=owners.shown(config.run), **{name: train_sets.shown(path) for name, path in named.items()}
    )


# ---------------------------------------------------------------------------------------------- start


@shows_errors
def start(
    preset: str,
    source: str | None,
    base: str | None,
    run_name: str | None,
    model: str | None,
    steps: float | None,
    batch_size: float | None,
    max_len: float | None,
    num_neighbours: float | None,
    evaluate_every: float | None,
    save_every: float | None,
    learning_rate: float | None,
    seed: float | None,
    pasted: str | None = None,
    files: list[str] | None = None,
    own_name: str | None = None,
    request: gr.Request | None = None,
) -> Iterator[tuple[Any, ...]]:
    """Yield (what the browser remembers, the run that has begun, progress, the button, the one to cancel)."""
    who = permit(Action.TRAIN, request)
    numbers = [
        steps, batch_size, max_len, num_neighbours, evaluate_every, save_every, learning_rate, seed
    ]  # fmt: skip
    config = config_of(preset, base, run_name or "", model, numbers, who)
    train_runs.expect_room(who)
    wanted = train_sets.wanted(source or "", config.base, who)
    if wanted.made is None:
        yield from _prepared(config, wanted, pasted, files, own_name, who, request)
        return
    yield (
        None,
        gr.skip(),
        {"text": text.STARTING_RUN, "tone": "busy"},
        gr.update(interactive=False),
        gr.skip(),
    )
    try:
        info = runs.start(_on(config, wanted))
    except BaseException:
        yield None, gr.skip(), "", gr.update(interactive=True), gr.skip()
        raise
    yield None, _run(info.name), _begun(info.name), gr.update(interactive=True), gr.skip()


def _run(name: str, source: str | None = None) -> dict[str, Any]:
    """Each start is another one, also of a run that was there before. source: what can be trained on again"""
    return {"name": name, "source": source, "at": time.time()}


@shows_errors
def look_at(
    begun: dict[str, Any] | None, chosen: str | None, request: gr.Request | None = None
) -> tuple[Any, Any, Any]:
    """(the run to look at, offers, what there is to train on), once a run has begun. A text that was brought
    is a datastore by now, and is trained on again under its name."""
    name, source = ((begun or {}).get(key) for key in ("name", "source"))
    if not source:
        return name or chosen, typed.offer(), gr.skip()
    choices = train_sets.choices(policy.visitor(request))
    return name, typed.offer((OWN, source)), gr.update(choices=choices)


def _begun(name: str) -> dict[str, Any]:
    return {"text": text.RUN_BEGUN.format(name=owners.shown(name)), "tone": "good"}


def _prepared(
    config: TrainConfig,
    wanted: Wanted,
    pasted: str | None,
    files: list[str] | None,
    own_name: str | None,
    who: Visitor,
    request: gr.Request | None,
) -> Iterator[tuple[Any, ...]]:
    """Make the training set first, in a task that outlives the page, and begin the run at its end."""
    datastore, rule = wanted.datastore, who.rule
    if not datastore:
        brings = permit(Action.MAKE_DATASTORE, request)
        rule = brings.rule
        if not (own_name or "").strip():
            raise InputError("The text has no name yet. Type one, for example 'my-texts'.")
        if not (pasted or "").strip() and not files:
            raise InputError("There is no text yet. Paste some, or choose files.")
        datastore = corpus_make.new_name(own_name.strip(), brings)

    def work() -> Generator[dict[str, Any], None, dict[str, Any]]:
        asked = wanted
        if not wanted.datastore:
            yield from train_sets.own_datastore(pasted, files, datastore, rule)
            asked = train_sets.wanted(f"store:{datastore}", config.base, who)
        if asked.made is None:
            yield from train_sets.making(asked, config.base, who)
        made = dataclasses.replace(asked, made=training_set(asked.name))
        yield {"text": text.STARTING_RUN, "tone": "busy"}
        info = runs.start(_on(config, made))
        yield _begun(info.name)
        return _run(info.name, f"store:{datastore}")

    yield from _watched(tasks.start("train", config.run, work, who))


def _watched(task: tasks.Task) -> Iterator[tuple[Any, ...]]:
    """As `start`, until the task has ended."""
    for now in tasks.watch(task):
        known = tasks.memory(task, now.active)
        begun = now.result if now.state == tasks.DONE else gr.skip()
        yield (
            known, begun, now.line, gr.update(interactive=not now.active),
            gr.update(visible=now.active, interactive=now.active),
        )  # fmt: skip
        if now.state == tasks.FAILED:
            raise InputError(now.line["text"])


@shows_errors
def reattach(known: dict[str, Any] | None, request: gr.Request | None = None) -> Iterator[tuple[Any, ...]]:
    """What was being made before the page was loaded anew."""
    found = tasks.remembered(known, policy.visitor(request))
    if found is None:
        yield tasks.NOTHING, *(gr.skip(),) * 4
        return
    name, task = found
    if task is None:
        line = {"text": text.RUN_LOST.format(name=owners.shown(name)), "tone": "bad"}
        yield tasks.NOTHING, gr.skip(), line, gr.skip(), gr.skip()
        return
    yield from _watched(task)


@shows_errors
def cancel(known: dict[str, Any] | None, request: gr.Request | None = None) -> dict[str, Any]:
    tasks.cancel(known.get("task") if isinstance(known, dict) else None, policy.visitor(request))
    return {"text": "Cancelling…", "tone": "busy"}
