"""Datastores of format 1, one flat folder each: still read, and made into the present one when they change.

Its documents.jsonl holds the texts too, {"id", "title", "source", "text"} a line, and starts.npy counts
characters only; both are brought into the shape of a segment in memory.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from indexing import files
from indexing.chunks import CHUNK2SEQ_FILE, CHUNKS_FILE, SEQ2CHUNK_FILE, STARTS_FILE
from indexing.corpus import Document
from indexing.errors import DatastoreError
from indexing.segment import (
    BYTE_STARTS_FILE,
    DOCUMENTS_FILE,
    EMBEDDINGS_FILE,
    IDS_FILE,
    LABEL_OFFSETS_FILE,
    TEXT_OFFSETS_FILE,
    TEXTS_FILE,
    Bytes,
    Label,
    Segment,
    bytes_before,
    check_shapes,
    id_hash,
    label_line,
    read_array,
)


def open_flat(folder: Path) -> Segment:
    """The datastore in `folder` as one segment. Raises DatastoreError if its files do not fit together."""
    documents = _read_documents(folder / DOCUMENTS_FILE)
    chunk2seq, starts = read_array(folder / CHUNK2SEQ_FILE), np.array(read_array(folder / STARTS_FILE))
    seq2chunk = read_array(folder / SEQ2CHUNK_FILE)
    if len(seq2chunk) != len(documents):
        raise DatastoreError(f"{len(seq2chunk)} documents have chunks, {len(documents)} have texts.")
    lines = [label_line(Label(document.id, document.title, document.source)) for document in documents]
    texts = [document.text.encode() for document in documents]
    text_offsets, label_offsets = _offsets(texts), _offsets(lines)
    byte_starts = np.zeros(len(starts), dtype=np.int64)
    for number, (document, data) in enumerate(zip(documents, texts, strict=True)):
        rows = slice(seq2chunk[number], seq2chunk[number + 1] if number + 1 < len(seq2chunk) else None)
        byte_starts[rows] = text_offsets[number] + bytes_before(document.text, data, starts[rows])
    hashes = np.array([id_hash(document.id) for document in documents], dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")
    segment = Segment(
        name=folder.name,
        tokens=read_array(folder / CHUNKS_FILE),
        chunk2seq=chunk2seq,
        seq2chunk=seq2chunk,
        starts=starts,
        embeddings=read_array(folder / EMBEDDINGS_FILE),
        byte_starts=byte_starts,
        label_offsets=label_offsets,
        text_offsets=text_offsets,
        ids=np.stack([hashes[order], order.astype(np.uint64)], axis=1),
        texts=Bytes.of(b"".join(texts)),
        labels=Bytes.of(b"".join(lines)),
    )
    check_shapes(segment)
    return segment


def write_segment(segment: Segment, folder: Path) -> None:
    """Write an open segment, of whatever format, into the empty `folder`."""
    arrays = {
        CHUNKS_FILE: segment.tokens,
        CHUNK2SEQ_FILE: segment.chunk2seq,
        SEQ2CHUNK_FILE: segment.seq2chunk,
        STARTS_FILE: segment.starts,
        BYTE_STARTS_FILE: segment.byte_starts,
        EMBEDDINGS_FILE: segment.embeddings,
        LABEL_OFFSETS_FILE: segment.label_offsets,
        TEXT_OFFSETS_FILE: segment.text_offsets,
        IDS_FILE: segment.ids,
    }
    for name, values in arrays.items():
        files.save_array(folder / name, values)
    files.write_bytes(folder / TEXTS_FILE, segment.texts.read(0, int(segment.text_offsets[-1])))
    files.write_bytes(folder / DOCUMENTS_FILE, segment.labels.read(0, int(segment.label_offsets[-1])))


def _read_documents(file: Path) -> list[Document]:
    try:
        with open(file, "rb") as lines:
            rows = [json.loads(line) for line in lines]
        names = [field.name for field in dataclasses.fields(Document)]
        documents = [Document(**{name: str(row[name]) for name in names}) for row in rows]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DatastoreError(f"{file.name} cannot be read ({error}).") from error
    return documents


def _offsets(parts: list[bytes]) -> np.ndarray:
    return np.cumsum([0, *map(len, parts)], dtype=np.int64)
