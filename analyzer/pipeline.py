# SPDX-License-Identifier: Apache-2.0
"""The flow of a run: load -> data -> place -> calibrate -> simulate + probe -> Analysis."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from analyzer.assemble import layers, outputs, provenance
from analyzer.calibrate import calibrate_all, calibration_phases
from analyzer.config import Config
from analyzer.errors import TargetError
from analyzer.graph.session import release_unused
from analyzer.load import bind_shapes, load_model
from analyzer.memory import peak_rss_bytes
from analyzer.place import check_setting, place
from analyzer.probe import FIRST_SAMPLES, MOST_SAMPLES, Isolated, probe, units_of
from analyzer.quantized import load_float_form, read_quantized
from analyzer.records import Analysis, Finding, Model, QuantPlan
from analyzer.samples import Chosen, check_roles, open_roles
from analyzer.simulate import Simulation, simulate_all
from analyzer.targets import get_target
from analyzer.targets.base import Target

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
    """

    name: str
    graph: Model
    plan: QuantPlan
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
                    job = _Job(target.name, *place(model, target, self.config.setting))
                    jobs.append((job, target))
        return jobs

    def read(self, quantized: Path) -> _Job:
        """Load both files; what the quantized one holds stands for placing and calibrating."""
        with self._stage("load", 0, "model"):
            alone = _same(self.path, quantized)
            model = self._bound(load_float_form(quantized) if alone else load_model(self.path))
            found = read_quantized(model, quantized, sample=self._samples(0)[0])
        plan = replace(found.plan, notes=(*found.plan.notes, *found.notes))
        return _Job(label(self.path, quantized), found.graph, plan, found.findings)

    def _bound(self, model: Model, fold_norms: bool = True) -> Model:
        """Fix the input shapes to those of the data, which are opened with the first model."""
        if self.roles is None:
            self.roles = open_roles(model, self.config, self.stack)
            self.warnings = check_roles(model, self.config, *self.roles)
        data = self.roles[0]
        return bind_shapes(model, data.data.shapes, sample=data[0], fold_norms=fold_norms)

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
                    done.append(_Job(job.name, own, completed, findings))
        return done

    def measure(self, jobs: Sequence[_Job]) -> Iterator[Analysis]:
        """Simulate and probe."""
        for job, simulation in self.simulate(jobs):
            yield self.analysis(job, simulation, self.probe(job, simulation))

    def simulate(self, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, Simulation]]:
        # completing a plan may have changed its graph: those that are still equal go together
        for alike in _grouped(jobs, key=lambda job: _identity(job.graph)):
            samples, plans = self._samples(1), [job.plan for job in alike]
            with self._stage("simulate", len(samples)) as step:
                graph = alike[0].graph
                found = simulate_all(graph, plans, samples, workers=self.workers, step=step)
            yield from zip(alike, found, strict=True)

    def probe(self, job: _Job, simulation: Simulation) -> dict[str, Isolated]:
        plan, samples = job.plan, self._samples(1)
        units = units_of(plan, plan.layers if self.config.layers == "all" else _computing(plan))
        exact = self.config.samples is not None
        each = len(samples) if exact else min(FIRST_SAMPLES, len(samples))
        with self._stage("probe", len(units) * each, "probe") as step:
            return probe(
                job.graph,
                units,
                samples,
                every_sample=exact,
                order=None if exact else simulation.order(MOST_SAMPLES),
                workers=self.workers,
                step=step,
            )

    def analysis(
        self, job: _Job, simulation: Simulation, isolated: Mapping[str, Isolated]
    ) -> Analysis:
        config = replace(self.config, target=job.name)
        infos = [self._samples(1).info("analysis")]
        if not config.quantized:
            infos.insert(0, self._samples(0).info("calibration"))
        return Analysis(
            provenance=provenance(job.graph, config, infos, self.command),
            outputs=outputs(job.graph, simulation, isolated),
            layers=layers(job.graph, job.plan, simulation, isolated, config, job.findings),
            plan=job.plan,
            findings=job.findings,
            timing=dict(self.seconds),
            peak_rss_bytes=peak_rss_bytes(),
            warnings=(*self.warnings, *job.graph.notes, *job.plan.notes),
        )

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


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _computing(plan: QuantPlan) -> tuple[str, ...]:
    return tuple(name for name in plan.layers if name in plan.computing)
