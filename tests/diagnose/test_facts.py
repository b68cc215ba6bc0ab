# SPDX-License-Identifier: Apache-2.0
"""What is seen of tensors agrees with numpy over all values, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.diagnose import facts as module
from analyzer.diagnose.facts import look
from analyzer.graph.view import GraphView


def samples_of(*shape, count=2):
    rng = np.random.default_rng(7)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


@pytest.fixture
def net(bind):
    return bind(
        """g (float[1,3,8,8] x) => (float[1,3,8,8] y, float[1,192] f) {
            [r] t = Relu(x)  [c] y = Conv(t, w)  [f] f = Flatten(y)
        }""",
        w=np.ones((3, 3, 1, 1), np.float32),
    )


def test_facts_are_those_of_all_values(net):
    """Ends per channel, kurtosis and percentile over everything."""
    samples = samples_of(1, 3, 8, 8)
    found = look(net, GraphView(net.proto.graph), ["x", "t"], samples)
    every = np.concatenate([s["x"] for s in samples]).astype(np.float64)
    for tensor, values in (("x", every), ("t", np.maximum(every, 0))):
        facts = found[tensor]
        assert facts.axis == 1
        np.testing.assert_array_equal(facts.low, values.min((0, 2, 3)))
        np.testing.assert_array_equal(facts.high, values.max((0, 2, 3)))
        np.testing.assert_array_equal(facts.channel, np.tile(np.repeat([0, 1, 2], 64), 2))
        centred = values - values.mean()
        assert facts.kurtosis == pytest.approx((centred**4).mean() / (centred**2).mean() ** 2)
        assert facts.usual == pytest.approx(np.percentile(np.abs(values), 99.9))
        assert facts.counts == 128


def test_channels_lie_where_the_layer_puts_them(bind):
    """Behind a Conv on axis 1, behind a MatMul on the last; through element-wise layers, too."""
    model = bind(
        """g (float[1,4,6] x) => (float[1,4,5] y, float[1,4,2] z) {
            [m] a = MatMul(x, w)  [r] y = Relu(a)  [c] z = Conv(x, k)
        }""",
        w=np.ones((6, 5), np.float32),
        k=np.ones((4, 4, 5), np.float32),
    )
    found = look(model, GraphView(model.proto.graph), ["a", "y", "z"], samples_of(1, 4, 6))
    assert {t: (f.axis, f.low.size) for t, f in found.items()} == {
        "a": (2, 5), "y": (2, 5), "z": (1, 4),
    }  # fmt: skip


def test_only_some_values_are_kept_but_all_are_looked_at(net, monkeypatch):
    """However large a tensor is, its largest value is found, and few values are kept."""
    monkeypatch.setattr(module, "SEEN", 16)
    samples = samples_of(1, 3, 8, 8, count=1)
    samples[0]["x"][0, 2, 7, 7] = 99.0
    facts = look(net, GraphView(net.proto.graph), ["x"], samples)["x"]
    assert facts.reach == 99.0
    # 192 values, every 12th or later: the next number without 2, 3, 5 and 7
    np.testing.assert_array_equal(facts.seen, samples[0]["x"].ravel()[::13])


def test_infinite_values_are_no_range(net):
    """A mask of minus infinity, or NaN, says nothing about the grid that the others need."""
    samples = samples_of(1, 3, 8, 8, count=1)
    samples[0]["x"][0, 1, :2] = [[-np.inf], [np.nan]]
    facts = look(net, GraphView(net.proto.graph), ["x"], samples)["x"]
    known = np.nan_to_num(samples[0]["x"], nan=0, neginf=0)
    np.testing.assert_array_equal(facts.low, known.min((0, 2, 3)))


def test_a_constant_tensor_has_no_kurtosis(bind):
    """Nothing varies: 0, and no division by zero."""
    model = bind("g (float[1,8] x) => (float[1,8] y) { [r] y = Relu(x) }")
    samples = [{"x": np.full((1, 8), 3, np.float32)}]
    facts = look(model, GraphView(model.proto.graph), ["x"], samples)["x"]
    assert facts.kurtosis == 0
    assert facts.range == (3.0, 3.0)
