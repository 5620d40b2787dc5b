"""The ways to read that have names. Each differs from `on` in one thing, and so says what that is worth.

on         the neighbours that a chunk has
off        nothing: Retro[Off]
random     chunks drawn at random from what is looked into, never from the same document: is it the content?
shuffled   the neighbours of the same document's chunks, each chunk with those of another: is it the place?
bm25       chunks that share the asking chunk's rarer words
n_only     neighbours without their continuation (F)
f_only     continuations without their neighbour (N)
oracle     chunks that share most tokens with what is to be predicted: a bound that no retriever can use
fewer      the first k of a reading
"""

from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np

from indexing.errors import InputError
from indexing.ranking import Drawn, Ranker, Words
from indexing.retrievers import Lookup, stored
from retro_core.evaluation.held_out import HeldOut, Searched, retrieved
from retro_core.evaluation.losses import Reading, Source
from retro_core.evaluation.oracle import SharedTokens

_REMEMBERED = 16  # documents whose changed neighbours are kept


def on(held_out: HeldOut, num_neighbours: int | None = None) -> Reading:
    """The first k neighbours of each chunk; all there are by default."""
    k = held_out.num_neighbours if num_neighbours is None else num_neighbours
    return Reading("on", _remembered(lambda document: held_out.neighbours(document).tokens), k)


def off() -> Reading:
    return Reading("off", None)


def fewer(reading: Reading, num_neighbours: int) -> Reading:
    """The first k of what `reading` reads, named "k=…"; the two share their encoded neighbours."""
    return Reading(f"k={num_neighbours}", reading.source, num_neighbours)


def n_only(held_out: HeldOut, reading: Reading) -> Reading:
    """What `reading` reads with every continuation padded: the encoder sees the first m tokens only."""
    return Reading(
        "n_only", _changed(reading, held_out, slice(held_out.chunk_size, None)), reading.num_neighbours
    )


def f_only(held_out: HeldOut, reading: Reading) -> Reading:
    """What `reading` reads with every neighbour padded: only continuations are left, in their place."""
    return Reading(
        "f_only", _changed(reading, held_out, slice(0, held_out.chunk_size)), reading.num_neighbours
    )


def random(held_out: HeldOut, num_neighbours: int, seed: int = 0) -> Reading:
    """Chunks drawn at random among all that can be looked into, never from the document itself, the same for
    the same seed and text."""
    return _by(held_out, "random", num_neighbours, lambda store: Drawn(store, seed))


def bm25(held_out: HeldOut, num_neighbours: int) -> Reading:
    """What BM25 finds with each chunk's words; see `indexing.bm25`. The first document waits until the words
    are indexed, some 10,000 chunks a second."""
    return _by(held_out, "bm25", num_neighbours, Words)


def oracle(held_out: HeldOut, num_neighbours: int) -> Reading:
    """Chunks chosen for what is to be predicted: see `oracle.SharedTokens`. It cannot be known when the text
    is being written; it tells how much more a better retriever could give."""
    store = _searched(held_out, "oracle")
    by_tokens = SharedTokens(store)

    def source(document: int) -> np.ndarray:
        chunks = held_out.chunks(document)
        later = np.concatenate([chunks[1:], np.full_like(chunks[:1], held_out.pad_id)])
        found = by_tokens.retrieve(later, num_neighbours, held_out.documents[document].own)
        return found.tokens.astype(np.int32)

    return Reading("oracle", cache(source), num_neighbours)


def shuffled(held_out: HeldOut, reading: Reading, seed: int = 0) -> Reading:
    """What `reading` reads, but each chunk of a document gets what another of its chunks has: no chunk keeps
    its own, and in another order than before. Only chunks whose neighbours somebody reads take part, which
    are all but a last incomplete one. A document with one such chunk has none to exchange with: it reads
    nothing."""
    m = held_out.chunk_size

    def source(document: int) -> np.ndarray:
        tokens = reading.source(document)
        complete = len(held_out.documents[document].tokens) // m
        moved = np.full_like(tokens, held_out.pad_id)
        if complete > 1:
            moved[:complete] = tokens[derangement(complete, np.random.default_rng([seed, document]))]
        return moved

    return Reading("shuffled", _remembered(source), reading.num_neighbours)


def derangement(count: int, rng: np.random.Generator) -> np.ndarray:
    """A permutation of 0 … count - 1, count > 1, that leaves nothing in its place; all of them are equally
    likely."""
    places = np.arange(count)
    while True:  # more than one in three permutations is one
        order = rng.permutation(count)
        if not (order == places).any():
            return order


def _by(held_out: HeldOut, name: str, num_neighbours: int, ranker: Callable[[Searched], Ranker]) -> Reading:
    searched = _searched(held_out, name)
    retriever = Lookup(searched, ranker(stored(searched)))

    def source(document: int) -> np.ndarray:
        own = held_out.documents[document].own
        chunks = held_out.chunks(document)
        return retrieved(retriever, chunks, num_neighbours, held_out.pad_id, own).tokens.astype(np.int32)

    # Kept for all documents, in 32 bits: a document's shorter last window comes long after the others.
    return Reading(name, cache(source), num_neighbours)


def _searched(held_out: HeldOut, reading: str) -> Searched:
    if held_out.searched is None:
        raise InputError(
            f"The reading {reading!r} looks into a datastore, but {held_out.name!r} has nothing but its "
            "neighbours. Name the tokenizer, or a datastore."
        )
    return held_out.searched


def _changed(reading: Reading, held_out: HeldOut, hidden: slice) -> Source:
    def source(document: int) -> np.ndarray:
        tokens = reading.source(document).copy()
        tokens[..., hidden] = held_out.pad_id
        return tokens

    return _remembered(source)


def _remembered(source: Callable[[int], np.ndarray]) -> Source:
    return lru_cache(_REMEMBERED)(source)
