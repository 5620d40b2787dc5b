"""A result on the page, and the ways it leaves and comes back: the lens, the first example above it, a row of
buttons that save, draw, list and open."""

import json
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency

from app import address, explore, fact_swap, owners, policy, services, tables, text
from app.errors import shows_errors
from app.lens import RetroLens
from app.parts import Drawn, StatusLine
from app.policy import Action, permit
from app.tabs import explore_change_here
from app.tabs.explore_change_here import named_values, whole_number
from indexing import paths
from indexing.errors import InputError, RetroError, TraceError
from retro_core.trace import Trace

# Drawn by the page itself, see recorded.js: (lens, progress).
_FROM_PAGE = "async () => [(await window.retroRecorded?.(%s)) ?? { __type__: 'update' }, '']"

# As the lens says it, with what was changed in it: see change.js.
_WHAT_IS_SHOWN = """(shown) =>
  [shown, JSON.parse(document.querySelector(".retro-lens")?.dataset.shows || "null")]"""


@dataclass
class Result:
    """What Explore and the page connect to.

    lens, shown  what is drawn, and the id of the finished trace in it
    seen         what the browser remembers of it, to find it again after a reload
    """

    lens: RetroLens
    progress: StatusLine
    shown: gr.State
    seen: gr.BrowserState
    link: gr.Button

    def follow(self, event: Dependency) -> Dependency:
        """After `event` another finished trace may be in the lens: the browser remembers which."""
        return event.then(
            remember,
            inputs=self.shown,
            outputs=self.seen,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )


def remember_seen() -> gr.BrowserState:
    """Call it outside of all tabs. The secret is none: it only keeps Gradio from choosing another at each
    start, with which nothing could be read again."""
    return gr.BrowserState(storage_key="retro-explore-seen", secret="retro-explore")


def build_first_example() -> gr.Button:
    """Lay out the first thing that a newcomer sees; its button leads to the same, run now."""
    pair = fact_swap.view({name: services.trace(name) for name in services.recorded()})
    with gr.Column(elem_id="first-example", visible=bool(pair)):
        explore.FactSwap(pair, elem_id="fact-swap")
        return gr.Button(text.SWAP_LIVE, size="sm", min_width=0, elem_id="swap-live")


def build(progress: StatusLine, seen: gr.BrowserState) -> Result:
    """Lay out the lens with what stands above it, and wire all but what makes a trace."""
    recorded = services.recorded()
    pair = fact_swap.view({name: services.trace(name) for name in recorded})
    # The first thing that anybody does is to go to the other one of the pair.
    first = {side["id"]: _as_text(side["id"]) for side in pair["sides"]} if pair else {}
    shown = gr.State(recorded[0] if recorded else None)
    asked, given = gr.JSON(visible=False), gr.JSON(visible=False)
    with gr.Row(elem_classes="chips", elem_id="recorded"):
        explore.Recorded(first, fetch=recorded_examples, elem_classes="chips-label")
        chips = [
            gr.Button(name, size="sm", min_width=0, elem_classes="chip", elem_id=trace_id)
            for trace_id, name in recorded_names(recorded).items()
        ]
    lens = RetroLens(
        services.view(recorded[0]) if recorded else None,
        fetch_map=attention_map,
        fetch_heads=explore_change_here.heads,
        fetch_standing=explore_change_here.standing,
        fetch_source=explore_change_here.source,
        elem_id="lens",
    )
    with gr.Row(elem_classes="chips", elem_id="leave"):
        gr.HTML("<span>This result</span>", apply_default_css=False, elem_classes="chips-label")
        link = gr.Button("Copy link", size="sm", min_width=0, elem_id="copy-link")
        picture = gr.Button("Picture (.png)", size="sm", min_width=0, elem_id="picture")
        tokens = gr.Button("Tokens (.csv)", size="sm", min_width=0, elem_id="tokens-csv")
        neighbours = gr.Button("Neighbours (.csv)", size="sm", min_width=0, elem_id="neighbours-csv")
        save = gr.Button("Save (.retro.json)", size="sm", min_width=0, elem_id="save")
        open_ = gr.UploadButton(
            "Open a saved one", size="sm", min_width=0, file_types=[".json", ".gz"], elem_id="open"
        )

    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    result = Result(lens, progress, shown, seen, link)
    drawn = [lens, progress, shown]
    opened = open_.upload(open_trace, inputs=open_, outputs=drawn, **quiet)
    result.follow(opened)
    for trace_id, chip in zip(recorded, chips, strict=True):
        from_page = _FROM_PAGE % json.dumps(trace_id)
        chip.click(None, outputs=[lens, progress], js=from_page, api_visibility="private")
        chip.click(partial(point_to, trace_id), outputs=[shown, seen], queue=False, **quiet)
    for button, make in ((save, save_trace), (tokens, token_table), (neighbours, neighbour_table)):
        button.click(make, inputs=[shown, asked], outputs=given, js=_WHAT_IS_SHOWN, **quiet).success(
            None, inputs=given, js=explore.SAVE.read_text(encoding="utf-8"), api_visibility="private"
        )
    picture.click(
        None, outputs=progress, js=explore.PICTURE.read_text(encoding="utf-8"), api_visibility="private"
    )
    return result


