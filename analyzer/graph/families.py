# SPDX-License-Identifier: Apache-2.0
"""Whose noise belongs together: quantizers in, disjoint sources of noise out.

Rounding a tensor twice to the same grid adds nothing the second time, and clipping it again
little.  So quantizers that sit on the same tensor, that hand values through unchanged on one grid,
or that must share a scale are one source; added up one by one they would count twice.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from analyzer.graph.view import GraphView
from analyzer.quant.fake import calibrated
from analyzer.records import Quantizer, QuantPlan, Source

# Op types every output value of which is one of their input values.
_CARRYING = frozenset(
    """
    Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity MaxPool Reshape
    Resize ScatterElements ScatterND Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze
    Upsample
    """.split()
)
_Grid = tuple[bytes, bytes, int, int]


def sources_of(view: GraphView, plan: QuantPlan) -> tuple[Source, ...]:
    """Split the active quantizers of a plan into disjoint sources of noise, none measured yet.

    A source is all quantizers on one tensor, or on tensors with the same values or a common
    scale, where several layers hold them; what is left of a layer's quantizers is one source.

    Args:
        view: of the graph that the plan belongs to.
        plan: calibrated.

    Returns:
        in execution order of their first quantizers.
    """
    active = [q for q in plan.quantizers if q.active]
    families = _families(view, active)
    shared = {name: members for name, members in families.items() if _layers(members)[1:]}
    grouped = {q.key for members in shared.values() for q in members}
    rest: dict[str, list[Quantizer]] = {}
    for quantizer in active:
        if quantizer.key not in grouped:
            rest.setdefault(quantizer.node, []).append(quantizer)
    found = [
        *(Source(_label(members, plan), "group", _layers(members), _keys(members))
          for members in shared.values()),
        *(Source(node, "layer", (node,), _keys(members)) for node, members in rest.items()),
    ]  # fmt: skip
    order = {q.key: i for i, q in enumerate(active)}
    return tuple(sorted(found, key=lambda source: order[source.quantizers[0]]))


def carried_inputs(node: onnx.NodeProto) -> list[str]:
    """Return the inputs whose values are all that the outputs of `node` hold; none elsewhere."""
    if node.op_type not in _CARRYING:
        return []
    return list(node.input) if node.op_type == "Concat" else list(node.input[:1])


def _families(view: GraphView, active: Iterable[Quantizer]) -> dict[str, list[Quantizer]]:
    """Group the quantizers of tensors that are not constant; the key is any tensor of a family."""
    parents: dict[str, str] = {}

    def root(tensor: str) -> str:
        while parents.setdefault(tensor, tensor) != tensor:
            parents[tensor] = tensor = parents[parents[tensor]]
        return tensor

    moving = [q for q in active if not view.is_constant(q.tensor)]
    in_group: dict[str, str] = {}
    grids: dict[str, set[_Grid]] = {}
    for quantizer in moving:
        grids.setdefault(quantizer.tensor, set()).add(_grid(quantizer))
        if quantizer.group:
            parents[root(quantizer.tensor)] = root(
                in_group.setdefault(quantizer.group, quantizer.tensor)
            )
    for node in view.nodes.values():
        for tensor in carried_inputs(node):
            for output in filter(None, node.output):
                own = grids.setdefault(output, set())
                before = grids.get(tensor, set())
                if not own or own & before:
                    own |= before
                    parents[root(output)] = root(tensor)
    families: dict[str, list[Quantizer]] = {}
    for quantizer in moving:
        families.setdefault(root(quantizer.tensor), []).append(quantizer)
    return families


def _grid(quantizer: Quantizer) -> _Grid:
    scale, zero_point = calibrated(quantizer)
    return scale.tobytes(), zero_point.tobytes(), quantizer.qmin, quantizer.qmax


def _layers(members: Iterable[Quantizer]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(q.node for q in members))


def _keys(members: Iterable[Quantizer]) -> tuple[tuple[str, str], ...]:
    return tuple(q.key for q in members)


def _label(members: Iterable[Quantizer], plan: QuantPlan) -> str:
    """Call a source by the target's own group, else by its first tensor; never like a layer."""
    quantizers = list(members)
    name = next((q.group for q in quantizers if q.group), quantizers[0].tensor)
    return f"{name} (tensor)" if name in plan.layers else name
