# SPDX-License-Identifier: Apache-2.0
"""What every tensor of a quantized file is: a float tensor, and the grids it has passed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from analyzer.errors import ModelError
from analyzer.graph.names import all_names, unique
from analyzer.graph.shapes import run_once
from analyzer.graph.view import attributes
from analyzer.quantized.form import FloatForm, Value
from analyzer.quantized.grids import INTEGERS, Array, Grid, make_grid
from analyzer.quantized.operators import DEQUANTIZE, QUANTIZE


class Tensors:
    """The tensors of one file while it is rewritten.

    Attributes:
        constants: name -> initializer, those that were dequantized included.
        values: tensor -> what it is, where that is not just itself.
    """

    def __init__(self, form: FloatForm) -> None:
        self.form = form
        graph = form.proto.graph
        self.constants = {t.name: t for t in graph.initializer}
        self.values: dict[str, Value] = {}
        self.taken = all_names(graph) | {n.name for n in graph.node}
        self.made: dict[tuple[str, bytes], str] = {}

    def value(self, name: str) -> Value:
        """Return what a tensor is."""
        return self.values.get(name) or Value(name)

    def integers(self, node: onnx.NodeProto, name: str) -> Value:
        """Return what a tensor is that `node` reads as integers."""
        value = self.value(name)
        if not value.integral:
            raise ModelError(
                f"Node '{node.name}' dequantizes '{name}', which no quantizer made, expected "
                "quantized values.",
                "Quantize the model statically, to Q/DQ form.",
            )
        return value

    def check_scale(self, node: onnx.NodeProto, name: str, have: Grid, told: Grid) -> None:
        """Refuse integers that are read as other values than they were made from."""
        if not have.same_scale(told):
            raise ModelError(
                f"Node '{node.name}' reads '{name}' with scale {told.scale[0]:.6g} and zero point "
                f"{told.zero_point[0]}, but it was quantized with {have.scale[0]:.6g} and "
                f"{have.zero_point[0]}, expected the same.",
                "Quantize the model again.",
            )

    def number(self, name: str, node: onnx.NodeProto) -> Array:
        """Return a stored number that `node` cannot do without."""
        value = self.values.get(name)
        if name not in self.constants or value is not None:
            raise ModelError(
                f"'{name}', which node '{node.name}' needs, is computed while the model runs, "
                "expected a stored number.",
                "Quantize the model statically, with calibration data.",
            )
        return self.array(name)

    def array(self, name: str) -> Array:
        """Return the value of a constant."""
        return numpy_helper.to_array(self.constants[name])

    def grid_of(self, node: onnx.NodeProto, *, like: Grid | None = None) -> Grid:
        """Return the grid of a QuantizeLinear or DequantizeLinear."""
        kind = attributes(node).get("output_dtype", 0) if node.op_type == QUANTIZE else 0
        source = node.input[0]
        if node.op_type == DEQUANTIZE and source in self.constants:
            kind = self.constants[source].data_type
        return self.grid(node, 1, 2, attributes(node).get("axis", 1), like=like, kind=kind)

    def grid(
        self,
        node: onnx.NodeProto,
        scale: int,
        zero: int,
        axis: int | None,
        *,
        like: Grid | None = None,
        kind: int | None = None,
    ) -> Grid:
        """Return the grid whose scale and zero point stand at two inputs of `node`.

        Args:
            node: reads them.
            scale: position of the scale.
            zero: position of the zero point, which may be missing.
            axis: of the channels.
            like: has the integer type where no zero point tells it.
            kind: ONNX element type where neither does; uint8 without.
        """
        scales = self.number(node.input[scale], node)
        if len(node.input) > zero and node.input[zero]:
            zeros = self.number(node.input[zero], node)
            data_type = self.constants[node.input[zero]].data_type
        elif like is not None:
            zeros = None
            data_type = next(k for k, v in INTEGERS.items() if v == (like.bits, like.signed))
        else:
            zeros, data_type = None, kind or onnx.TensorProto.UINT8
        if axis is not None and axis < 0 and node.input[0] in self.constants:
            axis += len(self.constants[node.input[0]].dims)
        return make_grid(scales, zeros, data_type, axis, node.name)

    def dequantized(self, name: str, grid: Grid, wanted: str) -> str:
        """Keep the float form of stored integers, once for each grid they are read with."""
        key = name, grid.scale.tobytes() + grid.zero_point.tobytes()
        if key not in self.made:
            new = wanted if wanted not in self.constants else self.new(wanted)
            self.check_channels(name, grid)
            self.keep(new, grid.dequantize(self.array(name)))
            self.form.stored.add(new)
            self.made[key] = new
        return self.made[key]

    def check_channels(self, name: str, grid: Grid) -> None:
        """Refuse a constant that has not as many channels as its grid has scales."""
        dims = tuple(self.constants[name].dims)
        if not grid.fits(dims):
            raise ModelError(
                f"Tensor '{name}' of shape {dims} has {grid.scale.size} scales along axis "
                f"{grid.axis}, expected as many as that axis is long.",
                "Quantize the model again.",
            )

    def keep(self, name: str, array: Array) -> None:
        """Keep a constant."""
        self.taken.add(name)
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)

    def new(self, name: str) -> str:
        """Return `name` or one like it that nobody has."""
        name = unique(name, self.taken)
        self.taken.add(name)
        return name

    def evaluate(self, node: onnx.NodeProto, first: Sequence[Array]) -> Array:
        """Run one node on `first` and, for its other inputs, on what is stored."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        arrays = list(first) + [self.array(n) for n in node.input[len(first) :] if n]
        feeds = {f"in{k}": array for k, array in enumerate(arrays)}
        named = iter(feeds)
        copy.input[:] = [next(named) if name else "" for name in node.input]
        part = onnx.ModelProto(
            ir_version=self.form.proto.ir_version, opset_import=self.form.proto.opset_import
        )
        part.graph.name = "constant"
        part.graph.node.append(copy)
        part.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in feeds.items())
        part.graph.output.append(onnx.ValueInfoProto(name=node.output[0]))
        return run_once(part, [node.output[0]], {})[0]

    def refuse_blocks(self, node: onnx.NodeProto) -> None:
        """Refuse scales of blocks, which no quantizer of a plan has."""
        if attributes(node).get("block_size"):
            raise ModelError(
                f"Node '{node.name}' has one scale per block of values, expected one per tensor "
                "or channel.",
                "Quantize the model per channel.",
            )
