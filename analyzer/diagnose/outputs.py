# SPDX-License-Identifier: Apache-2.0
"""QA106 and QA116: what one scale does to an output that joins parts of very different ranges.

Boxes in pixels beside scores of 0 to 1: one step of the scale they share is a pixel or two, and
every score rounds to 0.  The error of the whole output does not show it: pixels are all its power.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from analyzer.diagnose.candidate import Candidate, Changes
from analyzer.diagnose.case import Case
from analyzer.diagnose.flow import ahead, quantizers_on
from analyzer.diagnose.grids import fitted, with_scales
from analyzer.graph.tensors import TensorRuns
from analyzer.graph.view import GraphView
from analyzer.quant.fake import fake_quantize
from analyzer.quant.metrics import nsr_of, power
from analyzer.records import OutputError, Quantizer
from analyzer.targets.base import Target

UNLIKE = 16.0  # ranges: 4 of 8 bits are gone
NOISY = 1e-3  # NSR of a part under the common grid; one that fills 8 bits has about 1e-4
AWFUL = 0.1  # NSR of a slice that nobody can use, and
HIDDEN = 10.0  # times the NSR of the whole output, which does not tell


@dataclass(slots=True)
class _Part:
    """One of the tensors joined, and what was seen of it.

    Attributes:
        tensors: all that hold the part's values, or some of them, ahead of the join.
    """

    tensor: str
    slot: str
    tensors: tuple[str, ...]
    low: float = np.inf
    high: float = -np.inf
    noise: float = 0.0
    signal: float = 0.0

    @property
    def reach(self) -> float:
        return max(self.high, -self.low, 0.0)

    @property
    def nsr(self) -> float:
        """Of the part rounded to the common grid, and nothing else."""
        return nsr_of(self.noise, self.signal)


@dataclass(frozen=True, slots=True)
class _Join:
    """A Concat that is a graph output, or all but for its order.

    Attributes:
        shared: the quantizers with the common scale, behind the Concat or, where there are none
            there, at its inputs.
    """

    output: str
    node: str
    shared: tuple[Quantizer, ...]
    parts: tuple[_Part, ...]


def shared_outputs(case: Case) -> Iterator[Candidate]:
    """Yield outputs that join parts of very different ranges under one scale."""
    view = case.view
    errors = {o.name: o for o in case.outputs}
    for join in _measured(case, view):
        used = [p for p in join.parts if p.reach > 0]
        if len(used) < 2:
            continue
        small, large = (pick(used, key=lambda p: p.reach) for pick in (min, max))
        loudest = max(used, key=lambda p: p.nsr)
        if large.reach < UNLIKE * small.reach or loudest.nsr < NOISY:
            continue
        evidence = {
            "output": join.output,
            "step": _step(join.shared[0]),
            "small_part": small.tensor,
            "small_range": small.reach,
            "large_part": large.tensor,
            "large_range": large.reach,
            "ratio": large.reach / small.reach,
            "nsr_of_small_part": loudest.nsr,
        }
        changes = _own_scales(case, join)
        hidden = _hidden(errors.get(join.output), case.outputs)
        yield Candidate("QA106", join.node, evidence, changes, certain=hidden)


def lost_outputs(case: Case) -> Iterator[Candidate]:
    """Yield outputs, and slices of outputs, of which quantizing leaves nothing but zeros."""
    lost = [o for o in case.outputs if o.lost]
    if not lost:
        return
    view = case.view
    joins = {join.output: join for join in _measured(case, view)}
    errors = {o.name: o for o in case.outputs}
    for output in lost:
        whole = errors[output.slice_of] if output.slice_of else output
        tensors = ahead(view, whole.name)
        join = joins.get(whole.name)
        here = quantizers_on(case, tensors)
        changes: Changes = _own_scales(case, join) if join else {q.key: None for q in here}
        shared = join.shared if join else tuple(here)
        low, high = _range_of(case, output.name)
        evidence: dict[str, Any] = {"output": whole.name, "low": low, "high": high}
        if output.slice_of:
            evidence |= {"slice": output.name, "output_cosine": whole.cosine, "nsr": whole.nsr}
        if shared:
            evidence["step"] = _step(shared[0])
        layer = join.node if join else _maker(case, view, tensors)
        yield Candidate("QA116", layer, evidence, changes, certain=True)


def joins_at_outputs(view: GraphView) -> dict[str, str]:
    """Return Concat -> the graph output that it is, but for the order of values."""
    found: dict[str, str] = {}
    for output in view.outputs:
        node = view.nodes.get(view.producer.get(ahead(view, output)[-1], ""))
        if node is not None and node.op_type == "Concat":
            found.setdefault(node.name, output)
    return found


def _hidden(whole: OutputError | None, outputs: Sequence[OutputError]) -> bool:
    """Tell whether a slice is in ruins while the whole output looks well."""
    if whole is None:
        return False
    nsrs = [o.nsr for o in outputs if o.slice_of == whole.name]
    return any(nsr > max(AWFUL, HIDDEN * whole.nsr) for nsr in nsrs)


def _measured(case: Case, view: GraphView) -> list[_Join]:
    """Return the joins with the ranges of their parts, and their noise under the common grid."""
    joins = list(_joins(case, view))
    if not joins:
        return []
    runs = TensorRuns(case.model, [part.tensor for join in joins for part in join.parts])
    for sample in case.samples:
        values = runs.run(sample)
        for join in joins:
            for part in join.parts:
                _add(part, values[part.tensor], join.shared[0])
    return joins


def _joins(case: Case, view: GraphView) -> Iterator[_Join]:
    for name, output in joins_at_outputs(view).items():
        if output in case.model.slices:
            continue
        node = view.nodes[name]
        behind = quantizers_on(case, ahead(view, output))
        inputs = {f"in{k}": t for k, t in enumerate(node.input)}
        at = [q for q in case.plan.quantizers if q.active and q.node == name and q.slot in inputs]
        common = behind or (at if _one_scale(at) else [])
        moving = {s: t for s, t in inputs.items() if not view.is_constant(t)}
        if common and common[0].axis is None and len(moving) > 1:
            parts = (_Part(t, s, tuple(_parts_of(view, t))) for s, t in moving.items())
            yield _Join(output, name, tuple(common), tuple(parts))


def _one_scale(quantizers: Sequence[Quantizer]) -> bool:
    scales = {float(q.scale.flat[0]) for q in quantizers if q.scale is not None}
    return len(quantizers) > 1 and len(scales) == 1


def _parts_of(view: GraphView, tensor: str) -> Iterator[str]:
    """Yield `tensor`, what it is a rearrangement of, and what is joined in it."""
    names = ahead(view, tensor)
    yield from names
    node = view.nodes.get(view.producer.get(names[-1], ""))
    if node is not None and node.op_type == "Concat":
        for part in node.input:
            yield from _parts_of(view, part)


def _add(part: _Part, value: npt.NDArray[np.generic], quantizer: Quantizer) -> None:
    x = np.asarray(value, np.float32)
    if x.size:
        part.low, part.high = min(part.low, float(x.min())), max(part.high, float(x.max()))
        part.noise += power(fake_quantize(x, quantizer) - x)
        part.signal += power(x)


def _own_scales(case: Case, join: _Join) -> Changes:
    """Return the changes that leave the join in float, and give every part its own scale."""
    inside = {t for part in join.parts for t in part.tensors}
    changes: Changes = {q.key: None for q in join.shared if q.tensor not in inside}
    like = join.shared[0]
    for part in join.parts:
        here = quantizers_on(case, part.tensors)
        if not here:
            here = [replace(like, node=join.node, slot=part.slot, tensor=part.tensor)]
        changes.update((q.key, _own_scale(case.target, q, part)) for q in here)
    return changes


def _own_scale(target: Target | None, quantizer: Quantizer, part: _Part) -> Quantizer:
    lo, hi = np.array([part.low]), np.array([part.high])
    if target is None:
        return with_scales(quantizer, *fitted(quantizer, lo, hi, power_of_two=False), None)
    scale, zero = target.scale(quantizer, lo, hi, "minmax")
    return replace(quantizer, scale=scale, zero_point=zero)


def _range_of(case: Case, output: str) -> tuple[float, float]:
    runs = TensorRuns(case.model, [output])
    values = [runs.run(sample)[output] for sample in case.samples]
    return float(min(v.min() for v in values)), float(max(v.max() for v in values))


def _maker(case: Case, view: GraphView, tensors: Sequence[str]) -> str | None:
    """Return the first layer of the plan that makes one of `tensors`, from the output inwards."""
    makers = (view.producer.get(t) for t in tensors)
    return next((name for name in makers if name in case.plan.layers), None)


def _step(quantizer: Quantizer) -> float:
    assert quantizer.scale is not None, quantizer.key
    return float(quantizer.scale.max())
