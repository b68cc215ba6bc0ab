# SPDX-License-Identifier: Apache-2.0
"""Rewriting a quantized graph into its own float form, node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from analyzer.errors import ModelError
from analyzer.graph.names import replace_nodes
from analyzer.graph.view import attributes, captured, subgraphs
from analyzer.quantized.activations import restore, taken_over
from analyzer.quantized.form import FloatForm, Value
from analyzer.quantized.grids import INTEGERS, Grid
from analyzer.quantized.operators import DEQUANTIZE, INDEX_OPS, INTEGER_OPS, MOVES, QUANTIZE
from analyzer.quantized.tensors import Tensors
from analyzer.quantized.twins import Twins


class Rewriter:
    """Walks the nodes of a file once and rewrites them."""

    def __init__(self, form: FloatForm) -> None:
        self.form = form
        self.graph = form.proto.graph
        self.opset = next(
            o.version for o in form.proto.opset_import if o.domain in ("", "ai.onnx")
        )
        self.tensors = Tensors(form)
        self.twins = Twins(form, self.tensors, self.opset)
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> FloatForm:
        """Rewrite everything."""
        self._inputs()
        for node in self.graph.node:
            self._node(node)
        self._outputs()
        self._restore_activations()
        replace_nodes(self.graph, self.nodes)
        del self.graph.initializer[:]
        self.graph.initializer.extend(self.tensors.constants.values())
        del self.graph.value_info[:]
        return self.form

    # graph inputs and outputs

    def _inputs(self) -> None:
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        for value in self.graph.input:
            kind = value.type.tensor_type.elem_type
            if value.name in self.tensors.constants or kind not in INTEGERS:
                continue
            if self._is_quantized_input(value.name, readers):
                self.tensors.values[value.name] = Value(value.name, integral=True)
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT

    @staticmethod
    def _is_quantized_input(name: str, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> bool:
        """Tell whether all that is made of an integer input is dequantizing it."""
        waiting, found = [name], False
        while waiting:
            tensor = waiting.pop()
            for node in readers.get(tensor, ()):
                if node.op_type == DEQUANTIZE or node.op_type in INTEGER_OPS:
                    found = True
                elif node.op_type in MOVES and tensor == node.input[0]:
                    waiting.extend(node.output)
                else:
                    return False
        return found

    def _outputs(self) -> None:
        for output in self.graph.output:
            value = self.tensors.values.get(output.name)
            if value is None:
                continue
            if value.grids:
                self.form.outputs[output.name] = value.grids
            if value.integral:
                output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
            if value.tensor != output.name:
                name = self.tensors.new(f"{output.name}//output")
                self.nodes.append(
                    helper.make_node("Identity", [value.tensor], [output.name], name=name)
                )

    def _restore_activations(self) -> None:
        """Write out the Relus that quantizers stand in for."""
        readers: dict[str, list[tuple[Grid, ...]]] = {}
        for node in self.nodes:
            for index, name in enumerate(node.input):
                passed = self.form.edges.get((node.name, index), ())
                if node.op_type == "Identity" and node.output[0] in self.form.outputs:
                    passed = self.form.outputs[node.output[0]]
                readers.setdefault(name, []).append(passed)
            for name in captured(node):
                readers.setdefault(name, []).append(())
        made = {name for node in self.nodes for name in node.output}
        for output in self.graph.output:
            value = self.tensors.values.get(output.name, Value(output.name))
            if value.tensor == output.name and output.name in made:
                readers.setdefault(output.name, []).append(value.grids)
        nodes = []
        for node in self.nodes:
            nodes.append(node)
            kind = taken_over(node, readers.get(node.output[0], []))
            if kind:
                nodes.append(restore(node, kind, self.opset))
                for name, bound in zip(nodes[-1].input[1:], (0.0, 6.0), strict=False):
                    self.tensors.keep(name, np.array(bound, np.float32))
                self.form.restored[node.name] = nodes[-1].name
        self.nodes = nodes

    # nodes

    def _node(self, node: onnx.NodeProto) -> None:
        if node.op_type == QUANTIZE:
            self._quantize(node)
        elif node.op_type == DEQUANTIZE:
            self._dequantize(node)
        elif node.op_type in INTEGER_OPS:
            self.nodes.append(self.twins.write(node, INTEGER_OPS[node.op_type]))
        elif any(self.tensors.value(name).integral for name in node.input):
            self._on_integers(node)
        elif self._reads_rounded_constants(node):
            self._on_constants(node)
        else:
            self._float(node)

    def _quantize(self, node: onnx.NodeProto) -> None:
        self.tensors.refuse_blocks(node)
        value = self.tensors.value(node.input[0])
        grid = self.tensors.grid_of(node)
        if not (value.grids and value.grids[-1].same(grid)):
            self.form.grids[
                "constant" if value.tensor in self.tensors.constants else "activation"
            ] += 1
        self.tensors.values[node.output[0]] = Value(
            value.tensor, value.through(grid), integral=True, levels=grid
        )

    def _dequantize(self, node: onnx.NodeProto) -> None:
        self.tensors.refuse_blocks(node)
        source, output = node.input[0], node.output[0]
        if source in self.tensors.constants and source not in self.tensors.values:
            grid = self.tensors.grid_of(node)
            self.form.grids["constant"] += 1
            self.tensors.values[output] = Value(
                self.tensors.dequantized(source, grid, output), (grid,)
            )
            return
        value = self.tensors.integers(node, source)
        if value.levels is None:
            grid = self.tensors.grid_of(node)
            self.form.grids["activation"] += 1
            self.tensors.values[output] = Value(value.tensor, value.through(grid))
            return
        grid = self.tensors.grid_of(node, like=value.levels)
        self.tensors.check_scale(node, source, value.levels, grid)
        self.tensors.values[output] = Value(value.tensor, value.grids)

    def _on_integers(self, node: onnx.NodeProto) -> None:
        """Hand on an operator that moves integers about, or looks at their order only."""
        first = next(v for n in node.input if (v := self.tensors.value(n)).integral)
        levels = first.levels
        if node.op_type == "Cast" and self._keeps_type(node, levels):
            self.tensors.values[node.output[0]] = first
            return
        if node.op_type in ("Clip", "Relu") and levels is not None:
            self._clip(node, first, levels)
            return
        if node.domain or node.op_type not in MOVES | INDEX_OPS:
            raise ModelError(
                f"Node '{node.name}' ({node.op_type}) computes with integers, expected only "
                "operators with scales (QLinearConv ...) and ones that move values to do so.",
                "Quantize the model to Q/DQ form.",
            )
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            value = self.tensors.value(name)
            if not value.integral:
                if name in self.tensors.constants and self._is_level(name, levels, index):
                    assert levels is not None
                    copy.input[index] = self.tensors.dequantized(name, levels, f"{name}//float")
                continue
            if levels is not None and value.levels is not None:
                self.tensors.check_scale(node, name, value.levels, levels)
            copy.input[index] = value.tensor
            self._mark(node.name, index, value)
        self.nodes.append(copy)
        blends = (
            node.op_type == "Resize" and attributes(node).get("mode", b"nearest") != b"nearest"
        )
        for index, name in enumerate(node.output):
            if not name or node.op_type in INDEX_OPS or (node.op_type == "TopK" and index):
                continue
            grids = (levels,) if blends and levels is not None else ()
            self.tensors.values[name] = Value(name, grids, integral=True, levels=levels)

    def _clip(self, node: onnx.NodeProto, value: Value, levels: Grid) -> None:
        """Take levels off the grid, as torch writes a range narrower than its integers."""
        bounds: list[int | None] = [0, None] if node.op_type == "Relu" else [None, None]
        for index, name in enumerate(node.input[1:3]):
            if name:
                bounds[index] = int(self.tensors.number(name, node).reshape(()))
        grid = levels.narrowed(*bounds)
        grids = value.grids
        if grids and grids[-1].same(levels):
            grids = grids[:-1]
        self.tensors.values[node.output[0]] = Value(value.tensor, (*grids, grid), True, grid)

    def _reads_rounded_constants(self, node: onnx.NodeProto) -> bool:
        values = [self.tensors.value(name) for name in node.input if name]
        return (
            any(value.grids for value in values)
            and all(value.tensor in self.tensors.constants for value in values)
            and not any(True for _ in subgraphs(node))
        )

    def _on_constants(self, node: onnx.NodeProto) -> None:
        """Compute what becomes of quantized constants before somebody reads them."""
        value = self.tensors.value(node.input[0])
        grid = value.grids[-1] if value.grids else None
        if node.op_type in MOVES and len(node.output) == 1 and grid is not None:
            shape = tuple(self.tensors.constants[value.tensor].dims)
            moved = grid.moved(shape, lambda x: self.tensors.evaluate(node, [x]))
            if moved is not None:
                array = self.tensors.evaluate(node, [self.tensors.array(value.tensor)])
                self.tensors.keep(node.output[0], array)
                if value.tensor in self.form.stored:
                    self.form.stored.add(node.output[0])
                self.tensors.values[node.output[0]] = Value(node.output[0], (moved,))
                return
        rounded = []
        for name in node.input:
            each = self.tensors.value(name)
            array = self.tensors.array(each.tensor)
            for passed in each.grids:
                array = passed.round(array)
            rounded.append(array)
        self.tensors.keep(node.output[0], self.tensors.evaluate(node, rounded))

    def _float(self, node: onnx.NodeProto) -> None:
        if self._does_nothing(node):
            self.tensors.values[node.output[0]] = self.tensors.value(node.input[0])
            return
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            value = self.tensors.value(name)
            copy.input[index] = value.tensor
            self._mark(node.name, index, value)
        for name in captured(node):
            if name in self.tensors.values:
                raise ModelError(
                    f"Node '{node.name}' ({node.op_type}) reads the quantized tensor '{name}' "
                    "inside its body, expected it among its inputs.",
                    "Quantize the model without its control flow.",
                )
        self.nodes.append(copy)

    def _does_nothing(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node only hands a value on that has passed grids.

        The nodes that do nothing are taken out later, and what is known of their edges with them.
        """
        if node.domain or not self.tensors.value(node.input[0] if node.input else "").grids:
            return False
        if node.op_type == "Cast":
            return bool(attributes(node).get("to") == onnx.TensorProto.FLOAT)
        return node.op_type == "Identity" or (node.op_type == "Dropout" and len(node.output) == 1)

    def _mark(self, node: str, index: int, value: Value) -> None:
        if value.grids:
            self.form.edges[node, index] = value.grids

    def _keeps_type(self, node: onnx.NodeProto, levels: Grid | None) -> bool:
        to = attributes(node).get("to", 0)
        return levels is not None and INTEGERS.get(to) == (levels.bits, levels.signed)

    def _is_level(self, name: str, levels: Grid | None, index: int) -> bool:
        """Tell whether a constant beside integers holds levels too (the value of a Pad, say)."""
        return (
            levels is not None
            and index != 0
            and INTEGERS.get(self.tensors.constants[name].data_type)
            == (levels.bits, levels.signed)
        )
