# SPDX-License-Identifier: Apache-2.0
"""QA103 and QA104: which of the two a grid is bound by, and the grid without it."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.diagnose.generic import clipping, rounding, rounding_of_weights
from analyzer.records import Source


@pytest.fixture
def identity(bind, case_of, quantizer):
    """Return a function: values, scale -> case of one tensor on that grid."""
    model = bind("g (float[1,100] x) => (float[1,100] y) { [i] y = Identity(x) }")

    def make(values, scale):
        samples = [{"x": np.asarray(values, np.float32).reshape(1, 100)}]
        return case_of(model, [quantizer("i", "out0", "y", scale)], samples)

    return make


def test_values_beyond_the_grid(identity):
    """Ten of a hundred values lie beyond 12.7: all of the noise, and levels for them instead."""
    case = identity([1.0] * 90 + [20.0] * 10, 0.1)
    (found,) = clipping(case)
    assert (found.code, found.layer) == ("QA103", "i")
    assert found.evidence["clipped_share"] == pytest.approx(0.1)
    assert found.evidence["clipped_noise"] == pytest.approx(1.0)
    (changed,) = found.changes.values()
    assert changed.scale.item() == 0.1
    assert (changed.qmin, changed.qmax) == (-128, 400)
    assert not list(rounding(case))


def test_values_between_the_levels(identity):
    """Half a step off everywhere, nothing clipped: the same range in finer steps."""
    case = identity(np.arange(100) + 0.5, 1.0)
    (found,) = rounding(case)
    assert (found.code, found.layer) == ("QA104", "i")
    assert found.evidence["rms_in_steps"] == pytest.approx(
        np.sqrt(np.mean((np.arange(100) + 0.5) ** 2)), rel=1e-6
    )
    (changed,) = found.changes.values()
    assert (changed.scale.item(), changed.qmax) == (1 / 16, 127 * 16)
    assert not list(clipping(case))


def test_a_value_far_out_is_tried_even_where_it_is_not_among_those_seen(identity, monkeypatch):
    """Of large tensors only some values are looked at for their noise, all for their range."""
    monkeypatch.setattr("analyzer.diagnose.facts.SEEN", 10)
    case = identity([0.5] * 50 + [4.0] + [0.5] * 49, 0.015625)
    (found,) = clipping(case)
    assert (found.evidence["clipped_share"], found.evidence["reach"]) == (0, 4.0)


def test_weights_are_bound_by_rounding(bind, case_of, quantizer):
    """Every weight of a bad source, also one with scales per channel; biases are not weights."""
    model = bind(
        "g (float[1,4] x) => (float[1,2] y) { [m] y = Gemm(x, w, b) }",
        w=np.array([[3, 4]] * 4, np.float32),
        b=np.zeros(2, np.float32),
    )
    weight = quantizer("m", "in1", "w", [0.5, 0.25], role="weight", axis=1)
    bias = quantizer("m", "in2", "b", 0.5, role="bias")
    source = Source("m", "layer", ("m",), (weight.key, bias.key), nsr=1.0)
    case = case_of(model, [weight, bias], [{"x": np.zeros((1, 4), np.float32)}], m=source)
    (found,) = rounding_of_weights(case)
    assert (found.layer, set(found.changes)) == ("m", {("m", "in1")})
    np.testing.assert_array_equal(found.changes["m", "in1"].scale, [0.5 / 16, 0.25 / 16])
    # rms of 3 and 4 is sqrt(12.5), in steps of 0.5
    assert found.evidence["rms_in_steps"] == pytest.approx(np.sqrt(12.5) * 2)


def test_sources_with_next_to_no_noise_are_left_alone(identity):
    """Less than one percent of all isolated noise cannot be a cause."""
    case = identity(np.arange(100) + 0.5, 1.0)
    (source,) = case.balance.sources
    quiet = Source("quiet", "group", source.layers, source.quantizers, nsr=0.001)
    loud = Source("loud", "layer", (), (), nsr=1.0)
    object.__setattr__(case.balance, "sources", (quiet, loud))
    assert not list(rounding(case))
