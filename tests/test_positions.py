"""Buckets of the relative position bias, against formulas written as loops over single distances.

The reference's own bucket numbers are compared in test_verify_reference.py.
"""

import math

import pytest
import torch

from retro_core.model import linear_buckets, log_linear_buckets, lowest_of_range

DISTANCES = range(-300, 301)


def ask(function, *arguments) -> list[int]:
    return function(torch.tensor(list(DISTANCES)), *arguments).tolist()


@pytest.mark.parametrize("buckets", [1, 2, 3, 7, 8, 192, 2048])
def test_linear_buckets_cover_the_left_half_and_the_right_half_or_all_of_the_left(buckets):
    both = ask(linear_buckets, buckets, lowest_of_range(buckets, bidirectional=True))
    # Even tables have one row more on the right: 192 covers -95 ... 96.
    own = [d for d in DISTANCES if -((buckets - 1) // 2) <= d <= buckets // 2]
    assert len(own) == min(buckets, len(DISTANCES))
    for distance, bucket in zip(DISTANCES, both, strict=True):
        nearest = min(max(distance, own[0]), own[-1])
        assert bucket == (buckets - 1) // 2 + nearest
    left = ask(linear_buckets, buckets, lowest_of_range(buckets, bidirectional=False))
    assert left == [buckets - 1 + max(min(distance, 0), 1 - buckets) for distance in DISTANCES]


def t5_bucket(distance: int, buckets: int, furthest: int, both: bool) -> tuple[int, bool]:
    """T5's bucket of one distance, and whether rounding could make it the next one."""
    start = 0
    if both:
        buckets //= 2
        start = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return start + distance, False
    step = math.log(distance / exact) / math.log(furthest / exact) * (buckets - exact)
    return start + min(exact + int(step), buckets - 1), abs(step - round(step)) < 1e-4


@pytest.mark.parametrize("buckets, furthest, both", [
    (32, 128, True), (32, 128, False), (64, 100, True), (17, 60, False), (22, 250, True), (2048, 1200, False),
])  # fmt: skip
def test_log_linear_buckets_are_t5s(buckets, furthest, both):
    got = ask(log_linear_buckets, buckets, furthest, both)
    for distance, bucket in zip(DISTANCES, got, strict=True):
        expected, unsure = t5_bucket(distance, buckets, furthest, both)
        assert bucket == expected or (unsure and abs(bucket - expected) == 1), distance
    assert min(got) >= 0 and max(got) < buckets


def test_log_linear_buckets_grow_with_the_distance_and_the_last_takes_the_rest():
    got = log_linear_buckets(-torch.arange(0, 5000), 32, 128, False).tolist()
    assert got == sorted(got) and set(got) == set(range(32))
    assert got[:16] == list(range(16)) and set(got[128:]) == {31} and got[100] < 31


@pytest.mark.parametrize("buckets", [1, 2, 3])
def test_log_linear_buckets_of_tiny_tables_stay_inside(buckets):
    for both in (True, False):
        got = ask(log_linear_buckets, buckets, 64, both)
        assert min(got) >= 0 and max(got) < buckets
