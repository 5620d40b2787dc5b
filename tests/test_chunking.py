"""Chunk arithmetic agrees with the paper's listing, and nothing is read before it is written."""

import numpy as np
import pytest

from indexing import chunking


@pytest.mark.parametrize("m", [2, 3, 7, 64])
@pytest.mark.parametrize("num_chunks", [1, 2, 5])
@pytest.mark.parametrize("rest", [0, 1])
def test_positions_and_windows_against_the_papers_shift(m, num_chunks, rest):
    n = num_chunks * m + rest
    # Listing 1: drop the first m-1 positions, pad at the end, cut into l pieces; piece u reads neighbours u.
    shifted = [*range(m - 1, n), *[None] * m]
    pieces = [[p for p in shifted[u * m : (u + 1) * m] if p is not None] for u in range(num_chunks)]

    assert chunking.num_chunks(n, m) == num_chunks
    assert [list(chunking.attending_positions(u, n, m)) for u in range(num_chunks)] == pieces
    for u, piece in enumerate(pieces):
        assert all(chunking.chunk_read_at(position, m) == u for position in piece)
        # The logits of a position are about the token after it, if the sequence has one.
        assert list(chunking.read_window(u, n, m)) == [p + 1 for p in piece if p + 1 < n]
        assert all(token >= (u + 1) * m for token in chunking.read_window(u, n, m)), "reads its own question"
    assert all(chunking.chunk_read_at(position, m) == -1 for position in range(m - 1))


@pytest.mark.parametrize(("length", "rows"), [(0, 1), (1, 1), (5, 1), (6, 2), (10, 2), (11, 3)])
def test_split_keeps_every_token_and_pads_the_end_only(length, rows):
    tokens = np.arange(1, length + 1, dtype=np.uint16)
    chunks = chunking.split(tokens, pad_id=0, chunk_size=5)
    assert chunks.shape == (rows, 5) and chunks.dtype == np.uint16
    assert (chunks.ravel()[:length] == tokens).all() and (chunks.ravel()[length:] == 0).all()
