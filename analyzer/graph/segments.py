# SPDX-License-Identifier: Apache-2.0
"""Cutting a graph into segments: runs of consecutive nodes that are compiled once and reused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from analyzer.graph.view import GraphView, reads
from analyzer.records import Model

# Unit costs of a simple machine model, in seconds.  Only their proportions matter: they decide
# where to cut, never what is computed.
_PER_MAC = 1.0 / 45e9
_PER_BYTE = 1.0 / 6e9
_PER_NODE = 4e-6
_PER_RUN = 60e-6
_BUILD_PER_NODE = 1.2e-4
_LONGEST = 96


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive nodes of one topological order.

    Attributes:
        nodes: in order.
        live_in: tensors read here and made by an earlier segment or given to the graph.
        live_out: tensors made here and read by a later segment, or graph outputs.
    """

    index: int
    nodes: tuple[onnx.NodeProto, ...]
    live_in: tuple[str, ...]
    live_out: tuple[str, ...]


def depth_first_order(view: GraphView) -> list[onnx.NodeProto]:
    """Return a topological order that stays on one branch as long as it can.

    Branches (the heads of a detector, say) come out contiguous, so that cuts fall between them.
    """
    position = {name: i for i, name in enumerate(view.nodes)}
    waiting = {name: len(view.parents(node)) for name, node in view.nodes.items()}
    ready = [name for name in reversed(view.nodes) if waiting[name] == 0]
    order: list[onnx.NodeProto] = []
    while ready:
        node = view.nodes[ready.pop()]
        order.append(node)
        freed = []
        for child in view.children(node):
            waiting[child] -= 1
            if waiting[child] == 0:
                freed.append(child)
        ready.extend(sorted(freed, key=position.__getitem__, reverse=True))
    return order


def node_seconds(model: Model, node: onnx.NodeProto) -> float:
    """Estimate the time of one run of `node` from its MACs and the bytes it moves."""
    moved = sum(_elements(model, t) for t in [*reads(node), *node.output] if t)
    return model.macs.get(node.name, 0) * _PER_MAC + 4 * moved * _PER_BYTE + _PER_NODE


def cut(
    view: GraphView, order: Sequence[onnx.NodeProto], ends: Sequence[int]
) -> tuple[Segment, ...]:
    """Make segments of `order` that end before the positions `ends`, the last of which is len."""
    starts = [0, *ends[:-1]]
    owner = {
        node.name: index
        for index, (start, end) in enumerate(zip(starts, ends, strict=True))
        for node in order[start:end]
    }
    outputs = set(view.outputs)
    segments = []
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        nodes = tuple(order[start:end])
        made = {name for node in nodes for name in node.output if name}
        live_in = dict.fromkeys(
            t for n in nodes for t in reads(n) if t not in made and not view.is_constant(t)
        )
        live_out = dict.fromkeys(
            t
            for n in nodes
            for t in n.output
            if t and (t in outputs or any(owner[c] != index for c in view.consumers.get(t, ())))
        )
        segments.append(Segment(index, nodes, tuple(live_in), tuple(live_out)))
    return tuple(segments)


def by_size(model: Model, view: GraphView, *, max_bytes: int) -> tuple[Segment, ...]:
    """Cut so that the tensors made in one segment stay below `max_bytes`, at narrow places.

    Within the last half of the allowance the cut goes where the fewest bytes are alive.
    """
    order = depth_first_order(view)
    alive = bytes_alive(model, view, order)
    made = [sum(4 * _elements(model, t) for t in node.output if t) for node in order]
    ends: list[int] = []
    start = 0
    while start < len(order):
        total, end, best = 0, start, (float("inf"), start + 1)
        while end < len(order) and (end == start or total + made[end] <= max_bytes):
            total += made[end]
            end += 1
            if total * 2 >= max_bytes or end == len(order):
                best = min(best, (alive[end - 1], end))
        start = len(order) if end == len(order) else best[1] if best[0] < float("inf") else end
        ends.append(start)
    return cut(view, order, ends)


def for_probes(
    model: Model, view: GraphView, units: Sequence[Sequence[str]], *, samples: int
) -> tuple[Segment, ...]:
    """Cut so that suffix runs of all `units` cost the least time in all.

    A segment is run for every unit (a set of layers perturbed together) that reaches it from
    above, whole, even where the unit reaches only a part of it; short segments waste less there
    but pay per call and at their borders.  Units inside a segment run only what lies below them,
    in a session of their own, which must be built once.  The best cut of the depth-first order
    is found by dynamic programming.
    """
    order = depth_first_order(view)
    at = {node.name: i for i, node in enumerate(order)}
    reach = _reach(view, order, at, units)
    seconds = [node_seconds(model, node) for node in order]
    borders = [b * _PER_BYTE for b in bytes_alive(model, view, order)]
    starters = [0] * len(order)
    for unit in units:
        starters[min(at[name] for name in unit)] += 1
    cost = [0.0] + [float("inf")] * len(order)
    back = [0] * (len(order) + 1)
    for end in range(1, len(order) + 1):
        inside, union, entry, starting = 0.0, 0, 0.0, 0
        for start in range(end - 1, max(-1, end - 1 - _LONGEST), -1):
            inside += seconds[start]
            union |= reach[start]
            if starters[start]:
                build = (_PER_RUN + (end - start) * _BUILD_PER_NODE) / max(samples, 1)
                entry += starters[start] * (inside + build + _PER_RUN)
                starting += starters[start]
            # units that start in here are part of the union, too, but pay as entries
            above = union.bit_count() - starting
            border = borders[end - 1] + (borders[start - 1] if start else 0.0)
            total = cost[start] + entry + above * (inside + _PER_RUN + border)
            if total < cost[end]:
                cost[end], back[end] = total, start
    ends = [len(order)]
    while back[ends[-1]]:
        ends.append(back[ends[-1]])
    return cut(view, order, ends[::-1])


def _reach(
    view: GraphView,
    order: Sequence[onnx.NodeProto],
    at: Mapping[str, int],
    units: Sequence[Sequence[str]],
) -> list[int]:
    """Return, per node, the units whose noise reaches it, as the bits of an int."""
    reach = [0] * len(order)
    for bit, unit in enumerate(units):
        for name in unit:
            reach[at[name]] |= 1 << bit
    for i, node in enumerate(order):
        for parent in view.parents(node):
            reach[i] |= reach[at[parent]]
    return reach


def bytes_alive(model: Model, view: GraphView, order: Sequence[onnx.NodeProto]) -> list[int]:
    """Return, per position, the bytes of tensors made up to there and still needed after."""
    last = {t: i for i, node in enumerate(order) for t in reads(node)}
    alive, now = [], 0
    ending: dict[int, int] = {}
    for i, node in enumerate(order):
        for tensor in node.output:
            if tensor and last.get(tensor, i) > i:
                size = 4 * _elements(model, tensor)
                now += size
                ending[last[tensor]] = ending.get(last[tensor], 0) + size
        now -= ending.get(i, 0)
        alive.append(now)
    return alive


def _elements(model: Model, tensor: str) -> int:
    count = 1
    for axis in model.shapes.get(tensor, ()):
        count *= axis
    return count
