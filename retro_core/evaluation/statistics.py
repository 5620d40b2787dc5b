"""How sure is a number? Bootstrap over documents, rank correlation, means in bins.

Tokens of one document are not independent, so what is drawn again and again is whole documents: the sums of
as many documents as there are, drawn with replacement, and the number made of these sums. 2.5 % of the 2,000
numbers lie below the interval and 2.5 % above it. All functions are pure, and the same seed gives the same
intervals.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
_DRAWN_AT_ONCE = 1 << 22  # numbers of documents held at once

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; the interval is None where nothing can be drawn: fewer than two
    documents."""

    value: float
    ci95: Interval | None


@dataclass(frozen=True)
class Bin:
    """Items with low <= x < high (the last bin: <= high). items: how many · weight: sum of their weights,
    tokens for instance · mean: of y, by weight; with its interval, both None in an empty bin · x: mean x"""

    low: float
    high: float
    items: int
    weight: float
    x: float | None
    mean: float | None
    ci95: Interval | None


def resampled_totals(sums: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """sums (D, c), what each of D documents adds to each of c sums -> (resamples, c) float64: the sums over D
    documents drawn with replacement. The documents drawn depend on D and `seed` alone, so that numbers made
    of two calls may be compared draw by draw."""
    sums = np.asarray(sums, dtype=np.float64)
    count = len(sums)
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWN_AT_ONCE // max(count, 1))
    parts = []
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = rng.integers(0, count, (rows, count)) + np.arange(rows)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        parts.append(times @ sums)
    return np.concatenate(parts)


def bootstrap(
    sums: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """sums (D, c) of D documents; statistic: totals (..., c) -> (...), the number of interest.

    Draws for which the number is not finite (nothing of what it is about was drawn) are left out.
    """
    sums = np.asarray(sums, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(sums.sum(axis=0)))
        if len(sums) < 2:
            return Estimate(value, None)
        draws = np.asarray(statistic(resampled_totals(sums, seed, resamples)))
    return Estimate(value, interval(draws))


def interval(draws: np.ndarray) -> Interval | None:
    """The middle 95 % of the finite ones among some numbers (R,); None if there is none."""
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return None
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def ratio_of_sums(
    numerators: np.ndarray, denominators: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Of each document (D,) and (D,): sum of the ones over sum of the others, nats over tokens for instance,
    so that a long document counts for more than a short one."""
    sums = np.column_stack([numerators, denominators])
    return bootstrap(sums, lambda totals: totals[..., 0] / totals[..., 1], seed, resamples)


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Rank correlation of (n,) and (n,), equal values sharing their mean rank; None if either does not
    vary."""
    from scipy.stats import rankdata

    return pearson(rankdata(x), rankdata(y)) if len(x) > 1 else None


def pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    """Linear correlation of (n,) and (n,); None if either does not vary."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))


def binned(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    documents: np.ndarray,
    edges: Sequence[float],
    seed: int = 0,
) -> list[Bin]:
    """Means of y in bins of x, with intervals by document.

    x, y (n,), y summed over an item's tokens · weights (n,): the item's tokens · documents (n,): whose item
    it is · edges: ascending, one more than there are bins; what lies outside is in none
    """
    x, y, weights = (np.asarray(values, dtype=np.float64) for values in (x, y, weights))
    names, place = np.unique(documents, return_inverse=True)
    found = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (x >= low) & ((x <= high) if high == edges[-1] else (x < high))
        if not inside.any() or not weights[inside].sum():
            found.append(Bin(float(low), float(high), int(inside.sum()), 0.0, None, None, None))
            continue
        sums = np.zeros((len(names), 2))
        np.add.at(sums, place[inside], np.column_stack([y[inside], weights[inside]]))
        estimate = ratio_of_sums(sums[:, 0], sums[:, 1], seed)
        mean_x = float(np.average(x[inside], weights=weights[inside]))
        items, weight = int(inside.sum()), float(weights[inside].sum())
        found.append(Bin(float(low), float(high), items, weight, mean_x, estimate.value, estimate.ci95))
    return found
