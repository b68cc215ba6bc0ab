# SPDX-License-Identifier: Apache-2.0
"""Fake-quantization in numpy: numbers worked out by hand, and what algebra says must hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from analyzer.quant.fake import fake_quantize
from analyzer.records import Quantizer


def grid(scale, zero=0, **changes):
    scale = np.atleast_1d(np.asarray(scale, np.float64))
    zeros = np.broadcast_to(np.asarray(zero, np.int64), scale.shape)
    quantizer = Quantizer("n", "in0", "x", "activation", 8, scale=scale, zero_point=zeros)
    return replace(quantizer, **changes)


def quantized(values, quantizer):
    return fake_quantize(np.asarray(values, np.float32), quantizer).tolist()


def signed(bits):
    return {"bits": bits, "qmin": -(2 ** (bits - 1)), "qmax": 2 ** (bits - 1) - 1}


floats = st.floats(-1e6, 1e6, width=32)
tensors = arrays(np.float32, st.integers(1, 40), elements=floats)
exponents = st.integers(-12, 6)
roundings = st.sampled_from(["half_even", "half_up"])


def test_half_even_sends_ties_to_the_even_neighbour():
    """0.5 and 2.5 go down, 1.5 up, and the negative ties mirror them."""
    ties = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5]
    assert quantized(ties, grid(1.0)) == [0, 2, 2, 0, -2, -2]


def test_half_up_sends_ties_upwards():
    """The rule of the ESP32-S3 is floor(x / s + 0.5): also negative ties go up."""
    ties = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5]
    assert quantized(ties, grid(1.0, rounding="half_up")) == [1, 2, 3, 0, -1, -2]


def test_half_up_adds_in_float32():
    """0.5 - 2^-25 plus 0.5 has no float32 of its own and becomes 1, as on the device."""
    below = np.nextafter(np.float32(0.5), np.float32(0))
    assert float(below) == 0.5 - 2**-25
    assert quantized([below], grid(1.0, rounding="half_up")) == [1.0]
    assert quantized([below], grid(1.0)) == [0.0]


def test_the_zero_point_moves_the_range():
    """With scale 0.5 and zero point 10, uint8 covers -5 ... 122.5."""
    quantizer = grid(0.5, 10, signed=False, symmetric=False, qmin=0, qmax=255)
    assert quantized([-6, -5, -0.3, 0, 1.2, 122.5, 200], quantizer) == [
        -5, -5, -0.5, 0, 1, 122.5, 122.5
    ]  # fmt: skip


def test_every_channel_has_its_own_scale_and_zero_point():
    """Scales run along the quantizer's axis and broadcast over the others."""
    x = np.full((2, 3, 2), 0.8, np.float32)
    result = fake_quantize(x, grid([1.0, 0.5, 0.25], [0, 1, 126], axis=1))
    expected = np.empty((2, 3, 2), np.float32)
    expected[:, 0], expected[:, 1], expected[:, 2] = 1.0, 1.0, 0.25  # 3 + 126 saturates at 127
    np.testing.assert_array_equal(result, expected)


def test_values_beyond_the_grid_saturate():
    """Large and infinite values end at qmin and qmax."""
    assert quantized([200, -200, np.inf, -np.inf], grid(1.0)) == [127, -128, 127, -128]


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("rounding", ["half_even", "half_up"])
def test_nan_stays_nan(bits, rounding):
    """NaN is not mistaken for a level of the grid."""
    assert np.isnan(quantized([np.nan], grid(1.0, rounding=rounding, **signed(bits)))).all()


def test_a_bias_grid_of_32_bits_is_finer_than_it_is_short():
    """Levels up to 2^31 are kept; those beyond saturate, and 2^31 - 1 is 2^31 in float32."""
    quantizer = grid(2.0**-10, **signed(32))
    values = [1.0 + 2**-10, 1.0 + 2**-11, 3e6, -3e6]
    assert quantized(values, quantizer) == [1.0 + 2**-10, 1.0, 2.0**21, -(2.0**21)]


