"""The two specs: which files belong together. Paths in a spec are relative to the spec.

index.spec.json   [{chunks, seq2chunk, chunk2seq, embeddings}]: the shards that answer; a chunk's id is its
                  row when they are laid end to end
data.spec.json    {"shards": [{chunks, seq2chunk, chunk2seq, neighbours, maybe embeddings}],
                   "neighbours": {"faiss_index", "index_spec"}}: the shards that ask, with what they read
"""

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from indexing import files
from indexing.chunks import ChunkStore
from indexing.errors import InputError
from indexing.manifest import SEGMENTS_FOLDER
from indexing.neighbours import NO_CHUNK
from indexing.tokenizer import TOKENIZER_FILE

CHUNK_KEYS = ("chunks", "chunk2seq", "seq2chunk")
INDEX_KEYS = (*CHUNK_KEYS, "embeddings")
DATA_KEYS = (*CHUNK_KEYS, "neighbours")

Shard = Mapping[str, Path]  # key of a spec -> file


def read_index_spec(spec: Path, keys: Sequence[str] = INDEX_KEYS) -> list[Shard]:
    """The shards of index.spec.json. Raises InputError if one of them lacks one of `keys`."""
    return _checked_shards(_read_json(spec), keys, spec)


def read_data_spec(spec: Path) -> tuple[list[Shard], Path]:
    """The shards of data.spec.json, and the path of its index spec. Raises InputError."""
    parsed = _read_json(spec)
    parsed = parsed if isinstance(parsed, dict) else {}
    neighbours = parsed.get("neighbours")
    index_spec = neighbours.get("index_spec") if isinstance(neighbours, dict) else None
    if not isinstance(index_spec, str):
        raise InputError(
            f"{spec} names no index_spec. It belongs under the key 'neighbours', beside the key 'shards'. "
            "Make it with `python -m indexing data-spec`."
        )
    return _checked_shards(parsed.get("shards"), DATA_KEYS, spec), spec.parent / index_spec


def write_index_spec(spec: Path, shards: Sequence[Shard]) -> None:
    """Keys and their order as the reference has them."""
    keys = ("chunks", "seq2chunk", "chunk2seq", "embeddings")
    spec.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(spec, [{key: _relative(shard[key], spec) for key in keys} for shard in shards])


def write_data_spec(
    spec: Path, shards: Sequence[Shard], index_spec: Path, faiss_index: Path | None = None
) -> None:
    """`faiss_index` is for people: no program reads it. None where the index is not kept in a file. A shard
    names the `embeddings` that it asked by where they are not those beside its chunks."""
    keys = ("chunks", "seq2chunk", "chunk2seq", "neighbours")
    spec.parent.mkdir(parents=True, exist_ok=True)
    neighbours = {
        "faiss_index": None if faiss_index is None else _relative(faiss_index, spec),
        "index_spec": _relative(index_spec, spec),
    }
    asked_by = [[*keys, "embeddings"] if "embeddings" in shard else keys for shard in shards]
    described = [
        {key: _relative(shard[key], spec) for key in own} for shard, own in zip(shards, asked_by, strict=True)
    ]
    files.write_json(spec, {"shards": described, "neighbours": neighbours})


def open_array(path: Path, axes: int) -> np.ndarray:
    """An array memory-mapped. Raises InputError if it cannot be, or has not so many axes."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read the array {path}: {error}. Check the paths in the spec.") from error
    if array.ndim != axes:
        raise InputError(f"Expected {path} to have {axes} axes, got {array.ndim}. Make the file again.")
    return array


def open_chunks(shard: Shard, pad_id: int) -> ChunkStore:
    """The chunks of one shard, memory-mapped, without the characters they begin at.

    Raises InputError if its files cannot be read or do not belong together.
    """
    tokens, chunk2seq = open_array(shard["chunks"], 2), open_array(shard["chunk2seq"], 1)
    if len(tokens) != len(chunk2seq):
        raise InputError(
            f"{shard['chunks']} has {len(tokens):,} chunks, but {shard['chunk2seq']} tells the document of "
            f"{len(chunk2seq):,}. Name files that were made together."
        )
    seq2chunk = open_array(shard["seq2chunk"], 1)
    _check_documents(shard, chunk2seq, seq2chunk)
    return ChunkStore(
        tokens=tokens,
        chunk2seq=chunk2seq,
        seq2chunk=seq2chunk,
        starts=np.broadcast_to(np.int64(-1), len(tokens)),
        pad_id=pad_id,
    )


def _check_documents(shard: Shard, chunk2seq: np.ndarray, seq2chunk: np.ndarray) -> None:
    """Each document's first chunk must be the first that says it is of that document."""
    for key, array in (("chunk2seq", chunk2seq), ("seq2chunk", seq2chunk)):
        if array.dtype.kind not in "iu":
            raise InputError(
                f"Expected {shard[key]} to hold whole numbers, got {array.dtype}. Make the file again."
            )
    documents = np.arange(len(seq2chunk)).astype(chunk2seq.dtype)  # else searchsorted converts all chunks
    in_order = not len(chunk2seq) or (
        bool((chunk2seq[1:] >= chunk2seq[:-1]).all()) and 0 <= chunk2seq[0] <= chunk2seq[-1] < len(documents)
    )
    if not in_order or not np.array_equal(np.searchsorted(chunk2seq, documents), seq2chunk):
        raise InputError(
            f"{shard['seq2chunk']} tells the first chunks of {len(seq2chunk):,} documents, not those "
            f"of {shard['chunk2seq']}. Name files that were made together."
        )


