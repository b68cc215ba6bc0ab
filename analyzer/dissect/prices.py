# SPDX-License-Identifier: Apache-2.0
"""The price of alignment: a group's quantizers go in, those with a scale per tensor come out.

What only hands on values that were rounded before adds nothing of its own, as with a common scale:
its quantizers are left out.  The others get the grid of their tensor's own quantizer, where the
plan holds one; else the shared grid, by as much narrower as the tensor's own range is narrower
than the shared one, both found by the same observer on the same samples.  A price can be negative:
sums of values on one grid stay on it, and are rounded again where every tensor has its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from analyzer.dissect.looks import RangeLook
from analyzer.graph.families import carried_inputs
from analyzer.graph.suffix import Unit
from analyzer.graph.view import GraphView
from analyzer.quant.fake import calibrated
from analyzer.quant.observers import MinMax, Range
from analyzer.records import Quantizer, QuantPlan, Source
from analyzer.targets.base import F64, I64, Target

Ends = tuple[F64, F64]
_Key = tuple[str, str]
_Watch = tuple[tuple[str, ...], str | None, int, bool, int | None]


@dataclass(frozen=True, slots=True)
class _Change:
    """One quantizer that gets its tensor's own scale.

    Attributes:
        own: with the scale the plan has for its tensor; None where it has to be found.
        asks: as the target would observe the tensor by itself.
        root: the quantizer whose scale is shared.
    """

    quantizer: Quantizer
    own: Quantizer | None
    asks: Quantizer
    root: Quantizer


class Alignment:
    """One source of noise whose tensors share scales.

    Args:
        view: of the graph that the plan belongs to.
        plan: calibrated.
        source: at least one of its quantizers is in a group.
        target: whose rules turn ranges into scales; None: as wide as the values, nothing else.
    """

    def __init__(
        self, view: GraphView, plan: QuantPlan, source: Source, target: Target | None
    ) -> None:
        quantizers = {q.key: q for q in plan.quantizers}
        self.name = source.name
        self.target = target
        self.members = tuple(quantizers[key] for key in source.quantizers)
        followed = {q.follows for q in self.members if q.group}
        shared = [q for q in self.members if q.group or q.key in followed]
        carried = _carried(view, self.members)
        self.dropped = {q.key for q in shared if q.tensor in carried}
        self.changes = [
            _change(plan, quantizers, q, target) for q in shared if q.key not in self.dropped
        ]
        self.looks: dict[_Watch, RangeLook] = {}
        for change in self.changes:
            if change.own is None:
                self._watch(view, change.asks)
                if change.root.fixed_range is None:
                    self._watch(view, change.root)

    @property
    def shared(self) -> Unit:
        """The source as it is."""
        return Unit(f"shared {self.name}", self.members)

    def apart(self) -> Unit | None:
        """Return the source with a scale per tensor, once its looks have seen samples.

        None where a range is not known because values turned NaN.  Equal to what is shared, but
        for the name and what is left out, where no tensor asks for another scale.
        """
        if any(look.failed for look in self.looks.values()):
            return None
        own = {c.quantizer.key: self._apart(c) for c in self.changes}
        kept = [own.get(q.key, q) for q in self.members if q.key not in self.dropped]
        return Unit(f"apart {self.name}", tuple(kept))

    def moved(self, apart: Unit) -> bool:
        """Tell whether a tensor has another scale than the shared one."""
        members = {q.key: q for q in self.members}
        return any(not _same_grid(members[q.key], q) for q in apart.quantizers)

    def _watch(self, view: GraphView, quantizer: Quantizer) -> None:
        watch = _watch_of(quantizer)
        if watch not in self.looks:
            constants = {
                t: view.array(t).astype(np.float32) for t in watch[0] if view.is_constant(t)
            }
            observer = self.target.make_observer(quantizer) if self.target else MinMax()
            self.looks[watch] = RangeLook(watch[0], constants, observer)

    def _apart(self, change: _Change) -> Quantizer:
        if change.own is not None:
            return change.own
        return narrowed(change.quantizer, self._ends(change.asks), self._ends(change.root))

    def _ends(self, quantizer: Quantizer) -> Ends:
        """Return the ends of the grid that a quantizer asks for on these samples."""
        if quantizer.fixed_range is None:
            found = self.looks[_watch_of(quantizer)].observer.result()
        else:
            found = Range(*quantizer.fixed_range, "minmax", *quantizer.fixed_range)
        lo, hi = found.lo, found.hi
        if not quantizer.symmetric:
            # as while calibrating: no levels for a side where no value lies
            lo = np.maximum(lo, min(found.seen_lo, 0.0))
            hi = np.minimum(hi, max(found.seen_hi, 0.0))
        lows, highs = (np.atleast_1d(np.asarray(end, np.float64)) for end in (lo, hi))
        if self.target is not None:
            scale, zero = self.target.scale(quantizer, lows, highs, found.kind)
            return _ends_of(quantizer, scale, zero)
        if quantizer.symmetric:
            highs = np.maximum(-lows, highs)
            return -highs, highs
        return np.minimum(lows, 0.0), np.maximum(highs, 0.0)


def narrowed(quantizer: Quantizer, own: Ends, shared: Ends) -> Quantizer:
    """Return `quantizer` with the ends of its grid moved by the ratio of `own` to `shared`.

    Args:
        quantizer: calibrated.
        own: lowest and highest value that a grid for one tensor reaches.
        shared: the same for all tensors, found in the same way.

    Returns:
        `quantizer` itself where both are equal, or where either is no range.
    """
    if all(np.array_equal(a, b) for a, b in zip(own, shared, strict=True)):
        return quantizer
    scale, zero = calibrated(quantizer)
    with np.errstate(divide="ignore", invalid="ignore"):
        # a side without values stays without
        low, high = (np.where(s == 0, 0.0, o / s) for o, s in zip(own, shared, strict=True))
        if quantizer.symmetric:
            made = replace(quantizer, scale=np.asarray(scale * high))
        else:
            first, last = _ends_of(quantizer, scale, zero)
            made = _affine(quantizer, np.asarray(first * low), np.asarray(last * high))
    steps, _ = calibrated(made)
    usable = steps.shape == scale.shape and np.isfinite(steps).all() and (steps > 0).all()
    return made if usable else quantizer


def _ends_of(quantizer: Quantizer, scale: F64, zero: I64) -> Ends:
    return (
        np.asarray((quantizer.qmin - zero) * scale),
        np.asarray((quantizer.qmax - zero) * scale),
    )


def _affine(quantizer: Quantizer, low: F64, high: F64) -> Quantizer:
    scale = (high - low) / (quantizer.qmax - quantizer.qmin)
    zero = np.rint(quantizer.qmin - low / np.where(scale > 0, scale, 1.0))
    return replace(quantizer, scale=scale, zero_point=zero.astype(np.int64))


def _change(
    plan: QuantPlan,
    quantizers: Mapping[_Key, Quantizer],
    quantizer: Quantizer,
    target: Target | None,
) -> _Change:
    root = quantizer
    while root.follows is not None:
        root = quantizers[root.follows]
    observer = quantizer.observer or root.observer
    if observer is None and target is not None:
        observer = target.observers[0]
    asks = replace(quantizer, observer=observer, follows=None, observes=())
    own = next((q for q in plan.quantizers if _is_own(q, quantizer)), None)
    if own is not None:
        own = replace(quantizer, scale=own.scale, zero_point=own.zero_point)
    return _Change(quantizer, own, asks, replace(root, observer=root.observer or observer))


def _is_own(candidate: Quantizer, quantizer: Quantizer) -> bool:
    """Tell whether the candidate's scale is the one its tensor asks for, on the same levels."""
    return (
        candidate.tensor == quantizer.tensor
        and candidate.active
        and candidate.follows is None
        and candidate.observes in ((), (candidate.tensor,))
        and candidate.scale is not None
        and _levels(candidate) == _levels(quantizer)
    )


