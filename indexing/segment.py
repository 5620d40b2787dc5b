"""Segments: the immutable pieces that a datastore is made of, and how one is written in bounded memory.

    chunks.npy            (N, m) uint16, or int32 where the vocabulary needs it
    chunk2seq.npy         (N,)   int32, document of each chunk, counted within the segment
    seq2chunk.npy         (D,)   int64, first chunk of each document
    starts.npy            (N,)   int64, character of the document's text at which the chunk begins
    byte_starts.npy       (N,)   int64, byte of texts.txt at which it begins
    embeddings.npy        (N, d) float16, one unit vector per chunk
    texts.txt                    the documents' texts in UTF-8, end to end
    documents.jsonl              {"id", "title", "source"}, one document a line
    label_offsets.npy     (D + 1,) int64, byte of documents.jsonl at which each document's line begins
    text_offsets.npy      (D + 1,) int64, byte of texts.txt at which each document's text begins
    ids.npy               (D, 2) uint64, sorted: hash of a document's id, and its number

The first three and embeddings.npy are a *shard* of the reference's formats. A chunk never crosses a
document's end; nothing is ever changed in a finished segment.
"""

import bisect
import codecs
import dataclasses
import hashlib
import json
import os
import tokenize
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from indexing import files
from indexing.chunks import CHUNK2SEQ_FILE, CHUNKS_FILE, SEQ2CHUNK_FILE, STARTS_FILE
from indexing.corpus import Document
from indexing.errors import DatastoreError
from indexing.tokenizer import Tokenizer

BYTE_STARTS_FILE = "byte_starts.npy"
EMBEDDINGS_FILE = "embeddings.npy"
TEXTS_FILE = "texts.txt"
DOCUMENTS_FILE = "documents.jsonl"
LABEL_OFFSETS_FILE = "label_offsets.npy"
TEXT_OFFSETS_FILE = "text_offsets.npy"
IDS_FILE = "ids.npy"
SEGMENT_FILES = (
    CHUNKS_FILE,
    CHUNK2SEQ_FILE,
    SEQ2CHUNK_FILE,
    STARTS_FILE,
    BYTE_STARTS_FILE,
    EMBEDDINGS_FILE,
    TEXTS_FILE,
    DOCUMENTS_FILE,
    LABEL_OFFSETS_FILE,
    TEXT_OFFSETS_FILE,
    IDS_FILE,
)

# Texts that are tokenised together: enough for both cores, small beside the model.
_CHARACTERS_AT_ONCE = 500_000
_DOCUMENTS_AT_ONCE = 1000
_ROWS_AT_ONCE = 1 << 14
_BYTES_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Label:
    """What names a document: see `corpus.Document`."""

    id: str
    title: str
    source: str


