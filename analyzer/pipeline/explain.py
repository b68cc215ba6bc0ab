# SPDX-License-Identifier: Apache-2.0
"""The second half of the flow: from what one plan does to the tensors, to where and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from analyzer.assemble import (
    dissected,
    layers,
    outputs,
    provenance,
    sources,
    with_findings,
)
from analyzer.balance import balance
from analyzer.diagnose import diagnose
from analyzer.diagnose.case import Case
from analyzer.dissect import dissect
from analyzer.dissect.profiles import profiles
from analyzer.graph.families import sources_of
from analyzer.graph.network import network_of
from analyzer.graph.trials import affordable
from analyzer.graph.view import GraphView
from analyzer.memory import peak_rss_bytes
from analyzer.pipeline.stages import Job, Run
from analyzer.probe import MOST_SAMPLES, Isolated, parts_of, probe, units_for, units_of
from analyzer.records import (
    Analysis,
    Balance,
    LayerError,
    Sample,
    Source,
    TaskScore,
    TensorProfile,
    loudness,
)
from analyzer.simulate import Simulation

WORST = 10  # rows, and groups, that are taken apart


def explain(
    run: Run, job: Job, simulation: Simulation, scores: tuple[TaskScore, ...]
) -> tuple[Analysis, list[int]]:
    """Probe one plan, book its noise, take the worst apart and say why.

    Args:
        run: what the stages have in common.
        job: a calibrated plan.
        simulation: of that plan, on the analysis samples.
        scores: how well it does the task.

    Returns:
        the analysis, without proposals; the samples, the most representative first.
    """
    explaining = _Explaining(run, job, simulation)
    visits = explaining.visits()
    return explaining.analysis(scores, visits), visits


@dataclass(frozen=True, slots=True)
class _Explaining:
    """One plan; every method is one stage."""

    run: Run
    job: Job
    simulation: Simulation

    def analysis(self, scores: tuple[TaskScore, ...], visits: Sequence[int]) -> Analysis:
        """Do all of it, and return the result."""
        job, simulation = self.job, self.simulation
        booked = sources_of(GraphView(job.graph.proto.graph), job.plan)
        isolated, units = self._probe(booked, visits)
        measured = sources(job.graph, booked, units, isolated, simulation, visits)
        few = [self.run.samples(1)[i] for i in visits[: affordable(job.graph)]]
        books = self._balance(measured, few)
        rows = layers(job.graph, job.plan, simulation, isolated)
        fewer = few[: (len(few) + 1) // 2]
        rows, books, looks = self._dissect(rows, books, fewer)
        ends = outputs(job.graph, simulation, books)
        case = Case(
            job.graph, job.plan, job.target, rows, ends, books, few,
            self.run.samples(0) if job.target else None, job.findings,
        )  # fmt: skip
        with self.run.stage("diagnose", 0, "trial") as step:
            findings = diagnose(case, workers=self.run.workers, step=step)
        config = replace(self.run.config, target=job.name)
        infos = [self.run.samples(1).info("analysis")]
        if not config.quantized:
            infos.insert(0, self.run.samples(0).info("calibration"))
        return Analysis(
            provenance=provenance(job.graph, config, infos, self.run.command),
            outputs=ends,
            layers=with_findings(rows, findings),
            plan=job.plan,
            findings=findings,
            timing=dict(self.run.seconds),
            peak_rss_bytes=peak_rss_bytes(),
            warnings=(*self.run.warnings, *job.graph.notes, *job.plan.notes),
            balance=books,
            task=scores,
            network=network_of(
                GraphView(job.graph.proto.graph), job.plan.layers, job.graph.slices
            ),
            profiles=looks,
        )

    def visits(self) -> list[int]:
        """Return the samples in the order in which they are looked at again."""
        exact = self.run.config.samples is not None
        order = [] if exact else self.simulation.order(MOST_SAMPLES)
        return order or list(range(len(self.run.samples(1))))

    def _probe(
        self, booked: Sequence[Source], visits: Sequence[int]
    ) -> tuple[dict[str, Isolated], dict[str, str]]:
        """Measure every layer and every source alone."""
        plan, samples = self.job.plan, self.run.samples(1)
        rows = units_of(plan, plan.layers)
        units, names = units_for(plan, rows, booked)
        exact = self.run.config.samples is not None
        local = {name: error.nsr for name, error in self.simulation.local.items()}
        with self.run.stage("probe", len(units) * (len(samples) if exact else 1), "probe") as step:
            isolated = probe(
                self.job.graph,
                units,
                samples,
                every_sample=exact,
                order=visits,
                ranked=plan.computing,
                within=parts_of(units, names.values()),
                loudness={u.name: sum(local.get(n, 0.0) for n in u.nodes) for u in units},
                workers=self.run.workers,
                step=step,
            )
        return isolated, names

    def _balance(self, found: Sequence[Source], few: Sequence[Sample]) -> Balance:
        graphwise = self.simulation.graphwise
        ends = {t: graphwise[t].nsr for t in self.simulation.output_by_sample}
        with self.run.stage("balance", 0, "run") as step:
            return balance(
                self.job.graph,
                self.job.plan,
                found,
                ends,
                few,
                workers=self.run.workers,
                step=step,
            )

    def _dissect(
        self, rows: tuple[LayerError, ...], books: Balance, few: Sequence[Sample]
    ) -> tuple[tuple[LayerError, ...], Balance, tuple[TensorProfile, ...]]:
        """Take the worst rows and the worst groups apart, and look into the rows' tensors."""
        worst = sorted(rows, key=lambda row: _loudness(row.isolated_nsr), reverse=True)[:WORST]
        aligned = {q.key for q in self.job.plan.quantizers if q.group}
        groups = [s for s in books.sources if s.nsr and not aligned.isdisjoint(s.quantizers)]
        groups.sort(key=lambda source: _loudness(source.nsr), reverse=True)
        names = [row.name for row in worst]
        with self.run.stage("dissect", 0, "run") as step:
            found = dissect(
                self.job.graph,
                self.job.plan,
                names,
                groups[:WORST],
                few,
                target=self.job.target,
                workers=self.run.workers,
                step=step,
            )
            looks = profiles(
                self.job.graph, self.job.plan, names, few, workers=self.run.workers, step=step
            )
        return *dissected(rows, books, found), looks


def _loudness(nsr: float | None) -> float:
    """Order NSRs: not measured is 0, not a number the worst there is."""
    return 0.0 if nsr is None else loudness(nsr)
