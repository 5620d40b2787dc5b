"""chunks.npy -> embeddings.npy: (N, d) float16, one vector of length 1 for each chunk's text."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexing.embedder import Embedder
from indexing.errors import InputError
from indexing.pipeline.specs import open_array
from indexing.pipeline.tokens import MarkedTokenizer
from indexing.pipeline.unfinished import sha256, write_rows


@dataclass(frozen=True)
class Embedded:
    """`done` of `total` chunks have their vectors; `note` is a sentence for people, or empty."""

    done: int
    total: int
    note: str = ""


def embed_chunks(
    chunks: Path, output: Path, tokenizer: MarkedTokenizer, embedder: Embedder, batch_size: int = 64
) -> Iterator[Embedded]:
    """Write the embeddings of `chunks`, `batch_size` of them in memory at a time.

    Stopped and run again it goes on where it was. Raises InputError (array, batch size), MismatchError (ids
    that the tokenizer does not have).
    """
    if batch_size < 1:
        raise InputError(f"Expected a batch of at least 1 chunk, got {batch_size}. Use 64.")
    tokens = open_array(chunks, 2)
    made_from = {
        "chunks": sha256(chunks),
        "tokenizer": tokenizer.fingerprint,
        "embedder": embedder.fingerprint,
    }

    def rows_of(rows: slice) -> np.ndarray:
        return embedder.embed(tokenizer.decode(tokens[rows])).astype(np.float16)

    shape = (len(tokens), embedder.dim)
    for done, note in write_rows(output, made_from, np.float16, shape, rows_of, batch_size):
        yield Embedded(done, len(tokens), note)
