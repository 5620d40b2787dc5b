"""A training set is a copy of a datastore in which what is held out is never read while training."""

import json

import numpy as np
import pytest
from fakes import HashingEmbedder

from indexing import paths
from indexing.build import build
from indexing.cli import main
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.errors import InputError
from indexing.pipeline.specs import read_data_spec, read_index_spec
from indexing.tokenizer import train_byte_level_bpe
from indexing.training_sets import is_current, list_training_sets, make, training_set
from indexing.upkeep import delete

M = 8
WORDS = ["nile", "etna", "river", "sicily", "chunk", "treaty", "honey", "volcano", "flower", "city"]


def library(tokenizer, texts, name="library", **more):
    documents = [Document(f"d{i}", f"Title {i}", text, "here") for i, text in enumerate(texts)]
    list(build(name, documents, tokenizer, HashingEmbedder(), chunk_size=M, **more))
    return Datastore.open(name, embedder=HashingEmbedder())


def words(seed, count):
    chance = np.random.default_rng(seed)
    return " ".join(chance.choice(WORDS, count))


def documents_of(spec):
    """[(tokens of a document), …] of the shards that ask, and the arrays of what they read."""
    shards, index = read_data_spec(spec)
    (shard,), (read,) = shards, read_index_spec(index)
    tokens, owner = np.load(shard["chunks"]), np.load(shard["chunk2seq"])
    first = np.load(shard["seq2chunk"])
    assert np.array_equal(owner[first], np.arange(len(first)))
    texts = [tuple(tokens[owner == number].reshape(-1)) for number in range(len(first))]
    return texts, np.load(shard["neighbours"]), owner, np.load(read["chunk2seq"]), read["chunks"]


def test_a_set_has_all_documents_once_and_reads_only_what_is_trained_on(tokenizer):
    datastore = library(tokenizer, [words(i, 30 + i) for i in range(40)])
    events = list(make("mine", datastore))
    assert events[-1].stage == "done" and events[-2].done == events[-2].total
    made = training_set("mine")
    assert made in list_training_sets() and is_current(made, datastore)
    assert (made.documents, made.held_out_documents) == (38, 2) and not made.bundled
    texts, neighbours, owner, read, chunks = documents_of(made.data_spec)
    held, of_held, _, _, same_chunks = documents_of(made.validation)
    whole = [
        tuple(np.asarray(datastore.chunks.tokens)[datastore.chunks.chunk2seq == n].reshape(-1))
        for n in range(40)
    ]
    assert sorted(texts + held) == sorted(whole) and chunks.resolve() == same_chunks.resolve()
    assert made.chunks == len(neighbours) and made.held_out_chunks == len(of_held)
    asked = neighbours >= 0
    assert asked.mean() > 0.9 and (read[neighbours] != owner[:, None])[asked].all(), (
        "never from its own document"
    )
    assert of_held.max() < made.chunks and not (made.folder / "again").exists()

    delete("library", ["d3"])
    later = Datastore.open("library", embedder=HashingEmbedder())
    assert not is_current(made, later), "it is a copy of what was"
    list(make("mine", later))
    assert training_set("mine").documents + training_set("mine").held_out_documents == 39


def test_a_set_can_be_looked_up_with_first_chunks(tokenizer):
    """By the command; what it was searched by moves with the set to its place."""
    library(tokenizer, [words(i, 30 + i) for i in range(40)])
    main(["training-set", "plain", "library"])
    main(["training-set", "weighted", "library", "--first-chunk-weight", "0.5"])
    plain, weighted = training_set("plain"), training_set("weighted")
    for spec, other in ((weighted.data_spec, plain.data_spec), (weighted.validation, plain.validation)):
        (shard,), index = read_data_spec(spec)
        (read,) = read_index_spec(index)
        for asked in (shard["embeddings"], read["embeddings"]):
            vectors = np.load(asked).astype(np.float32)
            assert asked.resolve().is_relative_to(weighted.folder) and asked.name != "embeddings.npy"
            assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
        assert documents_of(spec)[0] == documents_of(other)[0]
        assert not np.array_equal(documents_of(spec)[1], documents_of(other)[1])
        assert "embeddings" not in read_data_spec(other)[0][0]


def test_one_long_text_is_cut_into_parts(tokenizer, capsys):
    library(tokenizer, [words(1, 900)], name="novel")
    made = list(make("novel", Datastore.open("novel", embedder=HashingEmbedder())))
    assert made[-1].stage == "done"
    found = training_set("novel")
    assert found.documents > 3 and found.held_out_documents == 1
    texts, neighbours, *_ = documents_of(found.data_spec)
    assert max(map(len, texts)) == 16 * M and (neighbours >= 0).any()

    small = library(tokenizer, [words(2, 20)], name="small")
    with pytest.raises(InputError, match="at least 32 chunks of 8 tokens.*'small' has .* Add some text"):
        list(make("small", small))
    assert not (paths.training_sets_dir() / "small").exists()
    with pytest.raises(InputError, match="no training set 'small'. Make one"):
        training_set("small")
    assert main(["training-set", "small", "small"]) == 2 and "Add some text" in capsys.readouterr().err


def test_another_tokenizer_cuts_anew(tokenizer):
    datastore = library(tokenizer, [words(i, 40) for i in range(30)])
    other = train_byte_level_bpe([words(i, 40) for i in range(5)], vocab_size=300, name="other")
    stages = {event.stage for event in make("again", datastore, other, HashingEmbedder())}
    assert stages == {"embedding", "neighbours", "done"}
    found = training_set("again")
    assert found.fingerprint == other.fingerprint and is_current(found, datastore)
    texts, *_ = documents_of(found.data_spec)
    assert " ".join(other.decode(np.array(texts[0])).split()[1:4]) in " ".join(
        words(i, 40) for i in range(30)
    )
    assert json.loads((found.folder / "training-set.json").read_text())["source"] == "library"
    assert sorted(path.name for path in found.folder.iterdir()) == ["held-out", "train", "training-set.json"]
