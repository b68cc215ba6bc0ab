# SPDX-License-Identifier: Apache-2.0
"""Espressif's esp-ppq 1.3.12 for ESP-DL chips: symmetric power-of-two grids.

Imitates, in this order: `quantizer/EspdlQuantizer.py` (a config per slot), `optim/refine.py`
(fusion, simplification, alignment) and `optim/parameters.py` (bias and bounds).  A config ends in
one of four states: own scale (ACTIVATED), another's scale (PASSIVE), left to another config of
the same tensor (OVERLAPPED), or float.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx

from analyzer.graph.build import is_float
from analyzer.graph.fuse import fuse_swish
from analyzer.graph.view import GraphView
from analyzer.records import Model, Observer, Quantizer, QuantPlan, Role, Rounding
from analyzer.targets.base import F64, I64, last_axis

QUANTIZED = frozenset(
    """
    Conv ConvTranspose Gemm GRU LSTM Relu PRelu Clip Pad Resize MaxPool AveragePool
    GlobalMaxPool GlobalAveragePool Softmax LogSoftmax LpNormalization Mul Add Max Sub Div Neg
    Reshape LeakyRelu Concat Sigmoid Interp ReduceL1 ReduceL2 ReduceMean ReduceMin ReduceMax
    ReduceProd ReduceSum ReduceSumSquare ReduceLogSum ReduceLogSumExp Transpose Slice Flatten
    HardSwish HardSigmoid MatMul Attention LayerNormalization RMSNormalization Gelu
    PPQBiasFusedMatMul Split Gather ScatterND Tanh Elu Greater Less Equal GreaterOrEqual
    LessOrEqual ReverseSequence Identity Swish Squeeze Unsqueeze Exp DepthToSpace SpaceToDepth
    InsertZeros Mod
    """.split()
)
# `is_computing_op` of esp-ppq: the rows of its reports.
_COMPUTING = frozenset({"Conv", "Gemm", "ConvTranspose", "MatMul", "Attention", "LSTM"})
_RECURRENT = frozenset({"GRU", "LSTM"})
_PASSIVE = frozenset(
    """
    MaxPool GlobalMaxPool Reshape Flatten Identity Dropout Slice Pad Split Transpose Interp
    Squeeze Unsqueeze Gather ReverseSequence ReduceMax ReduceMin
    """.split()
)
_REDUCE = frozenset(t for t in QUANTIZED if t.startswith("Reduce"))
_COMPARE = frozenset({"Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual"})
_ALIGNED_TO_OUTPUT = frozenset({"Add", "Sub", "Sum", "Concat", "ScatterND", "Resize"})
_BIASED = frozenset({"Conv", "Gemm", "ConvTranspose"})
_FLOAT_SECOND = (
    frozenset({"Reshape", "Gather", "Split", "Squeeze", "Unsqueeze", "ScatterND"})
    | frozenset({"ReverseSequence"})
    | _REDUCE
)
_SMALLEST_SCALE = 1e-8


@dataclass(eq=False, slots=True)
class _Config:
    """The state of one slot while the passes run.

    `leader` points to the config whose scale this one uses.
    """

    node: str
    slot: str
    tensor: str
    constant: bool
    state: str = "INITIAL"
    leader: _Config | None = None
    per_channel: bool = False
    axis: int | None = None
    bits: int = 8

    def root(self) -> _Config:
        config = self
        while config.leader is not None:
            config = config.leader
        return config

    def dominated_by(self, other: _Config) -> None:
        """Merge the scales: this config and its root leave the tensor to `other`."""
        mine, theirs = self.root(), other.root()
        if mine is theirs:
            return
        mine.leader = theirs
        mine.state = self.state = "OVERLAPPED"

    def enslaved_to(self, other: _Config) -> None:
        """Quantize with the scale of `other`, whatever the state was."""
        if other.root() is self:
            return
        self.leader = other
        self.state = "PASSIVE"


@dataclass(slots=True)
class _Graph:
    model: Model
    view: GraphView
    types: dict[str, str]
    configs: dict[tuple[str, str], _Config] = field(default_factory=dict)

    def of(self, node: str, side: str) -> Iterator[_Config]:
        """Yield the configs of one side ("in" or "out") of a quantized node, in slot order."""
        proto = self.view.nodes[node]
        for index in range(len(proto.input if side == "in" else proto.output)):
            config = self.configs.get((node, f"{side}{index}"))
            if config is not None:
                yield config

    def output(self, tensor: str) -> _Config | None:
        """Return the config at the producer of `tensor`, if that is quantized."""
        producer = self.view.producer.get(tensor)
        if producer is None or producer not in self.types:
            return None
        index = list(self.view.nodes[producer].output).index(tensor)
        return self.configs.get((producer, f"out{index}"))


@dataclass(frozen=True, slots=True)
class EspDl:
    """One ESP-DL chip family at int8.

    Attributes:
        per_channel: weights of Conv and Gemm have a scale per output channel.
        bias_bits: width of the stored bias.
    """

    name: str
    summary: str
    per_channel: bool
    bias_bits: int
    rounding: Rounding
    precisions: tuple[str, ...] = ("int8", "fp32")
    observer: Observer = "kl"
    calibrates_with_quantized_weights: bool = True

    def prepare(self, model: Model) -> Model:
        """Fuse SiLU into one Swish, as esp-ppq's FUSE_SWISH does."""
        return fuse_swish(model)

    def place(self, model: Model, *, observer: Observer | None = None) -> QuantPlan:
        """Run the passes and return one quantizer per slot of every quantized node."""
        view = GraphView(model.proto.graph)
        types = {
            name: model.op_types.get(name, node.op_type)
            for name, node in view.nodes.items()
            if model.op_types.get(name, node.op_type) in QUANTIZED
            and any(is_float(model, t) for t in node.output)
        }
        graph = _Graph(model, view, types)
        for name in types:
            self._configure(graph, view.nodes[name])
        _fuse_activations(graph)
        _fuse_passive(graph)
        _fuse_any_with_activation(graph)
        _simplify(graph)
        for config in graph.configs.values():
            if config.state == "INITIAL":
                config.state = "ACTIVATED"
        _align(graph)
        notes = _notes(graph)
        return QuantPlan(
            target=self.name,
            layers=tuple(types),
            computing=frozenset(n for n, t in types.items() if t in _COMPUTING),
            precision={n: "fp32" if t in _RECURRENT else "int8" for n, t in types.items()},
            quantizers=tuple(self._quantizers(graph, observer or self.observer)),
            notes=notes,
        )

    def scale(self, quantizer: Quantizer, lo: F64, hi: F64, kind: Observer) -> tuple[F64, I64]:
        """Return power-of-two scales (`quantization/observer/range.py`).

        A range is rounded up to the next power of two; a KL threshold to the nearest one.
        """
        lo, hi = np.minimum(lo, 0.0), np.maximum(hi, 0.0)
        reach = np.maximum(-lo, hi)
        if kind == "kl":
            step = np.where(reach == 0, 2.0**-27, np.maximum(reach / -quantizer.qmin, 1e-8))
            exponent = np.floor(np.log2(step) + 0.5)
        else:
            step = 2 * reach / (quantizer.qmax - quantizer.qmin)
            exponent = np.ceil(np.log2(np.maximum(step, _SMALLEST_SCALE)))
        return np.exp2(exponent), np.zeros(exponent.shape, np.int64)

    def weight_scale(self, bias: Quantizer, scale: F64, input_scale: F64, values: F64) -> F64:
        """Return `scale`: a bias too large for its bits saturates."""
        return scale

    def _configure(self, graph: _Graph, node: onnx.NodeProto) -> None:
        """Give every slot its first state (2.2 of the reference: FP32, INITIAL or bias)."""
        kind = graph.types[node.name]
        for side, tensors in (("in", node.input), ("out", node.output)):
            for index, tensor in enumerate(tensors):
                if not tensor:
                    continue
                slot = f"{side}{index}"
                config = _Config(node.name, slot, tensor, constant=graph.view.is_constant(tensor))
                if not is_float(graph.model, tensor) or _is_float_slot(kind, slot):
                    config.state = "FP32"
                elif kind in _BIASED and slot == "in2":
                    config.state = "BIAS"
                    config.bits = self.bias_bits
                    config.axis = last_axis(graph.model, tensor) if self.per_channel else None
                elif kind in _BIASED and slot == "in1" and self.per_channel and config.constant:
                    config.per_channel = True
                    config.axis = _weight_axis(node)
                graph.configs[node.name, slot] = config

    def _quantizers(self, graph: _Graph, observer: Observer) -> Iterator[Quantizer]:
        for key, config in graph.configs.items():
            if config.state == "FP32":
                continue
            root = config.root()
            bias = config.state == "BIAS"
            bits = config.bits
            yield Quantizer(
                node=config.node,
                slot=config.slot,
                tensor=config.tensor,
                role=_role(graph, config),
                bits=bits,
                axis=config.axis,
                qmin=-(2 ** (bits - 1)),
                qmax=2 ** (bits - 1) - 1,
                rounding=self.rounding,
                group=f"{root.node}:{root.slot}" if root is not config else None,
                active=config.state != "OVERLAPPED",
                observer=None if bias else _observer(config, observer),
                follows=None if root is config else (root.node, root.slot),
            )
            assert key == (config.node, config.slot)


