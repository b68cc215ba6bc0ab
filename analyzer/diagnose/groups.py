# SPDX-License-Identifier: Apache-2.0
"""QA105: tensors that a Concat, an Add or the like puts onto one grid, of very different ranges.

Where the joined tensor is a graph output, parts that differ even more are QA106's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from analyzer.diagnose.candidate import Candidate, Changes
from analyzer.diagnose.case import Case
from analyzer.diagnose.facts import Facts
from analyzer.diagnose.grids import fitted, with_scales
from analyzer.diagnose.outputs import UNLIKE, joins_at_outputs
from analyzer.diagnose.sites import Site
from analyzer.graph.view import attributes
from analyzer.records import Quantizer

UNEQUAL = 4.0  # times the range of the narrowest member, which so loses two of its bits

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Ranges along one axis of a tensor: one value for each place on it."""

    axis: int
    low: F64
    high: F64


def unequal_members(case: Case) -> Iterator[Candidate]:
    """Yield joins whose members differ, for a scale of each member's own."""
    ends = joins_at_outputs(case.view)
    for site in case.sites:
        joins = [(join, _reaches(site, join)) for join in site.joins(case.view)]
        joins = [(join, reaches) for join, reaches in joins if len(reaches) > 1]
        if not joins:
            continue
        join, reaches = max(joins, key=lambda pair: _ratio(pair[1]))
        if _ratio(reaches) < UNEQUAL or (join.name in ends and _ratio(reaches) >= UNLIKE):
            continue
        evidence = {
            "tensor": join.output[0],
            "range_ratio": _ratio(reaches),
            "narrowest": min(reaches, key=reaches.__getitem__),
            "widest": max(reaches, key=reaches.__getitem__),
            "ranges": sorted(reaches.values()),
        }
        if site.price is not None:
            evidence["price_of_alignment"] = site.price
        layer = site.layer(case.view, case.plan.layers, join.output[0])
        yield Candidate("QA105", layer, evidence, _own(case, site), expected=site.share)


def _reaches(site: Site, join: onnx.NodeProto) -> dict[str, float]:
    known = {t: site.facts[t].reach for t in join.input if t in site.facts}
    return {t: reach for t, reach in known.items() if reach > 0}


def _ratio(reaches: dict[str, float]) -> float:
    return max(reaches.values()) / min(reaches.values())


def _own(case: Case, site: Site) -> Changes:
    """Give every tensor the scale of its own range, and a joined one those of its parts."""
    blocks: dict[str, _Blocks] = {}
    for tensor in site.tensors:
        found = _blocks(case, site, tensor, blocks)
        if found is not None:
            blocks[tensor] = found
    return {q.key: _refitted(case, site, q, blocks.get(q.tensor)) for q in site.quantizers}


def _blocks(case: Case, site: Site, tensor: str, known: dict[str, _Blocks]) -> _Blocks | None:
    node = case.view.nodes.get(case.view.producer.get(tensor, ""))
    if node is None:
        return None
    shape = case.model.shapes[tensor]
    if node.op_type == "Concat":
        axis = int(attributes(node)["axis"]) % len(shape)
        parts = [_along(case, site, t, axis, known) for t in node.input if t]
        low, high = (np.concatenate(side) for side in zip(*parts, strict=True))
        return _Blocks(axis, low, high)
    before = known.get(next(iter(node.input), ""))
    if before is not None and _keeps(case, node, tensor, before.axis):
        return before
    return None


def _keeps(case: Case, node: onnx.NodeProto, tensor: str, axis: int) -> bool:
    """Tell whether a node hands values on along an axis."""
    old, new = case.model.shapes[node.input[0]], case.model.shapes[tensor]
    plain = node.op_type in ("Resize", "Upsample", "MaxPool", "Identity", "Relu", "Clip")
    return plain and len(old) == len(new) and old[axis] == new[axis]


def _along(
    case: Case, site: Site, tensor: str, axis: int, known: dict[str, _Blocks]
) -> tuple[F64, F64]:
    """Return the range of a member at each place along an axis."""
    blocks, size = known.get(tensor), case.model.shapes[tensor][axis]
    if blocks is not None and blocks.axis == axis:
        return blocks.low, blocks.high
    facts: Facts | None = site.facts.get(tensor)
    low, high = facts.range if facts is not None else _constant(case, tensor)
    return np.full(size, low), np.full(size, high)


def _constant(case: Case, tensor: str) -> tuple[float, float]:
    values = case.view.array(tensor) if case.view.is_constant(tensor) else np.zeros(1)
    return float(values.min()), float(values.max())


def _refitted(case: Case, site: Site, quantizer: Quantizer, blocks: _Blocks | None) -> Quantizer:
    low, high = (np.array([end]) for end in site.facts[quantizer.tensor].range)
    axis = None
    if blocks is not None:
        low, high, axis = blocks.low, blocks.high, blocks.axis
    scale, zero = fitted(quantizer, low, high, power_of_two=case.power_of_two)
    # what sets the range now keeps its grid
    scale = np.where(scale > site.scale, np.nan, scale)
    return with_scales(quantizer, scale, zero, axis)
