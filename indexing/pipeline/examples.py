"""The examples of a data spec, as training reads them: for looking at."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexing.errors import InputError
from indexing.pipeline.specs import (
    CHUNK_KEYS,
    IndexedChunks,
    open_array,
    open_chunks,
    read_data_spec,
    read_index_spec,
)

IGNORED = -100  # label of a token that is not to be predicted


@dataclass(frozen=True)
class Example:
    """One document, l chunks of m tokens with k neighbours of r.

    input_ids      (l * m,)   int32
    neighbour_ids  (l, k, r)  int32, padding where there is none
    labels         (l * m,)   int64: the next token, -100 for padding and after the last
    """

    input_ids: np.ndarray
    neighbour_ids: np.ndarray
    labels: np.ndarray


class Examples:
    """The documents of a data spec with their neighbours, memory-mapped; len() and [number].

    num_neighbours       None for all that are stored
    max_len              tokens of a document that are read, a multiple of the chunk size; None for all

    Raises InputError if the spec's files cannot be read or do not belong together.
    """

    def __init__(
        self,
        spec: Path,
        pad_id: int,
        num_neighbours: int | None = None,
        num_continuations: int = 1,
        max_len: int | None = None,
    ):
        shards, index_spec = read_data_spec(spec)
        self.shards = [open_chunks(shard, pad_id) for shard in shards]
        self.neighbours = [open_array(shard["neighbours"], 2) for shard in shards]
        indexed = [open_chunks(shard, pad_id) for shard in read_index_spec(index_spec, CHUNK_KEYS)]
        self.index = IndexedChunks(indexed, pad_id)
        self._pad_id, self._k, self._continuations = pad_id, num_neighbours, num_continuations
        sizes = sorted({store.chunk_size for store in (*self.shards, *indexed)})
        if len(sizes) > 1:
            raise InputError(f"Expected chunks of one size in {spec}, got {sizes}. Make all with one size.")
        self.chunk_size = sizes[0]
        for shard, store, rows in zip(shards, self.shards, self.neighbours, strict=True):
            if len(store) != len(rows):
                raise InputError(
                    f"{shard['neighbours']} has {len(rows):,} rows, but {shard['chunks']} has {len(store):,} "
                    "chunks. Retrieve the neighbours again."
                )
        if max_len is not None and (max_len < 1 or max_len % self.chunk_size):
            raise InputError(
                f"Expected max_len to be a multiple of the chunk size {self.chunk_size}, got {max_len}. "
                f"Use {max(1, max_len // self.chunk_size) * self.chunk_size}."
            )
        self._max_chunks = None if max_len is None else max_len // self.chunk_size
        self._starts = np.cumsum([0, *(store.num_documents for store in self.shards)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> Example:
        if not 0 <= number < len(self):
            raise InputError(
                f"There is no sequence {number}: expected 0 to {len(self) - 1:,}. Choose one of these."
            )
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        store, local = self.shards[shard], number - int(self._starts[shard])
        first = int(store.seq2chunk[local])
        last = int(store.seq2chunk[local + 1]) if local + 1 < store.num_documents else len(store)
        last = last if self._max_chunks is None else min(last, first + self._max_chunks)
        ids = np.asarray(self.neighbours[shard][first:last, : self._k])
        if ids.size and not -1 <= ids.min() <= ids.max() < len(self.index):
            raise InputError(
                f"The neighbours of sequence {number} are numbered {ids.min()} to {ids.max()}, but the index "
                f"has {len(self.index):,} chunks. Retrieve the neighbours again."
            )
        input_ids = store.tokens[first:last].reshape(-1).astype(np.int32)
        labels = np.append(input_ids[1:], self._pad_id).astype(np.int64)
        labels[labels == self._pad_id] = IGNORED
        neighbour_ids = self.index.retrieved_tokens(ids, self._continuations).astype(np.int32)
        return Example(input_ids, neighbour_ids, labels)