def test_a_bias_is_divided_in_float64():
    """2.8380752 / 3.6108057e-05 is 78599.4998, a tie that goes up only in float32."""
    scale = float(np.float32(3.6108057e-05))
    (value,) = quantized([2.8380752], grid(scale, **signed(32)))
    assert value == np.float32(78599) * np.float32(scale)


def test_a_bias_grid_of_20_bits_saturates():
    """The ESP32-S3 limits a bias of 10 at scale 2^-16 to (2^19 - 1) / 2^16."""
    quantizer = grid(2.0**-16, rounding="half_up", **signed(20))
    assert quantized([10, -10], quantizer) == [(2**19 - 1) / 2**16, -8]


def test_the_input_is_not_modified():
    """The caller's array is as it was."""
    x = np.array([0.3, 0.7], np.float32)
    fake_quantize(x, grid(1.0))
    np.testing.assert_array_equal(x, np.array([0.3, 0.7], np.float32))


def test_a_quantizer_without_scale_is_refused():
    """A placed but uncalibrated quantizer cannot quantize."""
    empty = Quantizer("n", "in0", "x", "activation", 8)
    with pytest.raises(ValueError, match="no scale"):
        fake_quantize(np.zeros(1, np.float32), empty)


@given(
    tensors,
    st.floats(1e-6, 1e3),
    st.integers(-128, 127),
    roundings,
    st.sampled_from([8, 16]),
)
def test_quantizing_twice_changes_nothing(x, scale, zero, rounding, bits):
    """A value on the grid stays where it is."""
    quantizer = grid(scale, zero, rounding=rounding, **signed(bits))
    once = fake_quantize(x, quantizer)
    np.testing.assert_array_equal(fake_quantize(once, quantizer), once)


@given(tensors, exponents, roundings)
def test_the_error_is_half_a_step_inside_the_range(x, exponent, rounding):
    """No value that the grid covers moves by more than half a step (and float32 rounding)."""
    scale = 2.0**exponent
    inside = np.clip(x, -128 * scale, 127 * scale)
    error = np.abs(fake_quantize(inside, grid(scale, rounding=rounding)) - inside)
    assert error.max() <= scale / 2 * (1 + 1e-6)


@given(tensors, exponents, st.integers(1, 8))
def test_a_finer_grid_of_the_same_coverage_is_never_worse(x, exponent, finer):
    """A power-of-two grid that contains the coarser one moves no value further inside it."""
    scale = 2.0**exponent
    inside = np.clip(x, -128 * scale, 127 * scale)
    coarse = fake_quantize(inside, grid(scale))
    fine = fake_quantize(inside, grid(scale / 2**finer, **signed(8 + finer)))
    assert (np.abs(fine - inside) <= np.abs(coarse - inside)).all()


@given(arrays(np.float32, (3, 7), elements=floats))
def test_a_scale_per_channel_is_never_worse_than_one_for_all(x):
    """With the scale 2^ceil(log2(2 max|x| / 255)) per channel, no value moves further."""
    rows = np.maximum(np.abs(x).max(axis=1), 1e-3).astype(np.float64)
    channel = np.exp2(np.ceil(np.log2(2 * rows / 255)))
    own = fake_quantize(x, grid(channel, axis=0))
    common = fake_quantize(x, grid(channel.max()))
    assert np.abs(own - x).max() <= np.abs(common - x).max()


@given(tensors, exponents, roundings)
def test_scaling_data_and_grid_by_two_scales_the_result(x, exponent, rounding):
    """Powers of two commute with fake-quantization to the bit."""
    one = fake_quantize(x, grid(2.0**exponent, rounding=rounding))
    two = fake_quantize(2 * x, grid(2.0 ** (exponent + 1), rounding=rounding))
    np.testing.assert_array_equal(2 * one, two)


@given(tensors, st.floats(1e-3, 10), roundings)
def test_order_is_kept(x, scale, rounding):
    """Fake-quantization is monotonic."""
    ordered = np.sort(x)
    assert (np.diff(fake_quantize(ordered, grid(scale, rounding=rounding))) >= 0).all()
