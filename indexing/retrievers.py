"""Retrievers: what answers chunks with `Neighbours`, and `open_retriever`, which makes one of a word.

Lookup    a datastore with any of the orders of `ranking`
Off       nothing
Fixed     texts that somebody gives
Cached    any other, asked for each chunk once
Filtered  any other, less some documents and what would give the answer away
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from indexing.beginnings import FIRST_CHUNK
from indexing.bm25 import WordsIndexed
from indexing.client import RemoteRetriever, open_remote
from indexing.datastore import Datastore, Provenance
from indexing.errors import InputError
from indexing.neighbours import (
    GIVEN,
    NO_CHUNK,
    PASTED,
    Neighbours,
    Retriever,
    Text,
    for_text,
    given_tokens,
    longest_common_runs,
)
from indexing.pipeline.spec_chunks import SpecChunks
from indexing.ranking import (
    Dense,
    Drawn,
    Fused,
    Ranked,
    Ranker,
    Reranked,
    WithFirstChunk,
    Words,
    rows_of,
)
from indexing.retokenised import RetokenisedDatastore
from indexing.tokenizer import Tokenizer

Reader = Datastore | RetokenisedDatastore  # a datastore as a model reads it

DEFAULT_RETRIEVER = "dense"
# What `open_retriever` knows, in words for --help and the page.
RETRIEVERS = {
    "dense": "the nearest chunks by embedding, in squared L2",
    FIRST_CHUNK: "by embedding, each chunk together with the first chunk of its text",
    "bm25": "chunks that share the text's rarer words, by BM25; needs no embedder",
    "hybrid-rrf": "both rankings, by the sum of their reciprocal ranks",
    "hybrid-rerank": "the 100 nearest by embedding, in the order of BM25",
    "random": "chunks drawn at random, as a control; random:7 draws with seed 7",
    "off": "none",
    "http://HOST:PORT": "what a retrieval service finds; #NAME or #NAME/FORM at the end choose there",
}

# Neighbours fetched beyond those asked for where some may be filtered out.
_SURPLUS = 16


@dataclass(frozen=True)
class Found:
    """A chunk that `Lookup.search` found. distance: squared L2, None where nobody measured it · score: of
    `measure`, larger is closer, None where the order is that of the distances or means nothing"""

    document_id: str
    title: str
    source: str
    offset: int
    chunk_id: int
    distance: float | None
    measure: str
    score: float | None
    text: str
    continuation: str


class Lookup:
    """Chunks of a datastore in the order of a `Ranker`, each with the chunk that follows it.

    datastore  as the model reads it: neighbours are in its tokens; or the chunks of an index spec
    """

    def __init__(self, datastore: Reader | SpecChunks, ranker: Ranker):
        self.datastore, self.ranker = datastore, ranker

    def prepare(self) -> Iterator[WordsIndexed]:
        """Make what the first query would have to wait for, if it takes long, as events."""
        if isinstance(self.ranker, Words | Fused | Reranked):
            yield from self.ranker.prepare()

    def for_text(self, first_chunk: np.ndarray) -> "Lookup":
        """See `neighbours.for_text`."""
        if not isinstance(self.ranker, WithFirstChunk):
            return self
        beginning = self.datastore.tokenizer.decode(np.asarray(first_chunk))
        return Lookup(self.datastore, self.ranker.for_text(beginning))

    def retrieve(
        self,
        chunks: np.ndarray,
        num_neighbours: int,
        exclude_documents: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> Neighbours:
        """chunks (..., m) int -> Neighbours with leading axes (...).

        exclude_documents  (...,) int: document number from which a chunk gets no neighbours; -1 for none
        allowed            (N,) bool over the datastore's chunks: False is never given

        A chunk without ordinary tokens (padding and end marks only) has no neighbours and is none. Raises
        MismatchError for chunks that are not as long as the datastore's.
        """
        chunks = np.asarray(chunks)
        shape, k = chunks.shape[:-1], num_neighbours
        if isinstance(self.datastore, Datastore):
            self.datastore.expect_chunks_of(chunks.shape[-1])
        own = None
        if exclude_documents is not None:
            own = np.broadcast_to(exclude_documents, shape).reshape(-1)
        flat = chunks.reshape(-1, chunks.shape[-1])
        found = self._ranked([self.datastore.tokenizer.decode(chunk) for chunk in flat], k, own, allowed)
        if isinstance(self.datastore, RetokenisedDatastore):
            tokens, pad = self.datastore.retrieved_tokens(found.ids), self.datastore.tokenizer.pad_id
        else:
            store = self.datastore.chunks
            tokens, pad = store.retrieved_tokens(found.ids, self.datastore.num_continuations), store.pad_id
        measure = self.ranker.measure
        neighbours = Neighbours(found.ids, found.distances, tokens, pad, measure, found.scores)
        return neighbours.reshape(*shape)

    def search(self, text: str, k: int, allowed: np.ndarray | None = None) -> list[Found]:
        """The first k chunks for a text, which is one query whatever its length; see `Datastore.search`."""
        if not text.strip():
            raise InputError("Expected a text to search for, got an empty one. Type a few words.")
        if k < 1:
            raise InputError(f"Expected at least 1 neighbour to search for, got {k}. Ask for 1 or more.")
        store = stored(self.datastore)
        ranked = self._ranked([text], k, None, allowed)
        found = []
        for place, chunk_id in enumerate(ranked.ids[0].tolist()):
            if chunk_id != NO_CHUNK:
                origin, distance = store.provenance(chunk_id), float(ranked.distances[0, place])
                found.append(
                    Found(
                        document_id=origin.document_id,
                        title=origin.title,
                        source=origin.source,
                        offset=origin.offset,
                        chunk_id=chunk_id,
                        distance=distance if np.isfinite(distance) else None,
                        measure=self.ranker.measure,
                        score=None if ranked.scores is None else float(ranked.scores[0, place]),
                        text=store.text(chunk_id),
                        continuation=store.continuation(chunk_id),
                    )
                )
        return found

    def provenance(self, chunk_id: int) -> Provenance:
        return self.datastore.provenance(chunk_id)

    def _ranked(self, texts: list[str], k: int, own: np.ndarray | None, allowed: np.ndarray | None) -> Ranked:
        asking = np.flatnonzero([bool(text) for text in texts])
        if not k or not len(asking):
            return Ranked.nothing(len(texts), k)
        own = None if own is None else own[asking]
        answer = self.ranker.rank([texts[i] for i in asking], k, own, allowed)
        found = Ranked.nothing(len(texts), k, scored=answer.scores is not None)
        found.ids[asking], found.distances[asking] = answer.ids, answer.distances
        if found.scores is not None:
            found.scores[asking] = answer.scores
        return found


class Off:
    """No neighbours at all: Retro[Off] by way of a retriever. neighbours of `length` tokens, 2m"""

    def __init__(self, length: int, pad_id: int = 0):
        self._length, self._pad_id = length, pad_id

    def retrieve(self, chunks: np.ndarray, num_neighbours: int) -> Neighbours:
        return Neighbours.none(np.shape(chunks)[:-1], num_neighbours, self._length, self._pad_id)


class Fixed:
    """Neighbours that somebody gives, in order. Each is a text or token ids: the first m tokens stand in the
    place of the neighbour, up to m more in that of its continuation. They are in no datastore (id -2).

    everywhere  for every chunk that has none of its own
    of_chunks   for the chunks with these tokens: asking them again gives the same
    otherwise   asked about chunks for which nothing is given: so an answer of another retriever is edited

    Raises InputError for texts that are empty or too long.
    """

    def __init__(
        self,
        chunk_size: int,
        tokenizer: Tokenizer | None = None,
        everywhere: Sequence[Text] = (),
        of_chunks: Mapping[tuple[int, ...], Sequence[Text]] | None = None,
        otherwise: Retriever | None = None,
        pad_id: int | None = None,
    ):
        if pad_id is None:
            pad_id = tokenizer.pad_id if tokenizer else 0
        self._length, self._pad_id, self._otherwise = 2 * chunk_size, pad_id, otherwise

        def tokens(texts: Sequence[Text]) -> list[np.ndarray]:
            return [given_tokens(text, tokenizer, self._length, chunk_size, pad_id) for text in texts]

        self._everywhere = tokens(everywhere) if everywhere or otherwise is None else None
        self._of = {_key(np.array(chunk)): tokens(texts) for chunk, texts in (of_chunks or {}).items()}

    def for_text(self, first_chunk: np.ndarray) -> "Fixed":
        """See `neighbours.for_text`."""
        otherwise = self._otherwise and for_text(self._otherwise, first_chunk)
        if otherwise is self._otherwise:
            return self
        mine = copy(self)
        mine._otherwise = otherwise
        return mine

    def retrieve(self, chunks: np.ndarray, num_neighbours: int) -> Neighbours:
        """chunks (..., m) int -> Neighbours with leading axes (...)."""
        chunks = np.asarray(chunks)
        shape, flat = chunks.shape[:-1], chunks.reshape(-1, chunks.shape[-1])
        given = [self._of.get(_key(chunk), self._everywhere) for chunk in flat]
        others = np.array([row for row, texts in enumerate(given) if texts is None], dtype=np.int64)
        mine = np.array([row for row, texts in enumerate(given) if texts is not None], dtype=np.int64)
        found = Neighbours.none((len(mine),), num_neighbours, self._length, self._pad_id)
        for place, row in enumerate(mine):
            for rank, tokens in enumerate(given[row][:num_neighbours]):
                found.ids[place, rank], found.tokens[place, rank] = PASTED, tokens
        parts = [Neighbours(found.ids, found.distances, found.tokens, self._pad_id, GIVEN)]
        if len(others):
            parts.append(self._otherwise.retrieve(flat[others], num_neighbours))
        order = np.argsort(np.concatenate([mine, others]))
        return Neighbours.joined(parts).take(order).reshape(*shape)


class Cached:
    """Another retriever, asked for each chunk once, however often the chunk is in a batch.

    capacity  chunks that are remembered; the one that was longest not asked for is forgotten first
    hits, misses  chunks that were answered from memory, and that were not, so far

    A chunk is known by its tokens, and by its text's first chunk if the other one asks for that. What was
    found for k neighbours answers for fewer too. Safe to use from several threads.
    """

    def __init__(self, retriever: Retriever, capacity: int = 10_000):
        if capacity < 1:
            raise InputError(f"Expected to remember at least 1 chunk, got {capacity}. Remember 1 or more.")
        self.retriever, self._capacity = retriever, capacity
        self._found: OrderedDict[bytes, Neighbours] = OrderedDict()
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def for_text(self, first_chunk: np.ndarray) -> Retriever:
        """See `neighbours.for_text`."""
        asked = for_text(self.retriever, first_chunk)
        return self if asked is self.retriever else _CachedOfText(self, asked, _key(first_chunk))

    def retrieve(self, chunks: np.ndarray, num_neighbours: int) -> Neighbours:
        """chunks (..., m) int -> Neighbours with leading axes (...)."""
        return self.remembered(self.retriever, b"", chunks, num_neighbours)

    def remembered(
        self, retriever: Retriever, text: bytes, chunks: np.ndarray, num_neighbours: int
    ) -> Neighbours:
        """What `retriever` finds, or found, for chunks of this text."""
        chunks = np.asarray(chunks)
        shape, flat = chunks.shape[:-1], chunks.reshape(-1, chunks.shape[-1])
        if not len(flat):
            return retriever.retrieve(chunks, num_neighbours)
        keys = [text + _key(chunk) for chunk in flat]
        answers: dict[bytes, Neighbours] = {}
        unknown: dict[bytes, np.ndarray] = {}
        with self._lock:
            for key, chunk in zip(keys, flat, strict=True):
                known = self._found.get(key)
                if known is not None and known.ids.shape[-1] >= num_neighbours:
                    self._found.move_to_end(key)
                    answers[key] = known.first(num_neighbours)
                else:
                    unknown[key] = chunk
            self.misses += len(unknown)
            self.hits += len(flat) - len(unknown)
        if unknown:
            found = retriever.retrieve(np.stack(list(unknown.values())), num_neighbours)
            with self._lock:
                for row, key in enumerate(unknown):
                    answers[key] = self._found[key] = found.take(np.array([row]))
                    self._found.move_to_end(key)
                while len(self._found) > self._capacity:
                    self._found.popitem(last=False)
        return Neighbours.joined([answers[key] for key in keys]).reshape(*shape)


@dataclass(frozen=True)
class _CachedOfText:
    """A `Cached` as it answers chunks of one text, about which it asks `retriever`."""

    cached: Cached
    retriever: Retriever
    text: bytes

    def retrieve(self, chunks: np.ndarray, num_neighbours: int) -> Neighbours:
        return self.cached.remembered(self.retriever, self.text, chunks, num_neighbours)


class Filtered:
    """Another retriever, less the neighbours that are not to be read. As many as were asked for are found
    wherever so many exist: while some are filtered out, the other one is asked for more.

    origins   the datastore, or the service, that `retriever` looks up
    only      ids of the documents that neighbours may come from; empty for all. A service leaves documents
              out by itself: give them to `open_remote`
    exclude   ids of documents they may not come from
    leakage   share of the tokens to be predicted, 0 to 1: a neighbour that has a longer run of them, itself
              or with its continuation, is not given; None for no such limit

    Texts that somebody gave are in no document, and pass the first two. Raises InputError for a document that
    is not there.
    """

    def __init__(
        self,
        retriever: Retriever,
        origins: "Reader | RemoteRetriever",
        only: Sequence[str] = (),
        exclude: Sequence[str] = (),
        leakage: float | None = None,
    ):
        if leakage is not None and not 0 <= leakage <= 1:
            raise InputError(f"Expected a share of 0 to 1 that may leak, got {leakage}. Try 0.125.")
        self.retriever, self._origins, self._leakage = retriever, origins, leakage
        # A `Lookup` leaves documents out by itself, without being asked for more.
        self._asks_less = isinstance(retriever, Lookup)
        self._allowed = allowed_chunks(origins, only, exclude) if only or exclude else None

    def for_text(self, first_chunk: np.ndarray) -> "Filtered":
        """See `neighbours.for_text`."""
        asked = for_text(self.retriever, first_chunk)
        if asked is self.retriever:
            return self
        mine = copy(self)
        mine.retriever = asked
        return mine

    def prepare(self) -> Iterator[WordsIndexed]:
        """See `Lookup.prepare`."""
        if isinstance(self.retriever, Lookup):
            yield from self.retriever.prepare()

    def retrieve(
        self,
        chunks: np.ndarray,
        num_neighbours: int,
        exclude_documents: np.ndarray | None = None,
        continuations: np.ndarray | None = None,
    ) -> Neighbours:
        """chunks (..., m) int -> Neighbours with leading axes (...).

        exclude_documents  (...,) int: document number from which a chunk gets no neighbours; -1 for none
        continuations      (..., c) int: the tokens that will be predicted with each chunk's neighbours,
                           padded; `leakage` is about these. Without them, as while a text is being written,
                           nothing is known to leak.
        """
        chunks = np.asarray(chunks)
        shape, k = chunks.shape[:-1], num_neighbours
        flat = chunks.reshape(-1, chunks.shape[-1])
        own = None if exclude_documents is None else np.broadcast_to(exclude_documents, shape).reshape(-1)
        later = continuations
        if later is not None:
            later = np.asarray(later).reshape(len(flat), np.shape(later)[-1])
        filters = self._filters(own, later)
        largest = max(k, len(self._origins.chunks)) if hasattr(self._origins, "chunks") else None
        depth, rows = k + _SURPLUS if filters else k, np.arange(len(flat))
        parts, places = [], []
        while True:
            depth = depth if largest is None else min(depth, largest)
            found = self._ask(flat[rows], depth, None if own is None else own[rows])
            kept = found.ids != NO_CHUNK
            for keeps in filters:
                kept &= keeps(found, rows)
            # Nothing is deeper than a missing neighbour.
            done = (kept.sum(axis=1) >= k) | (found.ids == NO_CHUNK).any(axis=1) | (depth == largest)
            done |= not filters
            parts.append(found.take(done).only(kept[done], k))
            places.append(rows[done])
            rows = rows[~done]
            if not len(rows):
                break
            depth *= 4
        order = np.argsort(np.concatenate(places))
        return Neighbours.joined(parts).take(order).reshape(*shape)

    def _ask(self, chunks: np.ndarray, depth: int, own: np.ndarray | None) -> Neighbours:
        if self._asks_less:
            return self.retriever.retrieve(chunks, depth, own, self._allowed)
        return self.retriever.retrieve(chunks, depth)

    def _filters(
        self, own: np.ndarray | None, later: np.ndarray | None
    ) -> list[Callable[[Neighbours, np.ndarray], np.ndarray]]:
        """What decides which neighbours of the chunks `rows` are kept: each gives (len(rows), k) bool."""
        filters: list[Callable[[Neighbours, np.ndarray], np.ndarray]] = []
        if not self._asks_less and self._allowed is not None:
            filters.append(lambda found, rows: (found.ids < 0) | self._allowed[found.ids])
        if not self._asks_less and own is not None:
            filters.append(lambda found, rows: self._of_others(found.ids, own[rows]))
        if self._leakage is not None and later is not None:
            filters.append(lambda found, rows: self._does_not_leak(found, later[rows]))
        return filters

    def _of_others(self, ids: np.ndarray, own: np.ndarray) -> np.ndarray:
        documents = self._origins.chunks.chunk2seq[np.maximum(ids, 0).reshape(-1)].reshape(ids.shape)
        return (ids < 0) | (documents != own[:, None])

    def _does_not_leak(self, found: Neighbours, later: np.ndarray) -> np.ndarray:
        shared = longest_common_runs(later, found.tokens, found.pad_id)
        return shared <= self._leakage * (later != found.pad_id).sum(axis=1)[:, None]


def open_retriever(
    form: str,
    datastore: Reader | None,
    *,
    tokenizer: Tokenizer | None = None,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
    leakage: float | None = None,
) -> Retriever:
    """The retriever that `form` names, see RETRIEVERS, filtered if something is to be left out.

    datastore  as the model reads it; a service needs none
    tokenizer  the model's, where it is not the datastore's

    Raises InputError for a form that is none and for documents that are not there; what `open_remote` raises.
    """
    if is_remote(form):
        remote = open_remote(form, tokenizer, only=only, exclude=exclude)
        if only or exclude or leakage is not None:
            return Filtered(remote, remote, leakage=leakage)  # documents are left out over there
        return remote
    if datastore is None:
        raise InputError(f"The retriever {form!r} looks things up in a datastore. Choose one.")
    if form == "off":
        retokenised = isinstance(datastore, RetokenisedDatastore)
        m = datastore.chunk_size if retokenised else datastore.chunks.chunk_size
        return Off(2 * m, datastore.tokenizer.pad_id)
    lookup = open_lookup(form, datastore)
    if only or exclude or leakage is not None:
        return Filtered(lookup, datastore, only, exclude, leakage)
    return lookup


def open_lookup(form: str, datastore: Reader) -> Lookup:
    """The retriever over `datastore` that `form` names, see RETRIEVERS. Raises InputError for a form that is
    none, or none that looks into a datastore."""
    store = stored(datastore)
    name, _, seed = form.partition(":")
    rankers: dict[str, Callable[[], Ranker]] = {
        "dense": lambda: Dense(store),
        FIRST_CHUNK: lambda: WithFirstChunk(store),
        "bm25": lambda: Words(store),
        "hybrid-rrf": lambda: Fused(store),
        "hybrid-rerank": lambda: Reranked(store),
        "random": lambda: Drawn(store, int(seed or 0)),
    }
    seeded = name == "random" and seed.isascii() and seed.isdigit()
    if form in rankers or seeded:
        return Lookup(datastore, rankers[name]())
    if form == "off" or is_remote(form):
        raise InputError(
            f"The retriever {form!r} does not look into a datastore. Choose one of {', '.join(rankers)}."
        )
    raise InputError(
        f"There is no retriever {form!r}. Choose one of {', '.join(RETRIEVERS)}; or random:SEED with a whole "
        "number."
    )


def is_remote(form: str) -> bool:
    """Whether a retriever's written form names a service."""
    return form.startswith(("http://", "https://"))


