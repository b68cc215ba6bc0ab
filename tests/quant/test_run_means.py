# SPDX-License-Identifier: Apache-2.0
"""NNCF's statistics: means over runs, and extremes per channel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.quant.run_means import ChannelExtremes, RunMeans


def shown(observer, *arrays):
    for array in arrays:
        observer.update(np.float32(array), 0)
    return observer.result()


def test_ends_are_means_over_runs():
    """Minima -1 and -3 average to -2, largest magnitudes 5 and 3 to 4."""
    found = shown(RunMeans("mean_minmax", 1), [-1, 5], [-3, 1])
    assert (found.lo, found.hi) == (-2, 4)
    assert (found.seen_lo, found.seen_hi) == (-3, 5)


def test_without_magnitude_the_upper_end_is_the_mean_maximum():
    """An asymmetric grid wants maxima 5 and 1, not magnitudes."""
    found = shown(RunMeans("mean_minmax", 1, magnitude=False), [-1, 5], [-3, 1])
    assert (found.lo, found.hi) == (-2, 3)


def test_without_mean_the_extremes_of_all_runs_count():
    """The `minmax` observer does not average."""
    found = shown(RunMeans("minmax", 1, mean=False), [-1, 5], [-3, 1])
    assert (found.lo, found.hi) == (-3, 5)


def test_tensors_that_share_a_scale_are_averaged_apart():
    """Shown a, b, a, b: a averages to (0, 2), b to (-4, 4); the union is (-4, 4)."""
    found = shown(RunMeans("mean_minmax", 2), [0, 1], [-3, 2], [0, 3], [-5, 1])
    assert (found.lo, found.hi) == (-4, 4)


def test_infinite_values_do_not_count():
    """An attention mask of -inf says nothing about a range."""
    found = shown(RunMeans("mean_minmax", 1), [-np.inf, 2], [np.inf, -4])
    assert (found.lo, found.hi) == (-1, 3)


def test_nothing_seen_is_a_range_of_zero():
    """No data, or only infinite data, gives (0, 0)."""
    assert shown(RunMeans("mean_minmax", 1), [np.inf]).hi == 0
    assert shown(ChannelExtremes("channel_minmax", 1)).hi == 0


@pytest.mark.parametrize("observer", [RunMeans("m", 1), ChannelExtremes("c", 0)])
def test_nan_is_refused(observer):
    """A NaN in the data must not vanish in a minimum."""
    with pytest.raises(ValueError, match="NaN"):
        observer.update(np.float32([1, np.nan]), 0)


@given(st.permutations([0.1, 1e-8, 3.3, 1e6, 7.7]))
def test_the_order_of_runs_does_not_show(order):
    """Sums are exact: every order gives the same bits."""
    one = shown(RunMeans("m", 1), *([x] for x in order))
    two = shown(RunMeans("m", 1), *([x] for x in sorted(order)))
    assert (one.lo, one.hi) == (two.lo, two.hi)


def test_channels_keep_the_extremes_of_all_runs():
    """Two channels on axis 1; magnitudes are per channel."""
    runs = [[[[-1, 2], [0, 4]]], [[[0, 1], [-6, 1]]]]
    found = shown(ChannelExtremes("channel_minmax", 1), *runs)
    assert found.lo.tolist() == [-1, -6]
    assert found.hi.tolist() == [2, 6]
    plain = shown(ChannelExtremes("channel_minmax", 1, magnitude=False), *runs)
    assert plain.hi.tolist() == [2, 4]
