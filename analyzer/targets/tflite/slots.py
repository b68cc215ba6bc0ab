# SPDX-License-Identifier: Apache-2.0
"""Grids told as quantizers: at the output that makes a tensor, or where it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from analyzer.graph.build import is_float
from analyzer.records import Model, Observer, Quantizer, Role
from analyzer.targets.base import last_axis
from analyzer.targets.tflite.groups import Grids, Operator, Weight
from analyzer.targets.tflite.ops import FIXED, FIXED_16

Key = tuple[str, str]
Widths = Mapping[Operator, int]  # bits of the activations of the operators that are quantized


@dataclass(slots=True)
class Slots:
    """Collects the quantizers of a plan.

    A tensor of a quantized operator is quantized once, for all its readers.  What a float
    operator makes, and a graph input, is quantized where a quantized operator reads it.

    Attributes:
        bias_limit: largest magnitude of a stored bias with 16-bit activations.
        ends: bits of graph inputs and outputs where they are quantized for float operators, too.
        homes: (tensor, bits) -> slot of the quantizer that has the scale of that grid.
    """

    model: Model
    grids: Grids
    widths: Widths
    observer: Observer
    per_channel: bool
    dense_per_channel: bool
    bias_limit: int
    ends: int | None
    found: dict[Key, Quantizer] = field(default_factory=dict)
    homes: dict[tuple[str, int], Key] = field(default_factory=dict)

    def fill(self, operators: Sequence[Operator]) -> tuple[Quantizer, ...]:
        """Return the quantizers of those `operators` that have a width."""
        quantized = [operator for operator in operators if operator in self.widths]
        for operator in quantized:
            for tensor, key in self._outputs(operator):
                if self.grids.root(tensor) == tensor:
                    self.homes[tensor, self.widths[operator]] = key
        for operator in quantized:
            bits = self.widths[operator]
            for node, index in operator.reads:
                self._read(node, index, bits)
            if operator.weight is not None:
                self._parameters(operator, operator.weight, bits)
            for tensor, key in self._outputs(operator):
                self._add(key, tensor, self.grids.root(tensor), bits)
        if self.ends is not None:
            self._quantize_ends(self.ends, {name for o in quantized for name in o.nodes})
        return tuple(self.found.values())

    def _quantize_ends(self, bits: int, integer: set[str]) -> None:
        """Quantize the graph's inputs where float nodes read them, and the outputs they make."""
        view = self.grids.view
        for node in view.nodes.values():
            if node.name in integer:
                continue
            for index, tensor in enumerate(node.input):
                if tensor in view.inputs and is_float(self.model, tensor):
                    self._add((node.name, f"in{index}"), tensor, tensor, bits)
            for index, tensor in enumerate(node.output):
                alone = tensor in view.outputs and not view.consumers.get(tensor)
                if alone and is_float(self.model, tensor):
                    self._add((node.name, f"out{index}"), tensor, tensor, bits)

    def _outputs(self, operator: Operator) -> list[tuple[str, Key]]:
        return [
            (tensor, (operator.last.name, f"out{index}"))
            for index, tensor in enumerate(operator.last.output)
            if tensor and is_float(self.model, tensor)
        ]

    def _read(self, node: str, index: int, bits: int) -> None:
        tensor = self.grids.read((node, index))
        asked = self.grids.asked.get((node, index))
        maker = self.grids.makers.get(tensor)
        if asked is None and maker is not None and self.widths.get(maker) == bits:
            return
        self._add((node, f"in{index}"), tensor, asked or self.grids.root(tensor), bits)

    def _add(self, key: Key, tensor: str, root: str, bits: int) -> None:
        """Quantize `tensor` at `key` on the grid of `root`."""
        home = self.homes.setdefault((root, bits), key)
        maker = self.grids.makers.get(root)
        fixed = None
        if home == key and maker is not None and maker.kind == "fixed":
            fixed = FIXED[maker.last.op_type] if bits == 8 else FIXED_16
        constant = self.grids.view.is_constant(tensor)
        role: Role = "constant" if constant else "activation"
        if tensor in self.grids.view.inputs:
            role = "input"
        self.found[key] = Quantizer(
            node=key[0],
            slot=key[1],
            tensor=tensor,
            role=role,
            bits=bits,
            symmetric=bits == 16,
            qmin=-(2 ** (bits - 1)),
            qmax=2 ** (bits - 1) - 1,
            group=f"{home[0]}:{home[1]}" if home != key else None,
            observer="minmax" if constant or fixed else self.observer,
            follows=home if home != key else None,
            fixed_range=fixed,
            observes=(root,) if home == key and root != tensor else (),
        )

    def _parameters(self, operator: Operator, weight: Weight, bits: int) -> None:
        node, index = weight.slot
        per_channel = self.per_channel and (self.dense_per_channel or not weight.dense)
        axis = weight.axis if per_channel else None
        self.found[node, f"in{index}"] = Quantizer(
            node=node,
            slot=f"in{index}",
            tensor=self.grids.read(weight.slot),
            role="weight",
            bits=8,
            axis=axis,
            qmin=-127,
            observer="minmax",
        )
        if operator.bias is None:
            return
        node, index = operator.bias
        tensor = self.grids.read(operator.bias)
        shape = self.model.shapes[tensor]
        limit = 2**31 - 1 if bits == 8 else self.bias_limit
        self.found[node, f"in{index}"] = Quantizer(
            node=node,
            slot=f"in{index}",
            tensor=tensor,
            role="bias",
            bits=32 if bits == 8 else 64,
            axis=None if axis is None else _bias_axis(shape, last_axis(self.model, tensor)),
            qmin=-limit,
            qmax=limit,
        )


def _bias_axis(shape: tuple[int, ...], last: int) -> int:
    """Return the axis of the channels: the last one, or the one that is not 1."""
    return next((axis for axis, length in enumerate(shape) if length > 1), last)
