"""Exact nearest neighbours among float16 vectors that stay where they are, usually in a file.

Few queries at once are answered from a copy in 8 bits a number: it says which vectors may be among the
nearest, their exact distances say which are, and the largest error that any vector's copy has proves that no
other one is nearer; where it proves nothing, and for many queries at once, all vectors are read through.
"""

import threading
from collections.abc import Iterator

import numpy as np

from indexing.errors import InputError
from indexing.neighbours import NO_CHUNK

NO_DOCUMENT = -1  # excludes nothing

# Vectors that are turned to float32 together: 25 MB at 384 dimensions.
_ROWS_AT_ONCE = 1 << 14
# Queries whose products with those stand in memory: 64 MB.
_QUERIES_AT_ONCE = 1 << 10
# Candidates whose vectors are compared exactly together: 100 MB at 384 dimensions.
_CANDIDATES_AT_ONCE = 1 << 16
# Candidates beyond the k asked for. faiss rounds differently for one query and for hundreds, so that
# near-duplicates come in another order; among the surplus the same k are found for both.
_SURPLUS = 16
_DEEPER = 8
# Of more candidates than this share of all vectors, reading all through is no slower.
_DEEPEST_SHARE = 1 / 16
# As many queries cost as much one by one from the copy as together from the vectors.
_MANY_QUERIES = 24
# What float32 may lose of a squared distance, as a share of the squared lengths it is made of.
_ROUNDING = 2e-6
# Answers to one search: k is the user's, and a slip of the pen must not take all memory.
_MOST_ANSWERS = 50_000_000


