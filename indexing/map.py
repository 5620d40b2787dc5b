"""A datastore's chunks as points of a plane, for people to look at, and how far that can be trusted.

Hundreds of dimensions do not fit into two: whoever looks at the plane is told which share of the true
neighbours are neighbours there too (`kept_neighbours`), and lines to a query's neighbours are drawn to those
that are nearest in all dimensions (`ask`), wherever the plane has put them.

PCA is always there and the same every time; UMAP, where umap-learn is installed, keeps more neighbours.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from indexing.chunks import tokenize
from indexing.datastore import Datastore
from indexing.errors import InputError
from indexing.neighbours import NO_CHUNK

METHODS = {"pca": "PCA", "umap": "UMAP"}
MOST_POINTS = 2000  # their distances from each other are a matrix
MOST_ASKING = 8  # chunks of a text that asks
NEIGHBOURS = 10

_Place = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Map:
    """rows: (n,) int64 chunks that were drawn, of `num_chunks` · points: (n, 2) float32 · kept: see
    `kept_neighbours` · spread: share of the vectors' variance that PCA's two directions have, None for UMAP ·
    place: vectors (q, d) -> points (q, 2) on the same map"""

    method: str
    rows: np.ndarray
    points: np.ndarray
    num_chunks: int
    kept: float
    spread: float | None
    place: _Place


@dataclass(frozen=True)
class Asked:
    """What each chunk of a text finds: texts of the q chunks, their points (q, 2), ids (q, k) of the nearest
    chunks (-1 where missing), distances (q, k) squared L2, found (q, k, 2) points of the nearest"""

    texts: list[str]
    points: np.ndarray
    ids: np.ndarray
    distances: np.ndarray
    found: np.ndarray


def methods() -> list[str]:
    """Those that can be had here."""
    return [name for name in METHODS if name == "pca" or importlib.util.find_spec("umap")]


def draw(datastore: Datastore, method: str = "pca", most: int = MOST_POINTS) -> Map:
    """Draw `most` chunks, or all if they are fewer. Raises InputError for a method that is not to be had."""
    if method not in methods():
        raise InputError(
            f"Expected one of {', '.join(methods())} to draw the map by, got {method!r}."
            + (" UMAP needs a package: pip install umap-learn." if method == "umap" else "")
        )
    rows = sampled(datastore.alive, most)
    vectors = _vectors(datastore, rows)
    if method == "umap" and len(rows) > 3:  # it cannot lay out fewer
        points, place, spread = _umap(vectors)
    else:
        method = "pca"
        place, spread = pca(vectors)
        points = place(vectors)
    return Map(
        method, rows, points, int(datastore.alive.sum()), kept_neighbours(vectors, points), spread, place
    )


def ask(datastore: Datastore, drawn: Map, text: str, k: int) -> Asked:
    """Cut a text into chunks as a model would, and look up each; of a long text the first `MOST_ASKING`.

    Raises InputError for an empty text.
    """
    if not text.strip():
        raise InputError("Expected a text to look up, got an empty one. Type a few words.")
    m = datastore.chunks.chunk_size
    # 8 characters a token is more than any text has.
    ids, starts = tokenize(datastore.tokenizer, text[: (MOST_ASKING + 1) * m * 8])
    cuts = [*starts[::m].tolist(), len(text)][: MOST_ASKING + 1]
    texts = [text[begin:end] for begin, end in zip(cuts[:-1], cuts[1:], strict=True)]
    texts = [piece for piece in texts if piece.strip()]
    queries = datastore.embedder.embed(texts)
    found, distances = datastore.nearest_vectors(queries, k)
    points = np.zeros((*found.shape, 2), dtype=np.float32)
    there = found != NO_CHUNK
    if there.any():
        points[there] = drawn.place(_vectors(datastore, found[there]))
    return Asked(texts, drawn.place(queries), found, distances, points)


def points_of(datastore: Datastore, drawn: Map, rows: Sequence[int]) -> np.ndarray:
    """(n, 2) float32: where chunks stand on the map, those that were not drawn among them."""
    points = drawn.place(_vectors(datastore, np.asarray(rows)))
    for number, row in enumerate(rows):
        (found,) = np.nonzero(drawn.rows == row)
        if len(found):  # some ways to draw would place it elsewhere now
            points[number] = drawn.points[found[0]]
    return points


def sampled(alive: np.ndarray, most: int) -> np.ndarray:
    """(n,) int64: at most `most` of the rows that are True, in order; the same ones every time."""
    rows = np.flatnonzero(alive)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    return rows.astype(np.int64)


def pca(vectors: np.ndarray) -> tuple[_Place, float]:
    """vectors (n, d) -> (what places vectors on the plane of the two directions in which these differ most,
    the share of their variance that the two have). The same vectors give the same plane: each direction's
    largest component is positive."""
    vectors = np.asarray(vectors, dtype=np.float64)
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    sizes, directions = np.linalg.eigh(centred.T @ centred)  # smallest first
    axes = np.zeros((vectors.shape[1], 2))
    own = directions[:, ::-1][:, :2]
    axes[:, : own.shape[1]] = own * np.sign(own[np.abs(own).argmax(axis=0), range(own.shape[1])])
    total = float(sizes.clip(0).sum())
    spread = float(sizes[-2:].clip(0).sum()) / total if total > 0 else 1.0

    def place(others: np.ndarray) -> np.ndarray:
        return ((np.asarray(others, dtype=np.float64) - mean) @ axes).astype(np.float32)

    return place, spread


def kept_neighbours(vectors: np.ndarray, points: np.ndarray, k: int = NEIGHBOURS) -> float:
    """Of the true k nearest of each row among the others, the share that are also among its k nearest on the
    map, on average; 1.0 where there are no more than k others. Equal distances by row."""
    k = min(k, len(vectors) - 1)
    if k < 1:
        return 1.0
    true, drawn = _nearest(vectors, k), _nearest(points, k)
    both = [len(np.intersect1d(a, b, assume_unique=True)) for a, b in zip(true, drawn, strict=True)]
    return float(np.mean(both) / k)


def _nearest(vectors: np.ndarray, k: int) -> np.ndarray:
    """(n, d) -> (n, k) the nearest other rows of each."""
    vectors = np.asarray(vectors, dtype=np.float64)
    squares = np.einsum("nd,nd->n", vectors, vectors)
    distances = squares[:, None] + squares[None, :] - 2 * vectors @ vectors.T
    np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


def _umap(vectors: np.ndarray) -> tuple[np.ndarray, _Place, None]:
    import umap

    reducer = umap.UMAP(n_components=2, n_neighbors=min(15, len(vectors) - 1), random_state=0)
    points = np.asarray(reducer.fit_transform(vectors), dtype=np.float32)
    return points, lambda others: np.asarray(reducer.transform(others), dtype=np.float32), None


def _vectors(datastore: Datastore, rows: np.ndarray) -> np.ndarray:
    return np.asarray(datastore.embeddings[rows], dtype=np.float32)
