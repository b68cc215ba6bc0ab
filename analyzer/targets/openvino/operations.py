# SPDX-License-Identifier: Apache-2.0
"""The network as OpenVINO holds it: ONNX nodes go in, a list of OpenVINO operations comes out.

`openvino.convert_model` splits a layer's bias off into an Add, folds constant factors into weights
and gathers SiLU, HardSwish, GELU and attention into one operation each; NNCF looks at the result.
Every operation remembers at which slots of the ONNX nodes its inputs and outputs lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx

from analyzer.graph.build import is_float
from analyzer.graph.view import GraphView, gemm_output_axis
from analyzer.records import Model
from analyzer.targets.openvino.composites import SIX_HARD_SWISH, Composite, find_composites

Slot = tuple[str, str]  # ONNX node, "in0" ... or "out0" ...

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Attribute-free translations; what is missing keeps its name and is not quantized.
_KINDS = {
    "Relu": "Relu",
    "Clip": "Clamp",
    "LeakyRelu": "PRelu",
    "PRelu": "PRelu",
    "Elu": "Elu",
    "Selu": "Selu",
    "Sigmoid": "Sigmoid",
    "HardSigmoid": "HardSigmoid",
    "HardSwish": "HSwish",
    "QuickGelu": "Swish",
    "Gelu": "Gelu",
    "Sqrt": "Sqrt",
    "Pow": "Power",
    "Add": "Add",
    "Sum": "Add",
    "Sub": "Subtract",
    "Mul": "Multiply",
    "Neg": "Multiply",
    "Div": "Divide",
    "Max": "Maximum",
    "Min": "Minimum",
    "Mod": "FloorMod",
    "Less": "Less",
    "LessOrEqual": "LessEqual",
    "Greater": "Greater",
    "GreaterOrEqual": "GreaterEqual",
    "Equal": "Equal",
    "AveragePool": "AvgPool",
    "GlobalAveragePool": "ReduceMean",
    "ReduceMean": "ReduceMean",
    "ReduceSum": "ReduceSum",
    "ReduceL2": "ReduceL2",
    "ReduceMax": "ReduceMax",
    "GlobalMaxPool": "ReduceMax",
    "MaxPool": "MaxPool",
    "Reshape": "Reshape",
    "Flatten": "Reshape",
    "Squeeze": "Squeeze",
    "Unsqueeze": "Unsqueeze",
    "Split": "Split",
    "Transpose": "Transpose",
    "Tile": "Tile",
    "Expand": "Broadcast",
    "Slice": "Slice",
    "Pad": "Pad",
    "Gather": "Gather",
    "GatherElements": "GatherElements",
    "GatherND": "GatherND",
    "ScatterND": "ScatterNDUpdate",
    "ScatterElements": "ScatterElementsUpdate",
    "DepthToSpace": "DepthToSpace",
    "SpaceToDepth": "SpaceToDepth",
    "Concat": "Concat",
    "Resize": "Interpolate",
    "Upsample": "Interpolate",
    "TopK": "TopK",
    "ArgMax": "TopK",
    "ArgMin": "TopK",
    "NonMaxSuppression": "NonMaxSuppression",
    "LayerNormalization": "MVN",
    "InstanceNormalization": "MVN",
    "MeanVarianceNormalization": "MVN",
    "GroupNormalization": "GroupNormalization",
    "LSTM": "LSTMSequence",
    "GRU": "GRUSequence",
}
_SCALED_NORMS = ("LayerNormalization", "InstanceNormalization")
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")


@dataclass(slots=True)
class Edge:
    """One activation input of an operation.

    Attributes:
        source: index of the operation that makes it.
        port: input index, as NNCF counts.
        tensor: name in the ONNX graph, "" inside a layer that was split up.
        slots: input slots of ONNX nodes that a quantizer here covers.
        integer: not a float tensor: never quantized.
    """

    source: int
    port: int
    tensor: str
    slots: tuple[Slot, ...]
    integer: bool = False


@dataclass(slots=True)
class Weight:
    """A constant that a layer's weights come from."""

    slot: Slot
    tensor: str
    axis: int


@dataclass(slots=True)
class Operation:
    """One OpenVINO operation on the way from inputs to outputs; constants are not among them.

    Attributes:
        kind: type name in OpenVINO; `DepthwiseConvolution` and `Embedding` are NNCF's.
        node: ONNX node whose name NNCF would print.
        outputs: (ONNX tensor, slot) per output; the slot is None for a graph input; empty inside
            a layer that was split up.
        bias: slot of the constant it adds to the layer before it, for bias correction.
    """

    kind: str
    node: str
    inputs: list[Edge] = field(default_factory=list)
    outputs: list[tuple[str, Slot | None]] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    bias: Slot | None = None


