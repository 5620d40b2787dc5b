"""A datastore: chunks, embeddings and texts of documents, which answer chunks with neighbours.

    datastore.json    what it is and was made with, never changed, see `manifest`
    tokenizer.json    copy of the tokenizer that makes its chunks
    catalogue.db      what it holds at this moment, see `catalogue`
    segments/NAME/    immutable pieces of it, see `segment`
    index/            what makes searching faster; may be removed at any time

`Datastore.open` gives a snapshot: documents that are added or deleted later do not change it, `current` gives
the next one. A folder needs no argument to open and may be moved or copied while nobody changes it. Of the
former format 1, one flat folder of everything, there may be more; it is read as a datastore of one segment.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload
from weakref import WeakKeyDictionary

import numpy as np

from indexing import files, paths
from indexing.catalogue import State
from indexing.chunks import ChunkStore
from indexing.corpus import Document
from indexing.embedder import Embedder, check_probes, is_same, open_embedder
from indexing.errors import CheckpointError, DatastoreError, InputError, MismatchError
from indexing.flat import open_flat
from indexing.index import (
    Index,
    IndexEvent,
    IndexSettings,
    build_index,
    open_index,
    remembered_settings,
)
from indexing.manifest import (
    INDEX_FOLDER,
    MANIFEST_FILE,
    PROBES_FILE,
    SEGMENTS_FOLDER,
    birth,
    check_files,
    damaged,
    fingerprint,
    identity,
    read_manifest,
)
from indexing.neighbours import NO_CHUNK, Neighbours
from indexing.segment import Label, Segment, read_array, stacked
from indexing.tokenizer import Tokenizer

# How often opening begins anew because somebody changes the datastore meanwhile.
_TRIES = 10
_ROWS_AT_ONCE = 1 << 16
# Embedder -> the probes (8, d) that it answers as it should.
_passed: WeakKeyDictionary[Embedder, set[bytes]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Provenance:
    """Where a chunk comes from; `offset` is the character of the document's text it begins at."""

    document_id: str
    title: str
    offset: int
    source: str


@dataclass(frozen=True)
class Hit:
    """A chunk found by `Datastore.search`; `distance` is squared L2, 0 (equal) to 4."""

    document_id: str
    title: str
    offset: int
    distance: float
    text: str
    continuation: str
    chunk_id: int


@dataclass(frozen=True)
class DatastoreInfo:
    """A line of `list_datastores`; `created` is UTC in ISO 8601."""

    name: str
    path: Path
    num_chunks: int
    num_documents: int
    bundled: bool
    created: str


