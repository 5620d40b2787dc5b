"""What a datastore consists of at this moment: one SQLite file, whose transactions are its only commit point.

Segments are written first and are nothing until a transaction here names them; a reader sees the state before
it or after, also when the writer is killed or the power fails in between. A checksum over everything that is
written here tells a file that was damaged from one that was not: SQLite itself notices only some damage.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from indexing.errors import DatastoreError

CATALOGUE_FILE = "catalogue.db"
# What reading a state that somebody else has written may raise.
UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
_MAX_VERSION = 10**9

_SCHEMA = """
CREATE TABLE state (version INTEGER NOT NULL, checksum TEXT NOT NULL);
CREATE TABLE files (name TEXT PRIMARY KEY, facts TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (place INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, facts TEXT NOT NULL);
CREATE TABLE deleted (segment TEXT, document INTEGER, PRIMARY KEY (segment, document)) WITHOUT ROWID;
"""
# Seconds to wait for another process that is in the middle of a transaction; ours take milliseconds.
_PATIENCE = 30.0


@dataclass(frozen=True)
class FileFacts:
    """Of a file that is never changed."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class SegmentRecord:
    """A segment of the datastore; `num_tokens` counts everything but padding."""

    name: str
    num_documents: int
    num_chunks: int
    num_tokens: int
    files: Mapping[str, FileFacts]

    @property
    def fingerprint(self) -> str:
        """sha256 over the files' sha256: equal for two segments exactly when their content is."""
        lines = (f"{name} {self.files[name].sha256}\n" for name in sorted(self.files))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class State:
    """All that a datastore consists of. `files` are those beside the segments; `deleted` documents are
    counted within their segment."""

    version: int
    files: Mapping[str, FileFacts]
    segments: tuple[SegmentRecord, ...]
    deleted: Mapping[str, frozenset[int]] = field(default_factory=dict)

    @property
    def checksum(self) -> str:
        """Of everything in it: two states are equal exactly when their checksums are."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict:
        return {
            "version": self.version,
            "files": {name: vars(facts) for name, facts in self.files.items()},
            "segments": [{"name": segment.name, **_facts(segment)} for segment in self.segments],
            "deleted": {name: sorted(numbers) for name, numbers in self.deleted.items() if numbers},
        }

    @staticmethod
    def from_json(value: dict) -> "State":
        """Raises one of `UNREADABLE` if `value` is not what `to_json` gives of a state that can be."""
        state = State(
            version=int(value["version"]),
            files={name: FileFacts(**facts) for name, facts in value["files"].items()},
            segments=tuple(_segment(facts["name"], facts) for facts in value["segments"]),
            deleted={name: frozenset(map(int, numbers)) for name, numbers in value["deleted"].items()},
        )
        documents = {segment.name: segment.num_documents for segment in state.segments}
        if not 1 <= state.version <= _MAX_VERSION or len(documents) < len(state.segments):
            raise ValueError("no datastore has such a version or such segments")
        for name, numbers in state.deleted.items():
            if not all(0 <= number < documents[name] for number in numbers):
                raise ValueError("documents are deleted that are not there")
        if json.dumps(state.to_json(), sort_keys=True) != json.dumps(value, sort_keys=True):
            raise ValueError("it is not written as a state is")  # true in the place of 1, say
        return state


def create(folder: Path, state: State) -> None:
    """Write the first state of a datastore; schema and content appear in one transaction."""
    with _transaction(folder / CATALOGUE_FILE, "rwc") as database:
        for statement in _SCHEMA.split(";"):
            database.execute(statement)
        _write(database, state)


def read(folder: Path) -> State:
    """The state now. Raises DatastoreError if it is damaged."""
    file = folder / CATALOGUE_FILE
    try:
        with closing(_connect(file, "rw" if _writable(file) else "ro")) as database:
            database.execute("BEGIN")  # all tables as of one moment
            state = _read(database)
            (checksum,) = database.execute("SELECT checksum FROM state").fetchone()
    except (sqlite3.Error, *UNREADABLE) as error:
        raise _damaged(folder, str(error)) from error
    if checksum != state.checksum:
        raise _damaged(folder, "its content is not what was written")
    return state


def checksum(folder: Path) -> str:
    """Of the state now, as it was written: tells cheaply whether anything has changed since `read`."""
    file = folder / CATALOGUE_FILE
    try:
        with closing(_connect(file, "rw" if _writable(file) else "ro")) as database:
            return str(database.execute("SELECT checksum FROM state").fetchone()[0])
    except (sqlite3.Error, *UNREADABLE) as error:  # a damaged schema makes errors that are no UTF-8
        raise _damaged(folder, str(error)) from error


def commit(folder: Path, state: State) -> None:
    """Make `state` the datastore's. Call it as the only writer (`writing.lock`), when everything it names is
    on the disk."""
    with _transaction(folder / CATALOGUE_FILE, "rw") as database:
        for table in ("state", "files", "segments", "deleted"):
            database.execute(f"DELETE FROM {table}")
        _write(database, state)


def _write(database: sqlite3.Connection, state: State) -> None:
    database.execute("INSERT INTO state VALUES (?, ?)", (state.version, state.checksum))
    for name, facts in state.files.items():
        database.execute("INSERT INTO files VALUES (?, ?)", (name, json.dumps(vars(facts))))
    for place, segment in enumerate(state.segments):
        row = (place, segment.name, json.dumps(_facts(segment)))
        database.execute("INSERT INTO segments VALUES (?, ?, ?)", row)
    for name, numbers in state.deleted.items():
        rows = ((name, number) for number in sorted(numbers))
        database.executemany("INSERT INTO deleted VALUES (?, ?)", rows)


def _read(database: sqlite3.Connection) -> State:
    (version,) = database.execute("SELECT version FROM state").fetchone()
    deleted: dict[str, set[int]] = {}
    for name, number in database.execute("SELECT segment, document FROM deleted"):
        deleted.setdefault(name, set()).add(number)
    return State(
        version=version,
        files={
            name: FileFacts(**json.loads(facts)) for name, facts in database.execute("SELECT * FROM files")
        },
        segments=tuple(
            _segment(name, json.loads(facts))
            for name, facts in database.execute("SELECT name, facts FROM segments ORDER BY place")
        ),
        deleted={name: frozenset(numbers) for name, numbers in deleted.items()},
    )


def _facts(segment: SegmentRecord) -> dict:
    return {
        "num_documents": segment.num_documents,
        "num_chunks": segment.num_chunks,
        "num_tokens": segment.num_tokens,
        "files": {name: vars(facts) for name, facts in segment.files.items()},
    }


def _segment(name: str, facts: dict) -> SegmentRecord:
    return SegmentRecord(
        name=str(name),
        num_documents=int(facts["num_documents"]),
        num_chunks=int(facts["num_chunks"]),
        num_tokens=int(facts["num_tokens"]),
        files={file: FileFacts(**known) for file, known in facts["files"].items()},
    )


def _connect(file: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{file.absolute().as_uri()}?mode={mode}", uri=True, timeout=_PATIENCE, isolation_level=None
    )


@contextmanager
def _transaction(file: Path, mode: str) -> Iterator[sqlite3.Connection]:
    with closing(_connect(file, mode)) as database:
        # EXTRA also puts the end of the rollback journal on the disk: what was committed stays committed.
        database.execute("PRAGMA synchronous = EXTRA")
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


def _writable(file: Path) -> bool:
    """Whether a journal that a killed writer left can be rolled back by us."""
    return os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)


def _damaged(folder: Path, what: str) -> DatastoreError:
    return DatastoreError(
        f"Datastore {folder.name!r} is damaged: {CATALOGUE_FILE} cannot be read ({what}). Restore it from a "
        "copy or an exported bundle, or build it again."
    )
