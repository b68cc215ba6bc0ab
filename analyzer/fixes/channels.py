# SPDX-License-Identifier: Apache-2.0
"""Channels of weights: one layout for the weights of all layers that mix channels.

In blocks a weight is (G, O, I, K): groups, outputs and inputs of each, and what is left of the
kernel.  Output channel g * O + o, and input channel g * I + i.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from analyzer.errors import ModelError, nearest
from analyzer.graph.edit import GraphEditor
from analyzer.graph.view import GraphView, attributes, gemm_output_axis
from analyzer.records import Model

F32 = npt.NDArray[np.float32]
Array = npt.NDArray[Any]  # float32 or float64, as it came

MIXING = ("Conv", "ConvTranspose", "Gemm", "MatMul")
WEIGHT, BIAS = 1, 2  # inputs


def groups_of(node: onnx.NodeProto) -> int:
    """Return how many groups the channels are split into."""
    return int(attributes(node).get("group", 1))


def is_mixing(model: Model, view: GraphView, node: onnx.NodeProto) -> bool:
    """Tell whether `node` is a layer with a constant weight, and a constant bias or none."""
    if node.op_type not in MIXING or node.domain or len(node.input) < BIAS:
        return False
    weight = node.input[WEIGHT]
    if not view.is_constant(weight) or view.is_constant(node.input[0]):
        return False
    if model.dtypes.get(weight) != "float32":
        return False
    if node.op_type == "MatMul":
        return len(model.shapes[weight]) == 2
    if node.op_type == "Gemm" and attributes(node).get("transA", 0):
        return False
    bias = bias_of(node)
    return bias is None or view.is_constant(bias)


def is_depthwise(model: Model, node: onnx.NodeProto) -> bool:
    """Tell whether every output channel is made of the one input channel of its number."""
    groups = groups_of(node)
    shape = model.shapes[node.input[WEIGHT]]
    return node.op_type == "Conv" and groups > 1 and shape[0] == groups and shape[1] == 1


def bias_of(node: onnx.NodeProto) -> str | None:
    """Return the bias of a Conv, ConvTranspose or Gemm; a MatMul has none."""
    if node.op_type == "MatMul" or len(node.input) <= BIAS:
        return None
    return node.input[BIAS] or None


def output_axis(model: Model, node: onnx.NodeProto) -> int:
    """Return the axis of the layer's output that runs over output channels."""
    return len(model.shapes[node.output[0]]) - 1 if node.op_type == "MatMul" else 1


def outputs_of(model: Model, node: onnx.NodeProto) -> int:
    """Return how many output channels there are."""
    return model.shapes[node.output[0]][output_axis(model, node)]


def to_blocks(node: onnx.NodeProto, weight: Array) -> Array:
    """Return a weight of `node` as (G, O, I, K)."""
    if node.op_type in ("Gemm", "MatMul"):
        rows = node.op_type == "Gemm" and gemm_output_axis(node) == 0
        return np.ascontiguousarray(weight if rows else weight.T)[None, :, :, None]
    groups = groups_of(node)
    first, second = weight.shape[:2]
    if node.op_type == "ConvTranspose":
        return weight.reshape(groups, first // groups, second, -1).swapaxes(1, 2)
    return weight.reshape(groups, first // groups, second, -1)


def from_blocks(node: onnx.NodeProto, blocks: Array, kernel: tuple[int, ...]) -> Array:
    """Return a weight in the layout of `node`; `kernel` is its shape from axis 2 on."""
    groups, outputs, inputs, _ = blocks.shape
    if node.op_type in ("Gemm", "MatMul"):
        plain: Array = blocks[0, :, :, 0]
        return plain if node.op_type == "Gemm" and gemm_output_axis(node) == 0 else plain.T
    if node.op_type == "ConvTranspose":
        return blocks.swapaxes(1, 2).reshape(groups * inputs, outputs, *kernel)
    return blocks.reshape(groups * outputs, inputs, *kernel)


def spans(node: onnx.NodeProto, weight: Array) -> Array:
    """Return the largest magnitudes of a weight, float64 (G, O, I)."""
    most: Array = np.abs(to_blocks(node, weight)).max(axis=3, initial=0.0)
    return most.astype(np.float64)


def find(editor: GraphEditor, layer: str, what: str) -> onnx.NodeProto:
    """Return the node called `layer`.

    Raises:
        ModelError: if there is none.
    """
    if layer not in editor.view.nodes:
        raise ModelError(
            f"There is no layer {layer!r} to be {what}.", nearest(layer, editor.view.nodes)
        )
    return editor.view.nodes[layer]


def put(editor: GraphEditor, node: onnx.NodeProto, index: int, value: Array) -> None:
    """Give input `index` of `node` another constant; other readers of the old one keep it."""
    name = node.input[index]
    value = np.ascontiguousarray(value, dtype=np.float32).reshape(value.shape)
    if len(editor.view.consumers[name]) > 1 or name in editor.view.outputs:
        node.input[index] = editor.constant(f"{name}_{node.name}", value)
    else:
        editor.view.initializers[name].CopyFrom(numpy_helper.from_array(value, name))
        editor.shapes[name] = value.shape
    editor.touch()


def scale_outputs(editor: GraphEditor, node: onnx.NodeProto, factors: Array) -> None:
    """Multiply what a layer makes by one factor per output channel, its bias included."""
    weight = editor.view.array(node.input[WEIGHT])
    blocks = to_blocks(node, weight)
    scaled = blocks * factors.reshape(blocks.shape[0], -1, 1, 1)
    put(editor, node, WEIGHT, from_blocks(node, scaled, weight.shape[2:]))
    bias = bias_of(node)
    if bias is not None:
        put(editor, node, BIAS, editor.view.array(bias) * factors)


def scale_inputs(editor: GraphEditor, node: onnx.NodeProto, factors: Array) -> None:
    """Multiply the weights of every input channel by a factor."""
    weight = editor.view.array(node.input[WEIGHT])
    blocks = to_blocks(node, weight)
    scaled = blocks * factors.reshape(blocks.shape[0], 1, -1, 1)
    put(editor, node, WEIGHT, from_blocks(node, scaled, weight.shape[2:]))