class Stacked:
    """Arrays with rows of one kind, laid end to end without copying: what a datastore of several segments
    shows of their files. It has a shape, a type and a length, and gives rows by number, slice, mask or array
    of numbers, always as a new array in memory."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts]).tolist()
        self.dtype = parts[0].dtype
        self.shape = (self._ends[-1], *parts[0].shape[1:])
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, tuple):
            return self[rows[0]][(slice(None), *rows[1:])]
        if isinstance(rows, int | np.integer):
            row = range(len(self))[rows]  # raises IndexError, and counts from the end
            part = bisect.bisect_right(self._ends, row)
            return self._parts[part][row - (self._ends[part - 1] if part else 0)]
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step)]
            found = [
                part[max(0, start - begin) : max(0, stop - begin)]
                for part, begin in zip(self._parts, [0, *self._ends], strict=False)
            ]
            return np.concatenate(found)
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} … {rows.max()} of {len(self)}")
        rows = np.where(rows < 0, rows + len(self), rows)
        result = np.empty((*rows.shape, *self.shape[1:]), self.dtype)
        of = np.searchsorted(self._ends, rows, side="right")
        for part, begin in enumerate([0, *self._ends[:-1]]):
            mine = of == part
            if mine.any():
                result[mine] = self._parts[part][rows[mine] - begin]
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(self._parts).astype(dtype or self.dtype, copy=False)


def stacked(parts: Sequence[np.ndarray]) -> np.ndarray | Stacked:
    """The one array, or several end to end."""
    return parts[0] if len(parts) == 1 else Stacked(parts)


@dataclass(frozen=True)
class Segment:
    """An open segment; arrays are memory-mapped, texts are read when asked for. Chunks and documents are
    numbered within it."""

    name: str
    tokens: np.ndarray  # (N, m)
    chunk2seq: np.ndarray  # (N,)
    seq2chunk: np.ndarray  # (D,)
    starts: np.ndarray  # (N,)
    embeddings: np.ndarray  # (N, d)
    byte_starts: np.ndarray  # (N,)
    label_offsets: np.ndarray  # (D + 1,)
    text_offsets: np.ndarray  # (D + 1,)
    ids: np.ndarray  # (D, 2)
    texts: "Bytes" = field(repr=False)
    labels: "Bytes" = field(repr=False)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        return len(self.seq2chunk)

    @classmethod
    def open(cls, folder: Path) -> "Segment":
        """Raises FileNotFoundError if a file is not there, DatastoreError if files do not fit together."""
        arrays = {name: read_array(folder / name) for name in SEGMENT_FILES if name.endswith(".npy")}
        segment = cls(
            name=folder.name,
            tokens=arrays[CHUNKS_FILE],
            chunk2seq=arrays[CHUNK2SEQ_FILE],
            seq2chunk=arrays[SEQ2CHUNK_FILE],
            starts=arrays[STARTS_FILE],
            embeddings=arrays[EMBEDDINGS_FILE],
            byte_starts=arrays[BYTE_STARTS_FILE],
            label_offsets=arrays[LABEL_OFFSETS_FILE],
            text_offsets=arrays[TEXT_OFFSETS_FILE],
            ids=arrays[IDS_FILE],
            texts=Bytes(folder / TEXTS_FILE),
            labels=Bytes(folder / DOCUMENTS_FILE),
        )
        check_shapes(segment)
        return segment

    def label(self, document: int) -> Label:
        return Label(**json.loads(self.labels.read(*_span(self.label_offsets, document))))

    def document(self, document: int) -> Document:
        """With its whole text, which may be long: all at once."""
        label = self.label(document)
        text = self.texts.read(*_span(self.text_offsets, document)).decode("utf-8")
        return Document(label.id, label.title, text, label.source)

    def text(self, chunk: int) -> str:
        """The piece of its document's text that the chunk was made from."""
        document = int(self.chunk2seq[chunk])
        last = chunk + 1 == len(self) or self.chunk2seq[chunk + 1] != document
        end = self.text_offsets[document + 1] if last else self.byte_starts[chunk + 1]
        return self.texts.read(int(self.byte_starts[chunk]), int(end)).decode("utf-8")

    def find(self, document_id: str) -> int | None:
        """Number of the document with this id, or None."""
        hashed = id_hash(document_id)
        at = int(np.searchsorted(self.ids[:, 0], np.uint64(hashed)))
        while at < len(self.ids) and self.ids[at, 0] == hashed:
            if self.label(int(self.ids[at, 1])).id == document_id:
                return int(self.ids[at, 1])
            at += 1
        return None


def _span(offsets: np.ndarray, number: int) -> tuple[int, int]:
    return int(offsets[number]), int(offsets[number + 1])


def check_shapes(segment: Segment) -> None:
    """Raise DatastoreError unless the arrays' lengths agree."""
    chunks, documents = len(segment.tokens), len(segment.seq2chunk)
    lengths = {
        CHUNK2SEQ_FILE: (len(segment.chunk2seq), chunks),
        STARTS_FILE: (len(segment.starts), chunks),
        BYTE_STARTS_FILE: (len(segment.byte_starts), chunks),
        EMBEDDINGS_FILE: (len(segment.embeddings), chunks),
        LABEL_OFFSETS_FILE: (len(segment.label_offsets), documents + 1),
        TEXT_OFFSETS_FILE: (len(segment.text_offsets), documents + 1),
        IDS_FILE: (len(segment.ids), documents),
    }
    for name, (length, expected) in lengths.items():
        if length != expected:
            raise DatastoreError(
                f"{name} has {length} rows, expected {expected} for {chunks} chunks of {documents} documents."
            )


