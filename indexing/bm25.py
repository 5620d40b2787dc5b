"""BM25 over the chunks of a datastore: which chunks share a text's rarer words?

Words are found by `words`: any script, no stop words, no stems. A chunk's score for a text is the sum, over
the text's words as often as they stand there, of

    idf(w) · tf / (tf + K1 · (1 − B + B · length / average length))       (Robertson & Zaragoza 2009, Lucene)
    idf(w) = ln(1 + (n − df + ½) / (df + ½))

tf: how often the chunk has the word · length: words in the chunk · df: chunks, of n, that have the word.

n, df and the average length are counted over the *base*: the datastore's first segments, see `base_of`. So a
segment that is appended is indexed alone and the others stay as they are; once there is a quarter more, the
base is counted anew. Deleted chunks are never returned but stay in the count until a datastore is compacted.
What comes out depends on the segments alone, never on what was built when.

    index/bm25/BASE/
        statistics.json        n, average length, and the sha256 of the two files below
        terms.npy              (V,) uint64, sorted: hashes of the base's words
        frequencies.npy        (V,) int64, df of each
        SEGMENT/segment.json   its rows and blocks, and the sha256 of all its files
        SEGMENT/0000/          a block of 65,536 rows: an index of the library bm25s, and
                terms.npy      (t,) uint64: hashes of its words, one for each column
                lengths.npy    (rows,) int32: words in each chunk, while the base is being counted

All of it can be made again, and is if a file is missing or not what was written. Of a datastore that ships
with the program, has the former format 1, or cannot be written to, it is in a temporary folder.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from indexing import files, paths
from indexing.catalogue import State
from indexing.chunks import ChunkStore
from indexing.errors import DatastoreError
from indexing.manifest import INDEX_FOLDER
from indexing.tokenizer import Tokenizer

K1, B = 1.5, 0.75
FOLDER = Path(INDEX_FOLDER, "bm25")
GROWTH = 1.25  # a base this much smaller than the whole is counted anew

_VERSION = 1  # of the folder's layout, of `words` and of the formula: another one is another folder
_BLOCK = 1 << 16  # rows indexed together: some 100 MB while it is made
_TERMS, _FREQUENCIES, _LENGTHS = "terms.npy", "frequencies.npy", "lengths.npy"
_STATISTICS, _SEGMENT = "statistics.json", "segment.json"
# The names under which bm25s saves an index and loads it.
_DATA, _INDICES, _INDPTR = "data.csc.index.npy", "indices.csc.index.npy", "indptr.csc.index.npy"
_PARAMETERS = "params.index.json"


class Chunked(Protocol):
    """What words are looked for in: a `Datastore`, or the chunks of an index spec (`SpecChunks`). Without a
    `state` it is one segment, and what is made for it is not kept."""

    name: str
    path: Path
    state: State | None
    fingerprint: str
    chunks: ChunkStore
    alive: np.ndarray  # (N,) bool
    tokenizer: Tokenizer


@dataclass(frozen=True)
class WordsIndexed:
    """`done` of `total` chunks have been read for BM25."""

    done: int
    total: int


@cache
def _pattern() -> Any:
    import regex  # the standard library's re takes the vowel signs of Hindi and others for blanks

    spaceless = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    run, word = rf"(?:[{spaceless}]\p{{M}}*)+", rf"[[\p{{L}}\p{{M}}\p{{N}}_]--[{spaceless}]]+"
    return regex.compile(rf"({run})|({word})", regex.V1)


def words(text: str) -> list[str]:
    """The words of a text in order, by which it is found: runs of letters, marks, digits and underscores,
    after Unicode's NFKC and case folding. Scripts that put no blanks between words (Chinese, Japanese, Thai,
    Lao, Khmer, Burmese) give each two neighbouring characters as a word, and a single character alone."""
    found = []
    for run, word in _pattern().findall(unicodedata.normalize("NFKC", text).casefold()):
        if word:
            found.append(word)
        else:
            found += [run[i : i + 2] for i in range(max(1, len(run) - 1))]
    return found


def base_of(sizes: Sequence[int]) -> int:
    """How many of the segments, of `sizes` rows, are counted: the first one; whenever there are GROWTH times
    as many rows, all there are by then."""
    base = rows = counted = 0
    for number, size in enumerate(sizes, start=1):
        rows += size
        if number == 1 or rows > GROWTH * counted:
            base, counted = number, rows
    return base


@dataclass(frozen=True)
class _Statistics:
    terms: np.ndarray  # (V,) uint64, sorted
    frequencies: np.ndarray  # (V,) int64
    num_chunks: int
    average_length: float

    def idf(self, terms: np.ndarray) -> np.ndarray:
        """(t,) float64; terms that the base does not have are as rare as can be."""
        at, known = _find(self.terms, terms)
        df = np.zeros(len(terms))
        df[known] = self.frequencies[at[known]]
        return np.log1p((self.num_chunks - df + 0.5) / (df + 0.5))


@dataclass(frozen=True)
class _Block:
    rows: slice  # of the datastore
    terms: np.ndarray  # (t,) uint64, sorted
    index: Any  # a bm25s.BM25 over these rows and terms


class WordIndex:
    """BM25 scores of all chunks of one snapshot of a datastore. Make one with `open_word_index`."""

    def __init__(self, num_chunks: int, blocks: list[_Block], folder: tempfile.TemporaryDirectory | None):
        self._num_chunks, self._blocks = num_chunks, blocks
        self._folder = folder  # lives as long as this object does

    def scores(self, text: str) -> np.ndarray:
        """(N,) float32, larger is closer; 0 for chunks without any of the text's words."""
        asked = hashes(words(text))
        found = np.zeros(self._num_chunks, dtype=np.float32)
        for block in self._blocks:
            columns, known = _find(block.terms, asked)
            if known.any():
                found[block.rows] = block.index.get_scores_from_ids(columns[known])
        return found


