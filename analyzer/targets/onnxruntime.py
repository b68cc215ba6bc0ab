# SPDX-License-Identifier: Apache-2.0
"""onnxruntime's `quantize_static`: QDQ format, int8 activations and weights, per-channel weights.

Imitates `onnxruntime/python/tools/quantization/qdq_quantizer.py` and `operators/*.py` of 1.31
with their defaults.  Tensors, not slots, are quantized there: a Q/DQ pair behind the producer
serves every consumer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper

from analyzer.graph.build import is_float
from analyzer.graph.view import GraphView
from analyzer.records import Model, Observer, Quantizer, QuantPlan, Role, Setting
from analyzer.targets.base import COMPUTING, F64, I64, Target, last_axis

# Keys of QLinearOpsRegistry and QDQRegistry: the default `op_types_to_quantize`.
QUANTIZED = frozenset(
    """
    ArgMax Conv Gemm MatMul Add Mul Relu Clip LeakyRelu Sigmoid MaxPool GlobalAveragePool Split
    Pad Reshape Squeeze Unsqueeze Flatten Resize AveragePool Concat Softmax Where Gather
    Transpose EmbedLayerNormalization ConvTranspose Slice GatherElements InstanceNormalization
    LayerNormalization BatchNormalization TopK CumSum
    """.split()
)
# Output takes over the input's scale, where the input is quantized at all.
_PASS_THROUGH = frozenset(
    [
        "Reshape",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Flatten",
        "Resize",
        "MaxPool",
        "AveragePool",
        "Slice",
        "TopK",
    ]
)
_SINCE = {"Resize": 11, "MaxPool": 12}
_BIAS_MARGIN = 1.0001
_FLOAT32_TINY = float(np.finfo(np.float32).tiny)


@dataclass(slots=True)
class _Tensor:
    """One tensor marked for quantization."""

    weight: bool = False
    axis: int | None = None
    provider: str | None = None


@dataclass(slots=True)
class _Marks:
    """What the op handlers mark, in the order of the nodes."""

    model: Model
    view: GraphView
    tensors: dict[str, _Tensor] = field(default_factory=dict)
    biases: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    merged: set[str] = field(default_factory=set)  # outputs taken over by a following Relu or Clip

    def activation(self, tensor: str) -> None:
        if tensor and is_float(self.model, tensor):
            self.tensors.setdefault(tensor, _Tensor())

    def like_input(self, output: str, source: str) -> None:
        if is_float(self.model, output):
            self.tensors[output] = _Tensor(provider=source)

    def weight(self, tensor: str, axis: int) -> None:
        if not self.view.is_constant(tensor):
            self.activation(tensor)
            return
        if not is_float(self.model, tensor):
            return
        rank = len(self.model.shapes[tensor])
        if -rank <= axis < rank:
            self.tensors[tensor] = _Tensor(weight=True, axis=axis % rank)
        else:
            self.tensors.setdefault(tensor, _Tensor(weight=True))

    def quantized(self, tensor: str) -> bool:
        return tensor in self.tensors or tensor in self.biases


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRuntime(Target):
    """S8S8 QDQ, per-channel weights, MinMax calibration."""

    name: str = "onnxruntime"
    summary: str = "onnxruntime quantize_static, QDQ, int8 activations, int8 per-channel weights"
    precisions: tuple[str, ...] = ("int8",)
    observers: tuple[Observer, ...] = ("minmax", "percentile", "kl", "mse")

    def place(self, model: Model, setting: Setting) -> QuantPlan:
        """Mark tensors as the op handlers of `quantize_static` do, then turn them into slots."""
        view = GraphView(model.proto.graph)
        marks = _Marks(model, view)
        for node in view.nodes.values():
            if node.op_type in QUANTIZED and node.domain in ("", "com.microsoft"):
                _mark(marks, node)
        quantizers = _slots(marks, setting.observer or self.observers[0])
        carrying = {q.node for q in quantizers}
        layers = tuple(
            name
            for name, node in view.nodes.items()
            if name in carrying or (node.op_type in QUANTIZED and _touches(marks, node))
        )
        return QuantPlan(
            target=self.name,
            layers=layers,
            computing=frozenset(n for n in layers if view.nodes[n].op_type in COMPUTING),
            precision=dict.fromkeys(layers, "int8"),
            quantizers=quantizers,
        )

    def scale(self, quantizer: Quantizer, lo: F64, hi: F64, kind: Observer) -> tuple[F64, I64]:
        """Return scales as `compute_scale_zp` of `quant_utils.py` does (float32 scales)."""
        lo, hi = np.minimum(lo, 0.0), np.maximum(hi, 0.0)
        if quantizer.symmetric:
            hi = np.maximum(-lo, hi)
            lo = -hi
        step = (hi - lo) / (quantizer.qmax - quantizer.qmin)
        silent = step < _FLOAT32_TINY
        step = np.where(silent, 1.0, step)
        if quantizer.symmetric:
            zero = np.full(step.shape, round((quantizer.qmin + quantizer.qmax) / 2.0))
        else:
            zero = np.where(silent, 0.0, np.rint(quantizer.qmin - lo / step))
        return step.astype(np.float32).astype(np.float64), zero.astype(np.int64)

    def weight_scale(self, bias: Quantizer, scale: F64, input_scale: F64, values: F64) -> F64:
        """Widen weight scales until the bias fits 32 bits.

        `_adjust_weight_scale_for_int32_bias` of `qdq_quantizer.py`: per channel where the weight
        is, else for the largest bias.
        """
        largest = np.abs(values) if scale.size > 1 else np.abs(values).max(keepdims=True)
        if largest.size not in (1, scale.size):
            return scale
        smallest = _BIAS_MARGIN * 2 * largest / (2**32 - 2)
        product = scale * input_scale
        narrow = (product > 0) & (product < smallest)
        widened = scale * np.where(narrow, smallest / np.where(product > 0, product, 1.0), 1.0)
        return np.asarray(widened.astype(np.float32).astype(np.float64))


ONNXRUNTIME = OnnxRuntime()


def _touches(marks: _Marks, node: onnx.NodeProto) -> bool:
    return any(t in marks.tensors for t in [*node.input, *node.output])


def _mark(marks: _Marks, node: onnx.NodeProto) -> None:
    """Mark the tensors of one node, as its handler in `operators/` does."""
    op = node.op_type
    opset = marks.model.opset
    source = node.input[0] if node.input else ""
    if op in _SINCE and opset < _SINCE[op]:
        return
    if op in ("Conv", "ConvTranspose", "Gemm"):
        marks.activation(source)
        marks.activation(node.output[0])
        marks.weight(node.input[1], _weight_axis(node))
        _mark_bias(marks, node)
    elif op == "MatMul":
        for tensor in node.input:
            marks.weight(tensor, 1)
        marks.activation(node.output[0])
    elif op in ("Relu", "Clip"):
        _mark_removable(marks, node)
    elif op in _PASS_THROUGH:
        if marks.quantized(source):
            marks.like_input(node.output[0], source)
    elif op == "Split":
        marks.activation(source)
        for output in node.output:
            marks.like_input(output, source)
    elif op in ("Gather", "GatherElements"):
        if marks.view.is_constant(source) and is_float(marks.model, source):
            marks.activation(source)
            marks.like_input(node.output[0], source)
        elif marks.quantized(source):
            marks.like_input(node.output[0], source)
    elif op == "Where":
        if marks.quantized(node.input[1]) and marks.quantized(node.input[2]):
            marks.activation(node.output[0])
    elif op == "Pad":
        for tensor in node.input:
            marks.activation(tensor)
        if _pads_with_known(marks, node):
            marks.like_input(node.output[0], source)
        else:
            marks.activation(node.output[0])
    elif op in ("InstanceNormalization", "LayerNormalization", "BatchNormalization"):
        marks.activation(source)
        marks.weight(node.input[1], 1)
        _mark_bias(marks, node)
        for output in node.output:
            marks.activation(output)
    else:
        for tensor in [*node.input, *node.output]:
            marks.activation(tensor)


def _mark_bias(marks: _Marks, node: onnx.NodeProto) -> None:
    if len(node.input) > 2 and marks.view.is_constant(node.input[2]):
        marks.biases.setdefault(node.input[2], (node.name, node.input[0], node.input[1]))


def _mark_removable(marks: _Marks, node: onnx.NodeProto) -> None:
    """Relu and Clip give way to the quantizer behind them when nothing else reads their input."""
    source = node.input[0]
    if not marks.quantized(source):
        return
    view = marks.view
    if (
        len(view.consumers[source]) == 1
        and source not in view.outputs
        and source not in view.inputs
        and not view.is_constant(source)
    ):
        marks.tensors.pop(source, None)
        marks.merged.add(source)
    else:
        marks.activation(source)
    marks.activation(node.output[0])


def _weight_axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return 0 if transposed else 1
    return 0 if node.op_type == "Conv" else 1


def _pads_with_known(marks: _Marks, node: onnx.NodeProto) -> bool:
    """Tell whether padding adds only values that the input's range covers."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if attributes.get("mode", b"constant") in (b"reflect", b"edge", b"wrap"):
        return True
    if marks.model.opset < 11:
        return float(attributes.get("value", 0.0)) == 0
    if len(node.input) < 3 or not node.input[2]:
        return True
    value = node.input[2]
    return marks.view.is_constant(value) and float(marks.view.array(value).ravel()[0]) == 0


