"""Documents that repeat earlier ones, exactly or nearly: noted while they pass by, in bounded memory.

Retrieval finds copies first, and a model that is shown copies of what it is to predict looks better than it
is; so people should know of them. Nothing is left out for it.

Exactly: the same text but for case, blanks and how accents are composed; by 64-bit hashes, of which a million
and a half are kept. Nearly: at least `NEARLY` of the runs of 8 characters that two texts have are in both, as
estimated from sketches of 64 hashes (MinHash with one permutation) of the text's first million characters;
the last 262,144 documents are compared with. (datasketch does the same in 15 times the time and 1.8 KB a
document.)
"""

import hashlib
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from indexing.corpus.documents import PIECE, Document, StreamedDocument, shown
from indexing.corpus.report import Report
from indexing.errors import CorpusError

NEARLY = 0.8  # Jaccard similarity

_RUN = 8  # characters
_BINS = 64  # hashes of a sketch
_BANDS, _ROWS = 10, 6  # two texts are compared if any band of so many hashes is the same
_WINDOW = 1 << 18  # documents that a new one is compared with
_SLOTS = 2 * _WINDOW  # of each band
_EXACT_SLOTS = 1 << 21
_EXACT_MOST = 3 * _EXACT_SLOTS // 4
_MOST_PREFIXES = 100_000
_AT_ONCE = 256  # documents whose sketches are made together
_NONE = np.uint32(0xFFFFFFFF)
_NUMBERED = re.compile(r"(.*, (?:line|row) )(\d{1,9})", re.DOTALL)


def noting_repeats(
    documents: Iterable[Document | StreamedDocument], report: Report
) -> Iterator[Document | StreamedDocument]:
    """The same documents, of which `report` is told those that repeat earlier ones.

    Up to 256 documents are taken in before the first is given on. Memory: 70 MB at most, however many pass.
    """
    finder = _Finder(report)
    waiting: list[Document | StreamedDocument] = []
    size = 0
    try:
        for document in documents:
            waiting.append(document)
            size += min(document.characters, PIECE)
            if len(waiting) >= _AT_ONCE or size >= 2 * PIECE:
                finder.look_at(waiting)
                yield from waiting
                waiting, size = [], 0
    except CorpusError:
        yield from waiting  # what came before the error is good
        raise
    finder.look_at(waiting)
    yield from waiting


class _Finder:
    def __init__(self, report: Report):
        self._report = report
        self._sources = _Sources()
        self._exact = np.zeros(_EXACT_SLOTS, dtype=np.uint64)
        self._exact_document = np.zeros(_EXACT_SLOTS, dtype=np.uint32)
        self._num_exact = 0
        self._bands = np.zeros((_BANDS, _SLOTS), dtype=np.uint32)  # 1 + document, 0 = none
        self._sketches = np.zeros((_WINDOW, _BINS), dtype=np.uint8)

    def look_at(self, documents: list[Document | StreamedDocument]) -> None:
        if not documents:
            return
        texts = [normalised(next(document.pieces(), "")) for document in documents]
        sketches = sketch(texts)
        small = (sketches & 0xFF).astype(np.uint8)
        slots = _band_slots(sketches)
        bands = np.arange(_BANDS)
        for i, document in enumerate(documents):
            number = self._sources.add(document.source)
            earlier = self._same(_digest(document, texts[i]), number)
            if earlier is not None:
                self._report.repeats.add(f"{shown(document.source)} repeats {self._sources.of(earlier)}")
            else:
                candidates = self._bands[bands, slots[i]]
                candidates = np.unique(candidates[(candidates > 0) & (candidates + _WINDOW > number + 1)]) - 1
                if len(candidates):
                    alike = (self._sketches[candidates % _WINDOW] == small[i]).mean(axis=1)
                    best = int(alike.argmax())
                    if alike[best] >= NEARLY:
                        self._report.near_repeats.add(
                            f"{shown(document.source)} is nearly {self._sources.of(int(candidates[best]))}"
                        )
            self._bands[bands, slots[i]] = number + 1
            self._sketches[number % _WINDOW] = small[i]
        self._report.compared += len(documents)

    def _same(self, digest: int, number: int) -> int | None:
        """The earlier document with this digest; if there is none, this one is kept."""
        at = digest % _EXACT_SLOTS
        while found := int(self._exact[at]):
            if found == digest:
                return int(self._exact_document[at])
            at = (at + 1) % _EXACT_SLOTS
        if self._num_exact < _EXACT_MOST:
            self._exact[at], self._exact_document[at] = digest, number
            self._num_exact += 1
        return None


