# SPDX-License-Identifier: Apache-2.0
"""TFLite operators of an ONNX graph, and whose range each tensor's grid comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import onnx

from analyzer.graph.build import is_float
from analyzer.graph.view import GraphView
from analyzer.records import Model
from analyzer.targets.tflite.ops import Kind, Operators, attribute, is_activation, kind_of

Slot = tuple[str, int]  # node and index of its input


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant that is multiplied.

    Attributes:
        slot: where it is read.
        axis: of its output channels, None where it has one scale in any case.
        output_axis: of the channels in the output.
        takes_bias: whether the operator has a bias operand.
        dense: whether the operator is a FULLY_CONNECTED.
    """

    slot: Slot
    axis: int | None
    output_axis: int = 1
    takes_bias: bool = False
    dense: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """One TFLite operator: an ONNX node with the bias and the activation fused into it.

    Attributes:
        nodes: names of the ONNX nodes, in order.
        reads: slots of the float operands that are neither weight nor bias.
        last: node whose outputs are the operator's.
    """

    nodes: tuple[str, ...]
    kind: Kind
    reads: tuple[Slot, ...]
    last: onnx.NodeProto
    weight: Weight | None = None
    bias: Slot | None = None


def operators_of(table: Operators, model: Model, view: GraphView) -> list[Operator]:
    """Return the operators that may be quantized, in the order of their first nodes."""
    found: list[Operator] = []
    taken: set[str] = set()
    for node in view.nodes.values():
        kind = None if node.name in taken else kind_of(table, model, view, node)
        # a float operator takes its activation along, too
        if kind is None and node.op_type not in table.fusing:
            continue
        operator = _operator(table, model, view, node, kind or "free")
        taken.update(operator.nodes)
        if kind is not None:
            found.append(operator)
    return found


def _operator(
    table: Operators, model: Model, view: GraphView, node: onnx.NodeProto, kind: Kind
) -> Operator:
    nodes = [node.name]
    weight = _weight(table, model, view, node)
    bias: Slot | None = None
    last = node
    if weight is not None and weight.takes_bias:
        if len(node.input) > 2 and node.input[2] and view.is_constant(node.input[2]):
            channels = model.shapes[node.output[0]][weight.output_axis]
            if _channels(model, node.input[2]) == channels:
                bias = (node.name, 2)
        elif (follower := _only_reader(view, last)) is not None:
            index = _bias_index(model, view, weight, last, follower)
            if index is not None:
                bias, last = (follower.name, index), follower
                nodes.append(follower.name)
    if node.op_type in table.fusing and (node.op_type != "MatMul" or bias or _is_dense(weight)):
        follower = _only_reader(view, last)
        if follower is not None and is_activation(view, follower):
            last = follower
            nodes.append(follower.name)
    parameters = {weight.slot if weight else None, bias}
    reads = tuple(
        (node.name, index)
        for index, tensor in enumerate(node.input)
        if tensor and is_float(model, tensor) and (node.name, index) not in parameters
        if index < _operands(node, kind)
    )
    return Operator(tuple(nodes), kind, reads, last, weight, bias)


def _operands(node: onnx.NodeProto, kind: Kind) -> int:
    """Return how many inputs hold values (a Resize's scales do not, nor the bounds of a Relu6)."""
    if kind == "passing" or (node.op_type == "Clip" and kind == "free"):
        return 1
    return 2 if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") else len(node.input)


def _weight(
    table: Operators, model: Model, view: GraphView, node: onnx.NodeProto
) -> Weight | None:
    op = node.op_type
    if op not in ("Conv", "ConvTranspose", "Gemm", "MatMul", "PRelu"):
        return None
    if not view.is_constant(node.input[1]):
        return None
    slot = (node.name, 1)
    rank = len(model.shapes[node.input[1]])
    if op == "PRelu":
        return Weight(slot, None)
    if op in ("Conv", "ConvTranspose"):
        return Weight(slot, 0 if op == "Conv" else 1, takes_bias=True)
    if op == "Gemm" or rank == 2:
        axis = 0 if op == "Gemm" and attribute(node, "transB", 0) else 1
        return Weight(slot, axis, output_axis=-1, takes_bias=True, dense=True)
    # a BATCH_MATMUL
    return Weight(slot, rank - 1) if table.batch_weights else None


def _is_dense(weight: Weight | None) -> bool:
    return weight is not None and weight.dense


def _channels(model: Model, tensor: str) -> int | None:
    """Return the length of a vector, leading ones allowed."""
    shape = model.shapes[tensor]
    return shape[-1] if shape and all(d == 1 for d in shape[:-1]) else None


