"""The built index is a cache: damaged, foreign or unwritable it changes no answer, and it is made anew."""

import contextlib
import dataclasses
import os

import numpy as np
import pytest
from test_index import texts_like

from indexing import built
from indexing.errors import ConfigError
from indexing.index import (
    IndexSettings,
    build_index,
    open_index,
    remember_settings,
    remembered_settings,
)

N, K = 403, 5
SETTINGS = IndexSettings(factory="IVF7,SQ8")


@pytest.fixture
def rows():
    vectors, documents = texts_like(N)
    return vectors, documents, np.ones(N, dtype=bool), [("first", 300), ("second", 103)]


@pytest.fixture
def folder(rows, tmp_path):
    open_index(*rows, tmp_path / "index", SETTINGS)
    return tmp_path / "index"


def content(folder):
    return (folder / "index.faiss").read_bytes()


def put(path, data: bytes) -> None:
    """As a careless copy would: another file under the same name."""
    path.with_suffix(".new").write_bytes(data)
    os.replace(path.with_suffix(".new"), path)


def mutated(data: bytes, chance: np.random.Generator) -> bytes:
    kind, place = chance.integers(6), int(chance.integers(len(data)))
    changed = bytearray(data)
    if kind == 0:
        return data[:place]
    if kind == 1:
        changed[place] ^= 1 << int(chance.integers(8))
    elif kind == 2:
        changed[place : place + 512] = bytes(len(changed[place : place + 512]))
    elif kind == 3:
        return data + chance.bytes(1 + place % 99)
    elif kind == 4:  # where faiss keeps sizes and types, and where we keep ours
        place = int(chance.integers(64))
        changed[place if place < 32 else place - 64] ^= 1 + int(chance.integers(255))
    else:
        other = int(chance.integers(len(data)))
        changed[place : place + 64] = data[other : other + 64]
        changed = changed[: len(data)]
    return bytes(changed)


