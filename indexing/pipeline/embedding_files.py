"""chunks.npy -> embeddings.npy: (N, d) float16, one vector of length 1 for each chunk's text."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexing.embedder import Embedder
from indexing.errors import DatastoreError, InputError
from indexing.pipeline.specs import open_array
from indexing.pipeline.tokens import MarkedTokenizer
from indexing.vectors import embed_rows


@dataclass(frozen=True)
class Embedded:
    """`done` of `total` chunks have their vectors; `note` is a sentence for people, or empty."""

    done: int
    total: int
    note: str = ""


class _Texts:
    """The texts of chunks, decoded when a slice of them is asked for."""

    def __init__(self, tokens: np.ndarray, tokenizer: MarkedTokenizer):
        self._tokens, self._tokenizer = tokens, tokenizer

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, rows: slice) -> list[str]:
        return self._tokenizer.decode(self._tokens[rows])


def embed_chunks(
    chunks: Path, output: Path, tokenizer: MarkedTokenizer, embedder: Embedder, batch_size: int = 64
) -> Iterator[Embedded]:
    """Write the embeddings of `chunks`, `batch_size` of them in memory at a time.

    Stopped and run again it goes on where it was; see `embed_rows`. Raises InputError (array, batch size),
    MismatchError (ids that the tokenizer does not have), DatastoreError (cannot be written).
    """
    if batch_size < 1:
        raise InputError(f"Expected a batch of at least 1 chunk, got {batch_size}. Use 64.")
    tokens = open_array(chunks, 2)
    try:
        for done in embed_rows(_Texts(tokens, tokenizer), embedder, output, np.float16, batch_size):
            yield Embedded(done, len(tokens))
    except OSError as error:
        raise DatastoreError(
            f"Cannot write {output}: {error.strerror}. Make room there, or choose another place."
        ) from error
