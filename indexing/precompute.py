"""Neighbours of a training set, found once and stored beside its chunks."""

import numpy as np

from indexing.index import FlatIndex


def nearest_neighbours(
    queries: np.ndarray,
    base: np.ndarray,
    k: int,
    query_documents: np.ndarray | None = None,
    base_documents: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """queries (n, d) against base (N, d) -> ids (n, k) int64, squared distances (n, k) float32.

    query_documents (n,) and base_documents (N,) number documents globally: a query is never answered
    with a chunk of its own document. A query document of -1 excludes nothing. Missing neighbours are -1
    and inf, at the end.
    """
    return FlatIndex(base, base_documents).search(queries, k, exclude=query_documents)