class FlatIndex:
    """Vectors (N, d), searched exactly by squared L2 distance in float32. Takes d + 8 bytes a vector.

    vectors    (N, d) float16 or float32, array-like, kept as given (it may be memory-mapped)
    documents  (N,)   int, the document of each vector, needed to leave one out of a search
    ids        (N,)   int, what `search` calls each vector; 0 .. N-1 by default
    """

    def __init__(
        self, vectors: np.ndarray, documents: np.ndarray | None = None, ids: np.ndarray | None = None
    ):
        self._vectors = vectors
        self._documents = None if documents is None else np.asarray(documents, dtype=np.int64)
        self._ids = None if ids is None else np.asarray(ids, dtype=np.int64)
        self._copy: _Copy | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._vectors)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        exclude: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """queries (n, d) -> ids (n, k) int64 and squared distances (n, k) float32, nearest first.

        exclude  (n,) int: no vector of that document is returned for the query; -1 excludes nothing.
        allowed  (N,) bool: False = not returned for any of the queries.

        All k are found whenever k allowed vectors exist; missing ones are -1 and inf, at the end.
        Equal distances are ordered by id. A query's answer does not depend on the others it is searched with,
        save the choice among more than a hundred vectors that float32 cannot tell apart. Raises InputError.
        """
        queries = checked_queries(queries, k, self._vectors.shape[1])
        exclude = checked_exclude(exclude, len(queries))
        rows, distances = nothing_found(len(queries), k)
        many = len(queries) > _MANY_QUERIES
        unproven = np.arange(len(queries))
        if k and len(self) and not many:
            rows, distances, unproven = self._in_copy(queries, k, exclude, allowed)
        if k and len(unproven):
            rows[unproven], distances[unproven] = scan(
                self._vectors, self._documents, queries[unproven], k, exclude[unproven], allowed
            )
        return (rows if self._ids is None else named(self._ids, rows)), distances

    def _in_copy(
        self, queries: np.ndarray, k: int, exclude: np.ndarray, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """rows (n, k) and distances (n, k) as the copy finds them, and the queries it proves nothing for."""
        with self._lock:
            if self._copy is None:
                self._copy = _Copy(self._vectors)
        found, distances = nothing_found(len(queries), k)
        unproven = np.arange(len(queries))
        searchable = len(self) if allowed is None else int(np.count_nonzero(allowed))
        depth = 2 * k + 2 * _SURPLUS
        while len(unproven) and searchable:
            depth = min(depth, searchable)
            rows, furthest = self._copy.search(queries[unproven], depth, allowed)
            found[unproven], distances[unproven] = nearest_of(
                self._vectors, self._documents, queries[unproven], rows, k, exclude[unproven]
            )
            if depth == searchable:
                return found, distances, unproven[:0]
            unproven = unproven[~(distances[unproven, k - 1] <= furthest)]
            depth *= _DEEPER
            if depth > _DEEPEST_SHARE * searchable:
                break
        return found, distances, unproven if searchable else unproven[:0]


class _Copy:
    """Vectors in 8 bits a number, and how far any of them is from the original at most."""

    def __init__(self, vectors: np.ndarray):
        import faiss

        lowest = np.full(vectors.shape[1], np.inf, dtype=np.float32)
        highest, self._error, self._longest = -lowest, 0.0, 0.0
        for _, block in blocks(vectors):
            np.minimum(lowest, block.min(axis=0), out=lowest)
            np.maximum(highest, block.max(axis=0), out=highest)
        self._codes = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_8bit)
        self._codes.train(np.stack([lowest, highest]))
        codes = np.empty((len(vectors), self._codes.sa_code_size()), dtype=np.uint8)
        for rows, block in blocks(vectors):
            codes[rows] = self._codes.sa_encode(block)
            self._longest = max(self._longest, float(np.einsum("nd,nd->n", block, block).max()))
            block -= self._codes.sa_decode(codes[rows])
            self._error = max(self._error, float(np.sqrt(np.einsum("nd,nd->n", block, block).max())))
        self._codes.add_sa_codes(codes)  # all at once: growing would reserve up to twice as much

    def search(
        self, queries: np.ndarray, depth: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """rows (n, depth), and (n,) a squared distance below which no other allowed vector is."""
        import faiss

        parameters = None
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
        distances, rows = self._codes.search(queries, depth, params=parameters)
        rounding = _ROUNDING * (np.einsum("nd,nd->n", queries, queries) + self._longest)
        furthest = np.maximum(np.sqrt(np.maximum(distances[:, -1] - rounding, 0)) - self._error, 0) ** 2
        return rows, furthest - rounding


def scan(
    vectors: np.ndarray,
    documents: np.ndarray | None,
    queries: np.ndarray,
    k: int,
    exclude: np.ndarray,
    allowed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """rows (n, k) and squared distances (n, k) by reading all allowed vectors: see `FlatIndex.search`."""
    found, distances = nothing_found(len(queries), k)
    searchable = len(vectors) if allowed is None else int(np.count_nonzero(allowed))
    unsettled = np.arange(len(queries)) if k and searchable else np.arange(0)
    # A query whose neighbours are crowded out, by its own document or by each other, is asked again, deeper.
    for depth in (k + _SURPLUS, _DEEPER * (k + _SURPLUS)):
        depth = min(depth, searchable)
        again = [unsettled[:0]]
        for mine in np.array_split(unsettled, -(-len(unsettled) // _QUERIES_AT_ONCE) or 1):
            if not len(mine):
                break
            rows, their_distances, longest = _read_through(vectors, queries[mine], depth, allowed)
            found[mine], distances[mine] = nearest_of(
                vectors, documents, queries[mine], rows, k, exclude[mine]
            )
            rounding = _ROUNDING * (np.einsum("nd,nd->n", queries[mine], queries[mine]) + longest)
            again.append(mine[~(distances[mine, k - 1] <= their_distances[:, -1] - rounding)])
        unsettled = np.concatenate(again) if depth < searchable else unsettled[:0]
    # What is still crowded out by a document is answered without that document.
    short = unsettled[found[unsettled, -1] == NO_CHUNK] if k else unsettled
    for document in np.unique(exclude[short]) if documents is not None else []:
        mine = short[exclude[short] == document]
        others = documents != document if allowed is None else allowed & (documents != document)
        free = np.full(len(mine), NO_DOCUMENT)
        found[mine], distances[mine] = scan(vectors, None, queries[mine], k, free, others)
    return found, distances


def _read_through(
    vectors: np.ndarray, queries: np.ndarray, depth: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """The `depth` nearest rows (n, depth) and distances (n, depth) up to rounding, -1 and inf where there are
    fewer; the largest squared length of a vector."""
    # |x|² - 2 x·q in one product orders as distances do. numpy's is several times as fast as faiss' here.
    asking = np.concatenate([-2 * queries, np.ones((len(queries), 1), dtype=np.float32)], axis=1)
    limit = np.full((len(queries), 1), np.inf, dtype=np.float32)
    who, rows = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    scores, longest = np.empty(0, dtype=np.float32), 0.0
    for numbers, block in blocks(vectors, allowed):
        lengths = np.einsum("nd,nd->n", block, block)
        longest = max(longest, float(lengths.max()))
        table = asking @ np.concatenate([block, lengths[:, None]], axis=1).T
        if len(scores) == 0 and depth < len(block):
            limit = np.partition(table, depth - 1, axis=1)[:, depth - 1 : depth]
        hits = np.flatnonzero(table <= limit)
        who = np.concatenate([who, hits // len(block)])
        rows = np.concatenate([rows, numbers[hits % len(block)]])
        scores = np.concatenate([scores, table.ravel()[hits]])
        order = np.lexsort((rows, scores, who))
        counts = np.bincount(who, minlength=len(queries))
        firsts = np.cumsum(counts) - counts
        ranks = np.arange(len(who)) - firsts[who[order]]
        order, ranks = order[ranks < depth], ranks[ranks < depth]
        who, rows, scores = who[order], rows[order], scores[order]
        last = ranks == depth - 1
        limit[who[last], 0] = scores[last]
    found, distances = nothing_found(len(queries), depth)
    found[who, ranks] = rows
    distances[who, ranks] = scores + np.einsum("nd,nd->n", queries, queries)[who]
    return found, distances, longest


def nearest_of(
    vectors: np.ndarray,
    documents: np.ndarray | None,
    queries: np.ndarray,
    rows: np.ndarray,
    k: int,
    exclude: np.ndarray,
    allowed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of each query's candidates `rows` (n, c), -1 where there is none, by exact distances.

    -> rows (n, k) and squared L2 distances (n, k), -1 and inf at the end; equal distances by row.
    """
    found, distances = nothing_found(len(queries), k)
    for mine in np.array_split(np.arange(len(queries)), -(-rows.size // _CANDIDATES_AT_ONCE) or 1):
        theirs = rows[mine]
        banned = theirs == NO_CHUNK
        places = np.where(banned, 0, theirs)
        if documents is not None:
            banned |= (documents[places] == exclude[mine, None]) & (exclude[mine, None] != NO_DOCUMENT)
        if allowed is not None:
            banned |= ~allowed[places]
        exact = exact_distances(vectors, queries[mine], places)
        exact[banned | ~np.isfinite(exact)] = np.inf
        order = np.lexsort((places, exact))[:, :k]
        exact = np.take_along_axis(exact, order, axis=1)
        places = np.take_along_axis(places, order, axis=1)
        found[mine, : order.shape[1]] = np.where(np.isinf(exact), NO_CHUNK, places)
        distances[mine, : order.shape[1]] = exact
    return found, distances


def exact_distances(vectors: np.ndarray, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Squared L2 (n, c) float32 between queries (n, d) and their candidates `rows` (n, c)."""
    result = np.empty(rows.shape, dtype=np.float32)
    width = max(1, _CANDIDATES_AT_ONCE // max(1, len(rows)))
    for start in range(0, rows.shape[1], width):
        part = slice(start, start + width)
        difference = vectors[rows[:, part]].astype(np.float32)
        difference -= queries[:, None]
        result[:, part] = np.einsum("nkd,nkd->nk", difference, difference)
    return result


def blocks(vectors: np.ndarray, allowed: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(numbers of the rows (n,), the rows as float32 (n, d)), some megabytes at a time."""
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(vectors)))
        if allowed is None:
            yield rows, as_float32(vectors[start : start + _ROWS_AT_ONCE])
        elif len(rows := rows[allowed[rows]]):
            yield rows, as_float32(vectors[rows])


def as_float32(vectors: np.ndarray) -> np.ndarray:
    """A copy in float32, zeros in place of rows that are not finite: no distance is computed from it."""
    result = np.array(vectors, dtype=np.float32)
    if not np.isfinite(result).all():
        result[~np.isfinite(result).all(axis=1)] = 0
    return result


def checked_queries(queries: np.ndarray, k: int, dim: int) -> np.ndarray:
    """The queries as (n, d) float32. Raises InputError where they, or k, cannot be used."""
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise InputError(
            f"Expected queries of shape (n, {dim}), got {queries.shape}. "
            "Embed them with the embedder that the datastore was built with."
        )
    finite = np.isfinite(queries).all(axis=1)
    if not finite.all():
        raise InputError(
            f"Expected finite numbers, got NaN or infinity in query {np.flatnonzero(~finite)[0]}. "
            "Look at the text it was embedded from, or at the embedder."
        )
    if k < 0 or k * len(queries) > _MOST_ANSWERS:
        raise InputError(
            f"Expected 0 or more neighbours and at most {_MOST_ANSWERS:,} in one search, got {k:,} for each "
            f"of {len(queries):,} queries. Ask for fewer."
        )
    return queries


def checked_exclude(exclude: np.ndarray | None, n: int) -> np.ndarray:
    """(n,) int64. Raises InputError where there is not one number a query."""
    if exclude is None:
        return np.full(n, NO_DOCUMENT, dtype=np.int64)
    exclude = np.asarray(exclude, dtype=np.int64)
    if exclude.shape != (n,):
        raise InputError(
            f"Expected one document to exclude for each of {n} queries, got shape {exclude.shape}. "
            "Give -1 where none is excluded."
        )
    return exclude


def nothing_found(n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """ids (n, k) and distances (n, k) of an answer without neighbours."""
    return np.full((n, k), NO_CHUNK, dtype=np.int64), np.full((n, k), np.inf, dtype=np.float32)


def named(ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """ids of `rows`, -1 where a row is -1."""
    return np.where(rows == NO_CHUNK, NO_CHUNK, ids[rows]) if len(ids) else np.full(rows.shape, NO_CHUNK)
