"""What would a text retrieve? A search in one datastore, by any retriever, with each finding in its place."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import services, settings, text, typed
from app.errors import shows_errors
from app.parts import Findings
from app.policy import Action, permit
from indexing.datastore import Datastore
from indexing.errors import InputError
from indexing.retrievers import DEFAULT_RETRIEVER, Found


@dataclass
class Asked:
    query: gr.Textbox
    retriever: gr.Radio
    button: gr.Button
    found: Findings


def build() -> Asked:
    query = gr.Textbox(
        label="What would this text retrieve?",
        info="Nothing is written and no model is needed. A text of several chunks is a path on the map.",
        placeholder="For example: rivers that freeze in winter",
        lines=2,
        max_lines=6,
        submit_btn=False,
        elem_id="query",
    )
    typed.keep([query])
    with gr.Row(elem_classes="search-row"):
        retriever = gr.Radio(
            choices=[(words, form) for form, words in text.LOOKED_INTO.items()],
            value=DEFAULT_RETRIEVER,
            label="Found",
            elem_id="retriever",
        )
        button = gr.Button("Search", variant="primary", size="md", elem_id="search", min_width=90)
    return Asked(query, retriever, button, Findings(None, elem_id="results"))


@shows_errors
def search(
    query: str,
    name: str | None,
    retriever: str = DEFAULT_RETRIEVER,
    request: gr.Request | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield values of `Findings`: what is being made ready, then what was found."""
    who = permit(Action.LOOK_UP, request)
    if not name:
        raise InputError("There is no datastore to search. Make one first.")
    if retriever not in text.LOOKED_INTO:
        raise InputError(f"There is no retriever {retriever!r}. Choose one of {', '.join(text.LOOKED_INTO)}.")
    if not (query or "").strip():
        raise InputError("There is no text to look up yet. Type a few words.")
    if len(query) > settings.MAX_PROMPT_CHARACTERS:
        raise InputError(
            f"Up to {settings.MAX_PROMPT_CHARACTERS:,} characters can be looked up, got {len(query):,}."
        )
    if retriever not in ("bm25", "random") and not services.embedder_is_loaded():
        yield {"busy": text.LOADING_EMBEDDER}
    lookup = services.lookup(name, retriever, who=who)
    for event in lookup.prepare():
        yield {"busy": f"Indexing words: {event.done:,} of {event.total:,} chunks"}
    hits = lookup.search(query, settings.SEARCH_RESULTS)
    yield {"rows": [_row(lookup.datastore, hit) for hit in hits], "note": _note(hits)}


@shows_errors
def search_if_asked(
    query: str, name: str | None, retriever: str, request: gr.Request | None = None
) -> Iterator[Any]:
    """As `search`, once there is something to search for."""
    if not (query or "").strip():
        yield gr.skip()
        return
    yield from search(query, name, retriever, request)


def forget() -> None:
    """Findings of another datastore are not shown."""


def _row(datastore: Datastore, hit: Found) -> dict[str, Any]:
    """{"title", "source", "offset", "chunk", "measured", "closeness", "before", "text", "continuation"}"""
    before = ""
    if (
        hit.chunk_id
        and datastore.chunks.chunk2seq[hit.chunk_id - 1] == datastore.chunks.chunk2seq[hit.chunk_id]
    ):
        before = datastore.text(hit.chunk_id - 1)
    closeness = None if hit.distance is None else max(0.0, 1 - hit.distance / 2)
    told = [] if hit.distance is None else [f"closeness {closeness:.2f} (L2 {hit.distance:.2f})"]
    if hit.score is not None:
        told.append(f"{hit.measure} {hit.score:.3g}")
    return {
        "title": hit.title,
        "source": hit.source,
        "offset": hit.offset,
        "chunk": hit.chunk_id,
        "measured": " · ".join(told) or "drawn at random",
        "closeness": closeness,
        "before": before,
        "text": hit.text,
        "continuation": hit.continuation,
    }


def _note(hits: list[Found]) -> str:
    if not hits:
        return "Nothing was found: no chunk shares a word with this text. Other words, or by meaning, may do."
    nearest = min((hit.distance for hit in hits if hit.distance is not None), default=None)
    if nearest is not None and nearest > settings.FAR and hits[0].measure != "random":
        return (
            f"Nothing here is near: the closest chunk is {nearest:.2f} away (0 is the same, 2 unrelated). A "
            "model that reads these learns little about your text."
        )
    return ""
