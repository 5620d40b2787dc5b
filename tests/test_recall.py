"""What `indexing.recall` says of an index is what counting by hand says."""

import numpy as np
import pytest

from indexing import recall
from indexing.errors import InputError
from indexing.index import IndexSettings, build_index

N, DIM = 900, 16


@pytest.fixture(scope="module")
def world():
    """Vectors in clusters, documents of three rows, and queries that are rows of them, a little moved."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, DIM))
    vectors = (centres[rng.integers(0, 40, N)] + 0.3 * rng.normal(size=(N, DIM))).astype(np.float16)
    documents = np.arange(N) // 3
    rows = rng.choice(N, 60, replace=False)
    queries = vectors[rows].astype(np.float32) + 0.05 * rng.normal(size=(60, DIM)).astype(np.float32)
    return vectors, documents, queries, documents[rows]


def drained(events):
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


def test_recall_is_what_counting_by_hand_says_and_no_query_finds_its_own_document(world):
    vectors, documents, queries, own = world
    result = drained(recall.compare(*world, factories=["IVF16,SQ8"], nprobes=(1, 4)))
    assert [(one.name, one.nprobe) for one in result.found] == [
        ("exact", 0), ("IVF16,SQ8", 1), ("IVF16,SQ8", 4), ("IVF16,SQ8", 16)
    ]  # fmt: skip
    squares = ((queries[:, None] - vectors[None].astype(np.float32)) ** 2).sum(axis=-1)
    squares[own[:, None] == documents[None]] = np.inf
    nearest = np.argsort(squares, axis=1)[:, :10]
    index = drained(
        build_index(
            vectors, documents, np.ones(N, bool), [("x", N)], None, IndexSettings(factory="IVF16,SQ8")
        )
    )
    for found in result.found[1:]:
        ids, _ = index.with_nprobe(found.nprobe).search(queries, 10, own)
        for k, said in ((2, found.recall_at_2), (10, found.recall_at_10)):
            hits = [len({*a[:k]} & {*b[:k]}) for a, b in zip(ids.tolist(), nearest.tolist(), strict=True)]
            assert said == pytest.approx(sum(hits) / (k * len(queries)), abs=0.01)
    assert result.found[1].recall_at_10 < 0.99, "one list of sixteen does not hold all"
    assert result.found[0].recall_at_10 == result.found[3].recall_at_10 == 1.0
    assert all(0 < one.ms <= one.ms_95th for one in result.found)
    assert (result.vectors, result.queries, result.timed) == (N, 60, 60)


def test_few_vectors_are_compared_exactly_alone_and_what_cannot_be_built_says_why(world):
    vectors, documents, queries, own = world
    few = drained(recall.compare(vectors[:30], documents[:30], queries, own))
    assert [one.name for one in few.found] == ["exact"] and few.skipped == {}
    refused = drained(recall.compare(vectors, documents, queries, own, factories=["IVF512,SQ8"]))
    assert "at least 39 vectors" in refused.skipped["IVF512,SQ8"] and len(refused.found) == 1
    with pytest.raises(InputError, match="got 0 and 900"):
        next(recall.compare(vectors, documents, queries[:0], own[:0]))
