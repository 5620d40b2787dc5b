"""What the lens asks while a trace is looked at: can its neighbours be changed here, are they far, where does
one stand in its document? With it: what made a trace, if it is here; and reading what a page sends."""

from typing import Any

import gradio as gr

from app import policy, services
from app.errors import sentence
from app.policy import Visitor
from indexing.datastore import Datastore
from indexing.errors import CheckpointError, InputError, MismatchError, RetroError
from indexing.nearness import share_nearer
from indexing.retokenised import RETOKENISED, RetokenisedDatastore
from retro_core.recorded import ids_of, neighbours_of, recorded_tokens
from retro_core.trace import Trace


def standing(asked: Any, request: gr.Request | None = None) -> dict[str, Any]:
    """What of a trace can be had here; asked: {"trace"}, or anything.

    {"can": whether its neighbours can be changed, "why": not, "differs": what is another than what made it,
    "map": why its neighbours are on no map here, "" if they are on one, "far": for each chunk and neighbour
    which part of the datastore's own chunks has a nearer one, "pairs": counted over how many}, or
    {"error": sentence}
    """
    try:
        who = policy.visitor(request)
        trace = services.trace(short_text(named_values(asked), "trace", 100), who)
    except RetroError as error:
        return {"error": sentence(error)}
    told: dict[str, Any] = {"can": True, "why": "", "differs": [], "map": "", "far": None, "pairs": 0}
    try:
        _to_look_into(trace, who)
    except RetroError as error:
        told["map"] = sentence(error)
    try:
        told["differs"] = _differs(trace, who)
        about = trace.data["model"]
        expect_model(about["name"])
        if any(one["what"] == "model" for one in told["differs"]):
            raise MismatchError(
                f"The model {about['name']!r} here has other weights than the one that made this trace."
            )
        ids_of(trace, services.tokenizer(about["name"]))
        if trace.data["retrieval"] and trace.data["datastore"]:
            datastore = _to_look_into(trace, who)
            neighbours_of(trace, datastore, services.tokenizer(about["name"]))
            distances = services.nearest_distances(expect_datastore(trace, who), who)
            told |= {"far": _far(trace, distances), "pairs": len(distances)}
    except RetroError as error:
        told |= {"can": False, "why": sentence(error)}
    return told


def heads(asked: Any, request: gr.Request | None = None) -> dict[str, Any]:
    """All heads of one chunk in small, see `Trace.head_overview`; asked: {"trace", "chunk"}, or anything."""
    try:
        given = named_values(asked)
        trace = services.trace(short_text(given, "trace", 100), policy.visitor(request))
        return trace.head_overview(whole_number(given, "chunk"))
    except RetroError as error:
        return {"error": sentence(error)}


def source(asked: Any, request: gr.Request | None = None) -> dict[str, Any]:
    """A neighbour in its document: {"title", "source", "offset", "before", "text", "continuation", "after",
    "begins", "ends"}, or {"error": sentence}. asked: {"trace", "chunk", "rank"}, or anything."""
    try:
        _, card, datastore = neighbour_of(named_values(asked), policy.visitor(request))
        return _in_context(datastore, card["chunk_id"])
    except RetroError as error:
        return {"error": sentence(error)}


def neighbour_of(
    given: dict[str, Any], who: Visitor
) -> tuple[Trace, dict[str, Any], Datastore | RetokenisedDatastore]:
    """(the trace, a neighbour in it, the datastore that still holds it); given: {"trace", "chunk", "rank"},
    or anything. Raises InputError, MismatchError."""
    trace = services.trace(short_text(given, "trace", 100), who)
    chunk, rank = whole_number(given, "chunk"), whole_number(given, "rank")
    chunks = trace.data["chunks"]
    cards = chunks[chunk]["neighbours"] if chunk < len(chunks) else []
    if not 1 <= rank <= len(cards):
        raise InputError(f"There is no neighbour {rank} of chunk {chunk + 1} in this trace.")
    card = cards[rank - 1]
    if card["chunk_id"] is None:
        raise InputError("This text was typed here: it comes from no document.")
    about = trace.data["model"]
    datastore = _to_look_into(trace, who)
    tokenizer = services.tokenizer(about["name"]) if _model_is_here(about["name"]) else datastore.tokenizer
    recorded_tokens(card, datastore, tokenizer, about["chunk_size"], about["neighbour_len"])
    return trace, card, datastore


