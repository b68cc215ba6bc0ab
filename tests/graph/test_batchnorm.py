# SPDX-License-Identifier: Apache-2.0
"""BatchNormalization is folded where that is exact, and left alone elsewhere."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer.graph.batchnorm import fold_batchnorm
from analyzer.graph.names import name_nodes
from analyzer.graph.simplify import remove_unused

# gamma / sqrt(var + eps) = 4 / sqrt(3 + 1) = 2 and 3 / sqrt(8 + 1) = 1
NORM = "<epsilon: float = 1.0> (h, gamma, beta, mean, var)"
STATISTICS = """float[2] gamma = {4, 3}, float[2] beta = {10, 20},
                float[2] mean = {1, 2}, float[2] var = {3, 8}"""


def fold(body, constants, shape="1, 2, 3, 3", outputs="float[] y"):
    graph = onnx.parser.parse_graph(
        f"g (float[{shape}] x) => ({outputs}) <{STATISTICS}, {constants}> {{ {body} }}"
    )
    source = name_nodes(graph)
    count = fold_batchnorm(graph, source)
    remove_unused(graph)
    return graph, source, count


def values(graph):
    return {t.name: numpy_helper.to_array(t).tolist() for t in graph.initializer}


def test_conv_takes_over_scale_and_shift():
    """Weight w*s and bias s*(b-mean)+beta, under the layer's name and the norm's output."""
    graph, source, count = fold(
        f"h = Conv(x, w, b) y = BatchNormalization {NORM}",
        "float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] b = {5, 6}",
    )
    assert count == 1
    assert [(n.name, n.op_type, list(n.output)) for n in graph.node] == [("Conv_0", "Conv", ["y"])]
    assert source["Conv_0"] == ("Conv#0", "BatchNormalization#1")
    # 2 * (5 - 1) + 10 = 18 and 1 * (6 - 2) + 20 = 24
    assert values(graph) == {"w": [[[[2]], [[4]]], [[[3]], [[4]]]], "b": [18, 24]}


def test_conv_without_bias_gets_one():
    """Where there is no bias, it is -s*mean + beta."""
    graph, _, _ = fold(
        f"h = Conv(x, w) y = BatchNormalization {NORM}", "float[2, 2, 1, 1] w = {1, 2, 3, 4}"
    )
    assert list(graph.node[0].input) == ["x", "w", "Conv_0.bias"]
    assert values(graph)["Conv_0.bias"] == [8, 18]


def test_conv_transpose_scales_its_second_axis_by_group():
    """The output channels of a grouped ConvTranspose lie on axis 1 within each group of axis 0."""
    graph, _, _ = fold(
        f"h = ConvTranspose <group: int = 2> (x, w) y = BatchNormalization {NORM}",
        "float[2, 1, 1, 1] w = {1, 10}",
    )
    assert np.ravel(values(graph)["w"]).tolist() == [2, 10]
    graph, _, _ = fold(
        f"h = ConvTranspose (x, w) y = BatchNormalization {NORM}",
        "float[2, 2, 1, 1] w = {1, 10, 100, 1000}",
    )
    assert np.ravel(values(graph)["w"]).tolist() == [2, 10, 200, 1000]


@pytest.mark.parametrize(("trans", "expected"), [(0, [[2, 2], [6, 4]]), (1, [[2, 4], [3, 4]])])
def test_gemm_scales_its_output_axis_and_keeps_alpha(trans, expected):
    """The weight's columns (rows if transposed) are scaled; beta goes into the bias."""
    graph, _, _ = fold(
        f"h = Gemm <transB: int = {trans}, alpha: float = 3.0, beta: float = 2.0> (x, w, b)"
        f" y = BatchNormalization {NORM}",
        "float[2, 2] w = {1, 2, 3, 4}, float[2] b = {5, 6}",
        shape="1, 2",
    )
    # 2 * (2*5 - 1) + 10 = 28 and 1 * (2*6 - 2) + 20 = 30
    assert values(graph) == {"w": expected, "b": [28, 30]}
    given = {a.name: a.f for a in graph.node[0].attribute if a.type == onnx.AttributeProto.FLOAT}
    assert given == {"alpha": 3.0, "beta": 1.0}


def test_a_shared_weight_is_cloned():
    """A second layer on the same weight and bias keeps the values it had."""
    graph, _, _ = fold(
        f"h = Conv(x, w, b) y = BatchNormalization {NORM} z = Conv(x, w, b)",
        "float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2] b = {5, 6}",
        outputs="float[] y, float[] z",
    )
    assert [list(n.input) for n in graph.node] == [["x", "w_Conv_0", "b_Conv_0"], ["x", "w", "b"]]
    found = values(graph)
    assert np.ravel(found["w"]).tolist() == [1, 2, 3, 4]
    assert np.ravel(found["w_Conv_0"]).tolist() == [2, 4, 3, 4]
    assert (found["b"], found["b_Conv_0"]) == ([5, 6], [18, 24])


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (f"h = Conv(x, w) y = BatchNormalization {NORM} z = Relu(h)", "float[] y, float[] z"),
        (f"h = Conv(x, w) y = BatchNormalization {NORM}", "float[] y, float[] h"),
        ("h = Conv(x, w) y = BatchNormalization (h, gamma, beta, mean, x)", "float[] y"),
        (
            """h = Conv(x, w)
            y = BatchNormalization <training_mode: int = 1> (h, gamma, beta, mean, var)""",
            "float[] y",
        ),
        (f"h = Conv(x, x) y = BatchNormalization {NORM}", "float[] y"),
        (f"h = Relu(x) y = BatchNormalization {NORM}", "float[] y"),
    ],
    ids=["second reader", "graph output", "parameter", "training", "weight", "other layer"],
)
def test_what_cannot_be_folded_stays(body, outputs):
    """A norm whose folding would change something else, or is no constant, is left alone."""
    graph, _, count = fold(body, "float[2, 2, 1, 1] w = {1, 2, 3, 4}", outputs=outputs)
    assert count == 0
    assert "BatchNormalization" in {n.op_type for n in graph.node}