def hashes(terms: Sequence[str]) -> np.ndarray:
    """(n,) uint64: what stands for words in the files. That two of a million words share one has a
    probability of 3 · 10⁻⁸."""
    digests = b"".join(hashlib.blake2b(term.encode(), digest_size=8).digest() for term in terms)
    return np.frombuffer(digests, dtype="<u8")


def _find(known_terms: np.ndarray, terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each of `terms` (t,) stands among the sorted ones, and whether it does."""
    if not len(known_terms):
        return np.zeros(len(terms), dtype=np.int64), np.zeros(len(terms), dtype=bool)
    at = np.minimum(np.searchsorted(known_terms, terms), len(known_terms) - 1)
    return at, known_terms[at] == terms


def open_word_index(datastore: Chunked) -> Iterator[WordsIndexed]:
    """Make what is missing, as events; the generator's value (of StopIteration) is the WordIndex.

    Some 10,000 chunks a second; the memory it takes does not grow with the corpus, save for the hashes of its
    distinct words. Raises DatastoreError if there is no room for it on the disk.
    """
    ours = datastore.state is not None and not paths.is_bundled(datastore.path)
    if ours and os.access(datastore.path, os.W_OK):
        # The disk may be full, another process may make the same at this moment, or remove it.
        with suppress(OSError):
            return (yield from _open_in(datastore.path / FOLDER, datastore))
    temporary = tempfile.TemporaryDirectory(prefix="retro-bm25-")
    try:
        return (yield from _open_in(Path(temporary.name), datastore, temporary))
    except OSError as error:
        raise DatastoreError(
            f"Cannot keep the words of datastore {datastore.name!r}: {error.strerror or error}. Make room on "
            "the disk, or choose the dense retriever."
        ) from error


def _open_in(
    root: Path, datastore: Chunked, temporary: tempfile.TemporaryDirectory | None = None
) -> Iterator[WordsIndexed]:
    """Raises OSError if it cannot be made there, or is not there once it is made."""
    parts = _parts(datastore)
    base = base_of([rows for _, rows in parts])
    key = hashlib.sha256(json.dumps([_VERSION, K1, B, [name for name, _ in parts[:base]]]).encode())
    folder = root / key.hexdigest()[:16]
    maker = _Maker(datastore, folder, parts, base)
    statistics = maker.read_statistics()
    opened = [maker.read_part(number) for number in range(base)] if statistics else [None]
    if None in opened:
        yield from maker.count_base()
        _remove_others(root, folder)
        statistics = maker.read_statistics()
        opened = [maker.read_part(number) for number in range(base)]
    for number in range(base, len(parts)):
        blocks = maker.read_part(number)
        if statistics and blocks is None:
            yield from maker.add_part(number, statistics)
            blocks = maker.read_part(number)
        opened.append(blocks)
    if None in opened:
        raise FileNotFoundError(errno.ENOENT, "what was just written is gone", str(folder))
    return WordIndex(len(datastore.chunks), [block for blocks in opened for block in blocks], temporary)


def _parts(datastore: Chunked) -> list[tuple[str, int]]:
    """The immutable segments: (fingerprint, rows). Format 1 has one."""
    if datastore.state is None:
        return [(datastore.fingerprint, len(datastore.chunks))]
    return [(segment.fingerprint, segment.num_chunks) for segment in datastore.state.segments]


def _remove_others(root: Path, folder: Path) -> None:
    for other in root.iterdir():
        if other != folder and not other.name.startswith((files.UNFINISHED, files.PREVIOUS)):
            shutil.rmtree(other, ignore_errors=True)


class _Maker:
    """Makes and reads the folder of one base, and in it one folder for each of the datastore's segments."""

    def __init__(self, datastore: Chunked, folder: Path, parts: list[tuple[str, int]], base: int):
        self._datastore, self._folder, self._parts, self._base = datastore, folder, parts, base
        self._starts = np.cumsum([0, *(rows for _, rows in parts)]).tolist()

    def _name(self, number: int) -> str:
        return self._parts[number][0][:16]

    # ------------------------------------------------------------------------------------- reading

    def read_statistics(self) -> _Statistics | None:
        """None if the base has to be counted (again)."""
        facts = _read_checked(self._folder, _STATISTICS)
        if facts is None:
            return None
        terms, frequencies = (np.load(self._folder / name) for name in (_TERMS, _FREQUENCIES))
        return _Statistics(terms, frequencies, facts["num_chunks"], facts["average_length"])

    def read_part(self, number: int) -> list[_Block] | None:
        """The blocks of a segment; None if they have to be made (again)."""
        import bm25s  # half a second, for scipy

        folder, first = self._folder / self._name(number), self._starts[number]
        facts = _read_checked(folder, _SEGMENT)
        if facts is None or facts["rows"] != self._parts[number][1]:
            return None
        blocks = []
        for name, start, stop in facts["blocks"]:
            index = bm25s.BM25.load(folder / name, mmap=True, load_vocab=False)
            terms = np.load(folder / name / _TERMS, mmap_mode="r")
            blocks.append(_Block(slice(first + start, first + stop), terms, index))
        return blocks

    # -------------------------------------------------------------------------------------- making

    def count_base(self) -> Iterator[WordsIndexed]:
        with files.new_folder(self._folder, replace=True) as work:
            statistics = _Counting()
            blocks: list[list[tuple[str, int, int]]] = []
            for number in range(self._base):
                blocks.append([])
                for block in self._blocks(number, work / self._name(number)):
                    blocks[-1].append(block)
                    if block[0]:
                        statistics.add(work / self._name(number) / block[0])
                    yield WordsIndexed(self._starts[number] + block[2], self._starts[self._base])
            counted = statistics.result(self._starts[self._base])
            for number, found in enumerate(blocks):
                self._finish(number, work / self._name(number), found, counted)
            files.save_array(work / _TERMS, counted.terms)
            files.save_array(work / _FREQUENCIES, counted.frequencies)
            facts = {"num_chunks": counted.num_chunks, "average_length": counted.average_length}
            _write_checked(work, _STATISTICS, facts, [work / _TERMS, work / _FREQUENCIES])

    def add_part(self, number: int, statistics: _Statistics) -> Iterator[WordsIndexed]:
        with files.new_folder(self._folder / self._name(number), replace=True) as work:
            blocks = []
            for block in self._blocks(number, work):
                blocks.append(block)
                yield WordsIndexed(block[2], self._parts[number][1])
            self._finish(number, work, blocks, statistics)

    def _blocks(self, number: int, folder: Path) -> Iterator[tuple[str, int, int]]:
        """Write counts instead of scores for now; (name, first row, row after the last) of each block, rows
        within the segment. A block without any word has no name and no folder."""
        first, rows = self._starts[number], self._parts[number][1]
        folder.mkdir(exist_ok=True)
        for count, start in enumerate(range(0, rows, _BLOCK)):
            stop = min(start + _BLOCK, rows)
            tokens = self._datastore.chunks.tokens[first + start : first + stop]
            texts = (self._datastore.tokenizer.decode(chunk.tolist()) for chunk in tokens)
            name = f"{count:04d}"
            yield (name if _write_counts(folder / name, texts) else ""), start, stop

    def _finish(
        self, number: int, folder: Path, blocks: list[tuple[str, int, int]], statistics: _Statistics
    ) -> None:
        blocks = [block for block in blocks if block[0]]
        for name, start, stop in blocks:
            _weigh(folder / name, stop - start, statistics)
        written = [path for name, *_ in blocks for path in sorted((folder / name).iterdir())]
        facts = {"rows": self._parts[number][1], "blocks": blocks}
        _write_checked(folder, _SEGMENT, facts, written)


class _Counting:
    """Adds up what the base's blocks count."""

    def __init__(self) -> None:
        self._terms = np.zeros(0, dtype=np.uint64)
        self._frequencies = np.zeros(0, dtype=np.int64)
        self._words = 0

    def add(self, block: Path) -> None:
        terms, df = np.load(block / _TERMS), np.diff(np.load(block / _INDPTR))
        merged, place = np.unique(np.concatenate([self._terms, terms]), return_inverse=True)
        frequencies = np.bincount(place, np.concatenate([self._frequencies, df]), len(merged))
        self._terms, self._frequencies = merged, frequencies.astype(np.int64)
        self._words += int(np.load(block / _LENGTHS).sum(dtype=np.int64))

    def result(self, num_chunks: int) -> _Statistics:
        # Chunks without a single word: any length will do.
        return _Statistics(self._terms, self._frequencies, num_chunks, self._words / num_chunks or 1.0)


def _write_counts(folder: Path, texts: Iterator[str]) -> bool:
    """One block in columns, one column for each word: which chunks have it (indices) and how often (data).
    False, and nothing, if there is no word."""
    vocabulary: dict[str, int] = {}
    ids, lengths = array("i"), array("i")
    for text in texts:
        found = words(text)
        lengths.append(len(found))
        ids.extend(vocabulary.setdefault(word, len(vocabulary)) for word in found)
    if not vocabulary:
        return False
    terms = hashes(list(vocabulary))
    order = np.argsort(terms)
    column_of = np.argsort(order)
    num_rows = len(lengths)
    rows = np.repeat(np.arange(num_rows), lengths)
    places, counts = np.unique(column_of[np.asarray(ids)] * num_rows + rows, return_counts=True)
    folder.mkdir()
    files.save_array(folder / _TERMS, terms[order])
    files.save_array(folder / _LENGTHS, np.asarray(lengths, dtype=np.int32))
    files.save_array(folder / _DATA, counts.astype(np.float32))
    files.save_array(folder / _INDICES, (places % num_rows).astype(np.int32))
    files.save_array(folder / _INDPTR, np.searchsorted(places, np.arange(len(terms) + 1) * num_rows))
    return True


def _weigh(folder: Path, num_rows: int, statistics: _Statistics) -> None:
    """Turn the counts of a block into scores."""
    counts, rows, bounds = (np.load(folder / name) for name in (_DATA, _INDICES, _INDPTR))
    lengths = np.load(folder / _LENGTHS)[rows]
    idf = np.repeat(statistics.idf(np.load(folder / _TERMS)), np.diff(bounds))
    scores = idf * counts / (counts + K1 * (1 - B + B * lengths / statistics.average_length))
    files.save_array(folder / _DATA, scores.astype(np.float32))
    (folder / _LENGTHS).unlink()
    parameters = {
        "k1": K1, "b": B, "delta": 0.5, "method": "lucene", "idf_method": "lucene", "dtype": "float32",
        "int_dtype": "int32", "num_docs": num_rows, "backend": "numpy",
    }  # fmt: skip
    files.write_json(folder / _PARAMETERS, parameters)


# -------------------------------------------------------------------------------- files that are checked


def _write_checked(folder: Path, name: str, facts: dict[str, Any], written: Sequence[Path]) -> None:
    sums = {path.relative_to(folder).as_posix(): files.sha256(path) for path in written}
    facts = {**facts, "files": sums}
    files.write_json(folder / name, {**facts, "sha256": _of_json(facts)})


def _read_checked(folder: Path, name: str) -> dict[str, Any] | None:
    """What `_write_checked` wrote, if it and all the files that it names are as they were written."""
    files.recover(folder)
    try:
        facts = json.loads((folder / name).read_bytes())
        own = facts.pop("sha256")
        sums = {file: files.sha256(folder / file) for file in facts["files"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return facts if own == _of_json(facts) and sums == facts["files"] else None


def _of_json(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
