# SPDX-License-Identifier: Apache-2.0
"""The choice: verified points go in, proposals with a recommended one come out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analyzer.fixes.remedy import Remedy
from analyzer.graph.ends import Nsr
from analyzer.propose.point import Point, front_of
from analyzer.records import Change, Proposal, TaskScore

FEWEST = 5  # proposals, where so many were simulated
MOST = 8
_CLEARLY = 0.97  # a dearer plan must leave less than this share of a cheaper one's noise
_ANOTHER_MODEL = 0.5  # the same, where the user has to take another model
_SCORE = 0.02  # a score that differs by less, on few samples, is the same
_BETTER = 0.02  # a score that is higher by this is worth its price


@dataclass(frozen=True, slots=True)
class Checked:
    """A point that was verified.

    Attributes:
        point: as the search left it.
        nsr: of the outputs, on the verification samples.
        left: share of the output noise that is left there.
        scores: of the task.
    """

    point: Point
    nsr: Nsr
    left: float
    scores: tuple[TaskScore, ...]

    @property
    def score(self) -> float:
        """Mean over the scores, 1 where there is none."""
        return float(np.mean([s.value for s in self.scores])) if self.scores else 1.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user wants of the recommended plan.

    Attributes:
        budget: most that it may cost.
        goal: "nsr" and the highest allowed at any output, or a score and the lowest allowed;
            None: as good as the budget allows.
        outputs: whole outputs, which the goal is about.
        native: kinds of edits that the quantizer's own config asks for; for any other the user
            has to take another model.
    """

    budget: float
    goal: tuple[str, float] | None
    outputs: Sequence[str]
    native: frozenset[str] = frozenset()

    def needs_model(self, checked: Checked) -> bool:
        """Tell whether the user has to give the quantizer another model."""
        return any(e.kind not in self.native for e in checked.point.setting.edits)

    def fulfilled(self, checked: Checked) -> bool:
        """Tell whether a plan is good enough."""
        assert self.goal is not None, "asked without a goal"
        name, value = self.goal
        if name == "nsr":
            return max(checked.nsr[t] for t in self.outputs if t in checked.nsr) <= value
        return any(s.name == name and s.value >= value for s in checked.scores)


def finalists(points: Sequence[Point], best: Point) -> list[Point]:
    """Return the points worth verifying: the front, the best one, and the next ones behind it.

    Args:
        points: of the search, the starting one first.
        best: that the search would recommend.
    """
    points = [p for p in points if p.remedies and not _idle(p, points[0])]
    front = front_of(points)
    free = [p for p in points if p.is_free]
    chosen = [best, *sorted(free, key=lambda p: p.left)[:1]] if best.remedies else free[:1]
    # spread over the front where it has too many: its ends, and evenly between them
    room = max(MOST - len(chosen), 1)
    picks = np.unique(np.linspace(0, len(front) - 1, min(room, len(front))).round().astype(int))
    chosen += [front[n] for n in picks]
    rest = sorted((p for p in points if p not in front), key=lambda p: p.left)
    found: list[Point] = []
    for twins in (False, True):  # plans that do the same to the outputs only where there is room
        for point in [*chosen, *rest]:
            enough = len(found) >= FEWEST and (twins or point in rest)
            again = any(point.setting == other.setting for other in found)
            same = any((point.price, point.left) == (o.price, o.left) for o in found)
            if not enough and not again and (twins or not same):
                found.append(point)
    return sorted(found[:MOST], key=lambda p: (p.price, -p.left))


def _idle(point: Point, start: Point) -> bool:
    """Tell whether a set does nothing at all."""
    return point.left == 1.0 and point.price >= start.price


def choose(start: Checked, checked: Sequence[Checked], wish: Wish) -> tuple[Checked, str]:
    """Return the plan to recommend, and why; the start where nothing is better.

    Args:
        start: the plan as the user asked for it.
        checked: the finalists.
        wish: budget and goal.
    """
    ranked = sorted(
        [start, *checked],
        key=lambda c: (c.point.price, wish.needs_model(c), c.point.cost.elements, c.left),
    )
    if wish.goal is not None:
        for plan in ranked:
            if wish.fulfilled(plan):
                return plan, "the cheapest plan that reaches the goal"
    best, why = start, "nothing that was tried leaves less noise"
    for plan in ranked:
        if plan.point.price > max(wish.budget, start.point.price):
            continue
        another = wish.needs_model(plan) and not wish.needs_model(best)
        clearly = _ANOTHER_MODEL if another else _CLEARLY
        quieter = (
            plan.left < clearly * best.left and plan.score > max(best.score, start.score) - _SCORE
        )
        if quieter or (plan.score > best.score + _BETTER and plan.left < 1.0):
            best = plan
            why = "the least noise within the budget" if plan.point.price else "free"
    if best is not start:
        why = f"{why}: {_percent(best.left)} of the output noise is left"
    if wish.goal is not None:
        why += "; no plan that was simulated reaches the goal"
    return best, why


