"""The map of a datastore: where PCA puts chunks, how many true neighbours stay neighbours, and what a query
finds; against plain loops and a library."""

import sys
import types

import numpy as np
import pytest
import shelves

from indexing import map as maps
from indexing.errors import InputError


def neighbours(vectors, row, k):
    """The k nearest other rows, one distance at a time."""
    others = [other for other in range(len(vectors)) if other != row]
    return set(sorted(others, key=lambda other: (sum((vectors[row] - vectors[other]) ** 2), other))[:k])


def test_the_share_of_kept_neighbours_is_that_of_plain_loops():
    rng = np.random.default_rng(1)
    vectors, points = rng.normal(size=(40, 7)), rng.normal(size=(40, 2))
    points[:25] = vectors[:25, :2] * 3  # some are kept
    shares = [len(neighbours(vectors, row, 5) & neighbours(points, row, 5)) / 5 for row in range(40)]
    assert 0.1 < np.mean(shares) < 0.9
    assert maps.kept_neighbours(vectors, points, 5) == pytest.approx(np.mean(shares))
    assert maps.kept_neighbours(points, points * 2 + 1, 5) == 1.0
    assert maps.kept_neighbours(vectors[:1], points[:1]) == maps.kept_neighbours(vectors[:0], points[:0]) == 1


def test_pca_keeps_what_varies_most_and_is_the_same_every_time():
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(200, 6)) * [1, 9, 1, 4, 1, 1] + 5
    place, spread = maps.pca(vectors)
    values = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False) ** 2
    assert spread == pytest.approx(values[:2].sum() / values.sum())
    points = place(vectors)
    assert abs(np.corrcoef(points[:, 0], vectors[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(points[:, 1], vectors[:, 3])[0, 1]) > 0.99
    assert np.array_equal(points, maps.pca(vectors)[0](vectors))
    assert np.array_equal(maps.pca(vectors[::-1])[0](vectors).round(4), points.round(4))
    assert np.isfinite(maps.pca(np.ones((3, 4)))[0](np.zeros((1, 4)))).all()


def test_a_sample_is_of_living_rows_and_the_same_every_time():
    alive = np.arange(5000) % 3 > 0
    rows = maps.sampled(alive, 100)
    assert len(rows) == 100 and alive[rows].all() and (np.diff(rows) > 0).all()
    assert np.array_equal(rows, maps.sampled(alive, 100))
    assert np.array_equal(maps.sampled(alive[:90], 100), np.flatnonzero(alive[:90]))


def test_a_text_asks_chunk_by_chunk_and_lines_lead_to_the_true_neighbours(tokenizer, embedder):
    datastore = shelves.make(tokenizer, embedder)
    drawn = maps.draw(datastore)
    assert len(drawn.rows) == drawn.num_chunks == len(datastore.chunks)
    text = shelves.TEXTS[0] + " Mount Etna."
    asked = maps.ask(datastore, drawn, text, 3)
    assert "".join(asked.texts).startswith(text[:60]) and 1 < len(asked.texts) <= maps.MOST_ASKING
    vectors = np.asarray(datastore.embeddings, dtype=np.float64)
    for piece, ids, distances in zip(asked.texts, asked.ids, asked.distances, strict=True):
        query = embedder.embed([piece])[0].astype(np.float64)
        true = sorted(sum((query - vector) ** 2) for vector in vectors)[:3]
        assert distances == pytest.approx(true, abs=1e-5) and len(set(ids.tolist())) == 3
    where = {row: point for row, point in zip(drawn.rows.tolist(), drawn.points, strict=True)}
    assert asked.found[0, 0] == pytest.approx(where[int(asked.ids[0, 0])], abs=1e-5)
    assert len(maps.ask(datastore, drawn, "few words", 100).texts) == 1
    with pytest.raises(InputError, match="empty"):
        maps.ask(datastore, drawn, " \n", 3)


def test_umap_is_used_where_it_is_installed_and_refused_where_not(tokenizer, embedder, monkeypatch):
    datastore = shelves.make(tokenizer, embedder)
    monkeypatch.setattr(maps.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install umap-learn"):
        maps.draw(datastore, "umap")

    class Fake:
        def __init__(self, n_components, n_neighbors, random_state):
            assert (n_components, random_state) == (2, 0) and n_neighbors < len(datastore.chunks)

        def fit_transform(self, vectors):
            return self.transform(vectors)

        def transform(self, vectors):
            return vectors[:, 3:5]

    module = types.ModuleType("umap")
    module.UMAP = Fake
    monkeypatch.setitem(sys.modules, "umap", module)
    monkeypatch.setattr(maps.importlib.util, "find_spec", lambda name: True)
    drawn = maps.draw(datastore, "umap")
    assert drawn.method == "umap" and drawn.spread is None and 0 <= drawn.kept <= 1
    assert np.allclose(drawn.points, np.asarray(datastore.embeddings, np.float32)[drawn.rows, 3:5])
