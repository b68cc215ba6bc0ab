# SPDX-License-Identifier: Apache-2.0
"""The last part of the flow: from where the noise comes from, to what to write into a config."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from analyzer.export import export, own_texts, texts
from analyzer.export.order import Order
from analyzer.fixes.edits import apply_edits
from analyzer.fixes.situation import Situation
from analyzer.graph.ends import Arrays
from analyzer.graph.segments import node_seconds
from analyzer.graph.slices import without_slices
from analyzer.pipeline.stages import Job, Run
from analyzer.pipeline.variants import Variants
from analyzer.propose import propose
from analyzer.propose.bench import Bench, left
from analyzer.propose.choice import Checked, Wish, choose, finalists, proposals
from analyzer.propose.costs import Latency, cost_of, read_latency
from analyzer.propose.point import Point
from analyzer.propose.search import Search
from analyzer.records import Analysis, Cost, Model, Proposal, QuantPlan, Sample, TaskScore
from analyzer.score import Scorer
from analyzer.verify import verify

_VERIFIED = 2  # times as many samples as trials see, where there are so many
_SECONDS = 0.35  # of one core that one sample of one variant may take, times samples
_FEWEST, _MOST = 4, 32  # samples that single remedies are tried on


def advise(
    run: Run, job: Job, analysis: Analysis, visits: Sequence[int]
) -> tuple[Analysis, Mapping[str, str | bytes]]:
    """Search for remedies, verify the best sets of them, and export the recommended one.

    Args:
        run: what the stages have in common.
        job: the calibrated plan, its graph with slices.
        analysis: of it, without proposals.
        visits: analysis samples, the most representative first.

    Returns:
        the analysis with proposals; path below the export folder -> content.
    """
    return _Advice(run, job, analysis, visits).result()


@dataclass(frozen=True)
class _Advice:
    """One plan; every method is one step."""

    run: Run
    job: Job
    analysis: Analysis
    visits: Sequence[int]

    def result(self) -> tuple[Analysis, Mapping[str, str | bytes]]:
        """Do all of it."""
        run, variants = self.run, Variants(self.run, self.job)
        latency = self._latency()
        count = min(_trials(self.job.graph), len(self.visits))
        few = [run.samples(1)[i] for i in self.visits[:count]]
        with run.stage("propose", 0, "run") as step:
            weights = self._weights(few)
            bench = Bench(
                self.job.graph, variants, few, lambda *made: self._cost(made, latency), weights,
                run.workers, step,
            )  # fmt: skip
            search = propose(
                self._situation(variants, few), bench, budget=run.config.budget[0],
                price=self._price, additivity=self._additivity(), late=self._late,
            )  # fmt: skip
        points = finalists(search.points, search.recommended())
        with run.stage("verify", 0, "run") as step:
            wish = Wish(
                run.config.budget[0], run.config.goal, self._outputs(),
                frozenset(variants.target.native_edits),
            )  # fmt: skip
            start, checked, best, why, plan = self._chosen(
                variants, search, points, wish, weights, step
            )
        count = len(self._verified())
        macs = self.job.graph.macs
        found = proposals(start, checked, best, why, count, search.points, macs)
        analysis = replace(
            self.analysis, proposals=found, attempts=tuple(search.attempts),
            timing=dict(run.seconds),
        )  # fmt: skip
        files: Mapping[str, str | bytes] = {}
        shown: Mapping[str, str] = {}
        if run.config.export:
            files = export(self._order(variants, analysis, start, plan), run.config.export)
            shown = texts(files)
        elif plan is not None:
            shown = own_texts(self._order(variants, analysis, start, plan))
        return replace(analysis, exports=shown), files

    def _latency(self) -> Latency | None:
        path = self.run.config.latency
        if path is None:
            return None
        assert self.job.target is not None, "a file has no proposals"
        return read_latency(Path(path), self.job.plan.precision, self.job.target.precisions)

    def _cost(self, made: tuple[Model, QuantPlan], latency: Latency | None) -> Cost:
        assert self.job.target is not None
        return cost_of((self.job.graph, self.job.plan), made, self.job.target, latency)

    def _price(self, cost: Cost) -> float:
        if self.run.config.budget[1] == "ms":
            assert cost.milliseconds is not None, "a budget in milliseconds comes with a table"
            return cost.milliseconds
        return cost.macs

    def _late(self) -> bool:
        limit = self.run.config.time_limit
        return limit is not None and time.perf_counter() - self.run.started > limit

    def _situation(self, variants: Variants, few: Sequence[Sample]) -> Situation:
        analysis, job = self.analysis, self.job
        assert analysis.balance is not None
        ranges = {
            (tensors[0], observer): (float(found.lo), float(found.hi))
            for (tensors, observer, *_), found in job.ranges.items()
            if len(tensors) == 1 and observer is not None and np.ndim(found.lo) == 0
        }
        return Situation(
            variants.source, job.graph, job.plan, variants.target, self.run.config.setting,
            analysis.layers, analysis.balance, analysis.findings, few, ranges,
        )  # fmt: skip

    def _outputs(self) -> list[str]:
        return [o.name for o in self.analysis.outputs if o.slice_of is None]

    def _additivity(self) -> float:
        """Return how many times the noise at the outputs the sources' sum is, on average."""
        found = [o.additivity for o in self.analysis.outputs if o.additivity is not None]
        usable = [x for x in found if np.isfinite(x)]
        return float(np.mean(usable)) if usable else 1.0

    def _weights(self, few: Sequence[Sample]) -> Mapping[str, float] | None:
        """Return how much the noise of every output counts, by what it alone does to the task.

        Half of the weight is the same for all; None where nothing is known.
        """
        names, job = self._outputs(), self.job
        config = replace(self.run.config, labels=None, metric=None)
        if len(names) < 2:
            return None
        scorer = Scorer(job.graph, config, self.run.samples(1), len(names))

        def watch(index: int, plain: Arrays, noisy: Sequence[Arrays]) -> None:
            scorer.watch(index, plain, [{**plain, t: noisy[0][t]} for t in names])

        plans = [(job.graph, job.plan)]
        verify(job.graph, plans, few, workers=self.run.workers, watch=watch)
        lost = [1.0 - _mean(scorer.scores(number)) for number in range(len(names))]
        if sum(lost) <= 0:
            return None
        even = 1 / len(names)
        return {t: (even + x / sum(lost)) / 2 for t, x in zip(names, lost, strict=True)}

    def _verified(self) -> list[int]:
        """Return the numbers of the samples that finalists are run on."""
        count = min(_VERIFIED * _trials(self.job.graph), len(self.visits))
        return sorted(self.visits[:count])

    def _chosen(
        self,
        variants: Variants,
        search: Search,
        points: Sequence[Point],
        wish: Wish,
        weights: Mapping[str, float] | None,
        step: Callable[[int], None],
    ) -> tuple[Checked, list[Checked], Checked, str, tuple[Model, QuantPlan] | None]:
        """Verify points and choose one, which is calibrated anew, as the quantizer does it.

        Returns:
            the start, all points, the chosen one of them (or the start), why, and its plan, with
            the graph it belongs to (None for the start).
        """
        made = [variants.quick(point.setting) for point in points]
        start, *checked = self._checked(variants, search.points[0], points, made, weights, step)
        exact: dict[int, tuple[Model, QuantPlan]] = {}
        best, why = choose(start, checked, wish)
        while best is not start and (place := checked.index(best)) not in exact:
            exact[place] = variants.exact(best.point.setting)
            _, checked[place] = self._checked(
                variants, start.point, [best.point], [exact[place]], weights, step
            )
            best, why = choose(start, checked, wish)
        return start, checked, best, why, None if best is start else exact[checked.index(best)]

    def _checked(
        self,
        variants: Variants,
        start: Point,
        points: Sequence[Point],
        made: Sequence[tuple[Model, QuantPlan]],
        weights: Mapping[str, float] | None,
        step: Callable[[int], None],
    ) -> list[Checked]:
        """Verify points, the start in front of them."""
        run, job, numbers = self.run, self.job, self._verified()
        plans = [(job.graph, job.plan), *((variants.sliced(g), p) for g, p in made)]
        scorer = Scorer(job.graph, run.config, run.samples(1), len(plans))
        found = verify(
            job.graph,
            plans,
            [run.samples(1)[n] for n in numbers],
            workers=run.workers,
            step=step,
            watch=lambda index, plain, noisy: scorer.watch(numbers[index], plain, noisy),
        )
        return [
            Checked(point, one.nsr, left(one.nsr, found[0].nsr, weights), scorer.scores(number))
            for number, (point, one) in enumerate(zip([start, *points], found, strict=True))
        ]

    def _order(
        self,
        variants: Variants,
        analysis: Analysis,
        start: Checked,
        made: tuple[Model, QuantPlan] | None,
    ) -> Order:
        """Return the recommended plan to be written, or the asked for where none is better."""
        as_asked = Proposal("as asked", False, (), 0.0, start.nsr, start.nsr)
        chosen = next((p for p in analysis.proposals if p.recommended), as_asked)
        setting = chosen.setting if chosen is not as_asked else self.run.config.setting
        graph, plan = made or variants.exact(setting)
        own = [e for e in setting.edits if e.kind not in variants.target.native_edits]
        source = apply_edits(variants.source, own)
        chosen = replace(chosen, setting=setting)
        return Order(
            analysis, chosen, self.run.path, source, without_slices(graph), plan, variants.target
        )


def _trials(model: Model) -> int:
    """Return how many samples variants of a model of this size are run on."""
    seconds = sum(node_seconds(model, node) for node in model.proto.graph.node)
    return min(max(_FEWEST, int(_SECONDS / max(seconds, 1e-9))), _MOST)


def _mean(scores: Sequence[TaskScore]) -> float:
    return sum(s.value for s in scores) / len(scores) if scores else 1.0
