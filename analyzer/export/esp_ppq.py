# SPDX-License-Identifier: Apache-2.0
"""esp-ppq: the setting as `QuantizationSettingFactory.from_json` reads it, and a script for it.

A plan goes in; `esp-ppq/setting.json` and `esp-ppq/quantize.py` come out.  Layers have the names
that esp-ppq gives them once onnxsim has run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from analyzer.errors import ExportError
from analyzer.export.asked import asked, left_out, several, width
from analyzer.export.esp_ppq_script import SCRIPT, script
from analyzer.export.esp_ppq_setting import Told, setting_of
from analyzer.export.header import header, lines
from analyzer.export.names import check
from analyzer.export.order import Files, Order
from analyzer.formats import SOURCE, TOOLS
from analyzer.records import Quantizer
from analyzer.targets.espdl import ESP32P4
from analyzer.targets.espdl.simplifier import simplify_model
from analyzer.targets.espdl.splits import MADE

TOOL = "esp-ppq"
SETTING = "esp-ppq/setting.json"
_OBSERVERS = ("minmax", "percentile")  # that mean the same for other targets


def write(order: Order) -> Files:
    """Return the setting and the script.

    Raises:
        ExportError: if a layer or tensor is not there, with the nearest match, or nothing of a
            plan for another tool can be said.
    """
    if order.target.name in TOOLS[TOOL].targets:
        told, missing = _own(order)
    else:
        told, missing = _translated(order)
    beyond = list(_beyond_json(told))
    said = lines(order, [*missing, *beyond], tool=TOOL)
    written = json.dumps(setting_of(told, said), indent=2, ensure_ascii=False)
    return {
        SETTING: written + "\n",
        SCRIPT: script(order, told, header(order, left_out=missing, tool=TOOL)),
    }


def _own(order: Order) -> tuple[Told, list[str]]:
    """Tell a plan of this tool's own target, and what cannot be told."""
    setting = order.proposal.setting
    if setting.precision == "fp32":
        raise ExportError(
            "esp-ppq quantizes nothing in fp32, so there is no setting to write.",
            "Leave esp-ppq out of --export.",
        )
    splits = order.native_edits
    layers = {node.name for node in order.graph.proto.graph.node}
    check(setting.table, {name for name in layers if not name.startswith(MADE)}, "layer")
    check([layer for edit in splits for layer in edit.layers], layers, "layer")
    check(setting.ranges, order.graph.shapes, "tensor")
    if order.our_edits:
        _check_survival(order, [*setting.table, *(n for e in splits for n in e.layers)])
    slots = [q for q in order.plan.quantizers if _has_wanted_range(order, q)]
    told = Told(
        target=order.target.name,
        file="ours" if order.our_edits else "original",
        precision=setting.precision or "int8",
        observer=setting.observer,
        table=dict(setting.table),
        splits=tuple((layer, edit.threshold or 0.0) for edit in splits for layer in edit.layers),
        scales={(q.node, q.slot): _scale(q) for q in slots},
    )
    without = setting.ranges.keys() - {q.tensor for q in slots}
    missing = [
        f"the range of {tensor}: its scale is another tensor's, in the simulation too."
        for tensor in setting.ranges
        if tensor in without
    ]
    return told, missing


def _has_wanted_range(order: Order, quantizer: Quantizer) -> bool:
    """Tell whether a slot has the scale of a range the user asked for."""
    wanted = quantizer.tensor in order.proposal.setting.ranges
    return wanted and quantizer.follows is None and quantizer.role in ("input", "activation")


def _scale(quantizer: Quantizer) -> float:
    assert quantizer.scale is not None, "the plan of an order is calibrated"
    return float(quantizer.scale.item())


def _check_survival(order: Order, names: list[str]) -> None:
    """Refuse names of our FP32 model that onnxsim would take away when it runs over it again."""
    source = {node.name for node in order.source.proto.graph.node}
    again = {node.name for node in simplify_model(order.source.proto)[0].graph.node}
    check([name for name in names if name in source], again, "layer")


def _translated(order: Order) -> tuple[Told, list[str]]:
    """Tell a plan of another target as far as esp-ppq has something like it."""
    found = asked(order)
    known = _known(order)
    table, lost = {}, []
    for layer in found.layers:
        names = [node for node in layer.nodes if node in known]
        table.update(dict.fromkeys(names, _word(layer.precision)))
        lost += [] if names else [layer.name]
    setting = order.proposal.setting
    observer = setting.observer if setting.observer in _OBSERVERS else None
    told = Told(
        target=ESP32P4.name,
        file=found.file,
        precision="int16" if found.base == "wide" else "int8",
        observer=observer,
        table=table,
    )
    if found.base == "float" or not (table or observer or found.file == "ours"):
        raise ExportError(
            f"esp-ppq has no counterpart of what the plan asks {order.target.name} for.",
            f"Analyse with --target {ESP32P4.name} to get a plan for it.",
        )
    missing = list(left_out(order, found, tool=TOOL, wide=True, observers=_OBSERVERS))
    if lost:
        missing.append(f"{several(lost)}: esp-ppq has no layer of that name.")
    return told, missing


def _word(precision: str) -> str:
    return {"float": "fp32", "int8": "int8", "wide": "int16"}[width(precision)]


def _known(order: Order) -> set[str]:
    """Return the names that are still there after onnxsim and esp-ppq's own fusions."""
    simple = {node.name for node in simplify_model(order.source.proto)[0].graph.node}
    return simple & {node.name for node in ESP32P4.prepare(order.source).proto.graph.node}


def _beyond_json(told: Told) -> Iterator[str]:
    """Yield what stands in no field of the setting, and where it is told instead."""
    yield (
        f"target {told.target!r} and quant_type {told.quant_type!r} are arguments of "
        "espdl_quantize_onnx; quantize.py gives them."
    )
    if told.file == "ours":
        yield f"the setting is for {SOURCE}, not for the model as it was."
    if told.thresholds:
        yield (
            "the setting has one threshold for all splits, here the lowest; quantize.py gives "
            "every layer the one that was measured."
        )
    if told.other_scales:
        slots = [f"{node} {slot}" for node, slot in told.other_scales]
        yield (
            f"the setting can fix the scale of a first output only; quantize.py also fixes those "
            f"of {several(slots)}."
        )
