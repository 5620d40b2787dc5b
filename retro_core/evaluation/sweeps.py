"""What k, the size of the datastore and the quality of its index are worth: the same held-out tokens scored
again and again, with one thing changed.

k       neighbours read for each chunk. The paper's gain grows to k = 10 or 40, by the size of the model, and
        then falls (Borgeaud et al. 2021, section 4.1 and figure 1, right).
size    shares of the datastore's documents, drawn at random and nested: what a smaller datastore has, a
        larger one of the same seed has too. Neighbours are searched again in each, exactly (figure 1,
        middle).
nprobe  lists of an inverted file that a search reads. Recall is the share of the true k nearest that it
finds; the
        loss says whether the others were missed by the model too (as in PipeRAG, arXiv 2403.05676).

A sweep costs as many passes over the scored tokens as it has points; a point where all chunks find the same
as in one that was scored costs nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from indexing.advisor import IndexSettings, lists_for
from indexing.built import recall_of
from indexing.errors import InputError
from indexing.index import Index, build_index
from indexing.neighbours import NO_CHUNK
from retro_core.evaluation.gains import Gain, gain
from retro_core.evaluation.held_out import HeldOut
from retro_core.evaluation.losses import TOKENS_AT_ONCE, Reading, TokenLosses, collect, token_losses
from retro_core.evaluation.readings import fewer, off
from retro_core.evaluation.searching import (
    ChosenRows,
    Found,
    Search,
    Searchable,
    asked,
    reading,
    search_all,
)
from retro_core.model import Retro

KS = (1, 2, 3, 5, 10, 20)
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
SIZE_SEEDS = 3
NPROBES = (1, 2, 4, 8, 16, 32)
_USUAL_NEIGHBOURS = 4  # whose encoding fits beside `TOKENS_AT_ONCE` tokens


@dataclass(frozen=True)
class SweepEvent:
    """`done` of at most `total` tokens were scored, each once for each reading. stage: "searching",
    "indexing", "off", "k", "size" or "nprobe"."""

    stage: str
    done: int
    total: int
    message: str = ""


@dataclass(frozen=True)
class KPoint:
    num_neighbours: int
    gain: Gain


@dataclass(frozen=True)
class SizePoint:
    """share: asked for · documents, chunks: what the part of the datastore has · seed: drawn with it"""

    share: float
    seed: int
    documents: int
    chunks: int
    gain: Gain


@dataclass(frozen=True)
class NprobePoint:
    """nprobe of `lists` lists · recall: share of the true k nearest that are found"""

    nprobe: int
    lists: int
    recall: float
    gain: Gain


@dataclass(frozen=True)
class Sweeps:
    """Points in the order in which something grows. skipped: sweep -> why it has no points. scored: tokens
    that were scored in all, each counted once for each reading."""

    num_neighbours: int
    documents: int
    tokens: int
    index: str
    k: list[KPoint]
    size: list[SizePoint]
    nprobe: list[NprobePoint]
    skipped: dict[str, str]
    scored: int


def sweeps(
    model: Retro,
    held_out: HeldOut,
    searchable: Searchable,
    num_neighbours: int = 2,
    *,
    ks: Sequence[int] = KS,
    shares: Sequence[float] = SHARES,
    size_seeds: int = SIZE_SEEDS,
    nprobes: Sequence[int] = NPROBES,
    limit: int | None = None,
    seed: int = 0,
) -> Iterator[SweepEvent]:
    """Events while it works; the generator returns the `Sweeps`.

    num_neighbours  k of the sweeps of size and nprobe
    ks, shares, nprobes  what to try; empty for no such sweep. A k beyond the chunks that there are is left
    out; all
                    lists are always tried beside the nprobes
    size_seeds      so many draws of each share below 1
    limit           so many held-out documents, drawn with `seed`; None for all
    Raises InputError for what cannot be tried.
    """
    _check(num_neighbours, ks, shares, size_seeds, nprobes)
    if limit is not None:
        held_out = held_out.drawn(limit, seed)
    ks = sorted({k for k in (*ks, num_neighbours) if k <= max(num_neighbours, int(searchable.allowed.sum()))})
    pieces = sorted({(share, number) for share in shares if share < 1 for number in range(size_seeds)})
    lists = lists_for(int(searchable.allowed.sum()))
    skipped = {}
    if nprobes and lists < 2:
        skipped["nprobe"] = f"{int(searchable.allowed.sum()):,} chunks are too few for an index of lists."
        nprobes = ()
    nprobes = sorted({nprobe for nprobe in nprobes if nprobe < lists} | {lists}) if nprobes else []
    scoring = _Scoring(model, held_out, 1 + len(ks) + len(pieces) + len(nprobes))

    yield scoring.event("searching", "embeddings of the held-out chunks")
    queries = asked(held_out, searchable)
    yield scoring.event("searching", f"the nearest {max(ks)}")
    exact = search_all(
        held_out, queries, max(ks), lambda v, k, own: searchable.exact.search(v, k, own, searchable.allowed)
    )
    whole = reading("whole", searchable, exact, max(ks))
    yield from scoring.score("off", [off()])
    yield from scoring.score("k", [fewer(whole, k) for k in ks], max(ks))
    on = f"k={num_neighbours}"

    parts, sizes = [], {}
    for share, number in pieces:
        documents = drawn_share(searchable, share, seed + number)
        allowed = searchable.within(documents)
        name = f"{share} of the documents, draw {number}"
        yield scoring.event("searching", name)
        found = search_all(
            held_out, queries, num_neighbours,
            lambda v, k, own, allowed=allowed: searchable.exact.search(v, k, own, allowed),
        )  # fmt: skip
        parts.append(reading(name, searchable, found, num_neighbours))
        sizes[name] = (share, seed + number, len(documents), int(allowed.sum()))
    yield from scoring.score("size", parts)

    index, points = None, []
    if nprobes:
        index = yield from _build(scoring, searchable, lists)
        truth = {
            number: (ids[:, :num_neighbours], d[:, :num_neighbours]) for number, (ids, d) in exact.items()
        }
        same: dict[bytes, str] = {_key(truth): on}
        probing = []
        for nprobe in nprobes:
            found = search_all(held_out, queries, num_neighbours, _searched(index, searchable, nprobe))
            name = same.setdefault(_key(found), f"nprobe={nprobe}")
            if name == f"nprobe={nprobe}":
                probing.append(reading(name, searchable, found, num_neighbours))
            recall = recall_of(
                *(np.concatenate([d for _, d in f.values()]) for f in (found, truth)), num_neighbours
            )
            points.append((nprobe, recall, name))
        yield from scoring.score("nprobe", probing)

    losses = scoring.losses
    size = [SizePoint(*sizes[part.name], gain(losses, part.name)) for part in parts]
    if any(share == 1 for share in shares):
        everything = len(searchable.living()), int(searchable.allowed.sum())
        size.append(SizePoint(1.0, seed, *everything, gain(losses, on)))
    return Sweeps(
        num_neighbours=num_neighbours,
        documents=len(losses.documents),
        tokens=len(losses),
        index="" if index is None else index.about.factory,
        k=[KPoint(k, gain(losses, f"k={k}")) for k in ks],
        size=size,
        nprobe=[NprobePoint(nprobe, lists, recall, gain(losses, name)) for nprobe, recall, name in points],
        skipped=skipped,
        scored=scoring.done,
    )


def drawn_share(searchable: Searchable, share: float, seed: int) -> np.ndarray:
    """Numbers of a share of the documents, at least one, in a random order of `seed`: a smaller share is the
    beginning of a larger one."""
    order = np.random.default_rng(seed).permutation(searchable.living())
    return order[: max(1, round(share * len(order)))]


class _Scoring:
    """Readings of the same tokens, gathered in one table, and how many tokens were scored for them."""

    def __init__(self, model: Retro, held_out: HeldOut, readings: int):
        self._model, self._held_out = model, held_out
        self.losses: TokenLosses | None = None
        self.done, self._total = 0, readings * held_out.num_tokens

    def event(self, stage: str, message: str = "") -> SweepEvent:
        return SweepEvent(stage, self.done, self._total, message)

    def score(self, stage: str, readings: Sequence[Reading], most: int = 0) -> Iterator[SweepEvent]:
        """most: neighbours of one reading, where they are more than usual"""
        if not readings:
            return
        before, windows = self.done, []
        at_once = TOKENS_AT_ONCE * _USUAL_NEIGHBOURS // max(most, _USUAL_NEIGHBOURS)
        for event in token_losses(self._model, self._held_out, readings, at_once):
            windows.append(event)
            self.done = before + event.done * len(readings)
            yield self.event(stage)
        scored = collect(self._held_out, windows)
        self.losses = scored if self.losses is None else self.losses
        for name, nats in scored.nats.items():
            self.losses = self.losses.with_reading(name, nats)


def _build(scoring: _Scoring, searchable: Searchable, lists: int) -> Iterator[SweepEvent]:
    """An inverted file over the chunks that can be found; the generator returns the `Index`. It holds no
    others, since an index that has to leave rows out reads more than its nprobe."""
    rows = np.flatnonzero(searchable.allowed)
    settings = IndexSettings(factory=f"IVF{lists},SQ8", nprobe=1)
    building = build_index(
        ChosenRows(searchable.vectors, rows), searchable.documents[rows], np.ones(len(rows), dtype=bool),
        [("sweep", len(rows))], None, settings,
    )  # fmt: skip
    while True:
        try:
            event = next(building)
        except StopIteration as end:
            return end.value
        yield scoring.event("indexing", event.message or event.stage)


def _searched(index: Index, searchable: Searchable, nprobe: int) -> Search:
    """With the ids that the chunks have among all."""
    rows, probing = np.flatnonzero(searchable.allowed), index.with_nprobe(nprobe)

    def search(vectors: np.ndarray, k: int, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found, distances = probing.search(vectors, k, own)
        return np.where(found == NO_CHUNK, NO_CHUNK, rows[found]), distances

    return search


def _key(found: Found) -> bytes:
    return b"".join(ids.tobytes() for _, (ids, _) in sorted(found.items()))


def _check(
    num_neighbours: int, ks: Sequence[int], shares: Sequence[float], size_seeds: int, nprobes: Sequence[int]
) -> None:
    counts = (num_neighbours, *ks, size_seeds, *nprobes)
    if min(counts) < 1 or any(not 0 < share <= 1 for share in shares):
        raise InputError(
            f"Expected k, draws and nprobe of 1 or more and shares above 0 up to 1, got k "
            f"{(num_neighbours, *ks)}, {size_seeds} draws, nprobe {tuple(nprobes)} and shares "
            f"{tuple(shares)}. Correct the one that is not."
        )
