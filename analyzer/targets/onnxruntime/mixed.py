# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: layers that want another activation type go in, tensor overrides come out.

A layer is given another type by an override of its outputs.  What has to be converted around it
follows onnxruntime's `MixedPrecisionTensorQuantOverridesFixer`
(`quantization/execution_providers/qnn/mixed_precision_overrides_utils.py`).
"""

from __future__ import annotations

from collections.abc import Collection

import onnx

from analyzer.graph.build import is_float
from analyzer.graph.view import view_of
from analyzer.records import Model
from analyzer.targets.onnxruntime.rules import Grid, Override


def overrides_for(
    model: Model, layers: Collection[str], grid: Grid, default: Grid
) -> dict[str, Override]:
    """Return overrides that give all outputs of `layers` the type `grid`.

    Args:
        model: the graph to be quantized.
        layers: names of nodes.
        grid: the type they are to work in: their inputs are converted to it as well.
        default: what all other activations have.
    """
    view = view_of(model.proto)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in view.nodes.values():
        for tensor in dict.fromkeys(t for t in node.input if t):
            readers.setdefault(tensor, []).append(node)
    asked = [t for name in layers for t in view.nodes[name].output if t and is_float(model, t)]
    produced: dict[str, bool] = {}  # tensor -> whether its producer works in `grid`
    wanting: dict[str, set[str]] = {}  # tensor -> readers that do

    def request(node: onnx.NodeProto) -> None:
        for tensor in node.output:
            if tensor and is_float(model, tensor):
                produced[tensor] = True
        for tensor in node.input:
            if tensor and is_float(model, tensor) and not view.is_constant(tensor):
                produced.setdefault(tensor, False)
                wanting.setdefault(tensor, set()).add(node.name)

    for tensor in asked:
        request(view.nodes[view.producer[tensor]])
        for node in readers.get(tensor, []):
            request(node)
    found: dict[str, Override] = {}
    for tensor, here in produced.items():
        names = {node.name for node in readers.get(tensor, [])}
        wants = wanting.get(tensor, set())
        other = names - wants if here else wants
        found[tensor] = Override(
            grid=grid if here else default,
            convert=(default if here else grid) if other else None,
            receivers=frozenset(other),
        )
    return found
