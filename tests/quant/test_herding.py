# SPDX-License-Identifier: Apache-2.0
"""Which samples come first: by hand, and against a random choice."""

from __future__ import annotations

import numpy as np

from analyzer.quant.herding import representative_order


def test_the_typical_sample_comes_first():
    """Of 1, 100 and 40 the one nearest to the mean of 47 is 40."""
    assert representative_order(np.array([[1.0, 100.0, 40.0]]), 1) == [2, 0, 1]


def test_the_next_sample_evens_out_the_first():
    """Beside 40 the pair with 100, mean 70, is nearer to 47 than that with 1, mean 20.5."""
    profile = np.array([[1.0, 100.0, 40.0], [1.0, 100.0, 40.0]])
    assert representative_order(profile, 2) == [2, 1, 0]


def test_every_sample_once():
    """The order is a permutation, also where fewer are ordered than there are."""
    profile = np.random.default_rng(0).lognormal(size=(5, 9))
    for count in (0, 3, 9, 50):
        assert sorted(representative_order(profile, count)) == list(range(9))


def test_rows_without_noise_do_not_count():
    """A layer that adds nothing on some sample, or is not finite, has no logarithm to compare."""
    profile = np.array([[0.0, 5.0, 5.0], [1.0, 100.0, 40.0], [np.inf, 1.0, 1.0]])
    assert representative_order(profile, 1)[0] == 2
    assert representative_order(np.zeros((2, 3)), 2) == [0, 1, 2]


def test_three_chosen_are_nearer_to_all_than_three_at_random():
    """On layers whose noise varies by sample, the chosen mean is nearer in 19 of 20 draws."""
    wins = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        profile = np.exp(rng.normal(size=(40, 1)) + rng.normal(size=(40, 30)))
        goal = np.log(profile.mean(axis=1))

        def distance(chosen, profile=profile, goal=goal):
            return float(np.sum((np.log(profile[:, chosen].mean(axis=1)) - goal) ** 2))

        ours = distance(representative_order(profile, 3)[:3])
        wins += ours < distance(rng.choice(30, 3, replace=False))
    assert wins >= 19
