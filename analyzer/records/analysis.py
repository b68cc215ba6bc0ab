# SPDX-License-Identifier: Apache-2.0
"""The one result of a run, and what it stands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from analyzer.records.noise import Balance, Finding, LayerError, OutputError, TaskScore, loudness
from analyzer.records.pictures import Network, TensorProfile
from analyzer.records.plan import QuantPlan
from analyzer.records.proposals import Attempt, Proposal


@dataclass(frozen=True, slots=True)
class DataInfo:
    """Which data a result stands on.

    Attributes:
        role: "calibration" or "analysis".
        count: samples used.
        available: samples found.
        origin: the path as given, or `module:function`.
        sha256: digest over the prepared input arrays of the samples used.
        shapes: input name -> shape of one run.
        preprocessing: one line, empty for arrays.
    """

    role: str
    count: int
    available: int
    origin: str
    sha256: str
    shapes: Mapping[str, tuple[int, ...]]
    preprocessing: str = ""
    skipped: tuple[str, ...] = ()
    selection: str = ""


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the numbers stand on: enough to run them again."""

    tool_version: str
    command: str
    model: Mapping[str, Any]  # Any: name, sha256, nodes, parameters, macs, notes
    target: str
    data: tuple[DataInfo, ...]
    seed: int
    config: Mapping[str, Any]  # Any: the resolved configuration, as JSON holds it
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Analysis:
    """The one result of a run; every report and export reads only this.

    Attributes:
        layers: in execution order.
        proposals: none where none was looked for.
        timing: stage -> seconds.
        network: how the layers hang together; None in files that do not say.
        profiles: of the tensors of the worst layers.
        exports: path below the export folder -> text of the recommended plan; empty where the
            file is none, or too long to be carried.
    """

    provenance: Provenance
    outputs: tuple[OutputError, ...]
    layers: tuple[LayerError, ...]
    plan: QuantPlan
    findings: tuple[Finding, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    timing: Mapping[str, float] = field(default_factory=dict)
    peak_rss_bytes: int = 0
    warnings: tuple[str, ...] = ()
    balance: Balance | None = None
    task: tuple[TaskScore, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    network: Network | None = None
    profiles: tuple[TensorProfile, ...] = ()
    exports: Mapping[str, str] = field(default_factory=dict)

    @property
    def worst_output(self) -> OutputError:
        """The whole graph output with the highest accumulated NSR (NaN counts as worst)."""
        whole = [output for output in self.outputs if output.slice_of is None]
        return max(whole, key=lambda output: loudness(output.nsr))
