"""Changes of a datastore that embed nothing: documents leave, segments become one, names change; and a look
at every byte. Adding documents is in `build`.

Each change takes effect in one step; until then, and if it fails or is killed, everything is as it was.
"""

import dataclasses
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from indexing import catalogue, files, paths
from indexing.datastore import find
from indexing.errors import DatastoreError
from indexing.manifest import SEGMENTS_FOLDER, check_files, damaged, hash_ahead, read_manifest
from indexing.segment import check_content, merge
from indexing.writing import (
    changing,
    commit,
    forget_indexes,
    forget_vectors,
    held,
    migrate,
    only_writer,
    record,
    said_plainly,
    segment_name,
)


@dataclass(frozen=True)
class UpkeepEvent:
    """Progress, in chunks; `message` is a sentence for the user, in the last event always."""

    stage: Literal["copying", "checking", "done"]
    done: int
    total: int
    message: str = ""


def delete(name_or_path: str | Path, document_ids: Sequence[str]) -> int:
    """Take documents out of a datastore; the new version. No later search finds them, and none of their text
    is given out; what they took on the disk is freed by `compact`.

    Raises InputError if one of them is not there (then none is deleted), and what `changing` does.
    """
    path = find(name_or_path)
    with changing(path) as datastore:
        state = datastore.state
        gone = {name: set(numbers) for name, numbers in state.deleted.items()}
        ends = np.cumsum([segment.num_documents for segment in datastore.segments])
        for number in [datastore.number_of(document_id) for document_id in document_ids]:
            place = int(np.searchsorted(ends, number, side="right"))
            segment = datastore.segments[place]
            gone.setdefault(segment.name, set()).add(number - (int(ends[place]) - segment.num_documents))
        deleted = {name: frozenset(numbers) for name, numbers in gone.items()}
        commit(path, dataclasses.replace(state, deleted=deleted))
        return state.version + 1


def compact(name_or_path: str | Path) -> Iterator[UpkeepEvent]:
    """Make one segment of all, without the deleted documents, whose text and vectors are then gone from the
    disk. Chunks and documents are numbered anew. A datastore of one whole segment stays as it is.

    Raises what `changing` does.
    """
    path = find(name_or_path)
    with changing(path) as datastore:
        state, segments = datastore.state, datastore.segments
        if len(segments) == 1 and not datastore.deleted.any():
            yield UpkeepEvent(
                "done", 0, 0, f"{path.name!r} is compact already: one segment, nothing deleted."
            )
            return
        ends = np.cumsum([segment.num_documents for segment in segments])[:-1]
        total = int(datastore.alive.sum())
        name = segment_name(state.version + 1)
        with files.new_folder(path / SEGMENTS_FOLDER / name) as folder:
            yield UpkeepEvent("copying", 0, total)
            for done in merge(segments, np.split(~datastore.deleted, ends), folder):
                yield UpkeepEvent("copying", done, total)
            for _ in hash_ahead(folder.iterdir()):
                yield UpkeepEvent("copying", total, total)
            merged = record(folder, name, datastore.tokenizer.pad_id)
        commit(path, dataclasses.replace(state, segments=(merged,), deleted={}))
        forget_indexes(path)
    freed = len(datastore.alive) - total
    message = f"Compacted {path.name!r}: one segment instead of {len(segments)}, {freed:,} chunks removed."
    yield UpkeepEvent("done", total, total, message)


def rename(name: str, new_name: str) -> None:
    """Give one of the user's datastores another name. Raises InputError (a name), DatastoreError (missing,
    bundled, `new_name` is taken, or being changed by somebody else)."""
    old, new = _own(name), paths.datastores_dir() / paths.check_name(new_name)
    with only_writer(old), only_writer(new), said_plainly(old):
        if new.exists():
            raise DatastoreError(f"There is a datastore {new_name!r} already. Choose another name.")
        os.rename(old, new)
        files.sync(new.parent)


def remove(name: str) -> None:
    """Remove one of the user's datastores and everything in it. Raises what `rename` does."""
    folder = _own(name)
    with only_writer(folder), said_plainly(folder):
        gone = folder.with_name(f"{files.UNFINISHED}{name}-{os.getpid()}-{secrets.token_hex(4)}")
        os.rename(folder, gone)  # all at once; what follows may be cut off
        files.sync(folder.parent)
        shutil.rmtree(gone, ignore_errors=True)
        forget_vectors(folder)


def copy(name_or_path: str | Path, new_name: str | Path) -> None:
    """Make a datastore of the user's own, `new_name` (or a folder elsewhere, given as a Path), of another, a
    bundled one too; in the present format. Raises InputError (a name), DatastoreError (missing, damaged,
    `new_name` is taken)."""
    source = find(name_or_path)
    new = new_name if isinstance(new_name, Path) else paths.datastores_dir() / paths.check_name(new_name)
    if new.exists():
        raise DatastoreError(f"There is a datastore {new.name!r} already. Choose another name.")
    with only_writer(new), said_plainly(new), held(source) as datastore:
        if datastore.state is None:
            migrate(datastore, new)
            return
        with files.new_folder(new) as folder:
            for name in datastore.manifest["files"]:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, folder / name)
            catalogue.create(folder, datastore.state)


def verify(name_or_path: str | Path) -> Iterator[UpkeepEvent]:
    """Read every file of a datastore, compare it with what was written and look at every value.

    Raises DatastoreError about the first thing that is wrong; embeddings can be made again: `build.repair`.
    """
    path = find(name_or_path)
    with held(path) as datastore:
        total = len(datastore.chunks)
        yield UpkeepEvent("checking", 0, total)
        check_files(path, datastore.manifest, hash_all=True)
        done = 0
        for segment in datastore.segments:
            try:
                check_content(segment, datastore.tokenizer.vocab_size)
            except DatastoreError as error:
                raise damaged(path, str(error).rstrip(".")) from error
            done += len(segment)
            yield UpkeepEvent("checking", done, total)
        size = sum(facts["bytes"] for facts in datastore.manifest["files"].values())
    message = f"{path.name!r} is as it was written: {len(datastore.manifest['files'])} files, {size:,} bytes."
    yield UpkeepEvent("done", total, total, message)


def _own(name: str) -> Path:
    """The folder of a datastore of the user's."""
    folder = paths.datastores_dir() / paths.check_name(name)
    if not folder.exists() and paths.is_bundled(paths.datastore_dir(name)):
        raise DatastoreError(
            f"The datastore {name!r} ships with the program and is not changed. Copy it under another name."
        )
    read_manifest(folder)
    return folder
