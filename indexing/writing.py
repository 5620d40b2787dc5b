"""What every change of a datastore shares: there is one writer at a time, new segments are on the disk before
the catalogue names them, and what nothing names is swept away."""

import dataclasses
import glob
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path

from indexing import catalogue, files, paths
from indexing.catalogue import FileFacts, SegmentRecord, State
from indexing.chunks import CHUNKS_FILE
from indexing.datastore import Datastore
from indexing.embedder import Embedder, probe_vectors
from indexing.errors import DatastoreError
from indexing.flat import write_segment
from indexing.manifest import (
    FORMAT,
    FORMAT_VERSION,
    INDEX_FOLDER,
    MANIFEST_FILE,
    METRIC,
    PROBES_FILE,
    SEGMENTS_FOLDER,
    file_facts,
    read_manifest,
)
from indexing.segment import SEGMENT_FILES, Segment
from indexing.tokenizer import TOKENIZER_FILE, Tokenizer

_ROWS_AT_ONCE = 1 << 16


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the only one, of all processes and threads, who changes the datastore in `folder`.

    What a writer that was killed left beside the folder goes here.

    Raises DatastoreError if somebody else is at it, or nothing can be written there.
    """
    lock = files.lock(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except TimeoutError:
        raise DatastoreError(
            f"The datastore {folder.name!r} is being changed at this moment, by another program or another "
            "tab. Wait until that has finished, or stop it, and try again."
        ) from None
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        files.clear_away(folder)  # of a writer that was killed
        yield
    finally:
        lock.release()


@contextmanager
def said_plainly(folder: Path) -> Iterator[None]:
    """Turn what a full or unwilling disk raises into a DatastoreError about the datastore in `folder`."""
    try:
        yield
    except FileExistsError:
        raise
    except (OSError, sqlite3.OperationalError) as error:
        raise cannot_write(folder, error) from error


def cannot_write(folder: Path, error: Exception) -> DatastoreError:
    reason = getattr(error, "strerror", None) or str(error)
    room = ""
    with suppress(OSError):
        room = f" ({shutil.disk_usage(folder.parent).free / 1e6:,.0f} MB are free there)"
    return DatastoreError(
        f"Cannot write the datastore {folder.name!r} to {folder.parent}: {reason}{room}. Nothing was "
        "changed. Make room there, or point RETRO_HOME at another folder."
    )


@contextmanager
def changing(folder: Path, embedder: Embedder | None = None) -> Iterator[Datastore]:
    """Open the datastore in `folder` to change it, as the only writer; what a killed writer left is swept
    away. One of format 1 is brought into the present format first.

    Raises DatastoreError (missing, damaged, bundled, not ours to write, being changed by somebody else),
    MismatchError (`embedder` is another than it was built with).
    """
    if paths.is_bundled(folder):
        raise DatastoreError(
            f"The datastore {folder.name!r} ships with the program and is not changed. Build one of your "
            f"own, or copy it: `python -m indexing copy {folder.name} NEW-NAME`."
        )
    read_manifest(folder)  # a missing one is not to be locked
    with only_writer(folder), said_plainly(folder):
        datastore = Datastore.open(folder, embedder=embedder)
        if datastore.state is None:
            migrate(datastore, folder)
            datastore = Datastore.open(folder, embedder=embedder)
        sweep(folder, datastore.state)
        yield datastore


@contextmanager
def held(folder: Path) -> Iterator[Datastore]:
    """Open the datastore in `folder`, and keep others from changing it meanwhile; a bundled one nobody does.

    Raises DatastoreError (missing, damaged, being changed by somebody else).
    """
    read_manifest(folder)
    with nullcontext() if paths.is_bundled(folder) else only_writer(folder):
        yield Datastore.open(folder)


def commit(folder: Path, state: State) -> None:
    """Make `state` the next version of the datastore in `folder`. Call it inside `changing`."""
    state = dataclasses.replace(state, version=state.version + 1)
    try:
        catalogue.commit(folder, state)
    except BaseException:
        with suppress(DatastoreError, OSError):  # on a full disk the new segment is what takes the room
            sweep(folder, catalogue.read(folder))
        raise
    sweep(folder, state)
    forget_vectors(folder)


def unfinished_vectors(folder: Path) -> Path:
    """Where the vectors grow with which the datastore in `folder` is being built or added to."""
    return folder.parent / f".{folder.name}.vectors.npy"


def forget_vectors(folder: Path) -> None:
    for path in folder.parent.glob(f"{glob.escape(unfinished_vectors(folder).name)}*"):
        path.unlink(missing_ok=True)


def migrate(datastore: Datastore, folder: Path) -> None:
    """Write a datastore in the present format, as `folder`, in one step."""
    with files.new_folder(folder, replace=True) as work:
        segment = work / SEGMENTS_FOLDER / segment_name(1)
        segment.mkdir(parents=True)
        write_segment(datastore.segments[0], segment)
        datastore.tokenizer.save(work)
        kept = ("created", "tokenizer", "embedder", "chunk_size")
        _write_manifest(work, {name: datastore.manifest[name] for name in kept})
        catalogue.create(
            work, State(1, identity_files(work), (record(segment, segment.name, datastore.tokenizer.pad_id),))
        )


def write_identity(folder: Path, tokenizer: Tokenizer, embedder: Embedder, chunk_size: int) -> None:
    """Write what a new datastore is made with into `folder`."""
    tokenizer.save(folder)
    files.save_array(folder / PROBES_FILE, probe_vectors(embedder))
    facts = {
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "tokenizer": {"name": tokenizer.name, "fingerprint": tokenizer.fingerprint},
        "embedder": {"name": embedder.name, "fingerprint": embedder.fingerprint, "dim": embedder.dim},
        "chunk_size": chunk_size,
    }
    _write_manifest(folder, facts)


def _write_manifest(folder: Path, facts: dict) -> None:
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "metric": METRIC}
    files.write_json(folder / MANIFEST_FILE, {**head, **facts})


def identity_files(folder: Path) -> dict[str, FileFacts]:
    named = (MANIFEST_FILE, TOKENIZER_FILE, PROBES_FILE)  # the last is not in what was of format 1
    return {name: file_facts(folder / name) for name in named if (folder / name).exists()}


def segment_name(version: int) -> str:
    """Of the segment that comes with this version; no other version of the datastore has one of that name."""
    return f"{version:06d}"


def record(folder: Path, name: str, pad_id: int) -> SegmentRecord:
    """What the catalogue notes of the finished segment in `folder`, which is or will be called `name`."""
    segment = Segment.open(folder)
    num_tokens = 0
    for tokens in files.array_blocks(folder / CHUNKS_FILE, _ROWS_AT_ONCE):
        num_tokens += int((tokens != pad_id).sum())
    facts = {file: file_facts(folder / file) for file in SEGMENT_FILES}
    return SegmentRecord(name, segment.num_documents, len(segment), num_tokens, facts)


def sweep(folder: Path, state: State) -> None:
    """Remove segments that `state` does not name: of a killed writer, or merged into others. Readers that
    have them open keep reading them. Call it as the only writer, after the commit."""
    kept = {segment.name for segment in state.segments}
    for path in (folder / SEGMENTS_FOLDER).iterdir():
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def forget_indexes(folder: Path) -> None:
    """Remove what was made to search faster, and holds words or vectors of documents that are gone."""
    shutil.rmtree(folder / INDEX_FOLDER, ignore_errors=True)
