"""The same training set and probes in another vocabulary, without embedding and searching them again.

Both vocabularies spell the same bytes, so a place in a shard can be told in bytes, the end mark of a document
counted as one. A new chunk reads what the old chunk at its middle reads: of each of its neighbours, the new
chunk that lies where the middle of the new one lies in the old one. A search of its own would find something
a little nearer, for a vocabulary the more so the less its chunks are like the old ones.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from indexing.chunks import CHUNK2SEQ_FILE, CHUNKS_FILE, SEQ2CHUNK_FILE, ChunkStore, tokenize
from indexing.files import save_array, write_json
from indexing.neighbours import NO_CHUNK
from indexing.pipeline.specs import (
    CHUNK_KEYS,
    Shard,
    open_array,
    open_chunks,
    read_data_spec,
    read_index_spec,
    write_data_spec,
)
from indexing.precompute import DATA_SPEC, INDEX_SPEC
from indexing.tokenizer import Tokenizer, train_byte_level_bpe


def learned(spec: Path, tokenizer: Tokenizer, pieces: int) -> Tokenizer:
    """A vocabulary of so many pieces, learned from the texts of a training set, each of them once."""
    shards = {shard["chunks"]: shard for shard in read_data_spec(spec)[0]}
    texts = (
        text for shard in shards.values() for text in _texts(open_chunks(shard, tokenizer.pad_id), tokenizer)
    )
    return train_byte_level_bpe(texts, pieces, f"{pieces:,} pieces")


def retokenised(spec: Path, own: Tokenizer, other: Tokenizer, out: Path) -> Path:
    """Write what the data spec `spec` names into `out`, cut by `other` instead of `own`; -> its data spec."""
    shards, index_spec = read_data_spec(spec)
    index, made = read_index_spec(index_spec, CHUNK_KEYS), {}
    for shard in (*index, *shards):
        if shard["chunks"] not in made:
            made[shard["chunks"]] = _Recut(shard, own, other, out / f"shard-{len(made)}")
    pieces = [made[shard["chunks"]] for shard in index]
    first = np.cumsum([0, *(piece.old[-1] for piece in pieces)])  # bytes
    old, new = (
        np.concatenate([*(starts[:-1] + f for starts, f in zip(of, first[:-1], strict=True)), first[-1:]])
        for of in ([piece.old for piece in pieces], [piece.new for piece in pieces])
    )
    described = []
    for number, shard in enumerate(shards):
        piece = made[shard["chunks"]]
        middles = (piece.new[1:] + piece.new[:-1]) / 2
        rows = np.searchsorted(piece.old, middles, side="right") - 1
        part = (middles - piece.old[rows]) / np.diff(piece.old)[rows]
        ids = np.asarray(open_array(shard["neighbours"], 2)[rows], dtype=np.int64)
        there = np.where(ids == NO_CHUNK, 0, ids)
        places = old[there] + part[:, None] * np.diff(old)[there]
        found = np.where(ids == NO_CHUNK, NO_CHUNK, np.searchsorted(new, places, side="right") - 1)
        target = out / f"neighbours-{number}.npy"
        save_array(target, found)
        described.append({**piece.files, "neighbours": target})
    write_json(out / INDEX_SPEC, [{key: str(path) for key, path in piece.files.items()} for piece in pieces])
    write_data_spec(out / DATA_SPEC, described, out / INDEX_SPEC)
    return out / DATA_SPEC


class _Recut:
    """old, new: byte at which each chunk begins, and where the last one ends"""

    def __init__(self, shard: Shard, own: Tokenizer, other: Tokenizer, folder: Path):
        before = open_chunks(shard, own.pad_id)
        documents = (tokenize(other, text) for text in _texts(before, own))
        after = ChunkStore.from_tokens(documents, other, before.chunk_size)
        folder.mkdir(parents=True)
        names = {"chunks": CHUNKS_FILE, "chunk2seq": CHUNK2SEQ_FILE, "seq2chunk": SEQ2CHUNK_FILE}
        self.files = {key: folder / name for key, name in names.items()}
        for key, array in zip(names, (after.tokens, after.chunk2seq, after.seq2chunk), strict=True):
            save_array(self.files[key], array)
        self.old, self.new = _starts(before, own), _starts(after, other)


def _texts(store: ChunkStore, tokenizer: Tokenizer) -> Iterator[str]:
    for first, last in zip(store.seq2chunk, [*store.seq2chunk[1:], len(store)], strict=True):
        yield tokenizer.decode(store.tokens[first:last].reshape(-1))


def _starts(store: ChunkStore, tokenizer: Tokenizer) -> np.ndarray:
    lengths = tokenizer.byte_counts(store.tokens.reshape(-1)).reshape(store.tokens.shape).sum(axis=1)
    ends = np.append(np.diff(store.chunk2seq) > 0, True)
    return np.concatenate([[0], np.cumsum(lengths + ends)])
