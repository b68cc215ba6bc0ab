# SPDX-License-Identifier: Apache-2.0
"""The loudest grids of activations: a measured plan goes in, ranges to be asked for come out.

A grid is one scale and all who use it.  Its range can be asked for by the name of the tensor whose
quantizer owns the scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from analyzer.fixes.situation import Situation
from analyzer.quant.fake import calibrated
from analyzer.records import Finding, Quantizer
from analyzer.targets.base import Target

MOST_GRIDS = 24
LEAST_SHARE = 0.005  # of all isolated noise
MOST_TENSORS = 3  # of one grid
MOST_VALUES = 1 << 25  # of all tensors looked at: 128 MB in a run
ABOUT_RANGES = ("QA102", "QA103", "QA104", "QA203")
ABOUT_CLIPPING = ("QA103", "QA203")
_SAME = 1e-6  # of a scale
_HARDLY = 0.01  # of the span of a grid: ends that move by less make no other grid

Range = tuple[float, float]


@dataclass(slots=True)
class Grid:
    """One scale, and who uses it.

    Attributes:
        root: the quantizer whose range makes the scale.
        users: active ones, by tensor.
        shares: source of noise -> its share of all isolated noise.
        gain: share of the output noise that went when a cause was removed here.
        cut: the same, where the cause was clipping.
    """

    root: Quantizer
    users: dict[str, Quantizer] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    gain: float = 0.0
    cut: float = 0.0

    @property
    def loudness(self) -> float:
        """How much of the noise may be made here, at most."""
        return max(self.gain, sum(self.shares.values()))

    @property
    def tensors(self) -> tuple[str, ...]:
        """Whose values are looked at: the root's own first."""
        first = [t for t in (self.root.tensor,) if t in self.users]
        rest = [t for t in self.users if t != self.root.tensor]
        return tuple([*first, *rest][:MOST_TENSORS])


@dataclass(frozen=True, slots=True)
class Choice:
    """Another range for a grid.

    Attributes:
        range: as it is asked for.
        made: the root with the scale that comes of it.
        why: where it comes from.
    """

    range: Range
    made: Quantizer
    why: str


def loud_grids(situation: Situation) -> list[Grid]:
    """Return the grids that most noise is made on and whose range can be asked for.

    The loudest come first, at most one for each tensor.  Grids of more than 8 bits are left
    alone, and those whose range the target itself sets.
    """
    grids = [
        grid
        for grid in _all_grids(situation)
        if grid.loudness >= LEAST_SHARE and _reached(situation, grid)
    ]
    grids.sort(key=lambda grid: -grid.loudness)
    kept: dict[str, Grid] = {}
    values = 0
    for grid in grids:
        values += sum(prod(situation.model.shapes[t]) for t in grid.tensors)
        if len(kept) == MOST_GRIDS or (values > MOST_VALUES and kept):
            break
        kept.setdefault(grid.root.tensor, grid)
    return list(kept.values())


def giving(target: Target, wanted: Quantizer, why: str) -> Choice:
    """Return the range that gives a scale when it is asked for by its ends."""
    scale, zero = scale_of(wanted)
    first, last = wanted.qmin - zero, wanted.qmax - zero
    reach = max(-first, last)
    # in the order in which targets count steps: level to level, to the middle of the last one, to
    # the last positive one, and one step more than that
    ranges = [(first, last), (-reach + 0.5, reach - 0.5), (-last, last), (first, last + 1.0)]
    tried = [_asked_for(target, wanted, (a * scale, b * scale), why) for a, b in ranges]
    return next((c for c in tried if _alike(c.made, wanted)), tried[0])


def observed(target: Target, root: Quantizer, found: Range, observer: str) -> Quantizer:
    """Return the root with the scale it would have with another observer."""
    low, high = found
    if not root.symmetric and root.range is not None:
        # as while calibrating: no levels for a side where no value lies
        low, high = max(low, min(root.range[0], 0.0)), min(high, max(root.range[1], 0.0))
    plain = replace(root, fixed_range=None, observer=observer)
    scale, zero = target.scale(plain, np.array([low]), np.array([high]), observer)
    return replace(root, scale=scale, zero_point=zero)


def covering(target: Target, root: Quantizer, low: float, high: float) -> Quantizer:
    """Return the root with the scale it would have if an observer found this range."""
    plain = replace(root, fixed_range=None)
    scale, zero = target.scale(plain, np.array([low]), np.array([high]), "minmax")
    return replace(root, scale=scale, zero_point=zero)


