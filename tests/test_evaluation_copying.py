"""The copy baseline counts what follows the same words in the neighbours, and learns its weights
elsewhere."""

import itertools

import numpy as np
import pytest
from tiny_models import M

from indexing.errors import InputError
from retro_core.evaluation.copying import ORDERS, copied_shares, copy_losses
from retro_core.evaluation.mixing import halves, mixture_weights

N, K, WORDS = 17, 2, 4  # few words, so that long runs are found


def example(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    text = rng.integers(1, WORDS, N)
    neighbours = rng.integers(1, WORDS, (-(-N // M), K, 2 * M))
    neighbours[1, 0, 4:] = 0  # the end of a document
    neighbours[3, 1] = 0  # missing
    neighbours[4] = 0
    return text, neighbours


def counted(text, neighbours, position: int, token: int, order: int) -> tuple[int, int]:
    """(places after the last `order` tokens of the text, those of them that are followed by the token)"""
    if position < M:
        return 0, 0
    ending = text[position - order : position].tolist() if order <= position else None
    places = hits = 0
    for one in neighbours[position // M - 1]:
        for place in range(len(one)):
            before = one[max(0, place - order) : place].tolist()
            if one[place] != 0 and before == ending and 0 not in before:
                places += 1
                hits += one[place] == token
    return places, hits


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_counted_at_every_place(seed):
    text, neighbours = example(seed)
    shares, found = copied_shares(text, neighbours, M, 0)
    longest = 0
    for position, (column, order) in itertools.product(range(N), enumerate(ORDERS)):
        places, hits = counted(text, neighbours, position, text[position], order)
        assert shares[position, column] == pytest.approx(hits / places if places else 0)
        assert (found[position] > column) == (places > 0)
        longest = max(longest, order if places else 0)
    assert longest > 2


def test_shares_of_all_words_sum_to_one_where_an_order_is_found():
    text, neighbours = example(1)
    for position in range(M, N):
        every = []
        for token in range(WORDS):
            changed = text.copy()
            changed[position] = token
            shares, found = copied_shares(changed, neighbours, M, 0)
            every.append(shares[position])
        there = np.arange(len(ORDERS)) < found[position]
        assert np.allclose(np.sum(every, axis=0), there)


def test_later_tokens_and_neighbours_change_nothing_before_them():
    text, neighbours = example(2)
    before, differs = copied_shares(text, neighbours, M, 0), 0
    for position in range(1, N):
        later, read = text.copy(), neighbours.copy()
        later[position:] = text[position:] % (WORDS - 1) + 1  # another one
        read[position // M :] = 1  # of the chunk that the token is in, and of later ones
        shares, found = copied_shares(later, read, M, 0)
        assert np.array_equal(shares[:position], before[0][:position])
        assert np.array_equal(found[: position + 1], before[1][: position + 1]), "known before the token is"
        differs += not np.array_equal(shares, before[0])
    assert differs > 5


def test_a_copied_text_costs_next_to_nothing_and_a_strange_one_what_off_costs():
    rng = np.random.default_rng(3)
    documents, shares, found = [], [], []
    for document in range(6):
        text = rng.permutation(200)[: 40 * M] + 1
        chunks = text.reshape(-1, M)
        copy = np.concatenate([chunks, np.roll(chunks, -1, axis=0)], axis=1)[:, None]
        read = copy if document % 2 else copy + 1000
        some = copied_shares(text, read, M, 0)
        shares.append(some[0]), found.append(some[1]), documents.append(np.full(len(text), document))
    documents, shares, found = map(np.concatenate, (documents, shares, found))
    off = np.full(len(documents), 5.0)
    nats, weights = copy_losses(off, shares, found, documents)
    copied = (documents % 2 == 1) & (np.arange(len(documents)) % len(text) >= M)
    assert nats[copied].mean() < 0.2 and nats[~copied].mean() < 5.2
    assert weights[0].weights[0] == [1.0], "where nothing is found there is only Off"


def test_weights_are_chosen_on_other_documents_than_they_are_used_for():
    rng = np.random.default_rng(4)
    documents = np.repeat(np.arange(7), 11)
    shares, found = rng.random((77, len(ORDERS))), rng.integers(0, len(ORDERS) + 1, 77)
    off = rng.random(77) * 3
    nats, weights = copy_losses(off, shares, found, documents, seed=5)
    one, other = (np.isin(documents, list(half)) for half in halves(documents.tolist(), seed=5))
    assert (one ^ other).all() and one.any() and other.any()
    changed = np.where(one, 0.1, off)  # Off is far better there
    after, others = copy_losses(changed, shares, found, documents, seed=5)
    assert weights[0] == others[0] and weights[1] != others[1]
    assert not np.array_equal(nats[other], after[other])
    assert np.isfinite(nats).all()
    with pytest.raises(InputError, match="chosen on one half of the documents"):
        copy_losses(off, shares, found, np.zeros(77, dtype=int))


def test_mixture_weights_are_the_best_there_are():
    rng = np.random.default_rng(6)
    for _ in range(3):
        probabilities = rng.random((53, 3)) ** 3
        probabilities[:, 0] += 0.01

        # What the one token more that the first one is given comes to.
        def likelihood(weights, given=probabilities):
            return np.log(given @ weights).sum() + np.log(weights[0])

        found = mixture_weights(probabilities)
        steps = np.linspace(0.001, 0.999, 99)
        grid = max(likelihood(np.array([a, b, 1 - a - b])) for a in steps for b in steps if a + b < 1)
        assert found.sum() == pytest.approx(1) and likelihood(found) > grid - 0.01
    assert mixture_weights(np.zeros((0, 3))).tolist() == [1, 0, 0]
