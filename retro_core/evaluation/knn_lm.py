"""kNN-LM (Khandelwal et al. 2020, arXiv 1911.00172) on the same datastore: the plain language model's
next-token probabilities mixed with those of the tokens that followed the most similar states.

    keys      Retro[Off]'s last hidden state, after the final norm (what the output layer reads), at each
              token of the datastore, in 16 bits; the paper takes the input of the last feed-forward layer
    values    the token that follows
    p_kNN(w)  shares exp(-d² / T) of the k nearest keys to the text's own state, d their squared-L2 distance,
              summed over those whose value is w
    p         λ p_kNN + (1 - λ) p_Off

λ and T are chosen on one half of the documents and used on the other. A key for each token takes a hundred
times the memory of a chunk's embedding, so the store has a budget in tokens; where the datastore has more,
it holds whole documents drawn at random, and says what share of the datastore that is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from indexing.errors import InputError
from indexing.index import FlatIndex
from indexing.neighbours import NO_CHUNK
from retro_core.evaluation.held_out import HeldOut, Window
from retro_core.evaluation.losses import TOKENS_AT_ONCE, in_batches
from retro_core.evaluation.mixing import crosswise, mixture_weights
from retro_core.evaluation.searching import Searchable
from retro_core.model import Capture, Retro

BUDGET = 500_000  # tokens
NEIGHBOURS = 64
TEMPERATURES = tuple(2.0**power for power in range(-6, 4))  # of the mean distance to the k-th key


@dataclass(frozen=True)
class Stored:
    """`done` of `total` tokens of the datastore have their keys."""

    done: int
    total: int


@dataclass(frozen=True)
class StoreFacts:
    """Which tokens have keys: so many of so many documents, and their share of the datastore's chunks; dim
    of a key; bytes that keys (float16), values and document numbers take in memory."""

    tokens: int
    documents: int
    of_documents: int
    share: float
    dim: int
    bytes: int


@dataclass(frozen=True)
class KnnWeights:
    """λ, the weight of p_kNN, and the temperature T, chosen by `tokens` tokens."""

    weight: float
    temperature: float
    tokens: int


@dataclass(frozen=True)
class LookedUp:
    """What a window's scored tokens found, see `look_up`: distances (t, k) and hits (t, k); `done` of
    `total` scored tokens of the probe have looked."""

    window: Window
    distances: np.ndarray
    hits: np.ndarray
    done: int
    total: int


@dataclass(frozen=True)
class KeyStore:
    """keys (N, d) float16 · values (N,) · documents (N,), the datastore's numbers"""

    keys: np.ndarray
    values: np.ndarray
    documents: np.ndarray
    facts: StoreFacts


def drawn_documents(searchable: Searchable, budget: int, seed: int = 0) -> dict[int, np.ndarray]:
    """Number -> tokens (n,) of the documents, in a random order of `seed`, until the next one would not fit
    into a budget of tokens; a larger budget adds documents and removes none.

    Raises InputError if not even the first fits.
    """
    drawn: dict[int, np.ndarray] = {}
    left = budget
    for number in np.random.default_rng(seed).permutation(searchable.living()).tolist():
        tokens = searchable.document_tokens(number)
        left -= len(tokens)
        if left < 0:
            break
        drawn[number] = tokens
    if not drawn:
        raise InputError(
            f"A budget of {budget:,} tokens does not hold the first document drawn from the datastore, which "
            f"has {budget - left:,}. Allow more tokens."
        )
    return drawn


def build_store(
    model: Retro, searchable: Searchable, window: int, budget: int = BUDGET, seed: int = 0
) -> Iterator[Stored]:
    """Keys of the documents that fit, read `window` tokens at a time; the generator returns the `KeyStore`.

    Raises InputError if no document fits, or if the states do not fit into 16 bits.
    """
    drawn = drawn_documents(searchable, budget, seed)
    pieces = [
        (number, tokens[start : start + window])
        for number, tokens in sorted(drawn.items())
        for start in range(0, len(tokens), window)
    ]
    # The first token of a window follows nothing, so it is nobody's value.
    pieces = sorted((piece for piece in pieces if len(piece[1]) > 1), key=lambda piece: len(piece[1]))
    total = sum(len(piece) - 1 for _, piece in pieces)
    keys = np.empty((total, model.config.dec_hidden_dim), dtype=np.float16)
    values, owners = np.empty(total, dtype=np.int32), np.empty(total, dtype=np.int32)
    done = 0
    for some in in_batches(pieces, [len(piece) for _, piece in pieces], TOKENS_AT_ONCE):
        states = last_states(model, [piece for _, piece in some])
        for (number, piece), state in zip(some, states, strict=True):
            rows = slice(done, done + len(piece) - 1)
            keys[rows], values[rows], owners[rows] = state[:-1], piece[1:], number
            done = rows.stop
        yield Stored(done, total)
    if not np.isfinite(keys).all():
        raise InputError(
            "The model's last hidden states are too large for 16 bits, so kNN-LM cannot keep them. Leave "
            "this comparison out for this model."
        )
    living = searchable.documents[searchable.allowed]
    facts = StoreFacts(
        tokens=total,
        documents=len(drawn),
        of_documents=len(searchable.living()),
        share=float(np.isin(living, list(drawn)).mean()),
        dim=keys.shape[1],
        bytes=keys.nbytes + values.nbytes + owners.nbytes,
    )
    return KeyStore(keys, values, owners, facts)


