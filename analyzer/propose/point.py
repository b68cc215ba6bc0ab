# SPDX-License-Identifier: Apache-2.0
"""A point: a set of remedies that was simulated together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analyzer.fixes.remedy import Remedy
from analyzer.graph.ends import Nsr
from analyzer.records import Cost, Setting

_WORTH = 0.97  # a dearer plan must leave less than this share of a cheaper one's noise


@dataclass(frozen=True, slots=True)
class Point:
    """One set of remedies.

    Attributes:
        remedies: on top of what the user asked for, in this order.
        setting: with all of them.
        cost: beyond the plan as the user asked for it.
        price: in the unit of the budget.
        nsr: of the outputs.
        left: share of the output noise that is left of the plan as the user asked for it.
        predicted: `left` as foretold before the set was simulated; None: not foretold.
    """

    remedies: tuple[Remedy, ...]
    setting: Setting
    cost: Cost
    price: float
    nsr: Nsr
    left: float
    predicted: float | None = None

    @property
    def is_free(self) -> bool:
        """Whether it costs nothing at run time."""
        return self.cost.macs == 0 and self.cost.elements == 0 and self.cost.nodes == 0

    @property
    def has_edits(self) -> bool:
        """Whether the model itself is changed."""
        return bool(self.setting.edits)


def front_of(points: Iterable[Point]) -> list[Point]:
    """Return the points that no other one is both cheaper and better than, the cheapest first."""
    ranked = sorted(points, key=lambda p: (p.price, p.left, len(p.remedies)))
    front: list[Point] = []
    for point in ranked:
        if not front or point.left < front[-1].left:
            front.append(point)
    return front


def knee(points: Sequence[Point], budget: float) -> Point | None:
    """Return the point to recommend: the best one within the budget, or one nearly as good.

    Going from the cheapest to the dearest, a step is taken where it leaves clearly less noise.
    """
    best: Point | None = None
    for point in front_of(p for p in points if p.price <= budget):
        if best is None or point.left < _WORTH * best.left:
            best = point
    return best
