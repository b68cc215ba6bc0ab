# SPDX-License-Identifier: Apache-2.0
"""Where a tensor was joined: its name goes in, the seams between the parts of Concats come out.

Nodes that only rearrange values are looked through: a seam in front of a Transpose is one behind
it, on another axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import prod

import onnx

from analyzer.graph.view import GraphView, attributes
from analyzer.records import Model

Seams = dict[int, frozenset[int]]  # axis -> where a part ends and the next one starts

_SAME = frozenset({"Identity", "Cast", "Dropout"})
_RESHAPING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})


def seams(model: Model, view: GraphView, tensor: str) -> Seams:
    """Return the seams of `tensor`, none for an axis without.

    Args:
        model: bound.
        view: of its graph.
        tensor: made by a node, or not: then it has none.
    """
    node = view.nodes.get(view.producer.get(tensor, ""))
    if node is None or tensor != node.output[0] or tensor not in model.shapes:
        return {}
    if node.op_type == "Concat":
        return _of_concat(model, view, node)
    if node.op_type not in (*_SAME, *_RESHAPING, "Transpose"):
        return {}
    source = node.input[0]
    found = seams(model, view, source)
    if node.op_type in _SAME or not found:
        return found
    if node.op_type == "Transpose":
        rank = len(model.shapes[source])
        order = attributes(node).get("perm", range(rank)[::-1])
        return {new: found[old] for new, old in enumerate(order) if old in found}
    return _reshaped(found, model.shapes[source], model.shapes[tensor])


def _of_concat(model: Model, view: GraphView, node: onnx.NodeProto) -> Seams:
    """Unite the seams along the joined axis; keep those of other axes that all parts have."""
    rank = len(model.shapes[node.output[0]])
    joined = attributes(node)["axis"] % rank
    members = [seams(model, view, tensor) for tensor in node.input]
    sizes = [model.shapes[tensor][joined] for tensor in node.input]
    starts = list(accumulate(sizes, initial=0))
    along = {start for start in starts if 0 < start < starts[-1]}
    for start, inner in zip(starts, members, strict=False):
        along.update(start + seam for seam in inner.get(joined, ()))
    found = {joined: frozenset(along)}
    for axis in set(members[0]) - {joined}:
        found[axis] = frozenset.intersection(*(m.get(axis, frozenset()) for m in members))
    return {axis: found[axis] for axis in sorted(found) if found[axis]}


def _reshaped(found: Seams, old: Sequence[int], new: Sequence[int]) -> Seams:
    """Carry seams over to another shape of the same values in the same order.

    An axis can be followed where as many values stand before it; it may have been united with
    those behind it, or split where no seam is.
    """
    kept = {}
    for axis, places in found.items():
        before, behind = prod(old[:axis]), prod(old[axis + 1 :])
        target = next(
            (k for k, size in enumerate(new) if size > 1 and prod(new[:k]) == before), None
        )
        if target is None:
            continue
        unit = prod(new[target + 1 :])
        moved = [place * behind for place in places]
        if all(place % unit == 0 for place in moved) and moved:
            scaled = frozenset(place // unit for place in moved)
            if max(scaled) < new[target]:
                kept[target] = scaled
    return kept
