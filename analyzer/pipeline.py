# SPDX-License-Identifier: Apache-2.0
"""The flow of a run: load, place, calibrate, simulate, probe, balance, diagnose -> Analysis."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from analyzer.assemble import (
    dissected,
    layers,
    outputs,
    provenance,
    sources,
    with_findings,
)
from analyzer.balance import balance
from analyzer.calibrate import calibrate_all, calibration_phases
from analyzer.config import Config
from analyzer.diagnose import diagnose
from analyzer.diagnose.case import Case
from analyzer.dissect import dissect
from analyzer.errors import TargetError
from analyzer.graph.families import sources_of
from analyzer.graph.session import release_unused
from analyzer.graph.slices import check_slices, with_slices
from analyzer.graph.trials import affordable
from analyzer.graph.view import GraphView
from analyzer.load import bind_shapes, load_model
from analyzer.memory import peak_rss_bytes
from analyzer.place import check_setting, place
from analyzer.probe import MOST_SAMPLES, Isolated, probe, units_for, units_of
from analyzer.quantized import load_float_form, read_quantized
from analyzer.records import (
    Analysis,
    Balance,
    Finding,
    LayerError,
    Model,
    QuantPlan,
    Sample,
    Source,
    TaskScore,
)
from analyzer.samples import Chosen, check_roles, open_roles
from analyzer.score import Scorer
from analyzer.simulate import Simulation, simulate_all
from analyzer.targets import get_target
from analyzer.targets.base import Target

WORST = 10  # rows, and groups, that are taken apart
MOST_WORKERS = 8  # each holds the tensors of one sample's segment: memory grows with them

Item = TypeVar("Item")


class Progress(Protocol):
    """What shows how far a run has come (see `analyzer/report/progress.py`)."""

    def stage(
        self, name: str, total: int, unit: str = "sample"
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Show one stage; the yielded function is told how many more units are done."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run for several targets.

    Attributes:
        analyses: of the targets that could be analysed, in the order asked for.
        refused: target -> one sentence why not.
    """

    analyses: tuple[Analysis, ...]
    refused: Mapping[str, str]


def run(
    path: Path, config: Config, *, progress: Progress | None = None, command: str = ""
) -> Analysis:
    """Analyse one model for one target.

    Raises:
        QAnalyzeError: for anything wrong with model, data, target or configuration.
    """
    outcome = run_targets(path, config, [config.target], progress=progress, command=command)
    return outcome.analyses[0]


def run_targets(
    path: Path,
    config: Config,
    names: Sequence[str],
    *,
    progress: Progress | None = None,
    command: str = "",
    leave_out_unfit: bool = False,
) -> Outcome:
    """Analyse one model for several targets, which share data, FP32 runs and what is equal.

    Args:
        path: of the model.
        config: its `target` is not looked at.
        names: of targets.
        progress: shows how far the run has come.
        command: kept for provenance.
        leave_out_unfit: go on without targets that do not offer what `config` asks for or
            quantize nothing of the model; False: raise.

    Raises:
        QAnalyzeError: for anything wrong with model, data, targets or configuration.
    """
    with ExitStack() as stack:
        going = _Run(path, config, progress, command, stack, leave_out_unfit=leave_out_unfit)
        found: dict[str, Analysis] = {}
        for alike in _grouped(going.targets(names), key=_sees):
            jobs = going.calibrate(going.place(alike))
            found.update((a.provenance.target, a) for a in going.measure(jobs))
    return Outcome(tuple(found[name] for name in names if name in found), going.refused)


def run_quantized(
    path: Path,
    quantized: Path,
    config: Config,
    *,
    progress: Progress | None = None,
    command: str = "",
) -> Analysis:
    """Analyse a model that somebody's quantizer made.

    Args:
        path: of the FP32 model it was made from, or of the quantized model again.
        quantized: of the quantized model; placing and calibrating are read from it.
        config: its `target` is not looked at.
        progress: shows how far the run has come.
        command: kept for provenance.

    Raises:
        QAnalyzeError: for anything wrong with a model, data or configuration.
    """
    with ExitStack() as stack:
        going = _Run(path, config, progress, command, stack)
        (analysis,) = going.measure([going.read(quantized)])
    return analysis


def label(path: Path, quantized: Path) -> str:
    """Return what a quantized file is called in reports: told apart from the model's own name."""
    if quantized.name != path.name or _same(path, quantized):
        return quantized.name
    return f"{quantized.absolute().parent.name}/{quantized.name}"


def _same(one: Path, two: Path) -> bool:
    return one.exists() and two.exists() and one.samefile(two)


@dataclass(frozen=True, slots=True)
class _Job:
    """One plan at whatever stage it is, and the graph it belongs to.

    Attributes:
        name: of the target, or of the quantized file the plan was read from.
        target: None for a quantized file.
    """

    name: str
    graph: Model
    plan: QuantPlan
    target: Target | None = None
    findings: tuple[Finding, ...] = ()


