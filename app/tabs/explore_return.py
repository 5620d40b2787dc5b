"""What a page begins with: what its address asks for, else what this browser was at before."""

import json
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from app import address, explore, policy, services, tasks, text, work
from app.errors import shows_errors
from app.tabs import explore_result, more_models
from app.tabs.explore import Explore, session_of
from indexing.errors import TraceError

# Controls change while the page is made, too: nothing is kept before what was kept has come back.
_KEEP = """(kept, ...values) =>
  window.retroIsBack ? Object.fromEntries({names}.map((name, i) => [name, values[i]])) : kept"""
_PROMPT = """(kept, typed) => {
  const linked = new URLSearchParams(location.search);
  return typed || (linked.has("prompt") || linked.has("example") ? "" : kept?.prompt || "");
}"""
# A prompt that was typed while the page came up is kept from here on.
_IS_BACK = """(kept, ...values) => {
  window.retroIsBack = true;
  const now = Object.fromEntries({names}.map((name, i) => [name, values[i]]));
  return now.prompt ? now : kept;
}"""


def remember_settings() -> gr.BrowserState:
    """Call it outside of all tabs. The secret is none: it only keeps Gradio from choosing another at each
    start, with which nothing could be read again."""
    return gr.BrowserState(storage_key="retro-explore-settings", secret="retro-explore")


def remember_writing() -> gr.BrowserState:
    """As `remember_settings`: of a text that is being written, the id."""
    return gr.BrowserState(storage_key="retro-explore-writing", secret="retro-explore")


def wire(
    page: gr.Blocks,
    explorer: Explore,
    tabs: gr.Tabs,
    settings: gr.BrowserState,
    writing: gr.BrowserState,
    lost: gr.components.Component,
    share: gr.Button,
) -> None:
    """
    writing  see `remember_writing`
    lost     where it is said that what was looked at is gone
    share    copies the address of what is seen
    """
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    controls, result = explorer.controls, explorer.result
    names = json.dumps([*controls])
    gr.on(
        [control.change for control in controls.values()],
        None,
        inputs=[settings, *controls.values()],
        outputs=settings,
        js=_KEEP.replace("{names}", names),
        trigger_mode="multiple",
        api_visibility="private",
    )
    # The prompt comes back at once and without the server, or what is typed meanwhile would be overwritten.
    prompt = controls["prompt"]
    page.load(None, inputs=[settings, prompt], outputs=prompt, js=_PROMPT, api_visibility="private")
    outputs = [result.lens, result.progress, result.shown]
    goes_on = gr.State()  # the server's own, so that a page that a link leads to does not watch another's
    back = [tabs, *outputs, lost, writing, goes_on, *controls.values()]
    is_back = page.load(
        come_back, inputs=[settings, result.seen, writing], outputs=back, queue=False, **quiet
    ).then(
        None,
        inputs=[settings, *controls.values()],
        outputs=settings,
        js=_IS_BACK.replace("{names}", names),
        api_visibility="private",
    )
    is_back.then(
        work.resume(len(outputs), outputs.index(result.progress), session_of),
        inputs=goes_on,
        outputs=[*outputs, writing, *explorer.buttons],
        concurrency_limit=None,
        **quiet,
    ).then(remember_resumed, inputs=[goes_on, result.shown], outputs=result.seen, queue=False, **quiet)
    usual = json.dumps(
        {name: control.value for name, control in controls.items() if name != "prompt"}, ensure_ascii=False
    )
    js = explore.LINK.read_text(encoding="utf-8").replace("{names}", names).replace("{usual}", usual)
    for button in (share, result.link):
        button.click(
            None,
            inputs=[*controls.values()],
            outputs=result.progress,
            js=js,
            api_visibility="private",
        )


@shows_errors
def come_back(
    settings: dict | None, seen: dict | None, writing: dict | None = None, request: gr.Request | None = None
) -> list[Any]:
    """(tabs, lens, progress, shown, what was lost, what the browser keeps of a text that is being written,
    the id of that text, every control)"""
    who = policy.visitor(request)
    linked = address.of_query(dict(request.query_params) if request else {}, who)
    values = linked.values
    if not values and not linked.example:
        values = address.of_memory(settings, who)
        values.pop("prompt", None)  # has come back already
    back = _Back()
    if linked.example:
        back.trace_id = linked.example
    elif not linked.values:
        back = _what_was_there(seen, writing, who)
    lens, shown, told = back.lens, gr.skip(), back.told
    if back.trace_id and back.trace_id != next(iter(services.recorded()), None) or linked.chunk is not None:
        lens = services.view(back.trace_id, who)
        lens |= {} if linked.chunk is None else {"opened_at": linked.chunk}
        shown = back.trace_id
    if linked.values:
        told = text.LINKED
    if linked.refused:
        told = f"{text.LINK_REFUSED.format(names=', '.join(linked.refused))} {told}"
    tab = gr.Tabs(selected=linked.tab) if linked.tab else gr.skip()
    choices = {"model": more_models.model_choices, "datastore": lambda: services.datastore_choices(who)}
    controls = [
        gr.update(value=values[name], **({"choices": choices[name]()} if name in choices else {}))
        if name in values
        else gr.skip()
        for name in address.NAMES
    ]
    return [
        tab, lens, told or gr.skip(), shown, back.lost or gr.skip(), back.writing, back.goes_on, *controls
    ]  # fmt: skip


@dataclass
class _Back:
    """trace_id: of a finished trace to be shown, else `lens` is · told: as progress · lost: what is gone ·
    writing: what the browser keeps from now on · goes_on: id of what is to be watched"""

    trace_id: str = ""
    lens: Any = field(default_factory=gr.skip)
    told: Any = ""
    lost: str = ""
    writing: Any = field(default_factory=gr.skip)
    goes_on: str | None = None


def _what_was_there(seen: Any, writing: Any, who: policy.Visitor) -> _Back:
    """What this browser looked at last: a text that is still being written, one that was finished meanwhile,
    one that a restart cut off; else the finished one that it remembers."""
    seen = seen if isinstance(seen, dict) else {}
    back, found = _Back(trace_id=str(seen.get("trace") or "")), work.found(writing, who)
    if found.one is not None or found.values:
        lens, told, shown = found.values
        back.goes_on = found.one and found.one.id
        back.told = told if told != gr.skip() else ""
        if isinstance(shown, str):
            back.trace_id = shown
        elif isinstance(lens, dict) and "tokens" in lens:
            back.lens, back.trace_id = lens, ""
    if found.one is None:
        back.writing = tasks.NOTHING
    if found.told:
        back.told = {"text": found.told, "tone": "bad"}
    if found.interrupted:
        back.lens, back.trace_id = {"interrupted": True}, ""
        back.lost = text.INTERRUPTED_SPACE if policy.on_a_space() else text.INTERRUPTED
    if back.trace_id and not _is_there(back.trace_id, who):
        restarted = seen.get("server") != services.STARTED
        gone = text.RESTARTED_SPACE if policy.on_a_space() else text.RESTARTED
        back.lost, back.trace_id = gone if restarted else text.FORGOTTEN, ""
    elif found.forgotten:
        back.lost = text.FORGOTTEN
    return back


@shows_errors
def remember_resumed(resumed: str | None, trace_id: str | None) -> Any:
    """What comes of a text that went on is remembered; a page that only came up is none."""
    return explore_result.remember(trace_id) if resumed else gr.skip()


def _is_there(trace_id: str, who: policy.Visitor) -> bool:
    try:
        services.trace(trace_id, who)
    except TraceError:
        return False
    return True
