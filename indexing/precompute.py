"""Neighbours of training chunks, found once and stored beside them, in the reference's file formats.

A *shard* is a folder with chunks.npy, chunk2seq.npy, seq2chunk.npy and embeddings.npy; a datastore is as many
as it has segments, in their order. The index is all index shards one after the other; a neighbour's id is
its place in that row.

    NN-SHARD.neighbours.npy   (N, k) int64 ids, nearest first, -1 where there is none, at the end
    index.spec.json           [{chunks, seq2chunk, chunk2seq, embeddings}], in the order of the ids
    data.spec.json            {"shards": [{chunks, seq2chunk, chunk2seq, neighbours}],
                               "neighbours": {"faiss_index", "index_spec"}}

Paths in a spec are relative to it. The flat index is not stored, so "faiss_index" is null.

With a `first_chunk_weight` each chunk is looked up, and found, together with its document's first, see
`beginnings`. Each shard then has these vectors in

    NN-SHARD.embeddings.npy   (N, d) float16, each row of length 1

and the specs name them in the place of the shard's own, so whoever searches again (other k, part of the
datastore, an approximate index) searches by them too.
"""

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexing import catalogue
from indexing.beginnings import FIRST_CHUNK_WEIGHT, MOST_WEIGHT, together
from indexing.catalogue import CATALOGUE_FILE
from indexing.chunks import CHUNK2SEQ_FILE, CHUNKS_FILE, SEQ2CHUNK_FILE
from indexing.errors import DatastoreError, InputError
from indexing.index import FlatIndex
from indexing.manifest import SEGMENTS_FOLDER
from indexing.neighbours import NO_CHUNK
from indexing.pipeline.neighbour_files import QUERIES_AT_ONCE
from indexing.pipeline.specs import write_data_spec, write_index_spec
from indexing.pipeline.unfinished import sha256, write_rows
from indexing.segment import EMBEDDINGS_FILE, Stacked
from indexing.tokenizer import TOKENIZER_FILE, Tokenizer

INDEX_SPEC = "index.spec.json"
DATA_SPEC = "data.spec.json"

_CHUNKS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class PrecomputeEvent:
    """`done` of `total` chunks of the shard in the folder `shard` have their neighbours."""

    shard: str
    done: int
    total: int


@dataclass(frozen=True)
class _Shard:
    name: str
    folder: Path
    embeddings: np.ndarray  # (N, d) float16
    documents: np.ndarray  # (N,) int64, numbered within the shard
    first_chunks: np.ndarray  # (D,) rows of the documents' first chunks
    has_text: np.ndarray  # (N,) bool: False for chunks of deleted documents, and without ordinary tokens
    embeddings_file: Path

    @property
    def files(self) -> dict[str, Path]:
        return {
            "chunks": self.folder / CHUNKS_FILE,
            "seq2chunk": self.folder / SEQ2CHUNK_FILE,
            "chunk2seq": self.folder / CHUNK2SEQ_FILE,
            "embeddings": self.embeddings_file,
        }


