"""A datastore as one file, to give away or keep: a ZIP, not compressed, of what it holds at one moment.

    state.json        `catalogue.State`: names, sizes and sha256 of everything else
    datastore.json  tokenizer.json  segments/NAME/…       as in the folder

A bundle may come from anywhere: only the files that a datastore has are taken out of it, each is compared
with its sha256, and every value in them is looked at. Indexes are not in it; they are made anew.
"""

import hashlib
import json
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from indexing import catalogue, files, paths
from indexing.catalogue import State
from indexing.datastore import Datastore, find
from indexing.errors import DatastoreError
from indexing.manifest import MANIFEST_FILE, PROBES_FILE, SEGMENTS_FOLDER
from indexing.segment import SEGMENT_FILES, check_content
from indexing.tokenizer import TOKENIZER_FILE
from indexing.upkeep import UpkeepEvent, copy
from indexing.writing import held, only_writer, record, said_plainly

STATE_FILE = "state.json"
SUFFIX = ".retro-datastore.zip"

_SEGMENT_NAME = re.compile(r"[0-9]{6,12}(-[0-9]{1,6})?")
_AT_ONCE = 1 << 20
# What reading a file that is no proper ZIP, or another's, may raise.
_BAD_BUNDLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    *catalogue.UNREADABLE,
    RuntimeError,  # encrypted, unknown compression
)
# A state names a few files for each segment; nobody has hundreds of thousands of segments.
_MAX_STATE_BYTES = 64 << 20


def export(name_or_path: str | Path, file: Path) -> Iterator[UpkeepEvent]:
    """Write a datastore, as it is now, to the bundle `file`, which appears whole or not at all.

    Raises DatastoreError (missing, damaged, being changed by somebody else, or `file` cannot be written).
    """
    path, file = find(name_or_path), Path(file)
    with tempfile.TemporaryDirectory() as place:
        with held(path) as datastore:
            flat = datastore.state is None
        if flat:  # written in the present format first
            copy(path, Path(place) / path.name)
            path = Path(place) / path.name
        with held(path) as datastore, said_plainly(file):
            assert datastore.state is not None
            named = datastore.manifest["files"]
            total = len(datastore.chunks)
            with files.new_file(file) as work, zipfile.ZipFile(work, "w", zipfile.ZIP_STORED) as bundle:
                bundle.writestr(STATE_FILE, json.dumps(datastore.state.to_json()))
                size, written = sum(facts["bytes"] for facts in named.values()), 0
                for name in named:
                    with (
                        open(path / name, "rb") as source,
                        bundle.open(name, "w", force_zip64=True) as target,
                    ):
                        while block := source.read(_AT_ONCE):
                            target.write(block)
                            written += len(block)
                            yield UpkeepEvent("copying", total * written // max(1, size), total)
    yield UpkeepEvent("done", total, total, f"Exported {path.name!r}: {file.stat().st_size:,} bytes.")


def import_bundle(file: Path, name: str | Path) -> Iterator[UpkeepEvent]:
    """Make the datastore `name` (in the user's folder; or a folder elsewhere, given as a Path) of a bundle.

    Raises InputError (the name), DatastoreError (it exists, the bundle is none or damaged, the disk is full).
    """
    target = name if isinstance(name, Path) else paths.datastores_dir() / paths.check_name(name)
    if target.exists():
        raise DatastoreError(f"A datastore {target.name!r} exists already. Choose another name.")
    if not Path(file).is_file():
        raise DatastoreError(f"There is no file {file}. Give a bundle that `python -m indexing export` made.")
    with only_writer(target), said_plainly(target), files.new_folder(target) as folder:
        try:
            with zipfile.ZipFile(file) as bundle:
                state = _read_state(bundle)
                yield from _unpack(bundle, state, folder)
        except _BAD_BUNDLE as error:
            raise _damaged(file, str(error)) from error
        catalogue.create(folder, state)
        try:
            datastore = Datastore.open(folder)
            for segment, told in zip(datastore.segments, state.segments, strict=True):
                check_content(segment, datastore.tokenizer.vocab_size)
                found = record(folder / SEGMENTS_FOLDER / told.name, told.name, datastore.tokenizer.pad_id)
                if found != told:
                    raise DatastoreError(f"segment {told.name} is another than {STATE_FILE} says")
        except DatastoreError as error:
            raise _damaged(file, str(error)) from error
        total = len(datastore.chunks)
    yield UpkeepEvent(
        "done", total, total, f"Imported {target.name!r}: {datastore.num_documents:,} documents."
    )


def _read_state(bundle: zipfile.ZipFile) -> State:
    if bundle.getinfo(STATE_FILE).file_size > _MAX_STATE_BYTES:
        raise ValueError(f"{STATE_FILE} is too large")
    state = State.from_json(json.loads(bundle.read(STATE_FILE)))
    needed = {MANIFEST_FILE, TOKENIZER_FILE}
    if not needed <= {*state.files} <= {*needed, PROBES_FILE} or not state.segments:
        raise ValueError("it does not hold what a datastore does")
    for segment in state.segments:
        if not _SEGMENT_NAME.fullmatch(segment.name) or {*segment.files} != {*SEGMENT_FILES}:
            raise ValueError("its segments are not those of a datastore")
        if int(segment.name.split("-")[0]) > state.version:  # a later change would make one of that name
            raise ValueError("it has segments of versions to come")
    return state


def _unpack(bundle: zipfile.ZipFile, state: State, folder: Path) -> Iterator[UpkeepEvent]:
    named = dict(state.files)
    for segment in state.segments:
        (folder / SEGMENTS_FOLDER / segment.name).mkdir(parents=True)
        for name, facts in segment.files.items():
            named[f"{SEGMENTS_FOLDER}/{segment.name}/{name}"] = facts
    total = sum(segment.num_chunks for segment in state.segments)
    size, read = max(1, sum(facts.bytes for facts in named.values())), 0
    for name, facts in named.items():
        digest, left = hashlib.sha256(), facts.bytes
        with bundle.open(name) as source, open(folder / name, "wb") as target:
            while block := source.read(min(_AT_ONCE, left + 1)):
                left -= len(block)
                if left < 0:
                    break
                digest.update(block)
                target.write(block)
                read += len(block)
                yield UpkeepEvent("copying", total * read // size, total)
        if left or digest.hexdigest() != facts.sha256:
            raise ValueError(f"{name} is not what was exported")


def _damaged(file: Path, what: str) -> DatastoreError:
    return DatastoreError(
        f"{Path(file).name} is not a whole bundle of a datastore: {what}. Export it again, or copy it again."
    )
