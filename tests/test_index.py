"""Searches agree with numpy loops: exact where promised, k found whenever they exist, nothing wrong ever."""

import numpy as np
import pytest

from indexing.errors import InputError
from indexing.exact import nearest_of
from indexing.index import FlatIndex, Index, IndexSettings, open_index
from indexing.segment import stacked

DIM = 24


def texts_like(n: int, seed: int = 5, dim: int = DIM) -> tuple[np.ndarray, np.ndarray]:
    """(n, d) float16 unit vectors in clusters, some equal, and their documents (n,) of some rows each."""
    chance = np.random.default_rng(seed)
    centres = chance.normal(size=(29, dim))
    vectors = centres[chance.integers(0, 29, n)] + 0.5 * chance.normal(size=(n, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[n // 2 : n // 2 + 3] = vectors[:1]
    return vectors.astype(np.float16), np.sort(chance.integers(0, max(1, n // 7), n))


def brute_force(vectors, documents, query, k, document=-1, allowed=None) -> list[tuple[float, int]]:
    found = []
    for row in range(len(vectors)):
        if (allowed is None or allowed[row]) and (document < 0 or documents[row] != document):
            difference = vectors[row].astype(np.float64) - query
            found.append((float(difference @ difference), row))
    return sorted(found)[:k]


def check(index, vectors, documents, queries, k, exclude=None, allowed=None, alive=None, least_recall=1.0):
    """Compare with numpy: distances true, ordered, banned rows absent, all k there, and enough recall."""
    ids, distances = index.search(queries, k, exclude, allowed)
    assert ids.shape == distances.shape == (len(queries), k)
    assert ids.dtype == np.int64 and distances.dtype == np.float32
    mask = np.ones(len(vectors), dtype=bool) if allowed is None else allowed
    mask = mask if alive is None else mask & alive
    hits = wanted = 0
    for number, query in enumerate(queries):
        document = -1 if exclude is None else exclude[number]
        expected = brute_force(vectors, documents, query, k, document, mask)
        present = ids[number] >= 0
        assert present.sum() == len(expected) and present[: len(expected)].all()
        assert np.isinf(distances[number][~present]).all() and (ids[number][~present] == -1).all()
        rows, theirs = ids[number][present], distances[number][present]
        assert len(set(rows.tolist())) == len(rows) and mask[rows].all()
        assert document < 0 or (documents[rows] != document).all()
        exact = ((vectors[rows].astype(np.float64) - query) ** 2).sum(axis=1)
        assert np.allclose(theirs, exact, atol=1e-5)
        pairs = list(zip(theirs.tolist(), rows.tolist(), strict=True))
        assert pairs == sorted(pairs), "nearest first, equal ones by id"
        if least_recall == 1.0:
            assert np.allclose(theirs, [distance for distance, _ in expected], atol=1e-5)
        far = expected[-1][0] + 1e-5 if expected else 0
        hits, wanted = hits + int((theirs <= far).sum()), wanted + len(expected)
    assert hits >= least_recall * wanted


def opened(vectors, documents, factory="", alive=None, folder=None, parts=None, **more) -> Index:
    alive = np.ones(len(vectors), dtype=bool) if alive is None else alive
    parts = parts or [("first", len(vectors))]
    return open_index(vectors, documents, alive, parts, folder, IndexSettings(factory=factory, **more))


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7, 8, 311])
@pytest.mark.parametrize("num_queries", [1, 37], ids=["from the copy", "all read through"])
def test_few_rows_are_searched_exactly(n, num_queries):
    vectors, documents = texts_like(n)
    queries = texts_like(311, seed=6)[0][:num_queries].astype(np.float32)
    index = opened(vectors, documents)
    own = np.resize([0, -1, 3], num_queries)
    odd = np.arange(n) % 2 == 1
    for k in (0, 1, 7):
        check(index, vectors, documents, queries, k)
        check(index, vectors, documents, queries, k, exclude=own)
        check(index, vectors, documents, queries, k, allowed=odd)
        check(index, vectors, documents, queries, k, own, allowed=~odd)
        check(opened(vectors, documents, alive=odd), vectors, documents, queries, k, own, alive=odd)


FACTORIES = [
    "IVF13,SQ8",
    "IVF13,Flat",
    "IVF13,PQ6x4fs",
    "IVF13,RaBitQ",
    "HNSW8",
    "HNSW8,SQ8",
    "SQ4",
    "OPQ6_12,IVF7,PQ6x4",
]


@pytest.mark.parametrize("factory", FACTORIES)
def test_candidates_of_any_index_are_compared_exactly(factory, monkeypatch):
    monkeypatch.setattr("indexing.index._FEW_ROWS", 50)
    vectors, documents = texts_like(1212)
    queries = vectors[1201:].astype(np.float32)
    vectors, documents = vectors[:1201], documents[:1201]
    alive = np.random.default_rng(7).random(1201) > 0.2
    index = opened(vectors, documents, factory, alive)
    assert index.about.factory == factory and index.about.recall_at_10 >= 0.95
    own = np.resize([0, -1, 30], 11)
    half = np.random.default_rng(8).random(1201) > 0.5
    few = np.arange(1201) % 41 == 0
    one = np.arange(1201) == np.flatnonzero(alive)[17]
    for allowed in (None, half, few, one, ~alive):
        check(index, vectors, documents, queries, 7, own, allowed, alive, least_recall=0.85)
    check(index, vectors, documents, queries, 1201, own, None, alive)


@pytest.mark.parametrize("factory", ["IVF13,SQ8", "IVF13,PQ6x4fs", "HNSW8"])
def test_rows_added_since_are_found_too(factory, tmp_path):
    vectors, documents = texts_like(1301)
    queries = vectors[[5, 1290, 700, 1200]].astype(np.float32)
    opened(vectors[:1009], documents[:1009], factory, folder=tmp_path, parts=[("a", 1009)])
    written = (tmp_path / "index.faiss").stat().st_mtime_ns
    parts = [("a", 1009), ("b", 192), ("c", 100)]
    index = opened(vectors, documents, factory, folder=tmp_path, parts=parts)
    assert index.about.rows == 1009 and (tmp_path / "index.faiss").stat().st_mtime_ns == written
    ids, distances = index.search(queries, 3)
    assert ids[1, 0] == 1290 and ids[3, 0] == 1200 and (distances[:, 0] < 1e-6).all()
    check(index, vectors, documents, queries, 5, np.array([-1, 185, 3, -1]), least_recall=0.85)
    # The snapshot from before sees only its own rows, although the file has more since.
    opened(vectors, documents, factory, folder=tmp_path / "2", parts=parts)
    before = opened(vectors[:1009], documents[:1009], factory, folder=tmp_path / "2", parts=parts[:1])
    assert before.about.rows == 1301
    check(before, vectors[:1009], documents[:1009], queries, 5, least_recall=0.85)
    assert (before.search(queries, 1009)[0] >= 0).all()


@pytest.mark.parametrize("factory", ["", "IVF13,PQ6x4fs"])
def test_vectors_in_several_files_are_as_good(factory, tmp_path):
    vectors, documents = texts_like(1301)
    files = []
    for number, rows in enumerate((slice(0, 700), slice(700, 701), slice(701, 1301))):
        np.save(tmp_path / f"{number}.npy", vectors[rows])
        files.append(np.load(tmp_path / f"{number}.npy", mmap_mode="r"))
    queries, own = vectors[::97].astype(np.float32), documents[::97]
    odd = np.arange(1301) % 2 == 1
    one, several = (opened(v, documents.astype(np.int32), factory) for v in (vectors, stacked(files)))
    for n in (1, len(queries)):
        for mask in (None, odd):
            answers = [index.search(queries[:n], 5, own[:n], mask) for index in (one, several)]
            assert all(np.array_equal(a, b) for a, b in zip(*answers, strict=True))


def test_all_vectors_alike():
    vectors = np.repeat(texts_like(1)[0], 701, axis=0)
    documents = np.arange(701) // 100
    for index in (opened(vectors, documents), opened(vectors, documents, "IVF13,SQ8")):
        ids, distances = index.search(vectors[:2].astype(np.float32), 5, np.array([0, -1]))
        assert (distances < 1e-6).all() and (documents[ids[0]] != 0).all()
    exact = opened(vectors, documents)
    assert exact.search(vectors[:1].astype(np.float32), 5)[0].tolist() == [[0, 1, 2, 3, 4]]
    assert exact.search(np.zeros((1, DIM)), 3)[0].tolist() == [[0, 1, 2]]


def test_a_document_that_crowds_everything_out(monkeypatch):
    monkeypatch.setattr("indexing.built._SAMPLED_QUERIES", 11)
    chance = np.random.default_rng(3)
    near = 0.01 * chance.normal(size=(2003, DIM)) + 1
    far = chance.normal(size=(7, DIM))
    vectors = np.concatenate([near, far]).astype(np.float16)
    documents = np.r_[np.zeros(2003, dtype=int), np.arange(1, 8)]
    for factory in ("", "IVF13,SQ8", "IVF13,PQ6x4fs", "HNSW8"):
        index = opened(vectors, documents, factory)
        for n in (1, 29):
            queries = np.ones((n, DIM), dtype=np.float32)
            check(index, vectors, documents, queries, 7, np.zeros(n, dtype=int))
            assert (index.search(queries, 9, np.zeros(n, dtype=int))[0][:, 7:] == -1).all()


def test_what_the_copy_cannot_prove_is_read_through(monkeypatch):
    """An outlier makes the copy's steps so coarse that it says nothing; the answer stays exact."""
    vectors, documents = texts_like(503)
    vectors = vectors.astype(np.float32)
    vectors[200] = 3e4
    queries = texts_like(311, seed=6)[0][:5].astype(np.float32)
    calls = []
    scan = __import__("indexing.exact", fromlist=["scan"]).scan
    monkeypatch.setattr("indexing.exact.scan", lambda *a: calls.append(1) or scan(*a))
    check(FlatIndex(vectors, documents), vectors, documents, queries, 7)
    assert calls


def test_a_missing_candidate_is_not_the_last_row():
    """faiss says -1 where it found nothing, and numpy reads -1 as the last."""
    vectors, documents = texts_like(311)
    query = vectors[-1:].astype(np.float32)
    rows = np.array([[-1, 3, -1, 5, -1]])
    ids, distances = nearest_of(vectors, documents, query, rows, 4, np.array([-1]))
    assert sorted(ids[0, :2]) == [3, 5] and ids[0, 2:].tolist() == [-1, -1]
    assert np.isfinite(distances[0, :2]).all() and np.isinf(distances[0, 2:]).all()
    assert (nearest_of(vectors, documents, query, rows * 0 - 1, 4, np.array([-1]))[0] == -1).all()
    # A list of an IVF that is shorter than the candidates asked for.
    lonely = opened(vectors, documents, "IVF7,Flat", nprobe=1, candidates=300, recall=0.0)
    others = documents != documents[-1]
    check(lonely, vectors, documents, query, 9, documents[-1:], others, least_recall=0.3)


@pytest.mark.parametrize("factory", ["", "IVF5,SQ8"])
def test_queries_that_cannot_be_answered_are_refused(factory):
    vectors, documents = texts_like(311)
    index = opened(vectors, documents, factory)
    good = vectors[:2].astype(np.float32)
    for bad, k, sentence in [
        (np.full((2, DIM), np.nan), 3, "finite numbers, got NaN or infinity in query 0"),
        (np.r_[good[:1], np.full((1, DIM), np.inf)], 3, "in query 1"),
        (good[:, :5], 3, r"shape \(n, 24\), got \(2, 5\)"),
        (good[0], 3, r"shape \(n, 24\), got \(24,\)"),
        (good, -1, "0 or more neighbours"),
        (good, 10**9, "at most 50,000,000 in one search, got 1,000,000,000"),
    ]:
        with pytest.raises(InputError, match=sentence):
            index.search(bad, k)
    with pytest.raises(InputError, match="one document to exclude for each of 2"):
        index.search(good, 3, exclude=np.zeros(3))
    with pytest.raises(InputError, match="mask of 311 chunks, got int64"):
        index.search(good, 3, allowed=np.zeros(311, dtype=int))
    assert index.search(good[:0], 3)[0].shape == (0, 3)
    ids, distances = index.search(good * 0, 3)
    assert (ids >= 0).all() and np.allclose(distances, 1, atol=1e-2)


def test_rows_of_broken_numbers_are_nobodys_neighbours():
    vectors, documents = texts_like(311)
    vectors[3], vectors[200] = np.nan, np.inf
    for n in (1, 37):
        ids, distances = opened(vectors, documents).search(np.resize(vectors[:1], (n, DIM)), 311)
        assert not np.isin([3, 200], ids).any() and (ids[:, :309] >= 0).all()
        assert np.isfinite(distances[:, :309]).all()