def tokenizer_folder(shard: Shard) -> Path | None:
    """Where the tokenizer lies that the chunks of this shard were made with, if that was noted: beside them,
    or, if the shard is a segment of a datastore, in the datastore's folder."""
    folder = shard["chunks"].absolute().parent
    places = [folder]
    if folder.parent.name == SEGMENTS_FOLDER:
        places.append(folder.parent.parent)
    return next((place for place in places if (place / TOKENIZER_FILE).is_file()), None)


def open_embeddings(shards: Sequence[Shard], spec: Path) -> list[np.ndarray]:
    """The embeddings of an index spec's shards, each (N, d), memory-mapped; d is the same in all.

    Raises InputError otherwise, or if a shard has not as many chunks.
    """
    arrays = [open_array(shard["embeddings"], 2) for shard in shards]
    widths = sorted({array.shape[1] for array in arrays})
    if len(widths) > 1:
        raise InputError(
            f"Expected embeddings of one width in all shards of {spec}, got {widths}. Embed them alike."
        )
    for shard, array in zip(shards, arrays, strict=True):
        if shard["chunks"].exists() and len(open_array(shard["chunks"], 2)) != len(array):
            raise InputError(
                f"{shard['embeddings']} has {len(array):,} rows, but {shard['chunks']} has "
                f"{len(open_array(shard['chunks'], 2)):,} chunks. Embed the chunks again."
            )
    return arrays


class IndexedChunks:
    """The shards of an index spec laid end to end: what neighbours are read from."""

    def __init__(self, shards: Sequence[ChunkStore], pad_id: int):
        self.shards, self.pad_id = list(shards), pad_id
        self.starts = np.cumsum([0, *map(len, self.shards)])  # id of each shard's first chunk; then N

    def __len__(self) -> int:
        return int(self.starts[-1])

    def retrieved_tokens(self, ids: np.ndarray, num_continuations: int = 1) -> np.ndarray:
        """Global chunk ids (..., k) -> tokens (..., k, r), r = m * (1 + num_continuations); see
        `ChunkStore.retrieved_tokens`."""
        length = self.shards[0].chunk_size * (1 + num_continuations)
        out = np.full((*ids.shape, length), self.pad_id, dtype=np.int64)
        shard_of = np.searchsorted(self.starts, ids, side="right") - 1
        for number, store in enumerate(self.shards):
            here = (shard_of == number) & (ids != NO_CHUNK)
            if here.any():
                out[here] = store.retrieved_tokens(ids[here] - self.starts[number], num_continuations)
        return out


def _relative(path: Path, spec: Path) -> str:
    return os.path.relpath(path.absolute(), spec.parent.absolute())


def _checked_shards(shards: Any, keys: Sequence[str], spec: Path) -> list[Shard]:
    are_objects = isinstance(shards, list) and all(isinstance(shard, dict) for shard in shards)
    if not (are_objects and shards and all(isinstance(s.get(key), str) for s in shards for key in keys)):
        missing = ""
        if are_objects and shards:
            number, key = next(
                (n, key) for n, s in enumerate(shards) for key in keys if not isinstance(s.get(key), str)
            )
            near = difflib.get_close_matches(key, set(shards[number]) - set(keys), n=1)
            instead = f", but {near[0]!r}" if near else ""
            missing = f"shard {number} has no path {key!r}{instead}. "
        raise InputError(
            f"Expected {spec} to list shards, each with {', '.join(keys)}; "
            f"{missing or 'got none. '}Make it with `python -m indexing index-spec` or `data-spec`."
        )
    return [
        {key: spec.parent / value for key, value in shard.items() if isinstance(value, str)}
        for shard in shards
    ]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"Cannot read the spec {path}: {error}. Make it with `python -m indexing index-spec` or "
            "`data-spec`."
        ) from error
