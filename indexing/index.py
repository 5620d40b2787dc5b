"""Exact nearest neighbours between vectors: faiss's flat L2 index, and nothing approximate.

At the sizes meant here (some 10^5 chunks) an exact search takes milliseconds and needs no training,
so the index is made from the embeddings when a datastore opens and is never saved.
"""

import numpy as np

from indexing.neighbours import NO_CHUNK

NO_DOCUMENT = -1  # excludes nothing

# Candidates fetched beyond the k asked for. faiss rounds differently for one query and for hundreds, so
# that near-duplicates come in another order; among the surplus `search` finds the same k for both.
_SURPLUS = 16
# Candidates looked at together; their vectors take 100 MB at 384 dimensions.
_CANDIDATES = 1 << 16


class FlatIndex:
    """Vectors (N, d), searched exactly by squared L2 distance in float32.

    vectors    (N, d) float16 or float32, kept as given (it may be memory-mapped)
    documents  (N,)   int, the document of each vector, needed to leave one out of a search
    ids        (N,)   int, what `search` calls each vector; 0 .. N-1 by default
    """

    def __init__(
        self, vectors: np.ndarray, documents: np.ndarray | None = None, ids: np.ndarray | None = None
    ):
        import faiss

        self._vectors = vectors
        self._documents = None if documents is None else np.asarray(documents, dtype=np.int64)
        self._ids = np.arange(len(vectors)) if ids is None else np.asarray(ids, dtype=np.int64)
        self._faiss = faiss.IndexFlatL2(vectors.shape[1])
        for start in range(0, len(vectors), _CANDIDATES):
            self._faiss.add(_float32(vectors[start : start + _CANDIDATES]))

    def __len__(self) -> int:
        return len(self._vectors)

    def search(
        self, queries: np.ndarray, k: int, exclude: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """queries (n, d) -> ids (n, k) int64 and squared distances (n, k) float32, nearest first.

        exclude  (n,) int: no vector of that document is returned for the query; -1 excludes nothing.

        All k are found whenever k allowed vectors exist; missing ones are -1 and inf, at the end.
        Equal distances are ordered by id. A query's answer does not depend on the others it is searched with,
        save the choice among more than a dozen vectors that float32 cannot tell apart.
        """
        found = np.full((len(queries), k), NO_CHUNK, dtype=np.int64)
        distances = np.full((len(queries), k), np.inf, dtype=np.float32)
        exclude = np.full(len(queries), NO_DOCUMENT) if exclude is None else np.asarray(exclude)
        unsettled = np.arange(len(queries))
        depth = k + _SURPLUS
        # A query whose neighbours are crowded out by its own document is asked again, deeper.
        while k and len(self) and len(unsettled):
            depth = min(depth, len(self))
            again = []
            for rows in np.array_split(unsettled, -(-len(unsettled) * depth // _CANDIDATES)):
                ids, their_distances = self._nearest(_float32(queries[rows]), k, depth, exclude[rows])
                found[rows, : ids.shape[1]] = ids
                distances[rows, : ids.shape[1]] = their_distances
                again.append(rows[ids[:, -1] == NO_CHUNK])
            unsettled = np.concatenate(again) if depth < len(self) else []
            depth *= 8
        return found, distances

    def _nearest(
        self, queries: np.ndarray, k: int, depth: int, exclude: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best k among the `depth` nearest vectors of each query, less the excluded ones."""
        rows = self._faiss.search(queries, depth)[1]
        banned = np.zeros(rows.shape, dtype=bool)
        if self._documents is not None:
            banned = (self._documents[rows] == exclude[:, None]) & (exclude[:, None] != NO_DOCUMENT)
        # Allowed rows first, still nearest first; of those only a few can be among the best k.
        order = np.argsort(banned, axis=1, kind="stable")[:, : k + _SURPLUS]
        rows, banned = np.take_along_axis(rows, order, axis=1), np.take_along_axis(banned, order, axis=1)
        difference = self._vectors[rows].astype(np.float32)
        difference -= queries[:, None]
        distances = np.einsum("nkd,nkd->nk", difference, difference)
        distances[banned] = np.inf
        order = np.lexsort((rows, distances))[:, :k]
        distances = np.take_along_axis(distances, order, axis=1)
        ids = self._ids[np.take_along_axis(rows, order, axis=1)]
        return np.where(np.isinf(distances), NO_CHUNK, ids), distances


def _float32(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors, dtype=np.float32)


class Index:
    """What `open_index` returns: the allowed rows of a snapshot, nearest first."""

    def __init__(self, vectors, documents: np.ndarray, alive: np.ndarray):
        self._vectors, self._documents = vectors, np.asarray(documents, dtype=np.int64)
        self._alive = np.asarray(alive, dtype=bool)
        rows = np.flatnonzero(self._alive)
        self._flat = FlatIndex(vectors[rows], self._documents[rows], rows) if len(rows) else None

    def search(
        self,
        queries: np.ndarray,
        k: int,
        exclude: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """queries (n, d) -> ids (n, k) int64 and squared L2 distances (n, k) float32, nearest first.

        exclude  (n,) int: no row of that document is returned for the query; -1 excludes nothing
        allowed  (N,) bool: False = not returned for these queries

        All k are found whenever k allowed rows exist; missing ones are -1 and inf, at the end.
        """
        flat = self._flat
        if allowed is not None:
            rows = np.flatnonzero(self._alive & allowed)
            flat = FlatIndex(self._vectors[rows], self._documents[rows], rows) if len(rows) else None
        if flat is None:
            shape = (len(queries), k)
            return np.full(shape, NO_CHUNK, dtype=np.int64), np.full(shape, np.inf, dtype=np.float32)
        return flat.search(queries, k, exclude)


def open_index(vectors, documents, alive, parts, folder=None, settings=None) -> Index:
    """The index over rows `vectors` (N, d) of `documents` (N,), of which those `alive` (N,) are found."""
    return Index(vectors, documents, alive)
