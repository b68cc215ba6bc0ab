# SPDX-License-Identifier: Apache-2.0
"""Noise of grids by histograms: as rounding every single value gives it."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.fixes.local import noise_of, spread_of, spreads_of
from analyzer.quant.fake import fake_quantize
from analyzer.records import Quantizer


def grid(scale, zero=0, qmin=-128, qmax=127):
    return Quantizer(
        "n", "out0", "t", "activation", 8, scale=np.array([scale]),
        zero_point=np.array([zero]), qmin=qmin, qmax=qmax,
    )  # fmt: skip


@pytest.mark.parametrize("scale", [2.0**-6, 2.0**-5, 2.0**-4, 0.07])
@pytest.mark.parametrize("relu", [False, True])
def test_the_noise_is_that_of_all_values(scale, relu):
    """Normal values with a few outliers, and the same behind a Relu, within 1 %."""
    x = np.random.default_rng(5).standard_normal(200_000).astype(np.float32)
    x[:20] *= 6
    x = np.maximum(x, 0) if relu else x
    off = fake_quantize(x, grid(scale)).astype(np.float64) - x
    beyond = (x > 127.5 * scale) | (x < -128.5 * scale)
    power = float(np.sum(np.square(x, dtype=np.float64)))
    found = noise_of({"t": grid(scale)}, {"t": [spread_of(x)]})
    assert found.total == pytest.approx(np.sum(off * off) / power, rel=0.01)
    assert found.clipping == pytest.approx(np.sum(off[beyond] ** 2) / power, rel=0.01, abs=1e-12)


def test_the_mean_over_samples_counts_those_with_a_signal():
    """A silent sample makes no noise, and is not averaged in."""
    loud, silent = (spread_of(np.full(4, value, np.float32)) for value in (0.75, 0.0))
    found = noise_of({"t": grid(0.5)}, {"t": [loud, silent]})
    # 0.75 is between 0.5 and 1: rounded half to even to 1, a third off
    assert found.rounding == pytest.approx(1 / 9)
    assert found.clipping == 0


def test_ends_are_exact_and_infinities_left_out():
    """A mask of minus infinity has no range; a tensor without values has no noise."""
    spread = spread_of(np.float32([-np.inf, -2, 0, 0, 0, 5]))
    assert spread.range == (-2, 5)
    assert spread.counts.tolist() == [1, 3, 1]
    assert spread.power == 29
    assert spread_of(np.zeros(0, np.float32)).range == (0, 0)
    assert noise_of({"t": grid(1.0)}, {"t": [spread_of(np.zeros(0, np.float32))]}).total == 0


def test_tensors_are_looked_at_in_every_sample(two_ends):
    """Inputs and what nodes make, one spread per sample."""
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_normal((1, 8)).astype(np.float32)} for _ in range(3)]
    found = spreads_of(two_ends, ["x", "h"], samples)
    assert [s.range for s in found["x"]] == [
        (float(s["x"].min()), float(s["x"].max())) for s in samples
    ]
    assert len(found["h"]) == 3
