"""Intervals cover what they should, and correlations and bins are what they are called."""

import numpy as np
import pytest

from retro_core.evaluation.statistics import (
    binned,
    bootstrap,
    interval,
    pearson,
    ratio_of_sums,
    resampled_totals,
    spearman,
)


def test_draws_are_of_whole_documents():
    sums = np.array([[1.0, 10.0], [2.0, 100.0], [4.0, 1000.0]])
    totals = resampled_totals(sums, seed=3, resamples=500)
    # Of three documents drawn with replacement there are ten possible sums; both columns are of one draw.
    possible = {(a[0] + b[0] + c[0], a[1] + b[1] + c[1]) for a in sums for b in sums for c in sums}
    assert {tuple(total) for total in totals.tolist()} == possible
    assert np.array_equal(totals, resampled_totals(sums, seed=3, resamples=500))
    assert not np.array_equal(totals, resampled_totals(sums, seed=4, resamples=500))
    assert totals.mean(axis=0) == pytest.approx(sums.sum(axis=0), rel=0.1)


def test_a_ratio_is_one_of_sums_and_one_document_has_no_interval():
    found = ratio_of_sums(np.array([3.0, 30.0]), np.array([1.0, 20.0]))
    assert found.value == 33 / 21 and found.ci95 == pytest.approx((1.5, 3.0))
    assert ratio_of_sums(np.array([3.0]), np.array([2.0])).ci95 is None
    # Nothing drawn to divide by: such draws do not count.
    partly = ratio_of_sums(np.array([0.0, 2.0]), np.array([0.0, 1.0]))
    assert partly.ci95 == (2.0, 2.0) and interval(np.array([np.nan, np.inf])) is None


def test_intervals_hold_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(11)
    covered, tries, documents = 0, 300, 60
    for number in range(tries):
        tokens = rng.integers(20, 200, documents)
        # Documents differ, tokens within one are alike: what resampling tokens would take for precision.
        means = 2.0 + 0.5 * rng.standard_normal(documents)
        found = ratio_of_sums(means * tokens, tokens.astype(float), seed=number, resamples=400)
        covered += found.ci95[0] <= 2.0 <= found.ci95[1]
    assert 0.90 < covered / tries < 0.98


def test_any_number_of_the_totals_has_an_interval():
    sums = np.random.default_rng(2).random((40, 2)) + 1
    found = bootstrap(sums, lambda totals: np.exp(totals[..., 0] / totals[..., 1]))
    plain = ratio_of_sums(sums[:, 0], sums[:, 1])
    assert found.value == pytest.approx(np.exp(plain.value))
    assert found.ci95 == pytest.approx(tuple(np.exp(plain.ci95)), rel=1e-3)


def test_rank_correlation_against_the_definition():
    rng = np.random.default_rng(7)
    for _ in range(20):
        x, y = rng.integers(0, 6, 30), rng.integers(0, 6, 30)
        ranks = [
            [(values < one).sum() + ((values == one).sum() + 1) / 2 for one in values] for values in (x, y)
        ]
        a, b = (np.array(r) - np.mean(r) for r in ranks)
        assert spearman(x, y) == pytest.approx((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))
    assert spearman(np.array([1, 2, 30]), np.array([5, 6, 7])) == pytest.approx(1)
    assert pearson(np.array([1, 2, 3]), np.array([5, 3, 1])) == pytest.approx(-1)
    assert (
        spearman(np.array([1, 2]), np.array([4, 4])) is None and pearson(np.array([1]), np.array([1])) is None
    )


def test_bins_hold_weighted_means():
    x, y = np.array([0.0, 0.1, 0.5, 1.0, 0.4]), np.array([1.0, 3.0, 6.0, 10.0, 2.0])
    weights, documents = np.array([1, 1, 2, 5, 1]), np.array([7, 7, 9, 9, 7])
    low, middle, high = binned(x, y, weights, documents, [0, 0.2, 0.45, 1])
    assert (low.items, low.weight, low.x, low.mean) == (2, 2, 0.05, 2.0)
    assert (middle.items, middle.mean) == (1, 2.0)
    assert (high.items, high.weight, high.mean) == (2, 7, 16 / 7), "the last bin has its upper edge"
    assert low.ci95 == (2.0, 2.0), "one document alone has tokens there"
    (empty,) = binned(x, y, weights, documents, [2, 3])
    assert (empty.items, empty.mean, empty.ci95) == (0, None, None)