@torch.inference_mode()
def last_states(model: Retro, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Texts, each (n,) tokens -> of each the last hidden states (n, d) float32 of Retro[Off], after the final
    norm."""
    pad, longest = model.config.pad_token_idx, max(map(len, texts))
    ids = torch.full((len(texts), longest), pad, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.from_numpy(np.asarray(text, dtype=np.int64))
    out = model(ids.to(model.device), capture=Capture(hidden_states=True), logits_to_keep=None)
    states = out.final_hidden.float().cpu().numpy()
    return [states[row, : len(text)] for row, text in enumerate(texts)]


def look_up(
    model: Retro, held_out: HeldOut, store: KeyStore, num_neighbours: int = NEIGHBOURS
) -> Iterator[LookedUp]:
    """For every scored token of every window the squared distances of the nearest keys to the state before
    it, inf where there are fewer, and whether each one's value is that token. A document that is itself in
    the store finds nothing of itself."""
    index = FlatIndex(store.keys, store.documents)
    order = sorted(held_out.windows, key=lambda window: window.stop - window.start)
    done = 0
    for some in in_batches(order, [window.stop - window.start for window in order], TOKENS_AT_ONCE):
        texts = [held_out.tokens(window.document) for window in some]
        states = last_states(model, [t[w.start : w.stop] for t, w in zip(texts, some, strict=True)])
        asking, owners = [], []
        for window, state in zip(some, states, strict=True):
            asking.append(state[window.first - 1 - window.start : window.last - window.start])
            owners.append(np.full(len(window.scored), held_out.documents[window.document].own))
        ids, distances = index.search(np.concatenate(asking), num_neighbours, np.concatenate(owners))
        start = 0
        for window, text in zip(some, texts, strict=True):
            rows = slice(start, start + len(window.scored))
            came = text[window.first : window.last + 1, None]
            hits = (store.values[ids[rows]] == came) & (ids[rows] != NO_CHUNK)
            start, done = rows.stop, done + len(window.scored)
            yield LookedUp(window, distances[rows], hits, done, held_out.num_tokens)


def knn_probabilities(distances: np.ndarray, hits: np.ndarray, temperature: float) -> np.ndarray:
    """distances (n, k) and hits (n, k), see `look_up` -> (n,) p_kNN of the tokens that came; 0 where no key
    was found."""
    nearest = distances.min(axis=1, keepdims=True)
    found = np.isfinite(distances)
    away = np.where(found, distances, 0) - np.where(np.isfinite(nearest), nearest, 0)
    weights = np.where(found, np.exp(-away.astype(np.float64) / temperature), 0)
    total = weights.sum(axis=1)
    return np.divide((weights * hits).sum(axis=1), total, out=np.zeros(len(total)), where=total > 0)


def knn_losses(
    off: np.ndarray, distances: np.ndarray, hits: np.ndarray, documents: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, list[KnnWeights]]:
    """Nats of Off (n,) and `look_up` of n tokens of several documents (n,) -> nats (n,) of the mixture, and
    what was chosen for either half."""
    plain = np.exp(-off.astype(np.float64))
    found = np.isfinite(distances).any(axis=1)

    def mixed(rows: np.ndarray, chosen: KnnWeights) -> np.ndarray:
        knn = knn_probabilities(distances[rows], hits[rows], chosen.temperature)
        # Where nothing was found there is nothing to mix with.
        weight = np.where(found[rows], chosen.weight, 0)
        return -np.log((1 - weight) * plain[rows] + weight * knn)

    def fit(rows: np.ndarray) -> KnnWeights:
        rows = rows[found[rows]]
        if not len(rows):
            return KnnWeights(0.0, 1.0, 0)
        furthest = np.where(np.isfinite(distances[rows]), distances[rows], -1).max(axis=1)
        unit = max(float(furthest.mean()), 1e-6)
        options = []
        for share in TEMPERATURES:
            knn = knn_probabilities(distances[rows], hits[rows], share * unit)
            weights = mixture_weights(np.column_stack([plain[rows], knn]))
            options.append(KnnWeights(float(weights[1]), share * unit, len(rows)))
        return min(options, key=lambda option: mixed(rows, option).mean())

    return crosswise(documents, fit, lambda chosen, rows: mixed(rows, chosen), seed)
