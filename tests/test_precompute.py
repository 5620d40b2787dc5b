"""Precomputed neighbours are exact, never from the chunk's own document, and readable as the reference's."""

import json

import numpy as np
import pytest
from conftest import SENTENCES

from indexing.build import build
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.errors import DatastoreError, InputError
from indexing.index import FlatIndex
from indexing.precompute import nearest_neighbours, precompute_neighbours

M = 8


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_exact_although_the_own_document_crowds_the_neighbourhood():
    chance = np.random.default_rng(5)
    documents = np.sort(chance.integers(0, 7, 701))  # about 100 chunks each, all close together
    centres = chance.normal(size=(7, 13))
    vectors = unit(centres[documents] + 0.2 * chance.normal(size=(701, 13)))
    own = np.where(np.arange(701) % 5 == 0, -1, documents)  # every fifth excludes nothing

    ids, distances = nearest_neighbours(vectors, vectors, 3, own, documents)

    full = vectors.astype(np.float32)
    table = ((full[:, None] - full[None]) ** 2).sum(-1)
    table[own[:, None] == documents[None]] = np.inf
    assert np.allclose(distances, np.sort(table, axis=1)[:, :3], atol=1e-6)
    assert np.allclose(np.take_along_axis(table, ids, axis=1), distances, atol=1e-6)
    assert (ids[::5, 0] == np.arange(701)[::5]).all(), "with nothing excluded, each is nearest to itself"


def test_near_duplicates_are_ordered_alike_alone_and_in_company():
    # faiss computes the distances of one query and of hundreds by different formulas.
    chance = np.random.default_rng(5)
    vectors = unit(chance.normal(size=(1, 384)) + 0.01 * chance.normal(size=(3001, 384)))
    index = FlatIndex(vectors)
    together, _ = index.search(vectors[:401], 5)
    alone = [index.search(vectors[row : row + 1], 5)[0] for row in range(401)]
    assert np.array_equal(together, np.concatenate(alone))


def test_fewer_than_k_are_padded_at_the_end():
    vectors = unit(np.eye(4, 13) + 0.1)
    ids, distances = nearest_neighbours(vectors, vectors, 6, np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]))
    assert (np.sort(ids[:2, :2]) == [2, 3]).all() and (np.sort(ids[2:, :2]) == [0, 1]).all()
    assert (ids[:, 2:] == -1).all() and np.isinf(distances[:, 2:]).all()
    ids, _ = nearest_neighbours(vectors, vectors, 1, np.zeros(4), np.zeros(4))
    assert (ids == -1).all()


@pytest.fixture
def shards(tokenizer, embedder, tmp_path):
    """Two shards of the index, and one that is not in it."""
    folders = []
    for number, name in enumerate(("old-edition", "new-edition", "held-out")):
        documents = [
            Document(str(i), str(i), " ".join([sentence, f"Edition {number}."] * (i + 1)), "x")
            for i, sentence in enumerate(SENTENCES)
        ]
        folders.append(tmp_path / "shards" / name)
        list(build(folders[-1], documents, tokenizer, embedder, chunk_size=M))
    return folders


def test_files_in_the_reference_format(shards, tmp_path):
    out = tmp_path / "neighbours"
    old, new, held_out = shards
    events = list(precompute_neighbours([new, held_out], [old, new], 3, out))
    assert [(event.shard, event.done == event.total) for event in events] == [
        ("new-edition", False),
        ("new-edition", True),
        ("held-out", False),
        ("held-out", True),
    ]

    # Read everything by the specs alone, as the reference does: each path relative to its spec.
    data = json.loads((out / "data.spec.json").read_text())
    spec_file = out / data["neighbours"]["index_spec"]
    index = json.loads(spec_file.read_text())
    load = lambda path: np.load(out / path)  # noqa: E731
    assert [set(shard) for shard in index] == [{"chunks", "seq2chunk", "chunk2seq", "embeddings"}] * 2
    embeddings = np.concatenate([load(shard["embeddings"]) for shard in index])
    tokens = np.concatenate([load(shard["chunks"]) for shard in index])
    counts = [len(load(shard["seq2chunk"])) for shard in index]
    documents = np.concatenate([load(shard["chunk2seq"]) + counts[0] * n for n, shard in enumerate(index)])

    for number, (shard, folder) in enumerate(zip(data["shards"], (new, held_out), strict=True)):
        assert set(shard) == {"chunks", "seq2chunk", "chunk2seq", "neighbours"}
        datastore = Datastore.open(folder)
        neighbours = load(shard["neighbours"])
        assert neighbours.dtype == np.int64 and neighbours.shape == (len(datastore.chunks), 3)
        own = load(shard["chunk2seq"]) + counts[0] if number == 0 else np.full(len(neighbours), -1)
        for row, ids in enumerate(neighbours):
            if not (set(load(shard["chunks"])[row].tolist()) - {0, 1}):
                assert (ids == -1).all(), "an end mark alone has no neighbours"
                continue
            difference = embeddings.astype(np.float32) - datastore.embeddings[row].astype(np.float32)
            distances = (difference**2).sum(1)
            distances[(documents == own[row]) | ~((tokens != 0) & (tokens != 1)).any(1)] = np.inf
            assert np.allclose(distances[ids], np.sort(distances)[:3], atol=1e-5)


