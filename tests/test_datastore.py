"""A datastore answers exactly, tells what it is, and refuses to answer wrongly."""

import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import SENTENCES
from fakes import HashingEmbedder

from indexing import paths
from indexing.build import build
from indexing.corpus import Document, read_text
from indexing.datastore import Datastore, list_datastores
from indexing.errors import DatastoreError, InputError, MismatchError
from indexing.segment import SEGMENT_FILES
from indexing.tokenizer import train_byte_level_bpe

M = 16


def documents() -> list[Document]:
    """Eight texts of one to many chunks, two of them nearly alike."""
    texts = [" ".join(SENTENCES[i:] + SENTENCES[:i]) for i in range(6)]
    texts += ["Short.", texts[0].replace("Nile", "Congo")]
    return [Document(f"doc-{i}", f"Title {i}", text, f"file, line {i}") for i, text in enumerate(texts)]


@pytest.fixture
def datastore(tokenizer, embedder) -> Datastore:
    list(build("notes", documents(), tokenizer, embedder, chunk_size=M))
    return Datastore.open("notes", tokenizer, embedder)


def brute_force(datastore, chunk, k, exclude=None):
    """Distances of the k nearest chunks with text, by a loop over all."""
    query = datastore.embedder.embed([datastore.tokenizer.decode(chunk)])[0]
    found = []
    for row in range(len(datastore.chunks)):
        ordinary = set(datastore.chunks.tokens[row].tolist()) - {0, 1}
        if ordinary and datastore.chunks.chunk2seq[row] != exclude:
            difference = datastore.embeddings[row].astype(np.float32) - query
            found.append((float(difference @ difference), row))
    return sorted(found)[:k]


def test_retrieve_is_exact_with_and_without_the_own_document(datastore):
    chunks = np.asarray(datastore.chunks.tokens)
    own = np.asarray(datastore.chunks.chunk2seq)
    free = datastore.retrieve(chunks, 3)
    without = datastore.retrieve(chunks, 3, exclude_documents=own)
    assert free.tokens.shape == (len(chunks), 3, 2 * M)
    for row, chunk in enumerate(chunks):
        for answer, excluded in ((free, None), (without, own[row])):
            expected = brute_force(datastore, chunk, 3, excluded) if set(chunk.tolist()) - {0, 1} else []
            got = answer.distances[row][answer.ids[row] >= 0]
            assert np.allclose(got, [distance for distance, _ in expected], atol=1e-5)
    present = without.ids >= 0
    assert (own[without.ids] != own[:, None])[present].all()
    assert np.array_equal(free.tokens, datastore.chunks.retrieved_tokens(free.ids))
    assert np.isinf(free.distances[free.ids < 0]).all()


def test_a_query_is_answered_alone_as_in_company(datastore):
    chunks = np.asarray(datastore.chunks.tokens)[:24]
    together = datastore.retrieve(chunks.reshape(2, 12, M), 4)
    assert together.ids.shape == (2, 12, 4)
    alone = [datastore.retrieve(chunk, 4) for chunk in chunks]
    assert np.array_equal(together.ids.reshape(24, 4), np.stack([answer.ids for answer in alone]))
    assert np.array_equal(together.distances.reshape(24, 4), np.stack([answer.distances for answer in alone]))


def test_k_neighbours_whenever_they_exist(tokenizer, embedder):
    # 60 chunks of one document, nearest to themselves, and three chunks of others.
    long = Document("long", "Long", " ".join(["the same old words"] * 250), "x")
    others = [Document(str(i), str(i), f"something else {i}", "x") for i in range(3)]
    list(build("crowded", [long, *others], tokenizer, embedder, chunk_size=M))
    datastore = Datastore.open("crowded", embedder=embedder)
    assert datastore.chunks.seq2chunk[1] > 40
    answer = datastore.retrieve(
        np.asarray(datastore.chunks.tokens[:2]), 5, exclude_documents=np.array([0, 0])
    )
    assert (np.sort(datastore.chunks.chunk2seq[answer.ids[:, :3]]) == [1, 2, 3]).all()
    assert (answer.ids[:, 3:] == -1).all() and not answer.mask[:, 3:].any()