def _slots(marks: _Marks, observer: Observer) -> tuple[Quantizer, ...]:
    """Turn marked tensors into quantizers: at the producer, or at each consumer where none is."""
    view = marks.view
    homes: dict[str, list[tuple[str, str]]] = {}
    for node in view.nodes.values():
        for index, tensor in enumerate(node.output):
            homes.setdefault(tensor, []).append((node.name, f"out{index}"))
    for node in view.nodes.values():
        for index, tensor in enumerate(node.input):
            if tensor and tensor not in view.producer:
                homes.setdefault(tensor, []).append((node.name, f"in{index}"))
    found: dict[tuple[str, str], Quantizer] = {}
    for tensor, mark in marks.tensors.items():
        root = tensor
        while (provider := marks.tensors[root].provider) is not None and provider in marks.tensors:
            root = provider
        first = homes[root][0]
        for key in homes.get(tensor, ()):
            found[key] = _quantizer(marks, key, tensor, mark, observer, first)
    for tensor, (name, source, weight) in marks.biases.items():
        node = view.nodes[name]
        if weight in marks.tensors and source in marks.tensors and is_float(marks.model, tensor):
            slot = f"in{list(node.input).index(tensor, 2)}"
            per_channel = marks.tensors[weight].axis is not None
            axis = last_axis(marks.model, tensor) if per_channel else None
            found[name, slot] = _bias(name, slot, tensor, axis)
    order = {name: i for i, name in enumerate(view.nodes)}
    return tuple(sorted(found.values(), key=lambda q: (order[q.node], q.slot)))


