# SPDX-License-Identifier: Apache-2.0
"""The balance stage: sources of noise go in, what they do together comes out.

Where isolated errors do not add up to the accumulated one, sources are peeled off: the loudest is
held against all others together, then the next one against what is left, and so on.  With N(A)
the NSR of a set of sources and effect(t) = N(A) - N(t) - N(A without t), it follows that

    N(A) = N(t1) + effect(t1) + N(t2) + effect(t2) + ... + N(rest),

so that nothing stays unexplained but what the rest does not add up to by itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from analyzer.graph.build import slots_by_node
from analyzer.graph.suffix import Unit, altered
from analyzer.graph.trials import Nsr, TrialRuns, run_trials
from analyzer.graph.waterfall import waterfall
from analyzer.records import (
    ADDITIVE,
    Balance,
    Interaction,
    Model,
    QuantPlan,
    Sample,
    Source,
    Step,
)

CLOSED = 0.25  # share of the accumulated error that may stay unexplained
MOST_PEELS = 5
PAIRED = 3  # sources whose pairs are shown


def balance(
    model: Model,
    plan: QuantPlan,
    sources: Sequence[Source],
    accumulated: Mapping[str, float],
    samples: Sequence[Sample],
    *,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
) -> Balance:
    """Hold the sources against the accumulated error of every output.

    Whatever is measured here is scaled, per output, by the accumulated error over all samples
    against that of `samples`, as the sources' own errors are (see `assemble.sources`).  When a
    source is peeled off, its isolated error is the one that the balance adds up, so that the
    effects close it; in a pair both are measured on `samples`.

    Args:
        model: the graph that the plan belongs to.
        plan: calibrated.
        sources: measured, see `assemble.sources`.
        accumulated: float graph output -> NSR with everything quantized, over all samples.
        samples: a few representative ones, for what has to be measured here.
        workers: threads that run side by side.
        step: told the number of runs finished since the last call.
    """
    if not samples:
        return Balance(tuple(sources))
    steps = waterfall(model, plan.quantizers, samples, workers=workers, step=step)
    louder = _ratios(accumulated, steps)
    peels = [
        peel
        for output, nsr in accumulated.items()
        if output in louder and output not in model.slices
        and (peel := _peel(output, nsr, sources)) and peel.is_open
    ]  # fmt: skip
    measuring = _Measuring(model, plan, sources, samples, louder, workers, step)
    interactions = measuring.peeled(peels) if peels else []
    worst = max(peels, key=lambda peel: abs(math.log(peel.additivity)), default=None)
    if worst and not ADDITIVE[0] <= worst.additivity <= ADDITIVE[1]:
        interactions += measuring.pairs(worst)
    return Balance(tuple(sources), tuple(interactions), _scaled(steps, louder))


def counted(interactions: Iterable[Interaction], output: str) -> list[Interaction]:
    """Return the interactions at an output whose effects may be added to the isolated sum."""
    return [i for i in interactions if i.output == output and i.second is None]


def _ratios(accumulated: Mapping[str, float], steps: Sequence[Step]) -> dict[str, float]:
    """Return output -> how much louder all samples are than the few, where that can be told."""
    few = steps[-1].by_output if steps else {}
    ratios = {t: accumulated[t] / n for t, n in few.items() if t in accumulated and n > 0}
    return {t: ratio for t, ratio in ratios.items() if math.isfinite(ratio) and ratio > 0}


def _scaled(steps: Sequence[Step], louder: Mapping[str, float]) -> tuple[Step, ...]:
    """Scale steps so that the last one is the accumulated error over all samples."""
    return tuple(
        replace(s, by_output={t: n * louder.get(t, 1.0) for t, n in s.by_output.items()})
        for s in steps
    )


@dataclass(slots=True)
class _Peel:
    """One output at which sources are taken away one by one.

    Attributes:
        isolated: source -> its isolated NSR here, the loudest first; those that do something.
        rest: NSR of the whole, then behind every source taken away.
    """

    output: str
    accumulated: float
    isolated: Mapping[str, float]
    rest: list[float]

    @property
    def additivity(self) -> float:
        return sum(self.isolated.values()) / self.accumulated

    @property
    def removed(self) -> tuple[str, ...]:
        return self.first(len(self.rest) - 1)

    @property
    def most(self) -> int:
        # what is left when all but one are gone is that one: nothing to hold it against
        return min(MOST_PEELS, len(self.isolated) - 1)

    @property
    def is_open(self) -> bool:
        """Whether more than a quarter of the accumulated error is still unexplained."""
        unexplained = self.rest[-1] - sum(list(self.isolated.values())[len(self.removed) :])
        return abs(unexplained) > CLOSED * self.accumulated

    def first(self, count: int) -> tuple[str, ...]:
        """Return the loudest sources."""
        return tuple(itertools.islice(self.isolated, count))


def _peel(output: str, accumulated: float, sources: Sequence[Source]) -> _Peel | None:
    """Return how to peel at an output; None where nothing can be compared."""
    heard = [s for s in sources if s.by_output.get(output, 0.0) != 0]
    heard.sort(key=lambda source: -source.by_output[output])
    isolated = {s.name: s.by_output[output] for s in heard}
    known = all(map(math.isfinite, (accumulated, *isolated.values())))
    if not known or accumulated <= 0 or len(isolated) < 2:
        return None
    return _Peel(output, accumulated, isolated, [accumulated])


@dataclass(frozen=True, slots=True)
class _Measuring:
    """What runs on few samples have in common.

    Attributes:
        louder: output -> how much louder all samples are than the few.
    """

    model: Model
    plan: QuantPlan
    sources: Sequence[Source]
    samples: Sequence[Sample]
    louder: Mapping[str, float]
    workers: int
    step: Callable[[int], None]

    def peeled(self, peels: Sequence[_Peel]) -> list[Interaction]:
        """Take sources away until what is left adds up, or too many are gone.

        A set of sources that is taken away at several outputs is run once.
        """
        sets = {_name(c): c for p in peels for c in (p.first(k + 1) for k in range(p.most))}
        active = [q for q in self.plan.quantizers if q.active]
        base = slots_by_node(active)
        units = [altered(n, base, dict.fromkeys(self._keys(names))) for n, names in sets.items()]
        runs = TrialRuns(
            self.model, units, self.samples, base=active, workers=self.workers, step=self.step
        )
        going = peels
        while going := [p for p in going if p.is_open and len(p.removed) < p.most]:
            names = {p.output: _name(p.first(len(p.rest))) for p in going}
            found = runs.means(names.values())
            for peel in going:
                peel.rest.append(self._scaled(peel.output, found[names[peel.output]]))
            going = [p for p in going if math.isfinite(p.rest[-1])]
        return [row for peel in peels for row in _rows(peel, len(self.samples))]

    def pairs(self, peel: _Peel) -> list[Interaction]:
        """Run the pairs among the loudest sources of an output, with nothing else on."""
        loudest = peel.first(PAIRED)
        pairs = list(itertools.combinations(loudest, 2))
        quantizers = {q.key: q for q in self.plan.quantizers}
        units = [
            Unit(_name(names), tuple(quantizers[key] for key in self._keys(names)))
            for names in [*((name,) for name in loudest), *pairs]
        ]
        runs = run_trials(self.model, units, self.samples, workers=self.workers, step=self.step)
        nsr = {name: self._scaled(peel.output, found) for name, found in runs.units.items()}
        return [
            Interaction(
                output=peel.output,
                first=first,
                second=second,
                without=(),
                alone=(nsr[first], nsr[second]),
                together=nsr[_name((first, second))],
                samples=len(self.samples),
            )
            for first, second in pairs
        ]

    def _scaled(self, output: str, found: Nsr) -> float:
        return found[output] * self.louder[output]

    def _keys(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Return the quantizers of some sources, in the order of the plan's sources."""
        wanted = set(names)
        return [key for s in self.sources if s.name in wanted for key in s.quantizers]


def _rows(peel: _Peel, samples: int) -> list[Interaction]:
    """Return one interaction for every source that was taken away."""
    return [
        Interaction(
            output=peel.output,
            first=name,
            second=None,
            without=peel.first(position),
            alone=(peel.isolated[name], peel.rest[position + 1]),
            together=peel.rest[position],
            samples=samples,
        )
        for position, name in enumerate(peel.removed)
        if math.isfinite(peel.rest[position + 1])
    ]


def _name(names: Iterable[str]) -> str:
    """Return what the unit of these sources is called, in whatever order they come."""
    return "\n".join(sorted(names))