ESP32P4 = EspDl(
    name="esp32p4",
    summary="esp-ppq for ESP32-P4: int8, power-of-two scales, per-channel weights, half-even",
    per_channel=True,
    bias_bits=32,
    rounding="half_even",
)


def _observer(config: _Config, activations: Observer) -> Observer:
    if not config.constant:
        return activations
    return "minmax" if config.per_channel else "percentile"


def _role(graph: _Graph, config: _Config) -> Role:
    if config.state == "BIAS":
        return "bias"
    if config.constant:
        computing = graph.types[config.node] in _COMPUTING
        return "weight" if computing and config.slot == "in1" else "constant"
    return "input" if config.tensor in graph.view.inputs else "activation"


def _is_float_slot(kind: str, slot: str) -> bool:
    if slot == "in0":
        return kind in _RECURRENT
    if kind in _RECURRENT:
        return True
    if slot == "in1" and (kind in _FLOAT_SECOND or kind == "RMSNormalization"):
        return True
    if kind in ("Slice", "Resize", "Pad") and slot.startswith("in"):
        return True
    if kind == "Clip" and slot.startswith("in"):
        return True
    if kind == "Attention" and slot == "in3":
        return True
    return slot == "out0" and (kind in ("Softmax", "LogSoftmax") or kind in _COMPARE)


