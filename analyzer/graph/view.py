# SPDX-License-Identifier: Apache-2.0
"""An index over one ONNX graph: who makes a tensor, who reads it, what is constant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy.typing as npt
import onnx
from onnx import numpy_helper

from analyzer.graph.latest import Latest

_BODIES = frozenset({onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS})


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the bodies of an `If`, `Loop` or `Scan` node."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def captured(node: onnx.NodeProto) -> list[str]:
    """Return the outer tensors that the bodies of `node` read, in order of first use."""
    if not any(attribute.type in _BODIES for attribute in node.attribute):
        return []
    found: dict[str, None] = {}
    for body in subgraphs(node):
        local = {i.name for i in body.input} | {i.name for i in body.initializer}
        for inner in body.node:
            for name in [*inner.input, *captured(inner)]:
                if name and name not in local:
                    found.setdefault(name)
            local.update(inner.output)
        for output in body.output:
            if output.name not in local:
                found.setdefault(output.name)
    return list(found)


def reads(node: onnx.NodeProto) -> list[str]:
    """Return every tensor `node` needs: its named inputs, then what its bodies capture."""
    named = [name for name in node.input if name]
    outer = captured(node)
    return named + [name for name in outer if name not in named] if outer else named


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of `node` as Python values."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def gemm_output_axis(node: onnx.NodeProto) -> int:
    """Return the axis of a Gemm's second input that runs over its outputs."""
    return 0 if attributes(node).get("transB", 0) else 1


def weight_output_axis(node: onnx.NodeProto, rank: int) -> int | None:
    """Return the axis of a node's second input that runs over its outputs.

    Args:
        node: Conv, ConvTranspose, Gemm or MatMul; others have none.
        rank: of that input; a MatMul by a vector has no such axis.
    """
    if node.op_type == "Gemm":
        return gemm_output_axis(node)
    if node.op_type == "MatMul":
        return rank - 1 if rank > 1 else None
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type)


class GraphView:
    """Look-ups over a graph that is not changed while the view is alive.

    Attributes:
        nodes: node name -> node, in file order (a topological order by the ONNX standard).
        producer: tensor -> name of the node that makes it.
        consumers: tensor -> names of the nodes that read it, once per reading slot.
        initializers: tensor -> TensorProto.
        inputs, outputs: names of the graph's, initializers excluded.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.nodes: dict[str, onnx.NodeProto] = {n.name: n for n in graph.node}
        self.initializers: dict[str, onnx.TensorProto] = {t.name: t for t in graph.initializer}
        self.inputs: list[str] = [i.name for i in graph.input if i.name not in self.initializers]
        self.outputs: list[str] = [o.name for o in graph.output]
        self.producer: dict[str, str] = {}
        self.consumers: dict[str, list[str]] = {}
        for node in graph.node:
            for name in node.output:
                if name:
                    self.producer[name] = node.name
            for name in [*(n for n in node.input if n), *captured(node)]:
                self.consumers.setdefault(name, []).append(node.name)

    def is_constant(self, tensor: str) -> bool:
        """Tell whether `tensor` is an initializer."""
        return tensor in self.initializers

    def array(self, tensor: str) -> npt.NDArray[Any]:
        """Return the value of an initializer."""
        return numpy_helper.to_array(self.initializers[tensor])

    def parents(self, node: onnx.NodeProto) -> list[str]:
        """Return the names of the nodes whose outputs `node` reads."""
        found = (self.producer.get(name) for name in reads(node))
        return list(dict.fromkeys(name for name in found if name is not None))

    def children(self, node: onnx.NodeProto) -> list[str]:
        """Return the names of the nodes that read an output of `node`."""
        return list(dict.fromkeys(c for out in node.output for c in self.consumers.get(out, ())))

    def descendants(self, start: Iterable[str]) -> set[str]:
        """Return the names of all nodes reachable from the nodes `start`, those included."""
        seen = set(start)
        stack = list(seen)
        while stack:
            for child in self.children(self.nodes[stack.pop()]):
                if child not in seen:
                    seen.add(child)
                    stack.append(child)
        return seen


_views: Latest[GraphView] = Latest(4)


def view_of(proto: onnx.ModelProto) -> GraphView:
    """Return a view of a model that is not changed any more; the latest few are kept."""
    return _views.of((proto,), lambda: GraphView(proto.graph))
