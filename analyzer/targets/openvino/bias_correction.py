# SPDX-License-Identifier: Apache-2.0
"""Fast bias correction: what quantized weights shift a layer's output by goes into its bias.

Imitates `quantization/algorithms/fast_bias_correction/` of NNCF 3.4.  For every layer by itself:
its inputs, averaged over runs and per channel, go through the quantized weights as a tensor that
is constant in each channel; what its mean outputs then lack is added to the bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from analyzer.graph.build import (
    GraphBuilder,
    emit,
    in_execution_order,
    quantized_constant,
)
from analyzer.graph.session import open_session, run, to_value
from analyzer.graph.view import GraphView
from analyzer.records import Model, Quantizer, QuantPlan, Samples
from analyzer.targets.openvino.operations import Slot, operations

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

THRESHOLD = 2.0  # largest change of a bias, relative to it; beyond it the bias is left alone
CORRECTED = frozenset(["Convolution", "MatMul"])
_SUFFIX = "//mean"
_BITS = 32


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer whose bias can be corrected.

    Attributes:
        node: of the layer.
        weight: quantizer of its weights.
        source: what it reads.
        output: what it makes, the bias included.
        bias: slot of the bias.
        channels: channel axes of `source` and `output`.
    """

    node: onnx.NodeProto
    weight: Quantizer
    source: str
    output: str
    bias: Slot
    channels: tuple[int, int]


def correct_biases(model: Model, plan: QuantPlan, samples: Samples) -> QuantPlan:
    """Return the plan with the corrected biases stored at their slots.

    Args:
        model: bound.
        plan: calibrated.
        samples: the calibration data; read once.
    """
    view = GraphView(model.proto.graph)
    layers = list(_layers(model, view, plan))
    if not layers:
        return plan
    means = _means(model, view, layers, samples)
    shifted = _shifted(model, view, layers, means)
    biases = []
    for layer, quantized in zip(layers, shifted, strict=True):
        node = view.nodes[layer.bias[0]]
        tensor = node.input[int(layer.bias[1][2:])]
        bias = view.array(tensor).astype(np.float64)
        change = means[layer.output] - bias.ravel() - quantized
        if np.all(bias) and np.max(np.abs(change / bias.ravel())) < THRESHOLD:
            stored = (bias + change.reshape(bias.shape)).astype(np.float32)
            biases.append(_stored(layer.bias, tensor, stored))
    return replace(plan, quantizers=in_execution_order(view, (*plan.quantizers, *biases)))


def _layers(model: Model, view: GraphView, plan: QuantPlan) -> Iterator[_Layer]:
    """Yield layers with a constant bias per channel and quantized weights; groups have none."""
    weights = {q.node: q for q in plan.quantizers if q.role == "weight"}
    ops = operations(model)
    for operation in ops:
        if operation.bias is None:
            continue
        layer = ops[operation.inputs[0].source]
        if layer.kind not in CORRECTED or layer.node not in weights:
            continue
        node = view.nodes[layer.node]
        edge = layer.inputs[0]
        output = operation.outputs[0][0]
        bias = view.nodes[operation.bias[0]].input[int(operation.bias[1][2:])]
        source_axis = _channel_axis(model, node, edge.tensor, edge.port)
        output_axis = 1 if layer.kind == "Convolution" else len(model.shapes[output]) - 1
        plain = node.op_type != "Gemm" or all(
            a.f == 1.0 for a in node.attribute if a.name in ("alpha", "beta")
        )
        full = int(np.prod(model.shapes[bias])) == model.shapes[output][output_axis]
        if plain and full and edge.tensor == node.input[edge.port]:
            yield _Layer(
                node, weights[layer.node], edge.tensor, output, operation.bias,
                (source_axis, output_axis),
            )  # fmt: skip