def read_array(path: Path) -> np.ndarray:
    """A .npy, memory-mapped and read-only. Raises FileNotFoundError, or DatastoreError if it is none."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    # numpy parses a header as Python text.
    except (OSError, ValueError, SyntaxError, tokenize.TokenError) as error:
        raise DatastoreError(f"{path.name} cannot be read ({error}).") from error


def id_hash(document_id: str) -> int:
    return int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:8], "little")


class Bytes:
    """Parts of a file, read when asked for. The file stays open, so that it may be unlinked meanwhile; reads
    do not share a position, so that threads may."""

    def __init__(self, path: Path):
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - lives as long as this object

    @property
    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    @staticmethod
    def of(data: bytes) -> "Bytes":
        """The same of something in memory."""
        return _Memory(data)

    def read(self, start: int, end: int) -> bytes:
        parts = []
        while start < end:  # the system returns at most 2 GB at once
            part = os.pread(self._file.fileno(), end - start, start)
            if not part:
                raise DatastoreError(f"{Path(self._file.name).name} is shorter than it was.")
            parts.append(part)
            start += len(part)
        return b"".join(parts)


class _Memory(Bytes):
    def __init__(self, data: bytes):
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def read(self, start: int, end: int) -> bytes:
        return self._data[start:end]


@dataclass(frozen=True)
class _Run:
    """A piece of a document's text, in the order of the document's pieces."""

    document: int
    text: str
    first: bool
    last: bool


def merge(segments: Sequence[Segment], kept: Sequence[np.ndarray], folder: Path) -> Iterator[int]:
    """Write the documents `kept` (D,) bool of each segment as one segment into the empty `folder`, without
    embedding anything again; yields how many chunks are done."""
    first = segments[0]
    rows_of = {
        CHUNKS_FILE: (first.tokens.dtype, first.tokens.shape[1:]),
        CHUNK2SEQ_FILE: (np.int32, ()),
        SEQ2CHUNK_FILE: (np.int64, ()),
        STARTS_FILE: (np.int64, ()),
        BYTE_STARTS_FILE: (np.int64, ()),
        EMBEDDINGS_FILE: (first.embeddings.dtype, first.embeddings.shape[1:]),
        LABEL_OFFSETS_FILE: (np.int64, ()),
        TEXT_OFFSETS_FILE: (np.int64, ()),
    }
    ids = []
    with ExitStack() as stack:
        arrays = {
            name: stack.enter_context(files.ArrayWriter(folder / name, *kind))
            for name, kind in rows_of.items()
        }
        texts = stack.enter_context(_synced(folder / TEXTS_FILE))
        labels = stack.enter_context(_synced(folder / DOCUMENTS_FILE))
        num_documents = 0
        for segment, keep in zip(segments, kept, strict=True):
            new_numbers = num_documents + np.cumsum(keep) - 1
            mine = segment.ids[keep[segment.ids[:, 1].astype(np.int64)]]
            ids.append(
                np.stack([mine[:, 0], new_numbers[mine[:, 1].astype(np.int64)].astype(np.uint64)], axis=1)
            )
            for begin, end in _runs(keep):
                yield from _copy_run(segment, begin, end, num_documents, arrays, texts, labels)
                num_documents += end - begin
        arrays[LABEL_OFFSETS_FILE].append(np.array([labels.tell()]))
        arrays[TEXT_OFFSETS_FILE].append(np.array([texts.tell()]))
    together = np.concatenate(ids)
    files.save_array(folder / IDS_FILE, together[np.argsort(together[:, 0], kind="stable")])


def _runs(keep: np.ndarray) -> list[tuple[int, int]]:
    """Where (D,) bool is True: begin and end of each stretch."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], keep.astype(np.int8), [0]])))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _copy_run(
    segment: Segment,
    begin: int,
    end: int,
    number: int,
    arrays: dict[str, files.ArrayWriter],
    texts: BinaryIO,
    labels: BinaryIO,
) -> Iterator[int]:
    """Append the documents begin ... end - 1 of `segment`, of which the first gets `number`."""
    first = int(segment.seq2chunk[begin])
    last = int(segment.seq2chunk[end]) if end < segment.num_documents else len(segment)
    chunk, text, label = len(arrays[CHUNKS_FILE]), texts.tell(), labels.tell()
    text_begin, label_begin = int(segment.text_offsets[begin]), int(segment.label_offsets[begin])
    arrays[SEQ2CHUNK_FILE].append(segment.seq2chunk[begin:end] - first + chunk)
    arrays[LABEL_OFFSETS_FILE].append(segment.label_offsets[begin:end] - label_begin + label)
    arrays[TEXT_OFFSETS_FILE].append(segment.text_offsets[begin:end] - text_begin + text)
    for start in range(first, last, _ROWS_AT_ONCE):
        rows = slice(start, min(start + _ROWS_AT_ONCE, last))
        arrays[CHUNKS_FILE].append(segment.tokens[rows])
        arrays[CHUNK2SEQ_FILE].append(segment.chunk2seq[rows] - np.int32(begin - number))
        arrays[STARTS_FILE].append(segment.starts[rows])
        arrays[BYTE_STARTS_FILE].append(segment.byte_starts[rows] - text_begin + text)
        arrays[EMBEDDINGS_FILE].append(segment.embeddings[rows])
        yield len(arrays[CHUNKS_FILE])
    for source, offsets, file in (
        (segment.texts, segment.text_offsets, texts),
        (segment.labels, segment.label_offsets, labels),
    ):
        for start in range(int(offsets[begin]), int(offsets[end]), _BYTES_AT_ONCE):
            files.write_steadily(file, source.read(start, min(start + _BYTES_AT_ONCE, int(offsets[end]))))
            yield len(arrays[CHUNKS_FILE])


