# SPDX-License-Identifier: Apache-2.0
"""From a plan to one call of onnxruntime's `quantize_static`, as plain values that JSON holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analyzer.export.asked import several
from analyzer.export.grids import container
from analyzer.export.names import check
from analyzer.export.order import Order
from analyzer.graph.build import is_float
from analyzer.graph.view import GraphView
from analyzer.quant.fake import calibrated
from analyzer.records import Quantizer
from analyzer.targets.onnxruntime import QDQTarget
from analyzer.targets.onnxruntime.rules import Grid, Override

_METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
_TYPES = {
    (8, True): "QInt8",
    (8, False): "QUInt8",
    (16, True): "QInt16",
    (16, False): "QUInt16",
}
_BY_CONTAINER = {"int8": "QInt8", "uint8": "QUInt8", "int16": "QInt16", "uint16": "QUInt16"}
_FLOATS = frozenset({"fp32", "fp16"})
# behind these a grid around 0 holds the same values as in front of them
_RECTIFIERS = frozenset({"Relu", "Clip"})

# Any: what `TensorQuantOverrides` holds: names of types, numbers, lists
Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one call; names of types and methods are those of onnxruntime's enums.

    Attributes:
        by: "quantize_static", or "qnn" for `get_qnn_qdq_config` and `quantize`.
        overrides: tensor -> entries of `TensorQuantOverrides`.
        options: the other `extra_options`.
        left_out: one sentence per thing that cannot be asked for.
    """

    by: str
    activation_type: str
    weight_type: str
    per_channel: bool
    calibrate_method: str
    nodes_to_exclude: tuple[str, ...]
    overrides: dict[str, list[Entry]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def call_for(order: Order) -> Call:
    """Return the call that quantizes `order.source` as planned.

    Raises:
        ExportError: if the plan names a layer or a tensor that is not there.
    """
    check(order.proposal.setting.table, {n.name for n in order.graph.proto.graph.node}, "layer")
    check(order.proposal.setting.ranges, order.graph.shapes, "tensor")
    if isinstance(order.target, QDQTarget):
        return _own(order, order.target)
    return _foreign(order)


# plans of onnxruntime and QNN: the same arguments that were simulated


def _own(order: Order, target: QDQTarget) -> Call:
    setting, nodes = order.proposal.setting, order.graph.proto.graph.node
    default = setting.precision or target.precisions[0]
    precision = {n.name: setting.table.get(n.name, default) for n in nodes}
    # QNN's own additions are made anew by its config
    rules = QDQTarget.rules(target, order.graph, setting, precision)
    overrides = {tensor: _entry(found) for tensor, found in rules.overrides.items()}
    lost = _ask_for_ranges(order, overrides)
    return Call(
        by="quantize_static" if target.name == "onnxruntime" else "qnn",
        activation_type=_TYPES[rules.types.activation],
        weight_type=_TYPES[rules.types.weight],
        per_channel=rules.per_channel,
        calibrate_method=_METHODS[setting.observer or target.observers[0]],
        nodes_to_exclude=tuple(n.name for n in nodes if n.name in rules.excluded),
        overrides={tensor: [entry] for tensor, entry in overrides.items() if entry},
        left_out=tuple(
            f"The range of '{tensor}': its scale is that of another tensor." for tensor in lost
        ),
    )


def _entry(override: Override) -> Entry:
    entry: Entry = {}
    if override.grid:
        entry["quant_type"] = _TYPES[override.grid]
    if override.convert:
        entry["convert"] = {
            "quant_type": _TYPES[override.convert],
            "recv_nodes": sorted(override.receivers),
        }
    return entry


def _ask_for_ranges(order: Order, overrides: dict[str, Entry]) -> list[str]:
    """Add ranges to `overrides`; return the tensors that have no scale of their own."""
    roots: dict[str, set[Grid]] = {}
    for q in order.plan.quantizers:
        if q.active and q.follows is None and q.role in ("input", "activation"):
            roots.setdefault(q.tensor, set()).add(Grid(q.bits, q.signed))
    lost = []
    for tensor, (low, high) in order.proposal.setting.ranges.items():
        if tensor not in roots:
            lost.append(tensor)
            continue
        wanted = {"rmin": float(np.float32(low)), "rmax": float(np.float32(high))}
        entry = overrides.setdefault(tensor, {})
        entry.update(wanted)
        if "convert" in entry:
            entry["convert"].update(wanted)
    return lost


# plans of other targets: every scale is given


def _foreign(order: Order) -> Call:
    graph, view = order.source, GraphView(order.source.proto.graph)
    grids, mixed = _one_grid_each(order)
    overrides: dict[str, list[Entry]] = {}
    unfit: list[str] = []
    for tensor, quantizer in grids.items():
        known = tensor in graph.shapes and is_float(graph, tensor)
        entries = _scales(quantizer) if known else None
        if entries is None:
            unfit.append(tensor)
        else:
            overrides[tensor] = entries
    for node in view.nodes.values():  # both sides of a Relu are read on one grid
        source, output = node.input[0] if node.input else "", node.output[0]
        alone = view.consumers.get(source) == [node.name] and source not in view.outputs
        if node.op_type in _RECTIFIERS and alone and output in overrides:
            overrides.setdefault(source, overrides[output])
    types = Counter(e["quant_type"] for t, (e, *_) in overrides.items() if not view.is_constant(t))
    default = types.most_common(1)[0][0] if types else "QInt8"
    weights = Counter(e["quant_type"] for t, (e, *_) in overrides.items() if view.is_constant(t))
    biases = any(q.active and q.role == "bias" for q in order.plan.quantizers)
    return Call(
        by="quantize_static",
        activation_type=default,
        weight_type=weights.most_common(1)[0][0] if weights else "QInt8",
        per_channel=any(q.axis is not None and q.role == "weight" for q in grids.values()),
        calibrate_method="MinMax",
        nodes_to_exclude=_excluded(order, view),
        overrides=overrides,
        options={"QDQKeepRemovableActivations": True, "QuantizeBias": biases},
        left_out=tuple(_foreign_notes(order, mixed, unfit)),
    )


def _foreign_notes(order: Order, mixed: list[str], unfit: list[str]) -> Iterable[str]:
    yield (
        "Where quantizers stand: onnxruntime's quantizer decides that. Tensors that the plan "
        "quantizes have its scales; others that onnxruntime quantizes get a range by calibration."
    )
    if any(q.rounding == "half_up" for q in order.plan.quantizers if q.active):
        yield "Rounding: onnxruntime rounds halves to even, the target rounds them up."
    if any(q.role == "bias" and q.stored is not None for q in order.plan.quantizers):
        yield "Biases that the target corrects: they stay as they are."
    if mixed:
        yield f"Several grids on one tensor ({several(mixed)}): one of them is given."
    if unfit:
        yield f"Scales of {several(unfit)}: not in the FP32 model, or of no integer type."


def _one_grid_each(order: Order) -> tuple[dict[str, Quantizer], list[str]]:
    """Return tensor -> quantizer, its maker's first, biases left out; and tensors with several."""
    found: dict[str, list[Quantizer]] = {}
    for q in order.plan.quantizers:
        if q.active and q.role != "bias":
            found.setdefault(q.tensor, []).append(q)
    chosen = {}
    several = []
    for tensor, quantizers in found.items():
        made = [q for q in quantizers if q.slot.startswith("out")]
        chosen[tensor] = (made or quantizers)[0]
        if len({_told(q) for q in quantizers}) > 1:
            several.append(tensor)
    return chosen, several


def _told(quantizer: Quantizer) -> tuple[object, ...]:
    scale, zero = calibrated(quantizer)
    return container(quantizer), scale.tobytes(), zero.tobytes()


def _scales(quantizer: Quantizer) -> list[Entry] | None:
    kind = container(quantizer)
    if kind is None:
        return None
    scale, zero = calibrated(quantizer)
    steps = [float(s) for s in scale.astype(np.float32).ravel()]
    entries: list[Entry] = [
        {"quant_type": _BY_CONTAINER[kind], "scale": s, "zero_point": int(z)}
        for s, z in zip(steps, zero.ravel(), strict=True)
    ]
    if quantizer.axis is not None:
        entries[0]["axis"] = quantizer.axis
    return entries


def _excluded(order: Order, view: GraphView) -> tuple[str, ...]:
    """Return the nodes that stay in float: by plan, or because the target sees them merged."""
    quantized = {
        name for name, precision in order.plan.precision.items() if precision not in _FLOATS
    }
    shapes = order.graph.shapes
    merged = {
        node.name
        for node in view.nodes.values()
        if any(
            tensor and is_float(order.source, tensor) and tensor not in shapes
            for tensor in (*node.input, *node.output)
            if not view.is_constant(tensor)
        )
    }
    return tuple(n for n in view.nodes if n not in quantized or n in merged)
