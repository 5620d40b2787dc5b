"""From a trace back to what the model read, so that the same text can be read again with something changed.

A trace names its neighbours by their numbers in a datastore and holds their tokens as texts. The datastore
may have changed since, or another of that name may stand here: a neighbour counts only if the tokens found
there spell what the trace recorded. No torch.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from indexing.datastore import Datastore
from indexing.errors import MismatchError, RetroError
from indexing.neighbours import NO_CHUNK, SQUARED_L2, Neighbours
from indexing.retokenised import RetokenisedDatastore
from indexing.tokenizer import Tokenizer
from retro_core.trace import Trace


@dataclass(frozen=True)
class Did:
    """What a person had done to a neighbour before the trace was made. chunk counts from 0, rank from 1 ·
    tokens: what it says instead, for what was edited or pasted"""

    what: Literal["muted", "edited", "pasted"]
    chunk: int
    rank: int
    tokens: tuple[int, ...] = ()


def ids_of(trace: Trace, tokenizer: Tokenizer) -> list[int]:
    """The text's token ids. Raises MismatchError if they spell another text with this tokenizer."""
    ids = [token["id"] for token in trace.data["tokens"]]
    if any(token >= tokenizer.vocab_size for token in ids) or tokenizer.token_texts(ids) != [
        token["text"] for token in trace.data["tokens"]
    ]:
        raise MismatchError(
            f"The tokens of this trace are not those of the tokenizer {tokenizer.name!r} of the model "
            f"{trace.data['model']['name']!r} here. Read the text again with a model that is here."
        )
    return ids


def neighbours_of(
    trace: Trace, datastore: Datastore | RetokenisedDatastore, tokenizer: Tokenizer
) -> tuple[list[Neighbours], list[Did]]:
    """(neighbours of each chunk of the trace as they are in the datastore, with leading axes (1,); what had
    been done to them).

    Raises MismatchError if the datastore does not hold what was read.
    """
    model = trace.data["model"]
    m, length = model["chunk_size"], model["neighbour_len"]
    chunks = trace.data["chunks"]
    k = max([model["num_neighbours"], *(len(chunk["neighbours"]) for chunk in chunks)])
    measure = (trace.data["datastore"] or {}).get("metric") or SQUARED_L2
    found, did = [], []
    for chunk in chunks:
        given = Neighbours.none((1,), k, length, tokenizer.pad_id)
        scores = np.full((1, k), -np.inf, dtype=np.float32)
        for j, card in enumerate(chunk["neighbours"]):
            changed = card["changed"] if card["changed"] != "moved" else None
            tokens = recorded_tokens(card, datastore, tokenizer, m, length)
            if changed in ("edited", "pasted"):
                spelled = _spelled(card, tokenizer, m)
                did.append(Did(changed, chunk["index"], card["rank"], spelled))
                if tokens is None:  # in no datastore, as a text that somebody pasted
                    tokens = np.full(length, tokenizer.pad_id, dtype=np.int64)
                    tokens[: len(spelled)] = spelled
            elif changed == "muted" and tokens is not None:
                did.append(Did("muted", chunk["index"], card["rank"]))
            if tokens is None:
                continue
            given.tokens[0, j] = tokens
            given.ids[0, j] = NO_CHUNK if card["chunk_id"] is None else card["chunk_id"]
            if card["distance"] is not None:
                given.distances[0, j] = card["distance"]
            if card["score"] is not None:
                scores[0, j] = card["score"]
        has_scores = np.isfinite(scores).any()
        found.append(
            Neighbours(
                given.ids,
                given.distances,
                given.tokens,
                tokenizer.pad_id,
                measure,
                scores if has_scores else None,
            )
        )
    return found, did


def recorded_tokens(
    card: dict[str, Any],
    datastore: Datastore | RetokenisedDatastore,
    tokenizer: Tokenizer,
    chunk_size: int,
    length: int,
) -> np.ndarray | None:
    """Tokens (length,) of the neighbour that a card describes, from the datastore; None if it was never in
    one. Raises MismatchError if the datastore has something else there."""
    chunk_id = card["chunk_id"]
    if chunk_id is None:
        return None
    try:
        datastore.text(chunk_id)  # is it there, and not deleted?
        tokens = _tokens_in(datastore, chunk_id)
    except RetroError as error:
        raise MismatchError(f"{_changed_since(card, datastore)} ({error})") from error
    if len(tokens) != length:
        raise MismatchError(
            f"The trace's neighbours have {length} tokens, those of {datastore.name!r} have {len(tokens)}. "
            "Read the text again with what is here."
        )
    if (
        card["changed"] in (None, "moved", "muted")
        and _texts(tokens, tokenizer, chunk_size) != card["tokens"]
    ):
        raise MismatchError(_changed_since(card, datastore))
    return tokens


def _tokens_in(datastore: Datastore | RetokenisedDatastore, chunk_id: int) -> np.ndarray:
    ids = np.array([chunk_id], dtype=np.int64)
    if isinstance(datastore, RetokenisedDatastore):
        return datastore.retrieved_tokens(ids)[0]
    return datastore.chunks.retrieved_tokens(ids, datastore.num_continuations)[0]


def _texts(tokens: np.ndarray, tokenizer: Tokenizer, chunk_size: int) -> list[str]:
    """As `trace.neighbour_cards` spells them."""
    row = tokens.tolist()
    return tokenizer.token_texts(row[:chunk_size]) + tokenizer.token_texts(row[chunk_size:])


def _spelled(card: dict[str, Any], tokenizer: Tokenizer, chunk_size: int) -> tuple[int, ...]:
    """The tokens of a text that somebody typed. Raises MismatchError if its spelling does not lead back."""
    ids = tokenizer.encode("".join(card["tokens"]))
    padded = np.full(len(card["tokens"]), tokenizer.pad_id, dtype=np.int64)
    if len(ids) <= len(padded):
        padded[: len(ids)] = ids
        if _texts(padded, tokenizer, chunk_size) == card["tokens"]:
            return tuple(int(token) for token in ids)
    raise MismatchError(
        f"What was typed for neighbour {card['rank']} cannot be read again token by token from this trace. "
        "Run the prompt again and change it there."
    )


def _changed_since(card: dict[str, Any], datastore: Datastore | RetokenisedDatastore) -> str:
    return (
        f"The datastore {datastore.name!r} here no longer holds what this trace read: its chunk "
        f"{card['chunk_id']} is another text now, or gone. Read the text again with what is here."
    )