def test_a_chunk_is_looked_up_with_the_first_one_of_its_document(shards, tmp_path):
    """By hand from the embeddings as they were made, and by whoever searches again by the specs."""
    old, new, held_out = shards
    out, weight = tmp_path / "neighbours", 0.5
    for _ in precompute_neighbours([new, held_out], [old, new], 3, out, weight):
        pass
    list(precompute_neighbours([new, held_out], [old, new], 3, tmp_path / "plain"))
    data = json.loads((out / "data.spec.json").read_text())
    index = json.loads((out / data["neighbours"]["index_spec"]).read_text())

    def directions(folder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        store = Datastore.open(folder)
        plain = store.embeddings[:].astype(np.float64)
        tokens = store.chunks.tokens[:]
        says = ~np.isin(tokens, [store.tokenizer.pad_id, store.tokenizer.end_id]).all(1)
        first = {}
        for row, document in enumerate(store.chunks.chunk2seq):
            first.setdefault(int(document), row)
        both = np.stack([
            plain[row] + weight * plain[first[int(document)]] * says[first[int(document)]]
            for row, document in enumerate(store.chunks.chunk2seq)
        ])  # fmt: skip
        return both / np.linalg.norm(both, axis=1, keepdims=True), store.chunks.chunk2seq, says

    found = [directions(folder) for folder in (old, new)]
    base, says = np.concatenate([found[0][0], found[1][0]]), np.concatenate([found[0][2], found[1][2]])
    documents = np.concatenate([found[0][1], found[1][1] + len(SENTENCES)])
    for spec, (vectors, *_) in zip(index, found, strict=True):
        stored = np.load(out / spec["embeddings"])
        assert stored.dtype == np.float16 and np.allclose(stored, vectors, atol=1e-3)
    changed = False
    for shard, folder in zip(data["shards"], (new, held_out), strict=True):
        vectors, own, asks = directions(folder)
        assert np.allclose(np.load(out / shard["embeddings"]), vectors, atol=1e-3)
        neighbours = np.load(out / shard["neighbours"])
        changed |= not np.array_equal(neighbours, np.load(tmp_path / "plain" / shard["neighbours"]))
        for row in np.flatnonzero(asks):
            distances = ((base - vectors[row]) ** 2).sum(1)
            distances[~says] = np.inf
            if folder == new:
                distances[documents == own[row] + len(SENTENCES)] = np.inf
            assert np.allclose(distances[neighbours[row]], np.sort(distances)[:3], atol=4e-3)
    assert changed
    for wrong in (-0.1, 10.5, float("nan")):
        with pytest.raises(
            InputError, match=r"Expected a weight of the first chunk from 0 to 10.0, got .*Use"
        ):
            next(precompute_neighbours([new], [old], 2, tmp_path / "none", wrong))


def test_what_is_no_shard_is_refused(shards, tmp_path):
    with pytest.raises(DatastoreError, match="'nowhere' is not a shard of chunks"):
        next(precompute_neighbours([tmp_path / "nowhere"], shards, 2, tmp_path / "out"))
    with pytest.raises(InputError, match="got 1, 0 and 2"):
        next(precompute_neighbours(shards[:1], [], 2, tmp_path / "out"))
    np.save(shards[0] / "segments" / "000001" / "embeddings.npy", np.zeros((3, 48), dtype=np.float16))
    with pytest.raises(DatastoreError, match="old-edition.*3 embeddings; expected as many"):
        next(precompute_neighbours(shards[:1], shards[:1], 2, tmp_path / "out"))
    assert not (tmp_path / "out" / "data.spec.json").exists()
