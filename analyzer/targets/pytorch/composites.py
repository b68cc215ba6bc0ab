# SPDX-License-Identifier: Apache-2.0
"""Groups of ONNX nodes into which exporters take one torch module apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from analyzer.graph.view import GraphView


@dataclass(frozen=True, slots=True)
class Composite:
    """Some nodes that are one torch operator.

    Attributes:
        type: "Linear", "HardSwish", "LayerNormalization", or a name that no rule knows, for
            what PyTorch leaves in float.
        nodes: names in their order; only the first reads the input of the operator.
    """

    type: str
    nodes: tuple[str, ...]


def composites(view: GraphView) -> list[Composite]:
    """Find all composites; a node belongs to one at most."""
    found: list[Composite] = []
    taken: set[str] = set()
    order = {name: i for i, name in enumerate(view.nodes)}
    for node in view.nodes.values():
        for kind, names in _starting_at(view, node):
            if len(set(names)) == len(names) and taken.isdisjoint(names):
                found.append(Composite(kind, tuple(sorted(names, key=order.__getitem__))))
                taken.update(names)
                break
    return found


def is_torch_hard_sigmoid(node: onnx.NodeProto) -> bool:
    """Tell `relu6(x + 3) / 6` from the ONNX default, which has a slope of 0.2."""
    slope = next((a.f for a in node.attribute if a.name == "alpha"), 0.2)
    return bool(np.isclose(slope, 1 / 6, rtol=1e-3))


def _starting_at(view: GraphView, node: onnx.NodeProto) -> Iterator[tuple[str, list[str]]]:
    """Yield what `node` might be the first node of."""
    if node.op_type == "MatMul":
        yield from _linear(view, node)
    elif node.op_type in ("Sigmoid", "HardSigmoid"):
        yield from _gated(view, node)
    elif node.op_type == "Softplus":
        yield from _mish(view, node)
    elif node.op_type in ("Div", "Mul"):
        yield from _gelu(view, node)
    elif node.op_type == "ReduceMean":
        yield from _layer_norm(view, node)


def _linear(view: GraphView, node: onnx.NodeProto) -> Iterator[tuple[str, list[str]]]:
    """`nn.Linear` on more than two axes: MatMul, then Add of a bias."""
    weight = view.initializers.get(node.input[1])
    add = _only_reader(view, node, "Add")
    if weight is None or len(weight.dims) != 2 or add is None:
        return
    bias = view.initializers.get(_other(add, node.output[0]))
    if bias is not None and list(bias.dims) == [weight.dims[1]]:
        yield "Linear", [node.name, add.name]


def _gated(view: GraphView, node: onnx.NodeProto) -> Iterator[tuple[str, list[str]]]:
    """`nn.SiLU` and, before opset 14, `nn.Hardswish`: the input times its own gate."""
    product = _only_reader(view, node, "Mul")
    if product is None or _other(product, node.output[0]) != node.input[0]:
        return
    if node.op_type == "Sigmoid":
        yield "SiLU", [node.name, product.name]
    elif is_torch_hard_sigmoid(node):
        yield "HardSwish", [node.name, product.name]


def _mish(view: GraphView, node: onnx.NodeProto) -> Iterator[tuple[str, list[str]]]:
    """`nn.Mish`: x * tanh(softplus(x))."""
    tanh = _only_reader(view, node, "Tanh")
    product = tanh and _only_reader(view, tanh, "Mul")
    if tanh and product and _other(product, tanh.output[0]) == node.input[0]:
        yield "Mish", [node.name, tanh.name, product.name]


def _gelu(view: GraphView, node: onnx.NodeProto) -> Iterator[tuple[str, list[str]]]:
    """`nn.GELU`: x * (erf(x / sqrt(2)) + 1), halved before or behind."""
    erf = _only_reader(view, node, "Erf")
    plus = erf and _only_reader(view, erf, "Add")
    if not (erf and plus):
        return
    x = node.input[0] if not view.is_constant(node.input[0]) else node.input[1]
    names = [node.name, erf.name, plus.name]
    product = _only_reader(view, plus, "Mul")
    if product is None:
        return
    names.append(product.name)
    given = _other(product, plus.output[0])
    if given == x:
        half = _only_reader(view, product, "Mul")
        if half is not None and view.is_constant(_other(half, product.output[0])):
            yield "GELU", [*names, half.name]
        return
    maker = view.nodes.get(view.producer.get(given, ""))
    if maker is not None and maker.op_type == "Mul" and x in maker.input:
        yield "GELU", [*names, maker.name]
    elif view.is_constant(given):
        last = _only_reader(view, product, "Mul")
        if last is not None and _other(last, product.output[0]) == x:
            yield "GELU", [*names, last.name]


def _layer_norm(view: GraphView, node: onnx.NodeProto) -> Iterator[tuple[str, list[str]]]:
    """`nn.LayerNorm` before opset 17: (x - mean) / sqrt(var + eps) * gamma + beta."""
    centred = _only_reader(view, node, "Sub")
    if centred is None or centred.input[0] != node.input[0]:
        return
    readers = [view.nodes[name] for name in view.consumers.get(centred.output[0], ())]
    power = _one(readers, "Pow", "Mul")
    quotient = _one(readers, "Div")
    chain = power and _chain(view, power, ("ReduceMean", "Add", "Sqrt"))
    if not (power and quotient and chain) or chain[-1].output[0] != quotient.input[1]:
        return
    names = [node.name, centred.name, power.name, *(n.name for n in chain), quotient.name]
    for kind in ("Mul", "Add"):
        last = view.nodes[names[-1]]
        following = _only_reader(view, last, kind)
        if following is None or not view.is_constant(_other(following, last.output[0])):
            break
        names.append(following.name)
    yield "LayerNormalization", names


def _chain(view: GraphView, node: onnx.NodeProto, kinds: tuple[str, ...]) -> list[onnx.NodeProto]:
    found: list[onnx.NodeProto] = []
    for kind in kinds:
        following = _only_reader(view, node, kind)
        if following is None:
            return []
        found.append(following)
        node = following
    return found


def _only_reader(view: GraphView, node: onnx.NodeProto, kind: str) -> onnx.NodeProto | None:
    """Return the one node that reads the output of `node`, if it is of the op type `kind`."""
    tensor = node.output[0]
    readers = set(view.consumers.get(tensor, ()))
    if len(readers) != 1 or tensor in view.outputs:
        return None
    reader = view.nodes[readers.pop()]
    return reader if reader.op_type == kind and not reader.domain else None


def _other(node: onnx.NodeProto, tensor: str) -> str:
    """Return the input of a node of two that is not `tensor` (`tensor` itself if both are)."""
    first, second = node.input
    return str(second if first == tensor else first)


def _one(nodes: Iterable[onnx.NodeProto], *kinds: str) -> onnx.NodeProto | None:
    found = {n.name: n for n in nodes if n.op_type in kinds}
    return next(iter(found.values())) if len(found) == 1 else None
