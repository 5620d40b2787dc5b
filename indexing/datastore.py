"""A datastore: one folder of chunks, embeddings and texts, which answers chunks with neighbours.

    datastore.json    what is in the folder and what it was made with, see `manifest`
    tokenizer.json    copy of the tokenizer that made the chunks
    chunks.npy  chunk2seq.npy  seq2chunk.npy  starts.npy      see `chunks.ChunkStore`
    embeddings.npy    (N, d) float16, one unit vector per chunk
    documents.jsonl   {"id", "title", "source", "text"}, one document a line

Nothing is ever changed in a finished folder. It needs no argument to open and may be moved or copied.
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from indexing import files, paths
from indexing.chunks import ChunkStore
from indexing.corpus import Document
from indexing.embedder import Embedder, SentenceTransformerEmbedder
from indexing.errors import DatastoreError, InputError, MismatchError
from indexing.index import FlatIndex
from indexing.manifest import (
    DOCUMENTS_FILE,
    EMBEDDINGS_FILE,
    MANIFEST_FILE,
    check_files,
    damaged,
    fingerprint,
    read_manifest,
    write_manifest,
)
from indexing.neighbours import NO_CHUNK, Neighbours
from indexing.tokenizer import Tokenizer


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
    """An open datastore; a `Retriever`. Make one with `Datastore.open`.

    Its embedder is loaded at the first query, unless one was given to `open`; so opening is quick.
    Safe to use from several threads.
    """

    num_continuations = 1

    def __init__(
        self,
        path: Path,
        manifest: dict,
        chunks: ChunkStore,
        embeddings: np.ndarray,
        documents: Sequence[Document],
        tokenizer: Tokenizer,
        embedder: Embedder | None,
    ):
        self.path = path
        self.name = path.name
        self.manifest = manifest
        self.chunks = chunks
        self.embeddings = embeddings
        self.documents = documents
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint(manifest)
        self._embedder = embedder
        self._index: FlatIndex | None = None
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
        manifest = read_manifest(path)
        check_files(path, manifest)
        own = Tokenizer.load(path)
        own.name = manifest["tokenizer"]["name"]
        _check_same("tokenizer", path, manifest["tokenizer"], tokenizer or own)
        if embedder is not None:
            _check_same("embedder", path, manifest["embedder"], embedder)
        chunks = ChunkStore.load(path, own.pad_id)
        embeddings, documents = _load_embeddings(path), _load_documents(path)
        shape = (len(chunks), manifest["embedder"]["dim"])
        if embeddings.shape != shape or len(documents) != chunks.num_documents:
            raise damaged(
                path,
                f"{len(chunks)} chunks of {chunks.num_documents} documents do not fit to "
                f"{embeddings.shape[0]} embeddings and {len(documents)} texts",
            )
        return cls(path, manifest, chunks, embeddings, documents, own, embedder)

    @property
    def tokenizer_name(self) -> str:
        return self.manifest["tokenizer"]["name"]

    @property
    def embedder_name(self) -> str:
        return self.manifest["embedder"]["name"]

    @property
    def num_documents(self) -> int:
        return self.chunks.num_documents

    @property
    def embedder(self) -> Embedder:
        """The embedder, loaded now if it was not yet. Raises MismatchError if it has changed since."""
        with self._lock:
            if self._embedder is None:
                embedder = SentenceTransformerEmbedder(self.embedder_name)
                _check_same("embedder", self.path, self.manifest["embedder"], embedder)
                self._embedder = embedder
            return self._embedder

    def retrieve(
        self, chunks: np.ndarray, num_neighbours: int, exclude_documents: np.ndarray | None = None
    ) -> Neighbours:
        """chunks (..., m) int -> Neighbours with leading axes (...): the nearest chunks by embedding, each
        with the chunk that follows it in its document.

        exclude_documents  (...,) int: document number from which a chunk gets no neighbours; -1 for none

        A chunk without ordinary tokens (padding and end marks only) has no neighbours and is none.
        """
        chunks = np.asarray(chunks)
        if chunks.shape[-1] != self.chunks.chunk_size:
            raise MismatchError(
                f"Datastore {self.name!r} has chunks of {self.chunks.chunk_size} tokens, but was asked with "
                f"chunks of {chunks.shape[-1]}. Build it again with the model's chunk size."
            )
        shape, k = chunks.shape[:-1], num_neighbours
        chunks = chunks.reshape(-1, chunks.shape[-1])
        exclude = None
        if exclude_documents is not None:
            exclude = np.broadcast_to(exclude_documents, shape).reshape(-1)
        ids, distances = self.nearest([self.tokenizer.decode(chunk) for chunk in chunks], k, exclude)
        ids = ids.reshape(*shape, k)
        tokens = self.chunks.retrieved_tokens(ids, self.num_continuations)
        return Neighbours(ids, distances.reshape(*shape, k), tokens, self.chunks.pad_id)

    def nearest(
        self, texts: Sequence[str], num_neighbours: int, exclude_documents: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """n texts -> ids (n, k) int64 of the nearest chunks and distances (n, k) float32, -1 and inf where
        there is none. An empty text is near to nothing.

        exclude_documents  (n,) int: see `retrieve`
        """
        ids = np.full((len(texts), num_neighbours), NO_CHUNK, dtype=np.int64)
        distances = np.full(ids.shape, np.inf, dtype=np.float32)
        asking = np.flatnonzero([bool(text) for text in texts])
        if len(asking):
            queries = self.embedder.embed([texts[i] for i in asking])
            exclude = None if exclude_documents is None else exclude_documents[asking]
            ids[asking], distances[asking] = self.nearest_vectors(queries, num_neighbours, exclude)
        return ids, distances

    def nearest_vectors(
        self, vectors: np.ndarray, num_neighbours: int, exclude_documents: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """`nearest` to what was embedded already: (n, d) float32 -> ids (n, k) and distances (n, k)."""
        return self._open_index().search(vectors, num_neighbours, exclude_documents)

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
        document = self.documents[self.chunks.chunk2seq[chunk_id]]
        offset = int(self.chunks.starts[chunk_id])
        return Provenance(document.id, document.title, offset, document.source)

    def text(self, chunk_id: int) -> str:
        """The piece of the document's text that the chunk was made from."""
        end = self.chunks.starts[chunk_id + 1] if self._continues(chunk_id) else None
        return self.documents[self.chunks.chunk2seq[chunk_id]].text[self.chunks.starts[chunk_id] : end]

    def continuation(self, chunk_id: int) -> str:
        """The text of the chunk that follows in the document; empty after its last."""
        return self.text(chunk_id + 1) if self._continues(chunk_id) else ""

    def _continues(self, chunk_id: int) -> bool:
        of = self.chunks.chunk2seq
        return chunk_id + 1 < len(of) and bool(of[chunk_id + 1] == of[chunk_id])

    def _has_text(self, chunks: np.ndarray) -> np.ndarray:
        """(n, m) -> (n,) bool: whether there is a token besides padding and end marks."""
        return ((chunks != self.tokenizer.pad_id) & (chunks != self.tokenizer.end_id)).any(axis=-1)

    def _open_index(self) -> FlatIndex:
        """Over the chunks that say something: an end mark alone is nobody's neighbour."""
        with self._lock:
            if self._index is None:
                rows = np.flatnonzero(self._has_text(self.chunks.tokens))
                self._index = FlatIndex(self.embeddings[rows], self.chunks.chunk2seq[rows], ids=rows)
            return self._index


