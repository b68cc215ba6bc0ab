# SPDX-License-Identifier: Apache-2.0
"""Edits one after the other: every kind finds its editor, and the model stays what it computes."""

from __future__ import annotations

from typing import get_args

import numpy as np
import onnxruntime as ort
import pytest

from analyzer.errors import ModelError
from analyzer.fixes.edits import apply_edits
from analyzer.records import Edit, EditKind

NET = """g (float[1,4] x) => (float[1,3] y) {
    [n] m = LayerNormalization(x, gamma, beta)
    [a] h = Gemm<transB=1>(m, w0, b0)  [r] k = Relu(h)  [b] y = Gemm<transB=1>(k, w1, b1)
}"""
EDITS = {
    "weight_split": Edit("weight_split", ("b",), "balance", 0.5),
    "channel_split": Edit("channel_split", ("b",), "inputs", values={"b": (1.0,)}),
    "equalization": Edit("equalization", ("a",), values={"a": (0.5, 2.0, 1.0, 4.0, 0.25)}),
    "smoothing": Edit("smoothing", ("n",), values={"n": (0.5, 2.0, 1.0, 4.0)}),
    "bias_correction": Edit("bias_correction", ("b",), values={"b": (0.5, -1.0, 0.0)}),
}


@pytest.fixture
def net(bind):
    rng = np.random.default_rng(4)
    shapes = {"w0": (5, 4), "b0": (5,), "w1": (3, 5), "b1": (3,), "gamma": (4,), "beta": (4,)}
    values = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    return bind(NET, opset=17, **values)


X = np.float32([[1.0, -0.5, 2.0, 0.25]])


def answer(model):
    """Run the graph by onnxruntime alone."""
    session = ort.InferenceSession(
        model.proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(["y"], {"x": X})[0]


def test_every_kind_is_known():
    """The cases below are all there are."""
    assert set(EDITS) == set(get_args(EditKind))


@pytest.mark.parametrize("kind", EDITS)
def test_each_kind_by_itself(net, kind):
    """The same answer, but for a bias correction: that moves it by the shifts."""
    before = net.proto.SerializeToString(deterministic=True)
    edited = apply_edits(net, [EDITS[kind]])
    moved = np.float32([0.5, -1.0, 0.0]) if kind == "bias_correction" else 0.0
    np.testing.assert_allclose(answer(edited), answer(net) + moved, rtol=1e-5, atol=1e-5)
    assert net.proto.SerializeToString(deterministic=True) == before
    assert edited.proto.SerializeToString(deterministic=True) != before


def test_one_after_the_other(net):
    """Several kinds on top of each other still compute the same; two shifts add up."""
    functions = [EDITS[k] for k in ("equalization", "weight_split")]
    edited = apply_edits(net, functions)
    np.testing.assert_allclose(answer(edited), answer(net), rtol=1e-5, atol=1e-5)
    twice = apply_edits(net, [EDITS["bias_correction"]] * 2)
    np.testing.assert_allclose(
        answer(twice), answer(net) + np.float32([1, -2, 0]), rtol=1e-5, atol=1e-5
    )
    steps = apply_edits(apply_edits(net, functions[:1]), functions[1:])
    assert steps.proto == edited.proto


def test_no_edit_is_the_model_itself(net):
    """Nothing is copied."""
    assert apply_edits(net, []) is net


@pytest.mark.parametrize("kind", EDITS)
def test_a_layer_that_is_not_there(net, kind):
    """Every kind says so by name."""
    values = {"nope": (1.0,)} if kind != "weight_split" else {}
    edit = Edit(kind, ("nope",), EDITS[kind].method, EDITS[kind].threshold, values)
    with pytest.raises(ModelError, match="nope"):
        apply_edits(net, [edit])
