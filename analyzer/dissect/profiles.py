# SPDX-License-Identifier: Apache-2.0
"""What the tensors of the worst layers hold: a plan and a few samples in, histograms out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from analyzer.records import Model, QuantPlan, Sample, TensorProfile

BINS = 64
CHANNELS = 128  # entries of a profile at most


def profiles(
    model: Model,
    plan: QuantPlan,
    layers: Sequence[str],
    samples: Sequence[Sample],
    *,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
) -> tuple[TensorProfile, ...]:
    """Look into the tensors of some layers.

    Args:
        model: the graph that the plan belongs to.
        plan: calibrated.
        layers: the worst rows, the worst first.
        samples: a few representative ones; none: only constants are looked at.
        workers: threads that run side by side.
        step: told the number of runs finished since the last call.

    Returns:
        for every layer its active quantizers that can be drawn, in the order of the slots.
    """
    return ()
