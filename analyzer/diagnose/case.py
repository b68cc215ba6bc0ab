# SPDX-License-Identifier: Apache-2.0
"""What a diagnosis has to go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from analyzer.diagnose.grids import is_power_of_two
from analyzer.diagnose.sites import Site, sites_of
from analyzer.graph.view import GraphView
from analyzer.records import (
    Balance,
    Finding,
    LayerError,
    Model,
    OutputError,
    QuantPlan,
    Sample,
    Samples,
)
from analyzer.targets.base import Target


@dataclass(frozen=True)
class Case:
    """One measured plan.

    Attributes:
        model: the graph that the plan belongs to.
        plan: calibrated.
        target: None where the plan was read from a file.
        rows: with local, graphwise and isolated errors.
        samples: a few representative ones of the analysis data.
        calibration: the calibration data; None where the plan was read from a file.
        quirks: what the target itself had to say.
    """

    model: Model
    plan: QuantPlan
    target: Target | None
    rows: Sequence[LayerError]
    outputs: Sequence[OutputError]
    balance: Balance
    samples: Sequence[Sample]
    calibration: Samples | None
    quirks: Sequence[Finding] = ()

    @cached_property
    def view(self) -> GraphView:
        """The graph, indexed."""
        return GraphView(self.model.proto.graph)

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The grids of the worst sources, the worst first, with what was seen of their tensors."""
        return sites_of(self.model, self.view, self.plan, self.balance, self.samples)

    @cached_property
    def power_of_two(self) -> bool:
        """Whether the target's scales are powers of two."""
        moving = (q for q in self.plan.quantizers if q.active and q.role == "activation")
        return is_power_of_two(moving)
