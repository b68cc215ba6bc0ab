# SPDX-License-Identifier: Apache-2.0
"""Greater, Less, Equal: both operands share the larger scale, doubled, once scales are known.

`align_to_large` of `quantization/optim/refine.py` in esp-ppq 1.3.12: it feeds the ends of the
larger grid, -128 and 127 steps, to the rule for ranges, and 256 / 255 of a power of two lies above
that power.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analyzer.graph.view import GraphView, view_of
from analyzer.quant.fake import calibrated
from analyzer.records import Model, Quantizer, QuantPlan
from analyzer.targets.base import Target
from analyzer.targets.espdl.configs import COMPARE, PASSIVE

Key = tuple[str, str]


def align_comparisons(target: Target, model: Model, plan: QuantPlan) -> QuantPlan:
    """Give the operands of every comparison, and what makes only them, the shared scale.

    Args:
        target: turns a range into a scale.
        model: the graph of the plan.
        plan: calibrated.
    """
    view = view_of(model.proto)
    types = {name: model.op_types.get(name, view.nodes[name].op_type) for name in plan.layers}
    done = {q.key: q for q in plan.quantizers}
    for name, kind in types.items():
        operands = [done[name, slot] for slot in ("in0", "in1") if (name, slot) in done]
        if kind not in COMPARE or not operands:
            continue
        master = _widest(target, operands)
        done[master.key] = master
        for key in [*(q.key for q in operands[1:]), *_producers(view, types, name)]:
            if key in done:
                _follow(done, key, master)
    return replace(plan, quantizers=tuple(done[q.key] for q in plan.quantizers))


def _widest(target: Target, operands: list[Quantizer]) -> Quantizer:
    """Return the first operand's quantizer with a scale that covers the grids of both."""
    steps = [float(calibrated(q)[0][0]) for q in operands]
    lo = np.array([min(s * q.qmin for s, q in zip(steps, operands, strict=True))])
    hi = np.array([max(s * q.qmax for s, q in zip(steps, operands, strict=True))])
    scale, zero = target.scale(operands[0], lo, hi, "minmax")
    return replace(
        operands[0], scale=scale, zero_point=zero, active=True, follows=None, group=None
    )


def _producers(view: GraphView, types: dict[str, str], name: str) -> list[Key]:
    """Return the output slots that `name` alone reads, but for ops that only move values."""
    found = []
    for tensor in view.nodes[name].input:
        producer = view.producer.get(tensor)
        if producer is None or types.get(producer, "Identity") in PASSIVE:
            continue
        outputs = list(view.nodes[producer].output)
        if sum(len(view.consumers.get(t, ())) for t in outputs) == 1:
            found.append((producer, f"out{outputs.index(tensor)}"))
    return found


def _follow(done: dict[Key, Quantizer], key: Key, master: Quantizer) -> None:
    """Let the quantizer `key`, and all that followed it, take the scale of `master`."""
    for other, quantizer in list(done.items()):
        if other == key or (quantizer.follows == key and other != master.key):
            done[other] = replace(
                quantizer,
                scale=master.scale,
                zero_point=master.zero_point,
                follows=master.key,
                group=f"{master.node}:{master.slot}",
                active=quantizer.active or other == key,
            )
