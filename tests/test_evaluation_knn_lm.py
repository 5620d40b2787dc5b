"""kNN-LM looks up what followed similar states, as plain loops do, and never what comes later."""

import numpy as np
import pytest
import torch
from small_probe import VOCABULARY, last_of, probe_of, searchable_of, texts
from tiny_models import tiny_model

from indexing.errors import InputError
from retro_core.evaluation.knn_lm import (
    build_store,
    drawn_documents,
    knn_losses,
    knn_probabilities,
    last_states,
    look_up,
)
from retro_core.evaluation.mixing import halves

WINDOW, NEAREST, TEMPERATURE = 9, 5, 3.7


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def searchable():
    return searchable_of(texts(7, (23, 4, 11, 1, 29)))


def in_order(model, probe, store, neighbours=NEAREST):
    """distances and hits of all scored tokens, (document, token) -> rows"""
    found = {}
    for one in look_up(model, probe, store, neighbours):
        for row, token in enumerate(one.window.scored):
            found[one.window.document, token] = one.distances[row], one.hits[row]
    assert (one.done, one.total) == (probe.num_tokens, probe.num_tokens)
    return found


@torch.no_grad()
def test_probabilities_are_those_of_plain_loops_and_sum_to_one(model, searchable):
    keys, values, owners = [], [], []
    for number in range(5):
        text = searchable.document_tokens(number)
        for start in range(0, len(text), WINDOW):
            piece = text[start : start + WINDOW]
            states = last_states(model, [piece])[0].astype(np.float16).astype(np.float64)
            for place in range(len(piece) - 1):
                keys.append(states[place]), values.append(piece[place + 1]), owners.append(number)
    probe = probe_of(texts(3), own=(-1, 4, -1, -1, 0))
    store = last_of(build_store(model, searchable, WINDOW))
    assert store.facts.tokens == len(keys) and store.facts.documents == 5 and store.facts.share == 1
    found = in_order(model, probe, store)
    for window in probe.windows:
        text = probe.tokens(window.document)
        states = last_states(model, [text[window.start : window.stop]])[0].astype(np.float64)
        for token in window.scored:
            state, everybody = states[token - 1 - window.start], []
            for key, value, owner in zip(keys, values, owners, strict=True):
                if owner != probe.documents[window.document].own:
                    everybody.append((((state - key) ** 2).sum(), value))
            nearest = sorted(everybody)[:NEAREST]
            shares = np.exp([-(distance - nearest[0][0]) / TEMPERATURE for distance, _ in nearest])
            predicted = np.zeros(VOCABULARY)
            for share, (_, value) in zip(shares / shares.sum(), nearest, strict=True):
                predicted[value] += share
            assert predicted.sum() == pytest.approx(1)
            distances, hits = found[window.document, token]
            assert np.allclose(distances, [distance for distance, _ in nearest], rtol=1e-3, atol=1e-3)
            mine = knn_probabilities(distances[None], hits[None], TEMPERATURE)[0]
            assert mine == pytest.approx(predicted[text[token]], abs=1e-3)


def test_later_tokens_change_nothing_before_them(model, searchable):
    store, some = last_of(build_store(model, searchable, WINDOW)), texts(3)
    before = in_order(model, probe_of(some), store)
    for position in (1, 5, 12):
        later = [np.concatenate([text[:position], VOCABULARY - text[position:]]) for text in some]
        after = in_order(model, probe_of(later), store)
        changed = 0
        for (document, token), (distances, hits) in after.items():
            if token < position:
                assert np.allclose(distances, before[document, token][0], rtol=1e-4)
                assert np.array_equal(hits, before[document, token][1])
            changed += not np.allclose(distances, before[document, token][0], rtol=1e-4)
        assert changed


def test_a_budget_holds_whole_documents_and_a_larger_one_the_same(model, searchable):
    sizes = [len(searchable.document_tokens(number)) for number in range(5)]
    held = [set(drawn_documents(searchable, budget, seed=2)) for budget in (30, 45, 68)]
    assert all(sum(sizes[n] for n in some) <= b for some, b in zip(held, (30, 45, 68), strict=True))
    assert held[0] < held[2] == set(range(5)) and held[0] <= held[1] <= held[2]
    store = last_of(build_store(model, searchable, WINDOW, budget=45, seed=2))
    assert set(store.documents.tolist()) | {3} >= held[1] and store.facts.documents == len(held[1])
    chunks = [-(-size // 3) for size in sizes]
    assert store.facts.share == pytest.approx(sum(chunks[n] for n in held[1]) / sum(chunks))
    assert store.facts.bytes == store.facts.tokens * (2 * store.facts.dim + 4 + 4)
    with pytest.raises(InputError, match="does not hold the first document drawn"):
        drawn_documents(searchable, 0)


def test_weight_and_temperature_are_chosen_on_the_other_half_and_well():
    rng = np.random.default_rng(8)
    documents = np.repeat(np.arange(9), 31)
    distances = np.sort(rng.random((279, 7)).astype(np.float32) * 20, axis=1)
    hits = rng.random((279, 7)) < np.exp(-distances / 3)  # the nearer, the more often right
    distances[0], hits[0] = np.inf, False  # nothing found
    off = rng.random(279) * 4 + 1
    nats, chosen = knn_losses(off, distances, hits, documents, seed=5)
    assert nats.mean() < off.mean() - 0.2 and nats[0] == pytest.approx(off[0])
    one, other = (np.isin(documents, list(half)) for half in halves(documents.tolist(), seed=5))
    knn = knn_probabilities(distances[one], hits[one], chosen[0].temperature)
    mixed = (1 - chosen[0].weight) * np.exp(-off[one]) + chosen[0].weight * knn
    assert np.allclose(nats[one][1:], -np.log(mixed)[1:])
    for weight in np.linspace(
        0.05, 0.95, 19
    ):  # no weight with this temperature is better where it was chosen
        knn = knn_probabilities(distances[other], hits[other], chosen[0].temperature)

        def cost(weight, knn=knn):
            return -np.log((1 - weight) * np.exp(-off[other]) + weight * knn).mean()

        assert cost(chosen[0].weight) < cost(weight) + 1e-3
    changed = knn_losses(np.where(one, 0.1, off), distances, hits, documents, seed=5)[1]
    assert changed[0] == chosen[0] and changed[1] != chosen[1]
