# SPDX-License-Identifier: Apache-2.0
"""Multiply-accumulates of computing layers, counted from static shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import onnx

from analyzer.graph.view import attributes

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def count_macs(graph: onnx.GraphProto, shapes: Shapes) -> dict[str, int]:
    """Count the multiply-accumulates of one run, by node name; nodes that have none are left out.

    `shapes` holds that of every tensor.  Bodies of `If`, `Loop` and `Scan` are not counted: how
    often they run is not static.
    """
    found = {}
    for node in graph.node:
        count = _COUNTERS.get((node.domain, node.op_type))
        if count is not None:
            found[node.name] = count(node, shapes)
    return found


def _conv(node: onnx.NodeProto, shapes: Shapes) -> int:
    # weight (M, C / group, *kernel): every output element sums over the last axes
    return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])


def _conv_transpose(node: onnx.NodeProto, shapes: Shapes) -> int:
    # weight (C, M / group, *kernel): every input element is spread over the last axes
    return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])


def _gemm(node: onnx.NodeProto, shapes: Shapes) -> int:
    a = shapes[node.input[0]]
    inner = a[0] if attributes(node).get("transA", 0) else a[1]
    return prod(shapes[node.output[0]]) * inner


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> int:
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _recurrent(node: onnx.NodeProto, shapes: Shapes) -> int:
    # x (steps, batch, features), w (directions, gates * hidden, features), r likewise with
    # hidden; `layout` swaps steps and batch, which the product does not see
    first, second, features = shapes[node.input[0]]
    directions, _, hidden = shapes[node.input[2]]
    return first * second * directions * _GATES[node.op_type] * hidden * (features + hidden)


def _attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Count ONNX Attention: query times keys, then weights times values."""
    query, key = shapes[node.input[0]], shapes[node.input[1]]
    out = shapes[node.output[0]]
    past = node.input[4] if len(node.input) > 4 else ""
    keys = key[-2] + (shapes[past][-2] if past else 0)
    # (B, heads, S, size) or (B, S, heads * size): the elements are the same
    return keys * (prod(query) + prod(out))


def _attention_ms(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Count com.microsoft Attention, which projects to query, key and value itself."""
    batch, steps, features = shapes[node.input[0]]
    projected = shapes[node.input[1]][-1]  # the hidden sizes of query, key and value together
    values = shapes[node.output[0]][-1]
    queries = (projected - values) // 2  # query and key are of one size
    past = node.input[4] if len(node.input) > 4 else ""
    keys = steps + (shapes[past][3] if past else 0)  # past (2, B, heads, P, size)
    return batch * steps * (features * projected + keys * (queries + values))


_COUNTERS: dict[tuple[str, str], Callable[[onnx.NodeProto, Shapes], int]] = {
    ("", "Conv"): _conv,
    ("", "ConvTranspose"): _conv_transpose,
    ("", "Gemm"): _gemm,
    ("", "MatMul"): _matmul,
    ("", "LSTM"): _recurrent,
    ("", "GRU"): _recurrent,
    ("", "RNN"): _recurrent,
    ("", "Attention"): _attention,
    ("com.microsoft", "Attention"): _attention_ms,
    ("qanalyze.attention", "Attention"): _attention,
    ("qanalyze.attention", "MaskedAttention"): _attention,
}
# op types that multiply and accumulate
COUNTED = frozenset(kind for _, kind in _COUNTERS)
