# SPDX-License-Identifier: Apache-2.0
"""Nodes that do nothing disappear, without renaming what the user sees."""

from __future__ import annotations

import onnx
import pytest

from analyzer.graph.simplify import remove_identities, remove_unused


def simplified(body, outputs="float[2] y", constants="float[2] w = {1, 2}", dtypes=None):
    graph = onnx.parser.parse_graph(f"g (float[2] x) => ({outputs}) <{constants}> {{ {body} }}")
    remove_identities(graph, dtypes)
    remove_unused(graph)
    return [(n.op_type, list(n.input), list(n.output)) for n in graph.node]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = Identity(x) b = Identity(a) y = Relu(b)", [("Relu", ["x"], ["y"])]),
        ("a = Relu(x) y = Identity(a)", [("Relu", ["x"], ["y"])]),
        ("a = Relu(x) b = Identity(a) y = Identity(b)", [("Relu", ["x"], ["y"])]),
        ("a = Identity(w) y = Add(x, a)", [("Add", ["x", "w"], ["y"])]),
        ("a, m = Dropout(x) y = Relu(a)", [("Relu", ["x"], ["y"])]),
        ("a = Dropout(x, r, no) y = Relu(a)", [("Relu", ["x"], ["y"])]),
        ("unused = Relu(x) y = Neg(x)", [("Neg", ["x"], ["y"])]),
    ],
)
def test_nothing_is_taken_out(body, expected):
    """Chains collapse, and a graph output keeps its name."""
    constants = "float[2] w = {1, 2}, float r = {0.5}, bool no = {0}"
    assert simplified(body, constants=constants) == expected


@pytest.mark.parametrize(
    "body",
    ["y = Identity(x)", "y = Identity(w)", "a = Dropout(x, r, yes) y = Relu(a)"],
)
def test_what_does_something_stays(body):
    """An input or constant cannot be renamed to an output, and training Dropout is random."""
    constants = "float[2] w = {1, 2}, float r = {0.5}, bool yes = {1}"
    assert len(simplified(body, constants=constants)) == body.count("=")


def test_dropout_with_a_used_mask_stays():
    """The mask has no other source."""
    body = "a, m = Dropout(x) y = Relu(a) z = Not(m)"
    assert len(simplified(body, "float[2] y, bool[2] z")) == 3


def test_two_outputs_of_one_tensor_keep_both_names():
    """Only one of them can be taken over by the producer; the other is copied from it."""
    assert simplified("a = Relu(x) y = Identity(a) z = Identity(a)", "float[2] y, float[2] z") == [
        ("Relu", ["x"], ["y"]),
        ("Identity", ["y"], ["z"]),
    ]


def test_readers_inside_a_branch_follow():
    """A branch that captured the removed tensor reads its source."""
    graph = onnx.parser.parse_graph(
        """g (float[2] x, bool c) => (float[2] y) {
            a = Identity(x)
            y = If (c) <then_branch = t () => (float[2] p) { p = Neg(a) },
                        else_branch = e () => (float[2] q) { q = Abs(a) }>
        }"""
    )
    remove_identities(graph)
    assert [n.op_type for n in graph.node] == ["If"]
    assert {i for a in graph.node[0].attribute for n in a.g.node for i in n.input} == {"x"}


def test_casts_to_the_same_type_go():
    """Widened models are full of them."""
    body = "a = Cast <to = 1> (x) y = Relu(a)"
    assert simplified(body, dtypes={"x": "float32", "a": "float32"}) == [("Relu", ["x"], ["y"])]
    assert len(simplified(body, dtypes={"x": "int64", "a": "float32"})) == 2
