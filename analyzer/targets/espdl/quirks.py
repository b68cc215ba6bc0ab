# SPDX-License-Identifier: Apache-2.0
"""Where a calibrated plan runs into a quirk of esp-ppq 1.3.12: findings QA201 to QA212."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from analyzer.graph.view import GraphView
from analyzer.quant.fake import broadcast, calibrated
from analyzer.records import Finding, Model, Quantizer, QuantPlan
from analyzer.targets.base import finding
from analyzer.targets.espdl.configs import BITS, PASSIVE
from analyzer.targets.espdl.kernels import OTHER_REFERENCE
from analyzer.targets.espdl.luts import DOMAIN, LOOKED_UP

REQUANTIZED_FROM = 1e-5  # difference of scales: InsertRequantNodePattern of the exporter
ZERO_CHANNEL = 2.0**-26
# The KL grid ends at a quarter of the range or nearer: rounding to the nearest power of two alone
# takes at most 1 / 1.41 of it.
CUT = 4.0


@dataclass(frozen=True, slots=True)
class _Case:
    model: Model
    plan: QuantPlan
    view: GraphView
    slots: dict[tuple[str, str], Quantizer]

    def kind(self, node: str) -> str:
        return self.model.op_types.get(node, self.view.nodes[node].op_type)


def find_quirks(model: Model, plan: QuantPlan) -> tuple[Finding, ...]:
    """Return the quirks that this plan runs into, by code, then in the order of the graph.

    Args:
        model: the graph of the plan.
        plan: calibrated and completed.
    """
    case = _Case(model, plan, GraphView(model.proto.graph), {q.key: q for q in plan.quantizers})
    checks: tuple[Callable[[_Case], Iterator[Finding]], ...] = (
        _other_bits, _cut_by_kl, _saturated_biases, _cut_constants, _float_outputs,
        _other_reference, _tables, _missing_requantization, _mse,
    )  # fmt: skip
    found = [quirk for check in checks for quirk in check(case)]
    return tuple(sorted(found, key=lambda f: f.code))


def _other_bits(case: _Case) -> Iterator[Finding]:
    """QA201, QA202: outputs that were aligned to a layer of other bits."""
    for q in case.plan.quantizers:
        root = case.slots.get(q.follows) if q.follows else None
        if root is None or not q.active or not q.slot.startswith("out") or q.bits == root.bits:
            continue
        step = float(calibrated(q)[0][0])
        yield finding(
            "QA201" if q.bits < root.bits else "QA202",
            q.node,
            aligned_to=root.node,
            bits=q.bits,
            bits_of_scale=root.bits,
            step=step,
            largest_value=step * q.qmax,
        )


def _cut_by_kl(case: _Case) -> Iterator[Finding]:
    """QA203: grids that end well inside the range that was seen."""
    used = {q.follows or q.key for q in case.plan.quantizers if q.active}
    for q in case.plan.quantizers:
        if q.observer != "kl" or q.range is None or q.key not in used or q.follows:
            continue
        reach = max(-q.range[0], q.range[1])
        end = -q.qmin * float(calibrated(q)[0][0])
        if reach < CUT * end:
            continue
        wanted = np.ceil(np.log2(2 * reach / (q.qmax - q.qmin)))
        yield finding(
            "QA203",
            q.node,
            slot=q.slot,
            seen=reach,
            kept=end,
            exponent=int(np.log2(calibrated(q)[0][0])),
            exponent_of_range=int(wanted),
        )


def _saturated_biases(case: _Case) -> Iterator[Finding]:
    """QA204, QA205: biases beyond the last step."""
    for q in case.plan.quantizers:
        if q.role != "bias" or not q.active:
            continue
        bias = np.abs(case.view.array(q.tensor).astype(np.float64)).ravel()
        step = np.broadcast_to(calibrated(q)[0], bias.shape) if bias.size > 1 else calibrated(q)[0]
        clipped = bias > step * q.qmax
        weight = case.slots.get((q.node, "in1"))
        empty = clipped & (np.asarray(weight.scale) == ZERO_CHANNEL if weight else False)
        for code, which in (("QA204", clipped & ~empty), ("QA205", empty)):
            if which.any():
                yield finding(
                    code,
                    q.node,
                    bits=q.bits,
                    channels=int(which.sum()),
                    share=float(which.mean()),
                    largest_bias=float(bias[which].max() if bias.size > 1 else bias.max()),
                    largest_stored=float((step * q.qmax)[which].max()),
                )


def _cut_constants(case: _Case) -> Iterator[Finding]:
    """QA206: constants with values beyond the last step because a percentile left them out."""
    for q in case.plan.quantizers:
        if q.observer != "percentile" or q.follows or not case.view.is_constant(q.tensor):
            continue
        array = np.abs(case.view.array(q.tensor).astype(np.float64))
        step = broadcast(calibrated(q)[0], q.axis, array.ndim)
        cut = array > step * (q.qmax + 1)
        if cut.any():
            yield finding(
                "QA206",
                q.node,
                slot=q.slot,
                values=int(cut.sum()),
                of=array.size,
                largest=float(array.max()),
                kept=float(np.max(step * q.qmax)),
            )


def _float_outputs(case: _Case) -> Iterator[Finding]:
    """QA207: graph outputs whose quantization was left to the activation behind them."""
    outputs = set(case.view.outputs)
    for q in case.plan.quantizers:
        if q.active or not q.slot.startswith("out") or q.tensor not in outputs or not q.follows:
            continue
        if case.kind(q.node) not in PASSIVE:
            yield finding("QA207", q.node, output=q.tensor, left_to=q.follows[0])


def _other_reference(case: _Case) -> Iterator[Finding]:
    """QA208: what esp-ppq evaluates otherwise; `graph` and `kernels` have told it."""
    for note in case.model.notes:
        if note.startswith(OTHER_REFERENCE):
            yield finding("QA208", None, difference=note)


def _tables(case: _Case) -> Iterator[Finding]:
    """QA209, QA210: 16-bit functions that are tables in the reference, or only in the file."""
    layers = [n for n in case.plan.layers if case.kind(n) in LOOKED_UP]
    read = [n for n in layers if case.view.nodes[n].domain == DOMAIN]
    if read:
        yield finding("QA209", None, functions=len(read), first=read[0])
    if BITS.get(case.plan.default_precision) == 16:
        return
    for name in layers:
        source = case.slots.get((name, "in0"))
        if source is not None and source.bits == 16:
            yield finding("QA210", name, function=case.kind(name), every=256)


def _missing_requantization(case: _Case) -> Iterator[Finding]:
    """QA211: edges whose two scales differ by too little for the exporter."""
    made = {q.tensor: q for q in case.plan.quantizers if q.active and q.slot.startswith("out")}
    for q in case.plan.quantizers:
        source = made.get(q.tensor)
        if source is None or not q.active or not q.slot.startswith("in"):
            continue
        here, there = float(calibrated(q)[0][0]), float(calibrated(source)[0][0])
        if q.bits == source.bits and here != there and abs(here - there) < REQUANTIZED_FROM:
            yield finding("QA211", q.node, slot=q.slot, scale=here, scale_of_producer=there)


def _mse(case: _Case) -> Iterator[Finding]:
    """QA212: 16-bit ranges that MSE did not search."""
    wide = [q for q in case.plan.quantizers if q.observer == "mse" and q.bits == 16 and q.range]
    if wide:
        yield finding("QA212", None, quantizers=len(wide), first=wide[0].node)
