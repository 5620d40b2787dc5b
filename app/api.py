"""The documented endpoints: what other programs ask of this page. docs/api.md shows each of them in use.

Gradio makes what clients, its own list and MCP tell of an endpoint from its name, its type hints and its
docstring, which therefore is for people who never see this file; it joins the lines of "Returns" by commas.
"""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal

import gradio as gr

from app import policy, services, settings, work
from app.errors import sentence, tells_errors
from app.live import LiveText
from app.policy import Action, Visitor
from indexing import paths
from indexing.errors import InputError, RetroError
from indexing.retrievers import Lookup
from retro_core import runs as training_runs
from retro_core.config import GenerationConfig, bounds

if TYPE_CHECKING:
    from retro_core.checkpoint import LoadedModel
    from retro_core.trace import Trace

OFF = "off"
Retriever = Literal["dense", "first-chunk", "bm25", "hybrid-rrf", "hybrid-rerank", "random"]
RetrieverOrOff = Literal["dense", "first-chunk", "bm25", "hybrid-rrf", "hybrid-rerank", "random", "off"]
RETRIEVERS: tuple[str, ...] = Retriever.__args__

_NUM_NEIGHBOURS = bounds(GenerationConfig, "num_neighbours")
_K = _NUM_NEIGHBOURS[2]
_MAX_NEW_TOKENS = bounds(GenerationConfig, "max_new_tokens")[2]
_TEMPERATURE = bounds(GenerationConfig, "temperature")[2]
_SEED = bounds(GenerationConfig, "seed")[2]
# What a trace tells of a neighbour that a reader of its text wants to know.
_CARD = ("rank", "chunk_id", "document_id", "title", "offset", "distance", "closeness", "score")


def build() -> None:
    """Add the endpoints to the `gr.Blocks` that is being made: first, or another handler takes a name."""
    for endpoint in (generate, score, explain):
        # One of them at a time waits for the model in line with the people on the page.
        gr.api(endpoint, api_name=endpoint.__name__, concurrency_id="programs", concurrency_limit=1)
    gr.api(retrieve, api_name="retrieve", concurrency_limit=2)
    for listing in (datastores, runs):
        gr.api(listing, api_name=listing.__name__, concurrency_limit=2)


@tells_errors
def retrieve(
    text: str,
    datastore: str = paths.DEMO_DATASTORE,
    k: int = _K,
    retriever: Retriever = "dense",
    request: gr.Request | None = None,
) -> list[dict[str, Any]]:
    """Look a text up in a datastore: the k nearest chunks, each with how its document goes on. No model is
    involved; the text is one query, whatever its length.

    Parameters:
        text: what to look up, up to 100,000 characters
        datastore: name of a datastore, see the endpoint datastores
        k: how many chunks, 1 to 16
        retriever: dense (by meaning), first-chunk (by meaning, with each document's beginning), bm25 (by
            words), hybrid-rrf and hybrid-rerank (by both), or random

    Returns:
        a list, nearest first, of rank, document_id, title, source, offset (character of the document)
        chunk_id, distance (squared L2, 0 to 4; null where unknown), text, continuation
        measure and score of what put them in order
    """
    who = policy.permit(Action.LOOK_UP, request)
    _check_characters("text", text)
    low, high, _, _ = _NUM_NEIGHBOURS
    if not isinstance(k, int) or isinstance(k, bool) or not low <= k <= high:
        raise InputError(f"k must be a whole number from {low} to {high}, got {_quoted(k)}.")
    _check_choice("retriever", retriever, RETRIEVERS)
    _check_datastore(datastore, who)
    hits = _prepared(services.lookup(datastore, retriever, who=who)).search(text, k)
    return [{"rank": rank, **dataclasses.asdict(hit)} for rank, hit in enumerate(hits, start=1)]


