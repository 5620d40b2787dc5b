"""A datastore read by a model with another tokenizer."""

import numpy as np
import pytest
from conftest import SENTENCES

from indexing.build import build
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.errors import MismatchError
from indexing.neighbours import NO_CHUNK
from indexing.retokenised import RetokenisedDatastore, open_for
from indexing.tokenizer import Tokenizer, train_byte_level_bpe

M_STORE, M, K = 13, 7, 3


@pytest.fixture
def other() -> Tokenizer:
    """Tokens longer than the datastore's, and other ids."""
    return train_byte_level_bpe(SENTENCES * 9, vocab_size=900, name="other")


@pytest.fixture
def datastore(tokenizer, embedder) -> Datastore:
    documents = [Document(f"d{i}", f"title {i}", text + " " + text, "s") for i, text in enumerate(SENTENCES)]
    for _ in build("notes", documents, tokenizer, embedder, chunk_size=M_STORE):
        pass
    return Datastore.open("notes", embedder=embedder)


def test_neighbours_are_the_datastores_own_in_the_models_tokens(datastore, other, embedder):
    opened = open_for("notes", other, M, embedder)
    assert isinstance(opened, RetokenisedDatastore) and "retokenised" in opened.name
    texts = ["Honey bees dance", "one of the most active volcanoes in the world, Mount Etna"]
    chunks = np.full((2, 1, M), other.pad_id)
    for row, text in enumerate(texts):
        ids = other.encode(text)[:M]
        chunks[row, 0, : len(ids)] = ids
    found = opened.retrieve(chunks, K)
    assert found.tokens.shape == (2, 1, K, 2 * M) and found.pad_id == other.pad_id
    for row in range(2):
        hits = datastore.search(other.decode(chunks[row, 0]), K)
        assert found.ids[row, 0].tolist() == [hit.chunk_id for hit in hits]
        assert np.allclose(found.distances[row, 0], [hit.distance for hit in hits])
        for tokens, hit in zip(found.tokens[row, 0], hits, strict=True):
            for half, text in ((tokens[:M], hit.text), (tokens[M:], hit.continuation)):
                expected = other.encode(text)[:M]
                assert half[: len(expected)].tolist() == expected.tolist()
                assert (half[len(expected) :] == other.pad_id).all()
    assert "bees" in other.decode(found.tokens[0, 0, 0])
    assert opened.provenance(int(found.ids[0, 0, 0])).document_id == "d3"
    assert (found.tokens[..., :M] == other.pad_id).any(), "some neighbour is shorter than a chunk"


def test_what_says_nothing_finds_nothing_and_own_documents_are_left_out(datastore, other):
    opened = RetokenisedDatastore(datastore, other, M)
    chunks = np.full((2, M), other.pad_id)
    chunks[1] = other.encode("Honey bees tell each other where flowers are by dancing")[:M]
    found = opened.retrieve(chunks, K, exclude_documents=np.array([-1, 3]))
    assert (found.ids[0] == NO_CHUNK).all() and not found.mask[0].any()
    documents = datastore.chunks.chunk2seq[found.ids[1]]
    assert found.mask[1].any() and 3 not in documents


def test_the_same_tokenizer_needs_no_detour_and_training_gets_none(datastore, tokenizer, other, embedder):
    assert isinstance(open_for("notes", tokenizer, M_STORE, embedder), Datastore)
    with pytest.raises(MismatchError, match="build this one again"):
        Datastore.open("notes", tokenizer=other)
