# SPDX-License-Identifier: Apache-2.0
"""What an exporter is given: one plan that was simulated, and what it was measured to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from analyzer.records import Analysis, Edit, Model, Proposal, QuantPlan
from analyzer.targets.base import Target

Files = Mapping[str, str | bytes]  # path below the export folder -> content


@dataclass(frozen=True, slots=True)
class Order:
    """One plan to be written down for a quantizer.

    Attributes:
        analysis: that the plan comes out of: provenance, layers, outputs before.
        proposal: the one to be written; its `setting` says what was asked of the target.
        original: the user's own file.
        source: the bound FP32 graph in canonical form, with all edits but those the target does
            itself (`Target.native_edits`); every node has a unique name.
        graph: that `plan` belongs to: `source` as the target sees it, its own edits done.
        plan: calibrated.
        target: that was imitated.
    """

    analysis: Analysis
    proposal: Proposal
    original: Path
    source: Model
    graph: Model
    plan: QuantPlan
    target: Target

    @property
    def native_edits(self) -> tuple[Edit, ...]:
        """Edits that the target's own config asks for; `source` does not have them."""
        edits = self.proposal.setting.edits
        return tuple(edit for edit in edits if edit.kind in self.target.native_edits)

    @property
    def our_edits(self) -> tuple[Edit, ...]:
        """Edits that are done in `source` already."""
        edits = self.proposal.setting.edits
        return tuple(edit for edit in edits if edit.kind not in self.target.native_edits)
