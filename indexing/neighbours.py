"""What retrieval hands to a model, and the protocol of everything that can retrieve.

Axis letters are the paper's: l chunks, m chunk size, k neighbours, r retrieved length (a neighbour and
its continuation, 2m by default). `...` stands for any leading axes, usually (l,) or (b, l).
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

NO_CHUNK = -1  # id of a neighbour that is missing
PASTED = -2  # id of a text that somebody gave in place of a neighbour: it is in no datastore


@dataclass(frozen=True)
class Neighbours:
    """Neighbours of some chunks, nearest first. Missing ones are at the end.

    ids        (..., k)     int64, row in the datastore's chunk store, -1 where missing,
                           -2 for a text that is in none
    distances  (..., k)     float32, squared L2 between embeddings (smaller is closer), inf where missing
    tokens     (..., k, r)  int64, neighbour then continuation, padded with `pad_id`
    """

    ids: np.ndarray
    distances: np.ndarray
    tokens: np.ndarray
    pad_id: int = 0

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
        return Neighbours(self.ids[part], self.distances[part], self.tokens[part], self.pad_id)

    def followed_by(self, later: "Neighbours") -> "Neighbours":
        """These chunks' neighbours, then `later`'s, along the chunk axis (the first axis, l)."""
        return Neighbours(
            ids=np.concatenate([self.ids, later.ids]),
            distances=np.concatenate([self.distances, later.distances]),
            tokens=np.concatenate([self.tokens, later.tokens]),
            pad_id=self.pad_id,
        )


class Retriever(Protocol):
    """Anything that finds neighbours for chunks of tokens."""

    def retrieve(self, chunks: np.ndarray, num_neighbours: int) -> Neighbours:
        """chunks (..., m) int -> Neighbours with leading axes (...)."""
        ...