class _Run:
    """What the stages of one run have in common; every method is one stage."""

    def __init__(
        self,
        path: Path,
        config: Config,
        progress: Progress | None,
        command: str,
        stack: ExitStack,
        *,
        leave_out_unfit: bool = False,
    ) -> None:
        self.path = path
        self.config = config
        self.progress = progress
        self.command = command
        self.stack = stack
        self.leave_out_unfit = leave_out_unfit
        self.workers = config.threads or min(_cores(), MOST_WORKERS)
        self.refused: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.roles: tuple[Chosen, Chosen] | None = None
        self.warnings: tuple[str, ...] = ()

    def targets(self, names: Sequence[str]) -> list[Target]:
        found = []
        for name in names:
            with self._unfit(name):
                target = get_target(name)
                check_setting(target, self.config.setting)
                found.append(target)
        return found

    def place(self, targets: Sequence[Target]) -> list[tuple[_Job, Target]]:
        """Load the model as these targets see it, and place their quantizers."""
        jobs = []
        with self._stage("load", 0, "model"):
            rewrite, norms = targets[0].rewrite, targets[0].folds_norms
            model = self._bound(load_model(self.path, rewrite=rewrite, fold_norms=norms), norms)
            for target in targets:
                with self._unfit(target.name):
                    job = _Job(target.name, *place(model, target, self.config.setting), target)
                    jobs.append((job, target))
        return jobs

    def read(self, quantized: Path) -> _Job:
        """Load both files; what the quantized one holds stands for placing and calibrating."""
        with self._stage("load", 0, "model"):
            alone = _same(self.path, quantized)
            model = self._bound(load_float_form(quantized) if alone else load_model(self.path))
            found = read_quantized(model, quantized, sample=self._samples(0)[0])
        plan = replace(found.plan, notes=(*found.plan.notes, *found.notes))
        return _Job(label(self.path, quantized), found.graph, plan, None, found.findings)

    def _bound(self, model: Model, fold_norms: bool = True) -> Model:
        """Fix the input shapes to those of the data, which are opened with the first model."""
        if self.roles is None:
            self.roles = open_roles(model, self.config, self.stack)
            self.warnings = check_roles(model, self.config, *self.roles)
        data = self.roles[0]
        bound = bind_shapes(model, data.data.shapes, sample=data[0], fold_norms=fold_norms)
        check_slices(bound, self.config.slices)
        return bound

    def calibrate(self, jobs: Sequence[tuple[_Job, Target]]) -> list[_Job]:
        done = []
        for alike in _grouped(jobs, key=lambda job: _identity(job[0].graph)):
            pairs = [(job.plan, target) for job, target in alike]
            samples, graph = self._samples(0), alike[0][0].graph
            with self._stage("calibrate", calibration_phases(pairs) * len(samples), "run") as step:
                plans = calibrate_all(graph, pairs, samples, workers=self.workers, step=step)
                for (job, target), plan in zip(alike, plans, strict=True):
                    own, completed = target.complete(job.graph, plan, samples)
                    findings = tuple(target.findings(own, completed))
                    done.append(_Job(job.name, own, completed, target, findings))
        return done

    def measure(self, jobs: Sequence[_Job]) -> Iterator[Analysis]:
        """Simulate, then probe and explain what was found."""
        for job, simulation, scores in self.simulate(self._sliced(jobs)):
            yield self.analysis(job, simulation, scores)

    def _sliced(self, jobs: Sequence[_Job]) -> list[_Job]:
        """Add slices of outputs; jobs that share a graph go on sharing it."""
        sample, graphs = self._samples(1)[0], dict[int, Model]()
        for job in jobs:
            if id(job.graph) not in graphs:
                graphs[id(job.graph)] = with_slices(job.graph, self.config.slices, sample)
        return [replace(job, graph=graphs[id(job.graph)]) for job in jobs]

    def simulate(
        self, jobs: Sequence[_Job]
    ) -> Iterator[tuple[_Job, Simulation, tuple[TaskScore, ...]]]:
        # completing a plan may have changed its graph: those that are still equal go together
        for alike in _grouped(jobs, key=lambda job: _identity(job.graph)):
            samples, plans = self._samples(1), [job.plan for job in alike]
            graph = alike[0].graph
            scorer = Scorer(graph, self.config, samples, len(plans))
            with self._stage("simulate", len(samples)) as step:
                found = simulate_all(
                    graph, plans, samples, workers=self.workers, step=step, watch=scorer.watch
                )
            scores = [scorer.scores(number) for number in range(len(plans))]
            yield from zip(alike, found, scores, strict=True)

    def analysis(
        self, job: _Job, simulation: Simulation, scores: tuple[TaskScore, ...]
    ) -> Analysis:
        """Probe one plan, and turn everything measured into its result."""
        booked = sources_of(GraphView(job.graph.proto.graph), job.plan)
        visits = self._visits(simulation)
        isolated, units = self.probe(job, simulation, booked, visits)
        measured = sources(job.graph, booked, units, isolated, simulation, visits)
        few = [self._samples(1)[i] for i in visits[: affordable(job.graph)]]
        books = self.balance(job, measured, simulation, few)
        rows = layers(job.graph, job.plan, simulation, isolated)
        rows, books = self.dissect(job, rows, books, few)
        ends = outputs(job.graph, simulation, books)
        case = Case(
            job.graph, job.plan, job.target, rows, ends, books, few,
            self._samples(0) if job.target else None, job.findings,
        )  # fmt: skip
        with self._stage("diagnose", 0, "trial") as step:
            findings = diagnose(case, workers=self.workers, step=step)
        config = replace(self.config, target=job.name)
        infos = [self._samples(1).info("analysis")]
        if not config.quantized:
            infos.insert(0, self._samples(0).info("calibration"))
        return Analysis(
            provenance=provenance(job.graph, config, infos, self.command),
            outputs=ends,
            layers=with_findings(rows, findings),
            plan=job.plan,
            findings=findings,
            timing=dict(self.seconds),
            peak_rss_bytes=peak_rss_bytes(),
            warnings=(*self.warnings, *job.graph.notes, *job.plan.notes),
            balance=books,
            task=scores,
        )

    def _visits(self, simulation: Simulation) -> list[int]:
        """Return the samples in the order in which they are looked at again."""
        exact = self.config.samples is not None
        order = [] if exact else simulation.order(MOST_SAMPLES)
        return order or list(range(len(self._samples(1))))

    def probe(
        self,
        job: _Job,
        simulation: Simulation,
        booked: Sequence[Source],
        visits: Sequence[int],
    ) -> tuple[dict[str, Isolated], dict[str, str]]:
        """Measure every layer and every source alone."""
        plan, samples = job.plan, self._samples(1)
        rows = units_of(plan, plan.layers)
        units, names = units_for(plan, rows, booked)
        exact = self.config.samples is not None
        local = {name: error.nsr for name, error in simulation.local.items()}
        with self._stage("probe", len(units) * (len(samples) if exact else 1), "probe") as step:
            isolated = probe(
                job.graph,
                units,
                samples,
                every_sample=exact,
                order=visits,
                ranked=plan.computing,
                booked=set(names.values()),
                loudness={u.name: sum(local.get(n, 0.0) for n in u.nodes) for u in units},
                workers=self.workers,
                step=step,
            )
        return isolated, names

    def balance(
        self, job: _Job, found: Sequence[Source], simulation: Simulation, few: Sequence[Sample]
    ) -> Balance:
        ends = {t: simulation.graphwise[t].nsr for t in simulation.output_by_sample}
        with self._stage("balance", 0, "run") as step:
            return balance(job.graph, job.plan, found, ends, few, workers=self.workers, step=step)

    def dissect(
        self, job: _Job, rows: tuple[LayerError, ...], books: Balance, few: Sequence[Sample]
    ) -> tuple[tuple[LayerError, ...], Balance]:
        """Take the worst rows and the worst groups apart."""
        worst = sorted(rows, key=lambda row: _loudness(row.isolated_nsr), reverse=True)[:WORST]
        aligned = {q.key for q in job.plan.quantizers if q.group}
        groups = [s for s in books.sources if s.nsr and not aligned.isdisjoint(s.quantizers)]
        groups.sort(key=lambda source: _loudness(source.nsr), reverse=True)
        with self._stage("dissect", 0, "run") as step:
            found = dissect(
                job.graph,
                job.plan,
                [row.name for row in worst],
                groups[:WORST],
                few,
                target=job.target,
                workers=self.workers,
                step=step,
            )
        return dissected(rows, books, found)

    def _samples(self, role: int) -> Chosen:
        assert self.roles is not None, "the data are opened with the first model"
        return self.roles[role]

    @contextmanager
    def _unfit(self, name: str) -> Iterator[None]:
        """Note why a target is left out, where that is wanted."""
        try:
            yield
        except TargetError as error:
            if not self.leave_out_unfit:
                raise
            self.refused[name] = str(error)

    @contextmanager
    def _stage(
        self, name: str, total: int, unit: str = "sample"
    ) -> Iterator[Callable[[int], None]]:
        """Show one stage, and add up how long it takes."""
        start = time.perf_counter()
        progress = self.progress
        shown = progress.stage(name, total, unit) if progress else nullcontext(lambda n: None)
        with shown as step:
            yield step
        release_unused()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _grouped(items: Iterable[Item], *, key: Callable[[Item], object]) -> list[list[Item]]:
    """Group equal items, in the order of their first members."""
    groups: dict[object, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _sees(target: Target) -> tuple[object, bool]:
    """Return what makes the graph that a target sees: equal for targets that can share it."""
    return getattr(target.rewrite, "__func__", target.rewrite), target.folds_norms


def _identity(graph: Model) -> tuple[object, ...]:
    """Return what two graphs must share to be run together."""
    names = tuple(sorted(graph.source_nodes.items())), tuple(sorted(graph.op_types.items()))
    return hashlib.sha256(graph.proto.SerializeToString(deterministic=True)).digest(), *names


def _loudness(nsr: float | None) -> float:
    """Order NSRs: not measured is 0, not a number the worst there is."""
    if nsr is None:
        return 0.0
    return math.inf if math.isnan(nsr) else nsr


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
