# SPDX-License-Identifier: Apache-2.0
"""Matching two graphs of one network: which node and tensor of the one is which of the other.

Names decide where they agree; structure and weights do where a tool has renamed, fused or added
nodes.  Going down the quantized model's own float form, a node is looked for among the readers
of the tensors its inputs were matched to.  Nodes that only the FP32 graph has (a Relu that a
quantizer stands in for) or only the other one (a Transpose) are passed over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from analyzer.graph.view import GraphView, attributes
from analyzer.records import Model

Array = npt.NDArray[Any]  # Any: float32, seldom float64
Slot = tuple[str, int]  # node, position of its input

# Change no value, only where it stands.
LAYOUT = frozenset(["Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast"])
# Give way to a quantizer whose grid ends where they would clip.
ACTIVATIONS = frozenset(["Relu", "Clip"])
_COMMUTES = frozenset(["Add", "Mul", "Max", "Min"])
_LAYERS = frozenset(["Conv", "ConvTranspose", "Gemm", "MatMul"])
_ALIKE = (
    frozenset(["Relu", "Clip"]),
    frozenset(["Gemm", "MatMul"]),
    frozenset(["Reshape", "Flatten", "Squeeze", "Unsqueeze"]),
    frozenset(["GlobalAveragePool", "ReduceMean", "AveragePool"]),
)
# what tools put behind the name of a node or tensor they quantize
_ENDINGS = ("_quant", "_quantized", "_prequant", "_QuantizeLinear_Input")
_FAR = 4  # nodes passed over between two matched ones
_SURE = 13.0  # score of a layer whose weight and place, or weight and name, agree
_RELATED = 0.5  # cosine of two weights from which they may be the same, trained further


@dataclass(frozen=True, slots=True)
class Relation:
    """How a constant of the other graph lies in ours: transposed, reshaped, or just so."""

    transposed: bool
    shape: tuple[int, ...]

    def apply(self, array: Array) -> Array:
        """Bring an array of the other graph into our layout."""
        return (array.T if self.transposed else array).reshape(self.shape)


@dataclass(slots=True)
class Match:
    """What belongs together.

    Attributes:
        nodes: node of the other graph -> ours.
        slots: input of a node of the other graph -> the input of ours that reads the same.
        tensors: tensor of the other graph -> ours.
        relations: input of ours that reads a constant -> how the other's constant lies there.
        extra: nodes of the other graph that were passed over.
    """

    nodes: dict[str, str] = field(default_factory=dict)
    slots: dict[Slot, Slot] = field(default_factory=dict)
    tensors: dict[str, str] = field(default_factory=dict)
    relations: dict[Slot, Relation] = field(default_factory=dict)
    extra: set[str] = field(default_factory=set)

    @property
    def ours(self) -> set[str]:
        """Nodes of ours that were matched."""
        return {*self.nodes.values(), *(node for node, _ in self.slots.values())}


def identity(view: GraphView) -> Match:
    """Return the match of a graph with itself."""
    match = Match()
    for node in view.nodes.values():
        match.nodes[node.name] = node.name
        for index, name in enumerate(node.input):
            match.slots[node.name, index] = (node.name, index)
            if view.is_constant(name):
                shape = tuple(view.initializers[name].dims)
                match.relations[node.name, index] = Relation(False, shape)
        match.tensors.update((name, name) for name in [*node.input, *node.output] if name)
    return match


def match_graphs(ours: Model, other: Model) -> Match:
    """Match the nodes of `other`, a quantized model's own float form, with those of `ours`.

    Both are bound.  Inputs and outputs are taken by name, or else in order.
    """
    return _Matcher(ours, other).run()


def pairs(ours: list[str], other: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (other, ours) graph inputs or outputs: by name, those left in order."""
    for name in other:
        if name in ours:
            yield name, name
    rest = [name for name in ours if name not in other]
    yield from zip([name for name in other if name not in ours], rest, strict=False)


