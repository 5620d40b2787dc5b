"""What retrieval hands to a model, and the protocol of everything that can retrieve.

Axis letters are the paper's: l chunks, m chunk size, k neighbours, r retrieved length (a neighbour and
its continuation, 2m by default). `...` stands for any leading axes, usually (l,) or (b, l).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from indexing.errors import InputError

if TYPE_CHECKING:
    from indexing.tokenizer import Tokenizer

NO_CHUNK = -1  # id of a neighbour that is missing
PASTED = -2  # id of a text that somebody gave in place of a neighbour: it is in no datastore

# What neighbours can be ordered by. By squared L2 the smaller distance comes first; by all others the larger
# score, or nothing: neighbours that were drawn or given have no scores.
SQUARED_L2 = "squared L2"
BM25 = "BM25"
RECIPROCAL_RANKS = "reciprocal ranks"
WITH_FIRST_CHUNK = "similarity with first chunks"
DRAWN = "drawn at random"
GIVEN = "given"
MIXED = "mixed"  # chunks of one text whose neighbours were ordered by different things

Text = str | Sequence[int]  # or its token ids


@dataclass(frozen=True)
class Neighbours:
    """Neighbours of some chunks, nearest first. Missing ones are at the end.

    ids        (..., k)     int64, row in the datastore's chunk store, -1 where missing,
                           -2 for a text that is in none
    distances  (..., k)     float32, squared L2 between embeddings: smaller is closer; inf where missing and
                           where nobody measured it
    tokens     (..., k, r)  int64, neighbour then continuation, padded with `pad_id`
    measure    what they are ordered by: "squared L2" means by `distances`, anything else by `scores`
    scores     (..., k)     float32, of `measure`: larger is closer, always; -inf where missing. None where
                           `distances` say it all, and where the order means nothing
    """

    ids: np.ndarray
    distances: np.ndarray
    tokens: np.ndarray
    pad_id: int = 0
    measure: str = SQUARED_L2
    scores: np.ndarray | None = None

    @property
    def mask(self) -> np.ndarray:
        """(..., k, r) bool: True where there is a token to read."""
        return self.tokens != self.pad_id

    @staticmethod
    def none(shape: tuple[int, ...], num_neighbours: int, length: int, pad_id: int = 0) -> "Neighbours":
        """No neighbour at all for chunks of leading `shape`: what Retro[Off] reads."""
        return Neighbours(
            ids=np.full((*shape, num_neighbours), NO_CHUNK, dtype=np.int64),
            distances=np.full((*shape, num_neighbours), np.inf, dtype=np.float32),
            tokens=np.full((*shape, num_neighbours, length), pad_id, dtype=np.int64),
            pad_id=pad_id,
        )

    def chunks(self, start: int, stop: int) -> "Neighbours":
        """Those of the chunks start ... stop - 1, along the chunk axis (the first axis, l)."""
        return self._at(slice(start, stop))

    def take(self, rows: np.ndarray) -> "Neighbours":
        """Those of the chunks with these numbers, in this order, along the chunk axis."""
        return self._at(np.asarray(rows))

    def _at(self, part: slice | np.ndarray) -> "Neighbours":
        return replace(
            self,
            ids=self.ids[part],
            distances=self.distances[part],
            tokens=self.tokens[part],
            scores=None if self.scores is None else self.scores[part],
        )

    def first(self, num_neighbours: int) -> "Neighbours":
        """The nearest `num_neighbours` of each chunk."""
        k = num_neighbours
        return replace(
            self,
            ids=self.ids[..., :k],
            distances=self.distances[..., :k],
            tokens=self.tokens[..., :k, :],
            scores=None if self.scores is None else self.scores[..., :k],
        )

    def only(self, kept: np.ndarray, num_neighbours: int) -> "Neighbours":
        """The first `num_neighbours` of each chunk that are `kept` (..., k) bool; missing ones at the end."""
        order = np.argsort(~kept, axis=-1, kind="stable")[..., :num_neighbours]
        gone = ~np.take_along_axis(kept, order, axis=-1)

        def moved(array: np.ndarray, missing: float) -> np.ndarray:
            return np.where(gone, missing, np.take_along_axis(array, order, axis=-1)).astype(array.dtype)

        tokens = np.take_along_axis(self.tokens, order[..., None], axis=-2)
        return replace(
            self,
            ids=moved(self.ids, NO_CHUNK),
            distances=moved(self.distances, np.inf),
            tokens=np.where(gone[..., None], self.pad_id, tokens),
            scores=None if self.scores is None else moved(self.scores, -np.inf),
        )

    def reshape(self, *shape: int) -> "Neighbours":
        """The same neighbours with other leading axes; one of them may be -1."""
        k, r = self.tokens.shape[-2:]
        return replace(
            self,
            ids=self.ids.reshape(*shape, k),
            distances=self.distances.reshape(*shape, k),
            tokens=self.tokens.reshape(*shape, k, r),
            scores=None if self.scores is None else self.scores.reshape(*shape, k),
        )

    def followed_by(self, later: "Neighbours") -> "Neighbours":
        """These chunks' neighbours, then `later`'s, see `joined`."""
        return Neighbours.joined([self, later])

    @staticmethod
    def joined(parts: Sequence["Neighbours"]) -> "Neighbours":
        """Neighbours of some chunks, then of others, along the chunk axis (the first axis, l).

        Ordered by different things, they are "mixed" and lose their scores; a part in which no chunk has any
        neighbour has no say in that.
        """
        measures = {part.measure for part in parts if (part.ids != NO_CHUNK).any()}
        measure = parts[0].measure if not measures else measures.pop() if len(measures) == 1 else MIXED
        scores = None
        if measure != MIXED and any(part.scores is not None for part in parts):
            scores = np.concatenate([part._scores_or_missing() for part in parts])
        return Neighbours(
            ids=np.concatenate([part.ids for part in parts]),
            distances=np.concatenate([part.distances for part in parts]),
            tokens=np.concatenate([part.tokens for part in parts]),
            pad_id=parts[0].pad_id,
            measure=measure,
            scores=scores,
        )

    def _scores_or_missing(self) -> np.ndarray:
        return np.full(self.ids.shape, -np.inf, dtype=np.float32) if self.scores is None else self.scores


class Retriever(Protocol):
    """Anything that finds neighbours for chunks of tokens."""

    def retrieve(self, chunks: np.ndarray, num_neighbours: int) -> Neighbours:
        """chunks (..., m) int -> Neighbours with leading axes (...)."""
        ...


@runtime_checkable
class TextRetriever(Retriever, Protocol):
    """A retriever that may answer a chunk otherwise if it knows what text the chunk is of."""

    def for_text(self, first_chunk: np.ndarray) -> Retriever:
        """What answers chunks of the text that begins with these tokens (m,); itself if that is no matter."""
        ...


def for_text(retriever: Retriever, first_chunk: np.ndarray) -> Retriever:
    """The retriever as it answers chunks of the text that begins with these tokens (m,). To be asked by
    everything that looks up chunks of a text; one that answers single chunks only is not told."""
    return retriever.for_text(first_chunk) if isinstance(retriever, TextRetriever) else retriever


def retrieve_each(
    retriever: Retriever, first_chunks: np.ndarray, chunks: np.ndarray, num_neighbours: int
) -> Neighbours:
    """Neighbours, leading axis (n,), of chunks (n, m) that are of several texts: each of the one that begins
    with its row of `first_chunks` (n, m). All are asked for at once where the text is no matter."""
    texts, place = np.unique(first_chunks, axis=0, return_inverse=True)
    asked = [for_text(retriever, first_chunk) for first_chunk in texts]
    if all(each is retriever for each in asked):
        return retriever.retrieve(chunks, num_neighbours)
    rows = [np.flatnonzero(place.reshape(-1) == text) for text in range(len(texts))]
    parts = [each.retrieve(chunks[mine], num_neighbours) for each, mine in zip(asked, rows, strict=True)]
    return Neighbours.joined(parts).take(np.argsort(np.concatenate(rows)))


def given_tokens(
    text: Text, tokenizer: "Tokenizer | None", length: int, chunk_size: int, pad_id: int
) -> np.ndarray:
    """A text that somebody gives as a neighbour, as tokens (length,): the first m are the neighbour (N), the
    others its continuation (F).

    Raises InputError if it is empty or too long, has padding in it, or is no tokens yet and nobody can make
    them.
    """
    if isinstance(text, str):
        if tokenizer is None:
            raise InputError("Got a text for a neighbour but no tokenizer. Give one, or give token ids.")
        text = tokenizer.encode(text).tolist()
    ids = list(text)
    if not ids:
        raise InputError("The text for a neighbour is empty. Write some, or mute the neighbour.")
    if len(ids) > length:
        raise InputError(
            f"The text for a neighbour has {len(ids)} tokens, up to {length} fit: {chunk_size} for the "
            "neighbour, the rest for what follows it. Shorten it."
        )
    if pad_id in ids:
        raise InputError(f"Token {pad_id} is padding and cannot stand in a neighbour. Leave it out.")
    return np.array(ids + [pad_id] * (length - len(ids)), dtype=np.int64)


def longest_common_runs(tokens: np.ndarray, others: np.ndarray, pad_id: int) -> np.ndarray:
    """tokens (q,), others (..., r) -> (...) int64: tokens in the longest run that each shares with `tokens`;
    padding is in no run. Or many at once: tokens (c, q), others (c, ..., r) -> (c, ...)."""
    tokens = np.asarray(tokens)
    tokens = tokens.reshape(*tokens.shape[:-1], *(1,) * (others.ndim - tokens.ndim), tokens.shape[-1])
    run = np.zeros((*others.shape[:-1], others.shape[-1] + 1), dtype=np.int64)  # that ends with each token
    longest = np.zeros(others.shape[:-1], dtype=np.int64)
    for place in range(tokens.shape[-1]):
        token = tokens[..., place, None]
        run[..., 1:] = (run[..., :-1] + 1) * ((others == token) & (token != pad_id))
        longest = np.maximum(longest, run.max(axis=-1))
    return longest


def overlap(tokens: np.ndarray, others: np.ndarray, pad_id: int) -> np.ndarray:
    """r(C) of the paper (section 2.6): the longest run of tokens that a chunk shares with any of the texts in
    `others`, over the chunk's tokens. tokens (q,), others (..., r) -> () float64, 0 to 1; or tokens (c, q),
    others (c, ..., r) -> (c,). 0 for a chunk of padding alone."""
    tokens = np.asarray(tokens)
    shared = longest_common_runs(tokens, others, pad_id)
    shared = shared.reshape(*tokens.shape[:-1], -1).max(axis=-1, initial=0)
    return shared / np.maximum(1, (tokens != pad_id).sum(axis=-1))
