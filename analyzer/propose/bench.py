# SPDX-License-Identifier: Apache-2.0
"""The bench: settings go in, what is left of the output noise comes out, simulated."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from analyzer.errors import ModelError, TargetError
from analyzer.graph.ends import Nsr, run_ends
from analyzer.graph.suffix import Unit, difference, grid_of
from analyzer.graph.trials import mean_nsr, run_trials
from analyzer.records import Cost, Model, Quantizer, QuantPlan, Sample, Setting

_LEAST = 1e-6
_MOST_EXPECTED = 0.9  # of the noise goes with one variant
_DOUBT = 0.005  # standard error that is always there
_ONE_SAMPLE = 0.1  # standard error of the logarithm where there is only one sample
_UNCHANGED = 0.998  # of the noise that is left after half of the samples: not worth the others


class Realizer(Protocol):
    """Turns settings into plans (see `analyzer/pipeline/variants.py`)."""

    def expect(self, settings: Iterable[Setting]) -> None:
        """Get ready for settings that will be asked for."""

    def quick(self, setting: Setting) -> tuple[Model, QuantPlan]:
        """Return graph and plan, with ranges that were found before."""

    def exact(self, setting: Setting) -> tuple[Model, QuantPlan]:
        """Return graph and plan as the quantizer makes them."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What a variant does.

    Attributes:
        share: of the base's noise that is left, by the means over the samples.
        usual: the same on a usual sample (geometric mean): one loud sample does not decide.
        error: standard error of the logarithm of `usual`.
        samples: that it was seen on.
    """

    share: float
    usual: float
    error: float
    samples: int

    @property
    def sure(self) -> float:
        """`usual` as far as it is not chance: nearer to 1 by its standard error.

        1 where the means say otherwise.
        """
        if self.usual < 1:
            return min(self.usual * math.exp(self.error), 1.0) if self.share < 1 else 1.0
        return max(self.usual * math.exp(-self.error), 1.0) if self.share > 1 else 1.0

    def believed(self, noise: float) -> float:
        """Return the share of the noise that is left, by what was seen and what was to expect.

        The difference of two noisy runs of few samples is mostly chance.  That a variant takes
        some noise away which was measured by itself is the expectation; what was seen moves it as
        far as it is surer (normal distributions of the logarithms).

        Args:
            noise: share of the base's noise that just the changed quantizers make.
        """
        expected = math.log(1.0 - min(noise, _MOST_EXPECTED))
        trust = (0.5 * abs(expected) + _DOUBT) ** -2
        seen = max(self.error, _DOUBT) ** -2 if self.samples > 1 else _ONE_SAMPLE**-2
        usual = math.log(max(self.usual, _LEAST)) if math.isfinite(self.usual) else 10.0
        return math.exp((usual * seen + expected * trust) / (seen + trust))


@dataclass(frozen=True)
class Bench:
    """What settings are simulated with.

    Attributes:
        reference: the FP32 graph with the outputs, and slices of them, that are looked at.
        realizer: makes plans of settings.
        samples: of the analysis data, the most representative first.
        cost: graph and plan -> what it costs beyond the plan that is to become better.
        weights: output -> how much its noise counts; None: all the same.
        workers: threads that run side by side.
        step: told the number of runs finished since the last call.
    """

    reference: Model
    realizer: Realizer
    samples: Sequence[Sample]
    cost: Callable[[Model, QuantPlan], Cost]
    weights: Mapping[str, float] | None = None
    workers: int = 1
    step: Callable[[int], None] = lambda n: None
    costs: dict[str, Cost] = field(default_factory=dict)

    def whole(self, settings: Sequence[Setting]) -> list[Nsr | None]:
        """Run whole models on all samples; None where the target refuses the setting."""
        plans = [self._plan(setting) for setting in settings]
        ready = [plan for plan in plans if plan is not None]
        rows = run_ends(self.reference, ready, self.samples, workers=self.workers, step=self.step)
        found = iter([mean_nsr(of_plan) for of_plan in rows])
        return [None if plan is None else next(found) for plan in plans]

    def around(
        self, base: Setting, others: Mapping[str, Setting], *, samples: int | None = None
    ) -> dict[str, Effect]:
        """Run variants of one setting, on the parts of the model where they differ from it.

        Args:
            base: what they are variants of.
            others: name -> variant.  Those that turn out as the base does, or that the target
                refuses, are not in the result.
            samples: how many to use, None for all; a variant that does nothing good on half of
                them does not see the others.
        """
        graph, quantizers, units, foreign = self._variants(base, others)
        used = self.samples[:samples]
        trials = run_trials(
            graph, units, used, base=quantizers, promising=self._promising,
            workers=self.workers, step=self.step,
        )  # fmt: skip
        found = {
            n: self._effect(rows, trials.base_by_sample) for n, rows in trials.by_sample.items()
        }
        if foreign:
            plans = list(foreign.values())
            rows = run_ends(self.reference, plans, used, workers=self.workers, step=self.step)
            for name, of_plan in zip(foreign, rows, strict=True):
                found[name] = self._effect(of_plan, trials.base_by_sample)
        return found

    def alone(self, base: Setting, others: Mapping[str, Setting]) -> dict[str, Nsr]:
        """Return the noise, on one sample, of just the quantizers that a variant would change.

        All others are off.  Noise by itself is steady where the difference of two noisy runs is
        not: this tells which variants are worth simulating.
        """
        graph, quantizers, units, _ = self._variants(base, others)
        own = []
        for unit in units:
            made = {q.key: grid_of(q) for q in unit.quantizers}
            nodes = set(unit.nodes)
            old = [q for q in quantizers if q.node in nodes and made.get(q.key) != grid_of(q)]
            if old:
                own.append(Unit(unit.name, tuple(old)))
        trials = run_trials(graph, own, self.samples[:1], workers=self.workers, step=self.step)
        return trials.units

    def _variants(
        self, base: Setting, others: Mapping[str, Setting]
    ) -> tuple[Model, list[Quantizer], list[Unit], dict[str, tuple[Model, QuantPlan]]]:
        """Return the base's graph and quantizers; variants on that graph, and on others."""
        self.realizer.expect(others.values())
        graph, plan = self.realizer.quick(base)
        units: list[Unit] = []
        foreign: dict[str, tuple[Model, QuantPlan]] = {}
        mixed, known = mixtures(plan), set()
        for name, setting in others.items():
            made = self._plan(setting)
            if made is None or mixtures(made[1]) - mixed:
                continue
            if made[0] is not graph:
                foreign[name] = made
                continue
            unit = difference(name, plan.quantizers, made[1].quantizers)
            same = (unit.bare, *((q.key, grid_of(q)) for q in unit.quantizers))
            if unit.nodes and same not in known:
                known.add(same)
                units.append(unit)
        return graph, [q for q in plan.quantizers if q.active], units, foreign

    def _effect(self, rows: Sequence[Nsr], base: Sequence[Nsr]) -> Effect:
        """Return what became of the base's noise on the samples a variant has seen."""
        seen = base[: len(rows)]
        share = self.left(mean_nsr(rows), mean_nsr(seen))
        each = [self.left(row, plain) for row, plain in zip(rows, seen, strict=True)]
        logs = [math.log(max(x, _LEAST)) for x in each if math.isfinite(x)]
        if len(logs) < len(each):
            return Effect(share, share, 0.0, len(each))
        error = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else 0.0
        return Effect(share, math.exp(statistics.fmean(logs)), error, len(each))

    def left(self, after: Nsr, before: Nsr) -> float:
        """Return the share of the output noise that is left."""
        return left(after, before, self.weights)

    def _promising(self, base: Sequence[Nsr], unit: Sequence[Nsr]) -> bool:
        return self.left(mean_nsr(unit), mean_nsr(base)) < _UNCHANGED

    def _plan(self, setting: Setting) -> tuple[Model, QuantPlan] | None:
        try:
            made = self.realizer.quick(setting)
        except (ModelError, TargetError):  # an edit need not fit behind the others
            return None
        self.costs[repr(setting)] = self.cost(*made)
        return made

    def cost_of(self, setting: Setting) -> Cost:
        """Return what a setting costs that was simulated."""
        return self.costs[repr(setting)]


def mixtures(plan: QuantPlan) -> set[tuple[str, str]]:
    """Return the slots whose quantizer has the scale of one with another number of bits.

    A quantizer that gets the steps of a finer one covers a small part of its values.
    """
    bits = {q.key: q.bits for q in plan.quantizers}
    return {
        q.key
        for q in plan.quantizers
        if q.active and q.role != "bias" and q.follows and bits.get(q.follows, q.bits) != q.bits
    }


def left(after: Nsr, before: Nsr, weights: Mapping[str, float] | None = None) -> float:
    """Return the share of the output noise that is left, mean over the outputs.

    Outputs that had none do not count, unless they have some now.

    Args:
        after: output -> NSR.
        before: of the plan it is held against.
        weights: output -> how much it counts; None: all the same.
    """
    total = weight = 0.0
    for output, noise in before.items():
        now, counts = after[output], 1.0 if weights is None else weights.get(output, 0.0)
        if math.isnan(now) or (noise == 0 and now > 0):
            return math.inf
        if noise > 0 and not math.isinf(noise):
            total += counts * now / noise
            weight += counts
    return total / weight if weight else 1.0