class _Matcher:
    def __init__(self, ours: Model, other: Model) -> None:
        self.ours, self.other = GraphView(ours.proto.graph), GraphView(other.proto.graph)
        self.match = Match()
        self.used: set[str] = set()
        self.names: dict[str, str] = {}
        for node in self.ours.nodes.values():
            for name in (node.name, *node.output):
                self.names.setdefault(name, node.name)
        self.weights = {
            node.name: weight
            for node in self.ours.nodes.values()
            if (weight := _weight(self.ours, node)) is not None
        }

    def run(self) -> Match:
        for theirs, mine in pairs(self.ours.inputs, self.other.inputs):
            self.match.tensors[theirs] = mine
        before = -1
        while before != len(self.match.nodes):
            before = len(self.match.nodes)
            for node in self.other.nodes.values():
                if node.name not in self.match.nodes:
                    self._forward(node)
            for node in reversed(list(self.other.nodes.values())):
                if node.name not in self.match.nodes:
                    self._backward(node)
        for theirs, mine in pairs(self.ours.outputs, self.other.outputs):
            self.match.tensors.setdefault(theirs, mine)
        return self.match

    # one node

    def _forward(self, node: onnx.NodeProto) -> None:
        best, best_score = self._best(node, self._candidates(node))
        if best_score < _SURE and _weight(self.other, node) is not None:
            best, best_score = self._best(node, [n for n in self.weights if n not in self.used])
        if best is not None:
            self._join(node, self.ours.nodes[best])
        else:
            self._pass_over(node)

    def _best(self, node: onnx.NodeProto, names: Iterable[str]) -> tuple[str | None, float]:
        best, best_score = None, 0.0
        for name in names:
            mine = self.ours.nodes[name]
            score = self._score(node, mine) if _alike(node, mine) else 0.0
            if score > best_score:
                best, best_score = name, score
        return best, best_score

    def _backward(self, node: onnx.NodeProto) -> None:
        """Match the maker of a tensor that is known from its readers."""
        for name in node.output:
            mine = self.match.tensors.get(name, "")
            producer = self.ours.producer.get(mine)
            if producer is not None and producer not in self.used:
                found = self.ours.nodes[producer]
                if _alike(node, found) and self._score(node, found) > 0:
                    self._join(node, found)
                    return

    def _pass_over(self, node: onnx.NodeProto) -> None:
        """Let what a node of no weight does count as nothing."""
        if node.op_type in LAYOUT | ACTIVATIONS and node.input[0] in self.match.tensors:
            self.match.extra.add(node.name)
            self.match.tensors[node.output[0]] = self.match.tensors[node.input[0]]

    def _candidates(self, node: onnx.NodeProto) -> list[str]:
        found: dict[str, None] = {}
        for name in self._namesakes(node):
            found[name] = None
        known = [self.match.tensors[t] for t in node.input if t in self.match.tensors]
        for tensor in known:
            for reached in self._reach(tensor):
                for reader in self.ours.consumers.get(reached, ()):
                    found[reader] = None
        return [name for name in found if name not in self.used]

    def _namesakes(self, node: onnx.NodeProto) -> Iterator[str]:
        for name in (node.name, *node.output):
            for ending in ("", *_ENDINGS):
                stem = name.removesuffix(ending)
                if stem in self.names:
                    yield self.names[stem]

    def _reach(self, tensor: str) -> dict[str, tuple[str, ...]]:
        """Return tensors made of `tensor` by nodes that the other graph may lack, and those."""
        found: dict[str, tuple[str, ...]] = {tensor: ()}
        waiting = [tensor]
        while waiting:
            current = waiting.pop()
            passed = found[current]
            if len(passed) >= _FAR:
                continue
            for name in self.ours.consumers.get(current, ()):
                node = self.ours.nodes[name]
                if node.op_type in LAYOUT | ACTIVATIONS and name not in self.used:
                    found.setdefault(node.output[0], (*passed, name))
                    waiting.append(node.output[0])
        return found

    def _score(self, node: onnx.NodeProto, mine: onnx.NodeProto) -> float:
        """Return how well two nodes fit, 0 for not at all."""
        named = mine.name in self._namesakes(node)
        read = self._assign(node, mine)
        known = [t for t in node.input if t in self.match.tensors]
        score = 3.0 * named + (4.0 if known and len(read) == len(known) else 0.0)
        if node.op_type in _LAYERS:
            weight, own = _weight(self.other, node), self.weights.get(mine.name)
            if (weight is None) != (own is None):
                return 0.0
            if weight is not None and own is not None:
                relation = relate(weight, own)
                if relation is None:
                    return 0.0
                near = cosine(relation.apply(weight), own)
                if near < _RELATED and score < 7:
                    return 0.0
                score += 10 * near
        elif known and not read and not named:
            return 0.0
        elif known and not read:
            # a name alone is no proof: converters number their nodes anew
            score = 0.0
        if score and _settings(node) == _settings(mine):
            score += 1.0
        return score

    def _assign(self, node: onnx.NodeProto, mine: onnx.NodeProto) -> dict[int, int]:
        """Return which input of `mine` reads what an input of `node` does, of the known ones."""
        found: dict[int, int] = {}
        for index, name in enumerate(node.input):
            tensor = self.match.tensors.get(name)
            if tensor is None or self.other.is_constant(name):
                continue
            reached = self._reach(tensor)
            places = range(len(mine.input)) if node.op_type in _COMMUTES else [index]
            for place in sorted(places, key=lambda p: p != index):
                taken = place in found.values() or place >= len(mine.input)
                if not taken and mine.input[place] in reached:
                    found[index] = place
                    break
        return found

    def _join(self, node: onnx.NodeProto, mine: onnx.NodeProto) -> None:
        """Write down that two nodes are one."""
        match = self.match
        match.nodes[node.name] = mine.name
        self.used.add(mine.name)
        places = self._places(node, mine)
        for index, place in places.items():
            self._join_slot(node, index, mine, place)
        outputs = list(mine.output)
        theirs = list(node.output)
        if {node.op_type, mine.op_type} & _LAYERS:
            theirs, outputs = self._bias_apart(node, mine, theirs, outputs)
        for name, tensor in zip(theirs, outputs, strict=False):
            if name and tensor:
                match.tensors[name] = tensor

    def _places(self, node: onnx.NodeProto, mine: onnx.NodeProto) -> dict[int, int]:
        places = self._assign(node, mine)
        free = [p for p in range(len(mine.input)) if p not in places.values()]
        for index, name in enumerate(node.input):
            if not name or index in places:
                continue
            constant = self.other.is_constant(name)
            fits = [
                p
                for p in sorted(free, key=lambda p: p != index)
                if mine.input[p]
                and self.ours.is_constant(mine.input[p]) == constant
                and (p == index or node.op_type in _COMMUTES)
            ]
            if fits:
                places[index] = fits[0]
                free.remove(fits[0])
        return places

    def _join_slot(
        self, node: onnx.NodeProto, index: int, mine: onnx.NodeProto, place: int
    ) -> None:
        theirs, tensor = node.input[index], mine.input[place]
        if self.other.is_constant(theirs) and self.ours.is_constant(tensor):
            relation = relate(self.other.array(theirs), self.ours.array(tensor))
            if relation is None:
                return
            self.match.relations[mine.name, place] = relation
        else:
            self.match.tensors.setdefault(theirs, tensor)
        self.match.slots[node.name, index] = (mine.name, place)

    def _bias_apart(
        self, node: onnx.NodeProto, mine: onnx.NodeProto, theirs: list[str], outputs: list[str]
    ) -> tuple[list[str], list[str]]:
        """Match a bias inside a layer with one that is added behind it."""
        has, wants = (len(n.input) > 2 and bool(n.input[2]) for n in (node, mine))
        if has and not wants and (added := _added_bias(self.ours, mine)) is not None:
            add, place = added
            self.used.add(add.name)
            self._join_slot(node, 2, add, place)
            return theirs, list(add.output)
        if wants and not has and (added := _added_bias(self.other, node)) is not None:
            add, place = added
            self.match.nodes[add.name] = mine.name
            self._join_slot(add, place, mine, 2)
            return list(add.output), outputs
        return theirs, outputs


