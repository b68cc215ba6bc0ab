# SPDX-License-Identifier: Apache-2.0
"""Ways of channels: from a tensor to all layers that read it, through nodes that let factors pass.

Where every channel of the tensor is multiplied by a positive number of its own, each node on the
way multiplies its output likewise, and the layers at the ends can divide their weights by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import onnx

from analyzer.errors import ModelError
from analyzer.fixes.channels import Array, is_mixing, put, scale_inputs
from analyzer.graph.edit import GraphEditor
from analyzer.graph.view import GraphView, attributes
from analyzer.records import Model

_UNBOUNDED = 3.4e38  # what exporters write for no upper end
_OPSET_INPUTS = 11  # from which Clip has its ends as inputs


@dataclass(frozen=True, slots=True)
class Reader:
    """A layer at the end of a way; it has `repeat` input channels side by side for each one."""

    node: str
    repeat: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A constant on the way that has to be multiplied as well.

    Attributes:
        trailing: axes of the tensor behind that of the channels.
    """

    node: str
    index: int
    trailing: int
    repeat: int


@dataclass(frozen=True, slots=True)
class Step:
    """What a node makes of the channels: their axis, how many there are of each, and constants.

    Attributes:
        slots: (input, axes behind that of the channels) of constants to be multiplied too.
    """

    axis: int
    repeat: int = 1
    slots: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True)
class Way:
    """All that is reached.

    Attributes:
        channels: that have a factor.
        readers: layers at the ends, at least one.
        through: nodes on the way, in the order they were found.
        slots: constants to be multiplied too.
        tensors: that carry the channels, the first one included.
    """

    channels: int
    readers: list[Reader] = field(default_factory=list)
    through: list[str] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    tensors: list[str] = field(default_factory=list)


def way_of(model: Model, view: GraphView, tensor: str, axis: int) -> Way | None:
    """Follow the channels along `axis` of `tensor`; None where not all of them can be followed.

    Args:
        model: bound.
        view: of its graph.
        tensor: made by a node.
        axis: of the channels.
    """
    way = Way(model.shapes[tensor][axis])
    waiting = [(tensor, axis, 1)]
    seen: set[str] = set()
    while waiting:
        tensor, axis, repeat = waiting.pop(0)
        names = view.consumers.get(tensor, ())
        if tensor in view.outputs or not names or len(set(names)) < len(names):
            return None
        way.tensors.append(tensor)
        for name in names:
            node = view.nodes[name]
            if name in seen:  # both sides of a product, say
                return None
            seen.add(name)
            if _reads_channels(model, view, node, tensor, axis):
                way.readers.append(Reader(name, repeat))
                continue
            step = step_of(model, view, node, tensor, axis)
            if step is None:
                return None
            way.through.append(name)
            way.slots += [Slot(name, i, trailing, repeat) for i, trailing in step.slots]
            waiting.append((node.output[0], step.axis, repeat * step.repeat))
    return way


def scale_way(editor: GraphEditor, way: Way, factors: Array) -> None:
    """Let every channel at the start of `way` be `factors` as large; the ends undo it."""
    for slot in way.slots:
        node = editor.view.nodes[slot.node]
        shaped = np.repeat(factors, slot.repeat).reshape(-1, *[1] * slot.trailing)
        put(editor, node, slot.index, editor.view.array(node.input[slot.index]) * shaped)
    for reader in way.readers:
        scale_inputs(editor, editor.view.nodes[reader.node], np.repeat(1 / factors, reader.repeat))


def checked(values: Sequence[float], channels: int, layer: str) -> Array:
    """Return factors as an array.

    Raises:
        ModelError: if there is not one positive number per channel.
    """
    factors = np.asarray(values, np.float64)
    if factors.shape != (channels,) or not np.all(np.isfinite(factors) & (factors > 0)):
        raise ModelError(
            f"{layer!r} was given {factors.size} factors, expected {channels} positive ones.",
            "Take them from an analysis of the same model.",
        )
    return factors


def _reads_channels(
    model: Model, view: GraphView, node: onnx.NodeProto, tensor: str, axis: int
) -> bool:
    if node.input[0] != tensor or not is_mixing(model, view, node):
        return False
    return axis == (len(model.shapes[tensor]) - 1 if node.op_type == "MatMul" else 1)


def step_of(
    model: Model, view: GraphView, node: onnx.NodeProto, tensor: str, axis: int
) -> Step | None:
    """Return what `node` makes of the channels of `tensor`, None where factors do not pass."""
    take = _STEPS.get(node.op_type)
    if take is None or node.domain or sum(map(bool, node.output)) > 1:
        return None
    return take(model, view, node, tensor, axis)


def _same(
    model: Model, view: GraphView, node: onnx.NodeProto, tensor: str, axis: int
) -> Step | None:
    """Pass element by element, or along other axes than the channels'."""
    before, after = model.shapes[tensor], model.shapes[node.output[0]]
    fits = node.input[0] == tensor and len(before) == len(after) and before[axis] == after[axis]
    return Step(axis) if fits else None