class _Sources:
    """Where each document came from; rows of a table share what stands before their number."""

    def __init__(self) -> None:
        self._prefixes: dict[str, int] = {}
        self._prefix, self._number = array("I"), array("I")
        self._count = 0

    def add(self, source: str) -> int:
        numbered = _NUMBERED.fullmatch(source)
        prefix, number = (numbered[1], int(numbered[2])) if numbered else (source, 0)
        self._count += 1
        if self._count <= _EXACT_MOST:
            if prefix not in self._prefixes and len(self._prefixes) < _MOST_PREFIXES:
                self._prefixes[prefix] = len(self._prefixes)
            self._prefix.append(self._prefixes.get(prefix, _MOST_PREFIXES))
            self._number.append(number)
        return self._count - 1

    def of(self, document: int) -> str:
        index = self._prefix[document] if document < len(self._prefix) else _MOST_PREFIXES
        if index == _MOST_PREFIXES:
            return "an earlier document"
        prefix = next(prefix for prefix, at in self._prefixes.items() if at == index)
        return shown(f"{prefix}{self._number[document] or ''}")


def normalised(text: str) -> str:
    """`text` without what makes no difference to a reader's notion of the same text."""
    text = text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()
    return " ".join(text.split())


def _digest(document: Document | StreamedDocument, begin: str) -> int:
    """64 bits, never 0. `begin` is the first piece of the text, normalised."""
    digest = hashlib.blake2b(begin.encode("utf-8", "replace"), digest_size=8)
    if isinstance(document, StreamedDocument):
        digest.update(document.digest)
    elif document.characters > PIECE:
        pieces = document.pieces()
        next(pieces)
        for piece in pieces:
            digest.update(normalised(piece).encode("utf-8", "replace"))
    return int.from_bytes(digest.digest(), "little") or 1


def sketch(texts: list[str]) -> np.ndarray:
    """(len(texts), 64) uint32: two rows agree in about as large a share as the texts' runs are the same.

    Each run's hash falls into one of 64 bins, which keep their smallest; an empty bin borrows from the next.
    """
    padded = [text.ljust(_RUN, "\0") for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "replace"), dtype=np.uint32)
    lengths = np.array([len(text) for text in padded])
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    hashes = codes.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x632BE59BD9B4E019)
    factor, width = 0xD6E8FEB86659FD93, 1
    while width < _RUN:  # the hash of 2, 4, 8 characters is made of those of 1, 2, 4
        hashes = hashes[:-width] * np.uint64(factor) + hashes[width:]
        factor, width = factor * factor % (1 << 64), 2 * width
    hashes ^= hashes >> np.uint64(31)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(29)
    document = np.repeat(np.arange(len(texts)), lengths)[: len(hashes)]
    # Runs that would reach into the next text are none.
    inside = np.arange(len(hashes)) <= (begins + lengths - _RUN)[document]
    hashes, document = hashes[inside], document[inside]
    result = np.full(len(texts) * _BINS, _NONE, dtype=np.uint32)
    bins = document * _BINS + (hashes & np.uint64(_BINS - 1)).astype(np.int64)
    np.minimum.at(result, bins, (hashes >> np.uint64(32)).astype(np.uint32) & np.uint32(0x7FFFFFFF))
    result = result.reshape(-1, _BINS)
    return _filled(result)


def _filled(sketches: np.ndarray) -> np.ndarray:
    """With each empty bin holding what the next full one holds, made different by how far that is."""
    result = sketches.copy()
    for distance in range(1, _BINS):
        empty = result == _NONE
        if not empty.any():
            break
        other = np.roll(sketches, -distance, axis=1)
        lent = (other + np.uint32(distance * 0x9E3779B1 & 0xFFFFFFFF)) & np.uint32(0x7FFFFFFF)
        result = np.where(empty & (other != _NONE), lent, result)
    return result


def _band_slots(sketches: np.ndarray) -> np.ndarray:
    """(documents, bands): where in each band's table a document stands."""
    hashes = np.zeros((len(sketches), _BANDS), dtype=np.uint64)
    for row in range(_ROWS):
        hashes = (hashes + sketches[:, row : _BANDS * _ROWS : _ROWS]) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return (hashes % np.uint64(_SLOTS)).astype(np.int64)
