# SPDX-License-Identifier: Apache-2.0
"""QA108: weights whose channels reach unequally far, on one scale.

Folding a BatchNorm multiplies each output channel by a factor of its own; for a depthwise
convolution nothing evens that out.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import onnx

from analyzer.diagnose.candidate import Candidate
from analyzer.diagnose.case import Case
from analyzer.diagnose.grids import fitted, is_power_of_two, with_scales
from analyzer.diagnose.sites import worst
from analyzer.graph.view import attributes, weight_output_axis
from analyzer.quant.fake import calibrated
from analyzer.records import Quantizer

UNEQUAL = 8.0  # times the reach of the smaller channels: they lose three of their bits
SMALLER = 25  # percent of the channels


def unequal_channels(case: Case) -> Iterator[Candidate]:
    """Yield the weights of the worst layers whose channels differ, for scales of their own."""
    by_key = {q.key: q for q in case.plan.quantizers}
    for source, share in worst(case.balance):
        for quantizer in (by_key[key] for key in source.quantizers):
            axis = _output_axis(case, quantizer)
            if axis is None or calibrated(quantizer)[0].size > 1:
                continue
            found = _unequal(case, quantizer, axis, share)
            if found:
                yield found


def _output_axis(case: Case, quantizer: Quantizer) -> int | None:
    """Return the axis of a weight that runs over output channels, None where there is none."""
    node = case.view.nodes[quantizer.node]
    if quantizer.role != "weight" or quantizer.slot != "in1":
        return None
    return weight_output_axis(node, len(case.model.shapes[quantizer.tensor]))


def _unequal(case: Case, quantizer: Quantizer, axis: int, share: float) -> Candidate | None:
    weight = case.view.array(quantizer.tensor).astype(np.float64)
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    spans = np.abs(rows).max(axis=1)
    live = spans[spans > 0]
    if live.size < 2:
        return None
    small = float(np.percentile(live, SMALLER))
    if spans.max() < UNEQUAL * small:
        return None
    two = is_power_of_two([quantizer])
    scale, zero = fitted(quantizer, rows.min(axis=1), rows.max(axis=1), power_of_two=two)
    own = float(calibrated(quantizer)[0].item())
    scale = np.where(scale > own, np.nan, scale)
    node = case.view.nodes[quantizer.node]
    evidence = {
        "tensor": quantizer.tensor,
        "channel": int(np.argmax(spans)),
        "range_ratio": float(spans.max()) / small,
        "channels": spans.size,
        "below_one_step": int((spans < own).sum()),
        "depthwise": _depthwise(node, weight.shape),
    }
    changes = {quantizer.key: with_scales(quantizer, scale, zero, axis)}
    return Candidate("QA108", quantizer.node, evidence, changes, expected=share)


def _depthwise(node: onnx.NodeProto, shape: tuple[int, ...]) -> bool:
    groups = int(attributes(node).get("group", 1))
    return groups > 1 and prod(shape[1:2]) == 1
