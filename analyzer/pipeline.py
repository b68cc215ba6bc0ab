# SPDX-License-Identifier: Apache-2.0
"""The flow of a run: load -> data -> place -> calibrate -> simulate + probe -> Analysis."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from analyzer.assemble import layers, outputs, provenance
from analyzer.calibrate import calibrate, calibration_phases
from analyzer.config import Config
from analyzer.data import Dataset, check_inputs, open_data
from analyzer.graph.session import release_unused
from analyzer.load import bind_shapes, load_model
from analyzer.memory import peak_rss_bytes
from analyzer.place import check_setting, place
from analyzer.probe import FIRST_SAMPLES, MOST_SAMPLES, probe, units_of
from analyzer.records import Analysis, DataInfo, Model, QuantPlan
from analyzer.simulate import simulate
from analyzer.targets import get_target

ANALYSIS_SAMPLES = 32  # how many samples are analysed where the user leaves it open
CHECKED_SAMPLES = 4
MOST_WORKERS = 8  # each holds the tensors of one sample's segment: memory grows with them


class Progress(Protocol):
    """What shows how far a run has come (see `analyzer/report/progress.py`)."""

    def stage(
        self, name: str, total: int, unit: str = "sample"
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Show one stage; the yielded function is told how many more units are done."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Some samples of a data set, in order."""

    data: Dataset
    indices: tuple[int, ...]
    selection: str

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.data[self.indices[position]]

    def info(self, role: str) -> DataInfo:
        """Return the record of these samples in a role."""
        return self.data.info(role, self.selection, self.indices)


def run(
    path: Path, config: Config, *, progress: Progress | None = None, command: str = ""
) -> Analysis:
    """Analyse one model for one target.

    Raises:
        QAnalyzeError: for anything wrong with model, data, target or configuration.
    """
    target = get_target(config.target)
    check_setting(target, config.setting)
    timing: dict[str, float] = {}
    workers = config.threads or min(_cores(), MOST_WORKERS)

    @contextmanager
    def stage(name: str, total: int, unit: str = "sample") -> Iterator[Callable[[int], None]]:
        start = time.perf_counter()
        shown = progress.stage(name, total, unit) if progress else nullcontext(lambda n: None)
        with shown as step:
            yield step
        release_unused()
        timing[name] = time.perf_counter() - start

    with ExitStack() as stack:
        with stage("load", 0, "model"):
            model = load_model(path)
            calibration, analysis = _open(model, config, stack)
            warnings = _check(model, config, calibration, analysis)
            model = bind_shapes(model, calibration.data.shapes, sample=calibration[0])
            graph, plan = place(model, target, config.setting)
        phases = calibration_phases(plan, target)
        with stage("calibrate", phases * len(calibration), "run") as step:
            plan = calibrate(graph, plan, target, calibration, workers=workers, step=step)
            graph, plan = target.complete(graph, plan, calibration)
        with stage("simulate", len(analysis)) as step:
            simulation = simulate(graph, plan, analysis, workers=workers, step=step)
        probed = plan.layers if config.layers == "all" else _computing(plan)
        units = units_of(plan, probed)
        exact = config.samples is not None
        expected = len(units) * (len(analysis) if exact else min(FIRST_SAMPLES, len(analysis)))
        with stage("probe", expected, "probe") as step:
            isolated = probe(
                graph,
                units,
                analysis,
                every_sample=exact,
                order=None if exact else simulation.order(MOST_SAMPLES),
                workers=workers,
                step=step,
            )
        infos = (calibration.info("calibration"), analysis.info("analysis"))
    return Analysis(
        provenance=provenance(model, config, infos, command),
        outputs=outputs(graph, simulation, isolated),
        layers=layers(graph, plan, simulation, isolated, config),
        plan=plan,
        findings=tuple(target.findings(graph, plan)),
        timing=timing,
        peak_rss_bytes=peak_rss_bytes(),
        warnings=(*warnings, *model.notes, *plan.notes),
    )


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _open(model: Model, config: Config, stack: ExitStack) -> tuple[Chosen, Chosen]:
    """Open the data in both roles and choose the samples of each."""

    def opened(spec: str, role: str, limit: int | None) -> Dataset:
        data = open_data(
            spec,
            model.inputs,
            role=role,
            metadata=model.metadata,
            preset=config.preset,
            overrides=config.preprocessing,
            limit=limit,
            shapes=config.shapes,
        )
        stack.callback(data.close)
        return data

    data = opened(config.calib, "calibration", config.calib_samples)
    selection = f"the first {len(data)}" if len(data) < data.available else "all"
    calibration = Chosen(data, tuple(range(len(data))), selection)
    other = opened(config.eval, "analysis", None) if config.eval else data
    name = "samples of --eval" if config.eval else "calibration samples"
    return calibration, _spread(other, config.samples or ANALYSIS_SAMPLES, name)


def _spread(data: Dataset, wanted: int, name: str) -> Chosen:
    """Choose `wanted` samples evenly over the data set, or all where there are not more."""
    if wanted >= len(data):
        return Chosen(data, tuple(range(len(data))), f"all {len(data)} {name}")
    indices = np.linspace(0, len(data) - 1, wanted).round().astype(int)
    return Chosen(data, tuple(indices.tolist()), f"{wanted} of {len(data)} {name}, evenly spread")


def _check(model: Model, config: Config, calibration: Chosen, analysis: Chosen) -> tuple[str, ...]:
    """Look at a few samples of each role before anything runs."""
    lines: dict[str, None] = {}
    if config.samples is not None and config.samples > len(analysis):
        few = f"--samples asks for {config.samples}, there are {len(analysis)}: all are analysed."
        lines[few] = None
    for chosen in (calibration, analysis):
        lines.update(dict.fromkeys(chosen.data.warnings))
        some = chosen.indices[:CHECKED_SAMPLES]
        lines.update(
            dict.fromkeys(check_inputs(chosen.data, model.inputs, some, metadata=model.metadata))
        )
        if chosen.data is calibration.data and chosen is not calibration:
            break
    return tuple(lines)


def _computing(plan: QuantPlan) -> tuple[str, ...]:
    return tuple(name for name in plan.layers if name in plan.computing)
