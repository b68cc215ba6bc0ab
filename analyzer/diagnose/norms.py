# SPDX-License-Identifier: Apache-2.0
"""QA111: quantizers inside of a norm, written out or one node.

Inside, numbers are squared and divided: a variance spans the square of the range that its input
spans, and small ones lose all their bits.  Engines with a norm of their own do not round there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from analyzer.diagnose.candidate import Candidate, Changes
from analyzer.diagnose.case import Case
from analyzer.graph.view import GraphView, attributes
from analyzer.records import Quantizer

MOST = 8  # norms that are tried one by one
# Norms that are one node: their parameters are all that is inside.
_WHOLE = frozenset(
    """
    GroupNorm GroupNormalization InstanceNormalization LayerNormalization RMSNormalization
    SimplifiedLayerNormalization SkipGroupNorm SkipLayerNormalization
    SkipSimplifiedLayerNormalization
    """.split()
)
_MEANS = frozenset({"ReduceMean", "ReduceSum", "ReduceSumSquare", "GlobalAveragePool"})
_RESHAPING = frozenset({"Reshape", "Expand", "Unsqueeze", "Squeeze", "Identity", "Cast", "Tile"})


@dataclass(frozen=True, slots=True)
class Norm:
    """One norm of a graph.

    Attributes:
        kind: "LayerNorm" and the like, or the op type of a single node.
        nodes: of it, in execution order.
        inner: tensors made and read inside only, and constants read there.
    """

    kind: str
    nodes: tuple[str, ...]
    inner: frozenset[str]


def norms(case: Case) -> Iterator[Candidate]:
    """Yield norms that quantizers sit in; more than one: first all of them at once."""
    view = case.view
    local = {row.name: row.local_nsr or 0.0 for row in case.rows}
    found = []
    for norm in norms_of(view):
        nodes = frozenset(norm.nodes)
        inside = [
            q for q in case.plan.quantizers
            if q.active and q.node in nodes and q.tensor in norm.inner
        ]  # fmt: skip
        if inside:
            found.append(_candidate(norm, inside, local))
    found.sort(key=lambda c: -float(c.evidence["local_nsr"]))
    if len(found) > 1:
        every: Changes = {key: None for c in found for key in c.changes}
        evidence = {
            "norms": len(found),
            "quantizers": len(every),
            "local_nsr": found[0].evidence["local_nsr"],
            "layers": [c.layer for c in found],
        }
        yield Candidate("QA111", None, evidence, every)
    yield from found[:MOST]


def norms_of(view: GraphView) -> Iterator[Norm]:
    """Yield the norms of a graph, in execution order."""
    for node in view.nodes.values():
        if node.op_type in _WHOLE:
            yield Norm(node.op_type, (node.name,), frozenset(filter(None, node.input[1:])))
        elif _is_root(view, node) and (norm := _written_out(view, node)):
            yield norm


def _candidate(norm: Norm, inside: Sequence[Quantizer], local: dict[str, float]) -> Candidate:
    layers = dict.fromkeys(q.node for q in inside)
    worst = max(layers, key=lambda name: local.get(name, 0.0))
    evidence = {
        "norm": norm.kind,
        "quantizers": len(inside),
        "first": norm.nodes[0],
        "last": norm.nodes[-1],
        "local_nsr": local.get(worst, 0.0),
    }
    return Candidate("QA111", worst, evidence, {q.key: None for q in inside})


def _is_root(view: GraphView, node: onnx.NodeProto) -> bool:
    """Tell whether `node` takes a square root, or one over it."""
    if node.op_type == "Sqrt":
        return True
    return node.op_type == "Pow" and _constant(view, node.input[1]) in (0.5, -0.5)


def _written_out(view: GraphView, root: onnx.NodeProto) -> Norm | None:
    """Return the norm around a square root: the mean of squares before it, a division behind."""
    path = _to_mean(view, root)
    if path is None:
        return None
    squared = _squared(view, path)
    if squared is None:
        return None
    base, square = squared
    nodes = {root.name, *(n.name for n in path), *(n.name for n in square)}
    centred = _centring(view, base)
    source, subtraction = centred if centred else (base, [])
    nodes |= {n.name for n in subtraction}
    made = {t for name in nodes for t in view.nodes[name].output}
    if not _spread(view, root, {base, source}, nodes, made):
        return None
    order = tuple(name for name in view.nodes if name in nodes)
    return Norm(_kind(view, path, bool(centred)), order, _inner(view, order, source))


def _to_mean(view: GraphView, root: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Return the nodes from what is squared to the root: an addition of epsilon, a mean."""
    path: list[onnx.NodeProto] = []
    tensor = root.input[0]
    for _ in range(5):
        node = view.nodes.get(view.producer.get(tensor, ""))
        if node is None:
            return None
        path.append(node)
        if node.op_type in _MEANS:
            return path
        constant = any(view.is_constant(t) for t in node.input[1:])
        if node.op_type in _RESHAPING or (node.op_type in ("Add", "Mul", "Div", "Max", "Clip")):
            moving = [t for t in node.input if t and not view.is_constant(t)]
            if len(moving) != 1 and not constant:
                return None
            tensor = moving[0]
        else:
            return None
    return None


