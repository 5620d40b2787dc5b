"""How much to trust each of several predictions, chosen on other documents than it is reported on.

What is mixed is the probability that each prediction gave to the token that came, so a whole vocabulary is
never held. Documents are dealt into two halves; what is fitted on one half is used on the other, both ways,
so that every document is scored and none by what was fitted to it.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from indexing.errors import InputError

_ROUNDS = 500
_SETTLED = 1e-7  # nats a token that another round would still gain


def halves(documents: Sequence[int], seed: int = 0) -> tuple[frozenset[int], frozenset[int]]:
    """The documents dealt into two halves at random. Raises InputError if there are fewer than two."""
    known = sorted(set(documents))
    if len(known) < 2:
        raise InputError(
            f"Weights are chosen on one half of the documents and reported on the other, but there is "
            f"{len(known)}. Give two documents or more."
        )
    order = np.random.default_rng(seed).permutation(known).tolist()
    middle = len(known) // 2
    return frozenset(order[:middle]), frozenset(order[middle:])


def mixture_weights(probabilities: np.ndarray, rounds: int = _ROUNDS) -> np.ndarray:
    """(n, c): what c predictions gave to each of n tokens -> (c,) weights, summing to 1, under which the
    mixed prediction gives these tokens the highest likelihood; by expectation maximisation, which finds the
    only maximum there is.

    The first prediction must be above 0 everywhere. It is given one token more than it earned, so its weight
    is never 0 and the mixed prediction never impossible; without tokens it has all the weight.
    """
    count, width = probabilities.shape
    weights = np.full(width, 1 / width)
    if count == 0:
        return np.eye(width)[0]
    before = -np.inf
    for _ in range(rounds):
        shares = probabilities * weights
        mixed = shares.sum(axis=1, keepdims=True)
        earned = (shares / mixed).sum(axis=0)
        earned[0] += 1
        weights = earned / (count + 1)
        likelihood = float(np.log(mixed).mean())
        if likelihood - before < _SETTLED:
            break
        before = likelihood
    return weights


def crosswise(
    documents: np.ndarray,
    fit: Callable[[np.ndarray], object],
    use: Callable[[object, np.ndarray], np.ndarray],
    seed: int = 0,
) -> tuple[np.ndarray, list]:
    """(n,) documents of n tokens -> (n,) nats, of each half's tokens with what was fitted on the other, and
    the two fits, the one used for the first half first.

    fit  rows (r,) int of the tokens to look at -> anything
    use  that, rows -> nats of these tokens (r,)
    """
    nats, fits = np.full(len(documents), np.nan), []
    for reported, looked_at in _both_ways(documents, seed):
        fits.append(fit(looked_at))
        nats[reported] = use(fits[-1], reported)
    return nats, fits


def _both_ways(documents: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    first, second = (np.isin(documents, list(half)) for half in halves(documents.tolist(), seed))
    yield np.flatnonzero(first), np.flatnonzero(second)
    yield np.flatnonzero(second), np.flatnonzero(first)
