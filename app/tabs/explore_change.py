"""What if the model had read something else? Neighbours muted, edited, pasted or swapped in the lens, and the
same text read again; or the text written on from a chunk, or from another token."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from app import policy, services, settings, text, work
from app.errors import OUR_FAULT, sentence, shows_errors
from app.lens import RetroLens
from app.live import LiveText
from app.parts import StatusLine
from app.policy import Action, Visitor
from app.tabs.explore_change_here import (
    expect_datastore,
    expect_model,
    named_values,
    short_text,
    whole_number,
)
from indexing.beginnings import FIRST_CHUNK
from indexing.errors import InputError, MismatchError, RetroError
from indexing.neighbours import BM25, DRAWN, RECIPROCAL_RANKS, WITH_FIRST_CHUNK, Neighbours
from indexing.retrievers import DEFAULT_RETRIEVER, Lookup
from retro_core.config import GenerationConfig
from retro_core.recorded import ids_of, neighbours_of
from retro_core.trace import Trace

if TYPE_CHECKING:
    from retro_core.checkpoint import LoadedModel
    from retro_core.counterfactual import Change

KINDS = ("change", "branch", "fork", "again")
MAX_CHANGES = 64
MAX_NEIGHBOUR_CHARACTERS = 8000
_PLACES = {
    "mute": ("chunk", "rank"),
    "edit": ("chunk", "rank"),
    "paste": ("chunk", "rank"),
    "swap": ("chunk", "rank", "other_chunk", "other_rank"),
}
# The retriever that orders neighbours by this measure; the others are the default's.
_RETRIEVER_OF = {
    WITH_FIRST_CHUNK: FIRST_CHUNK,
    BM25: "bm25",
    RECIPROCAL_RANKS: "hybrid-rrf",
    DRAWN: "random",
}


@dataclass(frozen=True)
class Wish:
    """What the lens asks for.

    trace              the one that is changed
    changes            all that is to differ from it
    chunk              to branch from
    position, token    to fork at, and the text of what stands there then
    seed, temperature  of what is written; None is as before
    """

    kind: str
    trace: str
    changes: tuple[dict[str, Any], ...] = ()
    chunk: int | None = None
    position: int | None = None
    token: str = ""
    seed: int | None = None
    temperature: float | None = None


def wire(
    lens: RetroLens,
    shown: gr.State,
    progress: StatusLine,
    chosen: list[gr.components.Component],
    buttons: list[gr.Button],
    session: Callable[[gr.Request | None], str],
    running: gr.BrowserState,
) -> list[Any]:
    """Connect the lens's wishes to the model; the events after which another trace may be shown.

    chosen   model and datastore, for reading a text again with what is here
    running  what the browser keeps of a text that is being written
    """
    wish = gr.State(None)
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    # A chained event knows nothing of what the lens sent, so the wish waits in a state. Only the queue tells
    # the page that another one waits there. A wish while another is on its way is not dropped.
    lens.wish(take, outputs=wish, concurrency_limit=None, trigger_mode="multiple", **quiet)
    done = work.wire(
        [wish.change],
        fulfil,
        inputs=[wish, *chosen],
        outputs=[lens, progress, shown],
        buttons=buttons,
        progress=progress,
        queue="model",
        session=session,
        waiting="Waiting for the model…",
        running=running,
    )
    restored = lens.restore(
        restore, outputs=[lens, progress, shown], queue=False, trigger_mode="multiple", **quiet
    )
    return [done, restored]


@shows_errors
def take(event: gr.EventData) -> dict[str, Any]:
    """The wish, with something that is different each time: a state that stays the same is no event."""
    wish_of(event._data)
    return {"time": services.new_id(), "wish": event._data}


@shows_errors
def restore(event: gr.EventData, request: gr.Request | None = None) -> tuple[Any, Any, Any]:
    """Back to the trace that was changed."""
    trace_id = short_text(named_values(event._data), "trace", 100)
    return services.view(trace_id, policy.visitor(request)), "", trace_id


@shows_errors
def fulfil(
    taken: dict[str, Any] | None,
    model_name: str,
    datastore_name: str | None,
    request: gr.Request | None = None,
) -> Iterator[tuple[Any, Any, Any]]:
    """Yield (lens, progress, id of the trace that is shown). What cannot be done is said in the lens, where
    it was asked for, and what is shown stays."""
    session = (request.session_hash if request else None) or ""
    try:
        if not taken:
            raise InputError("There is nothing to change yet. Press a button in the lens.")
        wish = wish_of(taken.get("wish"))
        writes = wish.kind in ("branch", "fork")
        who = policy.permit(Action.GENERATE if writes else Action.SCORE, request)
        if wish.kind == "again":
            yield from _again(wish, model_name, datastore_name, who)
        elif writes:
            yield from _written(wish, who, lambda: services.stop_requested(session))
        else:
            yield from _changed(wish, who)
    except RetroError as error:
        yield {"refused": sentence(error)}, "", gr.skip()
    except Exception:
        yield {"refused": OUR_FAULT}, "", gr.skip()
        raise
    finally:
        services.forget_stop(session)


# ------------------------------------------------------------------------------------- what is wished


def wish_of(value: Any) -> Wish:
    """Raises InputError for anything that the lens does not send."""
    given = named_values(value)
    kind = short_text(given, "kind", 20)
    if kind not in KINDS:
        raise InputError(f"Expected one of {', '.join(KINDS)}, got {kind!r}. Load the page anew.")
    changes = given.get("changes") or []
    if not isinstance(changes, list) or len(changes) > MAX_CHANGES:
        raise InputError(f"Up to {MAX_CHANGES} changes can be made to one text. Go back to the original.")
    temperature = given.get("temperature")
    if temperature is not None and (
        isinstance(temperature, bool)
        or not isinstance(temperature, int | float)
        or not math.isfinite(temperature)
    ):
        raise InputError("Expected a number for temperature. Enter one from 0 to 2.")
    return Wish(
        kind,
        short_text(given, "trace", 100),
        tuple(_change_of(one) for one in changes),
        whole_number(given, "chunk") if kind == "branch" else None,
        whole_number(given, "position") if kind == "fork" else None,
        short_text(given, "token", 400) if kind == "fork" else "",
        None if given.get("seed") is None else whole_number(given, "seed", 2**31 - 1),
        None if temperature is None else float(temperature),
    )


def _change_of(value: Any) -> dict[str, Any]:
    given = named_values(value)
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in _PLACES:
        raise InputError(f"Expected a change to be one of {', '.join(_PLACES)}. Load the page anew.")
    found = {"kind": kind, **{name: whole_number(given, name) for name in _PLACES[kind]}}
    if kind in ("edit", "paste"):
        found["text"] = short_text(given, "text", MAX_NEIGHBOUR_CHARACTERS)
        if not found["text"].strip():
            raise InputError("The text for a neighbour is empty. Write some, or mute the neighbour.")
    return found


# ---------------------------------------------------------------------------------------- what is read


@dataclass(frozen=True)
class _Reading:
    """A trace with everything that made it. neighbours: of each chunk that was looked up, leading axes (1,) ·
    changes: what had been done by hand already, then the wish"""

    trace: Trace
    loaded: "LoadedModel"
    lookup: Lookup | None
    ids: list[int]
    neighbours: list[Neighbours]
    changes: list["Change"]
    config: GenerationConfig


def _read_as_before(wish: Wish, who: Visitor) -> _Reading:
    """Raises MismatchError where the model or the datastore here is not what made the trace."""
    trace = services.trace(wish.trace, who)
    about = trace.data["model"]
    expect_model(about["name"])
    loaded = services.model(about["name"])
    if loaded.fingerprint != about["fingerprint"]:
        raise MismatchError(
            f"The model {about['name']!r} here ({loaded.fingerprint[:8]}) is not the one that made this "
            f"trace ({about['fingerprint'][:8] or 'unknown'}), so nothing could be compared. Read the text "
            "again with what is here."
        )
    ids = ids_of(trace, loaded.tokenizer)
    lookup, neighbours, did = None, [], []
    if trace.data["retrieval"] and trace.data["datastore"]:
        form = _RETRIEVER_OF.get(trace.data["datastore"]["metric"], DEFAULT_RETRIEVER)
        lookup = services.lookup(expect_datastore(trace, who), form, loaded, who)
        neighbours, did = neighbours_of(trace, lookup.datastore, loaded.tokenizer)
    return _Reading(trace, loaded, lookup, ids, neighbours, _changes(did, wish.changes), _config(trace, wish))


def _changes(did: list[Any], wished: tuple[dict[str, Any], ...]) -> list["Change"]:
    from retro_core.counterfactual import Edit, Mute, Paste, Swap

    kinds = {"mute": Mute, "edit": Edit, "paste": Paste, "swap": Swap}
    before = [
        Mute(one.chunk, one.rank)
        if one.what == "muted"
        else (Edit if one.what == "edited" else Paste)(one.chunk, one.rank, one.tokens)
        for one in did
    ]
    wishes = [
        kinds[one["kind"]](**{name: value for name, value in one.items() if name != "kind"}) for one in wished
    ]
    return [*before, *wishes]


def _config(trace: Trace, wish: Wish) -> GenerationConfig:
    told = {
        **trace.data["sampling"],
        "num_neighbours": trace.data["model"]["num_neighbours"] or 1,
        "retrieval": trace.data["retrieval"],
    }
    for name in ("seed", "temperature"):
        if getattr(wish, name) is not None:
            told[name] = getattr(wish, name)
    return GenerationConfig(**told)


# ------------------------------------------------------------------------------------ what comes of it


def _changed(wish: Wish, who: Visitor) -> Iterator[tuple[Any, Any, Any]]:
    if not wish.changes:
        raise InputError("Nothing was changed. Mute, edit, paste or swap a neighbour first.")
    yield gr.skip(), {"text": "Reading the text again…", "tone": "busy"}, gr.skip()
    read = _read_as_before(wish, who)
    if read.lookup is None:
        raise InputError("This text was read without neighbours, so there is none to change.")
    from retro_core.explain import explain

    before = read.trace.data
    after = explain(
        read.loaded,
        read.ids,
        read.neighbours,
        read.lookup.datastore,
        read.config,
        prompt_tokens=before["prompt_tokens"],
        title=before["title"],
        changes=read.changes,
    )
    for new, old in zip(after.data["chunks"], before["chunks"], strict=False):
        new["seconds"] = old["seconds"]
    yield from _shown(after, who, _note(wish, read.trace), "Read again with what you changed.")


def _written(wish: Wish, who: Visitor, stopped: Callable[[], bool]) -> Iterator[tuple[Any, Any, Any]]:
    yield gr.skip(), {"text": "Making ready…", "tone": "busy"}, gr.skip()
    read = _read_as_before(wish, who)
    from retro_core.counterfactual import all_chunks, branch, fork
    from retro_core.explain import explain

    loaded, m = read.loaded, read.loaded.config.chunk_size
    count = len(read.ids) // m
    if read.neighbours:
        neighbours = all_chunks(read.neighbours, count)
    else:
        length = read.trace.data["model"]["neighbour_len"]
        neighbours = Neighbours.none((count,), read.config.num_neighbours, length, loaded.tokenizer.pad_id)
    given = loaded.model, loaded.tokenizer, read.ids, neighbours, read.changes, read.lookup
    if wish.kind == "branch":
        at = (wish.chunk + 1) * m
        config = _as_long(read, at, who)
        events = branch(*given, config, chunk=wish.chunk)
    else:
        at = wish.position
        token = _token_of(wish.token, read, neighbours, at)
        config = _as_long(read, at, who)
        events = fork(*given, config, position=at, token=token)
    title = f"{'Branch' if wish.kind == 'branch' else 'Fork'} of {_name(read.trace)}"
    datastore = read.lookup and read.lookup.datastore
    live = LiveText(services.new_id(), loaded, datastore, config, title=title)
    note = _note(wish, read.trace, at)
    drawn = 0.0
    for event in events:
        if stopped():
            break
        if live.take(event) or time.monotonic() - drawn > settings.SECONDS_BETWEEN_DRAWINGS:
            drawn = time.monotonic()
            yield {**live.view(), "change": note}, "", gr.skip()
    if not live.reason and not live.written:
        raise InputError("Stopped before anything was written.")
    yield {**live.view("measuring", "measuring what retrieval changed…"), "change": note}, "", gr.skip()
    after = live.finish(
        explain(
            loaded,
            [token["id"] for token in live.tokens],
            live.neighbours,
            live.datastore,
            config,
            prompt_tokens=live.prompt_tokens,
            title=title,
        )
    )
    # What was not looked up again has the time that it took.
    for chunk, old in zip(after.data["chunks"][: at // m], read.trace.data["chunks"], strict=False):
        chunk["seconds"] = old["seconds"]
    told = f"Wrote {live.written} tokens from there on.{text.ENDED.get(live.reason, '')}"
    yield from _shown(after, who, note, told, live.trace_id)


def _again(
    wish: Wish, model_name: str, datastore_name: str | None, who: Visitor
) -> Iterator[tuple[Any, Any, Any]]:
    """The same text, read by the model and from the datastore that are chosen."""
    trace = services.trace(wish.trace, who)
    words = "".join(token["text"] for token in trace.data["tokens"])
    info = services.model_info(model_name)
    retrieval = trace.data["retrieval"]
    if retrieval and not datastore_name:
        raise InputError("There is no datastore to look things up in. Make one in Corpus.")
    tokens = len(services.tokenizer(info.name).encode(words)) if len(words) < 100_000 else math.inf
    if tokens > 2 * settings.MAX_PROMPT_TOKENS:
        raise InputError(
            f"Up to {2 * settings.MAX_PROMPT_TOKENS:,} tokens can be read again; this is longer."
        )
    yield gr.skip(), {"text": text.LOADING_MODEL.format(model=info.name), "tone": "busy"}, gr.skip()
    loaded = services.model(info.name)
    datastore = services.datastore(datastore_name, loaded, who) if retrieval else None
    from retro_core.explain import score

    after = score(loaded, words, datastore, _config(trace, wish), title=f"{_name(trace)}, read again")
    yield from _shown(after, who, None, "Read again with what is here.")


def _shown(
    trace: Trace, who: Visitor, note: dict[str, Any] | None, told: str, trace_id: str | None = None
) -> Iterator[tuple[Any, Any, Any]]:
    trace_id = services.keep(trace, trace_id, who, change=note)
    yield services.view(trace_id, who), {"text": told, "tone": "good"}, trace_id


def _as_long(read: _Reading, at: int, who: Visitor) -> GenerationConfig:
    """As many tokens as stood there before, and at least a chunk of them."""
    wanted = max(read.loaded.config.chunk_size, len(read.ids) - at)
    most = who.rule.tokens or wanted
    return GenerationConfig(**{**read.config.to_dict(), "max_new_tokens": min(wanted, most)})


def _token_of(words: str, read: _Reading, neighbours: Neighbours, position: int) -> int:
    """The token that spells `words`, among the likeliest ones there. Raises InputError if there is none."""
    from retro_core.counterfactual import change
    from retro_core.explain import likeliest

    if not read.trace.data["pad"] < position < len(read.ids):
        raise InputError(f"There is no token {position} to fork at. Choose one of the text.")
    m, tokenizer = read.loaded.config.chunk_size, read.loaded.tokenizer
    changed = change(neighbours, read.changes, tokenizer, m).neighbours
    for given in (changed, None):
        found = likeliest(read.loaded.model, read.ids[:position], given)
        for token in found:
            if tokenizer.decode([token]) == words:
                return token
    raise InputError("That is not among the likeliest tokens there. Choose one of those that are shown.")


def _note(wish: Wish, trace: Trace, at: int | None = None) -> dict[str, Any]:
    """What the lens needs to say what was changed, and to lead back."""
    tokens = trace.data["tokens"]
    return {
        "kind": wish.kind,
        "of": wish.trace,
        "requests": [dict(one) for one in wish.changes],
        "at": at,
        "token": [tokens[at]["text"], wish.token] if wish.kind == "fork" else None,
        "before": {
            "lp_on": [None if t["lp_on"] is None else round(t["lp_on"], 4) for t in tokens],
            "gain": [chunk["gain"] for chunk in trace.data["chunks"]],
            "text": "" if at is None else "".join(t["text"] for t in tokens[at:])[:4000],
        },
    }


def _name(trace: Trace) -> str:
    title = trace.data["title"].removeprefix("Recorded example: ")
    beginning = "".join(token["text"] for token in trace.data["tokens"])
    return title or f"“{' '.join(beginning.split()[:8])} …”"
