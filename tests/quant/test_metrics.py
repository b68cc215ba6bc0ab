# SPDX-License-Identifier: Apache-2.0
"""Error measures: by hand, against plain numpy, and what scaling must not change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from analyzer.quant.metrics import Comparison, ErrorSums, compare, nsr, nsr_of, power
from analyzer.records import sqnr_db

vectors = arrays(np.float32, 12, elements=st.floats(-100, 100, width=32))


def sums_of(y, ref):
    y, ref = np.asarray(y, np.float64), np.asarray(ref, np.float64)
    noise = y - ref
    return Comparison(
        float(noise @ noise), float(ref @ ref), float(y @ y), float(np.abs(noise).max())
    )


def test_nsr_is_noise_power_over_signal_power():
    """(0.5^2 + 1^2) / (3^2 + 4^2) = 0.05."""
    assert nsr([3.5, 3.0], [3.0, 4.0]) == 0.05


@pytest.mark.parametrize(("noise", "signal", "expected"), [(0, 0, 0), (1, 0, math.inf), (0, 2, 0)])
def test_a_silent_signal_has_no_ratio(noise, signal, expected):
    """No noise is 0 also on silence, noise on silence is inf."""
    assert nsr_of(noise, signal) == expected


def test_nan_noise_is_not_hidden():
    """A NaN that the quantized branch makes is a NaN ratio."""
    assert math.isnan(nsr([math.nan], [1.0]))


def test_sums_run_in_float64():
    """A million small squares beside a large one are not lost."""
    ref = np.full(1_000_001, 1e-3, np.float32)
    ref[0] = 1e3
    y = ref.copy()
    y[0] = 0
    small = float(np.float32(1e-3)) ** 2
    assert nsr(y, ref) == pytest.approx(1e6 / (1e6 + 1e6 * small), rel=1e-12)


@given(vectors, vectors, st.integers(-20, 20))
def test_nsr_does_not_change_with_the_unit(y, ref, exponent):
    """Scaling both tensors by a power of two changes no bit."""
    y, ref = y.astype(np.float64), ref.astype(np.float64)
    assert nsr(y * 2.0**exponent, ref * 2.0**exponent) == nsr(y, ref)


@pytest.mark.parametrize(
    ("ratio", "db"), [(1, 0), (0.01, 20), (0, math.inf), (math.inf, -math.inf)]
)
def test_sqnr_is_minus_ten_log_nsr(ratio, db):
    """1 is 0 dB, 1 % is 20 dB, no noise is inf."""
    assert sqnr_db(ratio) == pytest.approx(db)


@given(vectors.filter(lambda v: np.abs(v).max() > 1e-3), vectors)
def test_error_sums_of_one_sample_agree_with_numpy(ref, noise):
    """NSR, cosine and largest error follow from four sums."""
    ref, y = ref.astype(np.float64), ref.astype(np.float64) + noise
    sums = ErrorSums()
    sums.add(sums_of(y, ref))
    difference = y - ref
    assert sums.nsr == pytest.approx(np.mean(difference**2) / np.mean(ref**2), rel=1e-9)
    assert sums.max_abs == np.max(np.abs(difference))
    length = np.linalg.norm(ref) * np.linalg.norm(y)
    if length > 1e-6:
        assert sums.cosine == pytest.approx(np.vdot(ref, y) / length, abs=1e-6)


def test_error_sums_are_means_over_samples():
    """Two samples: NSR 0.04 and 1, cosine 1 and -1, largest error 2."""
    sums = ErrorSums()
    sums.add(sums_of([6.0], [5.0]))
    sums.add(sums_of([-1.0], [1.0]))
    assert (sums.count, sums.nsr, sums.cosine, sums.max_abs) == (2, (0.04 + 4) / 2, 0, 2)
    assert sums.sqnr_db == pytest.approx(-10 * math.log10(2.02))


@pytest.mark.parametrize(("y", "expected"), [([0.0], 1.0), ([1.0], 0.0)])
def test_the_cosine_of_silence(y, expected):
    """Silence that stays silent is alike, noise on silence is not."""
    sums = ErrorSums()
    sums.add(sums_of(y, [0.0]))
    assert sums.cosine == expected


def test_nan_stays_in_every_measure():
    """One NaN sample shows in NSR, cosine and largest error, whatever follows it."""
    sums = ErrorSums()
    sums.add(Comparison(math.nan, 1.0, math.nan, math.nan))
    sums.add(Comparison(0.0, 1.0, 1.0, 0.0))
    assert math.isnan(sums.nsr)
    assert math.isnan(sums.cosine)
    assert math.isnan(sums.max_abs)


@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (1, 3, 70, 200), (0, 4)])
def test_compare_agrees_with_numpy(shape):
    """Noise, signal, power and largest difference of tensors of any rank, empty ones too."""
    rng = np.random.default_rng(2)
    y = rng.standard_normal(shape).astype(np.float32)
    y_q = y + 0.1 * rng.standard_normal(shape).astype(np.float32)
    found = compare(np.asarray(y_q), np.asarray(y))
    noise = np.asarray(y_q, np.float64) - y
    expected = (
        np.sum(noise**2),
        np.sum(np.square(y, dtype=np.float64)),
        np.sum(np.square(y_q, dtype=np.float64)),
        np.abs(noise).max(initial=0),
    )
    assert tuple(found) == pytest.approx(expected, rel=1e-6)


def test_compare_keeps_nan():
    """A NaN anywhere in a long tensor shows in the noise and in the largest difference."""
    y = np.ones(100_000, np.float32)
    y_q = y.copy()
    y_q[50] = np.nan
    found = compare(y_q, y)
    assert math.isnan(found.noise)
    assert math.isnan(found.max_abs)


@given(arrays(np.float32, st.integers(0, 9000), elements=st.just(1)), st.integers(0, 2**32 - 1))
def test_power_is_the_sum_of_squares(ones, seed):
    """Any length, within 1e-6 of the sum in float64."""
    x = (ones * np.random.default_rng(seed).standard_normal(ones.size)).astype(np.float32)
    assert power(x) == pytest.approx(float(np.sum(np.square(x, dtype=np.float64))), rel=1e-6)


def test_power_of_a_long_tensor_is_within_1e_7():
    """Millions of elements lose nothing to float32 sums."""
    x = np.random.default_rng(1).standard_normal(2_000_003).astype(np.float32)
    assert power(x) == pytest.approx(float(np.sum(np.square(x, dtype=np.float64))), rel=1e-7)


@pytest.mark.parametrize(
    ("pairs", "lost"),
    [
        ([([0, 0], [1, -1])], True),
        ([([0, 0], [1, -1]), ([0, 0], [0, 0])], True),  # one sample has nothing to lose
        ([([0, 0], [1, -1]), ([0, 0.5], [0, 1])], False),
        ([([0, 0], [0, 0])], False),
        ([([1, 1], [1, 1])], False),
        ([([0, -0.0], [1e-10, 1])], True),
        ([([1e-30, 0], [1, 1])], False),  # its square is no float32
        ([([math.nan, 0], [1, 1])], False),
    ],
)
def test_what_is_zero_on_every_sample_is_lost(pairs, lost):
    """And only if FP32 has anything at all on one of them."""
    sums = ErrorSums()
    for twin, reference in pairs:
        sums.add(compare(np.array(twin, np.float32), np.array(reference, np.float32)))
    assert sums.lost is lost