def _weight_axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return 1 if node.op_type == "ConvTranspose" else 0


def _single_edge(graph: _Graph, node: str) -> str | None:
    """Return the only node that reads output 0 of `node`, if that reads nothing else made."""
    readers = graph.view.consumers.get(graph.view.nodes[node].output[0], [])
    if len(readers) != 1:
        return None
    made = [t for t in graph.view.nodes[readers[0]].input if t in graph.view.producer]
    return readers[0] if len(made) == 1 else None


def _fuse_pair(graph: _Graph, node: str, activation: str) -> None:
    target = graph.configs[activation, "out0"]
    for config in (graph.configs.get((node, "out0")), graph.configs.get((activation, "in0"))):
        if config is not None and config.state != "FP32":
            config.dominated_by(target)


def _fuse_activations(graph: _Graph) -> None:
    """Computing op -> Relu or Clip: both leave the tensor to the activation's output."""
    for node, kind in graph.types.items():
        reader = _single_edge(graph, node)
        if kind in _COMPUTING and graph.types.get(reader or "") in ("Relu", "Clip"):
            _fuse_pair(graph, node, str(reader))


def _fuse_passive(graph: _Graph) -> None:
    """Ops that only move values keep the scale of what they read."""
    for node, kind in graph.types.items():
        if kind not in _PASSIVE:
            continue
        proto = graph.view.nodes[node]
        if graph.view.producer.get(proto.input[0]) not in graph.types:
            continue
        source = graph.configs[node, "in0"]
        if source.state == "FP32":
            continue
        for config in graph.of(node, "out"):
            if config.state != "FP32":
                config.dominated_by(source)


def _fuse_any_with_activation(graph: _Graph) -> None:
    """Any quantized op -> Relu or Clip, as for computing ops."""
    for node in graph.types:
        reader = _single_edge(graph, node)
        if graph.types.get(reader or "") in ("Relu", "Clip"):
            _fuse_pair(graph, node, str(reader))


def _simplify(graph: _Graph) -> None:
    """A tensor is quantized at its producer; consumers with the same scheme leave it there."""
    for node in graph.types:
        for output in graph.of(node, "out"):
            if output.state == "FP32":
                continue
            seen: set[str] = set()
            for reader in graph.view.consumers.get(output.tensor, ()):
                if reader not in graph.types or reader in seen:
                    continue
                seen.add(reader)
                slot = list(graph.view.nodes[reader].input).index(output.tensor)
                config = graph.configs.get((reader, f"in{slot}"))
                if config is not None and config.state == "INITIAL" and not config.per_channel:
                    config.dominated_by(output)


def _align(graph: _Graph) -> None:
    """Add, Sub, Concat, Resize: inputs, and producers read by nothing else, follow the output."""
    for node, kind in graph.types.items():
        if kind not in _ALIGNED_TO_OUTPUT:
            continue
        output = graph.configs[node, "out0"]
        for config in graph.of(node, "in"):
            if config.state != "FP32":
                config.enslaved_to(output)
        for tensor in graph.view.nodes[node].input:
            producer = graph.view.producer.get(tensor)
            source = graph.output(tensor)
            if producer is None or source is None or graph.types[producer] in _PASSIVE:
                continue
            edges = sum(
                len(graph.view.consumers.get(t, ())) for t in graph.view.nodes[producer].output
            )
            if edges == 1:
                source.enslaved_to(output)


def _notes(graph: _Graph) -> tuple[str, ...]:
    notes = []
    if any(t == "ConvTranspose" for t in graph.types.values()):
        notes.append(
            "ConvTranspose is simulated as one layer; esp-ppq splits it into InsertZeros and "
            "Conv, which adds one activation quantizer."
        )
    if any(t in _COMPARE for t in graph.types.values()):
        notes.append(
            "Comparisons read their inputs unquantized; esp-ppq doubles the larger scale."
        )
    if any(t in _RECURRENT for t in graph.types.values()):
        notes.append("Recurrent layers run whole in FP32.")
    return tuple(notes)
