# SPDX-License-Identifier: Apache-2.0
"""Groups of ONNX nodes that OpenVINO gathers into one operation while it converts a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from analyzer.graph.view import GraphView
from analyzer.records import Model

Slot = tuple[str, str]
SIX_HARD_SWISH = "HSwish*6"  # a Multiply is left behind


@dataclass(frozen=True, slots=True)
class Composite:
    """One group, known by the node that makes its output.

    Attributes:
        kind: OpenVINO's name of the operation.
        inputs: per input, its tensor and the slots at which the group's nodes read it.
        inner: names of the other nodes of the group that nothing else reads.
    """

    kind: str
    inputs: tuple[tuple[str, tuple[Slot, ...]], ...]
    inner: frozenset[str]


def find_composites(model: Model, view: GraphView) -> dict[str, Composite]:
    """Return last node -> group."""
    found: dict[str, Composite] = {}
    taken: set[str] = set()
    finders: tuple[Callable[[_Look, onnx.NodeProto], _Group | None], ...] = (
        _attention,
        _gelu,
        _hard_swish,
        _swish,
    )
    look = _Look(model, view)
    for finder in finders:
        for node in view.nodes.values():
            group = None if node.name in taken else finder(look, node)
            if group is None:
                continue
            inner = look.swallowed({n.name for n in group.inner}, node)
            if inner & taken:
                continue
            taken |= inner | {node.name}
            found[node.name] = Composite(group.kind, group.inputs, inner)
    return found


@dataclass(frozen=True, slots=True)
class _Group:
    """As `Composite`, its inner nodes not yet checked."""

    kind: str
    inputs: tuple[tuple[str, tuple[Slot, ...]], ...]
    inner: tuple[onnx.NodeProto, ...]


class _Look:
    """Small questions about a graph."""

    def __init__(self, model: Model, view: GraphView) -> None:
        self.model = model
        self.view = view

    def unary(self, kind: str, x: str, last: onnx.NodeProto, *inner: onnx.NodeProto) -> _Group:
        """Return a group whose nodes read nothing but `x` and constants."""
        slots = tuple(
            (node.name, f"in{i}")
            for node in (last, *inner)
            for i, tensor in enumerate(node.input)
            if tensor == x
        )
        return _Group(kind, ((x, slots),), inner)

    def maker(self, tensor: str, *types: str) -> onnx.NodeProto | None:
        """Return the node that makes `tensor`, if it is of one of these types."""
        name = self.view.producer.get(tensor)
        node = self.view.nodes[name] if name else None
        return node if node is not None and node.op_type in types else None

    def value(self, tensor: str) -> float | None:
        """Return the value of a constant of one element."""
        if not self.view.is_constant(tensor):
            return None
        array = self.view.array(tensor)
        return float(array.ravel()[0]) if array.size == 1 else None

    def scalar(self, node: onnx.NodeProto | None) -> tuple[str, float]:
        """Return the variable input of a two-operand node and its scalar; ("", nan) if none."""
        if node is not None and len(node.input) == 2:
            for x, c in ((0, 1), (1, 0)):
                value = self.value(node.input[c])
                if value is not None and (x == 0 or node.op_type in ("Add", "Mul")):
                    return node.input[x], value
        return "", float("nan")

    def swallowed(self, names: set[str], last: onnx.NodeProto) -> frozenset[str]:
        """Return the inner nodes of a group that are gone: nothing that stays reads them."""
        gone = set(names)
        while True:
            read = {
                name
                for name in gone
                for tensor in self.view.nodes[name].output
                if tensor in self.view.outputs
                or not gone.union([last.name]).issuperset(self.view.consumers.get(tensor, ()))
            }
            if not read:
                return frozenset(gone)
            gone -= read


def _swish(look: _Look, node: onnx.NodeProto) -> _Group | None:
    """X * Sigmoid(x)."""
    if node.op_type != "Mul":
        return None
    for x, y in (tuple(node.input), tuple(node.input)[::-1]):
        gate = look.maker(y, "Sigmoid")
        if gate is not None and gate.input[0] == x:
            return look.unary("Swish", x, node, gate)
    return None


def _hard_swish(look: _Look, node: onnx.NodeProto) -> _Group | None:
    """X * Clip(x + 3, 0, 6), divided by 6 before, between, behind or not at all."""
    before, factor = look.scalar(node)
    product = look.maker(before, "Mul") if _is_sixth(node, factor) else node
    if product is None or product.op_type != "Mul":
        return None
    if product is not node and len(look.view.consumers[product.output[0]]) > 1:
        return None
    for x, y in (tuple(product.input), tuple(product.input)[::-1]):
        scaled = look.maker(y, "Mul", "Div")
        rest, divisor = look.scalar(scaled)
        if scaled is not None and (product is not node or not _is_sixth(scaled, divisor)):
            continue
        clip = look.maker(rest if scaled is not None else y, "Clip")
        shifted = look.maker(clip.input[0], "Add") if clip is not None else None
        source, three = look.scalar(shifted)
        if clip is None or shifted is None or source != x or three != 3 or not _to_six(look, clip):
            continue
        inner = [n for n in (product, scaled) if n is not None and n is not node]
        sixths = product is not node or scaled is not None
        kind = "HSwish" if sixths else SIX_HARD_SWISH
        return look.unary(kind, x, node, *inner, clip, shifted)
    return None


def _is_sixth(node: onnx.NodeProto, factor: float) -> bool:
    """Tell whether a node with this scalar divides by 6."""
    divisor = {"Div": 6.0, "Mul": 1 / 6}.get(node.op_type, np.nan)
    return bool(np.isclose(factor, divisor))


def _to_six(look: _Look, clip: onnx.NodeProto) -> bool:
    bounds = [a.f for a in sorted(clip.attribute, key=lambda a: a.name, reverse=True)]
    if len(clip.input) == 3:
        return [look.value(t) for t in clip.input[1:]] == [0, 6]
    return bounds == [0, 6]


def _gelu(look: _Look, node: onnx.NodeProto) -> _Group | None:
    """X / 2 * (1 + Erf(x / sqrt(2))), the half wherever it stands."""
    if node.op_type != "Mul":
        return None
    outer, half = look.scalar(node)
    product = look.maker(outer, "Mul") if outer else node
    if product is None or (outer and half != 0.5):
        return None
    for x, y in (tuple(product.input), tuple(product.input)[::-1]):
        plus = look.maker(y, "Add")
        raw, one = look.scalar(plus)
        erf = look.maker(raw, "Erf") if raw and one == 1 else None
        scaled = look.maker(erf.input[0], "Div", "Mul") if erf is not None else None
        if plus is None or erf is None or scaled is None:
            continue
        source, root = look.scalar(scaled)
        if not np.isclose(root if scaled.op_type == "Div" else 1 / root, np.sqrt(2), atol=1e-3):
            continue
        inner = [plus, erf, scaled, *([product] if outer else [])]
        if outer and source == x:
            return look.unary("Gelu", x, node, *inner)
        halved = look.maker(x, "Mul")
        if not outer and halved is not None and look.scalar(halved) == (source, 0.5):
            return look.unary("Gelu", source, node, *inner, halved)
    return None


def _attention(look: _Look, node: onnx.NodeProto) -> _Group | None:
    """MatMul(Softmax(MatMul(q, k) * scale + mask), v): scaled dot product attention."""
    if node.op_type != "MatMul":
        return None
    softmax = look.maker(node.input[0], "Softmax")
    if softmax is None or look.view.is_constant(node.input[1]):
        return None
    rank = len(look.model.shapes[softmax.input[0]])
    usual = -1 if look.model.opset >= 13 else 1
    if next((a.i for a in softmax.attribute if a.name == "axis"), usual) not in (-1, rank - 1):
        return None
    inner = [softmax]
    tensor = softmax.input[0]
    while (step := look.maker(tensor, "Add", "Mul", "Div")) is not None:
        ahead = [t for t in step.input if look.maker(t, "MatMul", "Mul", "Div", "Add") is not None]
        constant = [t for t in step.input if look.view.is_constant(t)]
        if not ahead or (step.op_type != "Add" and not constant):
            return None
        inner.append(step)
        tensor = ahead[0]
    scores = look.maker(tensor, "MatMul")
    if scores is None or any(look.view.is_constant(t) for t in scores.input):
        return None
    if scores.output[0] in look.view.outputs or len(look.view.consumers[scores.output[0]]) > 1:
        return None
    inner.append(scores)
    reads = ((scores, 0), (scores, 1), (node, 1))
    inputs = tuple((n.input[i], ((n.name, f"in{i}"),)) for n, i in reads)
    return _Group("ScaledDotProductAttention", inputs, tuple(inner))
