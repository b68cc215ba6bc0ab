# SPDX-License-Identifier: Apache-2.0
"""What does not depend on the data becomes a constant; what does, or is too large, stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer.graph import fold
from analyzer.graph.fold import fold_constants
from analyzer.graph.names import name_nodes


def folded(body, inputs="float[2, 3, 4] x", outputs="float[] y", constants=""):
    constants = f"<{constants}>" if constants else ""
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 15]>
        g ({inputs}) => ({outputs}) {constants} {{ {body} }}"""
    )
    source = name_nodes(model.graph)
    known = fold_constants(model, source)
    values = {t.name: numpy_helper.to_array(t).tolist() for t in model.graph.initializer}
    return [n.op_type for n in model.graph.node], values, known, source


def test_shape_arithmetic_becomes_the_target_shape():
    """The chain an exporter writes for view(batch, -1) is one constant."""
    ops, values, known, _ = folded(
        """s = Shape(x) b = Gather(s, zero) u = Unsqueeze(b, axis)
           t = Concat <axis = 0> (u, rest) y = Reshape(x, t)""",
        constants="int64 zero = {0}, int64[1] axis = {0}, int64[1] rest = {-1}",
    )
    assert (ops, values) == (["Reshape"], {"t": [2, -1]})
    assert known.shapes["y"] == (2, 12)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("Shape", [2, 3, 4]),
        ("Shape <start = 1>", [3, 4]),
        ("Shape <start = -1>", [4]),
        ("Shape <end = -1>", [2, 3]),
        ("Shape <start = -9, end = 9>", [2, 3, 4]),
        ("Size", 24),
    ],
)
def test_shape_and_size_follow_the_standard(op, expected):
    """Ends count from the back when negative and are clamped when too large."""
    ops, values, _, _ = folded(
        f"s = {op} (x) y = Cast <to = 1> (s) z = Add(s, s)", outputs="int64[] z, float[] y"
    )
    assert ops == ["Cast", "Add"]
    assert values == {"s": expected}


def test_arithmetic_on_weights_is_done_once():
    """A Reshape of a weight leaves a weight, and the old one is gone."""
    ops, values, _, _ = folded(
        "r = Reshape(w, two) y = MatMul(x, r)",
        inputs="float[1, 2] x",
        constants="float[4] w = {1, 2, 3, 4}, int64[2] two = {2, 2}",
    )
    assert (ops, values) == (["MatMul"], {"r": [[1, 2], [3, 4]]})


@pytest.mark.parametrize(
    "body",
    [
        "r = RandomNormal <shape = [2]> () y = Add(x, r)",
        "r = Bernoulli(half) y = Add(x, r)",
        "y = Add(half, half)",
        "r = Relu(x) y = Add(r, half)",
    ],
    ids=["random", "random of a constant", "graph output", "data"],
)
def test_what_is_not_constant_stays(body):
    """Random numbers, graph outputs and data are not touched."""
    ops, _, _, _ = folded(body, inputs="float[2] x", constants="float[2] half = {0.5, 0.5}")
    assert len(ops) == body.count("(")


def test_large_results_stay(monkeypatch):
    """A result above the limit is left to the run; one at the limit is not."""
    body = "c = ConstantOfShape(s) y = Add(x, c)"
    constants = "int64[1] s = {100}"
    monkeypatch.setattr(fold, "MAX_ELEMENTS", 99)
    assert folded(body, "float[1] x", constants=constants)[0] == ["ConstantOfShape", "Add"]
    monkeypatch.setattr(fold, "MAX_ELEMENTS", 100)
    assert folded(body, "float[1] x", constants=constants)[0] == ["Add"]


def test_a_declared_terabyte_is_not_computed():
    """The size is known before anything is run."""
    ops, _, known, _ = folded(
        "c = ConstantOfShape(s) e = Expand(c, s) y = Add(x, e)",
        "float[1] x",
        constants="int64[2] s = {1000000, 1000000}",
    )
    assert ops == ["ConstantOfShape", "Expand", "Add"]
    assert known.shapes["e"] == (1000000, 1000000)


BRANCHES = """y = If (c) <
    then_branch = t () => (float[2] p) <float[2] w = {3, 4}> { q = Mul(x, w) p = Add(q, w) },
    else_branch = e () => (float[2] p) { p = Neg(x) }>"""


def test_a_decided_branch_is_inlined():
    """The branch's nodes take the place of the If, names that are taken get its prefix."""
    ops, values, known, source = folded(
        f"c = Equal(w, w) {BRANCHES}", "float[2] x", constants="float[1] w = {9}"
    )
    assert ops == ["Mul", "Add"]
    assert values == {"If_1/w": [3, 4]}
    assert known.shapes["y"] == (2,)
    assert {k: v for k, v in source.items() if k.startswith("If_1")} == {
        "If_1/Mul_0": ("If#1/Mul#0",),
        "If_1/Add_1": ("If#1/Add#1",),
    }


def test_an_open_branch_stays():
    """A condition that is data leaves the If as it is."""
    assert folded(BRANCHES, "float[2] x, bool c")[0] == ["If"]


def test_a_branch_that_passes_an_outer_tensor_on():
    """An inlined Identity of an outer tensor leaves nothing behind."""
    ops, _, _, _ = folded(
        """r = Relu(x)
           b = If (yes) <then_branch = t () => (float[2] p) { p = Identity(r) },
                         else_branch = e () => (float[2] q) { q = Neg(r) }>
           y = Abs(b)""",
        "float[2] x",
        constants="bool yes = {1}",
    )
    assert ops == ["Relu", "Abs"]


def test_nested_branches_are_inlined_in_turn():
    """The inner condition becomes constant once the outer branch is chosen."""
    ops, _, _, _ = folded(
        """y = If (yes) <then_branch = t () => (float[2] p) {
               s = Size(x) n = Constant <value_int = 2> () c = Equal(s, n)
               p = If (c) <then_branch = t2 () => (float[2] a) { a = Abs(x) },
                           else_branch = e2 () => (float[2] b) { b = Neg(x) }> },
             else_branch = e () => (float[2] q) { q = Relu(x) }>""",
        "float[2] x",
        constants="bool yes = {1}",
    )
    assert ops == ["Abs"]


def test_folding_computes_what_a_run_would():
    """A constant convolution has, to the bit, the value it had in the graph."""
    rng = np.random.default_rng(0)
    w = ", ".join(str(v) for v in rng.integers(-9, 9, 18))
    ops, values, _, _ = folded(
        "k = Conv(image, w) y = Add(x, k)",
        "float[1] x",
        constants=f"float[1, 2, 3, 3] image = {{{w}}}, float[1, 2, 3, 3] w = {{{w}}}",
    )
    assert ops == ["Add"]
    assert np.ravel(values["k"]).tolist() == [sum(int(v) ** 2 for v in w.split(", "))]
