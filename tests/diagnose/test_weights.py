# SPDX-License-Identifier: Apache-2.0
"""QA108: weight channels of unequal reach under one scale."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.diagnose.weights import unequal_channels


@pytest.fixture
def depthwise(bind, case_of, quantizer):
    """Return a function: reach of each of four channels, scale -> case of a depthwise Conv."""

    def make(reaches, scale, **fields):
        weight = np.asarray(reaches, np.float32)[:, None, None, None] * np.ones((4, 1, 3, 3))
        model = bind(
            "g (float[1,4,4,4] x) => (float[1,4,2,2] y) { [d] y = Conv<group=4>(x, w) }",
            w=weight.astype(np.float32),
        )
        q = quantizer("d", "in1", "w", scale, role="weight", **fields)
        return case_of(model, [q], [{"x": np.zeros((1, 4, 4, 4), np.float32)}])

    return make


def test_unequal_channels_get_scales_of_their_own(depthwise):
    """Reaches of 1.27, 2.54, 5.08 and 127 on steps of 1; only the last one keeps them."""
    (found,) = unequal_channels(depthwise([1.27, 2.54, 5.08, 127], 1.0))
    assert (found.code, found.layer) == ("QA108", "d")
    assert (found.evidence["channel"], found.evidence["depthwise"]) == (3, True)
    assert found.evidence["below_one_step"] == 0
    (changed,) = found.changes.values()
    assert changed.axis == 0
    # no activation tells, but the weight's own scale is a power of two
    np.testing.assert_array_equal(changed.scale, [1 / 64, 1 / 32, 1 / 16, 1.0])


def test_other_scales_stay_exact(depthwise):
    """On steps that are no powers of two every channel gets its reach over 127."""
    (found,) = unequal_channels(depthwise([1.27, 2.54, 5.08, 127], 1.01))
    (changed,) = found.changes.values()
    np.testing.assert_allclose(changed.scale, [0.01, 0.02, 0.04, 1.0])


def test_channels_with_scales_of_their_own_or_of_one_reach_are_fine(depthwise):
    """Nothing to take out: per-channel already, or within eight times of each other."""
    assert not list(unequal_channels(depthwise([1, 2, 4, 127], [0.01, 0.02, 0.04, 1.0], axis=0)))
    assert not list(unequal_channels(depthwise([16, 32, 64, 127], 1.0)))


@pytest.mark.parametrize(
    ("op", "axis"), [("Gemm", 1), ("Gemm<transB=1>", 0), ("MatMul", 1)], ids=str
)
def test_channels_run_along_the_outputs(bind, case_of, quantizer, op, axis):
    """Of a Gemm along the axis that its transposition says, of a MatMul along the last."""
    weight = np.ones((4, 4), np.float32)
    weight[(slice(None), 2) if axis else 2] = 100
    model = bind(f"g (float[1,4] x) => (float[1,4] y) {{ [m] y = {op}(x, w) }}", w=weight)
    q = quantizer("m", "in1", "w", 1.0, role="weight")
    (found,) = unequal_channels(case_of(model, [q], [{"x": np.zeros((1, 4), np.float32)}]))
    (changed,) = found.changes.values()
    assert changed.axis == axis
    assert np.argmax(changed.scale) == 2
