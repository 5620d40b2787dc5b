"""What is told of a datastore, and its documents page by page."""

import pytest
import shelves

from indexing import upkeep
from indexing.build import append
from indexing.corpus import Document
from indexing.datastore import Datastore
from indexing.errors import DatastoreError
from indexing.overview import documents, overview


def test_an_overview_says_what_there_is_now(tokenizer, embedder):
    datastore = shelves.make(tokenizer, embedder)
    told = overview("shelf")
    assert (told.documents, told.deleted, told.version, told.segments) == (len(shelves.TEXTS), 0, 1, 1)
    assert (told.chunks, told.dim, told.chunk_size) == (*datastore.embeddings.shape, shelves.M)
    assert (told.fingerprint, told.tokenizer, told.bundled) == (datastore.fingerprint, "tiny", False)
    assert told.bytes > datastore.embeddings.nbytes and told.advice.exact and told.measured is None
    list(append("shelf", [Document("later", "Later", "One more.", "")], embedder))
    upkeep.delete("shelf", ["doc-1", "doc-2"])
    later = overview("shelf")
    assert (later.documents, later.deleted, later.version, later.segments) == (told.documents - 1, 2, 3, 2)
    assert later.fingerprint != told.fingerprint
    with pytest.raises(DatastoreError, match="no datastore"):
        overview("another")


def test_pages_of_documents_leave_none_out_and_none_twice(tokenizer, embedder):
    shelves.make(tokenizer, embedder)
    list(
        append(
            "shelf", [Document(f"new-{i}", f"Étude {i}", "Text. " * 30, "b.txt") for i in range(4)], embedder
        )
    )
    upkeep.delete("shelf", ["doc-0", "doc-3", "new-1"])
    datastore = Datastore.open("shelf")
    kept = [label.id for label in datastore.labels()]

    def pages(words, count):
        found, first, more = [], 0, True
        while more:
            page, more = documents(datastore, words, first, count)
            assert len(page) == count or not more
            found, first = [*found, *page], first + count
        return found

    for count in (1, 3, len(kept), 50):
        assert [listed.label.id for listed in pages("", count)] == kept
        assert [listed.label.id for listed in pages("étude B.TXT", count)] == ["new-0", "new-2", "new-3"]
    assert pages("nothing of this", 5) == []
    sizes = {listed.label.id: listed.chunks for listed in pages("", 5)}
    assert sum(sizes.values()) == datastore.alive.sum() and sizes["doc-5"] == 1 < sizes["new-0"]
