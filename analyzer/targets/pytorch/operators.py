# SPDX-License-Identifier: Apache-2.0
"""The torch operators that an ONNX graph stands for, with what FX quantization makes of each.

ONNX does not tell which of several torch forms was written (`torch.matmul` or `@`, `nn.Softmax`
or `F.softmax`, `F.interpolate` or `nn.Upsample`, `view` or `reshape`): the one that PyTorch can
quantize is assumed.  Kinds after `backend_config/native.py` and
`_common_operator_config_utils.py` of torch 2.13.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx

from analyzer.graph.build import is_float
from analyzer.graph.view import GraphView, attributes
from analyzer.records import Model
from analyzer.targets.pytorch.composites import composites, is_torch_hard_sigmoid

# own: an observer at the output.  shared: the output takes over the observer of the first input.
Kind = Literal["own", "shared", "float"]

SHARED = frozenset(
    """
    MaxPool AveragePool GlobalAveragePool Relu Clip Concat Flatten Reshape ReduceMean Transpose
    Squeeze Unsqueeze Resize Upsample DepthToSpace SpaceToDepth Tile
    """.split()
)
OWN = frozenset(
    """
    Elu LeakyRelu HardSwish PRelu InstanceNormalization LayerNormalization GroupNormalization
    BatchNormalization
    """.split()
)
FIXED: dict[str, tuple[float, float]] = {
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
}
BINARY = frozenset({"Add", "Mul"})
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# one operator with a Relu behind them
_WITH_RELU = frozenset({"Conv", "Gemm", "MatMul", "Linear", "Add", "Mul", "BatchNormalization"})


@dataclass(frozen=True, slots=True)
class Operator:
    """One torch operator.

    Attributes:
        type: ONNX op type, or the name of a composite.
        nodes: names of the ONNX nodes it stands for, in their order; the first has the weight.
        reads: (node, slot, tensor) of each float tensor it is given, in torch's order.
        output: the tensor it makes.
        weighted: whether the first node's second input is its weight.
    """

    type: str
    kind: Kind
    nodes: tuple[str, ...]
    reads: tuple[tuple[str, str, str], ...]
    output: str
    weighted: bool = False

    @property
    def name(self) -> str:
        """Name of the node that decides on the precision."""
        return self.nodes[0]


def operators(model: Model, view: GraphView) -> list[Operator]:
    """Return the torch operators with a float output, in execution order."""
    grouped = composites(view)
    inside = {name for group in grouped for name in group.nodes}
    starts = {group.nodes[0]: group for group in grouped}
    found: list[Operator] = []
    taken: set[str] = set()
    for node in view.nodes.values():
        group = starts.get(node.name)
        if group is not None:
            nodes, kind = group.nodes, group.type
        elif node.name in inside or node.name in taken:
            continue
        else:
            nodes, kind = (node.name,), node.op_type
        last = view.nodes[nodes[-1]]
        if not is_float(model, last.output[0]):
            continue
        relu = _relu_behind(view, last) if kind in _WITH_RELU and not _dynamic(view, node) else ""
        if relu and (kind != "BatchNormalization" or _spatial(model, node)):
            nodes = (*nodes, relu)
            taken.add(relu)
        found.append(_operator(model, view, kind, nodes))
    return found


def _operator(model: Model, view: GraphView, kind: str, nodes: tuple[str, ...]) -> Operator:
    node, output = view.nodes[nodes[0]], view.nodes[nodes[-1]].output[0]
    weighted = kind == "Linear" or (kind in WEIGHTED and not _dynamic(view, node))
    if weighted:
        return Operator(kind, "own", nodes, tuple(_reads(model, node, 1)), output, weighted=True)
    if kind in BINARY or kind == "MatMul":
        reads = tuple(r for r in _reads(model, node) if not _scalar(model, view, r[2]))
        one = kind in BINARY and len(reads) < 2
        return Operator(kind, "shared" if one else "own", nodes, reads, output)
    if kind == "Concat":
        return Operator(kind, "shared", nodes, tuple(_reads(model, node)), output)
    how = _unary(model, node, kind)
    reads = tuple(_reads(model, node, 1)) if how != "float" else ()
    return Operator(kind, how, nodes, reads, output)


def _unary(model: Model, node: onnx.NodeProto, kind: str) -> Kind:
    """Return what becomes of an operator that is quantized by its first input alone."""
    if kind in SHARED:
        return "shared" if _has_torch_form(node) else "float"
    if kind == "HardSigmoid":
        return "own" if is_torch_hard_sigmoid(node) else "float"
    if kind == "BatchNormalization":
        return "own" if _spatial(model, node) else "float"
    return "own" if kind in OWN or kind in FIXED else "float"


def _reads(
    model: Model, node: onnx.NodeProto, count: int | None = None
) -> Iterator[tuple[str, str, str]]:
    for index, tensor in enumerate(node.input[:count]):
        if tensor and is_float(model, tensor):
            yield node.name, f"in{index}", tensor


def _dynamic(view: GraphView, node: onnx.NodeProto) -> bool:
    """Tell whether the weight of a layer is computed; a MatMul then is a `torch.matmul`."""
    if node.op_type not in WEIGHTED:
        return False
    weight = node.input[1]
    if not view.is_constant(weight):
        return True
    return node.op_type == "MatMul" and (
        len(view.initializers[weight].dims) != 2 or view.is_constant(node.input[0])
    )


def _relu_behind(view: GraphView, node: onnx.NodeProto) -> str:
    """Return the name of the Relu that alone reads the output of `node`, or ""."""
    tensor = node.output[0]
    readers = view.consumers.get(tensor, [])
    if len(readers) != 1 or tensor in view.outputs:
        return ""
    return readers[0] if view.nodes[readers[0]].op_type == "Relu" else ""


def _scalar(model: Model, view: GraphView, tensor: str) -> bool:
    """Tell whether `tensor` is a number to torch: exporters write those as constants of rank 0."""
    return view.is_constant(tensor) and not model.shapes[tensor]


def _spatial(model: Model, node: onnx.NodeProto) -> bool:
    """Tell BatchNorm2d and 3d, which have a quantized form, from BatchNorm1d, which has none."""
    return len(model.shapes[node.input[0]]) in (4, 5)


def _has_torch_form(node: onnx.NodeProto) -> bool:
    if node.op_type == "DepthToSpace":
        return bool(attributes(node).get("mode") == b"CRD")  # nn.PixelShuffle
    return node.op_type != "MaxPool" or len([name for name in node.output if name]) == 1
