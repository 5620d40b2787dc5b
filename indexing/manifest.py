"""datastore.json and what it tells of a datastore's folder: what it holds, what it was made with, and whether
its files still are what they were.

Format 2 is a living datastore: datastore.json says what it is and is never changed, the catalogue says what
it holds at the moment. Format 1 is one flat folder, written once, whose datastore.json says both.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from indexing import catalogue, files
from indexing.chunks import CHUNK2SEQ_FILE, CHUNKS_FILE, SEQ2CHUNK_FILE, STARTS_FILE
from indexing.errors import DatastoreError
from indexing.segment import DOCUMENTS_FILE, EMBEDDINGS_FILE
from indexing.tokenizer import TOKENIZER_FILE

MANIFEST_FILE = "datastore.json"
PROBES_FILE = "probes.npy"
SEGMENTS_FOLDER = "segments"
INDEX_FOLDER = "index"
FORMAT = "retro-datastore"
FORMAT_VERSION = 2
METRIC = "squared L2"

# Of format 1, in the order of its fingerprint.
FLAT_FILES = (
    TOKENIZER_FILE,
    CHUNKS_FILE,
    CHUNK2SEQ_FILE,
    SEQ2CHUNK_FILE,
    STARTS_FILE,
    EMBEDDINGS_FILE,
    DOCUMENTS_FILE,
)
# Field -> type of what is read from datastore.json, in both formats and in format 1.
_IDENTITY = {
    "format": str,
    "format_version": int,
    "created": str,
    "tokenizer": {"name": str, "fingerprint": str},
    "embedder": {"name": str, "fingerprint": str, "dim": int},
    "chunk_size": int,
}
_FLAT = {
    "num_documents": int,
    "num_chunks": int,
    "num_tokens": int,
    "files": {name: {"bytes": int, "sha256": str} for name in FLAT_FILES},
}
# Up to this size the content is hashed when a datastore opens, once in a process as long as no file seems
# changed (about a second a GB); above, on request.
_HASH_AT_OPEN = 1 << 30
_HASH_AT_ONCE, _HASH_BETWEEN_PAUSES = 1 << 20, 64 << 20  # bytes

_hashing = threading.Lock()
_hashes: dict[tuple[int, int, int, int], str] = {}  # (device, inode, time of any change, size) -> sha256


def read_manifest(path: Path) -> dict:
    """What the datastore in the folder `path` is and holds now: the fields of datastore.json in format 1; in
    format 2 also `version` and `state` (`catalogue.State`), and `files` by their paths in the folder.

    Raises DatastoreError if there is none that we can use.
    """
    file = path / MANIFEST_FILE
    if not path.exists():
        files.recover_abandoned(path)
    if not file.is_file():
        raise DatastoreError(
            f"There is no datastore {path.name!r}: expected {file}. See which there are with "
            f"`python -m indexing list`, or make it with `python -m indexing build {path.name} FILE…`."
        )
    try:
        manifest = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, f"{MANIFEST_FILE} cannot be read ({error})") from error
    if isinstance(manifest, dict) and manifest.get("format_version", 1) not in (1, FORMAT_VERSION):
        raise DatastoreError(
            f"Datastore {path.name!r} has format version {manifest['format_version']!r}, expected "
            f"{FORMAT_VERSION} or 1. Use the version of this program that made it, or build it again."
        )
    if wrong := _differs(manifest, _IDENTITY):
        raise damaged(path, f"{MANIFEST_FILE} has no proper {wrong!r}")
    if manifest["format_version"] == 1:
        if wrong := _differs(manifest, _FLAT):
            raise damaged(path, f"{MANIFEST_FILE} has no proper {wrong!r}")
        return manifest
    return {**manifest, **_contents(catalogue.read(path))}


def _contents(state: catalogue.State) -> dict:
    alive = [
        (segment, segment.num_documents - len(state.deleted.get(segment.name, ())))
        for segment in state.segments
    ]
    named = {name: vars(facts) for name, facts in state.files.items()}
    for segment in state.segments:
        for name, facts in segment.files.items():
            named[f"{SEGMENTS_FOLDER}/{segment.name}/{name}"] = vars(facts)
    return {
        "version": state.version,
        "state": state,
        "num_documents": sum(count for _, count in alive),
        "num_chunks": sum(segment.num_chunks for segment in state.segments),
        "num_tokens": sum(segment.num_tokens for segment in state.segments),
        "files": named,
    }


def identity(path: Path) -> str:
    """A word that changes whenever the datastore in the folder `path` does; cheap to ask for."""
    if (path / catalogue.CATALOGUE_FILE).exists():
        return catalogue.checksum(path)
    try:
        facts = (path / MANIFEST_FILE).stat()
    except OSError:
        return ""
    return f"{facts.st_ino}-{facts.st_mtime_ns}"


def birth(path: Path) -> tuple[int, ...] | None:
    """Differs between a datastore and one that replaces it in the folder `path`; None if there is none."""
    try:
        facts = (path / MANIFEST_FILE).stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns


def fingerprint(manifest: dict) -> str:
    """sha256 over the files' sha256 and what is deleted: equal for two datastores exactly when their content
    is."""
    named = manifest["files"]
    lines = [f"{name} {named[name]['sha256']}\n" for name in FLAT_FILES if name in named]
    if state := manifest.get("state"):
        for place, segment in enumerate(state.segments):
            deleted = sorted(state.deleted.get(segment.name, ()))
            lines.append(f"{place} {segment.fingerprint} {deleted}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_facts(file: Path) -> catalogue.FileFacts:
    return catalogue.FileFacts(bytes=file.stat().st_size, sha256=_sha256(file))


def hash_ahead(paths: Iterable[Path]) -> Iterator[None]:
    """Hash files, pausing now and then, so that `file_facts` knows their hashes at once."""
    for path in paths:
        with open(path, "rb") as opened:
            digest, since_pause = hashlib.sha256(), 0
            while block := opened.read(_HASH_AT_ONCE):
                digest.update(block)
                since_pause += len(block)
                if since_pause >= _HASH_BETWEEN_PAUSES:
                    since_pause = 0
                    yield
            with _hashing:
                _hashes[_hash_key(opened)] = digest.hexdigest()


def check_files(path: Path, manifest: dict, hash_all: bool = False) -> bool:
    """Raise DatastoreError naming the first file that is not as it was built.

    Sizes are compared always, sha256 if the folder is not large or `hash_all` is set, which also reads files
    again that did not seem to change since the last time; True if hashes were compared.
    """
    named = manifest["files"]
    if hash_all:
        with _hashing:
            _hashes.clear()
    hash_all = hash_all or sum(facts["bytes"] for facts in named.values()) <= _HASH_AT_OPEN
    for name, facts in named.items():
        try:
            size = (path / name).stat().st_size
        except OSError as error:
            raise damaged(path, f"{name} is missing") from error
        if size != facts["bytes"]:
            raise damaged(path, f"{name} has {size:,} bytes instead of {facts['bytes']:,}")
        if hash_all and _sha256(path / name) != facts["sha256"]:
            raise damaged(path, f"the content of {name} has changed since it was built")
    return hash_all


def is_as_written(file: Path, facts: dict) -> bool:
    """Whether a file exists and has this size and content, read anew."""
    try:
        return files.sha256(file) == facts["sha256"]
    except OSError:
        return False


def damaged(path: Path, what: str) -> DatastoreError:
    return DatastoreError(
        f"Datastore {path.name!r} is damaged: {what}. Restore it from a copy or an exported bundle, "
        "or build it again."
    )


def _differs(value: object, expected: object, at: str = "content") -> str:
    """Name of the first field of `value` that is missing or of another type than in `expected`, or ''."""
    if not isinstance(expected, dict):
        return "" if isinstance(value, expected) and not isinstance(value, bool) else at
    if not isinstance(value, dict):
        return at
    return next((wrong for key in expected if (wrong := _differs(value.get(key), expected[key], key))), "")


def _hash_key(opened: BinaryIO) -> tuple[int, int, int, int]:
    facts = os.fstat(opened.fileno())
    # This time is the system's own: nobody can set it back, and no file with a used number has it.
    return facts.st_dev, facts.st_ino, facts.st_ctime_ns, facts.st_size


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        key = _hash_key(opened)
        with _hashing:
            known = _hashes.get(key)
        if known is None:
            known = hashlib.file_digest(opened, "sha256").hexdigest()
            with _hashing:
                _hashes[key] = known
    return known