def test_chunks_without_words_ask_nothing_and_answer_nothing(tokenizer, embedder):
    # A text of exactly m tokens: the end mark gets a chunk of its own.
    text = tokenizer.decode(tokenizer.encode(SENTENCES[0])[:M])
    list(build("exact", [read_text(text)], tokenizer, embedder, chunk_size=M))
    datastore = Datastore.open("exact", embedder=embedder)
    assert datastore.chunks.tokens[1].tolist() == [tokenizer.end_id] + [tokenizer.pad_id] * (M - 1)
    silent = np.zeros((2, M), dtype=np.int64)
    silent[1, 0] = tokenizer.end_id
    embedder.num_embedded = 0
    answer = datastore.retrieve(silent, 2)
    assert (answer.ids == -1).all() and not answer.mask.any() and embedder.num_embedded == 0
    assert datastore.retrieve(np.asarray(datastore.chunks.tokens[0]), 2).ids.tolist() == [0, -1]
    assert datastore.search("the river", 5)[0].text == text


def test_search_finds_a_pasted_text_with_its_place(datastore):
    hit = datastore.search("treaty signed in 1648 after five years of negotiation", 3)[0]
    (document,) = [d for d in documents() if d.id == hit.document_id]
    assert document.text[hit.offset :].startswith(hit.text) and "1648" in hit.text + hit.continuation
    assert document.text[hit.offset + len(hit.text) :].startswith(hit.continuation)
    origin = datastore.provenance(hit.chunk_id)
    assert (origin.title, origin.source) == (document.title, document.source) and origin.offset == hit.offset
    assert len(datastore.search("bees", 1000)) < 1000
    with pytest.raises(InputError, match="empty"):
        datastore.search("  ", 3)
    with pytest.raises(InputError, match="at least 1"):
        datastore.search("bees", 0)


def test_every_text_can_be_read_back(datastore):
    for number, document in enumerate(documents()):
        rows = np.flatnonzero(datastore.chunks.chunk2seq == number)
        assert "".join(datastore.text(row) for row in rows) == document.text


def test_a_copied_folder_opens_without_arguments_and_means_the_same(datastore, embedder, tmp_path):
    shutil.copytree(datastore.path, tmp_path / "elsewhere")
    copy = Datastore.open(tmp_path / "elsewhere", embedder=embedder)
    assert copy.fingerprint == datastore.fingerprint and copy.name == "elsewhere"
    assert copy.tokenizer_name == "tiny" and copy.embedder_name == "hashing" and copy.num_documents == 8


def test_another_tokenizer_embedder_or_chunk_size_is_refused_with_both_names(datastore):
    other = train_byte_level_bpe(["other words, other ids"], vocab_size=300, name="other-bpe")
    with pytest.raises(MismatchError, match="'notes' was built with the tokenizer 'tiny' .* 'other-bpe'"):
        Datastore.open("notes", tokenizer=other)
    with pytest.raises(MismatchError, match="the embedder 'hashing' .* 'narrow'"):
        Datastore.open("notes", embedder=HashingEmbedder("narrow", dim=8))
    with pytest.raises(MismatchError, match=f"chunks of {M} tokens, but was asked with chunks of 64"):
        datastore.retrieve(np.ones((1, 64), dtype=np.int64), 2)


def test_an_embedder_that_only_claims_to_be_the_same_is_refused(datastore, tokenizer):
    """Same name, same fingerprint, other weights."""

    class Imposter(HashingEmbedder):
        def embed(self, texts):
            return np.roll(super().embed(texts), 1, axis=1)

    opened = Datastore.open("notes", embedder=Imposter())
    with pytest.raises(MismatchError, match="'notes' was built with the embedder 'hashing'.*other vectors"):
        opened.search("bees", 1)
    assert Datastore.open("notes", embedder=HashingEmbedder()).search("bees", 1)


