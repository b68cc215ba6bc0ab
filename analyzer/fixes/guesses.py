# SPDX-License-Identifier: Apache-2.0
"""What candidates for edits are chosen by: a situation goes in, guesses and ranges come out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from analyzer.fixes.situation import Situation
from analyzer.graph.tensors import TensorRuns
from analyzer.quant.fake import calibrated
from analyzer.records import Model, QuantPlan, Sample

F64 = npt.NDArray[np.float64]

_DIGITS = 7  # as many as float32 holds


def guessed(situation: Situation, layers: Collection[str], part: float) -> float | None:
    """Return the share of the noise that goes if `part` of what these layers make does.

    None where the balance says nothing of them.
    """
    wanted = set(layers)
    found = [
        situation.shares[s.name] * len(wanted.intersection(s.layers)) / len(s.layers)
        for s in situation.balance.sources
        if s.name in situation.shares and wanted.intersection(s.layers)
    ]
    return min(part * sum(found), 1.0) if found else None


def rounded(values: F64) -> tuple[float, ...]:
    """Return numbers as short as they can be written and still be as good in float32."""
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)


def weights_by_channel(plan: QuantPlan) -> bool:
    """Tell whether the plan gives most weights a scale per channel."""
    sizes = [calibrated(q)[0].size > 1 for q in plan.quantizers if q.role == "weight" and q.active]
    return 2 * sum(sizes) > len(sizes)


def channel_reaches(
    model: Model, places: Mapping[str, tuple[str, int]], samples: Sequence[Sample]
) -> dict[str, F64]:
    """Return the largest magnitude of each channel on samples.

    Args:
        model: bound.
        places: key -> tensor, and the axis of its channels.
        samples: a few.
    """
    runs = TensorRuns(model, (tensor for tensor, _ in places.values()))
    found: dict[str, F64] = {}
    for sample in samples:
        values = runs.run(sample)
        for key, (tensor, axis) in places.items():
            array = np.moveaxis(values[tensor], axis, 0)
            most = np.abs(array.reshape(array.shape[0], -1)).max(axis=1).astype(np.float64)
            found[key] = np.maximum(found[key], most) if key in found else most
    return found
