# SPDX-License-Identifier: Apache-2.0
"""Integer operators become the float ones they stand for, with grids on their edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from analyzer.errors import ModelError
from analyzer.graph.view import attributes
from analyzer.quantized.form import FloatForm, Value
from analyzer.quantized.grids import Grid, make_grid
from analyzer.quantized.operators import IntegerOp
from analyzer.quantized.tensors import Tensors


class Twins:
    """Writes the float twins of one file's integer operators."""

    def __init__(self, form: FloatForm, tensors: Tensors, opset: int) -> None:
        self.form, self.tensors, self.opset = form, tensors, opset

    def write(self, node: onnx.NodeProto, op: IntegerOp) -> onnx.NodeProto:
        """Return the float twin of an integer operator, its edges and output written down."""
        given = attributes(node)
        if given.get("channels_last"):
            raise ModelError(
                f"Node '{node.name}' is a {node.op_type} with channels last, expected ONNX's own "
                "layout.",
                "Give the model as the quantizer wrote it, not as onnxruntime optimized it.",
            )
        inputs = [node.input[k] for k in op.plain]
        grids: list[tuple[Grid, ...]] = [()] * len(inputs)
        triples = list(op.operands)
        if op.rest:
            triples += [(k, k + 1, k + 2) for k in range(2, len(node.input), 3)]
        levels: list[Grid] = []
        for where, (tensor, scale, zero) in enumerate(triples):
            value, grid = self._operand(node, op, where, (tensor, scale, zero))
            inputs.append(value.tensor)
            grids.append(value.grids)
            levels.append(grid)
        if op.bias is not None and len(node.input) > op.bias and node.input[op.bias]:
            name, grid = self._bias(node, op.bias, levels, float(given.get("alpha", 1.0)))
            inputs.append(name)
            grids.append((grid,))
        twin = self._twin(node, op, inputs)
        for index, passed in enumerate(grids):
            if passed:
                self.form.edges[node.name, index] = passed
        out = self._output_grid(node, op, levels[0])
        self.tensors.values[node.output[0]] = (
            Value(node.output[0])
            if out is None
            else Value(node.output[0], (out,), integral=True, levels=out)
        )
        self.form.grids["activation"] += out is not None
        return twin

    def _operand(
        self, node: onnx.NodeProto, op: IntegerOp, where: int, at: tuple[int, int, int]
    ) -> tuple[Value, Grid]:
        name = node.input[at[0]]
        constant = name in self.tensors.constants and name not in self.tensors.values
        value = None if constant else self.tensors.integers(node, name)
        axis = self._weight_axis(node, op, name) if constant else None
        like = value.levels if value is not None else None
        kind = self.tensors.constants[name].data_type if constant else None
        grid = self.tensors.grid(node, at[1], at[2], axis, like=like, kind=kind)
        if value is None:
            self.form.grids["constant"] += 1
            return Value(self.tensors.dequantized(name, grid, f"{name}//float"), (grid,)), grid
        if value.levels is None:
            self.form.grids["activation"] += 1
            return replace(value, grids=value.through(grid)), grid
        self.tensors.check_scale(node, name, value.levels, grid)
        return value, value.levels

    def _bias(
        self, node: onnx.NodeProto, at: int, levels: Sequence[Grid], alpha: float
    ) -> tuple[str, Grid]:
        """Return the float bias and its grid: input scale times weight scale, int32."""
        x, w = levels[0].scale.astype(np.float32), levels[1].scale.astype(np.float32)
        if x.size > 1:
            raise ModelError(
                f"Node '{node.name}' has {x.size} scales for its data, expected one.",
                "Quantize the model again.",
            )
        grid = make_grid(np.float32(alpha) * x * w, None, onnx.TensorProto.INT32, -1, node.name)
        self.form.grids["constant"] += 1
        name = node.input[at]
        self.tensors.number(name, node)
        return self.tensors.dequantized(name, grid, f"{name}//float"), grid

    def _twin(self, node: onnx.NodeProto, op: IntegerOp, inputs: list[str]) -> onnx.NodeProto:
        given = {k: v for k, v in attributes(node).items() if k not in op.drop}
        if op.twin == "Softmax" and (attributes(node).get("opset", 13) < 13) != (self.opset < 13):
            raise ModelError(
                f"Node '{node.name}' is a Softmax of another opset than the model, expected the "
                "same.",
                "Quantize the model to Q/DQ form.",
            )
        return helper.make_node(op.twin, inputs, [node.output[0]], name=node.name, **given)

    def _output_grid(self, node: onnx.NodeProto, op: IntegerOp, like: Grid) -> Grid | None:
        scale, zero = op.output
        if len(node.input) <= scale or not node.input[scale]:
            return None
        return self.tensors.grid(node, scale, zero, None, like=like)

    def _weight_axis(self, node: onnx.NodeProto, op: IntegerOp, name: str) -> int:
        if op.twin == "Conv":
            return 0
        if op.twin == "Gemm" and attributes(node).get("transB"):
            return 0
        return max(len(self.tensors.constants[name].dims) - 1, 0)
