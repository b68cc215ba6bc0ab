# SPDX-License-Identifier: Apache-2.0
"""Rounding and clipping noise of arrays: numbers worked out by hand, and sums over pieces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer.quant.rounding import QuantizationNoise, noise_by_channel, quantization_noise
from analyzer.records import Quantizer


def grid(scale, zero=0, **changes):
    scale = np.atleast_1d(np.asarray(scale, np.float64))
    zeros = np.broadcast_to(np.asarray(zero, np.int64), scale.shape)
    quantizer = Quantizer("n", "in0", "x", "activation", 4, scale=scale, zero_point=zeros)
    return replace(quantizer, **{"qmin": -8, "qmax": 7, **changes})


def f32(*values):
    return np.array(values, np.float32)


def test_values_beyond_the_grid_are_clipped_all_others_rounded():
    """Levels 0.5, 7.25, 8 and -9 of -8..7: errors 0.5 and 0.25, then 1 and 1."""
    found = quantization_noise(f32(0.5, 7.25, 8.0, -9.0), grid(1.0))
    assert found == QuantizationNoise(0.25 + 0.0625, 2.0, 0.25 + 52.5625 + 64.0 + 81.0)
    assert found.noise == 2.3125


def test_what_is_cut_depends_on_how_ties_are_rounded():
    """Level 7.5 goes to 8, which is cut; -8.5 goes up to -8, or to the even -8."""
    half_up = quantization_noise(f32(7.5, -8.5), grid(1.0, rounding="half_up"))
    assert half_up == QuantizationNoise(0.25, 0.25, 128.5)
    # level 6.5 goes to 7 or to the even 6: nothing is cut
    for rounding in ("half_up", "half_even"):
        found = quantization_noise(f32(6.5), grid(1.0, rounding=rounding))
        assert found == QuantizationNoise(0.25, 0.0, 42.25)


def test_a_zero_point_moves_the_ends():
    """Zero point -8 leaves nothing below 0 and 15 above: -1 is clipped, 15 fits, 17 does not."""
    found = quantization_noise(f32(-1.0, 15.0, 17.0), grid(1.0, -8))
    assert found == QuantizationNoise(0.0, 1.0 + 4.0, 1.0 + 225.0 + 289.0)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_channels_have_grids_of_their_own(axis):
    """The value 20 lies beyond 7 steps of 1 and within 7 steps of 4; 3 is off the wider grid."""
    x = f32([20.0, 3.0], [20.0, 3.0])
    found = quantization_noise(x if axis == 0 else x.T, grid([1.0, 4.0], axis=axis))
    assert found == QuantizationNoise(1.0, 169.0, 818.0)


def test_biases_wider_than_float32():
    """A 32-bit grid is compared in float64: nothing is cut, 0.25 of a step is lost."""
    q = grid(1.0, bits=32, qmin=-(2**31), qmax=2**31 - 1)
    assert quantization_noise(f32(1.25), q) == QuantizationNoise(0.0625, 0.0, 1.5625)


def test_what_was_stored_counts():
    """A file holds 1.0 for 0.25: the error is that, whatever rounding would give."""
    q = grid(1.0, stored=f32(1.0, 7.0))
    assert quantization_noise(f32(0.25, 9.0), q) == QuantizationNoise(0.5625, 4.0, 81.0625)


def test_an_answer_may_be_meant_for_another_value():
    """A Relu left to a grid without negative values: cutting -3 to 0 is what it should do."""
    found = quantization_noise(f32(-3.0, 17.0), grid(1.0, -8), f32(0.0, 17.0))
    assert found == QuantizationNoise(0.0, 4.0, 289.0)


def test_infinite_values_and_nan_are_left_out():
    """A mask of -inf has no finite error."""
    found = quantization_noise(f32(-np.inf, np.nan, 0.5), grid(1.0))
    assert found == QuantizationNoise(0.25, 0.0, 0.25)


def test_nothing_and_scalars():
    """No values make no noise; a scalar is one value."""
    assert quantization_noise(np.zeros((0, 3), np.float32), grid(1.0)) == QuantizationNoise()
    scalar = np.float32(0.5).reshape(())
    assert quantization_noise(scalar, grid(1.0)) == QuantizationNoise(0.25, 0.0, 0.25)
    both = quantization_noise(scalar, grid([1.0, 4.0], axis=0))
    assert both.rounding == 0.5  # the scalar stands for either channel


@pytest.mark.parametrize("channels", [None, 1])
def test_pieces_add_up(channels):
    """A large array gives what a few lines of numpy in float64 give for the whole."""
    x = np.random.default_rng(0).normal(0, 4, (3, 50, 40, 41)).astype(np.float32)
    scale = np.linspace(0.25, 1.0, 50) if channels else np.array([0.5])
    shape = (1, -1, 1, 1) if channels else ()
    steps = x / scale.astype(np.float32).reshape(shape)
    levels = np.clip(np.rint(steps), -8, 7)
    error = (levels * scale.reshape(shape) - x.astype(np.float64)) ** 2
    outside = np.rint(steps) != levels
    found = quantization_noise(x, grid(scale, axis=channels))
    assert found.clipping == pytest.approx(error[outside].sum(), rel=1e-5)
    assert found.rounding == pytest.approx(error[~outside].sum(), rel=1e-5)
    assert found.signal == pytest.approx((x.astype(np.float64) ** 2).sum())


@pytest.mark.parametrize("axis", [1, -2])
def test_noise_by_channel_sums_over_all_other_axes(axis):
    """Channel 0 is off by 1 in four places, channel 1 by 2 in one."""
    y = np.zeros((2, 2, 2), np.float32)
    wanted = y.copy()
    wanted[:, 0] = 1
    wanted[1, 1, 0] = 2
    assert noise_by_channel(y, wanted, axis).tolist() == [4.0, 4.0]
    assert not y.any()
