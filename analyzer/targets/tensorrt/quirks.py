# SPDX-License-Identifier: Apache-2.0
"""Where a calibrated plan runs into a quirk of NVIDIA ModelOpt: QA241 to QA243."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from analyzer.graph.view import GraphView, attributes
from analyzer.quant.fake import calibrated
from analyzer.records import Finding, Model, Quantizer, QuantPlan
from analyzer.targets.base import finding

_PER_CHANNEL = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_FP16_STEP = 2.0**-24  # between numbers below 2^-14
_COARSE = 1 / 16


def find_quirks(model: Model, plan: QuantPlan) -> tuple[Finding, ...]:
    """Return the quirks that this plan runs into, by code, then in the order of the graph.

    Args:
        model: the graph of the plan.
        plan: calibrated.
    """
    view = GraphView(model.proto.graph)
    weights = [q for q in plan.quantizers if q.active and q.role == "weight"]
    return (
        *_whole_weights(view, weights),
        *_coarse_scales(plan),
        *_lost_factors(view, weights),
    )


def _whole_weights(view: GraphView, weights: list[Quantizer]) -> Iterator[Finding]:
    """QA241: weights with one scale although a layer of this kind has one per channel."""
    for q in weights:
        several = view.array(q.tensor).ndim > 1
        if q.axis is None and several and view.nodes[q.node].op_type in _PER_CHANNEL:
            yield finding("QA241", q.node, weight=q.tensor)


def _coarse_scales(plan: QuantPlan) -> Iterator[Finding]:
    """QA242: scales so small that FP16 numbers lie far apart there."""
    for q in plan.quantizers:
        if not q.active:
            continue
        small = calibrated(q)[0] < _FP16_STEP / _COARSE
        if np.any(small):
            smallest = float(calibrated(q)[0].min())
            yield finding("QA242", q.node, slot=q.slot, channels=int(small.sum()), scale=smallest)


def _lost_factors(view: GraphView, weights: list[Quantizer]) -> Iterator[Finding]:
    """QA243: quantized Gemm layers whose beta is not 1."""
    for q in weights:
        node = view.nodes[q.node]
        beta = attributes(node).get("beta", 1.0)
        if node.op_type == "Gemm" and q.slot == "in1" and beta != 1 and len(node.input) > 2:
            yield finding("QA243", q.node, beta=float(beta))
