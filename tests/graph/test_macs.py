# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates against counts made by hand."""

from __future__ import annotations

import onnx
import pytest

from analyzer.graph.macs import count_macs

CASES = {
    # 2*3*3 outputs per channel group, each over 4/2 channels of a 3x3 kernel
    "Conv <group: int = 2>": ({"x": (1, 4, 5, 5), "w": (6, 2, 3, 3)}, (1, 6, 3, 3), 54 * 18),
    # every one of the 4*5*5 inputs reaches 3 channels of a 2x2 kernel
    "ConvTranspose": ({"x": (1, 4, 5, 5), "w": (4, 3, 2, 2)}, (1, 3, 6, 6), 100 * 12),
    # 2 x 5 outputs over K = 3
    "Gemm": ({"x": (2, 3), "w": (3, 5)}, (2, 5), 30),
    # the same with the first operand stored as K x M
    "Gemm <transA: int = 1>": ({"x": (3, 2), "w": (3, 5)}, (2, 5), 30),
    # 7 products of 2x3 by 3x5
    "MatMul": ({"x": (7, 2, 3), "w": (3, 5)}, (7, 2, 5), 210),
    # 6 steps, batch 2, 2 directions, 4 gates of 8 hidden over 5 features and 8 hidden
    "LSTM": ({"x": (6, 2, 5), "w": (2, 32, 5), "r": (2, 32, 8)}, (6, 2, 2, 8), 24 * 32 * 13),
    "GRU": ({"x": (6, 2, 5), "w": (1, 24, 5), "r": (1, 24, 8)}, (6, 1, 2, 8), 12 * 24 * 13),
    "RNN": ({"x": (6, 2, 5), "w": (1, 8, 5), "r": (1, 8, 8)}, (6, 1, 2, 8), 12 * 8 * 13),
    # 2 heads of size 4 over 3 queries and 5 keys, values of size 6
    "Attention": (
        {"q": (1, 2, 3, 4), "k": (1, 2, 5, 4), "v": (1, 2, 5, 6)},
        (1, 2, 3, 6),
        2 * 3 * 5 * (4 + 6),
    ),
    # projections of 3 steps from 8 to 3*8, then 3 x 3 weights over 8 and 8
    "com.microsoft.Attention": (
        {"x": (1, 3, 8), "w": (8, 24)},
        (1, 3, 8),
        3 * 8 * 24 + 3 * 3 * 16,
    ),
}


@pytest.mark.parametrize("op", CASES)
def test_counts_equal_a_hand_calculation(op):
    """The count of one layer is the one worked out by hand from its shapes."""
    inputs, output, expected = CASES[op]
    name, _, attributes = op.partition(" ")
    graph = onnx.parser.parse_graph(
        f"g (float[1] a) => (float[1] y) {{ y = {name} {attributes} ({', '.join(inputs)}) }}"
    )
    graph.node[0].name = "layer"
    assert count_macs(graph, {**inputs, "y": output}) == {"layer": expected}


def test_other_nodes_have_no_count():
    """An activation is left out, not counted as 0."""
    graph = onnx.parser.parse_graph("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    assert count_macs(graph, {"x": (4,), "y": (4,)}) == {}
