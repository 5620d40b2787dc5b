"""Documents cut into chunks of m tokens, as arrays: the store that neighbours are read from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexing import files
from indexing.chunking import split
from indexing.errors import DatastoreError
from indexing.neighbours import NO_CHUNK
from indexing.tokenizer import Tokenizer

CHUNKS_FILE = "chunks.npy"  # (N, m) uint16, or int32 where the vocabulary needs it
CHUNK2SEQ_FILE = "chunk2seq.npy"  # (N,) int32
SEQ2CHUNK_FILE = "seq2chunk.npy"  # (D,) int64
STARTS_FILE = "starts.npy"  # (N,) int64


@dataclass(frozen=True)
class ChunkStore:
    """Chunks of some documents. A chunk never crosses a document's end.

    tokens     (N, m)  token ids, the last chunk of a document padded on the right
    chunk2seq  (N,)    document of each chunk
    seq2chunk  (D,)    first chunk of each document
    starts     (N,)    character of the document's text at which the chunk begins
    """

    tokens: np.ndarray
    chunk2seq: np.ndarray
    seq2chunk: np.ndarray
    starts: np.ndarray
    pad_id: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def chunk_size(self) -> int:
        return self.tokens.shape[1]

    @property
    def num_documents(self) -> int:
        return len(self.seq2chunk)

    @classmethod
    def from_tokens(
        cls, documents: Iterable[tuple[np.ndarray, np.ndarray]], tokenizer: Tokenizer, chunk_size: int
    ) -> "ChunkStore":
        """Cut documents given as (token ids (n,), character starts (n,)); see `tokenize`."""
        tokens, chunk2seq, seq2chunk, starts = [], [], [], []
        count = 0
        dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
        for number, (ids, characters) in enumerate(documents):
            chunks = split(ids.astype(dtype), tokenizer.pad_id, chunk_size)
            tokens.append(chunks)
            starts.append(characters[::chunk_size] if len(ids) else np.zeros(1, dtype=np.int64))
            seq2chunk.append(count)
            chunk2seq.append(np.full(len(chunks), number, dtype=np.int32))
            count += len(chunks)
        if not tokens:
            raise DatastoreError("Expected at least one document to cut into chunks, got none.")
        return cls(
            tokens=np.concatenate(tokens),
            chunk2seq=np.concatenate(chunk2seq),
            seq2chunk=np.asarray(seq2chunk, dtype=np.int64),
            starts=np.concatenate(starts).astype(np.int64),
            pad_id=tokenizer.pad_id,
        )

    @classmethod
    def load(cls, folder: Path, pad_id: int) -> "ChunkStore":
        """Open the arrays of `folder`, memory-mapped. Raises DatastoreError if they do not fit together."""
        try:
            tokens, chunk2seq, seq2chunk, starts = (
                np.load(folder / name, mmap_mode="r", allow_pickle=False)
                for name in (CHUNKS_FILE, CHUNK2SEQ_FILE, SEQ2CHUNK_FILE, STARTS_FILE)
            )
        except (OSError, ValueError) as error:
            raise DatastoreError(f"Cannot read the chunks in {folder}: {error}. Build it again.") from error
        store = cls(tokens, chunk2seq, seq2chunk, starts, pad_id)
        if tokens.ndim != 2 or not len(tokens) == len(chunk2seq) == len(starts) or not len(seq2chunk):
            raise DatastoreError(
                f"The arrays in {folder} disagree: {CHUNKS_FILE} has shape {tokens.shape}, "
                f"{CHUNK2SEQ_FILE} {chunk2seq.shape}, {STARTS_FILE} {starts.shape}. Build it again."
            )
        return store

    def save(self, folder: Path) -> None:
        files.save_array(folder / CHUNKS_FILE, self.tokens)
        files.save_array(folder / CHUNK2SEQ_FILE, self.chunk2seq)
        files.save_array(folder / SEQ2CHUNK_FILE, self.seq2chunk)
        files.save_array(folder / STARTS_FILE, self.starts)

    def retrieved_tokens(self, ids: np.ndarray, num_continuations: int = 1) -> np.ndarray:
        """ids (..., k) -> tokens (..., k, r) int64, r = m * (1 + num_continuations).

        The chunk, then the chunks that follow it in the same document; padding past the document's end
        and for missing ids.
        """
        ids = np.asarray(ids, dtype=np.int64)
        result = np.full((*ids.shape, 1 + num_continuations, self.chunk_size), self.pad_id, dtype=np.int64)
        present = ids != NO_CHUNK
        length = (1 + num_continuations) * self.chunk_size
        if not present.any():  # nor need there be any chunk
            return result.reshape(*ids.shape, length)
        document = self.chunk2seq[np.where(present, ids, 0)]
        for step in range(1 + num_continuations):
            rows = np.minimum(np.where(present, ids + step, 0), len(self) - 1)
            inside = present & (ids + step < len(self)) & (self.chunk2seq[rows] == document)
            result[inside, step] = self.tokens[rows[inside]]
        return result.reshape(*ids.shape, length)


def tokenize(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, np.ndarray]:
    """One document's token ids with the end mark, and the character where each begins; both (n,)."""
    ids, starts = tokenizer.encode_with_offsets(text)
    return np.append(ids, tokenizer.end_id), np.append(starts, len(text))
