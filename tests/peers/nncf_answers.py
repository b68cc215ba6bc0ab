# SPDX-License-Identifier: Apache-2.0
"""What the NNCF judge tells of an OpenVINO model, at the edges of the ONNX graph.

Operations are found by the tensor names that OpenVINO keeps.  Between two known tensors there may
be operations without a name of their own (a layer before its bias): everything that an ONNX node's
operations read from outside is an edge of that node.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edges import Grid

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather")


@dataclass
class Found:
    """Edges of an answer.

    Attributes:
        edges: edge -> grid, None for a float edge.
        lost: (operation, port) of quantized inputs that no edge stands for.
    """

    edges: dict = field(default_factory=dict)
    lost: list = field(default_factory=list)


def edges_of_openvino(graph, operations):
    """Return the edges of a judge's answer for the model `graph` (`analyzer.records.Model`)."""
    by_name = {o["name"]: o for o in operations}
    proto = graph.proto.graph
    constants = {t.name for t in proto.initializer}
    known = {t for n in proto.node for t in n.output} | {i.name for i in proto.input}
    maker = {}
    for operation in operations:
        for name in (n for names in operation["outputs"] for n in names if n in known):
            if operation["type"] != "Result":
                maker.setdefault(name, operation["name"])
    made = {}
    for tensor, name in maker.items():
        made.setdefault(name, set()).add(tensor)
    producer = {t: n for n in proto.node for t in n.output}
    found, used = Found(), set()
    for node in proto.node:
        inner = list(dict.fromkeys(maker[t] for t in node.output if t in maker))
        members = _with_vanished(node, producer, maker)
        for name in inner:
            operation = by_name[name]
            for port, (source, grid) in enumerate(
                zip(operation["sources"], operation["inputs"], strict=True)
            ):
                if source is None:
                    at = [
                        (n, i)
                        for n in members
                        if n.op_type in WEIGHTED
                        for i, t in enumerate(n.input)
                        if t in constants
                    ][:1]
                else:
                    mine = made.get(source, set())
                    reads = [(n, i, t) for n in members for i, t in enumerate(n.input)]
                    at = [
                        (n, i) for n, i, t in reads if t in mine and producer.get(t) not in members
                    ]
                    if operation["type"] == "ScaledDotProductAttention":
                        at = [(n, i) for n, i in at if (n is node) == (port == 2)]
                    if not at and not mine and grid:  # renamed: the input that has no name there
                        at = [(n, i) for n, i, t in reads if t in producer and t not in maker][:1]
                    if not at and not mine and source not in inner:
                        inner.append(source)
                if at and grid:
                    used.add((name, port))
                for reader, i in at:
                    if source is not None or grid:
                        found.edges[reader.name, i] = grid and grid_of(grid)
    found.lost = [
        (o["name"], port)
        for o in operations
        for port, grid in enumerate(o["inputs"])
        if grid and (o["name"], port) not in used
    ]
    return found


def _with_vanished(node, producer, maker):
    """Return the node, and those before it that OpenVINO has merged with others or removed."""
    members = [node]
    for member in members:
        for tensor in member.input:
            before = producer.get(tensor)
            if before is None or before in members:
                continue
            if tensor not in maker or maker[tensor] in _makers_above(before, producer, maker):
                members.append(before)
    return members


def _makers_above(node, producer, maker):
    """Return the operations that make what the node reads, through vanished nodes."""
    waiting, found = [node], set()
    for here in waiting:
        for tensor in here.input:
            if tensor in maker:
                found.add(maker[tensor])
            elif tensor in producer:
                waiting.append(producer[tensor])
    return found


def grid_of(fake_quantize):
    """Turn ends and levels of a FakeQuantize into a grid; 255 levels are symmetric weights."""
    steps = fake_quantize["levels"] - 1
    ends = list(zip(fake_quantize["low"], fake_quantize["high"], strict=True))
    scales = tuple((high - low) / steps for low, high in ends)
    if fake_quantize["levels"] == 255:
        return Grid(8, scales, (0,) * len(scales))
    zeros = tuple(-128 - round(low / s) for (low, _), s in zip(ends, scales, strict=True))
    return Grid(8, scales, zeros)
