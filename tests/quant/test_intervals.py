# SPDX-License-Identifier: Apache-2.0
"""Intervals and open places: against scipy, and by drawing rows whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analyzer.quant.intervals import intervals, t95, unsettled


@given(st.floats(3, 1000))
def test_t95_is_the_quantile_of_students_t(degrees):
    """Within 1 % of scipy from 3 degrees of freedom on."""
    assert t95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=0.01)


@pytest.mark.parametrize(("count", "spread"), [(2, 0.3), (2, 1.0), (4, 0.8), (8, 0.5), (16, 0.8)])
def test_intervals_cover_the_true_mean(count, spread):
    """Of 200 draws of ten lognormal rows, at least 90 % of the intervals hold the true mean."""
    rng = np.random.default_rng(count)
    levels = np.exp(rng.normal(-6, 2, 10))
    true = levels * math.exp(spread**2 / 2)
    inside = 0
    for _ in range(200):
        draws = levels[:, None] * np.exp(spread * rng.standard_normal((10, count)))
        found = intervals({str(i): row.tolist() for i, row in enumerate(draws)})
        inside += sum(found[str(i)][0] <= true[i] <= found[str(i)][1] for i in range(10))
    assert inside / 2000 >= 0.90


def test_intervals_surround_the_mean():
    """The arithmetic mean lies inside, and the upper bound is the farther one, as a ratio."""
    low, high = intervals({"a": [1.0, 3.0], "b": [2.0, 5.0]})["a"]
    assert 1 < 2 / low < high / 2


def test_samples_that_do_not_move_the_mean_do_not_widen_the_interval():
    """Whether the quietest sample is a millionth or a billionth of the loudest is the same."""
    few = intervals({"a": [1.0, 1e-6, 0.5]})["a"]
    assert intervals({"a": [1.0, 1e-9, 0.5]})["a"] == pytest.approx(few, rel=1e-4)


def test_a_row_that_varies_little_is_drawn_towards_the_others():
    """Beside rows that vary much, its own small spread is not believed."""
    calm, wild = [1.0, 1.01, 0.99], [1.0, 5.0, 0.2]
    alone, beside = intervals({"a": calm})["a"], intervals({"a": calm, "b": wild, "c": wild})["a"]
    assert beside[0] < alone[0] < alone[1] < beside[1]


def test_one_sample_of_every_row_says_nothing_about_spread():
    """Without any spread there is no interval."""
    assert intervals({"a": [1.0], "b": [2.0]}) == {"a": None, "b": None}


def test_a_row_with_one_sample_borrows_the_spread_of_the_others():
    """Its interval is wider than that of a row with more samples."""
    found = intervals({"a": [1.0, 2.0, 1.5, 1.2], "b": [1.0]})
    assert found["b"][1] / found["b"][0] > found["a"][1] / found["a"][0]


def test_silent_and_broken_rows():
    """A silent row is known to be 0, a row with inf or NaN has no interval."""
    rows = {"ok": [1.0, 2.0], "silent": [0.0, 0.0], "inf": [1.0, math.inf], "nan": [math.nan] * 2}
    found = intervals(rows)
    assert (found["silent"], found["inf"], found["nan"]) == ((0, 0), None, None)


def test_no_rows_have_no_intervals():
    """Nothing in, nothing out."""
    assert intervals({}) == {}


def test_clearly_separated_rows_are_settled():
    """Rows that differ by a factor of ten at a spread of 5 % leave no place open."""
    rng = np.random.default_rng(1)
    rows = {str(k): (10.0**-k * np.exp(0.05 * rng.standard_normal(4))).tolist() for k in range(6)}
    assert unsettled(rows, top=10) == set()


def test_a_factor_common_to_all_rows_opens_nothing():
    """Hard samples are hard for every row: only what is left of the spread counts."""
    hard = np.array([1, 30, 0.1, 8])
    rows = {"a": (2.0 * hard).tolist(), "b": (1.0 * hard).tolist(), "c": (0.5 * hard).tolist()}
    assert unsettled(rows, top=10) == set()


def test_equal_rows_of_two_samples_are_open():
    """Two rows that cannot be told apart need more samples."""
    assert unsettled({"a": [1.0, 2.0], "b": [1.0, 2.0]}, top=10) == {"a", "b"}


def test_a_tie_is_given_up_after_four_samples():
    """Rows that still agree to 2 % need no order."""
    assert unsettled({"a": [1.0] * 4, "b": [1.001] * 4}, top=10) == set()


def test_close_and_noisy_rows_are_open():
    """Means 10 % apart under a spread of a factor of two are open, the far row is not."""
    rng = np.random.default_rng(2)
    rows = {
        name: (level * np.exp(0.7 * rng.standard_normal(8))).tolist()
        for name, level in [("a", 1.0), ("b", 1.1), ("far", 1e-4)]
    }
    assert unsettled(rows, top=10) == {"a", "b"}


def test_only_the_top_is_looked_at():
    """An open place below the border of the top does not matter."""
    rows = {"a": [100.0, 101.0], "b": [10.0, 10.1], "c": [1.0, 1.01], "d": [1.0, 1.01]}
    assert unsettled(rows, top=1) == set()
    assert unsettled(rows, top=3) == {"c", "d"}