def _levels(quantizer: Quantizer) -> tuple[Any, ...]:
    scale, _ = calibrated(quantizer)
    return quantizer.qmin, quantizer.qmax, quantizer.symmetric, quantizer.axis, scale.size


def _same_grid(one: Quantizer, other: Quantizer) -> bool:
    pairs: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = list(
        zip(calibrated(one), calibrated(other), strict=True)
    )
    return all(np.array_equal(a, b) for a, b in pairs)


def _watch_of(quantizer: Quantizer) -> _Watch:
    tensors = quantizer.observes or (quantizer.tensor,)
    return tensors, quantizer.observer, quantizer.bits, quantizer.symmetric, quantizer.axis


def _carried(view: GraphView, members: Sequence[Quantizer]) -> set[str]:
    """Return the tensors all of whose values other members have rounded before."""
    slots = {q.key for q in members}
    tensors = {q.tensor for q in members}
    known: dict[str, bool] = {}

    def rounded(tensor: str, reader: _Key) -> bool:
        maker = view.producer.get(tensor)
        if reader in slots or view.is_constant(tensor):
            return True
        if maker is None:
            return False
        place = list(view.nodes[maker].output).index(tensor)
        return (maker, f"out{place}") in slots or carried(tensor)

    def carried(tensor: str) -> bool:
        if tensor not in known:
            node = view.nodes.get(view.producer.get(tensor, ""))
            known[tensor] = False
            inputs = carried_inputs(node) if node is not None else []
            if node is not None and inputs:
                known[tensor] = all(
                    rounded(t, (node.name, f"in{k}")) for k, t in enumerate(inputs)
                )
        return known[tensor]

    return {t for t in tensors if carried(t)}
