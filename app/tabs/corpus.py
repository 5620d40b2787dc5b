"""Corpus: a text of one's own -> chunks, seen first -> a datastore, to be looked into and looked after."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from app import policy, services, text
from app.errors import shows_errors
from app.tabs import corpus_card, corpus_make, corpus_map, corpus_search

# The keyboard comes along, and the map is in sight.
_TO_MAP = """(...given) => {
  const arrive = (patience) => {
    const place = document.querySelector("#map-colour input:checked");
    if (!place || !place.checkVisibility()) return patience && setTimeout(arrive, 50, patience - 1);
    place.focus({ preventScroll: true });
    document.querySelector("#map").scrollIntoView({ block: "center" });
  };
  setTimeout(arrive, 50, 100);
  return given;
}"""


@dataclass
class Corpus:
    """What other tabs connect to. `use` means: take the datastore `chosen` to Explore. `follow_to_map`: after
    an event that calls `on_map`, with these outputs, a chunk is shown on the map."""

    chosen: gr.Dropdown
    use: gr.Button
    on_map: list[gr.components.Component]
    follow_to_map: Callable[[Dependency], None]


@dataclass
class Remembered:
    """What the browser keeps of work that goes on: what is being built, what is being changed."""

    building: gr.BrowserState
    changing: gr.BrowserState


def remember() -> Remembered:
    """Call it outside of all tabs: what is in one is not read before it is opened. The secrets are none, they
    only keep Gradio from choosing others at each start, with which nothing could be read again."""
    names = ("building", "changing")
    return Remembered(
        *(gr.BrowserState(storage_key=f"retro-corpus-{n}", secret="retro-corpus") for n in names)
    )


def _limits() -> str:
    """How much of one's own there may be, where that is limited."""
    most = policy.of_strangers()
    if most is None:
        return ""
    kept, left = most.kept, policy.in_minutes(most.keep_minutes)
    return text.CORPUS_SHARED.format(files=most.files, characters=most.characters, kept=kept, left=left)


def build(page: gr.Blocks, remembered: Remembered) -> Corpus:
    """Lay out the tab, inside a `gr.Tab` of `page`, and wire it."""
    gr.Markdown(text.CORPUS + _limits())
    with gr.Tabs(selected="make", elem_id="corpus-tabs") as tabs:
        with gr.Tab("Make a datastore", id="make"):
            made = corpus_make.build(remembered.building)
        with gr.Tab("Look into one", id="look") as look:
            choice = corpus_card.build_choice()
            with gr.Row(elem_classes="corpus-row"):
                with gr.Column(scale=6, min_width=300):
                    asked = corpus_search.build()
                    listing = corpus_card.build_listing()
                with gr.Column(scale=5, min_width=300):
                    drawn, marked = corpus_map.build(), gr.State()
                    card = corpus_card.build(choice, listing, remembered.changing)
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    page.load(corpus_card.list_rows, outputs=listing, **quiet)

    # One after the other as they were asked for: a map without the query must not come after that with it.
    mapped = {**quiet, "concurrency_id": "map", "concurrency_limit": 1, "trigger_mode": "multiple"}

    def follow(event: Any) -> None:
        """What belongs to the chosen datastore is shown anew after `event`: quick things first."""
        event(corpus_card.show, inputs=choice.chosen, outputs=card.shown, **quiet).then(
            corpus_map.show,
            inputs=[choice.chosen, drawn.method, marked, asked.query],
            outputs=drawn.shown,
            **mapped,
        )

    for event in (look.select, choice.chosen.change, *(changed.then for changed in card.changes)):
        follow(event)
    choice.chosen.change(corpus_search.forget, outputs=asked.found, queue=False, **quiet)
    wanted = [asked.query, choice.chosen, asked.retriever]
    searched = gr.on(
        [asked.button.click, asked.query.submit],
        corpus_search.search,
        inputs=wanted,
        outputs=asked.found,
        **quiet,
    )
    asked.retriever.change(corpus_search.search_if_asked, inputs=wanted, outputs=asked.found, **quiet)
    for event in (searched.success, drawn.colour.input, drawn.method.input):
        event(
            corpus_map.draw,
            inputs=[choice.chosen, asked.query, drawn.colour, drawn.method, marked],
            outputs=drawn.shown[1:],
            **mapped,
        )
    for event in made.events(page):
        event.success(
            corpus_make.look_at,
            inputs=made.done,
            outputs=[tabs, choice.chosen, choice.progress],
            queue=False,
            **quiet,
        )
    corpus_card.attach(card, page)

    def follow_to_map(event: Dependency) -> None:
        event.success(
            corpus_map.show,
            inputs=[choice.chosen, drawn.method, marked, asked.query],
            outputs=drawn.shown,
            js=_TO_MAP,
            **mapped,
        ).success(corpus_search.search_if_asked, inputs=wanted, outputs=asked.found, **quiet)

    on_map = [tabs, choice.chosen, asked.query, marked]
    return Corpus(choice.chosen, choice.use, on_map, follow_to_map)


@shows_errors
def on_map(event: gr.EventData, request: gr.Request | None = None) -> tuple[Any, Any, Any, Any, Any]:
    """(the page's tabs, the part of this tab, the datastore, what is looked up in it, the chunk that is
    marked): where a neighbour stands that somebody looks at in Explore."""
    marked = corpus_map.place_of(event._data, request)
    choices = services.datastore_choices(policy.visitor(request))
    chosen = gr.Dropdown(choices=choices, value=marked.name)
    return gr.Tabs(selected="corpus"), gr.Tabs(selected="look"), chosen, marked.query, marked
