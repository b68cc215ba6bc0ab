# SPDX-License-Identifier: Apache-2.0
"""The verify stage: plans go in, what they do to the outputs comes out, as means over samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from analyzer.graph.ends import Nsr, Watch, run_ends
from analyzer.graph.trials import mean_nsr
from analyzer.records import Model, QuantPlan, Samples


@dataclass(frozen=True, slots=True)
class Verified:
    """One plan.

    Attributes:
        nsr: float graph output -> mean NSR over the samples.
        by_sample: the same per sample, in order.
    """

    nsr: Nsr
    by_sample: tuple[Nsr, ...]


def verify(
    reference: Model,
    plans: Sequence[tuple[Model, QuantPlan]],
    samples: Samples,
    *,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
    watch: Watch | None = None,
) -> list[Verified]:
    """Run plans beside the FP32 model, outputs only; see `graph.ends.run_ends`."""
    found = run_ends(reference, plans, samples, workers=workers, step=step, watch=watch)
    return [Verified(mean_nsr(rows), tuple(rows)) for rows in found]