@tells_errors
def generate(
    prompt: str,
    datastore: str = paths.DEMO_DATASTORE,
    model: str = paths.DEMO_MODEL,
    max_new_tokens: int = _MAX_NEW_TOKENS,
    num_neighbours: int = _K,
    temperature: float = _TEMPERATURE,
    seed: int = _SEED,
    retriever: RetrieverOrOff = "dense",
    request: gr.Request | None = None,
) -> Iterator[dict[str, Any]]:
    """Write on from a prompt, looking up neighbours after each chunk of 64 tokens. Comes in pieces, a few a
    second, each with all that was written so far; cancelling the job stops the writing.

    Parameters:
        prompt: the beginning of a text, up to 1,024 tokens
        datastore: name of the datastore to read from
        model: name of a model that is here
        max_new_tokens: tokens to write, 1 to 1,024
        num_neighbours: neighbours to read for each chunk, 1 to 16
        temperature: 0 takes the likeliest token; up to 2, higher is more surprising
        seed: same seed, same text
        retriever: what finds the neighbours, as in retrieve; off writes without any

    Returns:
        text (what was written, without the prompt), reason (length or end of document; empty before the end)
        seconds, tokens (text and logprob of each, in nats), chunks (of each one that was looked up: number
        query, neighbours with title, offset, distance, text, continuation)
    """
    who = policy.permit(Action.GENERATE, request)
    config = _config(
        retriever,
        max_new_tokens=max_new_tokens,
        num_neighbours=num_neighbours,
        temperature=temperature,
        seed=seed,
    )
    if who.rule.tokens and max_new_tokens > who.rule.tokens:
        raise InputError(
            f"Up to {who.rule.tokens} tokens are written for one text here, got {max_new_tokens}. "
            "Ask for fewer."
        )
    _check("prompt", prompt, model, datastore, retriever, who)
    with work.turn("model", request):
        loaded, lookup = _opened(model, datastore, retriever, who)
        from retro_core.generation import generate as write  # imports torch, which the page must not wait for

        live = LiveText("", loaded, lookup and lookup.datastore, config)
        said = 0.0
        with closing(write(loaded.model, loaded.tokenizer, prompt, lookup, config)) as events:
            for event in events:
                if live.take(event) or time.monotonic() - said > settings.SECONDS_BETWEEN_DRAWINGS:
                    said = time.monotonic()
                    yield _written(live)
    yield _written(live)


@tells_errors
def score(
    text: str,
    datastore: str = paths.DEMO_DATASTORE,
    model: str = paths.DEMO_MODEL,
    num_neighbours: int = _K,
    retriever: RetrieverOrOff = "dense",
    request: gr.Request | None = None,
) -> dict[str, Any]:
    """How much a model expects a text as it is, with neighbours and without: nothing is written. Says of
    every neighbour how much attention it got, and what the text loses without it.

    Parameters:
        text: the text, up to 1,024 tokens; what follows its first 64 can read neighbours
        datastore: name of the datastore to read from
        model: name of a model that is here
        num_neighbours: neighbours to read for each chunk, 1 to 16
        retriever: what finds the neighbours, as in retrieve; off reads none

    Returns:
        scored (how many tokens), on and off (nats per token with and without neighbours), tokens (id, text
        lp_on, lp_off), chunks (index, read, gain, overlap, neighbours with share of attention and influence)
    """
    return _scored(text, datastore, model, num_neighbours, retriever, request).scores()


@tells_errors
def explain(
    text: str,
    datastore: str = paths.DEMO_DATASTORE,
    model: str = paths.DEMO_MODEL,
    num_neighbours: int = _K,
    retriever: RetrieverOrOff = "dense",
    heads: bool = False,
    request: gr.Request | None = None,
) -> dict[str, Any]:
    """As score, but the whole trace: also what was read, token by token, the likeliest alternatives and the
    attention map of each chunk. Saved as NAME.retro.json, the page opens it.

    Parameters:
        text: the text, up to 1,024 tokens; what follows its first 64 can read neighbours
        datastore: name of the datastore to read from
        model: name of a model that is here
        num_neighbours: neighbours to read for each chunk, 1 to 16
        retriever: what finds the neighbours, as in retrieve; off reads none
        heads: also the attention of every single layer and head, megabytes of it

    Returns:
        a trace, see docs/formats.md
    """
    if not isinstance(heads, bool):
        raise InputError(f"heads must be true or false, got {_quoted(heads)}.")
    trace = _scored(text, datastore, model, num_neighbours, retriever, request)
    return trace.to_json() if heads else trace.view()


@tells_errors
def datastores(request: gr.Request | None = None) -> list[dict[str, Any]]:
    """The datastores that can be read here, by name.

    Returns:
        a list of name, num_chunks, num_documents, bundled (whether it ships with the program), created (UTC)
    """
    who = policy.visitor(request)
    known = ("name", "num_chunks", "num_documents", "bundled", "created")
    return [{name: getattr(info, name) for name in known} for info in services.datastores(who)]