def _squared(
    view: GraphView, path: Sequence[onnx.NodeProto]
) -> tuple[str, list[onnx.NodeProto]] | None:
    """Return what is squared, and the nodes from the square to the mean."""
    tensor, found = path[-1].input[0], []
    if path[-1].op_type == "ReduceSumSquare":
        return tensor, []
    for _ in range(3):
        node = view.nodes.get(view.producer.get(tensor, ""))
        if node is None:
            return None
        found.append(node)
        if node.op_type == "Mul" and node.input[0] == node.input[1]:
            return node.input[0], found
        if node.op_type == "Pow" and _constant(view, node.input[1]) == 2:
            return node.input[0], found
        if node.op_type not in _RESHAPING:
            return None
        tensor = node.input[0]
    return None


def _centring(view: GraphView, base: str) -> tuple[str, list[onnx.NodeProto]] | None:
    """Return what `base` is without its mean, and the nodes that take it away."""
    node = view.nodes.get(view.producer.get(base, ""))
    if node is None or node.op_type != "Sub":
        return None
    mean = view.nodes.get(view.producer.get(node.input[1], ""))
    found = [node]
    while mean is not None and mean.op_type in _RESHAPING:
        found.append(mean)
        mean = view.nodes.get(view.producer.get(mean.input[0], ""))
    if mean is None or mean.op_type not in _MEANS:
        return None
    return node.input[0], [*found, mean]


def _spread(
    view: GraphView, root: onnx.NodeProto, given: set[str], nodes: set[str], made: set[str]
) -> bool:
    """Add what is computed from the root with `given`, constants and itself; is any of `given`?

    That is one over it, its product with x, gain and offset, in whatever order they stand.
    """
    waiting, used = [root.output[0]], False
    sums = products = 0  # with constants: gain and offset, and what stands for a division
    for tensor in waiting:
        for name in dict.fromkeys(view.consumers.get(tensor, ())):
            node = view.nodes[name]
            if name in nodes:
                continue
            others = [t for t in node.input if t and t not in made]
            fixed = [t for t in others if _is_parameter(view, t)]
            with_x = [t for t in others if t in given]
            if node.op_type in _RESHAPING or node.op_type == "Reciprocal":
                accepted = True
            elif node.op_type in ("Mul", "Div"):
                products += bool(fixed)
                accepted = len(others) == len(fixed) + len(with_x) and products <= 3
                used = used or any(t in given for t in node.input if t != tensor)
            else:
                sums += bool(fixed)
                accepted = node.op_type in ("Add", "Sub") and len(others) == len(fixed)
                accepted = accepted and sums <= 1
            if accepted:
                nodes.add(name)
                made.update(node.output)
                waiting.append(node.output[0])
    return used


def _is_parameter(view: GraphView, tensor: str) -> bool:
    """Tell whether a constant has one value, or one per channel (not one per position)."""
    return view.is_constant(tensor) and sum(d > 1 for d in view.initializers[tensor].dims) <= 1


def _inner(view: GraphView, order: Sequence[str], source: str) -> frozenset[str]:
    """Return the tensors between the norm's nodes, and constants; not what it gives or takes."""
    nodes = frozenset(order)
    found = set()
    for name in order:
        node = view.nodes[name]
        for tensor in filter(None, node.input):
            made = view.is_constant(tensor) or view.producer.get(tensor) in nodes
            if made and tensor != source:
                found.add(tensor)
    return frozenset(found)


def _kind(view: GraphView, path: Sequence[onnx.NodeProto], centred: bool) -> str:
    mean = path[-1]
    if not centred:
        return "RMSNorm"
    axes = attributes(mean).get("axes")
    if axes is None and len(mean.input) > 1 and view.is_constant(mean.input[1]):
        axes = view.array(mean.input[1]).tolist()
    return "LayerNorm" if axes is not None and len(axes) == 1 else "norm"


def _constant(view: GraphView, tensor: str) -> float | None:
    """Return the single value of a constant."""
    if not view.is_constant(tensor):
        return None
    values = np.unique(view.array(tensor))
    return float(values[0]) if values.size == 1 else None
