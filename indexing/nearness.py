"""How near is near, in one datastore? Distances mean little by themselves: between data sheets they are small
however different the facts, between stories they are large. So a distance is compared with those of the
datastore's own chunks to the nearest chunk of another document, which is what a model that is trained on it
reads."""

import numpy as np

from indexing.datastore import Datastore

SAMPLE = 400  # chunks whose nearest is looked for; a share is then known to about 2 percentage points


def nearest_distances(datastore: Datastore, sample: int = SAMPLE, seed: int = 0) -> np.ndarray:
    """(s,) float32 ascending: squared L2 from each of some chunks to the nearest chunk of another document;
    empty where there is no other document. The chunks are drawn, the same ones every time."""
    rows = np.flatnonzero(datastore.alive)
    if len(rows) > sample:
        rows = np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
    if not len(rows):
        return np.empty(0, dtype=np.float32)
    vectors = np.asarray(datastore.embeddings[rows], dtype=np.float32)
    ids, distances = datastore.nearest_vectors(vectors, 1, datastore.chunks.chunk2seq[rows])
    return np.sort(distances[ids >= 0])


def share_nearer(distance: float, distances: np.ndarray) -> float | None:
    """Which part of `distances`, see `nearest_distances`, is smaller; None where there is none."""
    return float(np.searchsorted(distances, distance) / len(distances)) if len(distances) else None
