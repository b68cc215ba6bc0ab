# SPDX-License-Identifier: Apache-2.0
"""A model whose nodes are replaced stays whole: shapes, sources, types to print, counts."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from analyzer.graph.edit import GraphEditor

TEXT = "g (float[1,2] x) => (float[1,2] y) { [a] h = Relu(x) [b] k = Abs(h) [c] y = Neg(k) }"


def names(model):
    return [(n.name, n.op_type, list(n.input), list(n.output)) for n in model.proto.graph.node]


def test_nothing_done_is_the_same_model(bind):
    """No copy is made of what was not changed."""
    model = bind(TEXT)
    assert GraphEditor(model).done() == model


def test_fusing_keeps_the_way_back_and_forgets_what_is_gone(bind):
    """The new node stands for all; the tensor between them has no shape any more."""
    model = bind(TEXT)
    edit = GraphEditor(model)
    edit.fuse(["a", "b"], helper.make_node("Elu", ["x"], ["k"], name="e"), kind="Hull")
    done = edit.done()
    assert names(done) == [("e", "Elu", ["x"], ["k"]), ("c", "Neg", ["k"], ["y"])]
    assert done.source_nodes == {"e": ("a", "b"), "c": ("c",)}
    assert done.op_types == {"e": "Hull"}
    assert set(done.shapes) == set(done.dtypes) == {"x", "k", "y"}
    assert [n.name for n in model.proto.graph.node] == ["a", "b", "c"]


def test_inserting_brings_its_own_shape(bind):
    """Nobody of the user's stands behind the new node."""
    edit = GraphEditor(bind(TEXT))
    edit.insert_before(
        "c", helper.make_node("Exp", ["k"], ["k2"], name="new"), shapes={"k2": (1, 2)}
    )
    edit.view.nodes["c"].input[0] = "k2"
    edit.touch()
    done = edit.done()
    assert [n[0] for n in names(done)] == ["a", "b", "new", "c"]
    assert done.source_nodes["new"] == ()
    assert (done.shapes["k2"], done.dtypes["k2"]) == ((1, 2), "float32")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("b", [("a", "Relu", ["x"], ["h"]), ("c", "Neg", ["h"], ["y"])]),
        ("c", [("a", "Relu", ["x"], ["h"]), ("b", "Abs", ["h"], ["y"])]),
        ("a", [("b", "Abs", ["x"], ["k"]), ("c", "Neg", ["k"], ["y"])]),
    ],
    ids=["between", "last", "first"],
)
def test_a_bypassed_node_is_gone_and_outputs_keep_their_names(bind, name, expected):
    """The graph output is made by the node before, where it was the bypassed one's."""
    edit = GraphEditor(bind(TEXT))
    edit.bypass(name)
    assert names(edit.done()) == expected


def test_a_bypassed_node_between_input_and_output_stays(bind):
    """Neither can be renamed."""
    edit = GraphEditor(bind("g (float[2] x) => (float[2] y) { [i] y = Identity(x) }"))
    edit.bypass("i")
    assert len(edit.done().proto.graph.node) == 1


def test_constants_get_free_names_and_are_counted(bind):
    """Two of one wish have two names; only what is read stays."""
    edit = GraphEditor(bind(TEXT))
    first, second = (edit.constant("w", np.ones(3, np.float32)) for _ in range(2))
    assert (first, second) == ("w", "w_2")
    assert edit.array("w_2").tolist() == [1, 1, 1]
    assert edit.done().parameters == 0


def test_a_stand_in_multiplies_nothing(bind):
    """A ConvTranspose that only spreads values has no multiply-accumulates."""
    edit = GraphEditor(bind("g (float[1,1,2] x) => (float[1,1,2] y) { [r] y = Relu(x) }"))
    one = edit.constant("one", np.ones((1, 1, 1), np.float32))
    edit.fuse(
        ["r"], helper.make_node("ConvTranspose", ["x", one], ["y"], name="z"), kind="InsertZeros"
    )
    assert edit.done().macs == {}
