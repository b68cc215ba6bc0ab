# SPDX-License-Identifier: Apache-2.0
"""What remedies are chosen by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from analyzer.graph.view import GraphView
from analyzer.records import (
    Balance,
    Finding,
    LayerError,
    Model,
    QuantPlan,
    Sample,
    Setting,
)
from analyzer.targets.base import Target


@dataclass(frozen=True)
class Situation:
    """A plan that was measured, and what is known about it.

    Attributes:
        source: the bound model before the target prepared it: edits that the target does not do
            itself are made there.
        model: the graph that the plan belongs to, with the slices of outputs that are looked at.
        plan: calibrated.
        target: that placed it.
        setting: what the target was asked for.
        rows: with local, graphwise and isolated errors.
        balance: where the noise comes from.
        findings: what was diagnosed.
        samples: a few representative ones of the analysis data.
        ranges: (tensor, observer) -> range that this observer finds, for tensors with a
            quantizer and all observers of the target.
    """

    source: Model
    model: Model
    plan: QuantPlan
    target: Target
    setting: Setting
    rows: Sequence[LayerError]
    balance: Balance
    findings: Sequence[Finding]
    samples: Sequence[Sample]
    ranges: Mapping[tuple[str, str], tuple[float, float]]

    @cached_property
    def view(self) -> GraphView:
        """The graph, indexed."""
        return GraphView(self.model.proto.graph)

    @cached_property
    def shares(self) -> dict[str, float]:
        """Source of noise -> its share of the sum of all isolated errors."""
        nsr = {s.name: s.nsr for s in self.balance.sources if s.nsr}
        total = sum(nsr.values()) or 1.0
        return {name: value / total for name, value in nsr.items()}