def proposals(
    start: Checked, checked: Sequence[Checked], best: Checked, why: str, samples: int,
    points: Sequence[Point], macs: Mapping[str, int] | None = None,
) -> tuple[Proposal, ...]:  # fmt: skip
    """Return the finalists as records, the cheapest first.

    Args:
        start: the plan as the user asked for it.
        checked: the finalists.
        best: the one to recommend.
        why: it is.
        samples: that they were verified on.
        points: all that were simulated.
        macs: layer -> multiply-accumulates: what a change of precision moves.
    """
    front = _front(checked)
    found = []
    for number, plan in enumerate(checked, 1):
        point = plan.point
        found.append(
            Proposal(
                name=f"plan {number}",
                recommended=plan is best,
                changes=_changes(point, points, macs or {}),
                cost=point.cost.macs,
                outputs_before=start.nsr,
                outputs_after=plan.nsr,
                task_before={s.name: s.value for s in start.scores},
                task_after={s.name: s.value for s in plan.scores},
                costs=point.cost,
                left=plan.left,
                predicted=point.left if point.predicted is None else point.predicted,
                samples=samples,
                front=plan in front,
                why=why if plan is best else _why_not(plan, best, front),
                setting=point.setting,
            )
        )
    return tuple(found)


def _front(checked: Sequence[Checked]) -> list[Checked]:
    front: list[Checked] = []
    for plan in sorted(checked, key=lambda c: (c.point.price, c.left)):
        if not front or plan.left < front[-1].left:
            front.append(plan)
    return front


def _why_not(plan: Checked, best: Checked, front: Sequence[Checked]) -> str:
    if plan.left >= 1:
        return "makes the outputs no better"
    if plan not in front:
        return "another plan is no dearer and leaves less noise"
    if plan.point.price > best.point.price:
        return "costs more than it brings, or than the budget allows"
    if plan.point.price < best.point.price:
        return "cheaper, but leaves more noise"
    return "of the same price, and no better at the task"


def _changes(point: Point, points: Sequence[Point], macs: Mapping[str, int]) -> tuple[Change, ...]:
    """Return the remedies as changes; what is known after the first few of them is told."""
    changes = []
    so_far = _simulated((), points)
    for count, remedy in enumerate(point.remedies, 1):
        before, so_far = so_far, _simulated(point.remedies[:count], points)
        cost = _moved(remedy, before, so_far, macs)
        predicted = None
        if so_far is not None and so_far.predicted is not None and so_far.left:
            predicted = _mean(so_far.nsr) * so_far.predicted / so_far.left
        changes.append(
            Change(
                kind=remedy.kind,
                layer=remedy.layers[0] if remedy.layers else "",
                before=remedy.before,
                after=remedy.after,
                cost=cost,
                predicted_nsr=predicted,
                measured_nsr=None if so_far is None else _mean(so_far.nsr),
                layers=remedy.layers,
            )
        )
    return tuple(changes)


def _simulated(remedies: Sequence[Remedy], points: Sequence[Point]) -> Point | None:
    return next((p for p in points if p.remedies == remedies), None)


def _moved(
    remedy: Remedy, before: Point | None, after: Point | None, macs: Mapping[str, int]
) -> float:
    """Return the share of the multiply-accumulates that a remedy moves by itself, 0 if unknown.

    Between sets that were not simulated one after the other several remedies share the difference.
    """
    total = sum(macs.values())
    if remedy.kind == "precision" and total:
        return sum(macs.get(name, 0) for name in remedy.layers) / total
    if before is None or after is None:
        return 0.0
    return max(after.cost.macs - before.cost.macs, 0.0)


def _percent(share: float) -> str:
    """Write a share with three digits."""
    return f"{100 * share:.3g} %"


def _mean(nsr: Mapping[str, float]) -> float:
    return math.fsum(nsr.values()) / len(nsr) if nsr else 0.0