def check_content(segment: Segment, vocab_size: int) -> None:
    """Look at every value of a segment that may come from anywhere. Raises DatastoreError naming the file
    with the first that cannot be, so that nothing that comes later can be led astray."""

    def expect(true: bool | np.bool_, file: str, what: str) -> None:
        if not true:
            raise DatastoreError(f"{file} {what}.")

    chunks, documents = len(segment), segment.num_documents
    numbers = np.asarray(segment.seq2chunk)
    counts = np.diff(numbers, append=chunks)
    expect(documents == 0 or (numbers[0] == 0 and (counts > 0).all()), SEQ2CHUNK_FILE, "does not count up")
    documents_of = np.repeat(np.arange(documents), counts)
    expect(np.array_equal(segment.chunk2seq, documents_of), CHUNK2SEQ_FILE, "contradicts seq2chunk.npy")
    for offsets, file, source in (
        (segment.text_offsets, TEXT_OFFSETS_FILE, segment.texts),
        (segment.label_offsets, LABEL_OFFSETS_FILE, segment.labels),
    ):
        fits = offsets[0] == 0 and (np.diff(offsets) >= 0).all() and offsets[-1] == source.size
        expect(fits, file, "points outside of its file")
    begins, ends = segment.text_offsets[documents_of], segment.text_offsets[documents_of + 1]
    inside = (segment.byte_starts >= begins) & (segment.byte_starts <= ends)
    expect(inside.all(), BYTE_STARTS_FILE, "points outside of the document")
    rising = (np.diff(segment.byte_starts) >= 0).all() and (segment.starts >= 0).all()
    expect(rising, BYTE_STARTS_FILE, "does not count up")
    for start in range(0, chunks, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        tokens = segment.tokens[rows]
        expect(tokens.min() >= 0 and tokens.max() < vocab_size, CHUNKS_FILE, "has ids outside the vocabulary")
        norms = np.linalg.norm(segment.embeddings[rows].astype(np.float32), axis=1)
        expect((np.abs(norms - 1) < 0.01).all(), EMBEDDINGS_FILE, "has vectors that are not of length 1")
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, segment.texts.size, _BYTES_AT_ONCE):
            decoder.decode(segment.texts.read(start, min(start + _BYTES_AT_ONCE, segment.texts.size)))
        decoder.decode(b"", final=True)
        for start in segment.byte_starts:
            if start < segment.texts.size:  # no chunk begins inside of a character
                expect(
                    segment.texts.read(start, start + 1)[0] & 0xC0 != 0x80,
                    BYTE_STARTS_FILE,
                    "cuts characters",
                )
    except UnicodeDecodeError as error:
        raise DatastoreError(f"{TEXTS_FILE} is not UTF-8.") from error
    found = np.full(documents, False)
    for hashed, number in np.asarray(segment.ids).tolist():
        expect(number < documents and not found[number], IDS_FILE, "does not name each document once")
        found[number] = True
        try:
            label = segment.label(number)
        except (ValueError, TypeError) as error:
            raise DatastoreError(f"{DOCUMENTS_FILE} cannot be read ({error}).") from error
        expect(
            all(isinstance(v, str) for v in vars(label).values()),
            DOCUMENTS_FILE,
            "has names that are no text",
        )
        expect(id_hash(label.id) == hashed, IDS_FILE, "contradicts documents.jsonl")
    expect((np.diff(segment.ids[:, 0].astype(object)) >= 0).all(), IDS_FILE, "is not sorted")


