# SPDX-License-Identifier: Apache-2.0
"""Which tensors `quantize_static` marks: a graph and rules go in, marked tensors come out.

Imitates `QDQQuantizer` of onnxruntime 1.31 (`quantization/qdq_quantizer.py`) and its op handlers
(`quantization/operators/*.py`).  Tensors, not slots, are quantized there, in the order of the
nodes, and what a handler does depends on what was marked before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import onnx

from analyzer.graph.build import is_float
from analyzer.graph.view import GraphView, attributes, captured, gemm_output_axis, view_of
from analyzer.records import Model
from analyzer.targets.onnxruntime.rules import Rules

_PASS_THROUGH = frozenset(
    """
    Reshape Transpose Squeeze Unsqueeze Flatten Resize MaxPool AveragePool Slice TopK
    """.split()
)
_SINCE = {"Resize": 11, "MaxPool": 12}
_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")


@dataclass(slots=True)
class Mark:
    """One tensor marked for quantization.

    Attributes:
        weight: whether it gets the weights' type.
        axis: of per-channel scales.
        provider: the tensor whose scale it takes over, and the node that reads that one.
    """

    weight: bool = False
    axis: int | None = None
    provider: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Bias:
    """A bias to be quantized to 32 bits: the scale is that of `source` times that of `weight`."""

    node: str
    slot: str
    tensor: str
    source: str
    weight: str
    copied: bool  # another node has this bias too: this one gets a copy of its own


@dataclass(slots=True)
class Marks:
    """What has been marked so far."""

    model: Model
    view: GraphView
    rules: Rules
    tensors: dict[str, Mark] = field(default_factory=dict)
    biases: list[Bias] = field(default_factory=list)
    merged: set[str] = field(default_factory=set)  # nodes that a quantizer replaces
    readers: Counter[str] = field(default_factory=Counter)  # reading slots of the main graph
    captured: set[str] = field(default_factory=set)  # read by the body of an If, Loop or Scan
    unknown: frozenset[str] = frozenset()  # tensors whose type onnx cannot infer

    def known(self, tensor: str) -> bool:
        """Tell whether `tensor` can be quantized: float, by onnx's own inference."""
        return bool(tensor) and tensor not in self.unknown and is_float(self.model, tensor)

    def quantized(self, tensor: str) -> bool:
        """Tell whether `tensor` is marked by now."""
        return tensor in self.tensors or any(b.tensor == tensor for b in self.biases)

    def activation(self, tensor: str) -> None:
        """Mark a tensor with a scale of its own, unless it is marked already."""
        if self.known(tensor):
            self.tensors.setdefault(tensor, Mark())

    def like_input(self, output: str, source: str, node: str) -> None:
        """Mark an output that takes over its input's scale; replaces an earlier mark."""
        if self.known(output):
            self.tensors[output] = Mark(provider=(source, node))

    def weight(self, tensor: str, axis: int) -> None:
        """Mark a weight, per channel where `axis` exists (`is_tensor_per_channel`)."""
        if not self.view.is_constant(tensor):
            self.activation(tensor)
            return
        if not self.known(tensor):
            return
        rank = len(self.model.shapes[tensor])
        per_channel = self.rules.per_channel and tensor not in self.rules.overrides
        if per_channel and -rank <= axis < rank:
            self.tensors[tensor] = Mark(weight=True, axis=axis % rank)
        else:
            self.tensors.setdefault(tensor, Mark(weight=True))

    def bias(self, node: onnx.NodeProto) -> None:
        """Mark input 2 of a layer, where it is constant."""
        tensor = node.input[2] if len(node.input) > 2 else ""
        if not self.view.is_constant(tensor) or not self.known(tensor):
            return
        if tensor in self.rules.overrides:
            self.weight(tensor, 0)
            return
        again = any(b.tensor == tensor for b in self.biases)
        self.biases.append(Bias(node.name, "in2", tensor, node.input[0], node.input[1], again))


def mark_tensors(model: Model, rules: Rules) -> Marks:
    """Go over the nodes as `QDQQuantizer.quantize_model` does."""
    view = view_of(model.proto)
    marks = Marks(model, view, rules, unknown=_unknown_types(model))
    for node in view.nodes.values():
        marks.readers.update(t for t in node.input if t)
        marks.captured.update(captured(node))
    for node in view.nodes.values():
        if rules.quantizes(node):
            _HANDLERS.get(node.op_type, _mark_all)(marks, node)
    return marks


