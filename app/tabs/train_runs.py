"""The right half of Train: which runs there are, one of them in full, and what can be done with it.

Everything is read from the runs' folders each time, so it is the same after a reload or a restart, and the
buttons are what the run's state allows now, never what was clicked before.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import owners, policy, services, text
from app.errors import sentence, shows_errors
from app.parts import Facts, StatusLine
from app.policy import Action, Role, Visitor, permit
from app.tabs import more_models, train_curves
from app.tabs.train_curves import MOST_COMPARED
from app.train import Curves, RunList, Samples
from indexing import paths
from indexing.errors import InputError, RetroError
from indexing.training_sets import list_training_sets
from retro_core import run_folder, runs
from retro_core.run_folder import FAILED, STOPPED, checkpoints
from retro_core.runs import RunInfo

RECORDED = str(paths.ASSETS / "runs" / "toy")  # shown where nobody has trained yet
_RECORDED_NAME = "recorded example"
_LOG_BYTES = 6000
_BEST, _NEWEST = "best", "newest"
_CHECKPOINT = 7  # its place among the parts


@dataclass
class Shown:
    """What the page shows of runs.

    chosen, compared, seen  of this page: a run's name, several, what was sent last
    parts                   what `_parts` fills, in its order
    """

    chosen: gr.State
    compared: gr.State
    seen: gr.State
    parts: list[gr.components.Component]
    use: gr.Button
    checkpoint: gr.Dropdown
    samples: Samples
    told: StatusLine

    @property
    def asked(self) -> list[gr.components.Component]:
        return [self.chosen, self.compared, self.seen]

    @property
    def all(self) -> list[gr.components.Component]:
        return [*self.asked, *self.parts]


def build() -> Shown:
    """Lay out the right half and wire what stays in it."""
    chosen, compared, seen, doomed = gr.State(None), gr.State([]), gr.State({}), gr.State(None)
    listing = RunList(None, elem_id="runs")
    facts = Facts(None, visible=False, elem_id="run-facts")
    with gr.Row(elem_classes="step-row", visible=False) as buttons:
        stop_button = gr.Button("Stop", size="md", min_width=80, elem_id="run-stop")
        resume_button = gr.Button("Resume", size="md", min_width=80, elem_id="run-resume")
        delete_button = gr.Button("Delete…", size="md", min_width=80, elem_id="run-delete")
        checkpoint = gr.Dropdown(
            choices=[], label="Checkpoint", elem_id="checkpoint", scale=3, min_width=160, visible=False
        )
        use = gr.Button("Use in Explore", size="md", elem_id="run-use", min_width=130, visible=False)
    with gr.Row(visible=False, elem_classes="step-row") as sure:
        question = StatusLine(elem_id="run-question")
        yes = gr.Button("Yes, delete", variant="stop", size="sm", min_width=100, elem_id="run-delete-yes")
        no = gr.Button("Keep it", size="sm", min_width=100, elem_id="run-delete-no")
    told = StatusLine(elem_id="run-told")
    with gr.Accordion("Log", open=False, visible=False, elem_classes="fold", elem_id="log-fold") as fold:
        log = gr.Textbox(
            label="What the run printed last", lines=6, max_lines=14, interactive=False, elem_id="run-log"
        )
    curves = Curves(None, elem_id="curves")
    gr.Markdown(text.WHAT_IT_WRITES, elem_id="samples-title")
    samples = Samples(None, fetch=fetch_samples, elem_id="samples")
    parts = [
        listing, facts, buttons, stop_button, resume_button, delete_button, use, checkpoint, curves, samples,
        fold, log,
    ]  # fmt: skip
    shown = Shown(chosen, compared, seen, parts, use, checkpoint, samples, told)
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    # A click while another is being answered counts too.
    listing.choose(
        choose, inputs=[compared], outputs=[*shown.all, sure, told], trigger_mode="multiple", **quiet
    )
    listing.compare(compare, inputs=[chosen], outputs=shown.all, trigger_mode="multiple", **quiet)
    acted = {"inputs": shown.asked, "outputs": [*shown.all, told], **quiet}
    stop_button.click(stop, **acted)
    resume_button.click(resume, **acted)
    delete_button.click(ask_to_delete, inputs=chosen, outputs=[sure, question, doomed], **quiet)
    # What the question names, whatever is chosen by the time it is answered.
    yes.click(delete, inputs=[doomed, compared, seen], outputs=[*shown.all, told, sure], **quiet)
    no.click(lambda: gr.Row(visible=False), outputs=sure, queue=False, **quiet)
    return shown


# ---------------------------------------------------------------------------------------------- look


@shows_errors
def show(
    chosen: str | None, compared: list[str] | None, seen: dict[str, Any] | None,
    request: gr.Request | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """Everything about the runs as they are now, in the order of `Shown.all`; what has not changed since
    `seen` is left as it is."""
    return _all(policy.visitor(request), chosen, compared, seen)


def visible(who: Visitor) -> list[RunInfo]:
    """The runs that this visitor may see, the one with the newest sign of life first."""
    return [info for info in runs.list_runs() if who.may_see(info.name)]


def find(name: str | None, who: Visitor) -> RunInfo:
    """Raises InputError if there is no such run for this visitor."""
    if not name:
        raise InputError("No run is chosen. Choose one of the list.")
    if not who.may_see(paths.check_name(name)):
        raise InputError(f"There is no run {owners.shown(name)!r} here. Choose one of the list.")
    return runs.show(name)


def _all(
    who: Visitor, chosen: str | None, compared: Sequence[str] | None, seen: dict[str, Any] | None
) -> tuple[Any, ...]:
    infos = visible(who)
    by_name = {info.name: info for info in infos}
    info = by_name.get(chosen) if isinstance(chosen, str) else None
    info = info or (infos[0] if infos else None)
    kept = [name for name in compared or () if name in by_name][:MOST_COMPARED]
    name = info.name if info else ""
    seen = seen if seen and seen.get("run") == name else {}
    now, values = {"run": name}, []
    for number, value in enumerate(_parts(infos, info, kept, who)):
        now[str(number)] = hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
        values.append(gr.skip() if seen.get(str(number)) == now[str(number)] else value)
    now["saved"] = bool(info and checkpoints(info.folder))
    if now["saved"] and not seen.get("saved"):  # later it is what somebody chose
        values[_CHECKPOINT] = {**values[_CHECKPOINT], "value": _NEWEST}
    # An answer that comes late must not undo what was chosen meanwhile.
    stays = [gr.skip() if old == new else new for old, new in ((chosen, name or None), (compared, kept))]
    return *stays, now, *values


def _parts(
    infos: Sequence[RunInfo], info: RunInfo | None, compared: Sequence[str], who: Visitor
) -> list[Any]:
    name = info.name if info else None
    listed = train_curves.listed(infos, name, compared)
    if info is None:
        hidden = gr.update(visible=False)
        return [listed, *(hidden,) * 6, gr.update(choices=[]), *_recorded(), hidden, ""]
    mine = policy.rule(Action.MANAGE_RUN, who.mode, who.role).allowed and who.may_change(info.name)
    saved = [one.step for one in checkpoints(info.folder)]
    can_resume = mine and info.state in (STOPPED, FAILED) and bool(info.settings)
    log = train_curves.said(info.log or runs.log_tail(info.name, _LOG_BYTES))
    usable = mine and bool(saved) and may_use(who)
    asked = run_folder.stop_asked(info.folder)
    return [
        listed,
        gr.update(value=train_curves.facts(info), visible=True),
        gr.update(visible=mine),
        gr.update(
            visible=mine and info.active, interactive=not asked, value="Stopping…" if asked else "Stop"
        ),
        gr.update(visible=can_resume),
        gr.update(visible=mine and not info.active),
        gr.update(visible=usable),
        _checkpoints(info, saved, usable),
        _curves(info, compared),
        _samples(info.name, info.name),
        gr.update(visible=bool(log), open=info.state == FAILED),
        log,
    ]


def _checkpoints(info: RunInfo, saved: Sequence[int], usable: bool) -> dict[str, Any]:
    best = run_folder.best_checkpoint(info.folder)
    choices = [(f"newest (step {saved[-1]:,})", _NEWEST)] if saved else []
    if best is not None and best.step != (saved[-1] if saved else None):
        choices.append((f"best by held-out loss (step {best.step:,})", _BEST))
    choices += [(f"step {step:,}", str(step)) for step in reversed(saved[:-1])]
    return gr.update(choices=choices, visible=usable)


def _curves(info: RunInfo, compared: Sequence[str]) -> dict[str, Any]:
    if len(compared) > 1:
        found = runs.compare(compared)
        note = train_curves.differing(compared, found.settings)
        return train_curves.drawn([(name, runs.history(name)) for name in compared], note)
    return train_curves.drawn([(info.name, runs.history(info.name))])


def _recorded() -> tuple[dict[str, Any], dict[str, Any]]:
    """Curves and samples of a run that ships, so that the first look is not at nothing."""
    curves = train_curves.drawn([(_RECORDED_NAME, runs.history(RECORDED))], text.RECORDED_RUN)
    return curves, _samples(_RECORDED_NAME, RECORDED)


def _samples(shown: str, name: str) -> dict[str, Any]:
    """The value of `Samples`."""
    gains = [[None if gain is None else round(gain, 4) for gain in each] for each in runs.gains(name)]
    return {"run": shown, "steps": runs.sampled_steps(name), "gains": gains, "empty": text.NO_SAMPLES}


def fetch_samples(asked: Any, request: gr.Request | None = None) -> dict[str, Any]:
    """For the component, which may send anything: {"run", "step"}."""
    try:
        name, step = _asked_for(asked, policy.visitor(request))
        found = runs.samples_of(name, step)
        traced = [runs.sample_trace(name, step, number) is not None for number in range(len(found))]
        return {"samples": [{**one, "traced": there} for one, there in zip(found, traced, strict=True)]}
    except RetroError as error:
        return {"error": sentence(error)}


def _asked_for(asked: Any, who: Visitor) -> tuple[str, int]:
    """(run, step) of {"run", "step"}, which may be anything. Raises InputError."""
    name, step = (asked.get(key) if isinstance(asked, dict) else None for key in ("run", "step"))
    if not isinstance(name, str) or not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise InputError("Expected the name of a run and a step. Load the page anew and try again.")
    return (RECORDED if name == _RECORDED_NAME else find(name, who).name), step


@shows_errors
def see_sample(event: gr.EventData, request: gr.Request | None = None) -> tuple[Any, Any, Any, Any]:
    """(tabs, lens, progress, id of the trace in it): a sample as it was read at an evaluation."""
    who = policy.visitor(request)
    asked = getattr(event, "_data", None)
    name, step = _asked_for(asked, who)
    number = asked.get("number")
    path = runs.sample_trace(name, step, number) if type(number) is int and number >= 0 else None
    if path is None:
        raise InputError("Of this text no trace was kept. Choose another, or another step.")
    trace_id = services.keep(services.read_trace(path), who=who)
    return gr.Tabs(selected="explore"), services.view(trace_id, who), text.SAMPLE_SHOWN, trace_id


@shows_errors
def choose(
    compared: list[str] | None, event: gr.EventData, request: gr.Request | None = None
) -> tuple[Any, ...]:
    """(as `show`, the question, the line): another run is looked at."""
    info = find(_told(event, "name", str), policy.visitor(request))
    _, *rest = _all(policy.visitor(request), info.name, compared, None)
    return info.name, *rest, gr.update(visible=False), ""


@shows_errors
def compare(chosen: str | None, event: gr.EventData, request: gr.Request | None = None) -> tuple[Any, ...]:
    """As `show`: other runs are ticked."""
    who = policy.visitor(request)
    names = _told(event, "names", list)
    if len(names) > MOST_COMPARED:
        raise InputError(f"Up to {MOST_COMPARED} runs can be compared, got {len(names)}. Untick some.")
    compared = [find(name if isinstance(name, str) else None, who).name for name in names]
    first, _, *rest = _all(who, chosen, compared, None)
    return first, compared, *rest


def _told(event: Any, key: str, kind: type) -> Any:
    """What the browser sent with an event, which may be anything."""
    sent = getattr(event, "_data", None)
    value = sent.get(key) if isinstance(sent, dict) else None
    if not isinstance(value, kind):
        raise InputError("Expected a run of the list. Load the page anew and try again.")
    return value


# ---------------------------------------------------------------------------------------------- act


@shows_errors
def stop(
    chosen: str | None, compared: list[str] | None, seen: dict[str, Any] | None,
    request: gr.Request | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """(as `show`, a line)."""
    who = permit(Action.MANAGE_RUN, request)
    runs.ask_to_stop(_changeable(chosen, who).name)
    return *_all(who, chosen, compared, seen), ""


@shows_errors
def resume(
    chosen: str | None, compared: list[str] | None, seen: dict[str, Any] | None,
    request: gr.Request | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """(as `show`, a line)."""
    who = permit(Action.TRAIN, request)
    info = _changeable(chosen, who)
    expect_room(who)
    runs.resume(info.name)
    return *_all(who, chosen, compared, seen), ""


@shows_errors
def ask_to_delete(chosen: str | None, request: gr.Request | None = None) -> tuple[Any, Any, str]:
    """(the row with the question, the question, the run that it is about)."""
    info = _changeable(chosen, permit(Action.MANAGE_RUN, request, counts=False))
    words = (
        f"Delete {owners.shown(info.name)} with its curves, samples and checkpoints? It cannot be got back."
    )
    return gr.update(visible=True), {"text": words, "tone": "bad"}, info.name


@shows_errors
def delete(
    chosen: str | None, compared: list[str] | None, seen: dict[str, Any] | None,
    request: gr.Request | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """(as `show`, a line, the row with the question)."""
    who = permit(Action.MANAGE_RUN, request)
    info = _changeable(chosen, who)
    runs.delete(info.name)
    line = {"text": f"Deleted {owners.shown(info.name)}.", "tone": "good"}
    return *_all(who, None, compared, seen), line, gr.update(visible=False)


@shows_errors
def use(chosen: str | None, checkpoint: str | None, request: gr.Request | None = None) -> tuple[Any, ...]:
    """(the tab Explore, its choices of model and of datastore, a line): a model is made of the checkpoint."""
    who = permit(Action.MANAGE_RUN, request)
    info = _changeable(chosen, who)
    if not may_use(who):
        raise InputError(text.MODELS_ARE_SHARED)
    which: int | str = checkpoint or _NEWEST
    if which not in (_NEWEST, _BEST):
        if not which.isdecimal():
            raise InputError("Expected a checkpoint of the list. Choose one of them.")
        which = int(which)
    # Only now: it imports torch, which the page must not wait for.
    from retro_core.training import export_checkpoint

    name = export_checkpoint(info.name, which)
    model = gr.Dropdown(choices=more_models.model_choices(), value=name)
    line = {"text": f"{owners.shown(name)} is chosen in Explore.", "tone": "good"}
    return gr.Tabs(selected="explore"), model, _read_from(info, who), line


def _read_from(info: RunInfo, who: Visitor) -> Any:
    """The datastore that a run's training set was made of, as the choice in Explore, if it is still there."""
    spec = info.settings.get("data_spec")
    made = next((one for one in list_training_sets() if str(one.data_spec) == spec), None)
    source = made.source.split(" + ")[0] if made else ""
    choices = services.datastore_choices(who)
    there = source in [name for _, name in choices]
    return gr.Dropdown(choices=choices, value=source) if there else gr.skip()


def may_use(who: Visitor) -> bool:
    """Models are everybody's, so where strangers share a server only its owner makes one."""
    return who.sees_everything or who.role is Role.OWNER


def expect_room(who: Visitor) -> None:
    """Raises InputError if this visitor may not have another run at the same time."""
    active = [info.name for info in visible(who) if info.active and who.may_change(info.name)]
    if who.rule.at_once and len(active) >= who.rule.at_once:
        raise InputError(
            f"{owners.shown(active[0])} is being trained, and a visitor has {who.rule.at_once} at a time "
            "here. Stop it first, or wait."
        )


def _changeable(name: str | None, who: Visitor) -> RunInfo:
    info = find(name, who)
    if not who.may_change(info.name):
        raise InputError(f"{owners.shown(info.name)} is everybody's here, and visitors do not change it.")
    return info
