"""A datastore lives: documents come and go, segments become one, and readers see one version at a time."""

import json
import os
import re
import shutil
import zipfile

import numpy as np
import pytest
from conftest import SENTENCES
from fakes import HashingEmbedder

from indexing import catalogue, files, paths
from indexing.build import append, build, repair
from indexing.bundle import export, import_bundle
from indexing.corpus import Document
from indexing.datastore import Datastore, list_datastores
from indexing.errors import CheckpointError, CorpusError, DatastoreError, InputError, MismatchError
from indexing.manifest import file_facts
from indexing.segment import SEGMENT_FILES, Stacked
from indexing.tokenizer import Tokenizer
from indexing.upkeep import compact, copy, delete, remove, rename, verify

M = 16


def document(name: str, *sentences: int) -> Document:
    return Document(name, f"Title of {name}", f"{name}: " + " ".join(SENTENCES[i] for i in sentences), "here")


FIRST = [document("a", 0, 5), document("b", 1), document("c", 2, 3, 5), document("d", 4)]
MORE = [document("e", 5, 5, 1), document("f", 3)]


@pytest.fixture
def notes(tokenizer, embedder) -> Datastore:
    list(build("notes", FIRST, tokenizer, embedder, chunk_size=M))
    return Datastore.open("notes", embedder=embedder)


def texts(datastore: Datastore) -> dict[str, str]:
    """Id -> text of every document, put together of its chunks' texts, as a reader of chunks gets them."""
    found: dict[str, str] = {}
    for row in np.flatnonzero(datastore.alive).tolist():
        name = datastore.provenance(row).document_id
        found[name] = found.get(name, "") + datastore.text(row)
    return found


def expected(*documents: Document) -> dict[str, str]:
    return {document.id: document.text for document in documents}


def assert_searches_all(datastore: Datastore, embedder: HashingEmbedder) -> None:
    """The nearest chunks of every text are those of brute force over the living ones."""
    chunks = np.asarray(datastore.chunks.tokens)
    vectors = np.asarray(datastore.embeddings).astype(np.float32)
    silent = np.isin(chunks, (0, 1)).all(axis=1) | ~datastore.alive
    for text in SENTENCES:
        query = embedder.embed([text])[0]
        distances = ((vectors - query) ** 2).sum(axis=1)
        distances[silent] = np.inf
        hits = datastore.search(text, 5)
        assert np.allclose([hit.distance for hit in hits], np.sort(distances)[:5], atol=1e-5)


def test_documents_are_added_in_place_and_old_readers_do_not_see_them(notes, embedder):
    events = list(append("notes", MORE, embedder))
    assert [event.stage for event in events][-2:] == ["saving", "done"]
    assert events[-1].message.startswith("Added to 'notes': 2 documents")
    assert notes.version == 1 and texts(notes) == expected(*FIRST)
    later = notes.current()
    assert later.version == 2 and later is not notes and later.current() is later
    assert texts(later) == expected(*FIRST, *MORE) and later.num_documents == 6
    assert [d.text for d in later.documents] == [d.text for d in (*FIRST, *MORE)]
    assert [label.id for label in later.labels()] == list("abcdef")
    assert_searches_all(later, embedder)
    assert_searches_all(notes, embedder)
    # Chunk numbers go on where they were, neighbours with their continuation too.
    rows = len(notes.chunks)
    assert np.array_equal(later.chunks.tokens[:rows], notes.chunks.tokens)
    last = later.chunks.retrieved_tokens(np.arange(len(later.chunks)))
    own = [row for row in range(len(later.chunks) - 1) if later.continuation(row)]
    assert own and all((last[row, M:] == later.chunks.tokens[row + 1]).all() for row in own)


