"""Ways to put a datastore's chunks in order for a text: by embedding, alone or with how the texts begin, by
words, by both, by chance.

Each is a `Ranker`. Its first k for a text are the beginning of its first k + 1, and leaving documents out
does not change the order of the others; save that what a hybrid makes of two orders depends on how far it
looks.
"""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from indexing.beginnings import FIRST_CHUNK_WEIGHT, together
from indexing.bm25 import Chunked, WordIndex, WordsIndexed, open_word_index
from indexing.datastore import Datastore
from indexing.neighbours import BM25, DRAWN, NO_CHUNK, RECIPROCAL_RANKS, SQUARED_L2, WITH_FIRST_CHUNK

# Candidates of each ranking that one made of it looks at, if not more neighbours are asked for.
DEPTH = 100
# As in Cormack, Clarke & Buettcher 2009: large enough that being in both rankings outdoes being first in one.
RRF = 60

_DRAWS = 4096
_ROWS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Ranked:
    """Chunks for n texts, best first, missing ones at the end; see `Neighbours`.

    ids        (n, k) int64, -1 where missing
    distances  (n, k) float32, squared L2, inf where missing or not measured
    scores     (n, k) float32, larger is closer, -inf where missing; or None
    """

    ids: np.ndarray
    distances: np.ndarray
    scores: np.ndarray | None = None

    @staticmethod
    def nothing(num_texts: int, num_neighbours: int, scored: bool = False) -> "Ranked":
        shape = num_texts, num_neighbours
        return Ranked(
            np.full(shape, NO_CHUNK, dtype=np.int64),
            np.full(shape, np.inf, dtype=np.float32),
            np.full(shape, -np.inf, dtype=np.float32) if scored else None,
        )


