# SPDX-License-Identifier: Apache-2.0
"""The state of every slot of every quantized op, as esp-ppq's passes see it.

Imitates `quantizer/EspdlQuantizer.py` of esp-ppq 1.3.12.  A config ends in one of four states: own
scale (ACTIVATED), another's scale (PASSIVE), left to another config of the same tensor
(OVERLAPPED), or float.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx

from analyzer.graph.view import GraphView
from analyzer.records import Model, Observer, Role

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
COMPUTING = frozenset({"Conv", "Gemm", "ConvTranspose", "MatMul", "Attention", "LSTM"})
RECURRENT = frozenset({"GRU", "LSTM"})
PASSIVE = frozenset(
    """
    MaxPool GlobalMaxPool Reshape Flatten Identity Dropout Slice Pad Split Transpose Interp
    Squeeze Unsqueeze Gather ReverseSequence ReduceMax ReduceMin
    """.split()
)
REDUCE = frozenset(t for t in QUANTIZED if t.startswith("Reduce"))
COMPARE = frozenset({"Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual"})
ALIGNED_TO_OUTPUT = frozenset({"Add", "Sub", "Sum", "Concat", "ScatterND", "Resize"})
BIASED = frozenset({"Conv", "Gemm", "ConvTranspose"})
FLOAT_SECOND = (
    frozenset({"Reshape", "Gather", "Split", "Squeeze", "Unsqueeze", "ScatterND"})
    | frozenset({"ReverseSequence"})
    | REDUCE
)


@dataclass(eq=False, slots=True)
class Config:
    """The state of one slot while the passes run.

    `leader` points to the config whose scale this one uses.
    """

    node: str
    slot: str
    tensor: str
    constant: bool
    state: str = "INITIAL"
    leader: Config | None = None
    per_channel: bool = False
    axis: int | None = None
    bits: int = 8

    def root(self) -> Config:
        """Return the config at the end of the chain: the one with the scale."""
        config = self
        while config.leader is not None:
            config = config.leader
        return config

    def dominated_by(self, other: Config) -> None:
        """Merge the scales: this config and its root leave the tensor to `other`."""
        mine, theirs = self.root(), other.root()
        if mine is theirs:
            return
        mine.leader = theirs
        mine.state = self.state = "OVERLAPPED"

    def enslaved_to(self, other: Config) -> None:
        """Quantize with the scale of `other`, whatever the state was."""
        if other.root() is self:
            return
        self.leader = other
        self.state = "PASSIVE"


@dataclass(slots=True)
class Graph:
    """A model under the passes: op types as esp-ppq calls them, and the config of every slot."""

    model: Model
    view: GraphView
    types: dict[str, str]
    configs: dict[tuple[str, str], Config] = field(default_factory=dict)

    def of(self, node: str, side: str) -> Iterator[Config]:
        """Yield the configs of one side ("in" or "out") of a quantized node, in slot order."""
        proto = self.view.nodes[node]
        for index in range(len(proto.input if side == "in" else proto.output)):
            config = self.configs.get((node, f"{side}{index}"))
            if config is not None:
                yield config

    def output(self, tensor: str) -> Config | None:
        """Return the config at the producer of `tensor`, if that is quantized."""
        producer = self.view.producer.get(tensor)
        if producer is None or producer not in self.types:
            return None
        index = list(self.view.nodes[producer].output).index(tensor)
        return self.configs.get((producer, f"out{index}"))


def observer_of(config: Config, activations: Observer) -> Observer:
    """Return the observer of a config; `activations` is that of tensors that depend on data."""
    if not config.constant:
        return activations
    return "minmax" if config.per_channel else "percentile"


def role(graph: Graph, config: Config) -> Role:
    """Return what a slot holds."""
    if config.state == "BIAS":
        return "bias"
    if config.constant:
        computing = graph.types[config.node] in COMPUTING
        return "weight" if computing and config.slot == "in1" else "constant"
    return "input" if config.tensor in graph.view.inputs else "activation"


def is_float_slot(kind: str, slot: str) -> bool:
    """Tell whether esp-ppq never quantizes this slot of an op of type `kind`."""
    if slot == "in0":
        return kind in RECURRENT
    if kind in RECURRENT:
        return True
    if slot == "in1" and (kind in FLOAT_SECOND or kind == "RMSNormalization"):
        return True
    if kind in ("Slice", "Resize", "Pad") and slot.startswith("in"):
        return True
    if kind == "Clip" and slot.startswith("in"):
        return True
    if kind == "Attention" and slot == "in3":
        return True
    return slot == "out0" and (kind in ("Softmax", "LogSoftmax") or kind in COMPARE)


def weight_axis(node: onnx.NodeProto) -> int:
    """Return the axis of output channels in the weight of a computing op."""
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return 1 if node.op_type == "ConvTranspose" else 0
