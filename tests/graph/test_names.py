# SPDX-License-Identifier: Apache-2.0
"""Node names are unique and lead back to the file; nodes stand in a topological order."""

from __future__ import annotations

import onnx
import pytest

from analyzer.errors import ModelError
from analyzer.graph.names import name_nodes, rename_reads, sort_nodes


def graph_of(body, names=()):
    graph = onnx.parser.parse_graph(f"g (float[2] x) => (float[2] y) {{ {body} }}")
    for node, name in zip(graph.node, names, strict=False):
        node.name = name
    return graph


def test_made_up_names_never_take_a_given_one():
    """Unnamed nodes are called by type and index, twins get a number, and nothing collides."""
    graph = graph_of(
        "a = Relu(x) b = Relu(a) c = Relu(b) d = Relu(c) y = Relu(d)",
        ["", "act", "act", "Relu_0", "act_2"],
    )
    source = name_nodes(graph)
    assert [n.name for n in graph.node] == ["Relu_0_2", "act", "act_3", "Relu_0", "act_2"]
    assert source == {
        "Relu_0_2": ("Relu#0",),
        "act": ("act",),
        "act_3": ("act",),
        "Relu_0": ("Relu_0",),
        "act_2": ("act_2",),
    }


def test_nodes_are_sorted():
    """A file whose nodes are out of order is put in order."""
    graph = graph_of("y = Neg(b) b = Abs(a) a = Relu(x)")
    sort_nodes(graph)
    assert [n.op_type for n in graph.node] == ["Relu", "Abs", "Neg"]


def test_a_cycle_is_refused():
    """Nodes that wait for each other are named."""
    graph = graph_of("a = Add(x, b) b = Relu(a) y = Relu(b)", ["one", "two", "three"])
    with pytest.raises(ModelError, match="cycle through 3 nodes \\('one', 'two'"):
        sort_nodes(graph)


def test_renaming_reaches_into_bodies():
    """A tensor captured by a branch is renamed there; a local one of that name is not."""
    graph = graph_of(
        """y = If (c) <then_branch = t () => (float[2] p) { q = Relu(x) p = Neg(q) },
                       else_branch = e () => (float[2] p) { p = Abs(x) }>"""
    )
    names = {"x": "new", "q": "wrong"}
    rename_reads(graph.node[0], lambda name: names.get(name, name))
    then, other = (a.g for a in graph.node[0].attribute)
    assert [list(n.input) for n in then.node] == [["new"], ["q"]]
    assert [list(n.input) for n in other.node] == [["new"]]
