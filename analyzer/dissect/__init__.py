# SPDX-License-Identifier: Apache-2.0
"""The dissect stage: the worst rows taken apart into weight, input, output, bias and channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from analyzer.dissect.looks import show
from analyzer.dissect.prices import Alignment
from analyzer.dissect.rows import channels_of, parts_of, row_of
from analyzer.graph.build import slots_by_node
from analyzer.graph.suffix import Unit
from analyzer.graph.trials import Nsr, run_trials
from analyzer.graph.view import GraphView
from analyzer.records import Model, QuantPlan, Sample, Source
from analyzer.targets.base import Target

SHARE = 0.99  # of the noise of groups that is looked at


@dataclass(frozen=True, slots=True)
class Dissection:
    """What the worst rows consist of.

    Attributes:
        parts: layer -> see `LayerError.parts`.
        channels: layer -> see `LayerError.channels`.
        prices: name of a source -> see `Source.alignment_price`.
    """

    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    channels: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    prices: Mapping[str, float] = field(default_factory=dict)


def dissect(
    model: Model,
    plan: QuantPlan,
    layers: Sequence[str],
    groups: Sequence[Source],
    samples: Sequence[Sample],
    *,
    target: Target | None = None,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
) -> Dissection:
    """Take rows apart.

    Args:
        model: the graph that the plan belongs to.
        plan: calibrated.
        layers: the worst rows; those without an active quantizer have nothing to take apart.
        groups: the worst sources with a scale that several tensors share.
        samples: a few representative ones; none: nothing is measured.
        target: whose rules give a tensor a scale of its own; None: the plan was read from a file.
        workers: threads that run side by side.
        step: told the number of runs finished since the last call.
    """
    if not samples:
        return Dissection()
    view = GraphView(model.proto.graph)
    slots = slots_by_node(plan.quantizers)
    rows = [row_of(model, view, n, slots[n]) for n in layers if n in slots and n in view.nodes]
    shared = [source for source in groups if _shares_scale(plan, source)]
    aligned = [Alignment(view, plan, source, target) for source in _loud(shared)]
    looks = [look for row in rows for look in row.looks]
    looks += [look for alignment in aligned for look in alignment.looks.values()]
    show(model, looks, samples, workers=workers, step=step)
    apart = {a.name: unit for a in aligned if (unit := a.apart()) is not None}
    moved = [a for a in aligned if a.name in apart and a.moved(apart[a.name])]
    units = [unit for row in rows for unit in row.units.values()]
    units += [unit for a in moved for unit in (a.shared, apart[a.name])]
    found = _trials(model, units, samples, workers, step)
    # where no tensor asks for another scale, nothing is paid
    prices = dict.fromkeys(apart, 0.0)
    for a in moved:
        price = _difference(found[a.shared.name], found[apart[a.name].name])
        if price is None:
            del prices[a.name]
        else:
            prices[a.name] = price
    return Dissection(
        {
            row.layer: parts_of(row, {p: found[unit.name] for p, unit in row.units.items()})
            for row in rows
        },
        {row.layer: channels_of(row) for row in rows},
        prices,
    )


def _shares_scale(plan: QuantPlan, source: Source) -> bool:
    grouped = {q.key for q in plan.quantizers if q.group and q.active}
    return not grouped.isdisjoint(source.quantizers)


def _loud(sources: Sequence[Source]) -> list[Source]:
    """Return the loudest that make up 99 % of the noise of all, and those not measured.

    What the others pay for alignment is hardly more than what noise they make.
    """
    noise = {s.name: s.nsr for s in sources if s.nsr is not None and math.isfinite(s.nsr)}
    total, reached = math.fsum(noise.values()), 0.0
    quiet = set()
    for name in sorted(noise, key=lambda n: -noise[n]):
        if reached >= SHARE * total:
            quiet.add(name)
        reached += noise[name]
    return [s for s in sources if s.name not in quiet]


def _trials(
    model: Model,
    units: Sequence[Unit],
    samples: Sequence[Sample],
    workers: int,
    step: Callable[[int], None],
) -> dict[str, Nsr]:
    """Return unit -> whole graph output -> NSR, mean over the samples."""
    if not units:
        return {}
    trials = run_trials(model, units, samples, workers=workers, step=step)
    return {
        name: {t: nsr for t, nsr in by_output.items() if t not in model.slices}
        for name, by_output in trials.units.items()
    }


def _difference(before: Nsr, after: Nsr) -> float | None:
    """Return the mean over outputs, None where none is finite."""
    pairs = [(before[t], after[t]) for t in before]
    known = [a - b for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
    return math.fsum(known) / len(known) if known else None
