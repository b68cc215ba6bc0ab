# SPDX-License-Identifier: Apache-2.0
"""Observers against order statistics sorted by hand and searches written again with loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from analyzer.quant.observers import (
    KL,
    MSE,
    MinMax,
    Percentile,
    Range,
    kl_bins,
    magnitude_counts,
    make_observer,
    mse_end,
    order_statistics,
)

NAMES = ["minmax", "percentile", "mse", "kl"]


def f32(*values):
    return np.array(values, np.float32)


def observe(observer, *arrays_):
    for phase in range(observer.phases):
        for x in arrays_:
            observer.update(x, phase)
    return observer.result()


def normal(rng):
    return rng.standard_normal(20000)


def laplace(rng):
    return rng.laplace(size=20000)


def uniform(rng):
    return rng.uniform(-1.3, 1.3, 20000)


def rectified(rng):
    return np.maximum(rng.standard_normal(20000), 0)


def outlier(rng):
    return np.append(rng.standard_normal(20000), 60.0)


def spikes(rng):
    return rng.choice([0.0, 0.25, 0.5, 4.0], 5000)


SHAPES = [normal, laplace, uniform, rectified, outlier, spikes]


def naive_counts(x, bins):
    """Count |x| with a loop: trunc(|x| * bins / amax) in float32, amax in the last bin."""
    amax = np.abs(x).max()
    counts = [0] * bins
    for value in np.abs(x):
        index = int(np.float32(value * np.float32(bins)) / amax)
        counts[min(index, bins - 1)] += 1
    return counts


def naive_kl(counts, levels):
    """Section 4.3 of the reference, written out with loops."""
    n = len(counts)
    h = [float(c) for c in counts]
    z = int(0.002 * n)
    for i in range(z):
        h[i] = 0.0
    h[z] = 1.0
    total = sum(h)
    best, best_kl = None, math.inf
    for r in range(levels, n + 1, levels):
        p = h[:r]
        p[r - 1] += sum(h[r:])
        p = [v / total for v in p]
        width = r // levels
        q = [0.0] * r
        for group in range(levels):
            inside = range(group * width, (group + 1) * width)
            filled = [i for i in inside if h[i] > 0]
            for i in filled:
                q[i] = sum(h[j] for j in inside) / len(filled)
        mass = sum(q)
        q = [v / mass for v in q]
        kl = sum(
            a * (math.log10(a + 1e-30) - math.log10(b + 1e-30)) for a, b in zip(p, q, strict=True)
        )
        if kl < best_kl:
            best, best_kl = r, kl
    return best


def naive_mse(counts, values):
    """Section 4.4 of the reference, written out with loops."""
    n = len(counts)
    best, best_loss = None, math.inf
    for step in [n // values + 1, *range(1, n // values + 1)]:
        end, loss = values * step, 0.0
        for i, count in enumerate(counts):
            left = i % step
            right = step - left - 1
            if i > end:
                error = i - end + 0.5
            else:
                error = left + 0.25 if left == right else min(left, right) + 0.5
            loss += count * error * error
        if loss < best_loss:
            best, best_loss = end, loss
    return best


def test_minmax_is_the_range_of_all_data():
    """Smallest and largest over all arrays, whatever their shape."""
    result = observe(MinMax(), f32(1, -2), f32(3.5).reshape(1, 1))
    assert result == Range(-2.0, 3.5, "minmax", -2.0, 3.5)


def test_infinite_values_do_not_count():
    """An attention mask of -inf leaves the range of the finite values."""
    assert observe(MinMax(), f32(-np.inf, 1, 2), f32(np.inf)) == Range(1, 2, "minmax", 1, 2)


def test_nothing_finite_is_an_empty_range():
    """Only infinite values, or none at all, give (0, 0)."""
    assert observe(MinMax(), f32(np.inf), f32()) == Range(0, 0, "minmax", 0, 0)


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_refused(name):
    """Every observer raises on NaN, also beside infinite values."""
    with pytest.raises(ValueError, match="NaN"):
        observe(make_observer(name, 8), f32(1, np.nan, np.inf))


@pytest.mark.parametrize(
    ("size", "low", "high"),
    [(10, 0, 9), (10000, 0, 9999), (18432, 1, 18430), (30000, 2, 29997)],
)
def test_the_percentile_is_an_element_of_the_sorted_values(size, low, high):
    """Element int(n (1 - p)) from below and int(n p) from above, worked out by hand."""
    values = np.random.default_rng(size).permutation(size).astype(np.float32)
    assert order_statistics(values) == (low, high)


def test_the_percentile_is_averaged_over_runs():
    """Runs with ranges -1..3 and -2..4 give -1.5..3.5; the range seen is that of all."""
    result = observe(Percentile(), f32(-1, 0, 3), f32(-2, 4))
    assert result == Range(-1.5, 3.5, "percentile", -2, 4)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_kl_search_agrees_with_loops(shape):
    """The vectorised search keeps as many bins as section 4.3 written out."""
    x = shape(np.random.default_rng(7)).astype(np.float32)
    counts = naive_counts(x, 4096)
    kept = naive_kl(counts, 128)
    amax = float(np.abs(x).max())
    assert kl_bins(np.array(counts), 128) == kept
    assert observe(KL(8), x) == Range(
        -amax * kept / 4096, amax * kept / 4096, "kl", float(x.min()), float(x.max())
    )


@given(
    st.lists(st.integers(0, 50), min_size=128, max_size=128).filter(any), st.sampled_from([2, 4])
)
def test_the_kl_search_agrees_with_loops_on_any_histogram(counts, levels):
    """Same bins kept, or two candidates whose divergence float32 cannot tell apart."""
    kept = kl_bins(np.array(counts), levels)
    expected = naive_kl(counts, levels)
    if kept != expected:
        # the loop runs in float64: only a tie may be decided differently
        assert divergence(counts, levels, kept) == pytest.approx(
            divergence(counts, levels, expected), rel=1e-5, abs=1e-7
        )


def divergence(counts, levels, kept):
    """Divergence of one candidate, with numpy in float64."""
    h = np.array(counts, np.float64)
    h[: int(0.002 * h.size)] = 0
    h[int(0.002 * h.size)] = 1
    p = h[:kept].copy()
    p[-1] += h[kept:].sum()
    p /= h.sum()
    groups = h[:kept].reshape(levels, -1)
    filled = groups > 0
    q = (filled * (groups.sum(1) / np.maximum(filled.sum(1), 1))[:, None]).ravel()
    q /= q.sum()
    return float(np.sum(p * (np.log10(p + 1e-30) - np.log10(q + 1e-30))))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_mse_search_agrees_with_loops(shape):
    """The range end is that of section 4.4 written out."""
    x = shape(np.random.default_rng(8)).astype(np.float32)
    counts = naive_counts(x, 2048)
    end = naive_mse(counts, 256)
    reach = end * float(np.abs(x).max()) / 2048
    assert mse_end(np.array(counts), 256) == end
    assert observe(MSE(8), x) == Range(-reach, reach, "mse", float(x.min()), float(x.max()))


def test_the_mse_search_of_16_bits_is_32_times_too_wide():
    """A quirk that is kept: with 65536 levels and 2048 bins only one candidate is left."""
    assert observe(MSE(16), f32(1, -0.5)) == Range(-32, 32, "mse", -0.5, 1)


@given(
    arrays(np.float32, st.integers(1, 60), elements=st.floats(-100, 100, width=32)).filter(
        lambda x: np.abs(x).max() > 1e-30
    ),
    st.sampled_from([1, 7, 100, 4096]),
)
def test_histogram_counts_agree_with_a_loop(x, bins):
    """Every value falls into the bin that a loop puts it in."""
    assert magnitude_counts(x, np.abs(x).max(), bins).tolist() == naive_counts(x, bins)


def test_values_above_the_histogram_are_left_out():
    """The end itself is inside; what is larger, infinite or NaN is not counted."""
    x = f32(0, 0.25, 1, 1.0001, np.inf, np.nan)
    assert magnitude_counts(x, np.float32(1), 4).tolist() == [1, 1, 0, 1]


def test_long_arrays_are_counted_in_chunks():
    """An array longer than a chunk loses nothing at the seams."""
    x = np.linspace(0, 1, 200_000, dtype=np.float32)
    expected, _ = np.histogram(x, bins=8, range=(0, 1))
    assert magnitude_counts(x, np.float32(1), 8).tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["minmax", "kl", "mse"])
def test_several_updates_are_one_update(name):
    """How the data is split over runs does not matter where the runs are not averaged."""
    x = np.random.default_rng(9).standard_normal(3000).astype(np.float32)
    whole = observe(make_observer(name, 8), x)
    parts = observe(make_observer(name, 8), x[:10], x[10:999].reshape(23, 43), x[999:])
    assert parts == whole


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_runs_does_not_matter(name):
    """Threads may deliver runs in any order."""
    rng = np.random.default_rng(10)
    runs = [rng.standard_normal(500).astype(np.float32) for _ in range(7)]
    forth = observe(make_observer(name, 8), *runs)
    assert observe(make_observer(name, 8), *runs[::-1]) == forth


@pytest.mark.parametrize("name", NAMES)
def test_a_silent_tensor_has_an_empty_range(name):
    """All zeros, or no run at all, give the range (0, 0)."""
    zeros = np.zeros(100, np.float32)
    assert observe(make_observer(name, 8), zeros) == Range(0, 0, name, 0, 0)
    assert observe(make_observer(name, 8)) == Range(0, 0, name, 0, 0)
