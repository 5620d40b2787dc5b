"""Token sequences with their precomputed neighbours, as batches that depend on nothing but (seed, step).

A data spec (`data.spec.json`, the reference's format) names shards of documents cut into chunks with the
neighbours of each chunk, and an index spec that names the shards the neighbours point into.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from indexing.errors import InputError
from indexing.neighbours import NO_CHUNK
from indexing.pipeline.specs import (
    CHUNK_KEYS,
    IndexedChunks,
    open_array,
    open_chunks,
    read_data_spec,
    read_index_spec,
)
from retro_core.config import RetroConfig

_PIECES, _PIECE = 64, 1024  # of chunks that are looked at


@dataclass(frozen=True)
class Window:
    """Up to `max_chunks` consecutive chunks of one document: rows [start, stop) of shard `shard`."""

    shard: int
    start: int
    stop: int
    document: int


@dataclass(frozen=True)
class Batch:
    """input_ids and labels (b, n) · neighbour_ids (b, l, k, r) · documents (b,), numbers within the shards
    laid end to end · ignoring: what is read has nothing to do with the texts, throughout."""

    input_ids: Tensor
    labels: Tensor
    neighbour_ids: Tensor
    documents: Tensor
    ignoring: bool = False


class RetroDataset:
    """The shards of one data spec, opened memory-mapped, as `model` reads them.

    num_neighbours     of each chunk's, nearest first; 0 for all that every shard has
    num_continuations  chunks after a neighbour that are read with it
    subset             text file of the documents that count, see `read_subset`; None for all

    Raises InputError if the spec or one of its files cannot be used, or not by this model.
    """

    def __init__(
        self,
        spec: Path,
        model: RetroConfig,
        num_neighbours: int,
        max_len: int,
        num_continuations: int = 1,
        subset: Path | None = None,
    ):
        self.pad_id, self.num_continuations = model.pad_token_idx, num_continuations
        self.chunk_size, self.num_embeddings = model.chunk_size, model.num_embeddings
        shards, index_spec = read_data_spec(spec)
        self.shards = [open_chunks(shard, self.pad_id) for shard in shards]
        self._neighbour_files = [shard["neighbours"] for shard in shards]
        self.neighbours = [open_array(file, 2) for file in self._neighbour_files]
        self.num_neighbours = num_neighbours or min(rows.shape[1] for rows in self.neighbours)
        # Training needs no embeddings.
        indexed = [open_chunks(shard, self.pad_id) for shard in read_index_spec(index_spec, CHUNK_KEYS)]
        self._index = IndexedChunks(indexed, self.pad_id)
        self.index_shards, self.index_starts = self._index.shards, self._index.starts
        self._check(spec, max_len)
        self.windows = list(self._windows(max_len // self.chunk_size))
        if subset is not None:
            chosen = read_subset(subset, sum(store.num_documents for store in self.shards))
            self.windows = [window for window in self.windows if window.document in chosen]

    def _check(self, spec: Path, max_len: int) -> None:
        m, k = self.chunk_size, self.num_neighbours
        for store in (*self.shards, *self.index_shards):
            if store.chunk_size != m:
                raise InputError(
                    f"The model's chunk_size is {m}, but {spec} has chunks of {store.chunk_size} tokens. "
                    "Make them equal."
                )
            lowest, largest = _range_of_ids(store.tokens)
            if lowest < 0 or largest >= self.num_embeddings:
                strange = lowest if lowest < 0 else largest
                raise InputError(
                    f"The chunks of {spec} hold token {strange}, but the model knows {self.num_embeddings}. "
                    "Name the tokenizer that they were made with, or a larger model."
                )
        for name, stores in (("document", self.shards), ("chunk to read", self.index_shards)):
            if not any(map(len, stores)):
                raise InputError(f"{spec} holds no {name}: its shards are empty. Give it some texts.")
        if max_len % m or max_len < 2 * m:
            raise InputError(
                f"max_len must be a multiple of the chunk size {m} and hold two chunks, got {max_len}. "
                f"Use {max(2, max_len // m) * m}."
            )
        if k < 1:
            raise InputError(
                f"Expected to read at least 1 neighbour, got {k}. Ask for 1 or more, or 0 for all."
            )
        for store, rows, file in zip(self.shards, self.neighbours, self._neighbour_files, strict=True):
            if len(rows) != len(store) or rows.shape[1] < k:
                raise InputError(
                    f"Expected neighbours of shape ({len(store)}, at least {k}), got {rows.shape} in {file}. "
                    "Compute the neighbours of this shard again, or ask for fewer of each chunk."
                )
            if rows.dtype.kind not in "iu":
                raise InputError(
                    f"Expected {file} to hold whole numbers, the ids of chunks, got {rows.dtype}. "
                    "Compute the neighbours of this shard again."
                )
            if len(rows) and not NO_CHUNK <= rows.min() <= rows.max() < self.index_starts[-1]:
                raise InputError(
                    f"The neighbours in {file} are numbered {rows.min()} to {rows.max()}, but the index of "
                    f"{spec} has {self.index_starts[-1]} chunks. Compute the neighbours again."
                )

    def _windows(self, max_chunks: int):
        documents_before = 0
        for number, store in enumerate(self.shards):
            ends = np.append(store.seq2chunk[1:], len(store))
            for document, (first, last) in enumerate(zip(store.seq2chunk, ends, strict=True)):
                for start in range(int(first), int(last), max_chunks):
                    yield Window(
                        number, start, min(start + max_chunks, int(last)), documents_before + document
                    )
            documents_before += store.num_documents

    def documents(self) -> np.ndarray:
        """(N,) document of each chunk of all shards, numbered as in `Window`."""
        first = np.cumsum([0, *(store.num_documents for store in self.shards)])
        return np.concatenate([store.chunk2seq + f for store, f in zip(self.shards, first, strict=False)])

    def retrieved_tokens(self, ids: np.ndarray) -> np.ndarray:
        """Global chunk ids (..., k) -> tokens (..., k, r)."""
        return self._index.retrieved_tokens(ids, self.num_continuations)

    def tokens(self, window: Window) -> np.ndarray:
        """(n,) int64, n a multiple of m; only the end may be padding."""
        return self.shards[window.shard].tokens[window.start : window.stop].astype(np.int64).reshape(-1)

    def neighbour_ids(self, window: Window) -> np.ndarray:
        """(l, k) int64 global chunk ids."""
        rows = self.neighbours[window.shard][window.start : window.stop, : self.num_neighbours]
        return np.array(rows, dtype=np.int64)

    def collate(
        self, windows: Sequence[Window], neighbour_tokens: Sequence[np.ndarray] | None = None
    ) -> Batch:
        """Windows of any length -> one batch, padded on the right. neighbour_tokens: for each window its
        (l, k, r), if not the precomputed ones."""
        m = self.chunk_size
        r = m * (1 + self.num_continuations)
        longest = max(w.stop - w.start for w in windows)
        inputs = np.full((len(windows), longest * m), self.pad_id, dtype=np.int64)
        read = np.full((len(windows), longest, self.num_neighbours, r), self.pad_id, dtype=np.int64)
        for row, window in enumerate(windows):
            tokens = self.tokens(window)
            inputs[row, : len(tokens)] = tokens
            found = (
                neighbour_tokens[row]
                if neighbour_tokens
                else self.retrieved_tokens(self.neighbour_ids(window))
            )
            read[row, : len(found)] = found
        labels = np.full_like(inputs, -100)
        # Nothing is predicted from padding either: it can stand before a text shorter than a chunk.
        padded = (inputs[:, 1:] == self.pad_id) | (inputs[:, :-1] == self.pad_id)
        labels[:, :-1] = np.where(padded, -100, inputs[:, 1:])
        return Batch(
            torch.from_numpy(inputs),
            torch.from_numpy(labels),
            torch.from_numpy(read),
            torch.tensor([w.document for w in windows]),
        )


def read_subset(path: Path, count: int) -> set[int]:
    """Numbers of documents, from 0 to count - 1, one a line; blank lines are passed over.

    Raises InputError naming the line that is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Cannot read the numbers of documents in {path}: {error}. Check the path."
        ) from error
    chosen = set()
    for place, line in enumerate(lines, 1):
        if not line.strip():
            continue
        # Documents count from 0 and have no sign.
        if not (line.strip().isascii() and line.strip().isdigit() and int(line) < count):
            raise InputError(
                f"Expected the number of a document, 0 to {count - 1:,}, in line {place} of {path}, got "
                f"{line.strip()[:40]!r}. Write one number a line."
            )
        chosen.add(int(line))
    if not chosen:
        raise InputError(f"{path} names no document. Write one number a line, or leave the subset out.")
    return chosen


