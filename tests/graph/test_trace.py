# SPDX-License-Identifier: Apache-2.0
"""The way back: which nodes of the user's stand behind a node of a rewritten graph."""

from __future__ import annotations

import onnx
import pytest

from analyzer.graph.trace import skeleton, trace_sources


def graph_of(body, constants=()):
    graph = onnx.parser.parse_graph(f"g (float[2] x) => (float[2] y) {{ {body} }}")
    graph.initializer.extend(onnx.TensorProto(name=name) for name in constants)
    return graph


CASES = {
    "a folded norm, tensor of the Conv kept": (
        "[c] h = Conv(x, w) [n] k = BatchNormalization(h, s, o, m, v) [r] y = Relu(k)",
        "[c] h = Conv(x, w) [r] y = Relu(h)",
        {"c": ("c", "n"), "r": ("r",)},
    ),
    "a folded norm, tensor of the norm kept": (
        "[c] h = Conv(x, w) [n] k = BatchNormalization(h, s, o, m, v) [r] y = Relu(k)",
        "[c] k = Conv(x, w) [r] y = Relu(k)",
        {"c": ("c", "n"), "r": ("r",)},
    ),
    "a pad folded forward": (
        "[p] h = Pad(x, w) [c] k = Conv(h, w) [r] y = Relu(k)",
        "[c] k = Conv(x, w) [r] y = Relu(k)",
        {"c": ("p", "c"), "r": ("r",)},
    ),
    "MatMul and Add between two Reshapes": (
        "[m] h = MatMul(x, w) [a] k = Add(h, s) [r] y = Relu(k)",
        "[R0] t0 = Reshape(x, o) [G] t1 = Gemm(t0, w, s) [R1] k = Reshape(t1, o) [r] y = Relu(k)",
        {"R0": (), "G": ("m", "a"), "R1": (), "r": ("r",)},
    ),
    "equal nodes merged": (
        "[a] h = Relu(x) [b] k = Relu(x) [c] y = Add(h, k)",
        "[a] h = Relu(x) [c] y = Add(h, h)",
        {"a": ("a", "b"), "c": ("c",)},
    ),
    "slices merged in pairs": (
        (
            "[s1] a = Slice(x, w, o) [s2] b = Slice(a, w, s) [s3] c = Slice(x, m, o) "
            "[s4] d = Slice(c, m, s) [j] y = Concat<axis=0>(b, d)"
        ),
        "[S0] t0 = Slice(x, w, s) [S1] t1 = Slice(x, m, s) [j] y = Concat<axis=0>(t0, t1)",
        {"S0": ("s1", "s2"), "S1": ("s3", "s4"), "j": ("j",)},
    ),
    "shape arithmetic folded": (
        "[r] h = Relu(x) [s] k = Shape(h) [g] i = Gather(k, o) [e] y = Reshape(h, i)",
        "[r] h = Relu(x) [e] y = Reshape(h, w)",
        {"r": ("r",), "e": ("e",)},
    ),
    "an Identity dropped": (
        "[r] h = Relu(x) [i] k = Identity(h) [n] y = Neg(k)",
        "[r] h = Relu(x) [n] y = Neg(h)",
        {"r": ("r",), "n": ("n",)},
    ),
    "two Reshapes dissolved into their reader": (
        "[a] h = Reshape(x, w) [b] k = Reshape(h, s) [n] y = Neg(k)",
        "[n] y = Neg(x)",
        {"n": ("a", "b", "n")},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_node_that_computes_is_counted_once(case):
    """With the node that does its work now."""
    before, after, expected = CASES[case]
    constants = ["w", "s", "o", "m", "v"]
    user = graph_of(before, constants)
    source = {node.name: (node.name,) for node in user.node}
    assert trace_sources(skeleton(user), source, graph_of(after, constants)) == expected
