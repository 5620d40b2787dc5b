"""All chunk arithmetic, in one place (Borgeaud et al. 2021, section 2.4 and listing 1).

A sequence of n tokens has n // m complete chunks of m tokens. Chunk u *asks*: its tokens are the query.
Its neighbours are *read* by the m positions that start at the chunk's last token,

    u*m + m-1  ...  u*m + 2m-2        (the attending chunk)

whose outputs predict the next m tokens,

    (u+1)*m    ...  (u+2)*m - 1       (the read window)

so the first m-1 positions read nothing and causality holds. Indices are 0-based throughout.
"""

import numpy as np

CHUNK_SIZE = 64  # m of the paper


def num_chunks(num_tokens: int, chunk_size: int = CHUNK_SIZE) -> int:
    """Complete chunks in a sequence: n // m."""
    return num_tokens // chunk_size


def chunk_read_at(position: int, chunk_size: int = CHUNK_SIZE) -> int:
    """The chunk whose neighbours position `position` attends to, or -1 for the first m-1 positions."""
    return (position + 1) // chunk_size - 1


def attending_positions(chunk: int, num_tokens: int, chunk_size: int = CHUNK_SIZE) -> range:
    """Positions that attend to the neighbours of `chunk`, cut at the end of the sequence."""
    start = chunk * chunk_size + chunk_size - 1
    return range(min(start, num_tokens), min(start + chunk_size, num_tokens))


def read_window(chunk: int, num_tokens: int, chunk_size: int = CHUNK_SIZE) -> range:
    """Tokens predicted with the neighbours of `chunk`: the attending positions moved on by one."""
    start = (chunk + 1) * chunk_size
    return range(min(start, num_tokens), min(start + chunk_size, num_tokens))


def split(tokens: np.ndarray, pad_id: int, chunk_size: int = CHUNK_SIZE) -> np.ndarray:
    """Cut one document (n,) into chunks (l, m), the last one padded on the right.

    A document of no tokens takes one chunk of padding, as in the reference's files, so that every
    document has a first chunk.
    """
    tokens = np.asarray(tokens)
    count = max(1, -(-len(tokens) // chunk_size))
    chunks = np.full(count * chunk_size, pad_id, dtype=tokens.dtype)
    chunks[: len(tokens)] = tokens
    return chunks.reshape(count, chunk_size)
