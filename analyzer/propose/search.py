# SPDX-License-Identifier: Apache-2.0
"""The search: candidates go in, sets of them that were simulated together come out.

Remedies that cost nothing come first.  On top of them those that cost something are tried one by
one, an integer program puts sets together for a ladder of budgets, the sets are simulated, what
is left to gain is tried again on top of the best one, and what did not help is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from analyzer.fixes.remedy import Remedy, applied
from analyzer.propose.bench import Bench, Effect
from analyzer.propose.knapsack import best_set
from analyzer.propose.point import Point, knee
from analyzer.records import Attempt, Cost, Setting

MOST_SPLITS = 2  # layers
_SIMULATED = 48  # remedies that are simulated one by one: the loudest of all
_REPAIRS = 4
_LEAST = 0.01  # of the budget: what a remedy counts as costing when noise per price is ranked
_LADDER = (0.125, 0.25, 0.5, 1.0, 2.0)  # shares of the budget that sets are put together for
_SECOND_ROUND = 24  # candidates that are tried again on top of a set
_ROUNDS = 2
HELPS = 0.99  # a free remedy must leave less than this
_WORTHLESS = 0.997  # a set without the remedy leaves at most 1 / this of the set's noise
_TRAFFIC = 0.02  # price of moving all elements, in the price of moving all multiply-accumulates


@dataclass
class Search:
    """One search.

    Attributes:
        bench: simulates.
        start: what the user asked for.
        price: cost -> in the unit of the budget.
        budget: that the recommended plan must keep.
        additivity: sum of what sources of noise do alone, over what they do together.
        late: whether the time is up.
        points: that were simulated, the starting one first.
        attempts: all simulations.
    """

    bench: Bench
    start: Setting
    price: Callable[[Cost], float]
    budget: float
    additivity: float = 1.0
    late: Callable[[], bool] = lambda: False
    points: list[Point] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)

    def begin(self) -> Point:
        """Simulate the plan as the user asked for it."""
        (nsr,) = self.bench.whole([self.start])
        assert nsr is not None, "the plan was simulated before"
        cost = self.bench.cost_of(self.start)
        # in milliseconds the plan itself has a price: no budget is below it
        self.points.append(Point((), self.start, cost, self.price(cost), nsr, 1.0, None))
        self.budget = max(self.budget, self.points[0].price)
        return self.points[0]

    def choose(self, base: Point, remedies: Sequence[Remedy], *, helps: float = HELPS) -> Point:
        """Try remedies of which one excludes the others.

        Returns:
            the best one, or the base where none leaves less than `helps` of its noise.
        """
        found = self._together(base, [(r,) for r in remedies], [None] * len(remedies))
        return _better(base, found, helps)

    def gather(self, base: Point, remedies: Sequence[Remedy]) -> Point:
        """Try free remedies one by one, then ever fewer of the helpful ones together."""
        if not remedies or self.late():
            return base
        effects = self._singles(base, remedies)
        helpful = [n for n in sorted(effects, key=lambda n: effects[n].sure) if _helps(effects[n])]
        sets = [helpful[: max(1, len(helpful) // part)] for part in (1, 2, 4) if helpful]
        sets = [list(s) for s in dict.fromkeys(map(tuple, map(_without_rivals(remedies), sets)))]
        chosen = [tuple(remedies[n] for n in s) for s in sets]
        shares = {n: effect.sure for n, effect in effects.items()}
        found = self._together(base, chosen, [_product(shares, s) for s in sets])
        return _better(base, found, HELPS)

    def spend(self, base: Point, remedies: Sequence[Remedy]) -> Point:
        """Put sets together for a ladder of budgets; return the one to recommend."""
        rest = self._loudest(base, remedies)
        point = base
        for _ in range(_ROUNDS):
            if not rest or not point.left or self.late():
                break
            effects = self._singles(point, [remedy for remedy, _ in rest])
            louder = base.left / point.left  # the same noise is more of what is left
            shares = {}
            for n, effect in effects.items():
                noise = rest[n][1]
                shares[n] = effect.sure if noise is None else effect.believed(noise * louder)
            self._ladder(point, [remedy for remedy, _ in rest], shares)
            best = self.recommended()
            if best is point:
                break
            taken = {layer for r in best.remedies if r.kind == "precision" for layer in r.layers}
            ranked = sorted(shares, key=shares.__getitem__)
            rest = [rest[n] for n in ranked if not taken.intersection(rest[n][0].layers)]
            rest, point = rest[:_SECOND_ROUND], best
        return self.repair(self.recommended())

    def _loudest(
        self, base: Point, remedies: Sequence[Remedy]
    ) -> list[tuple[Remedy, float | None]]:
        """Return the remedies that are about the most noise, or about the most for its price.

        Each with the share of the base's noise that just what it changes makes; None where that
        cannot be told because it changes the graph.
        """
        if not remedies or self.late():
            return []
        others = {str(n): applied(base.setting, [r]) for n, r in enumerate(remedies)}
        alone = {int(n): nsr for n, nsr in self.bench.alone(base.setting, others).items()}
        over = max(self.additivity, 1.0)
        loud = {n: self.bench.left(nsr, base.nsr) / over for n, nsr in alone.items()}
        least = max(_LEAST * self._room, 1e-9)
        dense = {n: loud[n] / (self._priced(base, remedies[n]) + least) for n in loud}
        first = sorted(loud, key=lambda n: -loud[n])[: _SIMULATED // 2]
        cheap = [n for n in sorted(dense, key=lambda n: -dense[n]) if n not in first]
        taken = [*first, *cheap[: _SIMULATED - len(first)]]
        edits = [n for n, remedy in enumerate(remedies) if n not in loud and remedy.edit]
        return [(remedies[n], loud.get(n)) for n in sorted([*taken, *edits])]

    def repair(self, point: Point) -> Point:
        """Drop the remedies without which the noise is no higher; say which one hurt."""
        for _ in range(_REPAIRS):
            if len(point.remedies) < 2 or self.late():
                break
            alone = {n: [r for m, r in enumerate(point.remedies) if m != n]
                     for n in range(len(point.remedies))}  # fmt: skip
            settings = {str(n): applied(self.start, kept) for n, kept in alone.items()}
            found = self.bench.around(point.setting, settings)
            worth = {int(n): effect.share for n, effect in found.items()}
            idle = sorted((n for n in worth if worth[n] < 1 / _WORTHLESS), key=worth.__getitem__)
            for gone in [idle, idle[:1]] if len(idle) > 1 else [idle]:
                kept = tuple(r for m, r in enumerate(point.remedies) if m not in gone)
                smaller = self._together(self.points[0], [kept], [None]) if gone else []
                if smaller and smaller[0].left <= point.left / _WORTHLESS:
                    for n in gone:
                        self._note_dropped(point, point.remedies[n], worth[n])
                    point = smaller[0]
                    break
            else:
                return point
        return point

    def recommended(self) -> Point:
        """Return the point to recommend so far."""
        return knee(self.points, self.budget) or self.points[0]

    @property
    def _room(self) -> float:
        """What may be spent on top of the plan as the user asked for it."""
        return self.budget - self.points[0].price

    def _ladder(
        self,
        base: Point,
        remedies: Sequence[Remedy],
        shares: Mapping[int, float],
    ) -> list[Point]:
        """Simulate the best sets for several budgets on top of `base`."""
        numbers = sorted(shares)
        gains = [shares[n] for n in numbers]
        costs = [self._priced(base, remedies[n]) for n in numbers]
        limits = _limits([remedies[n] for n in numbers], base)
        sets: dict[tuple[int, ...], None] = {}
        for part in _LADDER:
            room = self.points[0].price + part * self._room - base.price
            if room >= 0:
                taken = best_set(gains, costs, limits, room)
                sets[tuple(numbers[n] for n in taken)] = None
        wanted = [s for s in sets if s]
        chosen = [tuple(remedies[n] for n in s) for s in wanted]
        return self._together(base, chosen, [_product(shares, s) for s in wanted])

    def _singles(self, base: Point, remedies: Sequence[Remedy]) -> dict[int, Effect]:
        """Return number of a remedy -> what it does by itself on top of a set."""
        others = {str(n): applied(base.setting, [r]) for n, r in enumerate(remedies)}
        found = self.bench.around(base.setting, others)
        effects = {int(n): effect for n, effect in found.items()}
        for n, effect in sorted(effects.items(), key=lambda item: item[1].share):
            verdict = "helps" if effect.sure < 1 else "hurts" if effect.sure > 1 else "idle"
            self._note(base, [remedies[n]], None, effect.share, verdict, effect.samples)
        return effects

    def _priced(self, base: Point, remedy: Remedy) -> float:
        """Return what a remedy costs on top of a set; moving values is not for nothing."""
        cost = self.bench.cost_of(applied(base.setting, [remedy]))
        moved = max(cost.elements - base.cost.elements, 0.0)
        return max(self.price(cost) - base.price, 0.0) + _TRAFFIC * self._room * moved

    def _together(
        self,
        base: Point,
        sets: Sequence[tuple[Remedy, ...]],
        predictions: Sequence[float | None],
    ) -> list[Point]:
        """Simulate sets of remedies on top of `base`."""
        if not sets or self.late():
            return []
        settings = [applied(base.setting, remedies) for remedies in sets]
        found = []
        for remedies, setting, nsr, share in zip(
            sets, settings, self.bench.whole(settings), predictions, strict=True
        ):
            if nsr is None:
                continue
            cost, of_all = self.bench.cost_of(setting), self.bench.left(nsr, self.points[0].nsr)
            predicted = None if share is None else share * base.left
            point = Point(
                (*base.remedies, *remedies), setting, cost, self.price(cost), nsr, of_all,
                predicted,
            )  # fmt: skip
            self.points.append(point)
            found.append(point)
            verdict = "better" if of_all < base.left else "worse than without"
            self._note(
                base, remedies, predicted, of_all, verdict, len(self.bench.samples), of_start=cost
            )
        return found

    def _note(
        self,
        base: Point,
        remedies: Iterable[Remedy],
        predicted: float | None,
        measured: float,
        verdict: str,
        samples: int,
        *,
        of_start: Cost | None = None,
    ) -> None:
        titles = tuple(r.title for r in remedies)
        number = len(self.attempts) + 1
        on = "start" if of_start is not None else base_name(base)
        self.attempts.append(
            Attempt(f"run {number}", titles, on, predicted, measured, verdict, samples, of_start)
        )

    def _note_dropped(self, point: Point, remedy: Remedy, without: float) -> None:
        verdict = "dropped: hurts" if without < _WORTHLESS else "dropped: idle"
        samples = len(self.bench.samples)
        self._note(point, [remedy], None, 1 / without if without else math.inf, verdict, samples)


def base_name(point: Point) -> str:
    """Return how a set is called in the log."""
    if not point.remedies:
        return "start"
    return " + ".join(r.title for r in point.remedies[:3]) + (
        f" + {len(point.remedies) - 3} more" if len(point.remedies) > 3 else ""
    )


def _better(base: Point, found: Sequence[Point], helps: float) -> Point:
    """Return the best point, or the base where none leaves less than `helps` of its noise."""
    best = min(found, key=lambda p: p.left, default=base)
    return best if best.left < helps * base.left else base


def _product(shares: Mapping[int, float], numbers: Iterable[int]) -> float:
    """Return what should be left with several remedies, if each does what it does alone."""
    return math.prod(shares[number] for number in numbers)


def _helps(effect: Effect) -> bool:
    return effect.sure < HELPS


def _without_rivals(remedies: Sequence[Remedy]) -> Callable[[Sequence[int]], list[int]]:
    """Return what leaves out remedies that are about what an earlier one is about."""

    def chosen(numbers: Sequence[int]) -> list[int]:
        seen: set[tuple[str, str]] = set()
        kept = []
        for number in numbers:
            remedy = remedies[number]
            about = {(remedy.kind, name) for name in (*remedy.layers, *remedy.ranges)}
            if not about & seen or not about:
                kept.append(number)
                seen |= about
        return kept

    return chosen


def _limits(remedies: Sequence[Remedy], base: Point) -> list[tuple[set[int], int]]:
    """Return sets of remedies of which only so many can be taken on top of a set.

    One of a kind per layer; and few splits in all: every one adds two layers and two roundings.
    """
    by_layer: dict[tuple[str, str], set[int]] = {}
    for number, remedy in enumerate(remedies):
        for layer in (*remedy.layers, *remedy.ranges):
            by_layer.setdefault((remedy.kind, layer), set()).add(number)
    limits = [(group, 1) for group in by_layer.values() if len(group) > 1]
    splits = {n for n, r in enumerate(remedies) if r.kind == "weight_split"}
    done = sum(len(r.layers) for r in base.remedies if r.kind == "weight_split")
    pairs = {n for n in splits if len(remedies[n].layers) > MOST_SPLITS - done}
    # a pair is one remedy: beside it there is room for none
    room = 1 if len(pairs) < len(splits) and _has_pairs(remedies) else MOST_SPLITS - done
    return [*limits, (pairs, 0), (splits, max(room, 0))]


def _has_pairs(remedies: Sequence[Remedy]) -> bool:
    return any(r.kind == "weight_split" and len(r.layers) > 1 for r in remedies)
