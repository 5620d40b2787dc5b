"""Index files and neighbours are the reference's where its settings are asked for, and complete where not."""

import json
from pathlib import Path

import faiss
import numpy as np
import pytest

from indexing.errors import DatastoreError, InputError
from indexing.pipeline import index_files, neighbour_files, unfinished
from indexing.pipeline.index_files import (
    ShardAdded,
    build_index,
    default_index_type,
    default_nprobe,
    read_index,
    train_index,
)
from indexing.pipeline.neighbour_files import retrieve_neighbours
from indexing.pipeline.specs import write_index_spec

TWO = Path(__file__).parent / "data" / "pipeline" / "two"
SPEC = TWO / "index.spec.json"
QUERIES = [TWO / "a.embeddings.npy", TWO / "b.embeddings.npy"]
OWNERS = [TWO / "a.chunk2seq.npy", TWO / "b.chunk2seq.npy"]
VECTORS = np.concatenate([np.load(file) for file in QUERIES]).astype(np.float32)
DOCUMENTS = np.concatenate([np.load(OWNERS[0]), np.load(OWNERS[1]) + 7])
TYPES = ["Flat", "IVF7,Flat", "IVF7,PQ3x4"]


def make(folder: Path, index_type: str, spec: Path = SPEC, **settings) -> tuple[Path, list]:
    trained, index = folder / "trained.index", folder / "data.index"
    list(train_index(spec, index_type, trained))
    return index, list(build_index(spec, trained, index, **settings))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A function from an index type to the file of an index over both shards, made once."""
    made: dict[str, Path] = {}

    def index_of(index_type: str) -> Path:
        if index_type not in made:
            made[index_type] = make(tmp_path_factory.mktemp("index"), index_type)[0]
        return made[index_type]

    return index_of


def neighbours(folder: Path, index: Path, k: int, queries=QUERIES, owners=OWNERS, spec=SPEC, **settings):
    outputs = [folder / f"{i}.npy" for i in range(len(queries))]
    list(retrieve_neighbours(queries, owners, outputs, index, spec, k, **settings))
    return np.concatenate([np.load(file) for file in outputs])


def table() -> np.ndarray:
    """Squared distances of all pairs, without those of one document."""
    distances = ((VECTORS[:, None] - VECTORS[None]) ** 2).sum(-1)
    distances[DOCUMENTS[:, None] == DOCUMENTS[None]] = np.inf
    return distances


@pytest.mark.parametrize("index_type, at_once", [(t, 16384) for t in TYPES] + [("IVF7,Flat", 31)])
def test_index_files_are_what_faiss_makes_at_one_go(tmp_path, monkeypatch, index_type, at_once):
    monkeypatch.setattr(index_files, "_ROWS_AT_ONCE", at_once)
    path, events = make(tmp_path, index_type, num_queries=80, nprobe=1)
    whole = faiss.index_factory(48, index_type, faiss.METRIC_L2)
    whole.train(VECTORS)
    assert (tmp_path / "trained.index").read_bytes() == faiss.serialize_index(whole).tobytes()
    whole.add(VECTORS)
    assert path.read_bytes() == faiss.serialize_index(whole).tobytes()
    added = [event for event in events if isinstance(event, ShardAdded)]
    recall = 0.95 if "PQ" in index_type else 1.0  # as the reference prints it
    expected = [(1, 130, recall), (2, 215, recall)]
    assert [(event.number, event.vectors, event.recall_at_1) for event in added] == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.index", "trained.index"]


@pytest.mark.parametrize("index_type", TYPES)
def test_the_references_neighbours_with_its_settings(tmp_path, built, index_type):
    found = neighbours(tmp_path, built(index_type), 4, margin=4, nprobe=1)
    golden = np.load(TWO / f"{index_type.replace(',', '_')}.neighbours.npy")
    assert found.dtype == np.int64 and np.array_equal(found, golden)
    assert (golden == -1).any(), "its filter leaves rows short"


def test_a_large_margin_keeps_the_order(tmp_path, built):
    """The reference sorts unstably there, which scrambles neighbours beyond 16."""
    found = neighbours(tmp_path, built("Flat"), 5, margin=30)
    order = np.argsort(((VECTORS[:, None] - VECTORS[None]) ** 2).sum(-1), axis=1, kind="stable")[:, :35]
    for row, near in enumerate(order):
        expected = [i for i in near if DOCUMENTS[i] != DOCUMENTS[row]][:5]
        distances = ((VECTORS[found[row]] - VECTORS[row]) ** 2).sum(-1)
        assert np.allclose(distances, ((VECTORS[expected] - VECTORS[row]) ** 2).sum(-1), atol=1e-5)


@pytest.mark.parametrize("surplus, deepest", [(16, 1024), (0, 1024), (0, 0)])
def test_all_neighbours_whenever_there_are_as_many(tmp_path, monkeypatch, built, surplus, deepest):
    """However a row is answered: at first, asked again deeper, or with its document left out."""
    monkeypatch.setattr(neighbour_files, "_SURPLUS", surplus)
    monkeypatch.setattr(neighbour_files, "_DEEPEST", deepest)
    distances, index = table(), built("Flat")
    found = neighbours(tmp_path, index, 9)
    assert np.allclose(
        np.take_along_axis(distances, found, axis=1), np.sort(distances, axis=1)[:, :9], atol=1e-5
    )
    k = 215 - 17  # more than most documents leave
    found = neighbours(tmp_path, index, k)
    assert ((found != -1).sum(axis=1) == np.minimum(k, np.isfinite(distances).sum(axis=1))).all()
    for ids in found:
        assert len(set(ids[ids != -1])) == (ids != -1).sum() and (np.diff((ids == -1).astype(int)) >= 0).all()


@pytest.mark.parametrize(
    "index_type",
    [
        "IVF7,Flat",
        "IVF7,PQ3x4",
        "IVF7,PQ24x4fs",
        "IVF7,RaBitQ",
        "HNSW8",
        "SQ8",
        "PQ3x4fs",
        "PCA16,IVF7,Flat",
        "LSH",
        "IVF7,SQ8,RFlat",
        "SQ8,RFlat",
    ],
)
def test_all_neighbours_from_every_kind_of_index(tmp_path, built, index_type):
    found = neighbours(tmp_path, built(index_type), 40, nprobe=1)
    assert (found != -1).all(), "lists that hold too few are not the last word"
    assert (DOCUMENTS[found] != DOCUMENTS[:, None]).all()


def test_one_document_alone_has_no_neighbours(tmp_path):
    spec = tmp_path / "one.json"
    np.save(tmp_path / "one.npy", np.zeros(130, np.int32))
    write_index_spec(spec, [{"embeddings": QUERIES[0], **dict.fromkeys(("chunks", "seq2chunk"), TWO / "x"),
                             "chunk2seq": tmp_path / "one.npy"}])  # fmt: skip
    index, _ = make(tmp_path, "Flat", spec)
    assert (neighbours(tmp_path, index, 3, QUERIES[:1], [tmp_path / "one.npy"], spec) == -1).all()
    # Asked from outside, all of them are neighbours.
    assert (neighbours(tmp_path, index, 3, QUERIES[1:], OWNERS[1:], spec) >= 0).all()


def test_nprobe_is_chosen_and_not_kept(tmp_path):
    assert [default_nprobe(lists) for lists in (1, 7, 16, 1024, 131_072)] == [1, 5, 8, 64, 724]
    index, _ = make(tmp_path, "IVF7,Flat", nprobe=7)
    assert read_index(index).nprobe == 1
    exact = np.sort(table(), axis=1)[:, :4]

    def share_found(nprobe) -> float:
        found = neighbours(tmp_path, index, 4, nprobe=nprobe)
        return np.isclose(np.take_along_axis(table(), found, axis=1), exact, atol=1e-5).mean()

    assert share_found(1) < 0.9 < share_found(None) <= share_found(7) == 1.0


def test_an_index_type_that_suits_and_training_on_some(tmp_path):
    assert [default_index_type(n) for n in (1, 19_999, 20_000, 200_000, 1 << 20)] == [
        "Flat", "Flat", "IVF512,Flat", "IVF1024,Flat", "IVF4096,PQ32",
    ]  # fmt: skip
    events = list(train_index(SPEC, None, tmp_path / "default.index"))
    assert events[0].note == "index type for 215 vectors: Flat"
    list(train_index(SPEC, "IVF1,Flat", tmp_path / "some.index", max_training_vectors=10))
    trained = read_index(tmp_path / "some.index")
    centroid = trained.quantizer.reconstruct(0)
    chosen = VECTORS[np.arange(10) * 215 // 10]
    assert np.allclose(centroid, chosen.mean(0), atol=1e-6), "spread evenly over both shards"


def test_killed_retrieval_goes_on_and_other_settings_begin_anew(tmp_path, monkeypatch, built):
    monkeypatch.setattr(neighbour_files, "QUERIES_AT_ONCE", 20)
    monkeypatch.setattr(unfinished, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    index = built("IVF7,Flat")
    whole = neighbours(tmp_path, index, 4)
    out = tmp_path / "again.npy"

    def retrieval(k: int):
        return retrieve_neighbours(QUERIES[:1], OWNERS[:1], [out], index, SPEC, k)

    events = retrieval(4)
    while next(events).done < 60:
        pass
    events.close()
    assert not out.exists()
    notes = [event.note for event in retrieval(4)]
    assert "going on after row 60" in notes and np.array_equal(np.load(out), whole[:130])

    events = retrieval(4)
    while next(events).done < 60:
        pass
    events.close()
    assert not any("going on" in event.note for event in retrieval(3))
    assert np.array_equal(np.load(out), whole[:130, :3])


def test_killed_building_goes_on_after_the_last_shard_saved(tmp_path, monkeypatch, built):
    monkeypatch.setattr(index_files, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    whole, out = built("IVF7,PQ3x4"), tmp_path / "again.index"
    trained = whole.parent / "trained.index"
    events = build_index(SPEC, trained, out)
    while not (isinstance(event := next(events), ShardAdded) and event.number == 1):
        pass
    next(events)
    events.close()
    again = list(build_index(SPEC, trained, out))
    assert [event.number for event in again if isinstance(event, ShardAdded)] == [2]
    assert out.read_bytes() == whole.read_bytes()


def test_what_cannot_be_is_told(tmp_path):
    trained = tmp_path / "trained.index"
    with pytest.raises(
        DatastoreError, match="IVF131072,Flat has 131,072 lists .* got 215. Use Flat, or IVF5"
    ):
        list(train_index(SPEC, "IVF131072,Flat", trained))
    with pytest.raises(InputError, match="'IVFx' is not an index type for vectors of width 48"):
        list(train_index(SPEC, "IVFx", trained))
    with pytest.raises(DatastoreError, match="'IVF2,PQ16' cannot be trained on 215 vectors"):
        list(train_index(SPEC, "IVF2,PQ16", trained))
    assert not list(tmp_path.iterdir())
    with pytest.raises(DatastoreError, match="There is no index .*absent"):
        list(build_index(SPEC, tmp_path / "absent", tmp_path / "x.index"))
    index, _ = make(tmp_path, "Flat")
    with pytest.raises(DatastoreError, match="without vectors, but .* holds 215"):
        list(build_index(SPEC, index, tmp_path / "x.index"))

    spec = tmp_path / "a.json"
    shard = {key: str(TWO / f"a.{key}.npy") for key in ("chunks", "seq2chunk", "chunk2seq", "embeddings")}
    spec.write_text(json.dumps([shard]))
    with pytest.raises(DatastoreError, match="holds 215 vectors, but .*a.json lists 130 embeddings"):
        neighbours(tmp_path, index, 4, spec=spec)
    with pytest.raises(InputError, match="got 2, 1 and 2. Name one of each"):
        neighbours(tmp_path, index, 4, owners=OWNERS[:1])
    with pytest.raises(InputError, match="has 130 rows, but .*b.chunk2seq.npy tells the document of 85"):
        neighbours(tmp_path, index, 4, owners=OWNERS[::-1])
    narrow = tmp_path / "narrow.npy"
    np.save(narrow, np.zeros((130, 7), np.float16))
    with pytest.raises(InputError, match="vectors of width 7, but the index spec's have 48"):
        neighbours(tmp_path, index, 4, [narrow], OWNERS[:1])
    del shard["embeddings"]
    spec.write_text(json.dumps([shard]))
    with pytest.raises(InputError, match="shard 0 has no path 'embeddings'"):
        list(train_index(spec, "Flat", trained))
    spec.write_text(json.dumps([{**shard, "embeddings": str(narrow), "chunks": str(QUERIES[1])}]))
    with pytest.raises(InputError, match="narrow.npy has 130 rows, but .*b.embeddings.npy has 85 chunks"):
        list(train_index(spec, "Flat", trained))
    trained.write_bytes(index.read_bytes()[:1000])
    with pytest.raises(DatastoreError, match="Cannot read the index"):
        neighbours(tmp_path, trained, 4)