def _quantizer(
    marks: _Marks,
    key: tuple[str, str],
    tensor: str,
    mark: _Tensor,
    observer: Observer,
    root: tuple[str, str],
) -> Quantizer:
    constant = marks.view.is_constant(tensor)
    role: Role = "weight" if mark.weight else "constant" if constant else "activation"
    if tensor in marks.view.inputs:
        role = "input"
    producer = marks.view.nodes.get(marks.view.producer.get(tensor, ""))
    fixed = producer is not None and producer.op_type == "Softmax"
    return Quantizer(
        node=key[0],
        slot=key[1],
        tensor=tensor,
        role=role,
        bits=8,
        symmetric=mark.weight,
        axis=mark.axis,
        qmin=-127 if mark.weight else -128,
        qmax=127,
        group=f"{root[0]}:{root[1]}" if root != key else None,
        observer="minmax" if constant or fixed else observer,
        follows=root if root != key else None,
        fixed_range=(0.0, 1.0) if fixed and root == key else None,
    )


def _bias(name: str, slot: str, tensor: str, axis: int | None) -> Quantizer:
    return Quantizer(
        node=name,
        slot=slot,
        tensor=tensor,
        role="bias",
        bits=32,
        axis=axis,
        qmin=-(2**31),
        qmax=2**31 - 1,
    )
