"""What a page begins with: what its address asks for, else what this browser was at before."""

import json
from typing import Any

import gradio as gr

from app import address, explore, policy, services, text
from app.errors import shows_errors
from app.tabs import more_models
from app.tabs.explore import Explore
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


def wire(
    page: gr.Blocks,
    explorer: Explore,
    tabs: gr.Tabs,
    settings: gr.BrowserState,
    lost: gr.components.Component,
    share: gr.Button,
) -> None:
    """lost: where it is said that what was looked at is gone · share: copies the address of what is seen"""
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
    back = [tabs, result.lens, result.progress, result.shown, lost, *controls.values()]
    page.load(come_back, inputs=[settings, result.seen], outputs=back, queue=False, **quiet).then(
        None,
        inputs=[settings, *controls.values()],
        outputs=settings,
        js=_IS_BACK.replace("{names}", names),
        api_visibility="private",
    )
    usual = json.dumps(
        {name: control.value for name, control in controls.items() if name != "prompt"}, ensure_ascii=False
    )
    js = explore.LINK.read_text(encoding="utf-8").replace("{names}", names).replace("{usual}", usual)
    for button in (share, result.link):
        button.click(
            None,
            inputs=[result.lens, *controls.values()],
            outputs=result.progress,
            js=js,
            api_visibility="private",
        )


@shows_errors
def come_back(settings: dict | None, seen: dict | None, request: gr.Request | None = None) -> list[Any]:
    """(tabs, lens, progress, shown, what was lost, every control)"""
    who = policy.visitor(request)
    linked = address.of_query(dict(request.query_params) if request else {}, who)
    values = linked.values
    if not values and not linked.example:
        values = address.of_memory(settings, who)
        values.pop("prompt", None)  # has come back already
    told, lost, lens, shown = "", "", gr.skip(), gr.skip()
    seen = seen if isinstance(seen, dict) else {}
    trace_id = linked.example
    if not trace_id and not linked.values:
        trace_id = str(seen.get("trace") or "")
        if trace_id and not _is_there(trace_id, who):
            restarted = seen.get("server") != services.STARTED
            gone = text.RESTARTED_SPACE if policy.on_a_space() else text.RESTARTED
            lost, trace_id = gone if restarted else text.FORGOTTEN, ""
    if trace_id and trace_id != next(iter(services.recorded()), None) or linked.chunk is not None:
        lens = services.view(trace_id, who)
        lens |= {} if linked.chunk is None else {"opened_at": linked.chunk}
        shown = trace_id
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
    return [tab, lens, told or gr.skip(), shown, lost or gr.skip(), *controls]


def _is_there(trace_id: str, who: policy.Visitor) -> bool:
    try:
        services.trace(trace_id, who)
    except TraceError:
        return False
    return True
