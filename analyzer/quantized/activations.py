# SPDX-License-Identifier: Apache-2.0
"""Activations that a quantizer took over are written out again.

A grid whose lowest level stands for 0 clips like a Relu, so quantizers drop the Relu before it.
With all quantizers off it would be missing.  Putting it back changes no quantized value.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from analyzer.quantized.grids import Grid

# what activations are fused into
_BEFORE = frozenset(
    """
    Conv ConvTranspose Gemm MatMul Add Sub Mul BatchNormalization InstanceNormalization
    """.split()
)
_SIX = 6.0  # where mobile networks clip
_NEAR = 1e-4


def taken_over(node: onnx.NodeProto, grids: list[tuple[Grid, ...]]) -> str:
    """Return the activation that stood behind `node`: `Relu`, `Relu6` or none.

    Args:
        node: of one output.
        grids: for each of its readers, the grids passed on the way there.
    """
    if node.op_type not in _BEFORE or not grids or not grids[0]:
        return ""
    first = grids[0][0]
    if not all(passed and passed[0].same(first) for passed in grids):
        return ""
    if first.bits > 16 or not np.all(first.zero_point == first.qmin):
        return ""
    top = (first.qmax - first.qmin) * first.scale
    return "Relu6" if np.all(np.abs(top - _SIX) <= _NEAR * _SIX) else "Relu"


def restore(node: onnx.NodeProto, kind: str, opset: int) -> onnx.NodeProto:
    """Put `kind` behind `node`, which is changed: its tensor is now made by the new node."""
    tensor = node.output[0]
    node.output[0] = f"{tensor}//linear"
    name = f"{node.name}/{kind}"
    if kind == "Relu":
        return helper.make_node("Relu", [node.output[0]], [tensor], name=name)
    if opset < 11:
        return helper.make_node("Clip", [node.output[0]], [tensor], name=name, min=0.0, max=_SIX)
    bounds = [f"{name}//min", f"{name}//max"]
    return helper.make_node("Clip", [node.output[0], *bounds], [tensor], name=name)