def test_deleted_documents_are_found_and_given_out_no_more(notes, embedder):
    list(append("notes", MORE, embedder))
    assert delete("notes", ["c", "f"]) == 3
    later = notes.current()
    assert texts(later) == expected(FIRST[0], FIRST[1], FIRST[3], MORE[0]) and later.num_documents == 4
    assert [label.id for label in later.labels()] == ["a", "b", "d", "e"]
    assert_searches_all(later, embedder)
    gone = int(later.chunks.seq2chunk[2])
    for ask in (later.text, later.continuation, later.provenance):
        with pytest.raises(DatastoreError, match=f"document of chunk {gone} was deleted.*Search again"):
            ask(gone)
    with pytest.raises(InputError, match="has no document 'c'.*indexing documents notes"):
        delete("notes", ["a", "c"])
    assert later.current() is later, "nothing is deleted if one is not there"
    assert texts(notes) == expected(*FIRST), "the old snapshot is what it was"
    with pytest.raises(InputError, match="Expected the number of a chunk from 0"):
        later.text(-1)


def test_compacting_leaves_one_segment_without_a_trace_of_what_was_deleted(notes, embedder, tokenizer):
    list(append("notes", MORE, embedder))
    canary = "e: Zürich"
    delete("notes", ["e", "b"])
    before = notes.current()
    num_embedded = embedder.num_embedded
    events = list(compact("notes"))
    assert "one segment instead of 2" in events[-1].message and embedder.num_embedded == num_embedded
    later = before.current()
    assert later.version == before.version + 1 and len(later.segments) == 1 and later.alive.all()
    assert texts(later) == texts(before) == expected(FIRST[0], FIRST[2], FIRST[3], MORE[1])
    assert [label.id for label in later.labels()] == ["a", "c", "d", "f"]
    assert_searches_all(later, embedder)
    assert_searches_all(before, embedder)  # its files are unlinked, and still open
    assert [path.name for path in (later.path / "segments").iterdir()] == [later.segments[0].name]
    for path in later.path.rglob("*"):
        assert path.is_dir() or canary.encode() not in path.read_bytes()
    # What is left is what building it of these alone would have made.
    left = [FIRST[0], FIRST[2], FIRST[3], MORE[1]]
    list(build("fresh", left, tokenizer, embedder, chunk_size=M))
    fresh = Datastore.open("fresh", embedder=embedder)
    for name in SEGMENT_FILES:
        one, other = (d.path / "segments" / d.segments[0].name / name for d in (later, fresh))
        assert one.read_bytes() == other.read_bytes(), name
    assert later.fingerprint == fresh.fingerprint
    assert "compact already" in list(compact("notes"))[-1].message and later.current() is later


def test_everything_may_be_deleted_and_added_again(notes, embedder):
    delete("notes", list("abcd"))
    assert notes.current().search("river", 3) == [] and notes.current().num_documents == 0
    list(compact("notes"))
    empty = notes.current()
    assert len(empty.chunks) == 0 and empty.search("river", 3) == []
    assert (empty.retrieve(np.full((2, M), 5), 2).ids == -1).all()
    list(append("notes", FIRST, embedder))
    assert texts(notes.current()) == expected(*FIRST)
    assert_searches_all(notes.current(), embedder)


def test_an_id_leads_to_one_document_also_across_segments(notes, embedder):
    again = [document("a", 3), document("g", 3), document("a", 4), document("a#2", 2)]
    list(append("notes", again, embedder))
    labels = [label.id for label in notes.current().labels()]
    assert labels[:4] == list("abcd") and len(set(labels)) == 8
    assert labels[4:] == ["a#3", "g", "a#4", "a#2"]
    for label in labels:
        later = notes.current()
        assert later.documents[later.number_of(label)].id == label


def test_a_failed_change_changes_nothing(notes, embedder, monkeypatch):
    def broken():
        yield MORE[0]
        raise CorpusError("Line 2 is not valid JSON.")

    with pytest.raises(CorpusError):
        list(append("notes", broken(), embedder))
    events = append("notes", MORE, embedder)
    next(event for event in events if event.stage == "embedding")
    with pytest.raises(DatastoreError, match="'notes' is being changed at this moment"):
        delete("notes", ["a"])
    with pytest.raises(DatastoreError, match="'notes' is being changed at this moment"):
        list(compact("notes"))
    events.close()
    with pytest.raises(MismatchError, match="the embedder 'hashing'.*not with 'narrow'"):
        list(append("notes", MORE, HashingEmbedder("narrow", dim=8)))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DatastoreError, match="No space left.*MB are free.*Nothing was changed"):
        list(append("notes", MORE, embedder))
    assert notes.current() is notes
    assert [path.name for path in (notes.path / "segments").iterdir()] == ["000001"]


