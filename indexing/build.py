"""Documents -> a new datastore, or more of one, as a generator of events: whoever drains it shows the
progress, and closing it stops the work with nothing left behind. Memory does not grow with the corpus."""

import dataclasses
import os
import shutil
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from indexing import catalogue, files, paths
from indexing.catalogue import State
from indexing.chunking import CHUNK_SIZE
from indexing.chunks import CHUNKS_FILE
from indexing.corpus import Document
from indexing.datastore import check_same, find
from indexing.embedder import Embedder, open_embedder
from indexing.errors import CorpusError, DatastoreError, InputError
from indexing.manifest import (
    MANIFEST_FILE,
    SEGMENTS_FOLDER,
    check_files,
    hash_ahead,
    is_as_written,
    read_manifest,
)
from indexing.segment import EMBEDDINGS_FILE, Segment, SegmentWriter, read_array
from indexing.tokenizer import Tokenizer
from indexing.vectors import embed_rows
from indexing.writing import (
    changing,
    commit,
    forget_vectors,
    identity_files,
    only_writer,
    record,
    said_plainly,
    segment_name,
    unfinished_vectors,
    write_identity,
)

# Chunks embedded between two events: a second of MiniLM on two cores, the longest that a stop waits.
_EMBED_AT_ONCE = 64
_DOCUMENTS_AT_ONCE = 50


@dataclass(frozen=True)
class BuildEvent:
    """Progress of one stage, in documents (reading) or chunks (embedding, saving, done).

    `total` is 0 while it is not known; `message` is a sentence for the user, in the last event always.
    """

    stage: Literal["reading", "embedding", "saving", "done"]
    done: int
    total: int
    message: str = ""


def build(
    name: str | Path,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    embedder: Embedder,
    chunk_size: int = CHUNK_SIZE,
    replace: bool = False,
) -> Iterator[BuildEvent]:
    """Make the datastore `name` (in the user's folder; or a folder elsewhere, given as a Path).

    It appears whole after the last event's stage "saving", or not at all: closing the generator, an error
    and SIGKILL leave what was there before. With `replace`, that may be a datastore of the same name.

    Raises InputError (the name), CorpusError (a document), DatastoreError (exists, cannot be written, or is
    being made by somebody else).
    """
    if chunk_size < 1:
        raise InputError(f"Expected chunks of at least 1 token, got {chunk_size}. The models' own is 64.")
    target = _target(name)
    if not replace:
        check_free(name)
    try:
        with only_writer(target), said_plainly(target), files.new_folder(target, replace=replace) as folder:
            segment = folder / SEGMENTS_FOLDER / segment_name(1)
            segment.mkdir(parents=True)
            written = yield from _write(segment, target, documents, tokenizer, embedder, chunk_size)
            yield BuildEvent("saving", 0, written.num_chunks)
            for _ in hash_ahead(segment.iterdir()):
                yield BuildEvent("saving", 0, written.num_chunks)
            write_identity(folder, tokenizer, embedder, chunk_size)
            catalogue.create(
                folder, State(1, identity_files(folder), (record(segment, segment.name, tokenizer.pad_id),))
            )
    except FileExistsError:
        check_free(name)
        raise
    count = written.num_chunks
    yield BuildEvent("done", count, count, f"Built {target.name!r}: {_summary(written)}")


def append(
    name_or_path: str | Path, documents: Iterable[Document], embedder: Embedder | None = None
) -> Iterator[BuildEvent]:
    """Add documents to a datastore, in chunks of its own tokenizer. A document whose id is taken gets a
    number behind it.

    They appear all at once after the stage "saving", or not at all, as in `build`.

    Raises DatastoreError (missing, damaged, bundled, or being changed by somebody else), MismatchError
    (`embedder` is another than it was built with), CorpusError (a document).
    """
    path = find(name_or_path)
    with changing(path, embedder) as datastore:
        state = datastore.state
        name = segment_name(state.version + 1)
        with files.new_folder(path / SEGMENTS_FOLDER / name) as folder:
            written = yield from _write(
                folder,
                path,
                documents,
                datastore.tokenizer,
                datastore.embedder,
                datastore.chunks.chunk_size,
                datastore.segments,
            )
            yield BuildEvent("saving", 0, written.num_chunks)
            for _ in hash_ahead(folder.iterdir()):
                yield BuildEvent("saving", 0, written.num_chunks)
            segment = record(folder, name, datastore.tokenizer.pad_id)
        commit(path, dataclasses.replace(state, segments=(*state.segments, segment)))
    count = written.num_chunks
    yield BuildEvent("done", count, count, f"Added to {path.name!r}: {_summary(written)}")


