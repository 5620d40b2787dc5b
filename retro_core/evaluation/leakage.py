"""How much of the gain is copying? Bits per byte of the chunks that share little with what could be read.

Borgeaud et al. 2021, section 2.6: for every evaluation chunk C, of up to m tokens, its 10 nearest neighbours
in the training data are looked up, each of up to 128 tokens (a chunk and its continuation). s is the longest
run of tokens that C shares with any of them, and r(C) = s / (tokens of C). For a share α

    bpb(α) = bits of the chunks with r(C) <= α  /  bytes of these chunks

bpb(1) is the usual number; α = 12.5 % leaves the chunks that share at most 8 of 64 tokens in a row. A curve
that falls as α grows says that the model profits from text it has seen, or can read, nearly literally; where
On falls more steeply than Off, retrieval does. Few chunks are left at small α, so intervals are wide there.

The neighbours are those that C itself asks for, not those that it is predicted with: that is `relations`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexing.errors import InputError
from indexing.neighbours import overlap
from retro_core.evaluation.held_out import HeldOut
from retro_core.evaluation.losses import TokenLosses
from retro_core.evaluation.statistics import Estimate, Interval, interval, resampled_totals

ALPHAS = tuple(eighths / 8 for eighths in range(1, 9))  # figure 6: 12.5 % to 100 %
NEIGHBOURS = 10  # of each chunk, section 2.6


@dataclass(frozen=True)
class LeakagePoint:
    """Chunks with r(C) <= alpha that have a scored token, and the bytes of these tokens.

    bpb, ci95  name of a reading -> bits per byte, and its 95 % interval by document; None without chunks
    """

    alpha: float
    chunks: int
    bytes: int
    bpb: dict[str, float | None]
    ci95: dict[str, Interval | None]


@dataclass(frozen=True)
class Leakage:
    """num_neighbours: how many r(C) was measured with; fewer than 10 where fewer are known

    points  one for each α, ascending
    slope   name of a reading -> slope of the straight line through its points with chunks, by least squares:
            bits per byte as α goes from 0 to 1. Negative where text that can be copied is easier. "on-off" is
            that of On less that of Off: below 0, retrieval profits from leakage more than the plain model.
    """

    num_neighbours: int
    points: list[LeakagePoint]
    slope: dict[str, Estimate]


def chunk_overlaps(held_out: HeldOut, documents: Sequence[int], num_neighbours: int = NEIGHBOURS) -> dict:
    """document -> r(C) of its chunks (ceil(n / m),), each with the neighbours that it asks for."""
    return {
        document: overlap(
            held_out.chunks(document), held_out.neighbours(document, num_neighbours).tokens, held_out.pad_id
        )
        for document in documents
    }


def leakage(
    losses: TokenLosses,
    held_out: HeldOut,
    num_neighbours: int = NEIGHBOURS,
    alphas: Sequence[float] = ALPHAS,
    names: Sequence[str] = ("on", "off"),
    seed: int = 0,
) -> Leakage:
    """The curves of some readings of `losses`, which are those of `held_out`.

    Raises InputError without bytes, or for a reading that there is not.
    """
    missing = [name for name in names if name not in losses.nats]
    if missing or not losses.num_bytes.any():
        what = f"no reading {missing[0]!r}" if missing else "no byte counts"
        raise InputError(f"The losses of {losses.name!r} have {what}. Score them again, with a tokenizer.")
    documents = losses.documents
    known = list(chunk_overlaps(held_out, documents.tolist(), num_neighbours).values())
    starts = np.cumsum([0, *map(len, known)])
    place = starts[np.searchsorted(documents, losses.document)]
    shared = np.concatenate(known)[place + losses.chunk]
    return leakage_curve(losses, shared, alphas, names, held_out.most_neighbours(num_neighbours), seed)


def leakage_curve(
    losses: TokenLosses,
    shared: np.ndarray,
    alphas: Sequence[float] = ALPHAS,
    names: Sequence[str] = ("on", "off"),
    num_neighbours: int = NEIGHBOURS,
    seed: int = 0,
) -> Leakage:
    """shared (T,): r(C) of each token's chunk."""
    alphas = sorted(alphas)
    first_of_chunk = np.ones(len(losses), dtype=bool)
    first_of_chunk[1:] = (np.diff(losses.document) != 0) | (np.diff(losses.chunk) != 0)
    inside = [shared <= alpha for alpha in alphas]
    # By document, for each α: bytes; then for each reading: bits.
    kinds = [losses.num_bytes, *(losses.nats[name] / np.log(2) for name in names)]
    sums = np.stack(
        [np.stack([losses.summed(np.where(rows, kind, 0)) for rows in inside], 1) for kind in kinds], 1
    )  # (D, 1 + readings, α)
    flat = sums.reshape(len(sums), -1)
    draws = None
    if len(sums) > 1:
        draws = resampled_totals(flat, seed).reshape(-1, *sums.shape[1:])
    bpb, drawn = _curves(sums.sum(axis=0)), None if draws is None else _curves(draws)
    points = [
        LeakagePoint(
            alpha=float(alpha),
            chunks=int((rows & first_of_chunk).sum()),
            bytes=int(losses.num_bytes[rows].sum()),
            bpb={name: _number(bpb[row, place]) for row, name in enumerate(names)},
            ci95={
                name: None if drawn is None or not rows.any() else interval(drawn[:, row, place])
                for row, name in enumerate(names)
            },
        )
        for place, (alpha, rows) in enumerate(zip(alphas, inside, strict=True))
    ]
    filled = np.array([bool(point.bytes) for point in points])
    slopes = {}
    if filled.sum() > 1:
        whole = slope(np.array(alphas)[filled], bpb[:, filled])
        each = None if drawn is None else slope(np.array(alphas)[filled], drawn[..., filled])
        slopes = {
            name: Estimate(float(whole[row]), None if each is None else interval(each[:, row]))
            for row, name in enumerate(names)
        }
        if {"on", "off"} <= set(names):
            on, off = names.index("on"), names.index("off")
            apart = None if each is None else interval(each[:, on] - each[:, off])
            slopes["on-off"] = Estimate(float(whole[on] - whole[off]), apart)
    return Leakage(num_neighbours, points, slopes)


def slope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x (a,), y (..., a) -> (...): of the straight line through the points, by least squares."""
    from_mean = x - x.mean()
    return (y * from_mean).sum(axis=-1) / (from_mean**2).sum()


def _curves(totals: np.ndarray) -> np.ndarray:
    """totals (..., 1 + readings, α), bytes first -> bits per byte (..., readings, α)"""
    with np.errstate(divide="ignore", invalid="ignore"):
        return totals[..., 1:, :] / totals[..., :1, :]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
