# SPDX-License-Identifier: Apache-2.0
"""What got better or worse: two analyses in; outputs, scores, layers and causes side by side out.

Before and after a fix, two targets, two sets of calibration data, a model quantized after training
against one trained quantized: layers are matched by their names, else by the nodes of the user's
model that they stand for.  What has no counterpart is kept by name, never dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from analyzer.records import (
    Analysis,
    Finding,
    LayerError,
    OutputError,
    Source,
    TaskScore,
    loudness,
)
from analyzer.report.changes.footing import Difference, differences, measured_on
from analyzer.report.changes.matching import (
    match_findings,
    match_layers,
    match_outputs,
    match_scores,
    match_sources,
)

Verdict = Literal["better", "worse", "within chance", "unchanged", "not measured"]

# NSRs this close, as a share of the larger one, are the same: another machine's rounding.
SAME = 0.01
SILENT = 1e-9  # NSR below which a change is none at all
_MATTERS = 0.01  # of the worst output's NSR: what a layer has to change by, to be a loss of note
_HEARD = 0.01  # share of all isolated noise that a source has to have, to be missed


@dataclass(frozen=True, slots=True)
class Pair:
    """One figure in the baseline and now; None: not measured."""

    old: float | None
    new: float | None

    @property
    def factor(self) -> float | None:
        """The new one as a multiple of the old one; None where that is no number."""
        if self.old is None or self.new is None or not self.old:
            return None
        found = self.new / self.old
        return found if math.isfinite(found) and math.isfinite(self.old) else None

    @property
    def amount(self) -> float:
        """How far apart they are; inf where one of them is not finite, 0 where one is missing."""
        if self.old is None or self.new is None or loudness(self.old) == loudness(self.new):
            return 0.0
        return abs(loudness(self.new) - loudness(self.old))

    @property
    def loudest(self) -> float:
        """The larger one, not measured counting as nothing."""
        return max(loudness(value or 0.0) for value in (self.old, self.new))

    @property
    def is_same(self) -> bool:
        """Whether they differ by no more than another machine's rounding."""
        if self.old is None or self.new is None:
            return self.old is self.new
        slack = max(SAME * self.loudest, SILENT) if self.loudest < math.inf else 0.0
        return self.amount <= slack


@dataclass(frozen=True, slots=True)
class OutputChange:
    """One graph output, or slice, that both have."""

    old: OutputError
    new: OutputError

    @property
    def nsr(self) -> Pair:
        """Accumulated NSR."""
        return Pair(self.old.nsr, self.new.nsr)

    @property
    def verdict(self) -> Verdict:
        """By the NSR; there is no interval of it."""
        return judge(self.nsr)


@dataclass(frozen=True, slots=True)
class ScoreChange:
    """One score of the task that both have; more is better."""

    old: TaskScore
    new: TaskScore


@dataclass(frozen=True, slots=True)
class LayerChange:
    """One layer that both have.

    Attributes:
        by: what it was matched by.
    """

    old: LayerError
    new: LayerError
    by: Literal["name", "nodes"] = "name"

    @property
    def isolated(self) -> Pair:
        """NSR at the outputs with only this layer quantized."""
        return Pair(self.old.isolated_nsr, self.new.isolated_nsr)

    @property
    def local(self) -> Pair:
        """NSR at its own output, inputs in FP32."""
        return Pair(self.old.local_nsr, self.new.local_nsr)

    @property
    def graphwise(self) -> Pair:
        """NSR at its own output with everything quantized."""
        return Pair(self.old.graphwise_nsr, self.new.graphwise_nsr)

    @property
    def verdict(self) -> Verdict:
        """By the isolated error and its 95 % intervals."""
        return judge(self.isolated, self.old.isolated_ci, self.new.isolated_ci)


@dataclass(frozen=True, slots=True)
class FindingChange:
    """One finding: gone (no `new`), new (no `old`), or still there (both)."""

    old: Finding | None
    new: Finding | None

    @property
    def state(self) -> Literal["gone", "new", "still there"]:
        """What became of it."""
        if self.new is None:
            return "gone"
        return "new" if self.old is None else "still there"

    @property
    def finding(self) -> Finding:
        """The one of now, else the old one."""
        found = self.new or self.old
        assert found is not None, "a change has at least one side"
        return found


