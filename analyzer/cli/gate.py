# SPDX-License-Identifier: Apache-2.0
"""The gate: an analysis and what is asked of it in, one line for every failure out.

Machine noise shall pass and a change for the worse shall not: an NSR may be 1 % of its value above
that of the older analysis, a score 0.001 below (the last digit that is printed).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from analyzer.config import Config
from analyzer.errors import ConfigError
from analyzer.records import Analysis, OutputError, TaskScore, loudness
from analyzer.report.changes import SAME, SILENT
from analyzer.report.tables import printable
from analyzer.store import load_analysis

SCORE_SLACK = 0.001
_ROUNDING = 1e-12  # 0.95 - 0.001 is not 0.949 in binary


@dataclass(frozen=True, slots=True)
class Old:
    """Older analyses that the one at hand is held against, and where they lie.

    Attributes:
        baseline: to be shown.
        bar: that must not be missed.
    """

    baseline: Analysis | None = None
    bar: Analysis | None = None
    bar_path: str = ""

    @property
    def on_page(self) -> Analysis | None:
        """The one that the HTML report shows."""
        return self.baseline or self.bar


def read_old(config: Config, *, several: bool) -> Old:
    """Read what `--baseline` and `--no-worse-than` name, before anything is run.

    Raises:
        ConfigError: if there are several targets: one file is of one target.
        StoreError: if a file cannot be read or is no analysis.
    """
    asked = {"--baseline": config.baseline, "--no-worse-than": config.no_worse_than}
    given = [name for name, path in asked.items() if path is not None]
    if several and given:
        raise ConfigError(
            f"{given[0]} is one analysis of one target, and several targets are asked for.",
            "Give one --target.",
        )
    read = {path: load_analysis(Path(path)) for path in asked.values() if path is not None}
    return Old(
        None if config.baseline is None else read[config.baseline],
        None if config.no_worse_than is None else read[config.no_worse_than],
        config.no_worse_than or "",
    )


def failures(analysis: Analysis, config: Config, old: Old) -> list[str]:
    """Say in one line each why an analysis fails the gate; none: it passes."""
    found: list[str] = []
    if config.max_nsr is not None:
        found += _above(analysis, config.max_nsr)
    if config.min_agreement is not None:
        found += _disagrees(analysis, config.min_agreement)
    if old.bar is not None:
        found += [f"{line} in {old.bar_path}" for line in _worse(analysis, old.bar)]
    return [printable(f"Gate failed: {line}.") for line in found]


def _above(analysis: Analysis, limit: float) -> Iterator[str]:
    worst = analysis.worst_output
    if not worst.nsr <= limit:
        yield (
            f"output {worst.name!r} has an NSR of {worst.nsr:.3%} for "
            f"{analysis.provenance.target}, above --max-nsr {limit:.3%}"
        )


def _disagrees(analysis: Analysis, limit: float) -> Iterator[str]:
    target = analysis.provenance.target
    score = next((score for score in analysis.task if score.against == "fp32"), None)
    if score is None:
        yield (
            f"no agreement with FP32 was measured for {target}, but --min-agreement is "
            f"{limit:.4g}; --task or --metric say what the outputs mean"
        )
    elif not score.value >= limit:
        yield (
            f"{score.name!r} is {_apart(score.value, limit)} for {target}, below "
            f"--min-agreement {limit:.4g}"
        )


def _apart(value: float, limit: float) -> str:
    """Write a value with as many digits as it takes to tell it from the limit."""
    texts = (f"{value:.{digits}f}" for digits in range(3, 17))
    return next((text for text in texts if float(text) < limit), repr(value))


def _worse(new: Analysis, old: Analysis) -> Iterator[str]:
    outputs = {(o.name, o.slice_of): o for o in new.outputs}
    scores = {(s.name, s.against): s for s in new.task}
    for output in old.outputs:
        yield from _louder(outputs.get((output.name, output.slice_of)), output)
    for score in old.task:
        yield from _lower(scores.get((score.name, score.against)), score)


def _louder(now: OutputError | None, before: OutputError) -> Iterator[str]:
    what = "output" if before.slice_of is None else "slice"
    if now is None:
        yield f"there is no {what} {before.name!r}, as there is"
    elif loudness(now.nsr) > loudness(before.nsr) * (1 + SAME) + SILENT:
        yield (
            f"{what} {before.name!r} has an NSR of {now.nsr:.3%}, more than 1 % above the "
            f"{before.nsr:.3%}"
        )


def _lower(now: TaskScore | None, before: TaskScore) -> Iterator[str]:
    if now is None:
        yield f"there is no score {before.name!r}, as there is"
    elif not (math.isnan(before.value) or now.value >= before.value - SCORE_SLACK - _ROUNDING):
        yield (
            f"{before.name!r} is {_apart(now.value, before.value)}, more than {SCORE_SLACK} "
            f"below the {before.value:.3f}"
        )
