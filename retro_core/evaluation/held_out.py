"""Held-out documents: texts that the model has not learned, cut into windows, and what they may read.

A document of n tokens has ceil(n / m) chunks. Each chunk asks once, whatever window it is read in, so its
neighbours are the same in all of them.

Sliding windows (Borgeaud et al. 2021, section 4.4: 2,048 tokens, moved on by 1,024): a window reads the
tokens start ... stop - 1 of a document and scores those that no earlier window has scored. Position t
predicts token t + 1, so every token but a document's first is scored exactly once, also where windows do not
overlap. Windows begin at chunk borders.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from indexing.chunking import split
from indexing.chunks import tokenize
from indexing.client import RemoteRetriever
from indexing.corpus import Document
from indexing.errors import DatastoreError, InputError
from indexing.index import FlatIndex
from indexing.neighbours import NO_CHUNK, Neighbours, Retriever, for_text
from indexing.pipeline.spec_chunks import SpecChunks
from indexing.pipeline.specs import CHUNK_KEYS, INDEX_KEYS, open_embeddings, read_data_spec, read_index_spec
from indexing.retrievers import Filtered, Reader, stored
from indexing.segment import stacked
from indexing.tokenizer import Tokenizer
from retro_core.config import RetroConfig
from retro_core.dataset import RetroDataset

Searched = Reader | SpecChunks  # what evaluation can look into

WINDOW, STRIDE = 2048, 1024  # tokens, section 4.4
_AT_LEAST = 10  # neighbours are looked up at once: leakage asks for them, and embedding is what takes time
_TITLE_TOKENS, _TITLE_LENGTH = 40, 80  # a text without a title is called by its beginning


@dataclass(frozen=True)
class Window:
    """Reads the tokens start ... stop - 1 of a document, in order, and scores the tokens first ... last."""

    document: int
    start: int
    stop: int
    first: int
    last: int

    @property
    def scored(self) -> range:
        """Numbers, within the document, of the tokens that are scored here."""
        return range(self.first, self.last + 1)


@dataclass(frozen=True)
class HeldOutDocument:
    """tokens (n,) ids of the model's tokenizer, the end mark among them, no padding · own: number of the same
    document among those that are looked into, of which it gets no neighbours; -1 if it is not there"""

    title: str
    tokens: np.ndarray
    own: int = -1


class HeldOut:
    """Held-out documents of one probe. Make one with `from_spec`, `from_dataset` or `from_texts`.

    name            of the probe
    documents       D of them, numbered from 0
    chunk_size, pad_id
    num_neighbours  k: how many are known of each chunk; a reading may take fewer
    windows         in the order of the documents
    tokenizer       the model's; None if bytes and words are not asked for
    searched        what can be looked into for other neighbours (BM25, random, oracle): a datastore as the
                    model reads it, or an index spec's chunks; None if there is nothing but the neighbours
    """

    def __init__(
        self,
        name: str,
        documents: Sequence[HeldOutDocument],
        neighbours: Callable[[int, int], Neighbours],
        *,
        chunk_size: int,
        pad_id: int,
        num_neighbours: int,
        tokenizer: Tokenizer | None = None,
        searched: Searched | None = None,
        window: int | None = None,
        stride: int | None = None,
    ):
        """neighbours: number of a document of n tokens and k -> those of its chunks, leading axis
        (ceil(n / m),), k of each; or fewer if k is more than num_neighbours and no more are known

        window  tokens, a multiple of the chunk size; None for the paper's 2,048, or as many whole chunks
        stride  None for half a window

        Raises InputError for windows that cannot be, and if there is no token to predict.
        """
        self.name, self.documents, self._neighbours_of = name, list(documents), neighbours
        self.chunk_size, self.pad_id, self.num_neighbours = chunk_size, pad_id, num_neighbours
        self.tokenizer, self.searched = tokenizer, searched
        self.window = default_window(chunk_size) if window is None else window
        self.stride = default_stride(self.window, chunk_size) if stride is None else stride
        self.windows = [
            each
            for number, document in enumerate(self.documents)
            for each in sliding_windows(number, len(document.tokens), self.window, self.stride, chunk_size)
        ]
        if not self.windows:
            raise InputError("The held-out documents have no token to predict. Give documents of some words.")

    @classmethod
    def from_spec(
        cls,
        name: str,
        spec: Path,
        config: RetroConfig,
        tokenizer: Tokenizer | None = None,
        num_neighbours: int | None = None,
        window: int | None = None,
        stride: int | None = None,
    ) -> "HeldOut":
        """The documents of a data spec with their precomputed neighbours.

        num_neighbours  None for all that are stored

        Distances are known where the shard's embeddings lie beside its chunks, as `embeddings.npy` or as an
        entry "embeddings" of the spec, and the index spec has them too. Raises InputError if the spec or one
        of its files cannot be used, or not by a model of this config.
        """
        data = RetroDataset(Path(spec), config, num_neighbours or 0, 2 * config.chunk_size)
        return cls.from_dataset(name, data, tokenizer, window, stride, Path(spec))

    @classmethod
    def from_dataset(
        cls,
        name: str,
        data: RetroDataset,
        tokenizer: Tokenizer | None = None,
        window: int | None = None,
        stride: int | None = None,
        spec: Path | None = None,
    ) -> "HeldOut":
        """The documents that `data` has windows of, whatever these windows are. With the path of its spec
        distances are known, and which documents are themselves in the index."""
        measured = _Measured.open(spec) if spec is not None else None
        m, k, wanted = data.chunk_size, data.num_neighbours, {window.document for window in data.windows}
        documents, places = [], []
        before = 0
        for shard, store in enumerate(data.shards):
            ends = np.append(store.seq2chunk[1:], len(store))
            for number, (first, stop) in enumerate(zip(store.seq2chunk, ends, strict=True)):
                if before + number not in wanted:
                    continue
                first, stop = int(first), int(stop)
                last = np.flatnonzero(np.asarray(store.tokens[stop - 1]) != data.pad_id)
                count = (stop - first - 1) * m + (int(last[-1]) + 1 if len(last) else 0)
                tokens = store.tokens[first:stop].reshape(-1)[:count]
                own = -1 if measured is None else measured.own(shard, number)
                documents.append(HeldOutDocument(_beginning(tokens, tokenizer), tokens, own))
                places.append((shard, first, stop))
            before += store.num_documents

        marks = (data.pad_id, data.pad_id if tokenizer is None else tokenizer.end_id)

        @cache
        def says_something() -> np.ndarray:
            return np.concatenate([~np.isin(store.tokens, marks).all(axis=1) for store in data.index_shards])

        def neighbours(document: int, wanted: int) -> Neighbours:
            shard, first, stop = places[document]
            ids = np.array(data.neighbours[shard][first:stop, :wanted], dtype=np.int64)
            distances = np.full(ids.shape, np.inf, dtype=np.float32)
            if measured is not None and ids.shape[1] < wanted and measured.known(shard):
                own = documents[document].own
                ids, distances = measured.nearest(shard, first, stop, wanted, own, says_something())
                silent = np.isin(data.shards[shard].tokens[first:stop], marks).all(axis=1)
                ids[silent], distances[silent] = NO_CHUNK, np.inf
            elif measured is not None:
                distances = measured.distances(shard, first, stop, ids)
            return Neighbours(ids, distances, data.retrieved_tokens(ids), data.pad_id)

        searched = None
        if tokenizer is not None:
            searched = SpecChunks(f"what {name} reads", data.index_shards, tokenizer, data.num_continuations)
        return cls(
            name,
            documents,
            neighbours,
            chunk_size=m,
            pad_id=data.pad_id,
            num_neighbours=k,
            tokenizer=tokenizer,
            searched=searched,
            window=window,
            stride=stride,
        )

    @classmethod
    def from_texts(
        cls,
        name: str,
        documents: Iterable[Document],
        config: RetroConfig,
        tokenizer: Tokenizer,
        datastore: Reader,
        num_neighbours: int,
        retriever: Retriever | None = None,
        window: int | None = None,
        stride: int | None = None,
    ) -> "HeldOut":
        """Texts whose chunks are looked up when they are first read, then remembered.

        datastore  as the model reads it (`indexing.retokenised.open_for`)
        retriever  that looks into it; by default its nearest chunks are taken

        A text whose id is that of a document in the datastore gets no neighbours from that document.
        """
        held = []
        for document in documents:
            tokens, _ = tokenize(tokenizer, document.text)
            held.append(HeldOutDocument(document.title, tokens, _number_in(datastore, document.id)))
        source = _LookedUp(
            held, datastore if retriever is None else retriever, num_neighbours, config.chunk_size,
            tokenizer.pad_id,
        )  # fmt: skip
        return cls(
            name,
            held,
            source.neighbours,
            chunk_size=config.chunk_size,
            pad_id=tokenizer.pad_id,
            num_neighbours=num_neighbours,
            tokenizer=tokenizer,
            searched=datastore,
            window=window,
            stride=stride,
        )

    def reading_from(
        self,
        datastore: Reader | None,
        num_neighbours: int,
        retriever: Retriever | None = None,
    ) -> "HeldOut":
        """The same documents with other neighbours: looked up when they are first read, then remembered.

        datastore  as the model reads it; None with a retriever that needs none (a service)
        retriever  by default the datastore's nearest chunks are taken
        """
        documents = [replace(document, own=-1) for document in self.documents]
        source = _LookedUp(
            documents, datastore if retriever is None else retriever, num_neighbours, self.chunk_size,
            self.pad_id,
        )  # fmt: skip
        return HeldOut(
            self.name,
            documents,
            source.neighbours,
            chunk_size=self.chunk_size,
            pad_id=self.pad_id,
            num_neighbours=num_neighbours,
            tokenizer=self.tokenizer,
            searched=datastore,
            window=self.window,
            stride=self.stride,
        )

    @property
    def num_tokens(self) -> int:
        """Scored tokens."""
        return sum(len(window.scored) for window in self.windows)

    @cached_property
    def titles(self) -> list[str]:
        return [document.title for document in self.documents]

    def tokens(self, document: int) -> np.ndarray:
        """(n,) int64"""
        return np.asarray(self.documents[document].tokens, dtype=np.int64)

    def chunks(self, document: int) -> np.ndarray:
        """(ceil(n / m), m) int64, the last one padded."""
        return split(self.tokens(document), self.pad_id, self.chunk_size)

    def neighbours(self, document: int, num_neighbours: int | None = None) -> Neighbours:
        """Of all chunks of a document, leading axis (ceil(n / m),), k of each: `num_neighbours` by default.
        More than these are looked up where that is possible; where not, there are fewer."""
        return self._neighbours_of(document, num_neighbours or self.num_neighbours)

    def most_neighbours(self, num_neighbours: int) -> int:
        """So many of each chunk are known if so many are asked for."""
        return self.neighbours(self.windows[0].document, num_neighbours).ids.shape[-1]

    def num_bytes(self, document: int) -> np.ndarray:
        """(n,) int64: UTF-8 bytes of each token's text; their sum is the bytes of the document's text. Zeros
        without a tokenizer."""
        tokens = self.tokens(document)
        if self.tokenizer is None:
            return np.zeros(len(tokens), dtype=np.int64)
        return self.tokenizer.byte_counts(tokens)

    def only(self, documents: Sequence[int]) -> "HeldOut":
        """The documents with these numbers, in this order and numbered anew. Raises InputError if that leaves
        no token to predict."""
        chosen = list(documents)
        return HeldOut(
            self.name,
            [self.documents[number] for number in chosen],
            lambda number, wanted: self.neighbours(chosen[number], wanted),
            chunk_size=self.chunk_size,
            pad_id=self.pad_id,
            num_neighbours=self.num_neighbours,
            tokenizer=self.tokenizer,
            searched=self.searched,
            window=self.window,
            stride=self.stride,
        )

    def drawn(self, count: int, seed: int = 0) -> "HeldOut":
        """So many documents drawn at random, in their order; all if there are not more."""
        if count >= len(self.documents):
            return self
        rng = np.random.default_rng(seed)
        return self.only(sorted(rng.choice(len(self.documents), count, replace=False).tolist()))


def default_window(chunk_size: int) -> int:
    """2,048 tokens, in whole chunks."""
    return max(1, WINDOW // chunk_size) * chunk_size


def default_stride(window: int, chunk_size: int) -> int:
    """Half a window, in whole chunks."""
    return max(1, window // chunk_size // 2) * chunk_size


def sliding_windows(
    document: int, num_tokens: int, window: int, stride: int, chunk_size: int
) -> list[Window]:
    """The windows of a document of n tokens; none if it has no second token.

    Raises InputError unless 0 < stride <= window and both are multiples of the chunk size.
    """
    m = chunk_size
    if window % m or stride % m or not 0 < stride <= window:
        raise InputError(
            f"Windows and their stride must be multiples of the chunk size {m}, and the stride at most a "
            f"window, got {window} and {stride}. Use {max(1, window // m) * m} and "
            f"{default_stride(max(m, window), m)}."
        )
    found, scored = [], 0  # the last token that is scored so far
    start = 0
    while scored < num_tokens - 1:
        stop = min(start + window, num_tokens)
        last = min(stop, num_tokens - 1)
        found.append(Window(document, start, stop, scored + 1, last))
        scored, start = last, start + stride
    return found


def retrieved(
    retriever: Retriever, chunks: np.ndarray, num_neighbours: int, pad_id: int, own: int = -1
) -> Neighbours:
    """What a retriever finds for all chunks (l, m), from the first on, of one document that has the number
    `own` in what it looks into (-1: is not there), and so gets nothing from itself; a service cannot leave
    documents out. Where leakage is filtered, the chunk after each is what must not leak."""
    more: dict[str, np.ndarray] = {}
    if own >= 0 and not isinstance(retriever, RemoteRetriever):
        more["exclude_documents"] = np.full(len(chunks), own)
    if isinstance(retriever, Filtered):
        more["continuations"] = np.concatenate([chunks[1:], np.full_like(chunks[:1], pad_id)])
    if len(chunks):
        retriever = for_text(retriever, chunks[0])
    return retriever.retrieve(chunks, num_neighbours, **more)


class _LookedUp:
    """Neighbours of documents, looked up when they are first asked for and kept."""

    def __init__(
        self,
        documents: Sequence[HeldOutDocument],
        retriever: Retriever,
        num_neighbours: int,
        chunk_size: int,
        pad_id: int,
    ):
        self._documents, self._retriever, self._k = documents, retriever, num_neighbours
        self._m, self._pad_id = chunk_size, pad_id
        self._found: dict[int, Neighbours] = {}

    def neighbours(self, number: int, wanted: int) -> Neighbours:
        found = self._found.get(number)
        if found is None or found.ids.shape[-1] < wanted:
            document = self._documents[number]
            chunks = split(np.asarray(document.tokens, dtype=np.int64), self._pad_id, self._m)
            most = max(wanted, self._k, _AT_LEAST)
            found = retrieved(self._retriever, chunks, most, self._pad_id, document.own)
            found = self._found[number] = replace(found, tokens=found.tokens.astype(np.int32))
        return found.first(wanted)


@dataclass(frozen=True)
class _Measured:
    """What a data spec's files tell besides the neighbours.

    asking   embeddings (N, d) of each shard that asks, None where there are none
    indexed  embeddings of each shard of the index; empty where there are none
    starts   first chunk of each of these; then N
    documents  (N,) document of each chunk of the index
    first    document number, in the index, of the first document of each shard that asks; -1 where that is
             not itself in the index
    """

    asking: list[np.ndarray | None]
    indexed: list[np.ndarray]
    starts: np.ndarray
    documents: np.ndarray
    first: list[int]

    @classmethod
    def open(cls, spec: Path) -> "_Measured":
        shards, index_spec = read_data_spec(spec)
        indexed = read_index_spec(index_spec, CHUNK_KEYS)
        try:
            embeddings = open_embeddings(read_index_spec(index_spec, INDEX_KEYS), index_spec)
        except InputError:  # a spec without embeddings serves for reading
            embeddings = []
        documents = np.cumsum([0, *(len(np.load(s["seq2chunk"], mmap_mode="r")) for s in indexed)])
        number_of = {s["chunks"].resolve(): int(d) for s, d in zip(indexed, documents, strict=False)}
        owners = [
            np.load(s["chunk2seq"], mmap_mode="r") + d for s, d in zip(indexed, documents, strict=False)
        ]
        return cls(
            [_embeddings_of(shard) for shard in shards],
            embeddings,
            np.cumsum([0, *map(len, embeddings)]),
            np.concatenate(owners),
            [number_of.get(shard["chunks"].resolve(), -1) for shard in shards],
        )

    def own(self, shard: int, document: int) -> int:
        return -1 if self.first[shard] < 0 else self.first[shard] + document

    def known(self, shard: int) -> bool:
        """Whether neighbours of this shard can be looked up."""
        asking = self.asking[shard]
        return asking is not None and bool(self.indexed) and asking.shape[1] == self.indexed[0].shape[1]

    def nearest(
        self, shard: int, first: int, stop: int, num_neighbours: int, own: int, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(l, k) ids and squared distances of the nearest chunks that are allowed (N,), none of the document
        `own`."""
        queries = np.asarray(self.asking[shard][first:stop], dtype=np.float32)
        own_documents = np.full(len(queries), own)
        return self._index.search(queries, num_neighbours, exclude=own_documents, allowed=allowed)

    @cached_property
    def _index(self) -> FlatIndex:
        return FlatIndex(stacked(self.indexed), self.documents)

    def distances(self, shard: int, first: int, stop: int, ids: np.ndarray) -> np.ndarray:
        """(l, k) float32 squared L2; inf where missing or not known."""
        found = np.full(ids.shape, np.inf, dtype=np.float32)
        if not self.known(shard):
            return found
        queries = np.asarray(self.asking[shard][first:stop], dtype=np.float32)
        of = np.searchsorted(self.starts, ids, side="right") - 1
        for number, embeddings in enumerate(self.indexed):
            rows, places = np.nonzero((of == number) & (ids != NO_CHUNK))
            if len(rows):
                near = np.asarray(embeddings[ids[rows, places] - self.starts[number]], dtype=np.float32)
                found[rows, places] = ((near - queries[rows]) ** 2).sum(axis=1)
        return found


def _embeddings_of(shard) -> np.ndarray | None:
    path = shard.get("embeddings", shard["chunks"].with_name("embeddings.npy"))
    if not path.is_file():
        return None
    embeddings = np.load(path, mmap_mode="r", allow_pickle=False)
    return embeddings if len(embeddings) == len(np.load(shard["chunks"], mmap_mode="r")) else None


def _number_in(datastore: Reader, document_id: str) -> int:
    try:
        return stored(datastore).number_of(document_id)
    except (InputError, DatastoreError):
        return -1


def _beginning(tokens: np.ndarray, tokenizer: Tokenizer | None) -> str:
    """The first line of a document's text, or as much of it as serves for a title."""
    if tokenizer is None:
        return ""
    text = tokenizer.decode(np.asarray(tokens[:_TITLE_TOKENS], dtype=np.int64)).strip()
    line = text.splitlines()[0] if text else ""
    return line if len(line) <= _TITLE_LENGTH else line[: _TITLE_LENGTH - 1] + "…"
