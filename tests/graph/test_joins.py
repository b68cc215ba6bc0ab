# SPDX-License-Identifier: Apache-2.0
"""Seams: where the parts of Concats meet, through everything that only rearranges values."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.graph.joins import seams
from analyzer.graph.tensors import TensorRuns
from analyzer.graph.view import GraphView

INPUTS = "float[2,4,3] a, float[2,6,3] b"
SHAPES = {
    "united": [2, 30], "split": [2, 5, 2, 3], "across": [2, 2, 5, 3], "ones": [1, 2, 1, 10, 1, 3],
    "zero": [0],
}  # fmt: skip


@pytest.fixture
def found(bind):
    """Return a function: nodes that make y of a and b -> the model and the seams of y."""

    def make(nodes):
        shapes = {name: np.array(value, np.int64) for name, value in SHAPES.items()}
        model = bind(f"g ({INPUTS}) => (float[] y) {{ {nodes} }}", **shapes)
        return model, seams(model, GraphView(model.proto.graph), "y")

    return make


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("y = Identity(c)", {1: {4}}),
        ("d = Cast <to = 11> (c) y = Cast <to = 1> (d)", {1: {4}}),
        ("y = Transpose <perm = [2, 0, 1]> (c)", {2: {4}}),
        ("y = Transpose(c)", {1: {4}}),
        ("y = Flatten(c)", {1: {12}}),
        ("y = Reshape(c, united)", {1: {12}}),
        ("y = Reshape(c, split)", {1: {2}}),
        ("y = Reshape(c, ones)", {3: {4}}),
        ("d = Unsqueeze(c, zero) y = Squeeze(d, zero)", {1: {4}}),
        ("d = Flatten(c) y = Transpose(d)", {0: {12}}),
    ],
)
def test_both_sides_of_a_seam_hold_one_part(found, nodes, expected):
    """With zeros for one part and ones for the other, all is 0 before the seam and 1 behind."""
    model, places = found(f"c = Concat <axis = 1> (a, b) {nodes}")
    assert places == expected
    parts = {"a": np.zeros((2, 4, 3), np.float32), "b": np.ones((2, 6, 3), np.float32)}
    value = TensorRuns(model, ["y"]).run(parts)["y"]
    ((axis, (seam,)),) = expected.items()
    before, behind = np.split(value, [seam], axis)
    assert (before == 0).all()
    assert (behind == 1).all()


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Relu(a)",
        "y = Concat <axis = 1> (a)",
        "c = Concat <axis = 1> (a, b) y = Relu(c)",
        "c = Concat <axis = 1> (a, b) y = Flatten <axis = 2> (c)",  # the axis is inside another
        "c = Concat <axis = 1> (a, b) y = Reshape(c, across)",  # 4 is no multiple of 5
    ],
)
def test_no_seam(found, nodes):
    """One part, another operator, or a shape whose axes do not follow the parts."""
    assert found(nodes)[1] == {}


LEVELS = """c = Concat <axis = 1> (a, b)  d = Concat <axis = 1> (a, b)
    e = Concat <axis = 2> (c, d)"""


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("y = Concat <axis = 1> (a, b, a)", {1: {4, 10}}),
        ("c = Concat <axis = -2> (a, b) y = Concat <axis = 1> (a, c)", {1: {4, 8}}),
        # levels of a detector: boxes and scores of each, then one level behind the other
        (f"{LEVELS} y = Transpose <perm = [0, 2, 1]> (e)", {1: {3}, 2: {4}}),
        # levels whose parts do not meet at the same place
        ("c = Concat <axis = 1> (a, b) d = Concat <axis = 1> (b, a) y = Concat <axis = 2> (c, d)",
         {2: {3}}),
    ],
)  # fmt: skip
def test_concats_of_concats(found, nodes, expected):
    """Seams along the joined axis add up; others stay where all parts have them."""
    assert found(nodes)[1] == expected


def test_an_input_has_no_seam(bind):
    """Nor has a tensor that no node makes."""
    model = bind("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    assert seams(model, GraphView(model.proto.graph), "x") == {}