def _unknown_types(model: Model) -> frozenset[str]:
    """Return what onnx's shape inference finds no type for: outputs of foreign operators."""
    if all(node.domain in _KNOWN_DOMAINS for node in model.proto.graph.node):
        return frozenset()
    graph = onnx.shape_inference.infer_shapes(model.proto).graph
    found = {v.name for v in (*graph.value_info, *graph.output, *graph.input)}
    made = {t for node in graph.node for t in node.output if t}
    return frozenset(made - found)


def _mark_all(marks: Marks, node: onnx.NodeProto) -> None:
    for tensor in [*node.input, *node.output]:
        marks.activation(tensor)


def _mark_layer(marks: Marks, node: onnx.NodeProto) -> None:
    marks.activation(node.input[0])
    marks.activation(node.output[0])
    marks.weight(node.input[1], _weight_axis(node))
    marks.bias(node)


def _weight_axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Gemm":
        return gemm_output_axis(node)
    return 0 if node.op_type == "Conv" else 1


def _mark_matmul(marks: Marks, node: onnx.NodeProto) -> None:
    for tensor in node.input:
        marks.weight(tensor, 1)
    marks.activation(node.output[0])


def _mark_norm(marks: Marks, node: onnx.NodeProto) -> None:
    marks.activation(node.input[0])
    marks.weight(node.input[1], 1)
    marks.bias(node)
    for output in node.output:
        marks.activation(output)


def _mark_removable(marks: Marks, node: onnx.NodeProto) -> None:
    """Relu and Clip give way to the quantizer behind them when nothing else reads their input."""
    source, output = node.input[0], node.output[0]
    if not marks.quantized(source):
        return
    if _gives_way(marks, source, output):
        marks.tensors.pop(source, None)
        marks.merged.add(node.name)
    else:
        marks.activation(source)
    marks.activation(output)


def _gives_way(marks: Marks, source: str, output: str) -> bool:
    """See `try_replacing_upstream_output`; bodies that read `source` do not count there."""
    view, overrides = marks.view, marks.rules.overrides
    converted = any(overrides[t].convert for t in (source, output) if t in overrides)
    return (
        marks.known(output)
        and not converted
        and marks.readers[source] == 1
        and source not in view.outputs
        and source not in view.inputs
        and not view.is_constant(source)
    )


def _mark_pass_through(marks: Marks, node: onnx.NodeProto) -> None:
    if marks.rules.opset >= _SINCE.get(node.op_type, 0) and marks.quantized(node.input[0]):
        marks.like_input(node.output[0], node.input[0], node.name)


def _mark_split(marks: Marks, node: onnx.NodeProto) -> None:
    marks.activation(node.input[0])
    for output in node.output:
        marks.like_input(output, node.input[0], node.name)


def _mark_gather(marks: Marks, node: onnx.NodeProto) -> None:
    if marks.view.is_constant(node.input[0]) and marks.known(node.input[0]):
        marks.activation(node.input[0])
        marks.like_input(node.output[0], node.input[0], node.name)
    elif marks.quantized(node.input[0]):
        marks.like_input(node.output[0], node.input[0], node.name)


def _mark_where(marks: Marks, node: onnx.NodeProto) -> None:
    if marks.quantized(node.input[1]) and marks.quantized(node.input[2]):
        marks.activation(node.output[0])


def _mark_pad(marks: Marks, node: onnx.NodeProto) -> None:
    for tensor in node.input:
        marks.activation(tensor)
    if _pads_with_known(marks, node):
        marks.like_input(node.output[0], node.input[0], node.name)
    else:
        marks.activation(node.output[0])


def _pads_with_known(marks: Marks, node: onnx.NodeProto) -> bool:
    """Tell whether padding adds only values that the input's range covers."""
    given = attributes(node)
    if given.get("mode", b"constant") in (b"reflect", b"edge", b"wrap"):
        return True
    if marks.model.opset < 11:
        return float(given.get("value", 0.0)) == 0
    if len(node.input) < 3 or not node.input[2]:
        return True
    value = node.input[2]
    return marks.view.is_constant(value) and float(marks.view.array(value).ravel()[0]) == 0


_HANDLERS: dict[str, Callable[[Marks, onnx.NodeProto], None]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm"), _mark_layer),
    **dict.fromkeys(
        ("InstanceNormalization", "LayerNormalization", "BatchNormalization"), _mark_norm
    ),
    **dict.fromkeys(_PASS_THROUGH, _mark_pass_through),
    "MatMul": _mark_matmul,
    "Relu": _mark_removable,
    "Clip": _mark_removable,
    "Split": _mark_split,
    "Gather": _mark_gather,
    "GatherElements": _mark_gather,
    "Where": _mark_where,
    "Pad": _mark_pad,
}
