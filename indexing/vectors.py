"""Texts -> a .npy of their vectors, in hours that may be cut off any moment: what is done is not done again.

Beside the file `x.npy`, until it is finished:

    x.npy.part      its rows so far, at their places
    x.npy.journal   a line of JSON for each block of rows that is on the disk: {"block", "input", "output"},
                    sha256 of its texts and of its vectors; the first line says with what it was begun

A line counts only if the rows it speaks of have the hash it gives; so a torn line, lost pages and a damaged
file cost the blocks concerned. One process at a time may work at a file.
"""

import hashlib
import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from indexing import files
from indexing.embedder import Embedder

_BLOCK = 256  # rows; the default embedder takes some seconds
_SECONDS_BETWEEN_SYNCS = 2.0


def embed_rows(
    texts: Sequence[str],
    embedder: Embedder,
    path: Path,
    dtype: np.typing.DTypeLike = np.float16,
    block: int = _BLOCK,
) -> Iterator[int]:
    """Write the vectors of n texts to `path` as (n, dim) of `dtype`; yields how many rows are done, n last.

    texts  is asked for its length and for slices of `block` texts; so it may be read from the disk

    `path` appears whole at the end. Begun again after it was killed, or closed, it goes on: blocks whose
    texts are the same as then, and whose vectors are on the disk as written, are not embedded again.
    Another embedder or dtype, or other texts in a block, are noticed. In memory is one block.

    Raises OSError if the disk is full; what was done stays.
    """
    dtype, total = np.dtype(dtype), len(texts)
    part, journal = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.journal")
    begun = {"embedder": embedder.fingerprint, "dim": embedder.dim, "dtype": dtype.str, "block": block}
    path.parent.mkdir(parents=True, exist_ok=True)
    if journal.exists() and not part.exists() and path.exists():
        os.replace(path, part)  # cut off at the very end, between the rename and the journal's removal
    done = _read_journal(journal, begun) if part.exists() else {}
    if not done:
        journal.unlink(missing_ok=True)
    header, width = _header((total, embedder.dim), dtype), dtype.itemsize * embedder.dim
    with open(part, "r+b" if done else "w+b") as rows, open(journal, "ab") as log:
        # The length of a header does not depend on the number of rows, so rows stay where they are.
        rows.write(header)
        rows.truncate(len(header) + total * width)
        waiting = [] if done else [_line(begun)]
        _cut_torn_line(journal, log)
        synced = time.monotonic()
        try:
            for start in range(0, total, block):
                wanted = texts[start : start + block]
                asked, place = _hash_texts(wanted), len(header) + start * width
                if not _is_done(done.get(start // block), asked, rows, place, len(wanted) * width):
                    vectors = np.asarray(embedder.embed(wanted)).astype(dtype).tobytes()
                    rows.seek(place)
                    rows.write(vectors)
                    entry = {"block": start // block, "input": asked, "output": _sha256(vectors)}
                    waiting.append(_line(entry))
                if time.monotonic() - synced >= _SECONDS_BETWEEN_SYNCS:
                    _sync(rows, log, waiting)
                    synced = time.monotonic()
                if start + block < total:
                    yield start + block
        finally:
            _sync(rows, log, waiting)
    os.replace(part, path)
    files.sync(path.parent)
    journal.unlink()
    yield total


def _is_done(entry: dict | None, asked: str, rows: BinaryIO, place: int, size: int) -> bool:
    if entry is None or entry["input"] != asked:
        return False
    rows.seek(place)
    return _sha256(rows.read(size)) == entry["output"]


def _sync(rows: BinaryIO, log: BinaryIO, waiting: list[bytes]) -> None:
    """Put rows on the disk, and only then the lines that vouch for them."""
    rows.flush()
    os.fsync(rows.fileno())
    log.write(b"".join(waiting))
    log.flush()
    os.fsync(log.fileno())
    waiting.clear()


def _read_journal(journal: Path, begun: dict) -> dict[int, dict]:
    """Block -> its last line; {} if there is no journal of the same work."""
    try:
        lines = journal.read_bytes().splitlines()
    except OSError:
        return {}
    entries = [entry for line in lines if (entry := _entry(line)) is not None]
    if not entries or entries[0] != begun:
        return {}
    return {entry["block"]: entry for entry in entries[1:] if {"block", "input", "output"} <= entry.keys()}


def _entry(line: bytes) -> dict | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _cut_torn_line(journal: Path, log: BinaryIO) -> None:
    """Let the next line begin at a line's beginning."""
    content = journal.read_bytes()
    if content and not content.endswith(b"\n"):
        log.truncate(content.rfind(b"\n") + 1)


def _line(entry: dict) -> bytes:
    return json.dumps(entry, sort_keys=True).encode() + b"\n"


def _header(shape: tuple[int, int], dtype: np.dtype) -> bytes:
    header = io.BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, facts)
    return header.getvalue()


def _hash_texts(texts: Sequence[str]) -> str:
    """Where one text ends and the next begins counts too."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