DAMAGES = ("flip", "cut", "gone", "zeros")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *itertools.product((f"segments/000001/{name}" for name in SEGMENT_FILES), DAMAGES),
        *itertools.product(["datastore.json", "tokenizer.json", "probes.npy", "catalogue.db"], DAMAGES),
    ],
)
def test_damage_is_found_and_named(datastore, name, damage):
    file = datastore.path / name
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        middle = len(data) // 2
        data[middle] ^= 1
        content = {"flip": data, "cut": data[:middle], "zeros": bytes(len(data))}[damage]
        file.write_bytes(content)
    with pytest.raises(DatastoreError) as caught:
        Datastore.open("notes")
    assert name in str(caught.value) and "uild" in str(caught.value)
    if name == "datastore.json" and damage == "gone":
        assert [info.name for info in list_datastores() if not info.bundled] == []


def test_manifests_of_other_kinds_are_refused(datastore):
    file = datastore.path / "datastore.json"
    content = json.loads(file.read_text())
    for change, sentence in [
        ({"format_version": 3}, "has format version 3, expected 2 or 1"),
        ({"chunk_size": "16"}, "no proper 'chunk_size'"),
        ({"format_version": 1}, "no proper 'num_documents'"),
        ({"created": "yesterday"}, "datastore.json has .* bytes instead of"),
        ({"embedder": {"name": "x", "fingerprint": "y"}}, "no proper 'dim'"),
    ]:
        file.write_text(json.dumps(content | change))
        with pytest.raises(DatastoreError, match=sentence):
            Datastore.open("notes")
    file.write_text("[1]")
    with pytest.raises(DatastoreError, match="damaged"):
        Datastore.open("notes")
    with pytest.raises(DatastoreError, match="no datastore 'absent'.*indexing build absent"):
        Datastore.open("absent")


def test_list_shows_the_users_own_before_the_bundled(datastore, tokenizer, embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ASSETS", tmp_path / "assets")
    for name in ("notes", "bundled"):
        list(build(tmp_path / "assets" / "datastores" / name, documents()[:1], tokenizer, embedder))
    assert Datastore.open("notes").num_documents == 8  # and opening it finds the user's own
    (paths.datastores_dir() / "not-one").mkdir()
    infos = list_datastores()
    assert [(info.name, info.bundled, info.num_documents) for info in infos] == [
        ("bundled", True, 1),
        ("notes", False, 8),
    ]
    assert Datastore.open("bundled").num_documents == 1


def test_opening_and_listing_load_no_heavy_library(datastore):
    code = (
        "import sys; from indexing.datastore import *; list_datastores(); Datastore.open('notes');"
        "print([m for m in ('torch', 'sentence_transformers', 'transformers', 'faiss') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=paths.ASSETS.parent
    )
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.slow
def test_with_the_real_embedder_a_pasted_sentence_is_found_again(tokenizer):
    from indexing.embedder import open_embedder

    embedder = open_embedder()
    texts = [" ".join(SENTENCES[:2]), " ".join(SENTENCES[2:4]), " ".join(SENTENCES[4:])]
    list(build("real", [read_text(text, f"t{i}") for i, text in enumerate(texts)], tokenizer, embedder))
    datastore = Datastore.open("real")
    for text in (SENTENCES[3], "insects that show their hive the way to blossoms"):
        hit = datastore.search(text, 1)[0]
        assert hit.title == "t1" and "bees" in hit.text + hit.continuation
    chunk = np.asarray(datastore.chunks.tokens[0])
    nearest = datastore.retrieve(chunk, 2)
    assert nearest.ids[0] == 0 and nearest.distances[0] < 1e-3
