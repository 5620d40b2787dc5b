"""Documents -> chunks.npy, seq2chunk.npy and chunk2seq.npy, one batch at a time."""

import codecs
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from indexing.errors import CorpusError, DatastoreError, InputError
from indexing.pipeline.tokens import MarkedTokenizer, text_blocks
from indexing.pipeline.unfinished import Unfinished

# A document as its text in pieces, so that a huge one need never be in memory.
Texts = Iterable[Iterable[str]]

# What is tokenised together: enough for all cores, small beside the tokenizer.
_CHARACTERS_AT_ONCE = 2_000_000
_BLOCKS_AT_ONCE = 4096


@dataclass(frozen=True)
class ChunkFiles:
    chunks: Path
    seq2chunk: Path
    chunk2seq: Path


@dataclass(frozen=True)
class Chunked:
    """So many documents have become so many chunks; `note` says how the work began, where that is news."""

    documents: int
    chunks: int
    note: str = ""


def write_chunks(
    texts: Callable[[], Texts],
    tokenizer: MarkedTokenizer,
    out: ChunkFiles,
    chunk_size: int,
    max_chunks: int | None = None,
    reopens: bool = True,
) -> Iterator[Chunked]:
    """Cut documents into chunks of `chunk_size` tokens, the last of each document padded.

    texts       opens the documents, from the first; called a second time if `reopens` and the work that was
                begun turns out to be of other documents
    max_chunks  stop with an error before there are more, keeping what was done

    Stopped and run again with the same documents it goes on after those that were finished.
    Raises InputError (settings, too many chunks), CorpusError (a document).
    """
    if chunk_size < 1:
        raise InputError(f"Expected chunks of at least 1 token, got {chunk_size}. The models' own is 64.")
    made_from = {
        "tokenizer": tokenizer.fingerprint,
        "marks": tokenizer.marks,
        "chunk_size": chunk_size,
    }
    with Unfinished(out.chunks, made_from) as work:
        yield from _write(work, texts, tokenizer, chunk_size, max_chunks, reopens)
        for path in (out.seq2chunk, out.chunk2seq):
            path.parent.mkdir(parents=True, exist_ok=True)
        work.publish({"seq2chunk": out.seq2chunk, "chunk2seq": out.chunk2seq, "chunks": out.chunks})


def _write(
    work: Unfinished,
    texts: Callable[[], Texts],
    tokenizer: MarkedTokenizer,
    chunk_size: int,
    max_chunks: int | None,
    reopens: bool,
) -> Iterator[Chunked]:
    documents, num_chunks = work.progress.get("documents", 0), work.progress.get("chunks", 0)
    digest = hashlib.sha256()
    source = iter(texts())
    if documents:
        for document in itertools.islice(source, documents):
            _digest(document, digest)
        if digest.hexdigest() != work.progress["texts"]:
            work.clear()
            documents = num_chunks = 0
            if not reopens:
                raise InputError(
                    "The documents are not those that were begun with, and standard input cannot be read "
                    "twice. What was unfinished is removed; run the command again."
                )
            digest, source = hashlib.sha256(), iter(texts())
            yield Chunked(0, 0, "the documents have changed since this was begun; starting again")
        else:
            yield Chunked(documents, num_chunks, f"going on after document {documents:,}")
    try:
        chunks = work.array("chunks", tokenizer.dtype, (chunk_size,), num_chunks)
        chunk2seq = work.array("chunk2seq", np.int32, (), num_chunks)
        seq2chunk = work.array("seq2chunk", np.int64, (), documents)
    except ValueError as error:  # somebody took files away
        work.clear()
        raise DatastoreError("The unfinished files were damaged and are removed. Run it again.") from error

    cutter, finished = _Cutter(tokenizer, chunk_size, documents, num_chunks), work.progress
    for batch in _batches(source, digest):
        new = cutter.cut(batch)
        total = len(chunks) + len(new.chunks)
        if max_chunks is not None and total > max_chunks:
            if finished:
                work.checkpoint(finished)
            raise InputError(
                f"Expected at most {max_chunks:,} chunks (--max-chunks), but document number "
                f"{new.over(max_chunks):,}, counted from 0, needs more. Run it again with a larger number or "
                "none: it goes on from here."
            )
        chunks.append(new.chunks)
        chunk2seq.append(new.chunk2seq)
        seq2chunk.append(new.seq2chunk)
        if batch.whole:
            finished = {"documents": cutter.documents, "chunks": total, "texts": batch.digest}
            if work.due():
                work.checkpoint(finished)
        yield Chunked(cutter.documents, len(chunks))
    if cutter.documents == 0:
        raise CorpusError("There are no documents to cut into chunks. Give at least one text.")