@dataclass(frozen=True, slots=True)
class Changes:
    """Everything that differs between two analyses.

    Attributes:
        new, old: what is compared.
        differences: in what the two stand on; none: same model, target, data and settings.
        outputs: in the order of `new`, slices behind theirs.
        layers: worst changes first, see `compare`.
        findings: gone, new, still there; within each the largest gain first.
        outputs_gone, outputs_new, scores_gone, scores_new, layers_gone, layers_new: names of
            what only one of them has; gone: only `old`.
        sources_gone, sources_new: sources of noise of only one of them that make up at least 1 %
            of its isolated noise; the loudest first.
    """

    new: Analysis
    old: Analysis
    differences: tuple[Difference, ...] = ()
    outputs: tuple[OutputChange, ...] = ()
    outputs_gone: tuple[str, ...] = ()
    outputs_new: tuple[str, ...] = ()
    scores: tuple[ScoreChange, ...] = ()
    scores_gone: tuple[str, ...] = ()
    scores_new: tuple[str, ...] = ()
    layers: tuple[LayerChange, ...] = ()
    layers_gone: tuple[str, ...] = ()
    layers_new: tuple[str, ...] = ()
    findings: tuple[FindingChange, ...] = ()
    sources_gone: tuple[Source, ...] = ()
    sources_new: tuple[Source, ...] = ()

    @property
    def same_network(self) -> bool:
        """Whether any layer of one is a layer of the other."""
        return bool(self.layers) or not (self.layers_gone and self.layers_new)

    @property
    def same_data(self) -> bool:
        """Whether the errors of both were measured on the same samples."""
        return measured_on(self.new) == measured_on(self.old)


def compare(new: Analysis, old: Analysis) -> Changes:
    """Hold one analysis against an older one.

    Layers that got worse by at least 1 % of the worst output's NSR come first, the largest loss
    on top; then all others by how much they changed; what is within chance or unchanged follows.
    Findings and sources of two networks without a common layer are not held against each other.
    """
    outputs, outputs_new, outputs_gone = match_outputs(new, old)
    scores, scores_new, scores_gone = match_scores(new, old)
    (layers, layers_new, layers_gone), by_nodes = match_layers(new, old)
    names = {before.name: now.name for now, before in layers}
    findings: list[FindingChange] = []
    sources_new: list[Source] = []
    sources_gone: list[Source] = []
    if layers or not (layers_new and layers_gone):
        findings = _findings(new, old, names)
        _, sources_new, sources_gone = match_sources(new, old, names)
    both = [
        LayerChange(before, now, "nodes" if now.name in by_nodes else "name")
        for now, before in layers
    ]
    return Changes(
        new, old, tuple(differences(new, old)),
        tuple(OutputChange(b, a) for a, b in outputs),
        tuple(o.name for o in outputs_gone), tuple(o.name for o in outputs_new),
        tuple(ScoreChange(b, a) for a, b in scores),
        tuple(s.name for s in scores_gone), tuple(s.name for s in scores_new),
        tuple(_worst_first(both, _loudest(new, old))),
        tuple(x.name for x in layers_gone), tuple(x.name for x in layers_new),
        tuple(findings),
        tuple(_audible(old, sources_gone)), tuple(_audible(new, sources_new)),
    )  # fmt: skip


def judge(
    pair: Pair,
    old_interval: tuple[float, float] | None = None,
    new_interval: tuple[float, float] | None = None,
) -> Verdict:
    """Say whether an NSR got better or worse, or whether that cannot be told.

    >>> judge(Pair(0.2, 0.1)), judge(Pair(0.2, 0.1), (0.1, 0.3), (0.05, 0.15))
    ('better', 'within chance')
    """
    if pair.old is None or pair.new is None:
        return "not measured"
    if pair.is_same:
        return "unchanged"
    if old_interval and new_interval:
        (low, high), (bottom, top) = old_interval, new_interval
        if low <= top and bottom <= high:
            return "within chance"
    return "worse" if loudness(pair.new) > loudness(pair.old) else "better"


def _worst_first(layers: Iterable[LayerChange], loudest: float) -> list[LayerChange]:
    groups = {"better": 1, "worse": 1, "within chance": 2, "unchanged": 3, "not measured": 4}

    def key(change: LayerChange) -> tuple[int, float]:
        amount = change.isolated.amount
        if change.verdict == "worse" and amount >= _MATTERS * loudest:
            return 0, -amount
        group = groups[change.verdict]
        return group, -amount if group < groups["unchanged"] else 0.0

    return sorted(layers, key=key)


def _loudest(*analyses: Analysis) -> float:
    found = [analysis.worst_output.nsr for analysis in analyses]
    return max((nsr for nsr in found if math.isfinite(nsr)), default=0.0)


def _findings(new: Analysis, old: Analysis, names: Mapping[str, str]) -> list[FindingChange]:
    still, fresh, gone = match_findings(new, old, names)
    return [
        *_by_gain(FindingChange(finding, None) for finding in gone),
        *_by_gain(FindingChange(None, finding) for finding in fresh),
        *_by_gain(FindingChange(before, now) for now, before in still),
    ]


def _by_gain(changes: Iterable[FindingChange]) -> list[FindingChange]:
    def gain(change: FindingChange) -> float:
        found = change.finding.gain
        return -math.inf if found is None or math.isnan(found) else found

    return sorted(changes, key=gain, reverse=True)


def _audible(analysis: Analysis, sources: Iterable[Source]) -> list[Source]:
    every = analysis.balance.sources if analysis.balance else ()
    total = sum(s.nsr for s in every if s.nsr is not None and math.isfinite(s.nsr))
    heard = [s for s in sources if s.nsr is not None and loudness(s.nsr) >= _HEARD * total > 0]
    return sorted(heard, key=lambda s: -loudness(s.nsr or 0.0))
