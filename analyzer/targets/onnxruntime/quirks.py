# SPDX-License-Identifier: Apache-2.0
"""Where a calibrated plan runs into a quirk of onnxruntime's quantizer: QA221 to QA225."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx

from analyzer.graph.view import GraphView, attributes, captured
from analyzer.records import Finding, Model, Quantizer, QuantPlan
from analyzer.targets.base import finding

_PER_CHANNEL_SINCE = 13  # DequantizeLinear has its axis from this opset on


@dataclass(frozen=True, slots=True)
class _Case:
    model: Model
    plan: QuantPlan
    view: GraphView
    slots: dict[tuple[str, str], Quantizer]


def find_quirks(model: Model, plan: QuantPlan) -> tuple[Finding, ...]:
    """Return the quirks that this plan runs into, by code, then in the order of the graph.

    Args:
        model: the graph of the plan.
        plan: calibrated.
    """
    slots = {q.key: q for q in plan.quantizers if q.active}
    case = _Case(model, plan, GraphView(model.proto.graph), slots)
    checks: tuple[Callable[[_Case], Iterator[Finding]], ...] = (
        _cut_outputs, _missed_activations, _lost_factors, _entropy, _unloadable,
    )  # fmt: skip
    return tuple(quirk for check in checks for quirk in check(case))


def _cut_outputs(case: _Case) -> Iterator[Finding]:
    """QA221: graph outputs with the range of the Relu behind them."""
    for q in case.plan.quantizers:
        if q.active and q.slot.startswith("out") and q.tensor in case.view.outputs and q.observes:
            yield finding("QA221", q.node, output=q.tensor, range_of=q.observes[0])


def _missed_activations(case: _Case) -> Iterator[Finding]:
    """QA222: dropped Relu and Clip nodes that their quantizer does not stand for."""
    bodies = {t for node in case.view.nodes.values() for t in captured(node)}
    for node in case.view.nodes.values():
        if node.op_type not in ("Relu", "Clip") or case.plan.precision.get(node.name) == "fp32":
            continue
        q = case.slots.get((node.name, "out0"))
        if q is not None and q.replaces_node:
            low, high = _bounds(case.view, node)
            if low > 0 or high < 0:
                yield finding("QA222", node.name, reason="bounds beyond zero", low=low, high=high)
            elif q.signed and q.range == (0.0, 0.0):
                yield finding("QA222", node.name, reason="always zero on the calibration data")
        elif node.output[0] in bodies and _merged(case, node):
            yield finding("QA222", node.name, reason="read inside an If, Loop or Scan")


def _merged(case: _Case, node: onnx.NodeProto) -> bool:
    source = node.input[0]
    maker = case.view.nodes.get(case.view.producer.get(source, ""))
    if maker is None or maker.name not in case.plan.precision:
        return False
    slot = f"out{list(maker.output).index(source)}"
    return (maker.name, slot) not in case.slots and (node.name, "in0") not in case.slots


def _bounds(view: GraphView, node: onnx.NodeProto) -> tuple[float, float]:
    """Return what a Relu or Clip cuts to; infinite where that is not constant."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    given = attributes(node)
    bounds = [float(given.get("min", float("-inf"))), float(given.get("max", float("inf")))]
    for index, tensor in enumerate(node.input[1:3]):
        if view.is_constant(tensor):
            bounds[index] = float(view.array(tensor).ravel()[0])
    return bounds[0], bounds[1]


def _lost_factors(case: _Case) -> Iterator[Finding]:
    """QA223: Gemm nodes with a quantized bias and a beta."""
    for name, node in case.view.nodes.items():
        beta = attributes(node).get("beta", 1.0)
        q = case.slots.get((name, "in2"))
        if node.op_type == "Gemm" and beta != 1 and q is not None and q.role == "bias":
            yield finding("QA223", name, beta=float(beta))


def _entropy(case: _Case) -> Iterator[Finding]:
    """QA224: the calibration method that changes nothing."""
    if any(q.observer == "entropy" for q in case.plan.quantizers):
        yield finding("QA224", None)


def _unloadable(case: _Case) -> Iterator[Finding]:
    """QA225: per-channel weights below the opset that has them (16 bits raise the opset)."""
    opset = case.model.opset
    raised = any(q.bits == 16 for q in case.plan.quantizers)
    per_channel = any(q.axis is not None for q in case.plan.quantizers)
    if opset < _PER_CHANNEL_SINCE and per_channel and not raised:
        yield finding("QA225", None, opset=opset, needed=_PER_CHANNEL_SINCE)