@pytest.mark.parametrize("times", [220, pytest.param(4000, marks=pytest.mark.slow)])
def test_every_damage_is_noticed(rows, folder, times, monkeypatch):
    vectors, _, _, parts = rows
    data, chance = content(folder), np.random.default_rng(11)
    queries = vectors[::67].astype(np.float32)
    want = open_index(*rows, folder, SETTINGS).search(queries, K)
    unnoticed = 0
    for _ in range(times):
        damaged = mutated(data, chance)
        put(folder / "index.faiss", damaged)
        loaded = built.load(folder, parts, vectors.shape[1])
        assert loaded is None or damaged == data
        unnoticed += damaged == data
    assert unnoticed < times / 4
    # And it is made anew, without a word.
    put(folder / "index.faiss", data[: len(data) // 2])
    index = open_index(*rows, folder, SETTINGS)
    assert all(np.array_equal(a, b) for a, b in zip(index.search(queries, K), want, strict=True))
    assert built.load(folder, parts, vectors.shape[1]) is not None


def test_faiss_itself_notices_little(folder):
    """The control: single bits flipped in the middle of the file, read without our checksum."""
    import faiss

    data, chance, through = bytearray(content(folder)), np.random.default_rng(11), 0
    for place in chance.integers(len(data) // 3, len(data) // 2, 50):
        damaged = np.frombuffer(data, dtype=np.uint8).copy()
        damaged[place] ^= 1
        with contextlib.suppress(RuntimeError, MemoryError):
            through += faiss.deserialize_index(damaged).ntotal == N
    assert through > 25


def test_an_index_of_other_vectors_is_not_used(rows, folder):
    vectors, documents, alive, parts = rows
    dim = vectors.shape[1]
    assert built.load(folder, parts, dim) and built.load(folder, parts + [("third", 5)], dim)
    assert built.load(folder, parts[:1], dim)
    for other in ([("other", 300), *parts[1:]], [("first", 299), ("second", 104)], [*parts[::-1]]):
        assert built.load(folder, other, dim) is None
    assert built.load(folder, parts, dim + 1) is None
    before = content(folder)
    changed = np.ascontiguousarray(vectors[::-1])
    index = open_index(changed, documents, alive, [("new", N)], folder, SETTINGS)
    ids, distances = index.search(changed[17:18].astype(np.float32), 1)
    assert ids[0, 0] == 17 and distances[0, 0] < 1e-6 and content(folder) != before


def test_settings_are_remembered_until_they_are_damaged(rows, tmp_path):
    folder = tmp_path / "index"
    list(build_index(*rows, folder, dataclasses.replace(SETTINGS, nprobe=3)))
    assert remembered_settings(folder).nprobe == 3
    assert open_index(*rows, folder).about.factory == "IVF7,SQ8"
    (folder / "index.faiss").unlink()
    assert open_index(*rows, folder).about.factory == "IVF7,SQ8", "made again as it was asked for"
    data = (folder / "settings.json").read_bytes()
    chance = np.random.default_rng(13)
    for _ in range(50):
        damaged = mutated(data, chance)
        put(folder / "settings.json", damaged)
        found = remembered_settings(folder)
        assert found is None or found.nprobe == 3 and found.factory == SETTINGS.factory
    put(folder / "settings.json", b"[" * 5000)
    index = open_index(*rows, folder)
    assert index.about is None and index.advice.exact
    # What was asked for may no longer fit: the datastore has shrunk. Searching goes on.
    remember_settings(folder, IndexSettings(factory="IVF500,Flat"))
    assert open_index(*rows, folder).search(rows[0][:1].astype(np.float32), 1)[0][0, 0] >= 0
    with pytest.raises(ConfigError, match="39 vectors for each of the 500 lists"):
        open_index(*rows, folder, IndexSettings(factory="IVF500,Flat"))


def test_only_too_many_new_rows_or_other_wishes_build_anew(rows, folder, monkeypatch):
    vectors, documents, alive, parts = rows
    written = content(folder)
    open_index(*rows, folder, dataclasses.replace(SETTINGS, nprobe=5, candidates=9))
    assert content(folder) == written, "these matter to searching only"
    open_index(*rows, folder, dataclasses.replace(SETTINGS, recall=0.5))
    assert content(folder) != written
    # The first part alone, then both: 103 new rows are more than a fifth of 403, but few.
    folder = folder.parent / "tail"
    first = (vectors[:300], documents[:300], alive[:300], parts[:1])
    open_index(*first, folder, SETTINGS)
    assert open_index(*rows, folder, SETTINGS).about.rows == 300
    monkeypatch.setattr("indexing.index.TAIL_ROWS", 100)
    assert open_index(*rows, folder, SETTINGS).about.rows == 403


def test_a_builder_that_dies_leaves_the_former_index_and_its_leftovers_go(rows, folder, monkeypatch):
    before = content(folder)
    left = folder / ".unfinished-dead"
    left.write_bytes(b"half")
    os.utime(left, (1, 1))
    young = folder / ".unfinished-alive"
    young.write_bytes(b"somebody writes this now")
    events = build_index(*rows, folder, IndexSettings(factory="IVF5,Flat"))
    for event in events:
        if event.stage == "measuring":
            break
    events.close()
    assert content(folder) == before
    list(build_index(*rows, folder, IndexSettings(factory="IVF5,Flat")))
    assert content(folder) != before
    assert {path.name for path in folder.iterdir()} == {"index.faiss", "settings.json", young.name}


def test_where_nothing_can_be_kept_it_is_done_without(rows, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(built, "save", full)
    events = list(build_index(*rows, tmp_path / "index", SETTINGS))
    assert "could not be kept (No space left on device)" in events[-1].message
    index = open_index(*rows, tmp_path / "index", SETTINGS)
    assert index.about.factory == "IVF7,SQ8"
    assert not list(tmp_path.glob("index/*.faiss"))


def test_a_reader_keeps_what_it_opened(rows, folder):
    """The file is replaced, never rewritten: an open map of it stays as it was."""
    queries = rows[0][::50].astype(np.float32)
    index = open_index(*rows, folder, SETTINGS)
    want = index.search(queries, K)
    list(build_index(*rows, folder, IndexSettings(factory="IVF3,SQ4")))
    (folder / "index.faiss").unlink()
    assert all(np.array_equal(a, b) for a, b in zip(index.search(queries, K), want, strict=True))


def test_recall_is_measured_against_all_rows():
    """Two codes of 4 bits say little; the measured share says so, as counted by hand."""
    vectors, documents = texts_like(2003)
    rows = (vectors, documents, np.ones(2003, dtype=bool), [("all", 2003)])
    poor = open_index(*rows, None, IndexSettings(factory="PQ2x4", candidates=1, recall=0.0))
    found, _ = poor.search(vectors.astype(np.float32), 10, documents)
    full = vectors.astype(np.float64)
    lengths = (full**2).sum(axis=1)
    table = lengths[:, None] + lengths - 2 * full @ full.T
    table[documents[:, None] == documents[None]] = np.inf
    nearest = np.sort(table, axis=1)[:, :10]
    there = np.take_along_axis(table, np.maximum(found, 0), axis=1) <= nearest[:, -1:] + 1e-6
    counted = (there & (found >= 0)).mean()
    assert poor.about.recall_at_10 == pytest.approx(counted, abs=0.04) and counted < 0.9
    assert open_index(*rows, None, IndexSettings(factory="IVF11,SQ8")).about.recall_at_10 >= 0.95


def test_opening_a_built_index_leaves_other_readers_of_faiss_as_they_were(rows, folder):
    """The limit that guards against forged lengths belongs to the whole process."""
    import faiss

    usual = faiss.get_deserialization_vector_byte_limit()
    assert built.load(folder, rows[3], rows[0].shape[1]) is not None
    assert faiss.get_deserialization_vector_byte_limit() == usual > 10**9