def _pool(
    model: Model, view: GraphView, node: onnx.NodeProto, tensor: str, axis: int
) -> Step | None:
    return _same(model, view, node, tensor, axis) if axis == 1 else None


def _reduce(
    model: Model, view: GraphView, node: onnx.NodeProto, tensor: str, axis: int
) -> Step | None:
    """Pass where the channels are not what is summed over: they are more than one afterwards."""
    return _same(model, view, node, tensor, axis) if model.shapes[tensor][axis] > 1 else None


def _pad(
    model: Model, view: GraphView, node: onnx.NodeProto, tensor: str, axis: int
) -> Step | None:
    """Pass where zeros are added, or values repeated, along other axes."""
    given, inputs = attributes(node), [*node.input, "", "", ""]
    if any(name and not view.is_constant(name) for name in inputs[1:3]) or inputs[3]:
        return None
    fill = float(view.array(inputs[2]).item()) if inputs[2] else float(given.get("value", 0.0))
    pads = list(view.array(inputs[1])) if inputs[1] else list(given.get("pads", ()))
    rank = len(model.shapes[tensor])
    if fill or len(pads) != 2 * rank or pads[axis] or pads[axis + rank]:
        return None
    return _same(model, view, node, tensor, axis)


def _resize(
    model: Model, view: GraphView, node: onnx.NodeProto, tensor: str, axis: int
) -> Step | None:
    if attributes(node).get("extrapolation_value", 0.0):
        return None
    return _same(model, view, node, tensor, axis)


def _reshape(
    model: Model, view: GraphView, node: onnx.NodeProto, tensor: str, axis: int
) -> Step | None:
    """Pass where one axis holds the channels afterwards, each with all that was behind it."""
    before, after = model.shapes[tensor], model.shapes[node.output[0]]
    if node.input[0] != tensor:
        return None
    for new, size in enumerate(after):
        repeat = size // before[axis]
        if (
            prod(after[:new]) == prod(before[:axis])
            and repeat * before[axis] == size
            and prod(before[axis + 1 :]) == repeat * prod(after[new + 1 :])
            and (size > 1 or before[axis] == 1)
        ):
            return Step(new, repeat)
    return None


def _transpose(
    model: Model, view: GraphView, node: onnx.NodeProto, tensor: str, axis: int
) -> Step | None:
    rank = len(model.shapes[tensor])
    order = list(attributes(node).get("perm", reversed(range(rank))))
    return Step(order.index(axis))


def _times(
    model: Model, view: GraphView, node: onnx.NodeProto, tensor: str, axis: int
) -> Step | None:
    """Pass a product with anything that does not hang on the same channels."""
    before, after = model.shapes[tensor], model.shapes[node.output[0]]
    if node.op_type == "Div" and node.input[0] != tensor:
        return None
    fits = len(before) == len(after) and before[axis] == after[axis]
    return Step(axis) if fits else None


def _plus(
    model: Model, view: GraphView, node: onnx.NodeProto, tensor: str, axis: int
) -> Step | None:
    """Pass a sum with a constant, which is multiplied as well."""
    other = 1 - list(node.input).index(tensor)
    before, after = model.shapes[tensor], model.shapes[node.output[0]]
    if not view.is_constant(node.input[other]) or before != after:
        return None
    return Step(axis, slots=((other, len(before) - axis - 1),))


def _norm(
    model: Model, view: GraphView, node: onnx.NodeProto, tensor: str, axis: int
) -> Step | None:
    """Pass a BatchNormalization: its mean and its bias are multiplied as well."""
    constant = all(view.is_constant(name) for name in node.input[1:])
    if axis != 1 or not constant or attributes(node).get("training_mode", 0):
        return None
    return Step(axis, slots=((2, 0), (3, 0)))


def _clip(
    model: Model, view: GraphView, node: onnx.NodeProto, tensor: str, axis: int
) -> Step | None:
    """Pass where nothing but values below 0 is cut off."""
    low, high = clip_ends(model, view, node)
    if low in (0.0, -np.inf) and high == np.inf:
        return _same(model, view, node, tensor, axis)
    return None


def clip_ends(model: Model, view: GraphView, node: onnx.NodeProto) -> tuple[float, float]:
    """Return the ends of a Clip, infinite where there is none; NaN where not constant."""
    found: list[float] = []
    given = attributes(node)
    for index, (name, default) in enumerate((("min", -np.inf), ("max", np.inf)), start=1):
        value = float(given.get(name, default))
        if model.opset >= _OPSET_INPUTS and len(node.input) > index and node.input[index]:
            tensor = node.input[index]
            value = float(view.array(tensor).item()) if view.is_constant(tensor) else np.nan
        found.append(default if abs(value) >= _UNBOUNDED else value)
    return found[0], found[1]


_Take = Callable[[Model, GraphView, onnx.NodeProto, str, int], Step | None]
_STEPS: dict[str, _Take] = {
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Identity", "Abs", "Neg"), _same),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _reduce),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("Mul", "Div"), _times),
    **dict.fromkeys(("Add", "Sub"), _plus),
    "Pad": _pad,
    "Transpose": _transpose,
    "BatchNormalization": _norm,
    "Clip": _clip,
}