class SegmentWriter:
    """Writes documents, one after the other, as a segment without embeddings; in memory is a batch of texts.

    `finish` must be called at the end. An error leaves unfinished files: write inside `files.new_folder`.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, chunk_size: int):
        self.num_documents = self.num_chunks = self.num_tokens = 0
        self.num_repeated = 0  # documents with the text of an earlier one
        self._folder, self._tokenizer, self._m = folder, tokenizer, chunk_size
        dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
        self._arrays = {
            CHUNKS_FILE: files.ArrayWriter(folder / CHUNKS_FILE, dtype, (chunk_size,)),
            CHUNK2SEQ_FILE: files.ArrayWriter(folder / CHUNK2SEQ_FILE, np.int32),
            SEQ2CHUNK_FILE: files.ArrayWriter(folder / SEQ2CHUNK_FILE, np.int64),
            STARTS_FILE: files.ArrayWriter(folder / STARTS_FILE, np.int64),
            BYTE_STARTS_FILE: files.ArrayWriter(folder / BYTE_STARTS_FILE, np.int64),
            TEXT_OFFSETS_FILE: files.ArrayWriter(folder / TEXT_OFFSETS_FILE, np.int64),
        }
        self._labels = _LabelWriter(folder)
        self._texts = open(folder / TEXTS_FILE, "wb")  # noqa: SIM115 - closed by `finish`
        self._batch: list[_Run] = []
        self._characters = 0  # of the batch
        # Of a document that goes on after the batch: what did not fill a chunk, and its characters so far.
        self._rest = (_NO_IDS, _NO_IDS, _NO_IDS)
        self._read = 0
        self._text_hashes = array("Q")

    def add(self, document: Document) -> Iterator[None]:
        """Take a document in, pausing after each piece of a long one."""
        pieces = document.pieces()
        piece, first = next(pieces, ""), True
        text_hash = hashlib.blake2b(digest_size=8)
        while piece is not None:
            text_hash.update(piece.encode())
            following = next(pieces, None)
            self._batch.append(_Run(self.num_documents, piece, first, last=following is None))
            self._characters += len(piece)
            if self._characters >= _CHARACTERS_AT_ONCE or len(self._batch) >= _DOCUMENTS_AT_ONCE:
                self._flush()
            if following is not None:
                yield
            piece, first = following, False
        self._text_hashes.append(int.from_bytes(text_hash.digest(), "little"))
        self._labels.add(Label(document.id, document.title, document.source))
        self.num_documents += 1

    def finish(self, taken: Sequence[Segment] = ()) -> int:
        """Write out what waits. A document whose id is that of an earlier one, here or in `taken`, gets a
        number behind it, because an id must lead to one document; returns to how many that happened."""
        self._flush()
        self._arrays[TEXT_OFFSETS_FILE].append(np.array([self._texts.tell()]))
        for writer in self._arrays.values():
            writer.close()
        _close_synced(self._texts)
        self.num_repeated = _num_repeated(self._text_hashes)
        del self._text_hashes
        return self._labels.finish(taken)

    def _flush(self) -> None:
        """Tokenise the batch and write its chunks."""
        if not self._batch:
            return
        m, end = self._m, np.array([self._tokenizer.end_id])
        parts = ([self._rest[0]], [self._rest[1]], [self._rest[2]])  # token ids, characters, bytes
        lengths = np.zeros(len(self._batch), dtype=np.int64)
        lengths[0] = len(self._rest[0])
        encoded = self._tokenizer.encode_many([run.text for run in self._batch])
        begin_bytes, begins_document, text_offsets = self._texts.tell(), [], []
        for i, (run, (ids, starts)) in enumerate(zip(self._batch, encoded, strict=True)):
            if run.first:
                begins_document.append(i)
                text_offsets.append(begin_bytes)
            data = run.text.encode()
            files.write_steadily(self._texts, data)
            found = (ids, self._read + starts, begin_bytes + bytes_before(run.text, data, starts))
            self._read += len(run.text)
            begin_bytes += len(data)
            lengths[i] += len(ids) + run.last
            for part, values in zip(parts, found, strict=True):
                part.append(values)
            if run.last:
                for part, value in zip(parts, (end, self._read, begin_bytes), strict=True):
                    part.append(np.atleast_1d(value))
                self._read = 0
        flat = tuple(np.concatenate(part) for part in parts)

        counts = -(-lengths // m)
        self._rest = (_NO_IDS, _NO_IDS, _NO_IDS)
        if not self._batch[-1].last and lengths[-1] % m:  # the last chunk waits for more of its document
            counts[-1] -= 1
            rest = lengths[-1] % m
            self._rest = tuple(values[-rest:] for values in flat)
            flat = tuple(values[:-rest] for values in flat)
            lengths[-1] -= rest
        first_rows = np.cumsum(counts) - counts
        place = np.arange(len(flat[0])) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows = np.repeat(first_rows, lengths) + place // m
        chunks = np.full((counts.sum(), m), self._tokenizer.pad_id, dtype=self._arrays[CHUNKS_FILE].dtype)
        chunks[rows, place % m] = flat[0]
        begins_chunk = place % m == 0
        documents = np.array([run.document for run in self._batch], dtype=np.int32)
        self._arrays[CHUNKS_FILE].append(chunks)
        self._arrays[CHUNK2SEQ_FILE].append(np.repeat(documents, counts))
        self._arrays[SEQ2CHUNK_FILE].append(self.num_chunks + first_rows[begins_document])
        self._arrays[TEXT_OFFSETS_FILE].append(np.array(text_offsets, dtype=np.int64))
        self._arrays[STARTS_FILE].append(flat[1][begins_chunk])
        self._arrays[BYTE_STARTS_FILE].append(flat[2][begins_chunk])
        self.num_chunks += len(chunks)
        self.num_tokens += len(flat[0])
        self._batch, self._characters = [], 0


class _LabelWriter:
    """Writes documents.jsonl, its offsets and ids.npy; in memory are some bytes a document."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._file = open(folder / DOCUMENTS_FILE, "wb")  # noqa: SIM115 - closed by `finish`
        self._hashes = array("Q")
        self._offsets = files.ArrayWriter(folder / LABEL_OFFSETS_FILE, np.int64)
        self._waiting = array("q", [0])  # offsets that are not written yet

    def add(self, label: Label) -> None:
        self._file.write(label_line(label))
        self._hashes.append(id_hash(label.id))
        self._ends_at(self._file.tell())

    def _ends_at(self, offset: int) -> None:
        self._waiting.append(offset)
        if len(self._waiting) >= _ROWS_AT_ONCE:
            self._write_offsets()

    def _write_offsets(self) -> None:
        self._offsets.append(np.array(self._waiting))
        self._waiting = array("q")

    def finish(self, taken: Sequence[Segment]) -> int:
        _close_synced(self._file)
        hashes = np.frombuffer(self._hashes, np.uint64)
        again = [np.flatnonzero(np.isin(hashes, segment.ids[:, 0])) for segment in taken]
        if _num_repeated(self._hashes):
            order = np.argsort(hashes, kind="stable")
            again.append(order[1:][hashes[order[1:]] == hashes[order[:-1]]])
        again = np.unique(np.concatenate(again)) if again else _NO_IDS
        if len(again):
            self._rename({*again.tolist()}, [np.sort(hashes), *(segment.ids[:, 0] for segment in taken)])
        self._write_offsets()
        self._offsets.close()
        order = np.argsort(hashes)
        with files.ArrayWriter(self._folder / IDS_FILE, np.uint64, (2,)) as ids:
            for start in range(0, len(order), _ROWS_AT_ONCE):
                numbers = order[start : start + _ROWS_AT_ONCE]
                ids.append(np.stack([hashes[numbers], numbers.astype(np.uint64)], axis=1))
        return len(again)

    def _rename(self, again: set[int], known: Sequence[np.ndarray]) -> None:
        """Write documents.jsonl anew. `known` are the sorted hashes of all ids that there are."""
        repeats: Counter[str] = Counter()
        given: set[int] = set()

        def is_taken(name: str) -> bool:
            hashed = np.uint64(id_hash(name))
            places = [(hashes, int(np.searchsorted(hashes, hashed))) for hashes in known]
            return int(hashed) in given or any(
                place < len(hashes) and hashes[place] == hashed for hashes, place in places
            )

        self._offsets = files.ArrayWriter(self._folder / LABEL_OFFSETS_FILE, np.int64)
        self._waiting = array("q", [0])
        old, new = self._folder / DOCUMENTS_FILE, self._folder / f"{files.UNFINISHED}{DOCUMENTS_FILE}"
        with open(old, "rb") as lines, open(new, "wb") as file:
            for number, line in enumerate(lines):
                if number in again:
                    label = Label(**json.loads(line))
                    name = label.id
                    while is_taken(name):
                        repeats[label.id] += 1
                        name = f"{label.id}#{repeats[label.id] + 1}"
                    self._hashes[number] = id_hash(name)
                    given.add(self._hashes[number])
                    line = label_line(dataclasses.replace(label, id=name))
                file.write(line)
                self._ends_at(file.tell())
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, old)


def _num_repeated(hashes: array) -> int:
    """How many have the value of an earlier one."""
    ordered = np.sort(np.frombuffer(hashes, np.uint64))
    return int((ordered[1:] == ordered[:-1]).sum())


def label_line(label: Label) -> bytes:
    return json.dumps(vars(label), ensure_ascii=False).encode() + b"\n"


_NO_IDS = np.empty(0, dtype=np.int64)


def bytes_before(text: str, data: bytes, characters: np.ndarray) -> np.ndarray:
    """Bytes of `data`, the UTF-8 of `text`, before each of some characters (n,)."""
    if len(data) == len(text):
        return characters
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    lengths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.concatenate([[0], np.cumsum(lengths)])[characters]


@contextmanager
def _synced(path: Path) -> Iterator[BinaryIO]:
    """A new file, on the disk when the block has ended."""
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _close_synced(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
