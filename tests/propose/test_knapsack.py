# SPDX-License-Identifier: Apache-2.0
"""The integer program against all subsets, and what it must never do."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.propose.knapsack import best_set


@st.composite
def instances(draw):
    """Up to 8 remedies; prices in 64ths, so that their sums are exact."""
    count = draw(st.integers(1, 8))
    numbers = st.integers(0, count - 1)
    left = draw(st.lists(st.floats(0.01, 1.3), min_size=count, max_size=count))
    prices = [n / 64 for n in draw(st.lists(st.integers(0, 32), min_size=count, max_size=count))]
    limits = draw(st.lists(st.tuples(st.sets(numbers, min_size=1), st.integers(0, 3)), max_size=3))
    return left, prices, limits, draw(st.integers(0, 96)) / 64


def allowed(numbers, prices, limits, budget):
    """Tell whether a set keeps the budget and the limits."""
    fits = all(len(group.intersection(numbers)) <= most for group, most in limits)
    return fits and math.fsum(prices[n] for n in numbers) <= budget


@settings(max_examples=80, deadline=None)
@given(instances())
def test_no_subset_is_better(instance):
    """Brute force over all subsets finds nothing that leaves less; budget and limits are kept."""
    left, prices, limits, budget = instance
    found = best_set(*instance)
    assert found == sorted(set(found))
    assert allowed(found, prices, limits, budget)
    assert all(left[n] < 1 for n in found)
    subsets = (
        s for k in range(len(left) + 1) for s in itertools.combinations(range(len(left)), k)
    )
    best = min(
        math.prod(left[n] for n in s) for s in subsets if allowed(s, prices, limits, budget)
    )
    # the solver stops at a relative gap of 1e-4 of the logarithm
    gained, possible = -math.log(math.prod(left[n] for n in found)), -math.log(best)
    assert gained == pytest.approx(possible, rel=2e-4, abs=1e-9)


def test_two_cheap_ones_beat_a_dear_one():
    """0.5 * 0.5 = 0.25 at 2 is better than 0.3 at 2; a greedy choice by gain would miss it."""
    assert best_set([0.3, 0.5, 0.5], [2, 1, 1], [], 2) == [1, 2]


def test_what_does_not_help_is_never_taken():
    """From 1 on, and where nothing is known, a remedy is left, even for nothing."""
    assert best_set([1.0, 1.5, math.nan, math.inf, 0.9], [0] * 5, [], 1) == [4]
    assert best_set([1.0], [0], [], 1) == []


def test_no_noise_at_all_counts_as_little():
    """A remedy that leaves nothing is taken; two half as dear that leave 1e-4 each are better."""
    assert best_set([0.0, 0.5], [1, 1], [], 1) == [0]
    assert best_set([0.0, 1e-4, 1e-4], [2, 1, 1], [], 2) == [1, 2]


def test_a_limit_of_none():
    """A group of which nothing may be taken, though it is free."""
    assert best_set([0.1, 0.9], [0, 0], [({0}, 0)], 1) == [1]


def test_a_remedy_beyond_the_budget_is_left():
    """Nothing can be bought for less than it costs, and nothing at all for nothing."""
    assert best_set([0.1, 0.2], [3, 2], [], 1.5) == []
    assert best_set([0.1, 0.2], [0.5, 0], [], 0) == [1]
