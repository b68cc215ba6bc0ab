# SPDX-License-Identifier: Apache-2.0
"""A cause that a rule suspects, and how to take it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from analyzer.records import Quantizer

Changes = dict[tuple[str, str], Quantizer | None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One suspected cause.

    Attributes:
        evidence: numbers and names; Any: as JSON holds them.
        changes: (node, slot) -> the quantizer there once exactly this cause is gone, None for
            none; empty where it cannot be taken out.
        certain: to be reported whatever the trial says (a fact, not a guess).
        expected: share of the output noise that may go with it; where too many causes are
            suspected, those of which most is expected are tried.  None: tried in any case.
    """

    code: str
    layer: str | None
    evidence: Mapping[str, Any]
    changes: Mapping[tuple[str, str], Quantizer | None] = field(default_factory=dict)
    certain: bool = False
    expected: float | None = None
