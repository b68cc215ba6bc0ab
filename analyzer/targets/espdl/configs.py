# SPDX-License-Identifier: Apache-2.0
"""The state of every slot of every quantized op, as esp-ppq's passes see it.

Imitates `core/quant.py` and `core/common.py` of esp-ppq 1.3.12.  A config ends in one of four
states: own scale (ACTIVATED), another's scale (PASSIVE), left to another config of the same tensor
(OVERLAPPED), or float (FP32).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from analyzer.graph.view import GraphView
from analyzer.records import Model, Observer, Role

State = Literal["INITIAL", "ACTIVATED", "PASSIVE", "OVERLAPPED", "FP32", "BIAS"]

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
COMPARE = frozenset({"Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual"})
ALIGNED_TO_OUTPUT = frozenset({"Add", "Sub", "Sum", "Concat", "ScatterND", "Resize"})
BIASED = frozenset({"Conv", "Gemm", "ConvTranspose"})
ACTIVATIONS = frozenset({"Relu", "Clip"})

BITS = {"int8": 8, "int16": 16, "w8a16": 16}  # of activations, by precision


@dataclass(eq=False, slots=True)
class Config:
    """The state of one slot while the passes run.

    Attributes:
        constant: the slot reads an initializer.
        leader: the config whose scale this one uses.
        observer: of a constant; that of other tensors is the setting's.
        fixed: scale that is set without looking at the data.
    """

    node: str
    slot: str
    tensor: str
    constant: bool
    bits: int
    state: State = "INITIAL"
    leader: Config | None = None
    axis: int | None = None
    observer: Observer | None = None
    fixed: float | None = None

    def root(self) -> Config:
        """Return the config at the end of the chain: the one with the scale."""
        if self.leader is None:
            return self
        # shortened as esp-ppq does it: a config whose leader moves on later stays where it was
        self.leader = self.leader.root()
        return self.leader

    def dominated_by(self, other: Config) -> None:
        """Merge the scales: this config and its root leave the tensor to `other`."""
        mine, theirs = self.root(), other.root()
        if mine is theirs or self is theirs:
            return
        mine.leader = self.leader = theirs
        mine.state = self.state = "OVERLAPPED"

    def enslaved_to(self, other: Config) -> None:
        """Quantize with the scale of `other`, whatever the state and the bits were."""
        if other.root() is self:
            return
        self.leader = other
        self.state = "PASSIVE"


@dataclass(slots=True)
class Graph:
    """A model under the passes.

    Attributes:
        types: quantized node -> op type as esp-ppq calls it, in the order of the nodes.
        precision: quantized node -> what it runs in ("int8", ...): esp-ppq's platform.
    """

    model: Model
    view: GraphView
    types: dict[str, str]
    precision: dict[str, str]
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

    def readers(self, node: str) -> list[str]:
        """Return the nodes that read any output of `node`, once per edge."""
        outputs = self.view.nodes[node].output
        return [reader for t in outputs for reader in self.view.consumers.get(t, ())]

    def sources(self, node: str) -> list[str]:
        """Return the nodes whose outputs `node` reads, once per edge."""
        found = (self.view.producer.get(t) for t in self.view.nodes[node].input)
        return [name for name in found if name is not None]


def role(graph: Graph, config: Config) -> Role:
    """Return what a slot holds."""
    if config.state == "BIAS":
        return "bias"
    if config.constant:
        computing = graph.types[config.node] in COMPUTING
        return "weight" if computing and config.slot == "in1" else "constant"
    return "input" if config.tensor in graph.view.inputs else "activation"