def _alike(node: onnx.NodeProto, mine: onnx.NodeProto) -> bool:
    if node.op_type == mine.op_type:
        return True
    return any({node.op_type, mine.op_type} <= group for group in _ALIKE)


def _settings(node: onnx.NodeProto) -> Mapping[str, object]:
    return {
        name: value.tobytes() if isinstance(value, np.ndarray) else value
        for name, value in attributes(node).items()
    }


def _weight(view: GraphView, node: onnx.NodeProto) -> Array | None:
    if node.op_type not in _LAYERS or len(node.input) < 2 or not view.is_constant(node.input[1]):
        return None
    return view.array(node.input[1])


def _added_bias(view: GraphView, node: onnx.NodeProto) -> tuple[onnx.NodeProto, int] | None:
    """Return the Add of a constant that alone reads `node`, and the constant's position."""
    readers = view.consumers.get(node.output[0], [])
    if len(readers) != 1 or node.output[0] in view.outputs:
        return None
    add = view.nodes[readers[0]]
    for place in range(2):
        if add.op_type == "Add" and view.is_constant(add.input[place]):
            return add, place
    return None


def relate(array: Array, own: Array) -> Relation | None:
    """Tell how to bring `array` into the layout of `own`; None where it cannot be the same."""
    if array.size != own.size or array.dtype.kind != "f" or own.dtype.kind != "f":
        return None
    straight = Relation(False, own.shape)
    if array.ndim == own.ndim == 2 and array.T.shape == own.shape:
        turned = Relation(True, own.shape)
        if array.shape != own.shape:
            return turned
        if cosine(array.T, own) > cosine(array, own):
            return turned
    squeezed = [tuple(d for d in a.shape if d != 1) for a in (array, own)]
    return straight if squeezed[0] == squeezed[1] else None


def cosine(a: Array, b: Array) -> float:
    """Return the cosine of two arrays, 1 for two zeros and 0 for one."""
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    power = math.sqrt(float(x @ x) * float(y @ y))
    if power == 0:
        return float(not x.any() and not y.any())
    return float(x @ y) / power
