"""What retrieval hands to a model, and the protocol of everything that can retrieve.

Axis letters are the paper's: l chunks, m chunk size, k neighbours, r retrieved length (a neighbour and
its continuation, 2m by default). `...` stands for any leading axes, usually (l,) or (b, l).
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

NO_CHUNK = -1  # id of a neighbour that is missing
PASTED = -2  # id of a text that somebody gave in place of a neighbour: it is in no datastore

# What neighbours can be ordered by. By squared L2 the smaller distance comes first; by all others the larger
# score, or nothing: neighbours that were drawn or given have no scores.
SQUARED_L2 = "squared L2"
BM25 = "BM25"
RECIPROCAL_RANKS = "reciprocal ranks"
DRAWN = "drawn at random"
GIVEN = "given"
MIXED = "mixed"  # chunks of one text whose neighbours were ordered by different things


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
        part = slice(start, stop)
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
        """These chunks' neighbours, then `later`'s, along the chunk axis (the first axis, l). Ordered by
        different things, they are "mixed" and lose their scores; a part without neighbours has no say."""
        measures = {part.measure for part in (self, later) if (part.ids != NO_CHUNK).any()}
        measure = self.measure if not measures else measures.pop() if len(measures) == 1 else MIXED
        scores = None
        if measure != MIXED and (self.scores is not None or later.scores is not None):
            scores = np.concatenate([part._scores_or_missing() for part in (self, later)])
        return Neighbours(
            ids=np.concatenate([self.ids, later.ids]),
            distances=np.concatenate([self.distances, later.distances]),
            tokens=np.concatenate([self.tokens, later.tokens]),
            pad_id=self.pad_id,
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