def _range_of_ids(tokens: np.ndarray) -> tuple[int, int]:
    """Smallest and largest token id in up to 65,536 chunks, in pieces that are spread evenly: enough to show
    another tokenizer's ids, where all would be gigabytes."""
    starts = np.unique(np.linspace(0, max(0, len(tokens) - _PIECE), _PIECES).astype(int))
    pieces = [tokens[start : start + _PIECE] for start in starts]
    return (
        min((int(piece.min()) for piece in pieces if piece.size), default=0),
        max((int(piece.max()) for piece in pieces if piece.size), default=0),
    )


class TrainingBatches:
    """Batch number t as a function of (seed, t): any process can resume at any step.

    Windows are shuffled anew in each epoch and grouped by length, so that little of a batch is padding; a
    batch holds about `batch_size` windows of full length.

    shuffle  False keeps the order of the files, `batch_size` windows a batch, in every epoch
    """

    def __init__(self, dataset: RetroDataset, batch_size: int, seed: int, shuffle: bool = True):
        self.dataset, self.batch_size, self.seed, self.shuffle = dataset, batch_size, seed, shuffle
        self._epoch = -1
        self._batches: list[list[int]] = []
        self._load_epoch(0)
        if not self._batches:
            raise InputError(
                f"No document of the training set has more than one chunk of {dataset.chunk_size} tokens, "
                "and a first chunk reads nothing. Train on longer documents."
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._batches)

    def batch(self, step: int, copies: float = 0.0, strangers: float = 0.0, ignoring: float = 0.0) -> Batch:
        """Shares of chunks, in [0, 1], whose neighbours are not the precomputed ones:

        copies     one is replaced by the text itself, moved by a random number of tokens: what copying can be
                   learned from
        strangers  all are replaced: what ignoring can be learned from. Half by random chunks, which are
                   mostly of another kind of text; half by what a chunk of another document of the same shard
                   reads, which looks right and is about something else

        ignoring   share of batches in which all chunks read strangers
        """
        self._load_epoch(step // len(self))  # every epoch has as many batches
        rng = np.random.default_rng([self.seed, 1, step])
        windows = [self.dataset.windows[i] for i in self._batches[step % len(self)]]
        ignores = bool(ignoring) and bool(rng.random() < ignoring)
        if ignores:
            copies, strangers = 0.0, 1.0
        made = self.dataset.collate(windows, [self._read(w, copies, strangers, rng) for w in windows])
        return dataclasses.replace(made, ignoring=ignores)

    def _load_epoch(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        windows = self.dataset.windows
        if not self.shuffle:
            rows = [i for i, w in enumerate(windows) if w.stop - w.start > 1]
            starts = range(0, len(rows), self.batch_size)
            self._batches, self._epoch = [rows[i : i + self.batch_size] for i in starts], epoch
            return
        rng = np.random.default_rng([self.seed, 0, epoch])
        sizes = np.array([w.stop - w.start for w in windows])
        full = sizes.max()
        batches = []
        for size in np.unique(sizes):
            if size < 2:
                continue  # a single chunk reads nothing: no lesson in retrieval, little in language
            rows = rng.permutation(np.flatnonzero(sizes == size))
            count = max(1, round(self.batch_size * full / size))
            batches += [rows[i : i + count].tolist() for i in range(0, len(rows), count)]
        order = rng.permutation(len(batches))
        self._batches, self._epoch = [batches[i] for i in order], epoch

    def _stranger(self, window: Window, rng: np.random.Generator) -> np.ndarray:
        """(k,) global chunk ids that have nothing to do with `window`."""
        data = self.dataset
        rows, owner = data.neighbours[window.shard], data.shards[window.shard].chunk2seq
        row = int(rng.integers(len(rows)))
        if rng.random() < 0.5 or owner[row] == owner[window.start]:
            return rng.integers(0, data.index_starts[-1], data.num_neighbours)
        return np.asarray(rows[row, : data.num_neighbours])

    def _read(self, window: Window, copies: float, strangers: float, rng: np.random.Generator) -> np.ndarray:
        """What `window` reads: (l, k, r)."""
        data = self.dataset
        ids = data.neighbour_ids(window)
        strange = rng.random(len(ids)) < strangers
        for chunk in np.flatnonzero(strange):
            ids[chunk] = self._stranger(window, rng)
        found = data.retrieved_tokens(ids)
        m, length = data.chunk_size, found.shape[-1]
        text = data.tokens(window)
        for chunk in np.flatnonzero(~strange & (rng.random(len(ids)) < copies)):
            # From half a chunk before the asking chunk to a chunk after it: the text to be predicted is in
            # there, but never at the same place, so that it has to be found by its content.
            start = max(0, chunk * m + int(rng.integers(-m // 2, m)))
            piece = text[start : start + length]
            copy = np.full(length, data.pad_id, dtype=np.int64)
            copy[: len(piece)] = piece
            found[chunk, rng.integers(found.shape[1])] = copy
        return found