class Ranker(Protocol):
    """measure  what it orders by, see `Neighbours`"""

    measure: str

    def rank(
        self,
        texts: Sequence[str],
        num_neighbours: int,
        exclude_documents: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> Ranked:
        """n texts, none of them empty -> the k best chunks for each.

        exclude_documents  (n,) int: document of which a text gets no chunks; -1 for none
        allowed            (N,) bool over the datastore's chunks: False is never given
        """
        ...


class Dense:
    """By squared L2 distance between embeddings, with the datastore's index."""

    measure = SQUARED_L2

    def __init__(self, datastore: Datastore):
        self._datastore = datastore

    def rank(
        self,
        texts: Sequence[str],
        num_neighbours: int,
        exclude_documents: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> Ranked:
        vectors = self._datastore.embedder.embed(texts)
        return self.rank_vectors(vectors, num_neighbours, exclude_documents, allowed)

    def rank_vectors(
        self,
        vectors: np.ndarray,
        num_neighbours: int,
        exclude_documents: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> Ranked:
        found = self._datastore.nearest_vectors(vectors, num_neighbours, exclude_documents, allowed)
        return Ranked(*found)


class WithFirstChunk:
    """The first DEPTH by embedding (or k, if that is more) for a text together with the first chunk of the
    text it is a chunk of, by the cosine to each together with its document's first chunk, see `beginnings`.
    A text alone is its own beginning.

    Of the two that comparing all chunks this way would find, 98 to 100 % are among these 100 (the bundled
    Factbook, Bible translations, Wikipedia), so there is no second index.
    """

    measure = WITH_FIRST_CHUNK

    def __init__(self, datastore: Datastore, first_chunk: str = ""):
        self._datastore, self._first_chunk = datastore, first_chunk
        self._dense = Dense(datastore)

    def for_text(self, first_chunk: str) -> "WithFirstChunk":
        """The order for chunks of the text whose first chunk this is."""
        return WithFirstChunk(self._datastore, first_chunk)

    def rank(
        self,
        texts: Sequence[str],
        num_neighbours: int,
        exclude_documents: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> Ranked:
        vectors = self._datastore.embedder.embed(texts)
        asked = vectors
        if self._first_chunk:
            asked = together(vectors, self._first_vector, FIRST_CHUNK_WEIGHT)
        depth = max(DEPTH, num_neighbours)
        near = self._dense.rank_vectors(asked, depth, exclude_documents, allowed)
        found = Ranked.nothing(len(texts), num_neighbours, scored=True)
        for row, candidates in enumerate(near.ids):
            ids = np.sort(candidates[candidates != NO_CHUNK])
            stored = self._datastore.embeddings[ids]
            scores = together(stored, *self._first_chunks(ids)) @ asked[row]
            best = np.argsort(-scores, kind="stable")[:num_neighbours]
            difference = stored[best].astype(np.float32) - vectors[row]
            found.ids[row, : len(best)] = ids[best]
            found.distances[row, : len(best)] = np.einsum("nd,nd->n", difference, difference)
            found.scores[row, : len(best)] = scores[best]
        return found

    @cached_property
    def _first_vector(self) -> np.ndarray:
        return self._datastore.embedder.embed([self._first_chunk])[0]

    def _first_chunks(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings (n, d) of the first chunks of these chunks' documents, and their weights (n, 1)."""
        store = self._datastore.chunks
        first, place = np.unique(store.seq2chunk[store.chunk2seq[ids]], return_inverse=True)
        weights = FIRST_CHUNK_WEIGHT * _have_text(self._datastore, store.tokens[first])[:, None]
        return self._datastore.embeddings[first][place], weights[place]


class Words:
    """By BM25. Chunks that share no word with a text are none of its neighbours. Needs no embedder, and
    measures no distances. The index of words is opened, or made, at the first text; see `prepare`."""

    measure = BM25

    def __init__(self, datastore: Chunked):
        self._datastore = datastore
        self._index: WordIndex | None = None
        self._lock = threading.Lock()

    def prepare(self) -> Iterator[WordsIndexed]:
        """Open the index of words and make what is missing of it, which may take long, as events."""
        with self._lock:
            if self._index is None:
                self._index = yield from open_word_index(self._datastore)

    def scores(self, text: str) -> np.ndarray:
        """(N,) float32 of all chunks, 0 where there is no common word; also those of deleted documents."""
        for _ in self.prepare():
            pass
        return self._index.scores(text)

    def rank(
        self,
        texts: Sequence[str],
        num_neighbours: int,
        exclude_documents: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> Ranked:
        found = Ranked.nothing(len(texts), num_neighbours, scored=True)
        shown = self._datastore.alive if allowed is None else self._datastore.alive & allowed
        for row, text in enumerate(texts):
            scores = np.where(shown, self.scores(text), np.float32(0))
            if exclude_documents is not None and exclude_documents[row] >= 0:
                scores[rows_of(self._datastore, int(exclude_documents[row]))] = 0
            best = _largest(scores, num_neighbours)
            found.ids[row, : len(best)] = best
            found.scores[row, : len(best)] = scores[best]
        return found


class Fused:
    """Both rankings by the sum of their reciprocal ranks, Σ 1 / (60 + rank), over the first DEPTH of each (or
    k, if that is more); equal sums by distance."""

    measure = RECIPROCAL_RANKS

    def __init__(self, datastore: Datastore):
        self._datastore = datastore
        self._dense, self._words = Dense(datastore), Words(datastore)

    def prepare(self) -> Iterator[WordsIndexed]:
        return self._words.prepare()

    def rank(
        self,
        texts: Sequence[str],
        num_neighbours: int,
        exclude_documents: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> Ranked:
        depth = max(DEPTH, num_neighbours)
        vectors = self._datastore.embedder.embed(texts)
        near = self._dense.rank_vectors(vectors, depth, exclude_documents, allowed).ids
        alike = self._words.rank(texts, depth, exclude_documents, allowed).ids
        found = Ranked.nothing(len(texts), num_neighbours, scored=True)
        for row, rankings in enumerate(zip(near, alike, strict=True)):
            ids, sums = fuse([ranking[ranking != NO_CHUNK] for ranking in rankings])
            difference = self._datastore.embeddings[ids].astype(np.float32) - vectors[row]
            distances = np.einsum("nd,nd->n", difference, difference)
            best = np.lexsort((ids, distances, -sums))[:num_neighbours]
            found.ids[row, : len(best)] = ids[best]
            found.distances[row, : len(best)] = distances[best]
            found.scores[row, : len(best)] = sums[best]
        return found


class Reranked:
    """The first DEPTH by embedding (or k, if that is more) in the order of BM25; equal scores, also those
    without a common word, by distance."""

    measure = BM25

    def __init__(self, datastore: Datastore):
        self._dense, self._words = Dense(datastore), Words(datastore)

    def prepare(self) -> Iterator[WordsIndexed]:
        return self._words.prepare()

    def rank(
        self,
        texts: Sequence[str],
        num_neighbours: int,
        exclude_documents: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> Ranked:
        near = self._dense.rank(texts, max(DEPTH, num_neighbours), exclude_documents, allowed)
        scores = np.stack([self._words.scores(text)[ids] for text, ids in zip(texts, near.ids, strict=True)])
        scores[near.ids == NO_CHUNK] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :num_neighbours]
        return Ranked(*(np.take_along_axis(a, order, axis=1) for a in (near.ids, near.distances, scores)))


class Drawn:
    """By chance: each text has an order of its own, which depends on nothing but the text and the seed. The
    chunks are real text about something else, so what they change is not their content's merit."""

    measure = DRAWN

    def __init__(self, datastore: Chunked, seed: int = 0):
        self._datastore, self._seed = datastore, seed
        self._shown: np.ndarray | None = None

    def rank(
        self,
        texts: Sequence[str],
        num_neighbours: int,
        exclude_documents: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> Ranked:
        if self._shown is None:
            self._shown = self._datastore.alive & _says_something(self._datastore)
        found = Ranked.nothing(len(texts), num_neighbours)
        shown = self._shown if allowed is None else self._shown & allowed
        for row, text in enumerate(texts):
            own = slice(0, 0)
            if exclude_documents is not None and exclude_documents[row] >= 0:
                own = rows_of(self._datastore, int(exclude_documents[row]))
            drawn = self._order(text, shown, own, num_neighbours)
            found.ids[row, : len(drawn)] = drawn
        return found

    def _order(self, text: str, shown: np.ndarray, own: slice, k: int) -> np.ndarray:
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
        rng = np.random.default_rng([self._seed, int.from_bytes(digest, "little")])

        def allowed(ids: np.ndarray) -> np.ndarray:
            return ids[shown[ids] & ((ids < own.start) | (ids >= own.stop))]

        # A few thousand draws nearly always do; only if they do not, all of a datastore are put in order.
        draws = rng.integers(len(shown), size=_DRAWS)
        first = draws[np.sort(np.unique(draws, return_index=True)[1])]
        found = allowed(first)
        if len(found) < k:
            rest = rng.permutation(np.setdiff1d(np.arange(len(shown)), first))
            found = np.concatenate([found, allowed(rest)])
        return found[:k]


def fuse(rankings: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rankings, each some ids (c,) best first -> all their ids in order of size, (n,), and Σ 1 / (60 + rank)
    over the rankings that have each, (n,) float64; ranks count from 1."""
    ids, place = np.unique(np.concatenate(rankings), return_inverse=True)
    ranks = np.concatenate([np.arange(1, len(ranking) + 1) for ranking in rankings])
    return ids, np.bincount(place, 1 / (RRF + ranks), len(ids))


def rows_of(datastore: Chunked, document: int) -> slice:
    """The chunks of a document: they lie side by side."""
    first = datastore.chunks.seq2chunk
    stop = first[document + 1] if document + 1 < len(first) else len(datastore.chunks)
    return slice(int(first[document]), int(stop))


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """The rows of the k largest scores above 0, largest first; equal ones by row."""
    rows = np.flatnonzero(scores > 0)
    if 0 < k < len(rows):
        kept = scores[rows]
        rows = rows[kept >= np.partition(kept, len(rows) - k)[len(rows) - k]]
    return rows[np.lexsort((rows, -scores[rows]))][:k]


def _says_something(datastore: Chunked) -> np.ndarray:
    """(N,) bool: whether a chunk has a token besides padding and end marks."""
    found = np.empty(len(datastore.chunks), dtype=bool)
    for start in range(0, len(found), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        found[rows] = _have_text(datastore, datastore.chunks.tokens[rows])
    return found


def _have_text(datastore: Chunked, chunks: np.ndarray) -> np.ndarray:
    """chunks (n, m) of tokens -> (n,) bool: whether each has one besides padding and end marks."""
    return ~np.isin(chunks, (datastore.tokenizer.pad_id, datastore.tokenizer.end_id)).all(axis=1)
