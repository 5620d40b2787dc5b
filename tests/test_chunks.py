"""A chunk store keeps documents apart and knows where in its text each chunk begins."""

import numpy as np
import pytest

from indexing.chunks import CHUNKS_FILE, ChunkStore, tokenize
from indexing.errors import DatastoreError

M = 5


def store_of(tokenizer, *lengths: int) -> ChunkStore:
    """One document per length, of tokens 10, 11, 12, … throughout."""
    documents, first = [], 10
    for length in lengths:
        documents.append((np.arange(first, first + length), np.arange(length)))
        first += length
    return ChunkStore.from_tokens(documents, tokenizer, M)


def test_documents_never_share_a_chunk(tokenizer):
    store = store_of(tokenizer, 7, 5, 1, 0, 11)
    assert store.chunk2seq.tolist() == [0, 0, 1, 2, 3, 4, 4, 4]
    assert store.seq2chunk.tolist() == [0, 2, 3, 4, 5]
    assert store.tokens.dtype == np.uint16 and store.num_documents == 5
    assert store.tokens[1].tolist() == [15, 16, 0, 0, 0] and store.tokens[4].tolist() == [0] * M


def test_retrieved_tokens_against_a_loop(tokenizer):
    store = store_of(tokenizer, 7, 5, 1, 0, 11)
    for continuations in (0, 1, 2):
        ids = np.array([[0, 1, 2], [7, 5, -1]])
        got = store.retrieved_tokens(ids, continuations)
        assert got.shape == (2, 3, M * (1 + continuations)) and got.dtype == np.int64
        for index, chunk in np.ndenumerate(ids):
            expected = []
            for step in range(1 + continuations):
                inside = chunk >= 0 and chunk + step < len(store)
                inside = inside and store.chunk2seq[chunk + step] == store.chunk2seq[chunk]
                expected += store.tokens[chunk + step].tolist() if inside else [0] * M
            assert got[index].tolist() == expected


def test_starts_cut_the_text_into_the_chunks(tokenizer):
    text = "Zürich, São Paulo and Kraków are cities; 東京 is one too. <pad> 😀 The end."
    store = ChunkStore.from_tokens([tokenize(tokenizer, text)], tokenizer, M)
    ends = [*store.starts[1:], len(text)]
    pieces = [text[start:end] for start, end in zip(store.starts, ends, strict=True)]
    assert "".join(pieces) == text
    for chunk, piece in zip(store.tokens, pieces, strict=True):
        # A chunk may end in the middle of a character, which then belongs to the next chunk's text.
        assert tokenizer.decode(chunk).strip("\ufffd") in (piece, piece.strip("\ufffd"), piece[1:])


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    store = store_of(tokenizer, 7, 3)
    store.save(tmp_path)
    again = ChunkStore.load(tmp_path, tokenizer.pad_id)
    for field in ("tokens", "chunk2seq", "seq2chunk", "starts"):
        assert np.array_equal(getattr(store, field), getattr(again, field))


def test_arrays_that_do_not_fit_together_are_refused(tokenizer, tmp_path):
    store_of(tokenizer, 7, 3).save(tmp_path)
    np.save(tmp_path / CHUNKS_FILE, np.zeros((2, M), dtype=np.uint16))
    with pytest.raises(DatastoreError, match="disagree.*Build it again"):
        ChunkStore.load(tmp_path, tokenizer.pad_id)
    (tmp_path / CHUNKS_FILE).write_bytes(b"\x80\x04.")  # a pickle is never loaded
    with pytest.raises(DatastoreError, match="Cannot read the chunks"):
        ChunkStore.load(tmp_path, tokenizer.pad_id)