def repair(name_or_path: str | Path, embedder: Embedder | None = None) -> Iterator[BuildEvent]:
    """Embed again what has damaged embeddings; nothing else can be made again of what is there.

    Raises DatastoreError (missing, other damage, being changed by somebody else), MismatchError (`embedder`
    is another than it was built with).
    """
    path = find(name_or_path)
    manifest = read_manifest(path)
    if manifest["format_version"] == 1:
        raise DatastoreError(
            f"Datastore {path.name!r} is of format 1, which is not repaired. Build it again."
        )
    with only_writer(path), said_plainly(path):
        manifest = read_manifest(path)
        state: State = manifest["state"]
        bad, sound = set(), {}
        for name, facts in manifest["files"].items():
            if name.endswith(f"/{EMBEDDINGS_FILE}") and not is_as_written(path / name, facts):
                bad.add(name.split("/")[1])
            else:
                sound[name] = facts
        check_files(path, {"files": sound}, hash_all=True)
        if not bad:
            yield BuildEvent("done", 0, 0, f"{path.name!r} is not damaged.")
            return
        embedder = embedder or open_embedder(manifest["embedder"]["name"])
        check_same("embedder", path, manifest["embedder"], embedder)
        tokenizer = Tokenizer.load(path)
        segments = []
        for place, segment in enumerate(state.segments):
            if segment.name in bad:
                name = f"{segment_name(state.version + 1)}-{place}"
                with files.new_folder(path / SEGMENTS_FOLDER / name) as folder:
                    for file in {*segment.files} - {EMBEDDINGS_FILE}:
                        shutil.copyfile(path / SEGMENTS_FOLDER / segment.name / file, folder / file)
                    yield from _embed(folder, path, tokenizer, embedder)
                    segments.append(record(folder, name, tokenizer.pad_id))
            else:
                segments.append(segment)
        commit(path, dataclasses.replace(state, segments=tuple(segments)))
    count = sum(segment.num_chunks for segment in state.segments if segment.name in bad)
    yield BuildEvent("done", count, count, f"Embedded {count:,} chunks of {path.name!r} again.")


def check_free(name: str | Path) -> None:
    """Raise InputError or DatastoreError if `build` could not make a new datastore of this name."""
    target = _target(name)
    found = target if isinstance(name, Path) else paths.datastore_dir(name)
    if (found / MANIFEST_FILE).exists():
        raise DatastoreError(
            f"A datastore {target.name!r} exists already. Choose another name, or ask to replace it."
        )
    if target.exists():
        raise DatastoreError(f"{target} exists and is not a datastore. Choose another name, or remove it.")


def _target(name: str | Path) -> Path:
    return name if isinstance(name, Path) else paths.datastores_dir() / paths.check_name(name)


def _write(
    folder: Path,
    target: Path,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    embedder: Embedder,
    chunk_size: int,
    taken: Sequence[Segment] = (),
) -> Generator[BuildEvent, None, SegmentWriter]:
    """Write documents as a segment of the datastore `target` into the empty `folder`; the writer, which has
    counted."""
    writer = SegmentWriter(folder, tokenizer, chunk_size)
    for document in documents:
        for _ in writer.add(document):
            yield BuildEvent("reading", writer.num_documents, 0)
        if writer.num_documents % _DOCUMENTS_AT_ONCE == 0:
            yield BuildEvent("reading", writer.num_documents, 0)
    if not writer.num_documents:
        raise CorpusError("There are no documents to build from. Give at least one text.")
    writer.finish(taken)
    yield BuildEvent("reading", writer.num_documents, writer.num_documents)

    yield from _embed(folder, target, tokenizer, embedder)
    return writer


def _embed(folder: Path, target: Path, tokenizer: Tokenizer, embedder: Embedder) -> Iterator[BuildEvent]:
    """Write the embeddings of the chunks in `folder` beside them.

    They grow beside the datastore `target`: whoever tries again after the program was killed, or stopped with
    Ctrl-C, gets what was embedded already.
    """
    texts = _ChunkTexts(folder / CHUNKS_FILE, tokenizer)
    vectors = unfinished_vectors(target)
    yield BuildEvent("embedding", 0, len(texts))
    try:
        for done in embed_rows(texts, embedder, vectors, block=_EMBED_AT_ONCE):
            yield BuildEvent("embedding", done, len(texts))
        os.replace(vectors, folder / EMBEDDINGS_FILE)
    except (Exception, GeneratorExit):
        forget_vectors(target)
        raise


class _ChunkTexts:
    """What is embedded of each chunk, read from the disk when a slice of them is asked for."""

    def __init__(self, chunks: Path, tokenizer: Tokenizer):
        self._chunks, self._tokenizer = chunks, tokenizer
        self._count = len(read_array(chunks))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, rows: slice) -> list[str]:
        start, stop, _ = rows.indices(self._count)
        return [self._tokenizer.decode(chunk) for chunk in files.read_rows(self._chunks, start, stop)]


def _summary(written: SegmentWriter) -> str:
    def count(number: int, word: str) -> str:
        return f"{number:,} {word}{'' if number == 1 else 's'}"

    summary = f"{count(written.num_documents, 'document')}, {count(written.num_chunks, 'chunk')}."
    if written.num_repeated:
        repeated = count(written.num_repeated, "document")
        summary += f" {repeated} with the same text as an earlier one; all were kept."
    return summary
