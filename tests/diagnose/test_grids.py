# SPDX-License-Identifier: Apache-2.0
"""Hypothetical grids change exactly one thing; all expected numbers are worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer.diagnose.grids import (
    ends,
    finer,
    fitted,
    is_power_of_two,
    wider,
    with_scales,
)


@pytest.fixture
def symmetric(quantizer):
    return quantizer("c", "out0", "t", 0.5)


@pytest.fixture
def affine(quantizer):
    return quantizer("c", "out0", "t", 0.5, -118, symmetric=False)


def test_finer_keeps_the_range(symmetric, affine):
    """A sixteenth of the step between the same ends."""
    assert ends(symmetric) == ends(finer(symmetric)) == (-64.0, 63.5)
    assert ends(affine) == ends(finer(affine)) == (-5.0, 122.5)
    assert finer(affine).scale.item() == 0.03125


def test_wider_keeps_the_step(symmetric, affine):
    """Room for twice what was seen on the sides where anything was; never less than before."""
    assert (wider(symmetric, -100.0, 1.0).qmin, wider(symmetric, -100.0, 1.0).qmax) == (-400, 127)
    assert (wider(affine, 0.0, 200.0).qmin, wider(affine, 0.0, 200.0).qmax) == (-128, 682)
    assert wider(affine, 0.0, 200.0).scale is affine.scale


def test_a_grid_that_stands_for_a_clip_ends_where_the_clip_does(affine):
    """No room is left beyond 200: the node that cut there is gone."""
    relu6 = replace(affine, replaces_node=True)
    assert wider(relu6, 0.0, 200.0).qmax == 400 - 118


def test_symmetric_scales_fit_the_farther_end(symmetric):
    """The largest level holds the upper end, the smallest the lower one; no range, no scale."""
    low, high = np.array([-1.0, -64.0, 0.0]), np.array([127.0, 1.0, 0.0])
    scale, zero = fitted(symmetric, low, high, power_of_two=False)
    np.testing.assert_array_equal(scale, [1.0, 0.5, np.nan])
    np.testing.assert_array_equal(zero, 0)


def test_powers_of_two_stay_powers_of_two(symmetric):
    """The least one that covers the range: 100 / 127 -> 1; 128 / 127 is near enough to 1."""
    ends_ = np.array([100.0, 128.0, 140.0])
    scale, _ = fitted(symmetric, -ends_ / 2, ends_, power_of_two=True)
    np.testing.assert_array_equal(scale, [1.0, 1.0, 2.0])


def test_affine_scales_fit_the_whole_range_with_zero(affine):
    """255 steps over the range, which reaches to zero; zero is a level."""
    low, high = np.array([-5.5, 10.0]), np.array([20.0, 51.0])
    scale, zero = fitted(affine, low, high, power_of_two=False)
    np.testing.assert_allclose(scale, [0.1, 0.2])
    np.testing.assert_array_equal(zero, [-128 + 55, -128])


def test_an_unknown_scale_leaves_the_own_one(symmetric):
    """Channels without a range keep step and zero point."""
    made = with_scales(symmetric, np.array([1.0, np.nan]), np.array([3, 4]), 1)
    assert made.axis == 1
    np.testing.assert_array_equal(made.scale, [1.0, 0.5])
    np.testing.assert_array_equal(made.zero_point, [3, 0])


def test_powers_of_two_are_told_from_other_scales(quantizer):
    """One other scale is enough, and none at all is no power of two."""
    two, three = quantizer("a", "out0", "t", 0.25), quantizer("b", "out0", "u", 0.3)
    assert is_power_of_two([two])
    assert not is_power_of_two([two, three])
    assert not is_power_of_two([])