def _channel_axis(model: Model, node: onnx.NodeProto, tensor: str, port: int) -> int:
    """Return the axis that is summed over in a product, or that of the channels."""
    if node.op_type == "Conv":
        return 1
    rank = len(model.shapes[tensor])
    turned = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
    return rank - 2 if (port == 1) != turned else rank - 1


def _means(
    model: Model, view: GraphView, layers: list[_Layer], samples: Samples
) -> dict[str, F64]:
    """Return the mean per channel, over runs, of what the layers read and make."""
    axes = {layer.source: layer.channels[0] for layer in layers}
    axes |= {layer.output: layer.channels[1] for layer in layers}
    builder = GraphBuilder(model, view)
    made = emit(
        builder,
        view.nodes.values(),
        prefix="",
        outside=lambda tensor: builder.input(tensor, tensor),
        slots={},
    )
    for tensor, axis in axes.items():
        name = made.get(tensor) or builder.input(tensor, tensor)
        _add_mean(builder, name, len(model.shapes[tensor]), axis, tensor + _SUFFIX)
    session = open_session(builder.serialize())
    sums = {tensor: np.zeros(model.shapes[tensor][axis]) for tensor, axis in axes.items()}
    for index in range(len(samples)):
        sample = samples[index]
        feeds = {name: to_value(sample[name]) for name in builder.inputs}
        found = run(session, list(builder.outputs), feeds)
        for tensor, total in sums.items():
            total += found[tensor + _SUFFIX].numpy()
    return {tensor: total / len(samples) for tensor, total in sums.items()}


def _add_mean(builder: GraphBuilder, tensor: str, rank: int, axis: int, name: str) -> None:
    """Add the mean of `tensor` over all axes but one as a graph output."""
    others = [a for a in range(rank) if a != axis]
    if not others:
        builder.add("Identity", [tensor], name)
    elif builder.model.opset < 18:
        builder.add("ReduceMean", [tensor], name, axes=others, keepdims=0)
    else:
        axes = builder.constant(f"{name}//axes", np.array(others, np.int64))
        builder.add("ReduceMean", [tensor, axes], name, keepdims=0)
    builder.outputs[name] = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _shifted(
    model: Model, view: GraphView, layers: list[_Layer], means: dict[str, F64]
) -> list[F64]:
    """Return each layer's mean output per channel, without bias, from its mean inputs."""
    results = []
    for number, layer in enumerate(layers):
        builder = GraphBuilder(model, view)
        shape = list(model.shapes[layer.source])
        aligned = [1] * len(shape)
        aligned[layer.channels[0]] = -1
        blob = np.broadcast_to(means[layer.source].astype(np.float32).reshape(aligned), shape)
        weights = quantized_constant(view, layer.weight)
        at = int(layer.weight.slot[2:])
        inputs = ["", ""]
        inputs[1 - at] = builder.input("x", layer.source)
        inputs[at] = builder.constant("w", weights)
        copy = onnx.NodeProto()
        copy.CopyFrom(layer.node)
        del copy.input[:], copy.output[:]
        copy.input.extend(inputs)
        copy.output.append("y")
        builder.nodes.append(copy)
        name = f"{number}{_SUFFIX}"
        _add_mean(builder, "y", len(model.shapes[layer.output]), layer.channels[1], name)
        session = open_session(builder.serialize())
        found = run(session, [name], {"x": to_value(blob)})
        results.append(found[name].numpy().astype(np.float64))
    return results


def _stored(slot: Slot, tensor: str, values: F32) -> Quantizer:
    """Return a quantizer that puts a float32 bias in the place of the model's."""
    step = float(np.spacing(np.float32(np.abs(values).max())))
    return Quantizer(
        node=slot[0],
        slot=slot[1],
        tensor=tensor,
        role="bias",
        bits=_BITS,
        scale=np.array([step]),
        zero_point=np.zeros(1, np.int64),
        qmin=-(2**31),
        qmax=2**31 - 1,
        stored=values,
    )