def test_a_bundled_datastore_is_copied_before_it_is_changed(notes, embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ASSETS", tmp_path / "assets")
    shutil.move(notes.path, tmp_path / "assets" / "datastores" / "notes")
    with pytest.raises(DatastoreError, match="ships with the program.*indexing copy notes NEW-NAME"):
        delete("notes", ["a"])
    with pytest.raises(DatastoreError, match="ships with the program"):
        remove("notes")
    copy("notes", "mine")
    delete("mine", ["a"])
    assert Datastore.open("mine").num_documents == 3 and Datastore.open("notes").num_documents == 4


def test_names_change_and_datastores_go(notes):
    rename("notes", "memories")
    assert texts(Datastore.open("memories")) == expected(*FIRST)
    with pytest.raises(DatastoreError, match="no datastore 'notes'"):
        rename("notes", "other")
    copy("memories", "copy")
    with pytest.raises(DatastoreError, match="a datastore 'copy' already"):
        rename("memories", "copy")
    with pytest.raises(InputError, match="cannot be used as a name"):
        rename("memories", "../elsewhere")
    remove("memories")
    assert [info.name for info in list_datastores() if not info.bundled] == ["copy"]


def test_a_bundle_brings_everything_that_lives_and_its_history(notes, embedder, tmp_path):
    list(append("notes", MORE, embedder))
    delete("notes", ["b"])
    before = notes.current()
    file = tmp_path / "notes.zip"
    assert "Exported 'notes'" in list(export("notes", file))[-1].message
    list(import_bundle(file, "again"))
    later = Datastore.open("again", embedder=embedder)
    assert later.fingerprint == before.fingerprint and texts(later) == texts(before)
    assert_searches_all(later, embedder)
    with pytest.raises(DatastoreError, match="'again' exists already"):
        list(import_bundle(file, "again"))


def test_bundles_that_are_not_what_was_exported_are_refused(notes, tmp_path):
    file, bad = tmp_path / "notes.zip", tmp_path / "bad.zip"
    list(export("notes", file))

    def changed(change) -> None:
        with zipfile.ZipFile(file) as old, zipfile.ZipFile(bad, "w") as new:
            for name in old.namelist():
                name, data = change(name, old.read(name))
                if name:
                    new.writestr(name, data)

    def flip(name, data):
        return name, bytes([data[0] ^ 1]) + data[1:] if name.endswith("texts.txt") else data

    def slip(name, data):
        return name, data.replace(b'"000001"', b'"../../01"') if name == "state.json" else data

    def lose(name, data):
        return (None, data) if name.endswith("starts.npy") else (name, data)

    for change in (flip, slip, lose):
        changed(change)
        with pytest.raises(DatastoreError, match="bad.zip is not a whole bundle.*Export it again"):
            list(import_bundle(bad, "again"))
    for content in (b"", b"PK\3\4", file.read_bytes()[:-30], b"no zip at all"):
        bad.write_bytes(content)
        with pytest.raises(DatastoreError, match="bad.zip is not a whole bundle"):
            list(import_bundle(bad, "again"))
    assert [info.name for info in list_datastores() if not info.bundled] == ["notes"]


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("chunk2seq.npy", lambda values: values[::-1]),
        ("chunks.npy", lambda values: values + 60_000),
        ("seq2chunk.npy", lambda values: values + 1),
        ("byte_starts.npy", lambda values: values + 10**9),
        ("text_offsets.npy", lambda values: values * 2),
        ("embeddings.npy", lambda values: values * np.float16(2)),
        ("ids.npy", lambda values: values[::-1]),
    ],
)
def test_values_that_lie_are_refused_though_their_hashes_are_right(notes, tmp_path, name, spoil):
    """Somebody else may have written the hashes too."""
    file = notes.path / "segments" / "000001" / name
    files.save_array(file, spoil(np.load(file)))
    with zipfile.ZipFile(tmp_path / "lie.zip", "w") as bundle:
        state = catalogue.read(notes.path).to_json()
        state["segments"][0]["files"][name] = vars(file_facts(file))
        bundle.writestr("state.json", json.dumps(state))
        for path in notes.path.rglob("*"):
            if path.is_file() and path.name != "catalogue.db":
                bundle.write(path, path.relative_to(notes.path))
    with pytest.raises(DatastoreError, match=f"lie.zip is not a whole bundle.*{re.escape(name)}"):
        list(import_bundle(tmp_path / "lie.zip", "again"))


