# SPDX-License-Identifier: Apache-2.0
"""What is doubled with the output channels of a layer: a bound model goes in, copies come out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import onnx

from analyzer.fixes.channels import groups_of, is_depthwise, is_mixing
from analyzer.fixes.ways import step_of
from analyzer.graph.view import GraphView
from analyzer.records import Model

OUTPUTS, INPUTS = "outputs", "inputs"  # of a layer are halved

# one element after the other, and any channel as any other
_HOMOGENEOUS = frozenset(
    """
    Relu LeakyRelu Identity Abs Neg MaxPool AveragePool GlobalAveragePool GlobalMaxPool Pad Flatten
    """.split()
)
_OTHERS = frozenset(
    """
    Clip Sigmoid HardSigmoid HardSwish Tanh Elu Selu Softplus Softsign Gelu Mish Celu Erf Exp Sqrt
    ThresholdedRelu
    """.split()
)


@dataclass(slots=True)
class Copies:
    """What has to be doubled with the output channels of a layer.

    Attributes:
        first: layer that makes the channels.
        through: nodes that hand each channel on, in execution order.
        depthwise: of these, the layers with a filter per channel.
        readers: layers that sum over the channels.
        tensors: that have the channels.
        curved: nodes behind which half a channel is not half of what it was.
    """

    first: str
    through: list[str] = field(default_factory=list)
    depthwise: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)
    tensors: set[str] = field(default_factory=set)
    curved: set[str] = field(default_factory=set)


def copies_of(model: Model, view: GraphView) -> Iterator[Copies]:
    """Yield the layers whose output channels can be doubled, with all that has to follow."""
    nodes = list(view.nodes.values())
    for index, node in enumerate(nodes):
        plain = is_mixing(model, view, node) and groups_of(node) == 1
        if plain and node.op_type != "MatMul":
            found = _copies(model, view, node, nodes[index + 1 :])
            if found is not None:
                yield found


def _copies(
    model: Model, view: GraphView, first: onnx.NodeProto, behind: Sequence[onnx.NodeProto]
) -> Copies | None:
    found = Copies(first.name, tensors={first.output[0]})
    left = len(view.consumers.get(first.output[0], ()))
    for node in behind:
        if not left:
            break
        slots = sum(t in found.tensors for t in node.input)
        if not slots:
            continue
        left -= slots
        if _sums_over(model, view, node, found.tensors):
            found.readers.append(node.name)
            continue
        curved = _curves(model, view, node, found.tensors)
        if curved is None:
            return None
        found.through.append(node.name)
        if node.op_type == "Conv":
            found.depthwise.append(node.name)
        if curved:
            found.curved.add(node.name)
        found.tensors.add(node.output[0])
        left += len(view.consumers.get(node.output[0], ()))
    # what is left is read by a body below
    ends = left or not found.tensors.isdisjoint(view.outputs) or not found.readers
    return None if ends else found


def _sums_over(
    model: Model, view: GraphView, node: onnx.NodeProto, tensors: Collection[str]
) -> bool:
    if node.input[0] not in tensors or not is_mixing(model, view, node):
        return False
    if node.op_type == "MatMul" and len(model.shapes[node.input[0]]) != 2:
        return False
    return groups_of(node) == 1 and sum(t in tensors for t in node.input) == 1


def _curves(
    model: Model, view: GraphView, node: onnx.NodeProto, tensors: Collection[str]
) -> bool | None:
    """Tell whether `node` makes something else than halves of halves; None: no copies at all."""
    tensor = node.input[0]
    if node.domain or sum(map(bool, node.output)) != 1:
        return None
    if node.op_type == "Conv":
        fits = tensor in tensors and is_mixing(model, view, node) and is_depthwise(model, node)
        return False if fits else None
    before, after = model.shapes[tensor], model.shapes[node.output[0]]
    if node.op_type == "Mul":
        fits = all(t in tensors and model.shapes[t] == after for t in node.input)
        return False if fits else None
    if len(before) < 2 or len(after) < 2 or tensor not in tensors or before[1] != after[1]:
        return None
    if node.op_type in (*_HOMOGENEOUS, "Clip"):
        step = step_of(model, view, node, tensor, 1)
        if step is not None and step.axis == 1:
            return False
    values = [t for t in node.input[1:] if t]
    single = all(view.is_constant(t) and view.array(t).size == 1 for t in values)
    return True if node.op_type in _OTHERS and single and before == after else None


@dataclass(frozen=True, slots=True)
class Halves:
    """Nodes whose weights, and whose biases, are halved for both copies of a channel."""

    weights: frozenset[str]
    biases: frozenset[str]


def halved(
    model: Model, view: GraphView, copies: Copies, layer: str, method: str
) -> Halves | None:
    """Return what is halved where `layer` halves, None if it cannot."""
    at = {*copies.readers} if method == INPUTS else {copies.first, *copies.depthwise}
    if layer not in at:
        return None
    first = view.nodes[copies.first]
    start = method == OUTPUTS and layer == copies.first
    small = {first.output[0]} if start else set()
    weights, biases = ({layer}, {layer}) if method == OUTPUTS else (set(), set())
    for name in copies.through:
        node = view.nodes[name]
        halves = [t for t in node.input if t in small]
        if name in copies.depthwise:
            biases.update([name] if halves else [])
        elif halves and (name in copies.curved or len(halves) > 1):
            return None
        if halves or name in weights:
            small.add(node.output[0])
    whole = [n for n in copies.readers if view.nodes[n].input[0] not in small]
    if method == INPUTS and layer not in whole:
        return None
    return Halves(frozenset([*weights, *whole]), frozenset(biases))