@tells_errors
def runs(request: gr.Request | None = None) -> list[dict[str, Any]]:
    """The training runs of this server and how far they are, the one with the newest sign of life first.

    Returns:
        a list of name, state (running, not answering, finished, stopped, failed), step, steps, message
        started and updated (seconds since 1970), loss (of the newest step, nats per token)
        held_out (step; on, off, random: nats per token with neighbours, without, with random ones) or null
    """
    who = policy.visitor(request)
    return [_run(info) for info in training_runs.list_runs() if who.may_see(info.name)]


def _run(info: training_runs.RunInfo) -> dict[str, Any]:
    known = ("name", "state", "step", "steps", "started", "updated")
    measured = info.held_out and {name: info.held_out.get(name) for name in ("step", "on", "off", "random")}
    return {
        **{name: getattr(info, name) for name in known},
        "message": sentence(RetroError(info.message)),
        "loss": (info.training or {}).get("loss"),
        "held_out": measured,
    }


def _scored(
    text: str, datastore: str, model: str, num_neighbours: int, retriever: str, request: gr.Request | None
) -> "Trace":
    who = policy.permit(Action.SCORE, request)
    config = _config(retriever, num_neighbours=num_neighbours)
    _check("text", text, model, datastore, retriever, who)
    with work.turn("model", request):
        loaded, lookup = _opened(model, datastore, retriever, who)
        from retro_core.explain import score as read

        return read(loaded, text, lookup and lookup.datastore, config, retriever=lookup)


def _config(retriever: str, **changes: Any) -> GenerationConfig:
    _check_choice("retriever", retriever, (*RETRIEVERS, OFF))
    return GenerationConfig(**changes, retrieval=retriever != OFF)


def _opened(model: str, datastore: str, retriever: str, who: Visitor) -> tuple["LoadedModel", Lookup | None]:
    """The model, loaded, and what looks things up for it."""
    loaded = services.model(model)
    if retriever == OFF:
        return loaded, None
    return loaded, _prepared(services.lookup(datastore, retriever, loaded, who))


def _prepared(lookup: Lookup) -> Lookup:
    for _ in lookup.prepare():  # words are counted where that has to be done first
        pass
    return lookup


def _written(live: LiveText) -> dict[str, Any]:
    new = live.tokens[live.prompt_tokens :]
    return {
        "text": "".join(token["text"] for token in new),
        "reason": live.reason,
        "seconds": time.monotonic() - live.started,
        "tokens": [{"text": token["text"], "logprob": token["lp_on"]} for token in new],
        "chunks": [
            {
                "chunk": chunk["index"],
                "query": chunk["query"],
                "neighbours": [_neighbour(card) for card in chunk["neighbours"]],
            }
            for chunk in live.chunks
        ],
    }


def _neighbour(card: dict[str, Any]) -> dict[str, Any]:
    tokens, length = card["tokens"], card["num_neighbour_tokens"]
    text = "".join(tokens[: card["n_len"]])
    continuation = "".join(tokens[length : length + card["f_len"]])
    return {**{name: card[name] for name in _CARD}, "text": text, "continuation": continuation}


# ------------------------------------------------------------------------------------------- checking


def _check(what: str, text: Any, model: Any, datastore: Any, retriever: str, who: Visitor) -> None:
    """All that can be known to be wrong before anything is loaded. what: the name of `text`"""
    _check_characters(what, text)
    _check_choice("model", model, [info.name for info in services.models() if info.state == "here"])
    if retriever != OFF:
        _check_datastore(datastore, who)
    count = len(services.tokenizer(model).encode(text))
    if count > settings.MAX_PROMPT_TOKENS:
        raise InputError(
            f"{what} has {count:,} tokens, and up to {settings.MAX_PROMPT_TOKENS:,} fit. Shorten it."
        )


def _check_characters(what: str, text: Any) -> None:
    if not isinstance(text, str):
        raise InputError(f"{what} must be a text, got {_quoted(text)}.")
    if not text.strip():
        raise InputError(f"{what} is empty. Give a few words.")
    if len(text) > settings.MAX_PROMPT_CHARACTERS:
        raise InputError(
            f"{what} has {len(text):,} characters, and up to {settings.MAX_PROMPT_CHARACTERS:,} fit. "
            "Shorten it."
        )


def _check_datastore(name: Any, who: Visitor) -> None:
    _check_choice("datastore", name, [info.name for info in services.datastores(who)])


def _check_choice(what: str, value: Any, choices: Any) -> None:
    if not isinstance(value, str) or value not in choices:
        there = ", ".join(choices) or "none at all"
        raise InputError(f"There is no {what} {_quoted(value)} here. There are: {there}.")


def _quoted(value: Any) -> str:
    """A value that came from anyone, as short as a sentence about it wants."""
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:59]}…"
