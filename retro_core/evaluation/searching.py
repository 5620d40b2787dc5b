"""What held-out documents look into, open to be searched again: in a part of it, for more neighbours, by an
index that does not find all.

Held-out documents come with the neighbours that were found for them once. To ask what other neighbours would
be worth, the embeddings of both sides are needed: those of the datastore, which its index spec names or
which are the datastore's own, and those of the asking chunks, which lie beside their shard or are made by
the datastore's embedder.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from indexing.chunks import tokenize
from indexing.datastore import Datastore
from indexing.errors import InputError, MismatchError
from indexing.exact import nothing_found
from indexing.index import FlatIndex
from indexing.pipeline.spec_chunks import SpecChunks
from indexing.pipeline.specs import open_array, open_chunks, read_data_spec
from indexing.retokenised import RetokenisedDatastore
from indexing.retrievers import stored
from indexing.tokenizer import Tokenizer
from retro_core.evaluation.held_out import HeldOut
from retro_core.evaluation.losses import Reading

_REMEMBERED = 16  # documents whose neighbours are kept: the windows of one document are read one by one
_ROWS_AT_ONCE = 1 << 16


class Searchable:
    """Chunks with embeddings, in tokens of the model. Make one with `of_spec` or `of_datastore`.

    vectors        (N, d) float16, array-like
    documents      (N,) int64, number of each chunk's document, from 0
    allowed        (N,) bool, False for chunks of deleted documents and without ordinary tokens
    num_documents  D, deleted ones too
    """

    def __init__(
        self,
        vectors: np.ndarray,
        documents: np.ndarray,
        allowed: np.ndarray,
        num_documents: int,
        retrieved_tokens: Callable[[np.ndarray], np.ndarray],
        document_tokens: Callable[[int], np.ndarray],
        embed: Callable[[np.ndarray], np.ndarray],
    ):
        """retrieved_tokens: ids (..., k) -> (..., k, r) · document_tokens: number -> (n,) int64, unpadded ·
        embed: asking chunks (l, m) -> (l, d) float32"""
        self.vectors, self.documents, self.allowed = vectors, np.asarray(documents, dtype=np.int64), allowed
        self.num_documents = num_documents
        self.retrieved_tokens, self.document_tokens, self.embed = retrieved_tokens, document_tokens, embed
        self.exact = FlatIndex(vectors, self.documents)

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def of_spec(cls, spec: Path, tokenizer: Tokenizer) -> "Searchable":
        """What the documents of a data spec look into, which a spec knows no deleted documents of.

        Raises InputError if the index spec or the shards that ask have no embeddings, MismatchError if these
        are of different widths.
        """
        shards, index_spec = read_data_spec(Path(spec))
        store = SpecChunks.open(index_spec, tokenizer)
        if store.embeddings is None:
            raise InputError(
                f"To search again, embeddings are needed, but {index_spec} names none that can be read. Make "
                "it with `python -m indexing index-spec`, or name a datastore to look into."
            )
        embed = _known_embeddings(shards, store.embeddings.shape[1], tokenizer.pad_id, Path(spec))
        return cls._of(store, store.chunks.retrieved_tokens, _own_tokens(store), embed)

    @classmethod
    def of_datastore(
        cls, datastore: Datastore | RetokenisedDatastore, tokenizer: Tokenizer, chunk_size: int
    ) -> "Searchable":
        """A datastore as a model with this tokenizer and chunk size reads it; asking chunks are embedded by
        its embedder. Raises MismatchError for chunks of another size."""
        store = stored(datastore)

        def embed(chunks: np.ndarray) -> np.ndarray:
            return store.embedder.embed([tokenizer.decode(chunk) for chunk in chunks])

        if isinstance(datastore, RetokenisedDatastore):

            def document_tokens(number: int) -> np.ndarray:
                return tokenize(tokenizer, store.documents[number].text)[0]

            return cls._of(store, datastore.retrieved_tokens, document_tokens, embed)
        store.expect_chunks_of(chunk_size)
        return cls._of(store, store.chunks.retrieved_tokens, _own_tokens(store), embed)

    @classmethod
    def _of(cls, store: Datastore | SpecChunks, retrieved_tokens: Any, document_tokens: Any, embed: Any):
        marks = (store.tokenizer.pad_id, store.tokenizer.end_id)
        allowed = store.alive & _says_something(store.chunks.tokens, marks)
        chunks = store.chunks
        return cls(
            store.embeddings,
            chunks.chunk2seq,
            allowed,
            chunks.num_documents,
            retrieved_tokens,
            document_tokens,
            embed,
        )

    def living(self) -> np.ndarray:
        """Numbers of the documents that have a chunk which can be found."""
        return np.unique(self.documents[self.allowed])

    def within(self, documents: np.ndarray) -> np.ndarray:
        """(N,) bool: the chunks of these documents that can be found."""
        chosen = np.zeros(self.num_documents, dtype=bool)
        chosen[documents] = True
        return self.allowed & chosen[self.documents]


def asked(held_out: HeldOut, searchable: Searchable) -> dict[int, np.ndarray]:
    """Number of each held-out document -> embeddings (l, d) of its chunks, made once for many searches.
    Chunks without ordinary tokens have rows of NaN: they ask for nothing."""
    found = {}
    for number in range(len(held_out.documents)):
        chunks = held_out.chunks(number)
        marks = (
            [held_out.pad_id] if held_out.tokenizer is None else [held_out.pad_id, held_out.tokenizer.end_id]
        )
        asks = _says_something(chunks, marks)
        vectors = np.full((len(chunks), searchable.vectors.shape[1]), np.nan, dtype=np.float32)
        if asks.any():
            vectors[asks] = searchable.embed(chunks[asks])
        found[number] = vectors
    return found


# vectors (n, d), k, documents to leave out (n,) -> ids and squared distances (n, k)
Search = Callable[[np.ndarray, int, np.ndarray], tuple[np.ndarray, np.ndarray]]
# Number of a held-out document -> ids and squared distances (l, k), -1 and inf where there is nothing.
Found = dict[int, tuple[np.ndarray, np.ndarray]]


def search_all(
    held_out: HeldOut, queries: dict[int, np.ndarray], num_neighbours: int, search: Search
) -> Found:
    """What the chunks of all documents find, in one search, which leaves out of each the document itself."""
    numbers = list(queries)
    vectors = np.concatenate([queries[number] for number in numbers])
    own = np.concatenate([np.full(len(queries[n]), held_out.documents[n].own) for n in numbers])
    asks = np.flatnonzero(~np.isnan(vectors[:, 0]))
    ids, distances = nothing_found(len(vectors), num_neighbours)
    if len(asks):
        ids[asks], distances[asks] = search(vectors[asks], num_neighbours, own[asks])
    ends = np.cumsum([len(queries[number]) for number in numbers])[:-1]
    return dict(zip(numbers, zip(np.split(ids, ends), np.split(distances, ends), strict=True), strict=True))


def reading(name: str, searchable: Searchable, found: Found, num_neighbours: int) -> Reading:
    """What was found, as a way to read."""
    source = lru_cache(_REMEMBERED)(lambda document: searchable.retrieved_tokens(found[document][0]))
    return Reading(name, source, num_neighbours)


class ChosenRows:
    """Some rows of an array-like that is not to be copied."""

    def __init__(self, vectors: np.ndarray, rows: np.ndarray):
        self._vectors, self._rows = vectors, rows
        self.shape, self.dtype = (len(rows), *vectors.shape[1:]), vectors.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._vectors[self._rows[rows]]


def _says_something(tokens: np.ndarray, marks: Sequence[int]) -> np.ndarray:
    """(N, m) -> (N,) bool"""
    result = np.empty(len(tokens), dtype=bool)
    for start in range(0, len(tokens), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        result[rows] = ~np.isin(tokens[rows], marks).all(axis=1)
    return result


def _own_tokens(store: Datastore | SpecChunks) -> Callable[[int], np.ndarray]:
    """Number of a document -> its tokens (n,) int64, without the padding of its last chunk."""
    chunks = store.chunks

    def tokens(number: int) -> np.ndarray:
        last = number + 1 == chunks.num_documents
        stop = len(chunks) if last else int(chunks.seq2chunk[number + 1])
        found = np.asarray(chunks.tokens[int(chunks.seq2chunk[number]) : stop], dtype=np.int64).reshape(-1)
        there = np.flatnonzero(found != chunks.pad_id)
        return found[: int(there[-1]) + 1] if len(there) else found[:0]

    return tokens


def _known_embeddings(
    shards: Sequence[dict[str, Path]], width: int, pad_id: int, spec: Path
) -> Callable[[np.ndarray], np.ndarray]:
    """The embeddings that the asking shards name, or that lie beside them, found by the tokens of a chunk and
    of the first that is asked for with it: the same words may stand in another document, and be looked up by
    another vector there."""
    arrays: list[np.ndarray] = []
    rows: dict[bytes | tuple[bytes, bytes], tuple[int, int]] = {}
    for number, shard in enumerate(shards):
        path = shard.get("embeddings", shard["chunks"].with_name("embeddings.npy"))
        if not path.is_file():
            raise InputError(
                f"To search again, the embeddings of the asking chunks are needed, but {spec} names none for "
                f'{shard["chunks"]} and {path.name} is not beside it. Add "embeddings" to the shard in '
                "the spec, or name a datastore to look into."
            )
        array, store = open_array(path, 2), open_chunks(shard, pad_id)
        if array.shape != (len(store), width):
            raise MismatchError(
                f"Expected embeddings of shape ({len(store)}, {width}) in {path}, got {array.shape}. Embed "
                "the shard as the datastore was embedded."
            )
        arrays.append(array)
        first = b""
        for row in range(len(store)):
            tokens = np.asarray(store.tokens[row], dtype=np.int64).tobytes()
            first = tokens if row == store.seq2chunk[store.chunk2seq[row]] else first
            for key in ((first, tokens), tokens):
                rows.setdefault(key, (number, row))

    def embed(chunks: np.ndarray) -> np.ndarray:
        found = np.empty((len(chunks), width), dtype=np.float32)
        keys = [chunk.tobytes() for chunk in np.asarray(chunks, dtype=np.int64)]
        for place, tokens in enumerate(keys):
            known = rows.get((keys[0], tokens), rows.get(tokens))
            if known is None:
                raise InputError(
                    f"A held-out chunk is in no shard of {spec}, so its embedding is not known. Evaluate the "
                    "documents of that spec, or name a datastore to look into."
                )
            found[place] = arrays[known[0]][known[1]]
        return found

    return embed
