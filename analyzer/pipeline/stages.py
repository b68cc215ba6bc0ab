# SPDX-License-Identifier: Apache-2.0
"""The first half of the flow: from a path to plans that were run beside FP32."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

from analyzer.calibrate import (
    calibration_phases,
    observe_all,
    scaled,
    with_other_observers,
)
from analyzer.calibrate.observe import Watch
from analyzer.config import Config
from analyzer.errors import TargetError
from analyzer.graph.session import release_unused
from analyzer.graph.slices import check_slices, with_slices
from analyzer.graph.view import GraphView
from analyzer.load import bind_shapes, load_model
from analyzer.place import check_setting, place
from analyzer.quant.observers import Range
from analyzer.quantized import load_float_form, read_quantized
from analyzer.records import Finding, Model, QuantPlan, TaskScore
from analyzer.samples import Chosen, check_roles, open_roles
from analyzer.score import Scorer
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


def label(path: Path, quantized: Path) -> str:
    """Return what a quantized file is called in reports: told apart from the model's own name."""
    if quantized.name != path.name or same_file(path, quantized):
        return quantized.name
    return f"{quantized.absolute().parent.name}/{quantized.name}"


def same_file(one: Path, two: Path) -> bool:
    """Tell whether two paths lead to one file that exists."""
    return one.exists() and two.exists() and one.samefile(two)


@dataclass(frozen=True, slots=True)
class Job:
    """One plan at whatever stage it is, and the graph it belongs to.

    Attributes:
        name: of the target, or of the quantized file the plan was read from.
        target: None for a quantized file.
        source: the bound model before the target prepared it; None for a quantized file.
        ranges: that the target's observers find on the calibration data, where proposals want
            them; the plan's own among them.
    """

    name: str
    graph: Model
    plan: QuantPlan
    target: Target | None = None
    findings: tuple[Finding, ...] = ()
    source: Model | None = None
    ranges: Mapping[Watch, Range] = field(default_factory=dict)


class Run:
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
        self.started = time.perf_counter()
        self.roles: tuple[Chosen, Chosen] | None = None
        self.warnings: tuple[str, ...] = ()

    def targets(self, names: Sequence[str]) -> list[Target]:
        """Look targets up, and check that they offer what is asked for."""
        found = []
        for name in names:
            with self._unfit(name):
                target = get_target(name)
                check_setting(target, self.config.setting)
                found.append(target)
        return found

    def place(self, targets: Sequence[Target]) -> list[Job]:
        """Load the model as these targets see it, and place their quantizers."""
        jobs = []
        with self.stage("load", 0, "model"):
            rewrite, norms = targets[0].rewrite, targets[0].folds_norms
            model = self._bound(load_model(self.path, rewrite=rewrite, fold_norms=norms), norms)
            for target in targets:
                with self._unfit(target.name):
                    placed = place(model, target, self.config.setting)
                    jobs.append(Job(target.name, *placed, target, source=model))
        return jobs

    def read(self, quantized: Path) -> Job:
        """Load both files; what the quantized one holds stands for placing and calibrating."""
        with self.stage("load", 0, "model"):
            alone = same_file(self.path, quantized)
            model = self._bound(load_float_form(quantized) if alone else load_model(self.path))
            found = read_quantized(model, quantized, sample=self.samples(0)[0])
        plan = replace(found.plan, notes=(*found.plan.notes, *found.notes))
        return Job(label(self.path, quantized), found.graph, plan, None, found.findings)

    def _bound(self, model: Model, fold_norms: bool = True) -> Model:
        """Fix the input shapes to those of the data, which are opened with the first model."""
        if self.roles is None:
            self.roles = open_roles(model, self.config, self.stack)
            self.warnings = check_roles(model, self.config, *self.roles)
        data = self.roles[0]
        bound = bind_shapes(model, data.data.shapes, sample=data[0], fold_norms=fold_norms)
        check_slices(bound, self.config.slices)
        return bound

    def calibrate(self, jobs: Sequence[Job]) -> list[Job]:
        """Find all scales, and do what the quantizers do once they are known."""
        done = []
        for alike in grouped(jobs, key=lambda job: _identity(job.graph)):
            asked = [self._observed(job) for job in alike if job.target]
            pairs = [pair for plans in asked for pair in plans]
            samples, graph = self.samples(0), alike[0].graph
            runs = calibration_phases(graph, pairs) * len(samples)
            with self.stage("calibrate", runs, "run") as step:
                seen = iter(observe_all(graph, pairs, samples, workers=self.workers, step=step))
                view = GraphView(graph.proto.graph)
                for job, plans in zip(alike, asked, strict=True):
                    (plan, target), found = plans[0], [next(seen) for _ in plans]
                    plan = scaled(view, plan, target, found[0])
                    own, completed = target.complete(graph, plan, samples)
                    findings = tuple(target.findings(own, completed))
                    ranges = {watch: r for each in reversed(found) for watch, r in each.items()}
                    done.append(
                        replace(job, graph=own, plan=completed, findings=findings, ranges=ranges)
                    )
        return done

    def _observed(self, job: Job) -> list[tuple[QuantPlan, Target]]:
        """Return the plans whose ranges are found together: the job's own one comes first."""
        assert job.target is not None, "a file has its scales"
        plans = [(job.plan, job.target)]
        if self.config.propose:
            plans += ((plan, job.target) for plan in with_other_observers(job.plan, job.target))
        return plans

    def slice(self, jobs: Sequence[Job]) -> list[Job]:
        """Add slices of outputs; jobs that share a graph go on sharing it."""
        sample, graphs = self.samples(1)[0], dict[int, Model]()
        for job in jobs:
            if id(job.graph) not in graphs:
                graphs[id(job.graph)] = with_slices(job.graph, self.config.slices, sample)
        return [replace(job, graph=graphs[id(job.graph)]) for job in jobs]

    def simulate(
        self, jobs: Sequence[Job]
    ) -> Iterator[tuple[Job, Simulation, tuple[TaskScore, ...]]]:
        """Run FP32 and quantized models side by side, and score their answers."""
        # completing a plan may have changed its graph: those that are still equal go together
        for alike in grouped(jobs, key=lambda job: _identity(job.graph)):
            samples, plans = self.samples(1), [job.plan for job in alike]
            graph = alike[0].graph
            scorer = Scorer(graph, self.config, samples, len(plans))
            with self.stage("simulate", len(samples)) as step:
                found = simulate_all(
                    graph, plans, samples, workers=self.workers, step=step, watch=scorer.watch
                )
            scores = [scorer.scores(number) for number in range(len(plans))]
            yield from zip(alike, found, scores, strict=True)

    def samples(self, role: int) -> Chosen:
        """Return the samples for calibration (0) or analysis (1)."""
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
    def stage(
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


def grouped(items: Iterable[Item], *, key: Callable[[Item], object]) -> list[list[Item]]:
    """Group equal items, in the order of their first members."""
    groups: dict[object, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _identity(graph: Model) -> tuple[object, ...]:
    """Return what two graphs must share to be run together."""
    names = tuple(sorted(graph.source_nodes.items())), tuple(sorted(graph.op_types.items()))
    return hashlib.sha256(graph.proto.SerializeToString(deterministic=True)).digest(), *names


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
