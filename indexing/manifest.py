"""datastore.json: what a datastore's folder holds and what it was made with, and whether it still does.

It is written last, so that a folder is a datastore exactly when it has one.
"""

import hashlib
import json
from pathlib import Path

from indexing import files
from indexing.chunks import CHUNK2SEQ_FILE, CHUNKS_FILE, SEQ2CHUNK_FILE, STARTS_FILE
from indexing.errors import DatastoreError
from indexing.tokenizer import TOKENIZER_FILE

MANIFEST_FILE = "datastore.json"
EMBEDDINGS_FILE = "embeddings.npy"
DOCUMENTS_FILE = "documents.jsonl"
FORMAT = "retro-datastore"
FORMAT_VERSION = 1
METRIC = "squared L2"

FILES = (
    TOKENIZER_FILE,
    CHUNKS_FILE,
    CHUNK2SEQ_FILE,
    SEQ2CHUNK_FILE,
    STARTS_FILE,
    EMBEDDINGS_FILE,
    DOCUMENTS_FILE,
)
# Field -> type of everything in datastore.json that is read.
_MANIFEST = {
    "format": str,
    "format_version": int,
    "created": str,
    "tokenizer": {"name": str, "fingerprint": str},
    "embedder": {"name": str, "fingerprint": str, "dim": int},
    "metric": str,
    "chunk_size": int,
    "num_documents": int,
    "num_chunks": int,
    "num_tokens": int,
    "files": {name: {"bytes": int, "sha256": str} for name in FILES},
}
# Up to this size the content is hashed each time a datastore opens (0.1 s); above, on request.
_HASH_AT_OPEN = 64 << 20


def read_manifest(path: Path) -> dict:
    """datastore.json of the folder `path`. Raises DatastoreError if there is none that we can use."""
    file = path / MANIFEST_FILE
    if not path.exists():
        files.recover(path)
    if not file.is_file():
        raise DatastoreError(
            f"There is no datastore {path.name!r}: expected {file}. See which there are with "
            f"`python -m indexing list`, or make it with `python -m indexing build {path.name} FILE…`."
        )
    try:
        manifest = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, f"{MANIFEST_FILE} cannot be read ({error})") from error
    if isinstance(manifest, dict) and manifest.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise DatastoreError(
            f"Datastore {path.name!r} has format version {manifest['format_version']!r}, expected "
            f"{FORMAT_VERSION}. Build it again with this program."
        )
    if wrong := _differs(manifest, _MANIFEST):
        raise damaged(path, f"{MANIFEST_FILE} has no proper {wrong!r}")
    return manifest


def fingerprint(manifest: dict) -> str:
    """sha256 over the files' sha256: equal for two datastores exactly when their content is."""
    lines = (f"{name} {manifest['files'][name]['sha256']}\n" for name in FILES)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_manifest(folder: Path, facts: dict) -> None:
    """Write datastore.json from `facts`, adding what the program knows: format, sizes and hashes."""
    contents = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in FILES
    }
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "metric": METRIC}
    files.write_json(folder / MANIFEST_FILE, {**head, **facts, "files": contents})


def check_files(path: Path, manifest: dict, hash_all: bool = False) -> bool:
    """Raise DatastoreError naming the first file that is not as it was built.

    Sizes are compared always, sha256 if the folder is small or `hash_all` is set; True if they were.
    """
    for name in FILES:
        expected = manifest["files"][name]["bytes"]
        try:
            size = (path / name).stat().st_size
        except OSError as error:
            raise damaged(path, f"{name} is missing") from error
        if size != expected:
            raise damaged(path, f"{name} has {size:,} bytes instead of {expected:,}")
    hash_all = hash_all or sum(manifest["files"][name]["bytes"] for name in FILES) <= _HASH_AT_OPEN
    for name in FILES if hash_all else ():
        if _sha256(path / name) != manifest["files"][name]["sha256"]:
            raise damaged(path, f"the content of {name} has changed since it was built")
    return hash_all


def damaged(path: Path, what: str) -> DatastoreError:
    return DatastoreError(f"Datastore {path.name!r} is damaged: {what}. Build it again.")


def _differs(value: object, expected: object, at: str = "content") -> str:
    """Name of the first field of `value` that is missing or of another type than in `expected`, or ''."""
    if not isinstance(expected, dict):
        return "" if isinstance(value, expected) and not isinstance(value, bool) else at
    if not isinstance(value, dict):
        return at
    return next((wrong for key in expected if (wrong := _differs(value.get(key), expected[key], key))), "")


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
