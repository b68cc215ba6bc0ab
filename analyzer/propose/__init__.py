# SPDX-License-Identifier: Apache-2.0
"""The propose stage: a situation and a bench go in, simulated sets of remedies come out.

What costs nothing at run time is tried first, then what costs something on top of it.  Which of
the finalists is recommended is decided once they are verified (`choice`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from analyzer.fixes.bias_correction import bias_correction_remedies
from analyzer.fixes.calibration import calibration_remedies
from analyzer.fixes.channel_split import channel_split_remedies
from analyzer.fixes.equalization import equalization_remedies
from analyzer.fixes.outputs import outputs_remedies
from analyzer.fixes.precision import precision_remedies
from analyzer.fixes.ranges import ranges_remedies
from analyzer.fixes.remedy import Remedy
from analyzer.fixes.situation import Situation
from analyzer.fixes.smoothing import smoothing_remedies
from analyzer.fixes.weight_split import weight_split_remedies
from analyzer.propose.bench import Bench
from analyzer.propose.point import Point
from analyzer.propose.search import HELPS, Search
from analyzer.records import Cost

_ANOTHER_MODEL = 0.9  # a model that has to be changed must leave less than this of the noise


def propose(
    situation: Situation,
    bench: Bench,
    *,
    budget: float,
    price: Callable[[Cost], float],
    additivity: float = 1.0,
    late: Callable[[], bool] = lambda: False,
) -> Search:
    """Search for remedies.

    Args:
        situation: the plan as the user asked for it, and what is known about it.
        bench: simulates settings.
        budget: most that the recommended set may cost.
        price: cost -> in the unit of the budget.
        additivity: sum of what sources of noise do alone, over what they do together.
        late: whether the time is up: what is known by then is returned.

    Returns:
        the search, done: its points and attempts.
    """
    search = Search(bench, situation.setting, price, budget, additivity, late)
    point = search.begin()
    point = search.choose(point, calibration_remedies(situation))
    here = _at(situation, bench, point)
    point = search.gather(point, [*outputs_remedies(here), *ranges_remedies(here)])
    for remedies_of in (equalization_remedies, smoothing_remedies):
        here = _at(situation, bench, point)
        remedies = remedies_of(here)
        point = search.choose(point, remedies, helps=_enough(here, remedies))
    here = _at(situation, bench, point)
    paid = [
        *precision_remedies(here),
        *weight_split_remedies(here),
        *channel_split_remedies(here),
    ]
    best = search.spend(point, paid)
    # shifts of biases belong to the plan they were found with, so they come last
    for chosen in [point] if best is point else [point, best]:
        here = _at(situation, bench, chosen)
        remedies = bias_correction_remedies(here)
        search.choose(chosen, remedies, helps=_enough(here, remedies))
    return search


def _at(situation: Situation, bench: Bench, point: Point) -> Situation:
    """Return the situation with the plan of a point; what was measured stays as it was."""
    graph, plan = bench.realizer.quick(point.setting)
    return replace(situation, model=graph, plan=plan, setting=point.setting)


def _enough(situation: Situation, remedies: Sequence[Remedy]) -> float:
    """Return what must be left at most: less where the user has to take another model."""
    foreign = [r for r in remedies if r.edit and r.edit.kind not in situation.target.native_edits]
    return _ANOTHER_MODEL if foreign else HELPS
