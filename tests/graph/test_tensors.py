# SPDX-License-Identifier: Apache-2.0
"""Tensors inside a model: their FP32 values, and those of single layers with quantizers."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.graph.tensors import TensorRuns, twin
from analyzer.records import Quantizer


def f32(*values):
    return np.array(values, np.float32)


def grid(slot, tensor, scale, role="activation"):
    return Quantizer("b", slot, tensor, role, 8, scale=np.array([scale]), zero_point=np.array([0]))


@pytest.fixture
def net(bind):
    return bind(
        """g (float[1,2] x, float[1,2] z) => (float[1,2] y) {
            [a] h = Neg(x)  [b] k = Mul(h, w)  [c] y = Add(k, z)
        }""",
        w=f32(0.75, 2.0),
    )


def test_values_inside_a_model(net):
    """Graph inputs, inner tensors and outputs, each once."""
    sample = {"x": f32([1.5, 3.0]), "z": f32([1.0, 1.0])}
    found = TensorRuns(net, ["k", "x", "y", "k"]).run(sample)
    assert {name: value.tolist() for name, value in found.items()} == {
        "x": [[1.5, 3.0]], "k": [[-1.125, -6.0]], "y": [[-0.125, -5.0]]
    }  # fmt: skip


def test_only_what_is_needed_runs(net):
    """Without the node that reads it, an input need not be given; nothing runs for inputs."""
    assert TensorRuns(net, ["k"]).run({"x": f32([1.0, 1.0])})["k"].tolist() == [[-0.75, -2.0]]
    assert TensorRuns(net, ["z"]).run({"z": f32([1.0, 2.0])})["z"].tolist() == [[1.0, 2.0]]


def test_a_twin_is_quantized_and_its_inputs_are_not(net):
    """The weight 0.75 becomes 1 and -2.5 * 1 becomes -2 (half to even); h stays -2.5."""
    quantizers = [grid("in1", "w", 1.0, "weight"), grid("out0", "k", 1.0)]
    sample = {"x": f32([2.5, 3.25]), "z": f32([0.0, 0.0])}
    found = TensorRuns(net, ["k", "h"], twins={"k": quantizers}).run(sample)
    assert found["h"].tolist() == [[-2.5, -3.25]]
    assert found["k"].tolist() == [[-1.875, -6.5]]
    assert found[twin("k")].tolist() == [[-2.0, -6.0]]


def test_a_body_reads_tensors_from_outside(bind):
    """What the branches of an If capture is made before it runs."""
    model = bind(
        """g (float[2] x, bool c) => (float[2] y) {
            [a] h = Neg(x)
            [i] k = If (c) <then_branch = t () => (float[2] p) { p = Neg(h) },
                            else_branch = e () => (float[2] q) { q = Abs(h) }>
            [b] y = Neg(k)
        }"""
    )
    found = TensorRuns(model, ["k"]).run({"x": f32(1.0, -2.0), "c": np.array(True)})
    assert found["k"].tolist() == [1.0, -2.0]
