# SPDX-License-Identifier: Apache-2.0
"""BatchNormalization is folded into the Conv, ConvTranspose or Gemm before it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping, MutableSet
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from analyzer.graph.names import all_names, replace_nodes, unique
from analyzer.graph.view import GraphView, attributes

_FOLDS_INTO = frozenset({"Conv", "ConvTranspose", "Gemm"})


def fold_batchnorm(
    graph: onnx.GraphProto,
    source: MutableMapping[str, tuple[str, ...]],
    *,
    keep: Collection[str] = (),
    or_output: bool = False,
) -> int:
    """Fold every BatchNormalization that can be, in place.

    The layer keeps its name, makes the tensor the BatchNormalization made, and in `source`
    stands for both nodes.  With s = gamma / sqrt(var + eps), its weight becomes w * s and its
    bias s * (b - mean) + beta, computed in float64 (Jacob et al., arXiv 1712.05877, eq. 14).
    Nodes named in `keep` stay.  A layer that makes a graph output is left alone; with `or_output`
    it is folded all the same, and nothing makes that output any more.

    Returns:
        the number of nodes folded away.
    """
    if not any(n.op_type == "BatchNormalization" for n in graph.node):
        return 0
    view = GraphView(graph)
    names = all_names(graph)
    outputs = set(view.outputs)
    folded: set[str] = set()
    for norm in graph.node:
        if norm.op_type != "BatchNormalization" or norm.domain or not _at_inference(norm, view):
            continue
        if norm.name in keep:
            continue
        layer = view.nodes.get(view.producer.get(norm.input[0], ""))
        if layer is None or layer.op_type not in _FOLDS_INTO or layer.domain:
            continue
        between = layer.output[0]
        if (between in outputs and not or_output) or len(view.consumers[between]) > 1:
            continue
        if not _fold(norm, layer, view, names):
            continue
        layer.output[0] = norm.output[0]
        view.producer[norm.output[0]] = layer.name
        source[layer.name] = source[layer.name] + source[norm.name]
        folded.add(norm.name)
    if folded:
        replace_nodes(graph, [n for n in graph.node if n.name not in folded])
    return len(folded)


def _at_inference(norm: onnx.NodeProto, view: GraphView) -> bool:
    given = attributes(norm)
    return (
        all(view.is_constant(name) for name in norm.input[1:5])
        and not any(norm.output[1:])
        and not given.get("training_mode", 0)
        and given.get("spatial", 1) == 1  # opset 7: 0 keeps statistics per element
    )


def _fold(
    norm: onnx.NodeProto, layer: onnx.NodeProto, view: GraphView, names: MutableSet[str]
) -> bool:
    """Fold `norm` into the weight and bias of `layer`; False if they are not constant."""
    if not all(view.is_constant(name) for name in layer.input[1:] if name):
        return False
    given = attributes(layer)
    weight = view.array(layer.input[1])
    gamma, beta, mean, var = (view.array(n).astype(np.float64) for n in norm.input[1:5])
    scale = gamma / np.sqrt(var + attributes(norm).get("epsilon", 1e-5))
    old = _bias(layer, given, view, scale.size)
    shape = _scale_shape(layer, given, weight.shape, scale.size)
    if old is None or shape is None:
        return False
    if layer.op_type == "ConvTranspose":
        group = given.get("group", 1)
        grouped = weight.astype(np.float64).reshape(group, -1, *weight.shape[1:])
        scaled = (grouped * scale.reshape(shape)).reshape(weight.shape)
    else:
        scaled = weight.astype(np.float64) * scale.reshape(shape)
    bias = scale * (old - mean) + beta
    _store(layer, 1, scaled.astype(weight.dtype), view, names)
    _store(layer, 2, bias.astype(weight.dtype), view, names)
    for attribute in layer.attribute:
        if attribute.name == "beta" and layer.op_type == "Gemm":
            attribute.f = 1.0  # it is in the new bias
    return True


def _bias(
    layer: onnx.NodeProto, given: Mapping[str, Any], view: GraphView, channels: int
) -> npt.NDArray[np.float64] | None:
    """Return the bias of every channel; None where it differs within one."""
    if len(layer.input) < 3 or not layer.input[2]:
        return np.zeros(channels)
    bias = view.array(layer.input[2]).astype(np.float64)
    if bias.size not in (1, channels) or (bias.size > 1 and bias.shape[-1] != channels):
        return None
    beta = given.get("beta", 1.0) if layer.op_type == "Gemm" else 1.0
    return np.broadcast_to(beta * bias.reshape(-1), (channels,))


def _scale_shape(
    layer: onnx.NodeProto, given: Mapping[str, Any], weight: tuple[int, ...], channels: int
) -> tuple[int, ...] | None:
    """Return the shape in which a value per output channel broadcasts over the weight."""
    if layer.op_type == "ConvTranspose":  # (C, M / group, ...), seen as (group, C / group, ...)
        group = given.get("group", 1)
        shape = (group, 1, weight[1], *(1 for _ in weight[2:]))
        return shape if group * weight[1] == channels else None
    axis = 1 if layer.op_type == "Gemm" and not given.get("transB", 0) else 0
    if weight[axis] != channels:
        return None
    return tuple(channels if i == axis else 1 for i in range(len(weight)))


def _store(
    layer: onnx.NodeProto,
    slot: int,
    value: npt.NDArray[Any],
    view: GraphView,
    names: MutableSet[str],
) -> None:
    """Make `value` the constant at `slot`, in place of one that nobody else reads."""
    while len(layer.input) <= slot:
        layer.input.append("")
    name = layer.input[slot]
    if name and view.consumers[name] == [layer.name] and name not in view.outputs:
        view.initializers[name].CopyFrom(numpy_helper.from_array(value, name))
        return
    if name:
        view.consumers[name].remove(layer.name)
    part = "weight" if slot == 1 else "bias"
    new = unique(f"{name}_{layer.name}" if name else f"{layer.name}.{part}", names)
    names.add(new)
    tensor = view.graph.initializer.add()
    tensor.CopyFrom(numpy_helper.from_array(value, new))
    view.initializers[new] = tensor
    view.consumers[new] = [layer.name]
    layer.input[slot] = new
