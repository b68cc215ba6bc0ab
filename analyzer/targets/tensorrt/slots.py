# SPDX-License-Identifier: Apache-2.0
"""From chosen nodes to quantizers: which tensors get a Q/DQ pair, and who reads behind it.

Imitates what `quantize_static` of onnxruntime does with the options that ModelOpt gives it (no
quantized outputs, one pair per tensor, symmetric activations, float biases), and what
`remove_partial_input_qdq` and `get_concat_eliminated_tensors` of `graph_utils.py` of
nvidia-modelopt change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from analyzer.graph.build import is_float
from analyzer.graph.view import GraphView, gemm_output_axis
from analyzer.records import Model, Observer, Quantizer, Role
from analyzer.targets.tensorrt.choice import QUANTIZED, Choice
from analyzer.targets.tensorrt.net import Net, Op

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm"})
_FIRST_INPUT = frozenset(
    """
    AveragePool BatchNormalization LRN LayerNormalization MaxPool Resize TopK
    """.split()
)
Edge = tuple[str, int]  # reading node, input index


@dataclass(slots=True)
class _Marks:
    """Tensors with a Q/DQ pair.

    Attributes:
        activations: tensors that are quantized for all readers.
        weights: edge at which an initializer is quantized -> its channel axis.
    """

    activations: dict[str, None] = field(default_factory=dict)
    weights: dict[Edge, int | None] = field(default_factory=dict)


def quantizers(
    model: Model, net: Net, choice: Choice, observer: Observer
) -> tuple[Quantizer, ...]:
    """Return the quantizers of a model whose nodes were chosen; scales still missing."""
    marks = _mark(model, net, choice)
    bypassed = _bypassed(net, choice, marks)
    view = GraphView(model.proto.graph)
    found: dict[tuple[str, str], Quantizer] = {}
    for (name, index), axis in marks.weights.items():
        quantizer = _quantizer(view, (name, f"in{index}"), axis, "minmax")
        found[quantizer.key] = quantizer
    groups = _concatenated(model, net, choice)
    roots: dict[str, tuple[str, str]] = {}
    for tensor in marks.activations:
        maker = net.ops.get(net.maker.get(tensor, ""))
        # known without looking (`_adjust_tensor_ranges` of `ort_patching.py`)
        is_share = maker is not None and maker.kind == "Softmax"
        alike = groups.get(tensor, ()) if not is_share else ()
        for key in _homes(view, net, tensor, bypassed):
            quantizer = _quantizer(view, key, None, observer)
            root = roots.setdefault(min(alike, default=tensor), key)
            shared = tuple(sorted(alike))
            found[key] = replace(
                quantizer,
                observes=shared if root == key else (),
                fixed_range=(0.0, 1.0) if is_share and root == key else None,
                follows=root if root != key else None,
                group=f"{root[0]}:{root[1]}" if root != key or shared else None,
            )
    return tuple(found.values())


def _mark(model: Model, net: Net, choice: Choice) -> _Marks:
    """Mark what the op handlers of onnxruntime mark."""
    view = GraphView(model.proto.graph)
    marks = _Marks()

    def activation(tensor: str) -> None:
        if tensor and is_float(model, tensor):
            marks.activations.setdefault(tensor)

    def weight(op: Op, index: int, axis: int) -> None:
        tensor = op.inputs[index]
        if net.is_initializer(tensor):
            if is_float(model, tensor):
                fits = axis < len(model.shapes[tensor])
                marks.weights[op.name, index] = axis if fits else None
        else:
            activation(tensor)

    for op in net.ops.values():
        if op.name not in choice.nodes or op.kind not in QUANTIZED or op.kind == "Clip":
            continue
        if op.kind in _FIRST_INPUT:
            activation(op.inputs[0])
        elif op.kind in _WEIGHTED:
            activation(op.inputs[0])
            weight(op, 1, _output_axis(view, op))
        elif op.kind == "MatMul":
            weight(op, 0, 1)
            weight(op, 1, 1)
        else:
            for index, tensor in enumerate(op.inputs):
                if net.is_initializer(tensor) and is_float(model, tensor):
                    marks.weights[op.name, index] = None
                else:
                    activation(tensor)
    return marks


def _output_axis(view: GraphView, op: Op) -> int:
    if op.kind == "Gemm":
        return gemm_output_axis(view.nodes[op.name])
    return 0 if op.kind == "Conv" else 1


def _bypassed(net: Net, choice: Choice, marks: _Marks) -> set[Edge]:
    """Return the edges that get the tensor itself (`remove_partial_input_qdq`)."""
    found: set[Edge] = set()
    readers = {name: net.ops[name].inputs for name in net.ops}

    def edges(name: str, tensor: str) -> Iterator[Edge]:
        """Where the node reads the tensor behind its Q/DQ pair."""
        for index, read in enumerate(readers[name]):
            if read == tensor and tensor in marks.activations and (name, index) not in found:
                yield name, index

    for bypass in choice.bypasses:
        tensor = net.ops[bypass.maker].outputs[0]
        found.update(list(edges(bypass.reader, tensor))[:1])
    named = {bypass.tensor for bypass in choice.bypasses}
    for bypass in choice.bypasses:
        if net.ops[bypass.reader].kind != "Add":
            continue
        for tensor in readers[bypass.reader]:
            maker = net.ops.get(net.maker.get(tensor, ""))
            if maker is None or not any(edges(bypass.reader, tensor)):
                continue
            quantized = [t for t in maker.outputs if t in marks.activations]
            if len(quantized) == 1 and not named.isdisjoint(maker.outputs):
                found.update(list(edges(bypass.reader, tensor))[:1])
    return found


def _homes(view: GraphView, net: Net, tensor: str, bypassed: set[Edge]) -> list[tuple[str, str]]:
    """Return the slots of a tensor's pair: its maker's, or those of the readers behind it."""
    edges = [
        (name, index)
        for name in dict.fromkeys(net.readers.get(tensor, ()))
        for index, read in enumerate(net.ops[name].inputs)
        if read == tensor
    ]
    behind = [(name, f"in{index}") for name, index in edges if (name, index) not in bypassed]
    if not behind and tensor not in net.outputs:
        return []
    maker = view.producer.get(tensor)
    if maker is not None and (len(behind) == len(edges) or tensor in net.outputs):
        return [(maker, f"out{list(view.nodes[maker].output).index(tensor)}")]
    return behind


def _concatenated(model: Model, net: Net, choice: Choice) -> dict[str, frozenset[str]]:
    """Return for each quantized tensor around a Concat those that share its scale.

    `get_concat_eliminated_tensors`: so that TensorRT can quantize before it concatenates.
    """
    found: dict[str, frozenset[str]] = {}
    for op in net.ops.values():
        if op.kind != "Concat" or not is_float(model, op.outputs[0]):
            continue
        around = [t for t in (*op.inputs, op.outputs[0]) if _feeds(net, t, choice.nodes)]
        if op.outputs[0] in around and len(around) > 1:
            union = frozenset(around).union(*(found.get(t, ()) for t in around))
            found.update(dict.fromkeys(union, union))
    return found


def _feeds(net: Net, tensor: str, nodes: Iterable[str]) -> bool:
    return any(reader in nodes for reader in net.readers.get(tensor, ()))


def _quantizer(
    view: GraphView, key: tuple[str, str], axis: int | None, observer: Observer
) -> Quantizer:
    name, slot = key
    node = view.nodes[name]
    index = int(slot.lstrip("inout"))
    tensor = (node.input if slot.startswith("in") else node.output)[index]
    role: Role = "input" if tensor in view.inputs else "activation"
    if view.is_constant(tensor):
        role = "weight" if node.op_type in (*_WEIGHTED, "MatMul") else "constant"
    return Quantizer(
        node=name,
        slot=slot,
        tensor=tensor,
        role=role,
        bits=8,
        axis=axis,
        qmin=-128,
        qmax=127,
        observer=observer,
    )