def look_up_text(
    retriever: Retriever, ids: np.ndarray, chunk_size: int, num_neighbours: int, pad_id: int
) -> Neighbours:
    """Neighbours of all complete chunks of a text (n,), leading axis (n // m,). Where leakage is filtered,
    the next m tokens after each chunk, or as many as there are, are what must not leak."""
    m, count = chunk_size, len(ids) // chunk_size
    chunks = np.asarray(ids)[: count * m].reshape(count, m)
    retriever = for_text(retriever, np.asarray(ids)[:m])
    if not isinstance(retriever, Filtered):
        return retriever.retrieve(chunks, num_neighbours)
    later = np.full((count, m), pad_id, dtype=np.int64)
    for row in range(count):
        following = ids[(row + 1) * m : (row + 2) * m]
        later[row, : len(following)] = following
    return retriever.retrieve(chunks, num_neighbours, continuations=later)


def allowed_chunks(datastore: Reader, only: Sequence[str] = (), exclude: Sequence[str] = ()) -> np.ndarray:
    """(N,) bool: chunks of the documents with the ids `only` (empty: of all), less those of `exclude`. Raises
    InputError for a document that is not there."""
    store = stored(datastore)
    allowed = np.full(len(store.chunks), not only)
    for documents, value in ((only, True), (exclude, False)):
        for document in documents:
            allowed[rows_of(store, store.number_of(document))] = value
    return allowed


def stored(datastore: Reader) -> Datastore:
    """The datastore itself, with its own tokens."""
    return datastore.datastore if isinstance(datastore, RetokenisedDatastore) else datastore


def _key(chunk: np.ndarray) -> bytes:
    return np.ascontiguousarray(chunk, dtype=np.int64).tobytes()
