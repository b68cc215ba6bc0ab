# SPDX-License-Identifier: Apache-2.0
"""Constants are initializers, and narrow floats are float32, wherever they hide."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from analyzer.graph.constants import count_floats, lift_constants, widen_floats


def test_every_form_of_constant_becomes_an_initializer():
    """Tensor, scalar and list attributes give the values the standard says."""
    forms = {
        "value": numpy_helper.from_array(np.array([[1, 2]], np.int32)),
        "value_float": 0.5,
        "value_floats": [1.5, 2.5],
        "value_int": 7,
        "value_ints": [8, 9],
        "value_string": "one",
        "value_strings": ["two", "three"],
    }
    nodes = [helper.make_node("Constant", [], [k], **{k: v}) for k, v in forms.items()]
    nodes.append(helper.make_node("Constant", [], ["y"], value_int=1))
    output = helper.make_tensor_value_info("y", TensorProto.INT64, [])
    graph = helper.make_graph(nodes, "g", [], [output])
    lift_constants(graph)
    found = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    assert {k: v.tolist() for k, v in found.items()} == {
        "value": [[1, 2]],
        "value_float": 0.5,
        "value_floats": [1.5, 2.5],
        "value_int": 7,
        "value_ints": [8, 9],
        "value_string": "one",
        "value_strings": ["two", "three"],
    }
    assert found["value_float"].dtype == np.float32
    assert found["value_int"].dtype == np.int64
    # the one that is a graph output has to stay a node
    assert [list(n.output) for n in graph.node] == [["y"]]


def test_narrow_floats_are_widened_everywhere():
    """Inputs, initializers, Constants, Casts, value infos and branches become float32."""
    # ONNX text writes float16 as its bits: 15360 is 1.0, 16384 is 2.0, then 3.0 and 4.0
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 13]>
        g (float16[2] x, bool c) => (bfloat16[2] y) <float16[2] a, float16[2] w = {15360, 16384}> {
            a = Add(x, w)
            y = If (c) <
                then_branch = t () => (bfloat16[2] p) { p = Cast <to = 16> (a) },
                else_branch = e () => (bfloat16[2] q) {
                    k = Constant <value = float16[2] {16896, 17408}> ()
                    q = Cast <to = 16> (k) }>
        }"""
    )
    assert widen_floats(model) == {"FP16", "BF16"}
    text = onnx.printer.to_text(model)
    assert "float16" not in text
    assert "to: int = 16" not in text
    assert numpy_helper.to_array(model.graph.initializer[0]).tolist() == [1, 2]
    constant = model.graph.node[1].attribute[1].g.node[0].attribute[0].t
    assert numpy_helper.to_array(constant).tolist() == [3, 4]
    assert widen_floats(model) == set()


def test_float_numbers_are_counted_in_branches_too():
    """Six in the graph and two in a branch; integers are no parameters."""
    graph = onnx.parser.parse_graph(
        """g (bool c) => (float[2] y) <float[2, 3] w = {1, 2, 3, 4, 5, 6}, int64[1] i = {1}> {
            y = If (c) <then_branch = t () => (float[2] p) { p = Neg(w) },
                        else_branch = e () => (float[2] q) {
                            k = Constant <value = float[2] {3, 4}> () q = Neg(k) }>
        }"""
    )
    assert count_floats(graph) == 8