def _only_reader(view: GraphView, node: onnx.NodeProto) -> onnx.NodeProto | None:
    if len(node.output) > 1 or node.output[0] in view.outputs:
        return None
    readers = view.consumers.get(node.output[0], [])
    return view.nodes[readers[0]] if len(readers) == 1 else None


def _bias_index(
    model: Model, view: GraphView, weight: Weight, node: onnx.NodeProto, follower: onnx.NodeProto
) -> int | None:
    """Return which input of an Add behind a product is its bias: one constant per channel."""
    if follower.op_type != "Add":
        return None
    index = 1 - list(follower.input).index(node.output[0])
    tensor = follower.input[index]
    if not view.is_constant(tensor) or not is_float(model, tensor):
        return None
    shape = model.shapes[tensor]
    rank = len(model.shapes[node.output[0]])
    axis = weight.output_axis if weight.output_axis < 0 else weight.output_axis - rank
    channels = model.shapes[node.output[0]][axis]
    fits = len(shape) >= -axis and shape[axis] == channels and math.prod(shape) == channels
    return index if fits else None


@dataclass(slots=True)
class Grids:
    """Whose range each tensor's grid comes from.

    Attributes:
        makers: tensor -> the operator that makes it.
        roots: tensor -> tensor whose range it takes over; tensors of a grid of their own are
            missing.
        asked: slots that read their tensor requantized -> tensor whose grid they want.
    """

    view: GraphView
    makers: dict[str, Operator]
    roots: dict[str, str] = field(default_factory=dict)
    asked: dict[Slot, str] = field(default_factory=dict)

    @staticmethod
    def over(model: Model, view: GraphView, operators: Sequence[Operator]) -> Grids:
        """Start with a grid of its own for every tensor that is not passed on."""
        makers = {t: o for o in operators for t in o.last.output if t and is_float(model, t)}
        grids = Grids(view, makers)
        for operator in operators:
            # a constant that is passed on (a table that is gathered from) is stored on that grid
            if operator.kind == "passing" and view.is_constant(grids.read(operator.reads[0])):
                grids.asked[operator.reads[0]] = operator.last.output[0]
        return grids

    def read(self, slot: Slot) -> str:
        """Return the tensor at an input slot."""
        tensor: str = self.view.nodes[slot[0]].input[slot[1]]
        return tensor

    def source(self, tensor: str) -> str:
        """Follow `tensor` up through the operators that pass a grid on."""
        while (maker := self.makers.get(tensor)) is not None and maker.kind == "passing":
            above = self.read(maker.reads[0])
            if self.view.is_constant(above):
                break
            tensor = above
        return tensor

    def root(self, tensor: str) -> str:
        """Return the tensor whose range gives `tensor` its grid."""
        source = self.source(tensor)
        return self.roots.get(source, source)


Join = Callable[[Grids, Sequence[Operator]], None]


def join_backward(grids: Grids, operators: Sequence[Operator]) -> None:
    """Give whatever flows into a joining operator its output's grid, up to where it is computed.

    The converter's way (`RemoveRedundantStatsOps` in `quantization_utils.cc`, then
    `quantization_driver.cc`, which starts at the end of the graph): the range of such an input
    is dropped, for all its readers.  An input that a later operator has claimed already, or whose
    grid is fixed, is requantized instead.
    """
    for operator in reversed(operators):
        for slot, target in _joined(grids, operator):
            source = grids.source(grids.read(slot))
            maker = grids.makers.get(source)
            keeps = grids.view.is_constant(source) or (maker and maker.kind == "fixed")
            if keeps or grids.roots.setdefault(source, target) != target:
                grids.asked[slot] = target


def join_locally(grids: Grids, operators: Sequence[Operator]) -> None:
    """Requantize the inputs of joining operators; fold that into what computes them if it can be.

    ai-edge-quantizer's way (`_eliminate_requantization_for_nonconstrained_provider` in
    `transformation_instruction_generator.py`): it can where nothing else reads the tensor and its
    maker's grid is free.
    """
    for operator in operators:
        for slot, target in _joined(grids, operator):
            tensor = grids.read(slot)
            maker = grids.makers.get(tensor)
            alone = set(grids.view.consumers[tensor]) == {slot[0]}
            read_outside = tensor in grids.view.outputs
            if maker and maker.kind == "free" and alone and not read_outside:
                grids.roots[tensor] = target
            else:
                grids.asked[slot] = target


def _joined(grids: Grids, operator: Operator) -> Iterator[tuple[Slot, str]]:
    """Yield the slots that a joining operator brings onto a grid, and whose grid it is."""
    if operator.kind == "joining":
        output = operator.last.output[0]
        for slot in operator.reads:
            yield slot, grids.roots.get(output, output)