class Datastore:
    """One version of a datastore; a `Retriever`. Make one with `Datastore.open`.

    Chunks and documents are numbered through all segments; adding and deleting documents keeps the numbers,
    compacting does not. Its embedder is loaded at the first query, unless one was given to `open`; so opening
    is quick. Safe to use from several threads.

    version      counts the changes; 1 as it was built
    state        what the catalogue says; None in format 1
    identity     changes whenever the datastore does
    chunks       of all documents, deleted ones too
    embeddings   (N, d) float16, array-like
    alive        (N,) bool, False for chunks of deleted documents, which are never found
    documents    by number, read from the disk when asked for
    """

    num_continuations = 1

    def __init__(
        self,
        path: Path,
        manifest: dict,
        segments: Sequence[Segment],
        deleted: np.ndarray,
        tokenizer: Tokenizer,
        embedder: Embedder | None,
        identity: str,
        probes: np.ndarray | None,
    ):
        self.path = path
        self.name = path.name
        self.manifest = manifest
        self.identity = identity
        self.state: State | None = manifest.get("state")
        self.version = self.state.version if self.state else 1
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint(manifest)
        self.segments = list(segments)
        self.chunks, self.embeddings = _joined(segments, tokenizer.pad_id)
        self.documents = Documents(segments)
        self.deleted = deleted  # (D,) bool
        self.alive = ~deleted[self.chunks.chunk2seq] if deleted.any() else np.ones(len(self.chunks), bool)
        self._embedder = embedder
        self._probes = probes
        self._index: Index | None = None
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        name_or_path: str | Path,
        tokenizer: Tokenizer | None = None,
        embedder: Embedder | None = None,
    ) -> "Datastore":
        """Open a datastore by name (the user's, else the bundled one) or by the path of its folder.

        tokenizer  the one that queries will be made with: must be the one the datastore was built with
        embedder   one to share; the datastore's own is loaded when needed otherwise

        Raises MismatchError naming both, or DatastoreError if the folder is missing, incomplete or damaged.
        """
        path = find(name_or_path)
        for attempt in range(_TRIES):
            before = _seen(path)
            try:
                datastore = cls._open(path, before[0], tokenizer, embedder)
                if birth(path) == before[1]:
                    return datastore
                # Replaced meanwhile: what was opened may be the former's catalogue and the new one's files.
            except (DatastoreError, CheckpointError, FileNotFoundError) as error:
                # Somebody may have compacted or replaced it between our reading what there is and opening it,
                # or be in the middle of replacing it, when for a moment there is none.
                busy = files.recover_abandoned(path) or _seen(path) != before
                if attempt + 1 == _TRIES or not busy:
                    if isinstance(error, FileNotFoundError):
                        raise damaged(path, f"{Path(error.filename).name} is missing") from error
                    raise
            time.sleep(0.01 * attempt)
        raise DatastoreError(f"Datastore {path.name!r} is being replaced again and again. Try again later.")

    @classmethod
    def _open(
        cls, path: Path, identity: str, tokenizer: Tokenizer | None, embedder: Embedder | None
    ) -> "Datastore":
        manifest = read_manifest(path)
        check_files(path, manifest)
        own = Tokenizer.load(path)
        own.name = manifest["tokenizer"]["name"]
        check_same("tokenizer", path, manifest["tokenizer"], tokenizer or own)
        if embedder is not None:
            check_same("embedder", path, manifest["embedder"], embedder)
        try:
            if manifest["format_version"] == 1:
                segments = [open_flat(path)]
            else:
                names = [segment.name for segment in manifest["state"].segments]
                segments = [Segment.open(path / SEGMENTS_FOLDER / name) for name in names]
        except DatastoreError as error:
            raise damaged(path, str(error).rstrip(".")) from error
        shape = (manifest["chunk_size"], manifest["embedder"]["dim"])
        for segment in segments:
            if (segment.tokens.shape[1:], segment.embeddings.shape[1:]) != (shape[:1], shape[1:]):
                raise damaged(path, f"chunks and embeddings of {segment.name} are not {shape} wide")
        deleted = np.zeros(sum(segment.num_documents for segment in segments), dtype=bool)
        first = 0
        for segment in segments:
            gone = manifest["state"].deleted.get(segment.name, ()) if "state" in manifest else ()
            deleted[[first + number for number in gone]] = True
            first += segment.num_documents
        probes = np.array(read_array(path / PROBES_FILE)) if PROBES_FILE in manifest["files"] else None
        return cls(path, manifest, segments, deleted, own, embedder, identity, probes)

    def current(self) -> "Datastore":
        """This snapshot if nothing has changed since, otherwise one of the datastore as it is now, with the
        same embedder unless that has changed too. Raises what `open` does."""
        if _seen(self.path)[0] == self.identity:
            return self
        later = Datastore.open(self.path)
        if self._embedder is not None and later.embedder_name == self.embedder_name:
            later.share_embedder(self._embedder)
        return later

    def share_embedder(self, embedder: Embedder) -> None:
        """Embed queries with this one. Raises MismatchError if the datastore was built with another."""
        check_same("embedder", self.path, self.manifest["embedder"], embedder)
        with self._lock:
            self._embedder = embedder

    @property
    def tokenizer_name(self) -> str:
        return self.manifest["tokenizer"]["name"]

    @property
    def embedder_name(self) -> str:
        return self.manifest["embedder"]["name"]

    @property
    def num_documents(self) -> int:
        """Without the deleted ones."""
        return int((~self.deleted).sum())

    def labels(self) -> Iterator[Label]:
        """What names each document, in order, without the deleted ones."""
        first = 0
        for segment in self.segments:
            for number in range(segment.num_documents):
                if not self.deleted[first + number]:
                    yield segment.label(number)
            first += segment.num_documents

    def label(self, document: int) -> Label:
        """What names the document of this number, a deleted one too."""
        for segment in self.segments:
            if document < segment.num_documents:
                return segment.label(document)
            document -= segment.num_documents
        raise IndexError(document)

    def number_of(self, document_id: str) -> int:
        """The number of the document with this id. Raises InputError if there is none, or no longer."""
        first = 0
        for segment in self.segments:
            number = segment.find(document_id)
            if number is not None and not self.deleted[first + number]:
                return first + number
            first += segment.num_documents
        raise InputError(
            f"The datastore {self.name!r} has no document {document_id!r}. See which it has with "
            f"`python -m indexing documents {self.name}`."
        )

    @property
    def embedder(self) -> Embedder:
        """The embedder, loaded now if it was not yet. Raises MismatchError if it is another than the one the
        datastore was built with, by what it says of itself or by what it answers to the probes."""
        with self._lock:
            if self._embedder is None:
                embedder = open_embedder(self.embedder_name)
                check_same("embedder", self.path, self.manifest["embedder"], embedder)
                self._embedder = embedder
            passed = _passed.setdefault(self._embedder, set())
            if self._probes is not None and self._probes.tobytes() not in passed:
                check_probes(self._embedder, self._probes, self.name)
                passed.add(self._probes.tobytes())
            return self._embedder

    def retrieve(
        self,
        chunks: np.ndarray,
        num_neighbours: int,
        exclude_documents: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> Neighbours:
        """chunks (..., m) int -> Neighbours with leading axes (...): the nearest chunks by embedding, each
        with the chunk that follows it in its document.

        exclude_documents  (...,) int: document number from which a chunk gets no neighbours; -1 for none
        allowed            (N,) bool over all chunks: False is never given

        A chunk without ordinary tokens (padding and end marks only) has no neighbours and is none.
        """
        chunks = np.asarray(chunks)
        self.expect_chunks_of(chunks.shape[-1])
        shape, k = chunks.shape[:-1], num_neighbours
        chunks = chunks.reshape(-1, chunks.shape[-1])
        exclude = None
        if exclude_documents is not None:
            exclude = np.broadcast_to(exclude_documents, shape).reshape(-1)
        texts = [self.tokenizer.decode(chunk) for chunk in chunks]
        ids, distances = self.nearest(texts, k, exclude, allowed)
        ids = ids.reshape(*shape, k)
        tokens = self.chunks.retrieved_tokens(ids, self.num_continuations)
        return Neighbours(ids, distances.reshape(*shape, k), tokens, self.chunks.pad_id)

    def expect_chunks_of(self, num_tokens: int) -> None:
        """Raise MismatchError unless the datastore's chunks are as long."""
        if num_tokens != self.chunks.chunk_size:
            raise MismatchError(
                f"Datastore {self.name!r} has chunks of {self.chunks.chunk_size} tokens, but was asked with "
                f"chunks of {num_tokens}. Build it again with the model's chunk size."
            )

    def nearest(
        self,
        texts: Sequence[str],
        num_neighbours: int,
        exclude_documents: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """n texts -> ids (n, k) int64 of the nearest chunks and distances (n, k) float32, -1 and inf where
        there is none. An empty text is near to nothing.

        exclude_documents, allowed  see `retrieve`, exclude_documents (n,)
        """
        ids = np.full((len(texts), num_neighbours), NO_CHUNK, dtype=np.int64)
        distances = np.full(ids.shape, np.inf, dtype=np.float32)
        asking = np.flatnonzero([bool(text) for text in texts])
        if len(asking):
            queries = self.embedder.embed([texts[i] for i in asking])
            exclude = None if exclude_documents is None else exclude_documents[asking]
            ids[asking], distances[asking] = self.nearest_vectors(queries, num_neighbours, exclude, allowed)
        return ids, distances

    def nearest_vectors(
        self,
        vectors: np.ndarray,
        num_neighbours: int,
        exclude_documents: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """`nearest` to what was embedded already: (n, d) float32 -> ids (n, k) and distances (n, k)."""
        return self._open_index().search(vectors, num_neighbours, exclude_documents, allowed)

    def search(self, text: str, k: int) -> list[Hit]:
        """The k chunks nearest to `text`, nearest first; fewer if the datastore has fewer.

        The text is one query whatever its length: the embedder reads as much of it as it can (all-MiniLM:
        256 word pieces, some four chunks) and does not see the rest.
        """
        if not text.strip():
            raise InputError("Expected a text to search for, got an empty one. Type a few words.")
        if k < 1:
            raise InputError(f"Expected at least 1 neighbour to search for, got {k}. Ask for 1 or more.")
        ids, distances = self._open_index().search(self.embedder.embed([text]), k)
        hits = []
        for chunk_id, distance in zip(ids[0].tolist(), distances[0].tolist(), strict=True):
            if chunk_id >= 0:
                origin = self.provenance(chunk_id)
                hits.append(
                    Hit(
                        document_id=origin.document_id,
                        title=origin.title,
                        offset=origin.offset,
                        distance=distance,
                        text=self.text(chunk_id),
                        continuation=self.continuation(chunk_id),
                        chunk_id=chunk_id,
                    )
                )
        return hits

    def provenance(self, chunk_id: int) -> Provenance:
        """Raises DatastoreError if the chunk's document was deleted; so do `text` and `continuation`."""
        segment, row = self._place(chunk_id)
        label = segment.label(int(segment.chunk2seq[row]))
        return Provenance(label.id, label.title, int(segment.starts[row]), label.source)

    def text(self, chunk_id: int) -> str:
        """The piece of the document's text that the chunk was made from."""
        segment, row = self._place(chunk_id)
        return segment.text(row)

    def continuation(self, chunk_id: int) -> str:
        """The text of the chunk that follows in the document; empty after its last."""
        segment, row = self._place(chunk_id)
        last = row + 1 == len(segment) or segment.chunk2seq[row + 1] != segment.chunk2seq[row]
        return "" if last else segment.text(row + 1)

    def _place(self, chunk_id: int) -> tuple[Segment, int]:
        if not 0 <= chunk_id < len(self.chunks):
            raise InputError(
                f"Expected the number of a chunk from 0 to {len(self.chunks) - 1}, got {chunk_id}. "
                f"Was it found in another datastore than {self.name!r}, or before it was compacted?"
            )
        if not self.alive[chunk_id]:
            raise DatastoreError(
                f"The document of chunk {chunk_id} was deleted from {self.name!r}. Search again."
            )
        row = int(chunk_id)
        for segment in self.segments:
            if row < len(segment):
                return segment, row
            row -= len(segment)
        raise AssertionError("the segments have as many chunks as the datastore")

    def _has_text(self) -> np.ndarray:
        """(N,) bool: whether a chunk has a token besides padding and end marks."""
        marks = (self.tokenizer.pad_id, self.tokenizer.end_id)
        result = np.empty(len(self.chunks), dtype=bool)
        for start in range(0, len(result), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            result[rows] = ~np.isin(self.chunks.tokens[rows], marks).all(axis=1)
        return result

    @property
    def keeps_index(self) -> bool:
        """Whether a built index can be kept: not for what ships with the product, nor in format 1."""
        return self._index_folder() is not None

    def index_settings(self) -> IndexSettings:
        """What the index was asked to be like; the defaults if nobody asked."""
        return remembered_settings(self._index_folder()) or IndexSettings()

    def build_index(self, settings: IndexSettings | None = None) -> Iterator[IndexEvent]:
        """Make the index that `settings` ask for, from now on; the generator returns the `Index`. Searching
        makes it too, but says nothing meanwhile. Raises ConfigError if the chunks are too few for it."""
        index = yield from build_index(*self._rows(), self._index_folder(), settings)
        with self._lock:
            self._index = index
        return index

    def _open_index(self) -> Index:
        with self._lock:
            if self._index is None:
                self._index = open_index(*self._rows(), self._index_folder())
            return self._index

    def _rows(self) -> tuple:
        """Vectors, documents, which can be found, and of which segments they are; see `open_index`. Only
        chunks that say something can be found: an end mark alone is nobody's neighbour."""
        parts = [(self.fingerprint, len(self.chunks))]
        if self.state is not None:
            parts = [(segment.fingerprint, segment.num_chunks) for segment in self.state.segments]
        return self.embeddings, self.chunks.chunk2seq, self.alive & self._has_text(), parts

    def _index_folder(self) -> Path | None:
        if self.state is None or paths.is_bundled(self.path):
            return None
        return self.path / INDEX_FOLDER


class Documents(Sequence[Document]):
    """The documents of some segments by number, each read from the disk when it is asked for."""

    def __init__(self, segments: Sequence[Segment]):
        self._segments = segments

    def __len__(self) -> int:
        return sum(segment.num_documents for segment in self._segments)

    @overload
    def __getitem__(self, number: int) -> Document: ...
    @overload
    def __getitem__(self, number: slice) -> list[Document]: ...
    def __getitem__(self, number: int | slice) -> Document | list[Document]:
        if isinstance(number, slice):
            return [self[i] for i in range(len(self))[number]]
        number = range(len(self))[number]  # raises IndexError, and counts from the end
        for segment in self._segments:
            if number < segment.num_documents:
                return segment.document(number)
            number -= segment.num_documents
        raise AssertionError("the segments have as many documents as there are")


def list_datastores() -> list[DatastoreInfo]:
    """Every datastore that `Datastore.open` knows by name, by name; unreadable ones are left out."""
    found: dict[str, DatastoreInfo] = {}
    for old in paths.datastores_dir().glob(f"{files.PREVIOUS}*"):
        files.recover_abandoned(old.with_name(old.name.removeprefix(files.PREVIOUS)))
    for root in (paths.datastores_dir(), paths.ASSETS / "datastores"):
        for path in sorted(root.glob(f"[!.]*/{MANIFEST_FILE}")):
            folder = path.parent
            try:
                manifest = read_manifest(folder)
            except DatastoreError:
                continue
            info = DatastoreInfo(
                name=folder.name,
                path=folder,
                num_chunks=manifest["num_chunks"],
                num_documents=manifest["num_documents"],
                bundled=paths.is_bundled(folder),
                created=manifest["created"],
            )
            found.setdefault(folder.name, info)
    return sorted(found.values(), key=lambda info: info.name)


def _seen(path: Path) -> tuple[str, tuple[int, ...] | None]:
    """What tells a datastore at `path` from a later version and from a replacement."""
    try:
        return identity(path), birth(path)
    except DatastoreError:
        return "", birth(path)


def find(name_or_path: str | Path) -> Path:
    """The folder meant: a Path or a string with a separator is a path, any other string a name."""
    if isinstance(name_or_path, Path) or "/" in name_or_path or "\\" in name_or_path:
        return Path(name_or_path).expanduser().resolve()
    return paths.datastore_dir(name_or_path)


def check_same(kind: str, path: Path, built_with: dict, used: Tokenizer | Embedder) -> None:
    """Raise MismatchError unless a datastore was built with this tokenizer or embedder."""
    stored = built_with["fingerprint"]
    if not (is_same(used, stored) if kind == "embedder" else used.fingerprint == stored):
        raise MismatchError(
            f"Datastore {path.name!r} was built with the {kind} {built_with['name']!r} "
            f"({built_with['fingerprint'][:8]}), not with {used.name!r} ({used.fingerprint[:8]}). "
            f"Choose a datastore built with the same {kind}, or build this one again with it."
        )


def _joined(segments: Sequence[Segment], pad_id: int) -> tuple[ChunkStore, np.ndarray]:
    """The chunks and the embeddings of all segments, end to end. Small arrays are put together in memory."""
    documents = np.cumsum([0, *(segment.num_documents for segment in segments)])
    chunks = np.cumsum([0, *(len(segment) for segment in segments)])
    chunk2seq, seq2chunk = segments[0].chunk2seq, segments[0].seq2chunk
    if len(segments) > 1:
        chunk2seq = np.concatenate(
            [segment.chunk2seq + first for segment, first in zip(segments, documents, strict=False)]
        )
        seq2chunk = np.concatenate(
            [segment.seq2chunk + first for segment, first in zip(segments, chunks, strict=False)]
        )
    store = ChunkStore(
        stacked([segment.tokens for segment in segments]),
        chunk2seq,
        seq2chunk,
        stacked([segment.starts for segment in segments]),
        pad_id,
    )
    return store, stacked([segment.embeddings for segment in segments])