def _to_look_into(trace: Trace, who: Visitor) -> Datastore | RetokenisedDatastore:
    """The trace's datastore as the model reads it, without the embedder, which only queries need."""
    if not trace.data["datastore"]:
        raise InputError("This text was read without a datastore.")
    about = trace.data["model"]
    opened = services.snapshot(expect_datastore(trace, who), who)
    if not _model_is_here(about["name"]):
        return opened
    tokenizer = services.tokenizer(about["name"])
    if opened.tokenizer.fingerprint == tokenizer.fingerprint:
        return opened
    return RetokenisedDatastore(opened, tokenizer, about["chunk_size"])


def _model_is_here(name: str) -> bool:
    try:
        services.model_info(name)
    except (InputError, CheckpointError):
        return False
    return True


def _in_context(datastore: Datastore | RetokenisedDatastore, chunk_id: int) -> dict[str, Any]:
    """A chunk with one before it, its continuation, and one after that."""
    place = datastore.provenance(chunk_id)
    documents = datastore.chunks.chunk2seq

    def piece(row: int) -> str | None:
        if not 0 <= row < len(documents) or documents[row] != documents[chunk_id]:
            return None
        return datastore.text(row)

    before, after = piece(chunk_id - 1), [piece(chunk_id + step) for step in (1, 2, 3)]
    return {
        "title": place.title or place.document_id,
        "source": place.source,
        "offset": place.offset,
        "before": before or "",
        "text": datastore.text(chunk_id),
        "continuation": after[0] or "",
        "after": after[1] or "",
        "begins": before is None,
        "ends": None in after,
    }


def _differs(trace: Trace, who: Visitor) -> list[dict[str, str]]:
    """What is here under the same name, but is another."""
    model, datastore, found = trace.data["model"], trace.data["datastore"], []
    if services.model_is_loaded(model["name"]):  # its fingerprint is not known before
        here = services.model(model["name"]).fingerprint
        if here != model["fingerprint"]:
            found.append(_difference("model", model, here))
    if datastore:
        name = services.datastore_called(datastore["name"].removesuffix(RETOKENISED), who)
        if name is not None:
            here = services.snapshot(name, who).fingerprint
            if here != datastore["fingerprint"]:
                found.append(_difference("datastore", datastore, here))
    return found


def _difference(what: str, then: dict[str, Any], here: str) -> dict[str, str]:
    return {"what": what, "name": then["name"], "then": then["fingerprint"][:8], "here": here[:8]}


def _far(trace: Trace, distances: Any) -> list[list[float | None]]:
    return [
        [
            None if card["distance"] is None else share_nearer(card["distance"], distances)
            for card in chunk["neighbours"]
        ]
        for chunk in trace.data["chunks"]
    ]


# ------------------------------------------------------------------------ what made a trace, here


def expect_model(name: str) -> None:
    try:
        services.model_info(name)
    except InputError:
        raise MismatchError(
            f"The model {name!r} that made this trace is not here. Read the text again with one that is."
        ) from None


def expect_datastore(trace: Trace, who: Visitor) -> str:
    name = trace.data["datastore"]["name"].removesuffix(RETOKENISED)
    found = services.datastore_called(name, who)  # a saved trace does not say whose it is
    if found is None:
        raise MismatchError(
            f"The datastore {name!r} that this trace was read from is not here. Read the text again with one "
            "that is."
        )
    return found


# ------------------------------------------------------------------------ what a page sends


def named_values(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError("Expected named values from the lens. Load the page anew and try again.")
    return value


def whole_number(given: dict[str, Any], name: str, most: int = 100_000) -> int:
    value = given.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InputError(f"Expected a whole number from 0 to {most:,} for {name.replace('_', ' ')}.")
    return value


def short_text(given: dict[str, Any], name: str, most: int) -> str:
    value = given.get(name)
    if not isinstance(value, str) or len(value) > most:
        raise InputError(f"Expected a text of up to {most:,} characters for {name}. Shorten it.")
    return value.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair cannot be encoded