def test_verify_finds_what_opening_took_for_unchanged_and_repair_embeds_again(notes, embedder):
    assert "is as it was written" in list(verify("notes"))[-1].message
    file = notes.path / "segments" / "000001" / "embeddings.npy"
    facts, good = file.stat(), file.read_bytes()
    notes_embeddings = np.array(notes.embeddings)
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 64]))
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as a failing disk would
    with pytest.raises(DatastoreError, match="embeddings.npy has changed"):
        list(verify("notes"))
    assert "Embedded" in list(repair("notes", embedder))[-1].message
    later = Datastore.open("notes", embedder=embedder)
    assert np.array_equal(later.embeddings, notes_embeddings)
    assert_searches_all(later, embedder)
    assert "is as it was written" in list(verify("notes"))[-1].message
    assert "not damaged" in list(repair("notes", embedder))[-1].message
    texts_file = later.path / "segments" / later.segments[0].name / "texts.txt"
    texts_file.write_bytes(texts_file.read_bytes()[:-1] + b"!")
    with pytest.raises(DatastoreError, match="texts.txt has changed.*Restore it from a copy"):
        list(repair("notes", embedder))


def test_arrays_end_to_end_are_one_array():
    numbers = np.random.default_rng(5)
    parts = [numbers.random((n, 3)).astype(np.float16) for n in (7, 0, 1, 11)]
    whole, joined = np.concatenate(parts), Stacked(parts)
    assert joined.shape == (19, 3) and joined.dtype == np.float16 and len(joined) == 19
    rows = [0, -1, 7, slice(None), slice(5, 9), slice(None, None, 3), slice(8, 8), slice(-3, None)]
    rows += [numbers.integers(-19, 19, size=(4, 5)), whole[:, 0] > 0.5, np.array([], dtype=int), [3, 18]]
    for row in rows:
        assert np.array_equal(joined[row], whole[row]), row
    assert np.array_equal(joined[2:9, 1], whole[2:9, 1]) and np.array_equal(np.asarray(joined), whole)
    for row in (19, [0, 19]):
        with pytest.raises(IndexError):
            joined[row]


def test_a_tokenizer_that_is_replaced_while_it_is_opened_is_opened_again(
    notes, tokenizer, embedder, monkeypatch
):
    load, calls = Tokenizer.load, []

    def in_the_middle(folder):
        """Between the look whether the file is there and its reading, the datastore is replaced."""
        calls.append(folder)
        if len(calls) == 1:
            list(build("notes", MORE, tokenizer, embedder, chunk_size=M, replace=True))
            raise CheckpointError("tokenizer.json is not a tokenizer file: No such file or directory")
        return load(folder)

    monkeypatch.setattr(Tokenizer, "load", in_the_middle)
    assert texts(Datastore.open("notes", embedder=embedder)) == expected(*MORE)

    def damaged(folder):
        raise CheckpointError("tokenizer.json is not a tokenizer file")

    monkeypatch.setattr(Tokenizer, "load", damaged)
    with pytest.raises(CheckpointError, match="is not a tokenizer file"):
        Datastore.open("notes", embedder=embedder)