def operations(model: Model) -> list[Operation]:
    """Return the operations of a bound model in topological order."""
    return _Builder(model).build()


class _Builder:
    """Walks over the nodes; `made` tells which operation makes a tensor."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.view = GraphView(model.proto.graph)
        self.found: list[Operation] = []
        self.made: dict[str, int] = {}
        self.composites = find_composites(model, self.view)
        self.inner = {name for c in self.composites.values() for name in c.inner}
        self.moved: dict[str, tuple[str, tuple[Slot, ...]]] = {}  # behind a Pad that was fused

    def build(self) -> list[Operation]:
        for name in self.view.inputs:
            self.made[name] = len(self.found)
            self.found.append(Operation("Parameter", name, outputs=[(name, None)]))
        chained: set[str] = set()
        for node in self.view.nodes.values():
            if node.name in self.inner or node.name in chained:
                continue
            if node.name in self.composites:
                self._composite(node, self.composites[node.name])
            elif node.op_type in LINEAR and not node.domain:
                chained.update(self._linear(node))
            elif self._scales_or_shifts(node):
                chained.update(self._chain(node))
            elif not self._fused_pad(node):
                self._plain(node)
        for name in self.view.outputs:
            if name in self.made:
                edge = Edge(self.made[name], 0, name, (), not is_float(self.model, name))
                self.found.append(Operation("Result", name, [edge]))
        return self.found

    def _append(self, operation: Operation) -> int:
        self.found.append(operation)
        index = len(self.found) - 1
        for tensor, _ in operation.outputs:
            self.made[tensor] = index
        return index

    def _edge(self, tensor: str, port: int, slots: tuple[Slot, ...]) -> Iterator[Edge]:
        """Yield the edge of an activation; constants have none."""
        if tensor in self.moved:
            tensor, slots = self.moved[tensor]
        if tensor in self.made:
            yield Edge(self.made[tensor], port, tensor, slots, not is_float(self.model, tensor))

    def _edges(self, node: onnx.NodeProto) -> list[Edge]:
        return [
            edge
            for i, tensor in enumerate(node.input)
            for edge in self._edge(tensor, i, ((node.name, f"in{i}"),))
        ]

    @staticmethod
    def _outputs(node: onnx.NodeProto) -> list[tuple[str, Slot | None]]:
        return [(t, (node.name, f"out{i}")) for i, t in enumerate(node.output) if t]

    def _plain(self, node: onnx.NodeProto) -> None:
        edges = self._edges(node)
        kind = _KINDS.get(node.op_type, node.op_type)
        operation = Operation(kind, node.name, edges, self._outputs(node))
        if kind == "Gather" and self._constant(node.input[0]):
            operation.kind = "Embedding"
            operation.weights = [Weight((node.name, "in0"), node.input[0], 0)]
        elif kind in ("LSTMSequence", "GRUSequence"):
            operation.weights = [
                Weight((node.name, f"in{i}"), node.input[i], 1)
                for i in (1, 2)
                if self._constant(node.input[i])
            ]
        if node.op_type == "BatchNormalization":
            self._in_steps(operation, ("Multiply", "Add"))
        elif node.op_type in _SCALED_NORMS:
            self._in_steps(operation, (operation.kind, "Multiply", "Add"))
        else:
            self._append(operation)

    def _in_steps(self, operation: Operation, kinds: tuple[str, ...]) -> None:
        """Add operations in a row in the place of one (a normalization, its scale, its shift)."""
        outputs, operation.outputs = operation.outputs, []
        operation.kind = kinds[0]
        for kind in kinds[1:]:
            last = self._append(operation)
            operation = Operation(kind, operation.node, [Edge(last, 0, "", ())])
        operation.outputs = outputs
        self._append(operation)

    def _composite(self, node: onnx.NodeProto, composite: Composite) -> None:
        edges = [
            edge
            for port, (tensor, slots) in enumerate(composite.inputs)
            for edge in self._edge(tensor, port, slots)
        ]
        operation = Operation(composite.kind, node.name, edges, self._outputs(node))
        if composite.kind == SIX_HARD_SWISH:
            self._in_steps(operation, ("HSwish", "Multiply"))
        else:
            self._append(operation)

    def _linear(self, node: onnx.NodeProto) -> list[str]:
        """Add a layer, its bias as an Add behind it; return the constant steps it swallows."""
        ends = [1] if node.op_type != "MatMul" else [1, 0]
        at = next((i for i in ends if self._constant(node.input[i])), None)
        edges = [e for e in self._edges(node) if e.port < 2]
        operation = Operation(self._linear_kind(node), node.name, edges)
        if at is not None:
            axis = self._weight_axis(node, at)
            operation.weights = [Weight((node.name, f"in{at}"), node.input[at], axis)]
        steps = self._steps_behind(node) if at is not None else []
        biases = [(node.name, "in2")] if len(node.input) > 2 and node.input[2] else []
        biases += [self._constant_slot(s) for s in steps if s.op_type in ("Add", "Sub")]
        outputs = self._outputs(steps[-1] if steps else node)
        if not biases:
            operation.outputs = outputs
            self._append(operation)
            return [s.name for s in steps]
        index = self._append(operation)
        shift = Operation("Add", node.name, [Edge(index, 0, "", ())], outputs)
        plain = len(biases) == 1 and all(s.op_type == "Add" for s in steps)
        if plain and self._constant(self.view.nodes[biases[0][0]].input[int(biases[0][1][2:])]):
            shift.bias = biases[0]
        self._append(shift)
        return [s.name for s in steps]

    def _chain(self, node: onnx.NodeProto) -> list[str]:
        """Merge a run of constant factors and summands into one Multiply and one Add."""
        steps = [node, *self._steps_behind(node)]
        kinds = [
            kind
            for kind, types in (("Multiply", ("Mul", "Div")), ("Add", ("Add", "Sub")))
            if any(s.op_type in types for s in steps)
        ]
        edges = self._edges(node)
        for kind in kinds[:-1]:
            index = self._append(Operation(kind, node.name, edges))
            edges = [Edge(index, 0, "", ())]
        self._append(Operation(kinds[-1], steps[-1].name, edges, self._outputs(steps[-1])))
        return [s.name for s in steps]

    def _steps_behind(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the constant factors and summands behind `node`, each the only reader."""
        steps: list[onnx.NodeProto] = []
        while True:
            tensor = (steps[-1] if steps else node).output[0]
            readers = self.view.consumers.get(tensor, [])
            if len(readers) != 1 or tensor in self.view.outputs:
                return steps
            step = self.view.nodes[readers[0]]
            if not self._scales_or_shifts(step) or step.name in self.composites:
                return steps
            if step.name in self.inner or not self._per_channel(step):
                return steps
            steps.append(step)

    def _scales_or_shifts(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in _ARITHMETIC or len(node.input) != 2:
            return False
        if not is_float(self.model, node.output[0]):
            return False
        constant = [self._constant(t) for t in node.input]
        if node.op_type in ("Sub", "Div"):
            return constant == [False, True]
        return sum(constant) == 1

    def _per_channel(self, node: onnx.NodeProto) -> bool:
        shape = self.model.shapes[node.input[int(self._constant_slot(node)[1][2:])]]
        return sum(d > 1 for d in shape) <= 1

    def _constant_slot(self, node: onnx.NodeProto) -> Slot:
        return node.name, f"in{0 if self._constant(node.input[0]) else 1}"

    def _fused_pad(self, node: onnx.NodeProto) -> bool:
        """Tell whether a Pad with zeros goes into the convolution behind it."""
        if node.op_type != "Pad" or node.output[0] in self.view.outputs:
            return False
        readers = [self.view.nodes[n] for n in self.view.consumers.get(node.output[0], [])]
        if len(readers) != 1 or readers[0].op_type != "Conv":
            return False
        modes = [a.s for a in node.attribute if a.name == "mode"]
        value = [a.f for a in node.attribute if a.name == "value"]
        if len(node.input) > 2 and node.input[2]:
            if not self._constant(node.input[2]):
                return False
            value = [float(self.view.array(node.input[2]).ravel()[0])]
        if modes not in ([], [b"constant"]) or any(value):
            return False
        tensor, slots = node.input[0], ((node.name, "in0"),)
        self.moved[node.output[0]] = self.moved.get(tensor, (tensor, slots))
        return True

    def _constant(self, tensor: str) -> bool:
        return self.view.is_constant(tensor) and is_float(self.model, tensor)

    def _linear_kind(self, node: onnx.NodeProto) -> str:
        if node.op_type in ("Gemm", "MatMul"):
            return "MatMul"
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        if node.op_type == "ConvTranspose":
            return "GroupConvolutionBackpropData" if groups > 1 else "ConvolutionBackpropData"
        if groups == 1:
            return "Convolution"
        channels = self.model.shapes[node.input[0]][1]
        return "DepthwiseConvolution" if groups == channels else "GroupConvolution"

    def _weight_axis(self, node: onnx.NodeProto, at: int) -> int:
        rank = len(self.model.shapes[node.input[at]])
        if node.op_type == "Conv":
            return 0
        if node.op_type == "ConvTranspose":
            return 1
        if node.op_type == "Gemm":
            return gemm_output_axis(node)
        return max(rank - 1 if at == 1 else rank - 2, 0)
