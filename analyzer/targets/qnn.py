# SPDX-License-Identifier: Apache-2.0
"""Qualcomm QNN, as onnxruntime quantizes for it: `get_qnn_qdq_config` and `quantize`.

Imitates `onnxruntime/quantization/execution_providers/qnn/quant_config.py` of 1.31: every op type
but Cast is quantized, weights are unsigned and asymmetric, ranges are at least 1e-4 wide, and some
16-bit tensors have prescribed scales.  Users who run `qnn_preprocess_model` first analyse the
model that it wrote: it fuses operators, and names the nodes anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import onnx

from analyzer.records import Model, Setting
from analyzer.targets.onnxruntime import FLOAT, QDQTarget
from analyzer.targets.onnxruntime.rules import U8, U16, Grid, Override, Rules, Scheme

# Scale and zero point of 16-bit outputs: 1/65536 and 0; 1/32768 and 32768.
_FIXED = {"Sigmoid": (0.0, 65535 / 65536), "Tanh": (-1.0, 32767 / 32768)}
_PLAIN = Override()


@dataclass(frozen=True, slots=True, kw_only=True)
class QNN(QDQTarget):
    """QDQ for the QNN execution provider."""

    def rules(self, model: Model, setting: Setting, precision: Mapping[str, str]) -> Rules:
        """Return what `get_qnn_qdq_config` makes of the arguments."""
        # a zero-argument super() does not work in a slotted dataclass
        rules = QDQTarget.rules(self, model, setting, precision)
        overrides = dict(rules.overrides)
        constants = {t.name for t in model.proto.graph.initializer}
        for node in model.proto.graph.node:
            if node.name in rules.excluded:
                continue
            if node.op_type in _FIXED:
                _fix_range(overrides, node, rules.types.activation)
            elif node.op_type in ("MatMul", "LayerNormalization"):
                _keep_weight_type(overrides, node, constants, rules)
        return replace(rules, op_types=None, overrides=overrides)


def _fix_range(overrides: dict[str, Override], node: onnx.NodeProto, default: Grid) -> None:
    """Prescribe the scale of a 16-bit Sigmoid's or Tanh's output."""
    found = overrides.get(node.output[0], _PLAIN)
    grid = found.grid or default
    if grid.bits == 16:
        overrides[node.output[0]] = replace(found, grid=grid, fixed_range=_FIXED[node.op_type])


def _keep_weight_type(
    overrides: dict[str, Override], node: onnx.NodeProto, constants: set[str], rules: Rules
) -> None:
    """Give a constant factor the weights' type even where an elementwise op shares it.

    QNN knows no per-channel MatMul, so that a per-channel run overrides all of them.
    """
    weight = Override(grid=rules.types.weight)
    if rules.per_channel:
        if node.op_type == "MatMul":
            for tensor in node.input:
                if tensor in constants:
                    overrides.setdefault(tensor, weight)
        return
    factors = [t for t in node.input[:2] if t in constants and t not in overrides]
    if any(
        _read_type(overrides, t, node, rules).bits == 16
        for t in node.input[:2]
        if t not in constants
    ):
        overrides.update(dict.fromkeys(factors[-1:], weight))


def _read_type(
    overrides: Mapping[str, Override], tensor: str, node: onnx.NodeProto, rules: Rules
) -> Grid:
    found = overrides.get(tensor, _PLAIN)
    if found.convert and node.name in found.receivers:
        return found.convert
    return found.grid or rules.types.activation


QNN_HTP = QNN(
    name="qnn",
    summary="onnxruntime for Qualcomm QNN: get_qnn_qdq_config, A8W8 and A16W8 (unsigned)",
    precisions=("a8w8", "a16w8", FLOAT),
    observers=("minmax", "percentile", "entropy"),
    granularities=("tensor", "channel"),
    least_range=1e-4,
    schemes=MappingProxyType({"a8w8": Scheme(U8, U8), "a16w8": Scheme(U16, U8)}),
    # Rough.  Qualcomm's figures for the same chips: YOLOv8 5.2 and 3.7 ms in float, 2.3 and 1.5 in
    # 8 bits; YOLO-R in float twice as long as with 16-bit activations.  Float is FP16 there.
    cost_factors=MappingProxyType({"a8w8": 1.0, "a16w8": 1.5, FLOAT: 2.4}),
)