def nearest_neighbours(
    queries: np.ndarray,
    base: np.ndarray,
    k: int,
    query_documents: np.ndarray | None = None,
    base_documents: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """queries (n, d) against base (N, d) -> ids (n, k) int64, squared distances (n, k) float32.

    query_documents (n,) and base_documents (N,) number documents globally: a query is never answered
    with a chunk of its own document. A query document of -1 excludes nothing. Missing neighbours are -1
    and inf, at the end.
    """
    return FlatIndex(base, base_documents).search(queries, k, exclude=query_documents)


def precompute_neighbours(
    query_shards: Sequence[Path],
    index_shards: Sequence[Path],
    k: int,
    out: Path,
    first_chunk_weight: float = 0.0,
) -> Iterator[PrecomputeEvent]:
    """Find k neighbours in `index_shards` for every chunk of `query_shards`; write the files above to `out`.

    A chunk of a shard that is itself in the index gets no neighbour from its own document. The specs are
    written last, so that a folder with data.spec.json is complete.

    first_chunk_weight  see above; 0 searches by the embeddings as they are, as the paper and the reference do

    Stopped and run again it goes on where it was. Raises InputError (nothing to do), DatastoreError (not a
    shard, or embeddings of different widths).
    """
    if not 0 <= first_chunk_weight <= MOST_WEIGHT:  # NaN too
        raise InputError(
            f"Expected a weight of the first chunk from 0 to {MOST_WEIGHT}, got {first_chunk_weight:g}. Use "
            f"{FIRST_CHUNK_WEIGHT}, or 0 for none."
        )
    if k < 1 or not query_shards or not index_shards:
        raise InputError(
            f"Expected at least one shard to ask, one to search and k of 1 or more, got {len(query_shards)}, "
            f"{len(index_shards)} and {k}."
        )
    indexed = [shard for folder in index_shards for shard in _open(folder)]
    asking = [shard for folder in query_shards for shard in _open(folder)]
    widths = {shard.name: shard.embeddings.shape[1] for shard in (*indexed, *asking)}
    if len(set(widths.values())) > 1:
        raise DatastoreError(
            f"Expected embeddings of one width in all shards, got {widths}. Embed them alike."
        )

    if len({shard.folder for shard in indexed}) < len(indexed):
        raise InputError("Expected each index shard once, got one of them twice. Leave the repeated one out.")
    out.mkdir(parents=True, exist_ok=True)
    (out / DATA_SPEC).unlink(missing_ok=True)
    if first_chunk_weight:
        named = {shard.folder: shard for shard in (*asking, *indexed)}
        for number, (folder, shard) in enumerate(named.items()):
            file = out / f"{number:02d}-{shard.name}.{EMBEDDINGS_FILE}"
            named[folder] = _with_first_chunks(shard, first_chunk_weight, file)
        indexed, asking = ([named[shard.folder] for shard in shards] for shards in (indexed, asking))

    first_document = np.cumsum([0, *(len(shard.first_chunks) for shard in indexed)])[:-1]
    documents = np.concatenate([s.documents + f for s, f in zip(indexed, first_document, strict=True)])
    allowed = np.concatenate([shard.has_text for shard in indexed])
    index = FlatIndex(Stacked([shard.embeddings for shard in indexed]), documents)
    first_of = {shard.folder: first for shard, first in zip(indexed, first_document, strict=True)}
    hashes = [_hashes(shard) for shard in indexed]

    described = []
    for number, shard in enumerate(asking):
        total = len(shard.embeddings)
        first = first_of.get(shard.folder)

        def find(rows: slice, shard=shard, first=first) -> np.ndarray:
            found = np.full((rows.stop - rows.start, k), NO_CHUNK, dtype=np.int64)
            asks = np.flatnonzero(shard.has_text[rows])
            ids = rows.start + asks
            own = None if first is None else shard.documents[ids] + first
            if len(ids):
                found[asks] = index.search(shard.embeddings[ids], k, exclude=own, allowed=allowed)[0]
            return found

        output = out / f"{number:02d}-{shard.name}.neighbours.npy"
        made_from = {"index": hashes, "queries": _hashes(shard), "k": k}
        for done, _ in write_rows(output, made_from, np.int64, (total, k), find, QUERIES_AT_ONCE):
            yield PrecomputeEvent(shard.name, done, total)
        described.append({**shard.files, "neighbours": output})
        if not first_chunk_weight:  # those beside the chunks are meant, as in the reference's specs
            del described[-1]["embeddings"]
    write_index_spec(out / INDEX_SPEC, [shard.files for shard in indexed])
    write_data_spec(out / DATA_SPEC, described, out / INDEX_SPEC)


def _with_first_chunks(shard: _Shard, weight: float, file: Path) -> _Shard:
    """The shard with other vectors, which are written to `file`; see above. A first chunk without ordinary
    tokens says nothing and weighs nothing."""

    def rows_of(rows: slice) -> np.ndarray:
        first = shard.first_chunks[shard.documents[rows]]
        return together(shard.embeddings[rows], shard.embeddings[first], weight * shard.has_text[first, None])

    made_from = {"of": _hashes(shard), "first_chunk_weight": weight}
    for _ in write_rows(file, made_from, np.float16, shard.embeddings.shape, rows_of, _CHUNKS_AT_ONCE):
        pass
    vectors = np.load(file, mmap_mode="r", allow_pickle=False)
    return dataclasses.replace(shard, embeddings=vectors, embeddings_file=file)


def _open(folder: Path) -> list[_Shard]:
    folder = Path(folder).resolve()
    if not (folder / CATALOGUE_FILE).is_file():
        return [_open_shard(folder, folder.name, folder, ())]
    state = catalogue.read(folder)
    shards = []
    for segment in state.segments:
        name = folder.name if len(state.segments) == 1 else f"{folder.name}-{segment.name}"
        deleted = state.deleted.get(segment.name, ())
        shards.append(_open_shard(folder / SEGMENTS_FOLDER / segment.name, name, folder, deleted))
    return shards


def _open_shard(folder: Path, name: str, of: Path, deleted: Collection[int]) -> _Shard:
    """The shard in `folder`, of a datastore in the folder `of` if its tokenizer lies there."""
    try:
        tokens, documents, first_chunks, embeddings = (
            np.load(folder / name, mmap_mode="r", allow_pickle=False)
            for name in (CHUNKS_FILE, CHUNK2SEQ_FILE, SEQ2CHUNK_FILE, EMBEDDINGS_FILE)
        )
    except (OSError, ValueError) as error:
        raise DatastoreError(f"{name!r} is not a shard of chunks: {error}. Build it first.") from error
    if not len(tokens) == len(documents) == len(embeddings):
        raise DatastoreError(
            f"Shard {name!r} has {len(tokens)} chunks, {len(documents)} document numbers and "
            f"{len(embeddings)} embeddings; expected as many of each. Build it again."
        )
    has_text = ~np.isin(documents, list(deleted))
    if (of / TOKENIZER_FILE).is_file():
        tokenizer = Tokenizer.load(of)
        for start in range(0, len(tokens), _CHUNKS_AT_ONCE):
            rows = slice(start, start + _CHUNKS_AT_ONCE)
            has_text[rows] &= ~np.isin(tokens[rows], (tokenizer.pad_id, tokenizer.end_id)).all(axis=1)
    return _Shard(
        name,
        folder,
        embeddings,
        np.asarray(documents, dtype=np.int64),
        np.asarray(first_chunks, dtype=np.int64),
        has_text,
        folder / EMBEDDINGS_FILE,
    )


def _hashes(shard: _Shard) -> list[str]:
    """Of everything that the neighbours depend on."""
    text = hashlib.sha256(np.packbits(shard.has_text).tobytes()).hexdigest()
    return [sha256(shard.files["embeddings"]), sha256(shard.files["chunk2seq"]), text]
