"""Embeddings -> neighbours.npy: (N, k) int64 ids, nearest first, -1 where there is none, at the end."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from indexing.errors import InputError
from indexing.neighbours import NO_CHUNK
from indexing.pipeline.index_files import (
    NO_GPU,
    check_filled,
    inverted_lists,
    read_index,
    set_nprobe,
    to_gpus,
)
from indexing.pipeline.specs import Shard, open_array, open_embeddings, read_index_spec
from indexing.pipeline.unfinished import sha256, write_rows

QUERIES_AT_ONCE = 4096  # between two events: some seconds at 10^5 chunks
# Candidates fetched beyond k at first: most own documents have fewer chunks near by.
_SURPLUS = 16
# Depth up to which a crowded query is asked again, deeper, before its document is left out of the search.
_DEEPEST = 1024


@dataclass(frozen=True)
class Retrieved:
    """`done` of `total` chunks of the embeddings `query` have their neighbours.

    step  "loading", "searching" or "saving"
    note  a sentence for people: whether the queries are in the index, or that work goes on
    """

    query: Path
    step: str
    done: int
    total: int
    note: str = ""


def retrieve_neighbours(
    query_embeddings: Sequence[Path],
    query_chunk2seq: Sequence[Path],
    outputs: Sequence[Path],
    index_file: Path,
    index_spec: Path,
    num_neighbours: int,
    margin: int | None = None,
    nprobe: int | None = None,
    gpus: bool = False,
    shard_index: bool = False,
) -> Iterator[Retrieved]:
    """For each of the query files, the neighbours of its rows in the index, written to the output of the same
    place. Chunks whose file is in the index get none of their own document.

    margin  None: all k neighbours are found whenever the index has k chunks of other documents.
            A number: the reference's filter. So many more than k are fetched, those of the chunk's own
            document are struck out, and the row ends in -1 where fewer than k are left.
    nprobe  lists searched in an index that has lists: None for a number that suits; the reference searches 1

    Stopped and run again it goes on where it was. Raises InputError (counts, arrays, spec), DatastoreError
    (index).
    """
    counts = len(query_embeddings), len(query_chunk2seq), len(outputs)
    if len(set(counts)) > 1:
        raise InputError(
            f"Expected as many query embeddings as chunk2seq files and outputs, got {counts[0]}, {counts[1]} "
            f"and {counts[2]}. Name one of each for every shard."
        )
    if num_neighbours < 1 or (margin or 0) < 0:
        raise InputError(
            f"Expected at least 1 neighbour and a margin of 0 or more, got {num_neighbours} and {margin}. "
            "Ask for more."
        )
    if nprobe is not None and nprobe < 1:
        raise InputError(f"Expected nprobe to be at least 1, got {nprobe}. Search at least one list.")
    shards = read_index_spec(index_spec)
    arrays = open_embeddings(shards, index_spec)
    asking = []  # everything that may be wrong with the arguments shows before the work begins
    for embeddings_file, chunk2seq_file in zip(query_embeddings, query_chunk2seq, strict=True):
        embeddings, chunk2seq = open_array(embeddings_file, 2), open_array(chunk2seq_file, 1)
        if len(embeddings) != len(chunk2seq):
            raise InputError(
                f"{embeddings_file} has {len(embeddings):,} rows, but {chunk2seq_file} tells the document of "
                f"{len(chunk2seq):,}. Name files of the same shard."
            )
        if embeddings.shape[1] != arrays[0].shape[1]:
            raise InputError(
                f"{embeddings_file} has vectors of width {embeddings.shape[1]}, but the index spec's have "
                f"{arrays[0].shape[1]}. Embed them alike."
            )
        asking.append((embeddings, chunk2seq, _offset(embeddings_file, shards, arrays)))
    yield Retrieved(query_embeddings[0], "loading", 0, 0)
    index = read_index(index_file)
    check_filled(index, arrays, index_file, index_spec)
    set_nprobe(index, nprobe)
    fast, on_gpus = to_gpus(index, gpus, shard_index)
    if gpus and not on_gpus:
        yield Retrieved(query_embeddings[0], "loading", 0, 0, NO_GPU)
    ivf = inverted_lists(index)
    settings = {"k": num_neighbours, "margin": margin, "nprobe": None if ivf is None else ivf.nprobe}
    made_of = {"index": sha256(index_file), **settings}

    for file, (embeddings, chunk2seq, offset), output in zip(query_embeddings, asking, outputs, strict=True):
        yield Retrieved(file, "loading", 0, len(embeddings), _seem_to_be(offset))
        owner = _Owners(chunk2seq, offset)

        def find(rows: slice, queries=embeddings, owner=owner) -> np.ndarray:
            vectors = np.ascontiguousarray(queries[rows], dtype=np.float32)
            if margin is None:
                return _all_neighbours(fast, index, vectors, num_neighbours, *owner.of(rows))
            return _margin_neighbours(fast, vectors, num_neighbours, margin, *owner.of(rows))

        made_from = {**made_of, "queries": sha256(file), "offset": offset}
        shape = (len(embeddings), num_neighbours)
        for done, note in write_rows(output, made_from, np.int64, shape, find, QUERIES_AT_ONCE):
            yield Retrieved(file, "searching", done, len(embeddings), note)
        yield Retrieved(file, "saving", len(embeddings), len(embeddings))


class _Owners:
    """Which ids of the index are of the same document as a row of the queries: always one after another."""

    def __init__(self, chunk2seq: np.ndarray, offset: int | None):
        self._chunk2seq, self._offset = chunk2seq, offset
        if offset is not None and len(chunk2seq) and (np.diff(chunk2seq) < 0).any():
            raise InputError(
                "Expected the chunks of chunk2seq in the order of their documents, got one that goes back. "
                "Make the chunks again."
            )

    def of(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """For each row the ids [first, last) of its document; 0, 0 where the queries are not in the index."""
        if self._offset is None:
            none = np.zeros(rows.stop - rows.start, dtype=np.int64)
            return none, none
        documents = self._chunk2seq[rows]
        first = np.searchsorted(self._chunk2seq, documents, side="left")
        last = np.searchsorted(self._chunk2seq, documents, side="right")
        return first + self._offset, last + self._offset


def _offset(embeddings: Path, shards: Sequence[Shard], arrays: Sequence[np.ndarray]) -> int | None:
    """Id of the first row of this file in the index, or None if it is none of the index spec's files."""
    offset = 0
    for shard, array in zip(shards, arrays, strict=True):
        if embeddings.samefile(shard["embeddings"]):
            return offset
        offset += len(array)
    return None


