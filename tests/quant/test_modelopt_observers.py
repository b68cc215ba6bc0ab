# SPDX-License-Identifier: Apache-2.0
"""ModelOpt's entropy calibration against a slow one written straight from its description."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analyzer.quant.modelopt_observers import ModelOptEntropy, entropy_bounds


def shown(*samples, tensors=1):
    observer = ModelOptEntropy(tensors)
    for sample in samples:
        observer.update(np.asarray(sample, np.float32), 0)
    return observer.result()


def slow_bounds(counts, levels):
    """Search all slices with loops: counts inside are merged into levels and spread again."""
    counts, middle, found = [int(c) for c in counts], len(counts) // 2, []
    for reach in range(levels // 2, middle + 1):
        start, end = middle - reach, min(middle + reach + 1, len(counts))
        p = counts[start:end]
        width = len(p) // levels
        merged = [sum(p[i * width : (i + 1) * width]) for i in range(levels)]
        merged[-1] += sum(p[levels * width :])
        p[0] += sum(counts[:start])
        p[-1] += sum(counts[end:])
        q = [0] * len(p)
        for level in range(levels):
            here = range(level * width, (level + 1) * width)
            filled = sum(p[i] != 0 for i in here)
            for i in here:
                q[i] = merged[level] // filled if filled else 0
        shares = []
        for bins in (p, q):
            empty = bins.count(0)
            if empty == len(bins):
                break
            less = 0.0001 * empty / (len(bins) - empty)
            smooth = [b - less if b else 0.0001 for b in bins]
            shares.append([s / sum(smooth) for s in smooth])
        distance = (
            sum(a * math.log(a / b) for a, b in zip(*shares, strict=True))
            if len(shares) == 2
            else math.inf
        )
        found.append((distance, start, end))
    return min(found, key=lambda f: f[0])[1:]


@pytest.mark.parametrize("seed", range(6))
def test_bounds_are_those_of_a_search_with_loops(seed):
    """Histograms of normal and heavy-tailed values, with empty bins."""
    rng = np.random.default_rng(seed)
    values = rng.standard_t(2 + seed, 3000)
    bins = 16 + 2 * int(rng.integers(4, 40))
    counts, _ = np.histogram(values, bins, range=(-12, 12))
    assert entropy_bounds(counts, 16) == slow_bounds(counts, 16)


def test_one_sample_is_not_clipped():
    """Its 128 bins are the only candidate, cut to the range of the data."""
    found = shown([-1.0, 0.25, 3.0])
    assert (found.lo, found.hi) == (-1.0, 3.0)


def test_bins_keep_the_width_of_the_first_sample():
    """64 bins reach to 1; 2.5 needs 97 more of 1/64 on each side (96.0 / 64 = 1.5, and one)."""
    observer = ModelOptEntropy()
    observer.update(np.linspace(-1, 1, 100, dtype=np.float32), 0)
    observer.update(np.array([2.5], np.float32), 0)
    assert observer.counts.size == 128 + 2 * 97
    assert observer.reach == np.float32(1 + 97 / 64)
    assert observer.counts.sum() == 101


def test_a_rare_large_value_is_clipped():
    """What one value of 20 000 reaches does not decide the range."""
    rng = np.random.default_rng(0)
    usual = rng.normal(0, 1, 20_000).clip(-3, 3)
    found = shown(usual, [30.0])
    assert found.hi < 10
    assert found.seen_hi == 30.0


def test_tensors_of_a_group_make_one_histogram():
    """Two tensors per sample are as one that holds the values of both."""
    rng = np.random.default_rng(1)
    parts = [rng.normal(0, 1 + i, 500).astype(np.float32) for i in range(4)]
    together = shown(np.concatenate(parts[:2]), np.concatenate(parts[2:]))
    assert shown(*parts, tensors=2) == together


def test_nothing_and_silence():
    """No data gives (0, 0), and so do zeros; NaN is refused."""
    assert (shown().lo, shown().hi) == (0.0, 0.0)
    assert (shown([0.0]).lo, shown([0.0]).hi) == (0.0, 0.0)
    with pytest.raises(ValueError, match="NaN"):
        shown([np.nan])