def list_datastores() -> list[DatastoreInfo]:
    """Every datastore that `Datastore.open` knows by name, by name; unreadable ones are left out."""
    found: dict[str, DatastoreInfo] = {}
    for old in paths.datastores_dir().glob(f"{files.PREVIOUS}*"):
        files.recover(old.with_name(old.name.removeprefix(files.PREVIOUS)))
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


def find(name_or_path: str | Path) -> Path:
    """The folder meant: a Path or a string with a separator is a path, any other string a name."""
    if isinstance(name_or_path, Path) or "/" in name_or_path or "\\" in name_or_path:
        return Path(name_or_path).expanduser().resolve()
    return paths.datastore_dir(name_or_path)


def save(
    folder: Path,
    chunks: ChunkStore,
    embeddings: np.ndarray,
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    embedder: Embedder,
) -> None:
    """Fill an empty `folder`. Not atomic by itself: `build` does it inside `files.new_folder`."""
    tokenizer.save(folder)
    chunks.save(folder)
    files.save_array(folder / EMBEDDINGS_FILE, embeddings)
    with open(folder / DOCUMENTS_FILE, "w", encoding="utf-8", newline="\n") as file:
        for document in documents:
            file.write(json.dumps(asdict(document), ensure_ascii=False) + "\n")
    facts = {
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "tokenizer": {"name": tokenizer.name, "fingerprint": tokenizer.fingerprint},
        "embedder": {"name": embedder.name, "fingerprint": embedder.fingerprint, "dim": embedder.dim},
        "chunk_size": chunks.chunk_size,
        "num_documents": chunks.num_documents,
        "num_chunks": len(chunks),
        "num_tokens": int((chunks.tokens != chunks.pad_id).sum()),
    }
    write_manifest(folder, facts)


def _check_same(kind: str, path: Path, built_with: dict, used: Tokenizer | Embedder) -> None:
    if used.fingerprint != built_with["fingerprint"]:
        raise MismatchError(
            f"Datastore {path.name!r} was built with the {kind} {built_with['name']!r} "
            f"({built_with['fingerprint'][:8]}), not with {used.name!r} ({used.fingerprint[:8]}). "
            f"Choose a datastore built with the same {kind}, or build this one again with it."
        )


def _load_embeddings(path: Path) -> np.ndarray:
    try:
        return np.load(path / EMBEDDINGS_FILE, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise damaged(path, f"{EMBEDDINGS_FILE} cannot be read ({error})") from error


def _load_documents(path: Path) -> list[Document]:
    try:
        with open(path / DOCUMENTS_FILE, "rb") as file:
            return [Document(**json.loads(line)) for line in file]
    except (OSError, ValueError, TypeError) as error:
        raise damaged(path, f"{DOCUMENTS_FILE} cannot be read ({error})") from error
