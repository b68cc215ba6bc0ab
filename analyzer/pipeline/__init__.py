# SPDX-License-Identifier: Apache-2.0
"""The flow of a run.

load -> place -> calibrate -> simulate -> probe -> balance -> dissect -> diagnose -> propose ->
verify -> export
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from analyzer.config import Config
from analyzer.export import measured
from analyzer.pipeline.advise import advise
from analyzer.pipeline.explain import explain
from analyzer.pipeline.stages import Job, Progress, Run, grouped, label
from analyzer.records import Analysis
from analyzer.targets.base import Target

__all__ = ["Outcome", "Progress", "label", "run", "run_quantized", "run_targets"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run for several targets.

    Attributes:
        analyses: of the targets that could be analysed, in the order asked for.
        refused: target -> one sentence why not.
        exports: target -> path below its export folder -> content.
    """

    analyses: tuple[Analysis, ...]
    refused: Mapping[str, str]
    exports: Mapping[str, Mapping[str, str | bytes]] = field(default_factory=dict)


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
        going = Run(path, config, progress, command, stack, leave_out_unfit=leave_out_unfit)
        found: dict[str, Analysis] = {}
        exports: dict[str, Mapping[str, str | bytes]] = {}
        for alike in grouped(going.targets(names), key=_sees):
            jobs = going.calibrate(going.place(alike))
            for analysis, files in _measured(going, jobs):
                found[analysis.provenance.target] = analysis
                exports[analysis.provenance.target] = files
    analyses = tuple(found[name] for name in names if name in found)
    return Outcome(analyses, going.refused, exports)


def run_quantized(
    path: Path,
    quantized: Path,
    config: Config,
    *,
    progress: Progress | None = None,
    command: str = "",
) -> Outcome:
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
        going = Run(path, config, progress, command, stack)
        ((analysis, files),) = _measured(going, [going.read(quantized)])
    return Outcome((analysis,), {}, {analysis.provenance.target: files} if files else {})


def _measured(
    going: Run, jobs: Sequence[Job]
) -> Iterator[tuple[Analysis, Mapping[str, str | bytes]]]:
    """Run calibrated plans, explain what each of them does, and say what would do better."""
    for job, simulation, scores in going.simulate(going.slice(jobs)):
        analysis, visits = explain(going, job, simulation, scores)
        if job.target is None or not going.config.propose:
            yield analysis, measured(analysis, going.path, going.config.export)
        else:
            yield advise(going, job, analysis, visits)


def _sees(target: Target) -> tuple[object, bool]:
    """Return what makes the graph that a target sees: equal for targets that can share it."""
    return getattr(target.rewrite, "__func__", target.rewrite), target.folds_norms
