"""The chunks of an index spec can be looked into like a datastore of the same texts."""

import numpy as np
import pytest
from conftest import SENTENCES
from fakes import HashingEmbedder

from indexing.build import build
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.errors import InputError
from indexing.pipeline.spec_chunks import SpecChunks
from indexing.precompute import precompute_neighbours
from indexing.retrievers import open_lookup

M = 5


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """Two datastores, and an index spec of both; and one datastore of all their texts."""
    folder, embedder = tmp_path_factory.mktemp("spec"), HashingEmbedder()
    documents = [Document(f"d{i}", f"d{i}", text, "test") for i, text in enumerate(SENTENCES)]
    for name, some in (("one", documents[:2]), ("other", documents[2:]), ("all", documents)):
        list(build(folder / name, some, tokenizer, embedder, chunk_size=M))
    list(precompute_neighbours([folder / "one"], [folder / "one", folder / "other"], 2, folder / "data"))
    return folder


def test_chunks_are_those_of_all_shards(folder, tokenizer):
    found = SpecChunks.open(folder / "data" / "index.spec.json", tokenizer)
    everything = Datastore.open(folder / "all")
    ids = np.arange(len(found.chunks))
    assert np.array_equal(found.chunks.retrieved_tokens(ids), everything.chunks.retrieved_tokens(ids))
    assert np.array_equal(found.chunks.chunk2seq, everything.chunks.chunk2seq)
    assert np.array_equal(found.chunks.seq2chunk, everything.chunks.seq2chunk)
    assert np.array_equal(np.asarray(found.embeddings), np.asarray(everything.embeddings[:]))
    with pytest.raises(InputError, match="Cannot read the spec"):
        SpecChunks.open(folder / "data" / "no.json", tokenizer)


@pytest.mark.parametrize("form", ["bm25", "random:3"])
def test_looking_into_them_finds_what_a_datastore_finds(folder, tokenizer, form):
    found = open_lookup(form, SpecChunks.open(folder / "data" / "index.spec.json", tokenizer))
    everything = open_lookup(form, Datastore.open(folder / "all"))
    chunks = Datastore.open(folder / "one").chunks
    mine, theirs = (
        each.retrieve(np.asarray(chunks.tokens, dtype=np.int64), 3, np.asarray(chunks.chunk2seq))
        for each in (found, everything)
    )
    assert np.array_equal(mine.ids, theirs.ids) and np.array_equal(mine.tokens, theirs.tokens)
    assert (mine.ids >= 0).any() and mine.measure == theirs.measure
