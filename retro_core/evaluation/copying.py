"""How much of the gain is plain copying? Off's probabilities mixed with what stands in the neighbours after
the longest run of tokens that the text ends with, found by comparing tokens, without any neural reading.

For the token to come and each order o, the last o tokens of the text are looked for in the neighbours that
Retro[On] would read there. What follows them at those places, N and F as one text, is a prediction: the
share of the places that are followed by the token. Order 0 is a cache of single words: all places. The
prediction is a mixture of Off's and of those of all orders that are found, with weights for each longest
order found (interpolation as in Jelinek & Mercer 1980; a cache model as in Grave, Joulin & Usunier 2017,
arXiv 1612.04426, over retrieved text), fitted on one half of the documents and used on the other.
"""

from dataclasses import dataclass

import numpy as np

from retro_core.evaluation.mixing import crosswise, mixture_weights

ORDERS = (0, 1, 2, 3, 4, 6, 8, 12, 16)  # tokens of the text that are looked for


@dataclass(frozen=True)
class CopyWeights:
    """orders: tokens that were looked for · `weights[g]` are those of Off and of the first g orders, where
    so many were found; `tokens[g]` were looked at to choose them."""

    orders: tuple[int, ...]
    weights: list[list[float]]
    tokens: list[int]


def copied_shares(
    text: np.ndarray, neighbours: np.ndarray, chunk_size: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """text (n,), what its chunks read (l, k, r) -> for each of its tokens the share (n, orders) of the
    places found that are followed by this token, and how many orders were found (n,), 0 to len(ORDERS).

    The tokens of chunk u + 1 are looked for in the neighbours of chunk u, those of the first chunk nowhere. A
    token's own row depends on the tokens before it, and on itself as the one that is predicted.
    """
    n, m = len(text), chunk_size
    shares, found = np.zeros((n, len(ORDERS))), np.zeros(n, dtype=np.int64)
    for chunk in range(1, -(-n // m)):
        start, stop = chunk * m, min(n, (chunk + 1) * m)
        followers = neighbours[chunk - 1]
        runs = _runs(text, start, stop, followers, pad_id)
        hits = followers == text[start:stop, None, None]
        for place, order in enumerate(ORDERS):
            here = (runs >= order) & (followers != pad_id)
            places = here.sum(axis=(1, 2))
            found[start:stop] += places > 0
            shares[start:stop, place] = (here & hits).sum(axis=(1, 2)) / np.maximum(places, 1)
    return shares, found


def _runs(text: np.ndarray, start: int, stop: int, neighbours: np.ndarray, pad_id: int) -> np.ndarray:
    """(stop - start, k, r): for each of the tokens start ... stop - 1 and each place of the neighbours (k,
    r), how many tokens before the one are the same as before the other, up to the largest order."""
    longest = max(ORDERS)
    runs = np.zeros((stop - start, *neighbours.shape), dtype=np.int16)
    current = np.zeros(neighbours.shape, dtype=np.int16)
    for position in range(max(0, start - longest), stop):
        if position >= start:
            runs[position - start] = current
        grown = np.zeros_like(current)
        same = (neighbours[:, :-1] == text[position]) & (neighbours[:, :-1] != pad_id)
        grown[:, 1:] = np.where(same, np.minimum(current[:, :-1] + 1, longest), 0)
        current = grown
    return runs


def copy_losses(
    off: np.ndarray, shares: np.ndarray, found: np.ndarray, documents: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, list[CopyWeights]]:
    """Nats of Off (n,) and `copied_shares` of n tokens of several documents (n,) -> nats (n,) of the
    mixture, and the weights used for either half."""
    predictions = np.concatenate([np.exp(-off.astype(np.float64))[:, None], shares], axis=1)

    def fit(rows: np.ndarray) -> CopyWeights:
        weights, tokens = [], []
        for group in range(len(ORDERS) + 1):
            mine = rows[found[rows] == group]
            weights.append(mixture_weights(predictions[mine, : group + 1]).tolist())
            tokens.append(len(mine))
        return CopyWeights(ORDERS, weights, tokens)

    def use(fitted: CopyWeights, rows: np.ndarray) -> np.ndarray:
        table = np.zeros((len(ORDERS) + 1, len(ORDERS) + 1))
        for group, weights in enumerate(fitted.weights):
            table[group, : group + 1] = weights
        return -np.log((predictions[rows] * table[found[rows]]).sum(axis=1))

    return crosswise(documents, fit, use, seed)
