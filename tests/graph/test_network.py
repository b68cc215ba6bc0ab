# SPDX-License-Identifier: Apache-2.0
"""How layers hang together."""

from __future__ import annotations

from analyzer.graph.network import network_of
from analyzer.graph.view import GraphView

MODEL = """
g (float[1,4] x, float[1,4] y) => (float[1,4] out, float[1,4] same, float[1,4] part)
{
  a = Relu (x)
  t = Identity (a)
  b = Sigmoid (t)
  c = Add (t, y)
  out = Mul (b, c)
  same = Identity (y)
  part = Identity (out)
}
"""


def test_what_is_no_layer_is_left_out_and_its_paths_are_not(bind):
    """Edges lead through nodes that are no layers, and stop at layers."""
    model = bind(MODEL, opset=17)
    view = GraphView(model.proto.graph)
    by_type = {node.op_type: name for name, node in view.nodes.items()}
    layers = [by_type[kind] for kind in ("Relu", "Sigmoid", "Add", "Mul")]
    found = network_of(view, layers, hidden=["part"])
    assert found.edges == ((0, 1), (0, 2), (1, 3), (2, 3))
    assert found.inputs == {"x": (0,), "y": (2,)}
    assert found.outputs == {"out": (3,), "same": ()}
