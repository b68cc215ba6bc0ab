# SPDX-License-Identifier: Apache-2.0
"""Look-ups over small graphs, bodies of If nodes included."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from analyzer.graph.view import GraphView, captured, reads, subgraphs, weight_output_axis


def parsed(text):
    return onnx.parser.parse_graph(text)


BRANCHES = """g (float[1,2] x, bool c) => (float[1,2] y) {
    [first] h = Relu(x)
    [other] k = Neg(h)
    [pick] y = If (c) <
        then_branch = t () => (float[1,2] a) { w = Abs(h)  a = Add(w, k) },
        else_branch = e () => (float[1,2] b) {
            [inner] b = If (c) <
                then_branch = tt () => (float[1,2] d) { d = Neg(x) },
                else_branch = ee () => (float[1,2] f) { f = Identity(h) }
            >
        }
    >
}"""

DIAMOND = """g (float[1,2] x) => (float[1,2] y, float[1,2] l) {
    [top] h = Relu(x)
    [left] l = Neg(h)
    [right] r = Abs(h)
    [square] s = Mul(r, r)
    [join] y = Add(l, s)
}"""


def test_bodies_of_a_node_are_found():
    """An If has two bodies, a Relu none."""
    nodes = GraphView(parsed(BRANCHES)).nodes
    assert [body.name for body in subgraphs(nodes["pick"])] == ["t", "e"]
    assert list(subgraphs(nodes["first"])) == []


def test_captured_tensors_come_from_any_depth():
    """What bodies make themselves is not captured; what an inner If captures is."""
    pick = GraphView(parsed(BRANCHES)).nodes["pick"]
    assert captured(pick) == ["h", "k", "c", "x"]
    assert reads(pick) == ["c", "h", "k", "x"]


def test_a_body_output_may_be_an_outer_tensor():
    """A body that returns an outer tensor as it is captures it."""
    graph = parsed(
        """g (float[2] x, bool c) => (float[2] y) {
            [pick] y = If (c) <
                then_branch = t () => (float[2] x) { u = Neg(x) },
                else_branch = e () => (float[2] b) { b = Neg(x) }
            >
        }"""
    )
    assert captured(graph.node[0]) == ["x"]


def test_consumers_are_counted_per_slot():
    """Mul(r, r) reads r twice; an If reads what its bodies capture."""
    view = GraphView(parsed(DIAMOND))
    assert view.consumers == {
        "x": ["top"],
        "h": ["left", "right"],
        "r": ["square", "square"],
        "l": ["join"],
        "s": ["join"],
    }
    assert GraphView(parsed(BRANCHES)).consumers["h"] == ["other", "pick"]


def test_producers_parents_and_children():
    """Every neighbour is named once, in the order of the slots."""
    view = GraphView(parsed(DIAMOND))
    assert view.producer == {"h": "top", "l": "left", "r": "right", "s": "square", "y": "join"}
    assert view.parents(view.nodes["join"]) == ["left", "square"]
    assert view.parents(view.nodes["square"]) == ["right"]
    assert view.children(view.nodes["top"]) == ["left", "right"]
    assert view.children(view.nodes["right"]) == ["square"]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (["top"], {"top", "left", "right", "square", "join"}),
        (["right"], {"right", "square", "join"}),
        (["left", "right"], {"left", "right", "square", "join"}),
        (["join"], {"join"}),
    ],
)
def test_descendants_are_all_that_can_be_reached(start, expected):
    """The start belongs to them, side branches do not."""
    assert GraphView(parsed(DIAMOND)).descendants(start) == expected


def test_initializers_are_no_inputs():
    """Old files list weights as inputs, too."""
    graph = parsed("g (float[2] x, float[2] w) => (float[2] y) { y = Add(x, w) }")
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32([1, 2]), "w"))
    view = GraphView(graph)
    assert (view.inputs, view.outputs) == (["x"], ["y"])
    assert view.is_constant("w")
    assert not view.is_constant("x")
    np.testing.assert_array_equal(view.array("w"), np.float32([1, 2]))


@pytest.mark.parametrize(
    ("op", "attributes", "rank", "expected"),
    [
        ("Conv", {}, 4, 0), ("ConvTranspose", {}, 4, 1), ("Gemm", {}, 2, 1),
        ("Gemm", {"transB": 1}, 2, 0), ("MatMul", {}, 3, 2), ("MatMul", {}, 1, None),
        ("Mul", {}, 2, None),
    ],
)  # fmt: skip
def test_the_output_axis_of_a_weight(op, attributes, rank, expected):
    """As ONNX lays weights out; a transposed Gemm has its outputs in front."""
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    assert weight_output_axis(node, rank) == expected