def _seem_to_be(offset: int | None) -> str:
    if offset is None:
        return (
            "The queries do not seem to be indexed. No need to filter neighbours from same sequence as query"
        )
    return "The queries seem to be in index. Will need to filter neighbours from same sequence as query"


def _margin_neighbours(
    index: Any, queries: np.ndarray, k: int, margin: int, first: np.ndarray, last: np.ndarray
) -> np.ndarray:
    """The reference's filter: the k + margin nearest, those of the own document struck out. Order is kept."""
    ids = index.search(queries, k + margin)[1]
    own = (ids >= first[:, None]) & (ids < last[:, None])
    ids[own] = NO_CHUNK
    return np.take_along_axis(ids, np.argsort(own, axis=1, kind="stable"), axis=1)[:, :k]


def _all_neighbours(
    fast: Any, index: Any, queries: np.ndarray, k: int, first: np.ndarray, last: np.ndarray
) -> np.ndarray:
    """The k nearest outside [first, last), all k whenever there are as many.

    fast   the index, perhaps on GPUs, for most queries; `index` is for those that are crowded out by their
           own document or whose lists hold too few
    """
    found = np.full((len(queries), k), NO_CHUNK, dtype=np.int64)
    there_are = np.minimum(k, index.ntotal - (last - first))
    open_rows = np.flatnonzero(there_are)
    depth = k + _SURPLUS
    while len(open_rows) and depth <= _DEEPEST:
        depth = min(depth, index.ntotal)
        ids = fast.search(queries[open_rows], depth)[1]
        own = (ids >= first[open_rows, None]) & (ids < last[open_rows, None])
        left_out = own | (ids == NO_CHUNK)
        order = np.argsort(left_out, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(np.where(left_out, NO_CHUNK, ids), order, axis=1)
        found[open_rows, : best.shape[1]] = best
        settled = (best != NO_CHUNK).sum(axis=1) >= there_are[open_rows]
        # Deeper there is nothing where the lists that were searched have been read to their end.
        at_end = ids[:, -1] == NO_CHUNK
        crowded = open_rows[~settled & at_end]
        found[crowded] = _outside(index, queries[crowded], k, first[crowded], last[crowded])
        open_rows = open_rows[~settled & ~at_end]
        if depth == index.ntotal:
            break
        depth *= 8
    found[open_rows] = _outside(index, queries[open_rows], k, first[open_rows], last[open_rows])
    return found


def _outside(index: Any, queries: np.ndarray, k: int, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The k nearest outside [first, last), with a search for each document, and where that finds too few with
    one that reaches everything."""
    found = np.full((len(queries), k), NO_CHUNK, dtype=np.int64)
    there_are = np.minimum(k, index.ntotal - (last - first))
    for search in (_search_without, _search_all_without):
        short = (found != NO_CHUNK).sum(axis=1) < there_are
        for begin in np.unique(first[short]):
            rows = np.flatnonzero(short & (first == begin))
            found[rows] = search(index, queries[rows], k, int(begin), int(last[rows[0]]))
    return found


def _search_without(index: Any, queries: np.ndarray, k: int, first: int, last: int) -> np.ndarray:
    """The k nearest outside [first, last) with the index's own effort, where it can leave ids out."""
    import faiss

    own = faiss.IDSelectorRange(first, last)  # both have to live until the search is over
    others = faiss.IDSelectorNot(own)
    ivf = inverted_lists(index)
    if ivf is not None:
        parameters = faiss.SearchParametersIVF(sel=others, nprobe=ivf.nprobe)
    elif isinstance(index, faiss.IndexHNSW):
        parameters = faiss.SearchParametersHNSW(sel=others, efSearch=max(64, 2 * k))
    else:
        parameters = faiss.SearchParameters(sel=others)
    if isinstance(index, faiss.IndexPreTransform):
        parameters = faiss.SearchParametersPreTransform(index_params=parameters)
    try:
        return index.search(queries, k, params=parameters)[1]
    except RuntimeError:
        return np.full((len(queries), k), NO_CHUNK, dtype=np.int64)


def _search_all_without(index: Any, queries: np.ndarray, k: int, first: int, last: int) -> np.ndarray:
    """The k nearest outside [first, last) of everything there is, as many as are in the way fetched too."""
    import faiss

    found = np.full((len(queries), k), NO_CHUNK, dtype=np.int64)
    wanted = min(index.ntotal, k + last - first)
    ivf = inverted_lists(index)
    parameters = None
    if ivf is not None:
        kept, ivf.nprobe = ivf.nprobe, ivf.nlist
    elif isinstance(index, faiss.IndexHNSW):
        parameters = faiss.SearchParametersHNSW(efSearch=index.ntotal)
    try:
        for row, query in enumerate(queries):
            ids = index.search(query[None], wanted, params=parameters)[1][0]
            ids = ids[(ids != NO_CHUNK) & ((ids < first) | (ids >= last))][:k]
            found[row, : len(ids)] = ids
    finally:
        if ivf is not None:
            ivf.nprobe = kept
    return found
