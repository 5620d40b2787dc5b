"""Nearest neighbours among the rows of a datastore: where there are few, by comparing all; where there are
many, by a built index that proposes candidates, and their exact distances.

    folder/index.faiss      the built index, see `built`; may vanish at any time
    folder/settings.json    what somebody asked for, see `advisor.IndexSettings`

A built index covers the first rows, of the segments that there were; rows that were added since are searched
exactly. It is built again when those are more than 50,000 and more than a fifth of all rows, when somebody
asks for another one, and when its file is damaged or belongs to other segments.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from indexing import built, files
from indexing.advisor import TAIL_ROWS, TAIL_SHARE, Advice, IndexSettings, advice_for, check_factory
from indexing.built import About, BuiltIndex, IndexEvent, Parts
from indexing.errors import ConfigError, InputError
from indexing.exact import (
    NO_DOCUMENT,
    FlatIndex,
    checked_exclude,
    checked_queries,
    nothing_found,
    scan,
)
from indexing.neighbours import NO_CHUNK

__all__ = [
    "NO_DOCUMENT",
    "Advice",
    "FlatIndex",
    "Index",
    "IndexEvent",
    "IndexSettings",
    "advice_for",
    "build_index",
    "open_index",
    "remembered_settings",
]

SETTINGS_FILE = "settings.json"
# Of so few allowed rows, reading all is as quick as anything and finds all.
_FEW_ROWS = 20_000


class Index:
    """The rows of one snapshot of a datastore, found by their vectors. Made by `open_index`; safe to use from
    several threads.

    about   what is known of the built index it uses; None where all rows are compared
    advice  what the settings come to for this many rows
    """

    def __init__(
        self,
        vectors: np.ndarray,
        documents: np.ndarray,
        alive: np.ndarray,
        settings: IndexSettings,
        advice: Advice | None,
        index: BuiltIndex | None,
    ):
        self._vectors, self._documents = vectors, np.asarray(documents)
        self._alive = np.asarray(alive, dtype=bool)
        self._all_alive = bool(self._alive.all())
        self._built, self.settings, self.advice = index, settings, advice
        self.about: About | None = index.about if index else None
        self._covered = min(index.about.rows, len(vectors)) if index else 0
        tail = _Rows(vectors, self._covered)
        self._tail = FlatIndex(tail, self._documents[self._covered :]) if len(tail) else None

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def most_nprobe(self) -> int:
        """The nprobe that reads everything; 1 where all rows are compared anyway."""
        return self._built.most_nprobe if self._built else 1

    def with_nprobe(self, nprobe: int) -> "Index":
        """The same rows by the same built index, searched with another nprobe, see `IndexSettings`."""
        settings = dataclasses.replace(self.settings, nprobe=nprobe)
        return Index(self._vectors, self._documents, self._alive, settings, self.advice, self._built)

    def search(
        self,
        queries: np.ndarray,
        k: int,
        exclude: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """queries (n, d) -> ids (n, k) int64 and squared L2 distances (n, k) float32, nearest first.

        exclude  (n,) int: no row of that document is returned for the query; -1 excludes nothing
        allowed  (N,) bool: False = not returned for any of these queries

        Distances are exact. All k are found whenever k allowed rows exist; missing ones are -1 and inf, at
        the end. Equal distances are ordered by id. Raises InputError where a query is not finite or does not
        fit.
        """
        queries = checked_queries(queries, k, self._vectors.shape[1])
        exclude = checked_exclude(exclude, len(queries))
        allowed = self._allowed(allowed)
        if not k or not len(queries) or not len(self):
            return nothing_found(len(queries), k)
        if self._built is None:
            return self._tail.search(queries, k, exclude, allowed)
        covered = self._covered
        mask = None if allowed is None else allowed[:covered]
        count = covered if mask is None else int(np.count_nonzero(mask))
        few = count <= max(_FEW_ROWS, covered // 50) and count < covered
        if few or count <= k:
            found, distances = scan(
                _Rows(self._vectors, 0, covered), self._documents[:covered], queries, k, exclude, mask
            )
        else:
            found, distances = self._by_candidates(queries, k, exclude, mask, count)
        if self._tail is not None:
            rest = None if allowed is None else allowed[covered:]
            later, their_distances = self._tail.search(queries, k, exclude, rest)
            later[later != NO_CHUNK] += covered
            found, distances = merged((found, distances), (later, their_distances), k)
        return found, distances

    def _by_candidates(
        self, queries: np.ndarray, k: int, exclude: np.ndarray, mask: np.ndarray | None, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        vectors, documents = _Rows(self._vectors, 0, self._covered), self._documents[: self._covered]
        share = count / self._built.about.rows
        nprobe = self.settings.nprobe or self._built.about.nprobe
        candidates = self.settings.candidates or self._built.about.candidates
        found, distances = built.search_built(
            self._built, vectors, documents, queries, k, exclude, mask, share, nprobe, candidates
        )
        short = np.flatnonzero(found[:, -1] == NO_CHUNK)
        if len(short):
            found[short], distances[short] = scan(vectors, documents, queries[short], k, exclude[short], mask)
        return found, distances

    def _allowed(self, allowed: np.ndarray | None) -> np.ndarray | None:
        """(N,) bool, or None for all rows."""
        if allowed is None:
            return None if self._all_alive else self._alive
        allowed = np.asarray(allowed)
        if allowed.shape != (len(self),) or allowed.dtype != bool:
            raise InputError(
                f"Expected a mask of {len(self)} chunks, got {allowed.dtype} of shape {allowed.shape}. "
                "Give one truth value for each chunk."
            )
        return allowed & self._alive


class _Rows:
    """Some consecutive rows of an array-like that is not to be copied."""

    def __init__(self, rows: np.ndarray, start: int, stop: int | None = None):
        self._rows, self._start = rows, start
        self._stop = len(rows) if stop is None else stop
        self.shape = (self._stop - start, *rows.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            return self._rows[self._start + start : self._start + stop]
        return self._rows[rows + self._start]


def open_index(
    vectors: np.ndarray,
    documents: np.ndarray,
    alive: np.ndarray,
    parts: Parts,
    folder: Path | None = None,
    settings: IndexSettings | None = None,
) -> Index:
    """The index over some rows. Many need one that takes minutes to build: `build_index` tells how far it is.

    vectors    (N, d) float16, array-like with len, shape, slices and arrays of row numbers
    documents  (N,)   int, document of each row
    alive      (N,)   bool, False = never returned
    parts      [(fingerprint, rows)]: the immutable segments that the rows come from, in their order
    folder     where a built index is kept, or None
    settings   what to build; None for what `folder` remembers, else for what the advisor says

    Raises ConfigError if settings are given that do not fit to the vectors.
    """
    remembered = settings is None
    settings = settings or remembered_settings(folder) or IndexSettings()
    try:
        return _drained(_open(vectors, documents, alive, parts, folder, settings))
    except ConfigError:
        if not remembered:
            raise
        # Once they fitted; the rows have become fewer since.
        return _drained(_open(vectors, documents, alive, parts, folder, IndexSettings()))


def build_index(
    vectors: np.ndarray,
    documents: np.ndarray,
    alive: np.ndarray,
    parts: Parts,
    folder: Path | None,
    settings: IndexSettings | None = None,
) -> Iterator[IndexEvent]:
    """Build what `open_index` would use and keep it in `folder`, with the settings; events tell how far it
    is. Nothing is built where all rows are compared anyway, or what is there is as it should be. The
    generator returns the `Index`.

    Raises ConfigError if the settings do not fit to the vectors.
    """
    if settings is not None:
        chosen = advice_for(settings, *vectors.shape)
        if not chosen.exact:
            check_factory(chosen.factory, *vectors.shape)
        if folder is not None:
            remember_settings(folder, settings)
    index = yield from _open(
        vectors, documents, alive, parts, folder, settings or remembered_settings(folder) or IndexSettings()
    )
    return index


def _open(
    vectors: np.ndarray,
    documents: np.ndarray,
    alive: np.ndarray,
    parts: Parts,
    folder: Path | None,
    settings: IndexSettings,
) -> Iterator[IndexEvent]:
    n, dim = vectors.shape
    folder = None if folder is None else Path(folder)
    documents, alive = np.asarray(documents), np.asarray(alive, dtype=bool)
    if not len(documents) == len(alive) == n == sum(rows for _, rows in parts):
        raise InputError(
            f"Expected a document, a truth value and a place in a segment for each of {n} rows, got "
            f"{len(documents)}, {len(alive)} and {sum(rows for _, rows in parts)}."
        )
    advice = advice_for(settings, n, dim)
    index = None
    if not advice.exact:
        if folder is not None:
            index = built.load(folder, parts, dim)
        if index is None or not suffices(index.about, n, settings):
            index = yield from built.build(vectors, documents, alive, parts, settings, folder)
    else:
        yield IndexEvent("done", 1, 1, advice.reason)
    return Index(vectors, documents, alive, settings, advice, index)


def suffices(about: About, n: int, settings: IndexSettings) -> bool:
    """Whether a built index will do for n rows: it is what was asked for, and covers enough of them."""
    uncovered = n - about.rows
    return about.build_key == settings.build_key and not (
        uncovered > TAIL_ROWS and uncovered > TAIL_SHARE * n
    )


def remembered_settings(folder: Path | None) -> IndexSettings | None:
    """What `remember_settings` wrote; None if nothing, or nothing that is whole."""
    try:
        content = json.loads((Path(folder) / SETTINGS_FILE).read_bytes()) if folder is not None else {}
        values = content["settings"]
        return IndexSettings(**values) if content["sha256"] == _digest(values) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError, ConfigError):
        return None


def remember_settings(folder: Path, settings: IndexSettings) -> None:
    values = dataclasses.asdict(settings)
    files.write_json(Path(folder) / SETTINGS_FILE, {"settings": values, "sha256": _digest(values)})


def merged(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of two answers: ids (n, k) and distances (n, k); equal distances by id."""
    ids = np.concatenate([first[0], second[0]], axis=1)
    distances = np.concatenate([first[1], second[1]], axis=1)
    order = np.lexsort((ids, distances))[:, :k]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(distances, order, axis=1)


def _digest(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _drained(events: Iterator[IndexEvent]) -> Index:
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value