def recorded_names(recorded: list[str]) -> dict[str, str]:
    """Id -> a few words: 'recorded-1-population-2025' -> 'Population 2025'."""
    words = {trace_id: address.example_name(trace_id).lstrip("0123456789-") for trace_id in recorded}
    return {trace_id: name.replace("-", " ").capitalize() for trace_id, name in words.items()}


@shows_errors
def remember(trace_id: str | None) -> dict[str, str]:
    return {"trace": trace_id or "", "server": services.STARTED}


def attention_map(wanted: Any, request: gr.Request | None = None) -> dict[str, Any]:
    """One map for the lens, which may send anything: {"trace", "chunk", "layer" | None, "head" | None}."""
    try:
        if not isinstance(wanted, dict):
            raise TraceError("Expected a map's trace, chunk, layer and head.")
        numbers = [wanted.get(name) for name in ("chunk", "layer", "head")]
        if not all(number is None or (isinstance(number, int) and number >= 0) for number in numbers):
            raise TraceError("Expected whole numbers for a map's chunk, layer and head.")
        chunk, layer, head = numbers
        trace = services.trace(str(wanted.get("trace")), policy.visitor(request))
        return trace.attention_map(chunk, layer, head)
    except RetroError as error:
        return {"error": str(error)}


@shows_errors
def open_trace(path: str, request: gr.Request | None = None) -> tuple[Any, Any, Any]:
    who = permit(Action.OPEN_TRACE, request)
    name = Path(path).name
    trace_id = services.keep(services.read_trace(path), who=who)
    view = services.view(trace_id, who)
    return {**view, "title": view["title"] or name}, f"Opened {name}.", trace_id


@shows_errors
def point_to(trace_id: str) -> tuple[str, dict[str, str]]:
    """(shown, what the browser remembers of it), where the page has drawn the trace by itself."""
    return trace_id, remember(trace_id)


def recorded_examples() -> dict[str, str]:
    """{id: what the lens draws, as JSON text}"""
    return {trace_id: _as_text(trace_id) for trace_id in services.recorded()}


@cache
def _as_text(trace_id: str) -> str:
    return Drawn.text(services.view(trace_id))


# ------------------------------------------------------------------------------------------- leaving


@shows_errors
def save_trace(
    trace_id: str | None, shows: dict | None = None, request: gr.Request | None = None
) -> dict[str, str]:
    """shows: what the lens shows, {"trace", "without": {"chunk", "rank"} | None} or {"writing": at which
    stage it is}; else it is the finished trace `trace_id`"""
    trace = _shown(trace_id, shows, request)
    return {
        "name": f"{_file_name(trace)}.retro.json",
        "type": "application/json",
        "text": owners.shown(json.dumps(trace.to_json(), ensure_ascii=False)),
    }


@shows_errors
def token_table(
    trace_id: str | None, shows: dict | None = None, request: gr.Request | None = None
) -> dict[str, str]:
    trace = _shown(trace_id, shows, request)
    return _table(f"{_file_name(trace)}.tokens.csv", tables.tokens(trace))


@shows_errors
def neighbour_table(
    trace_id: str | None, shows: dict | None = None, request: gr.Request | None = None
) -> dict[str, str]:
    trace = _shown(trace_id, shows, request)
    if not trace.data["chunks"]:
        raise InputError("Nothing was looked up for this text, so there are no neighbours to list.")
    return _table(f"{_file_name(trace)}.neighbours.csv", tables.neighbours(trace))


def _table(name: str, rows: list[list[Any]]) -> dict[str, str]:
    # With a byte order mark, without which a spreadsheet takes UTF-8 for something else.
    return {"name": name, "type": "text/csv;charset=utf-8", "text": "\ufeff" + tables.to_csv(rows)}


def _shown(trace_id: str | None, shows: dict | None, request: gr.Request | None) -> Trace:
    shows = shows or {}
    if shows.get("writing") == "cut off":
        raise InputError("This text was cut off before it was measured. Run the prompt again to save it.")
    if shows.get("writing"):
        raise InputError("This text is not finished yet. Wait until it is, or press Stop.")
    trace_id = shows.get("trace") or trace_id
    if not trace_id or not isinstance(trace_id, str):
        raise InputError("There is no finished trace yet. Run a prompt first.")
    trace, left_out = services.trace(trace_id, policy.visitor(request)), shows.get("without")
    if left_out is None:
        return trace
    place = named_values(left_out)
    return trace.without(whole_number(place, "chunk"), whole_number(place, "rank"))


def _file_name(trace: Trace) -> str:
    beginning = "".join(token["text"] for token in trace.data["tokens"])[:200]
    name = paths.slug("-".join((trace.data["title"] or beginning).split()[:8])).strip("-._")
    return name or "trace"