def keeps_levels_free(target: Target, root: Quantizer) -> bool:
    """Tell whether an affine grid goes far beyond what an observer found.

    PyTorch's does for x86 (`reduce_range`): sums of products of full range overflow in kernels of
    older processors.  A narrower range would only use these levels, since nothing clips before.
    """
    if root.symmetric:
        return False
    low, high = ends(covering(target, root, 0.0, 1.0))
    return high - low > 1.5


def usable(quantizer: Quantizer) -> bool:
    """Tell whether a scale is a number to divide by."""
    scale, _ = scale_of(quantizer)
    return bool(np.isfinite(scale)) and scale > 0


def close(one: Quantizer, other: Quantizer) -> bool:
    """Tell whether two grids end at the same values, or nearly so."""
    (low, high), (first, last) = ends(one), ends(other)
    return max(abs(low - first), abs(high - last)) < _HARDLY * (last - first)


def ends(quantizer: Quantizer) -> Range:
    """Return the lowest and the highest value of a grid."""
    scale, zero = scale_of(quantizer)
    return (quantizer.qmin - zero) * scale, (quantizer.qmax - zero) * scale


def scale_of(quantizer: Quantizer) -> tuple[float, int]:
    """Return the one scale and zero point of a quantizer."""
    scale, zero = calibrated(quantizer)
    return float(scale.item()), int(zero.item())


def powers_of_two(situation: Situation) -> bool:
    """Tell whether the target's scales are powers of two."""
    scales = [
        q.scale
        for q in situation.plan.quantizers
        if q.active and q.role == "activation" and q.scale is not None
    ]
    return bool(scales) and all(bool(np.all(np.frexp(s)[0] == 0.5)) for s in scales)


def _asked_for(target: Target, root: Quantizer, asked: Range, why: str) -> Choice:
    """Return what the target makes of a range that the user asks for."""
    low, high = (float(end) for end in asked)
    told = replace(root, fixed_range=(low, high))
    scale, zero = target.scale(told, np.array([low]), np.array([high]), "minmax")
    return Choice((low, high), replace(root, scale=scale, zero_point=zero), why)


def _alike(one: Quantizer, other: Quantizer) -> bool:
    (scale, zero), (wanted, level) = scale_of(one), scale_of(other)
    return zero == level and abs(scale - wanted) <= _SAME * abs(wanted)


def _all_grids(situation: Situation) -> list[Grid]:
    """Return all grids that activations are put onto, with the noise that is known of each."""
    by_key = {q.key: q for q in situation.plan.quantizers}
    grids: dict[tuple[str, str], Grid] = {}
    of: dict[tuple[str, str], Grid] = {}
    for quantizer in situation.plan.quantizers:
        if not quantizer.active or quantizer.role not in ("input", "activation"):
            continue
        root = quantizer
        while root.follows is not None:
            root = by_key[root.follows]
        grid = of[quantizer.key] = grids.setdefault(root.key, Grid(root))
        grid.users.setdefault(quantizer.tensor, quantizer)
    parts = {row.name: row.parts for row in situation.rows}
    for source in situation.balance.sources:
        share = situation.shares.get(source.name, 0.0)
        if source.kind == "layer":
            own = parts.get(source.layers[0], {})
            share *= 1.0 - own.get("weight", 0.0) - own.get("bias", 0.0)
        for key in source.quantizers:
            if key in of:
                of[key].shares[source.name] = share
    for finding in situation.findings:
        if finding.code in ABOUT_RANGES and finding.gain:
            for grid in grids.values():
                _take_note(grid, finding, finding.gain)
    return list(grids.values())


def _take_note(grid: Grid, finding: Finding, gain: float) -> None:
    """Note what was found out about a grid by taking a cause away."""
    tensor = finding.evidence.get("tensor")
    if tensor in grid.users or (tensor is None and finding.layer == grid.root.node):
        grid.gain = max(grid.gain, gain)
        if finding.code in ABOUT_CLIPPING:
            grid.cut = max(grid.cut, gain)


def _reached(situation: Situation, grid: Grid) -> bool:
    """Tell whether the user can say what the range is to be, and it is worth asking."""
    root, model = grid.root, situation.model
    return (
        root.role in ("input", "activation")
        and (root.fixed_range is None or root.tensor in situation.setting.ranges)
        and root.bits <= 8
        and calibrated(root)[0].size == 1
        and usable(root)
        and all(
            t in model.shapes
            and model.dtypes.get(t) == "float32"
            and not situation.view.is_constant(t)
            for t in (root.tensor, *grid.users)
        )
    )
