"""What an index finds of the truly nearest, and how long that takes, beside comparing all: on some vectors
and queries of one's own.

Where there are few vectors, comparing all is as quick as anything, and this says so; see docs/indexes.md for
what it looks like with a million.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from indexing.advisor import IndexSettings, check_factory, lists_for
from indexing.built import IndexEvent, recall_of
from indexing.errors import ConfigError, InputError
from indexing.exact import FlatIndex
from indexing.index import Index, build_index

NPROBES = (1, 4, 16, 64)
TIMED = 200  # queries that are asked one by one; the others count for recall alone
_K = 10


@dataclass(frozen=True)
class Found:
    """One way to search. name: "exact", or a faiss factory string · nprobe: lists that a query reads of
    `lists`; 0 where there are none · recall_at_2, recall_at_10: share of the truly nearest outside the
    asking document · ms, ms_95th: of a query asked alone, the median and what 95 % stay below ·
    build_seconds · bytes_per_vector: in memory"""

    name: str
    nprobe: int
    lists: int
    recall_at_2: float
    recall_at_10: float
    ms: float
    ms_95th: float
    build_seconds: float
    bytes_per_vector: float


@dataclass(frozen=True)
class Recall:
    """vectors, queries: how many there were · timed: of these, asked one by one · found: the exact way first
    · skipped: factory string -> why it could not be built"""

    vectors: int
    queries: int
    timed: int
    found: list[Found]
    skipped: dict[str, str]


def factories_for(count: int, dim: int) -> list[str]:
    """What is worth comparing with exact search: lists of vectors in 8 bits, and lists of short codes."""
    lists = lists_for(count)
    short = [f"IVF{lists},PQ{dim // 4}x4fs"] if dim % 4 == 0 else []
    return [f"IVF{lists},SQ8", *short] if lists > 1 else []


def compare(
    vectors: np.ndarray,
    documents: np.ndarray,
    queries: np.ndarray,
    own: np.ndarray,
    factories: Sequence[str] | None = None,
    nprobes: Sequence[int] = NPROBES,
) -> Iterator[IndexEvent]:
    """Events while it works; the generator returns the `Recall`.

    vectors    (n, d) array-like, all of which may be found · documents (n,) int, of each
    queries    (q, d) · own (q,) int: the document that a query gets nothing from, -1 for none
    factories  faiss factory strings to build; None for `factories_for`

    Raises InputError where there is nothing to ask or nothing to find.
    """
    if not len(queries) or not len(vectors):
        raise InputError(
            f"Expected queries and vectors to compare, got {len(queries):,} and {len(vectors):,}."
        )
    factories = factories_for(*vectors.shape) if factories is None else list(factories)
    timed = min(TIMED, len(queries))
    total = 1 + len(factories)
    yield IndexEvent("exact", 0, total)
    since = time.perf_counter()
    exact = FlatIndex(vectors, documents)
    exact.search(queries[:1], 1)  # makes its copy
    seconds = time.perf_counter() - since
    _, truth = exact.search(queries, _K, own)
    plain = vectors.shape[1] + 8.0
    found = [_found("exact", 0, 0, exact.search, queries, own, truth, seconds, plain)]
    skipped = {}
    for number, factory in enumerate(factories):
        yield IndexEvent("building", 1 + number, total, factory)
        try:
            check_factory(factory, *vectors.shape)
            index = yield from _built(vectors, documents, factory, 1 + number, total)
        except ConfigError as error:
            skipped[factory] = str(error)
            continue
        about, most = index.about, index.most_nprobe
        for nprobe in sorted({nprobe for nprobe in nprobes if nprobe < most} | {most}):
            yield IndexEvent("asking", 1 + number, total, f"{factory}, {nprobe} of {most}")
            found.append(
                _found(
                    factory, nprobe, most, index.with_nprobe(nprobe).search, queries, own, truth,
                    about.build_seconds, about.ram_bytes / len(vectors),
                )
            )  # fmt: skip
    yield IndexEvent("done", total, total)
    return Recall(len(vectors), len(queries), timed, found, skipped)


def _built(
    vectors: np.ndarray, documents: np.ndarray, factory: str, done: int, total: int
) -> Iterator[IndexEvent]:
    alive = np.ones(len(vectors), dtype=bool)
    events = build_index(
        vectors, documents, alive, [("compared", len(vectors))], None, IndexSettings(factory=factory)
    )
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            index: Index = end.value
            return index
        yield IndexEvent("building", done, total, f"{factory}: {event.stage}")


def _found(
    name: str,
    nprobe: int,
    lists: int,
    search: Callable,
    queries: np.ndarray,
    own: np.ndarray,
    truth: np.ndarray,
    seconds: float,
    bytes_per_vector: float,
) -> Found:
    _, distances = search(queries, _K, own)
    taken = []
    for row in range(min(TIMED, len(queries))):
        since = time.perf_counter()
        search(queries[row : row + 1], _K, own[row : row + 1])
        taken.append(1000 * (time.perf_counter() - since))
    return Found(
        name, nprobe, lists, recall_of(distances, truth, 2), recall_of(distances, truth, _K),
        float(np.median(taken)), float(np.percentile(taken, 95)), float(seconds), float(bytes_per_vector),
    )  # fmt: skip