@dataclass
class _Batch:
    """Blocks of consecutive documents, each with whether it ends its document.

    whole   the batch ends where a document ends; `digest` is then that of all documents so far
    """

    blocks: list[str] = field(default_factory=list)
    ends: list[bool] = field(default_factory=list)
    characters: int = 0
    digest: str = ""

    @property
    def whole(self) -> bool:
        return self.ends[-1]


@dataclass(frozen=True)
class _Cut:
    chunks: np.ndarray  # (n, m)
    chunk2seq: np.ndarray  # (n,)
    seq2chunk: np.ndarray  # (documents that begin here,)
    first: int  # number of chunks[0]

    def over(self, max_chunks: int) -> int:
        """The document of chunk number `max_chunks`."""
        return self.chunk2seq[max_chunks - self.first]


class _Cutter:
    """Cuts documents that come in batches, and knows where it is: a batch may end within a document."""

    def __init__(self, tokenizer: MarkedTokenizer, chunk_size: int, documents: int, num_chunks: int):
        self.documents = documents  # finished ones
        self._num_chunks = num_chunks
        self._tokenizer, self._m = tokenizer, chunk_size
        self._prefix = np.array(tokenizer.prefix, dtype=np.int64)
        self._suffix = np.array(tokenizer.suffix, dtype=np.int64)
        self._left: np.ndarray | None = None  # tokens of the document at hand that filled no chunk yet
        self._empty = True  # the document at hand has no chunk yet

    def cut(self, batch: _Batch) -> _Cut:
        chunks, documents, first_chunks = [], [], []
        first = self._num_chunks
        for ids, ends in zip(self._tokenizer.encode(batch.blocks), batch.ends, strict=True):
            if self._left is None:
                self._left, self._empty = self._prefix, True
                first_chunks.append(self._num_chunks)
            tokens = np.concatenate([self._left, ids, self._suffix] if ends else [self._left, ids])
            count = len(tokens) // self._m
            whole, self._left = tokens[: count * self._m], tokens[count * self._m :]
            if ends and (len(self._left) or (self._empty and not count)):
                padded = np.full((count + 1) * self._m, self._tokenizer.pad_id, dtype=np.int64)
                padded[: len(tokens)] = tokens
                whole, count = padded, count + 1
            self._empty = self._empty and not count
            chunks.append(whole.astype(self._tokenizer.dtype).reshape(-1, self._m))
            documents.append((self.documents, count))
            self._num_chunks += count
            if ends:
                self._left = None
                self.documents += 1
        numbers, counts = np.array(documents, dtype=np.int64).T
        return _Cut(
            chunks=np.concatenate(chunks),
            chunk2seq=np.repeat(numbers, counts).astype(np.int32),
            seq2chunk=np.array(first_chunks, dtype=np.int64),
            first=first,
        )


def _batches(texts: Texts, digest) -> Iterator[_Batch]:
    batch = _Batch()
    for document in texts:
        for block, ends in text_blocks(_digested(document, digest)):
            batch.blocks.append(block)
            batch.ends.append(ends)
            batch.characters += len(block)
            full = batch.characters >= _CHARACTERS_AT_ONCE or len(batch.blocks) >= _BLOCKS_AT_ONCE
            if full:
                batch.digest = digest.hexdigest()
                yield batch
                batch = _Batch()
    if batch.blocks:
        batch.digest = digest.hexdigest()
        yield batch


def _digested(document: Iterable[str], digest) -> Iterator[str]:
    for piece in document:
        digest.update(piece.encode("utf-8"))
        yield piece
    digest.update(b"\0document")


def _digest(document: Iterable[str], digest) -> None:
    for _ in _digested(document, digest):
        pass


def jsonl_texts(lines: BinaryIO, name: str) -> Iterator[list[str]]:
    """The "text" of each line of a JSON-lines file, unchanged; blank lines are passed over.

    An empty text is a document too, as in the reference. Raises CorpusError naming the line.
    """
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        where = f"Line {number} of {name}"
        try:
            row = json.loads(line)
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{where} is not UTF-8: its byte {error.start} cannot be read. Save the file as UTF-8."
            ) from error
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{where} is not valid JSON: {error}. Mend the line and try again.") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise CorpusError(f'{where}: expected an object like {{"text": "…"}}. Put the text under "text".')
        # JSON can say half of a surrogate pair, which no encoding of text can.
        yield [row["text"].encode("utf-8", errors="surrogatepass").decode("utf-8", errors="replace")]
