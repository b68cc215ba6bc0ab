# SPDX-License-Identifier: Apache-2.0
"""Two quantizers compared at the edges of a graph: which grid does each node input arrive on?

Where a tool writes its Q/DQ pairs (behind the producer, before one reader, twice) is a matter of
taste; what a node reads is not.  Both sides become a mapping edge -> grid, None for a float edge.
An edge is (node name, input index), or ("", name) for a graph output.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from onnx import TensorProto, helper, numpy_helper

Edge = tuple[str, int | str]
_TYPES = {
    TensorProto.INT8: (8, True), TensorProto.UINT8: (8, False), TensorProto.INT16: (16, True),
    TensorProto.UINT16: (16, False), TensorProto.INT32: (32, True), TensorProto.INT4: (4, True),
    TensorProto.UINT4: (4, False),
}  # fmt: skip


class Grid(NamedTuple):
    """Scale and zero point, one value or one per channel, as tuples; zero points as for int8."""

    bits: int
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]

    @staticmethod
    def of(bits, signed, scale, zero_point):
        """Make one; an unsigned grid is told as the signed one that holds the same values."""
        shift = 0 if signed else 2 ** (bits - 1)
        scales = np.asarray(scale, np.float64).ravel()
        zeros = np.broadcast_to(np.asarray(zero_point, np.int64).ravel() - shift, scales.shape)
        return Grid(bits, tuple(scales.tolist()), tuple(zeros.tolist()))


@dataclass
class Agreement:
    """How far two mappings agree.

    Attributes:
        edges: all float edges of the graph.
        quantized: edges that either side quantizes.
        alike: of these, how many both quantize, with the same bits.
        differing: edge -> (ours, theirs) for the others.
        scales: edge -> largest relative difference of scales, for those alike.
        zero_points: edge -> largest difference of zero points in steps, for those alike.
    """

    edges: int = 0
    quantized: int = 0
    alike: int = 0
    differing: dict = field(default_factory=dict)
    scales: dict = field(default_factory=dict)
    zero_points: dict = field(default_factory=dict)

    @property
    def placed(self):
        """Share of quantized edges that are placed alike."""
        return self.alike / self.quantized if self.quantized else 1.0

    @property
    def median_scale(self):
        """Median relative difference of scales."""
        return float(np.median(list(self.scales.values()))) if self.scales else 0.0


def edges_of_plan(graph, plan):
    """Return edge -> grid of a calibrated plan on the model `graph` (`analyzer.records.Model`)."""
    slots = {q.key: q for q in plan.quantizers if q.active}
    producer = {
        tensor: (node.name, f"out{i}")
        for node in graph.proto.graph.node
        for i, tensor in enumerate(node.output)
    }

    def grid(key):
        q = slots.get(key)
        return q and Grid.of(q.bits, q.qmin < 0, q.scale, q.zero_point)

    found = {}
    for node in graph.proto.graph.node:
        for i, tensor in enumerate(node.input):
            if tensor and graph.dtypes.get(tensor) == "float32":
                found[node.name, i] = grid((node.name, f"in{i}")) or grid(producer.get(tensor))
    for output in graph.proto.graph.output:
        if graph.dtypes.get(output.name) == "float32":
            found["", output.name] = grid(producer.get(output.name))
    return found


def edges_of_qdq(proto, *, skip=("Identity", "Cast")):
    """Return edge -> grid of a Q/DQ model; nodes of the types `skip` are looked through."""
    constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    kinds = {t.name: t.data_type for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            kinds[node.output[0]] = node.attribute[0].t.data_type
    producer = {t: node for node in proto.graph.node for t in node.output}

    def grid(tensor):
        node = producer.get(tensor)
        while node is not None and node.op_type in skip:
            node = producer.get(node.input[0])
        if node is None or node.op_type != "DequantizeLinear":
            return None
        zero = node.input[2] if len(node.input) > 2 and node.input[2] else None
        source = producer.get(node.input[0])
        kind = kinds.get(zero) or kinds.get(node.input[0])
        if kind is None and source is not None:
            given = {a.name: helper.get_attribute_value(a) for a in source.attribute}
            kind = given.get("output_dtype") or TensorProto.UINT8
        bits, signed = _TYPES[kind]
        return Grid.of(bits, signed, constants[node.input[1]], constants[zero] if zero else 0)

    found = {}
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Constant", *skip):
            continue
        for i, tensor in enumerate(node.input):
            if tensor:
                found[node.name, i] = grid(tensor)
    for output in proto.graph.output:
        found["", output.name] = grid(output.name)
    return found


def compare(ours, theirs):
    """Compare two mappings over the edges of `ours`; edges that `theirs` lacks count as float."""
    result = Agreement(edges=len(ours))
    for edge, mine in ours.items():
        other = theirs.get(edge)
        if mine is None and other is None:
            continue
        result.quantized += 1
        same = mine is not None and other is not None and mine.bits == other.bits
        if not same or len(mine.scale) != len(other.scale):
            result.differing[edge] = (mine, other)
            continue
        result.alike += 1
        mine_scale, other_scale = np.array(mine.scale), np.array(other.scale)
        result.scales[edge] = float(np.max(np.abs(mine_scale / other_scale - 1)))
        zeros = np.array(mine.zero_point) - np.array(other.zero_point)
        result.zero_points[edge] = int(np.abs(zeros).max())
    return result
