# SPDX-License-Identifier: Apache-2.0
"""From marked tensors to quantizers at node slots."""

from __future__ import annotations

from dataclasses import dataclass

from analyzer.records import Observer, Quantizer, Role
from analyzer.targets.base import last_axis
from analyzer.targets.onnxruntime.marks import Bias, Mark, Marks
from analyzer.targets.onnxruntime.rules import Grid, Override

Key = tuple[str, str]
Source = str | tuple[float, float]  # the tensor whose range is taken, or a range

_PLAIN = Override()


@dataclass(frozen=True, slots=True)
class _Root:
    """Where the scale of a tensor lives, as one reader sees it."""

    key: Key
    grid: Grid


class Slots:
    """Turns marks into quantizers: at the producer, or at each reader where that is not enough."""

    def __init__(self, marks: Marks, observer: Observer) -> None:
        self.marks = marks
        self.observer = observer
        self.sources = range_sources(marks)
        copied = {(b.node, b.slot) for b in marks.biases if b.copied}
        self.producers: dict[str, Key] = {}
        self.reading: dict[str, list[Key]] = {}
        for node in marks.view.nodes.values():
            for index, tensor in enumerate(node.output):
                self.producers[tensor] = node.name, f"out{index}"
            for index, tensor in enumerate(node.input):
                if tensor and (node.name, f"in{index}") not in copied:
                    self.reading.setdefault(tensor, []).append((node.name, f"in{index}"))

    def quantizers(self) -> list[Quantizer]:
        """Return all of them, in no particular order."""
        found: dict[Key, Quantizer] = {}
        for tensor, mark in self.marks.tensors.items():
            for key in self._homes(tensor):
                found[key] = self._quantizer(tensor, mark, key)
            for key in self._converted(tensor):
                found[key] = self._conversion(tensor, key)
        tensors = self.marks.tensors
        for bias in self.marks.biases:
            scaled = bias.source in tensors and bias.weight in tensors
            if scaled and (bias.copied or bias.tensor not in tensors):
                found[bias.node, bias.slot] = self._bias(bias)
        return list(found.values())

    def _homes(self, tensor: str) -> list[Key]:
        """Return the slots where `tensor` gets the type that its producer makes."""
        view, rules = self.marks.view, self.marks.rules
        override = rules.overrides.get(tensor, _PLAIN)
        keys = self.reading.get(tensor, [])
        if override.convert:  # who is not quantized and not converted reads the float tensor
            keys = [
                key for key in keys
                if key[0] in override.receivers or rules.quantizes(view.nodes[key[0]])
            ]  # fmt: skip
        all_read = len(keys) == len(self.reading.get(tensor, []))
        everywhere = tensor in view.outputs or (tensor not in self.marks.captured and all_read)
        if tensor in self.producers and everywhere:
            return [self.producers[tensor]]
        return keys

    def _converted(self, tensor: str) -> list[Key]:
        """Return the slots that get the converted type.

        Two Q/DQ pairs in a row need two slots.  A graph input, or a tensor that some reader takes
        as float, has only the readers' ones, and a graph output that is only read converted only
        the producer's: there, the narrower type stands for both, as it carries the noise.
        """
        override = self.marks.rules.overrides.get(tensor, _PLAIN)
        if override.convert is None:
            return []
        readers = self.reading.get(tensor, [])
        keys = [key for key in readers if key[0] in override.receivers]
        narrower = override.convert.bits < self._grid(tensor, self.marks.tensors[tensor]).bits
        if tensor in self.marks.view.outputs and len(keys) == len(readers) and narrower:
            return [self.producers[tensor]]
        return keys if narrower or self._homes(tensor) == [self.producers.get(tensor)] else []

    def _root(self, tensor: str, reader: str | None = None) -> _Root:
        """Return where the scale that `reader` finds at `tensor` comes from."""
        override = self.marks.rules.overrides.get(tensor, _PLAIN)
        converted = self._converted(tensor)
        homes = [key for key in self._homes(tensor) if key not in converted]
        if override.convert and converted and (reader in override.receivers or not homes):
            return _Root(converted[0], override.convert)
        mark = self.marks.tensors[tensor]
        if mark.provider and mark.provider[0] in self.marks.tensors:
            return self._root(*mark.provider)
        return _Root(homes[0], self._grid(tensor, mark))

    def _grid(self, tensor: str, mark: Mark) -> Grid:
        rules = self.marks.rules
        override = rules.overrides.get(tensor, _PLAIN)
        if override.grid:
            return override.grid
        weight = mark.weight and self.marks.view.is_constant(tensor)
        return rules.types.weight if weight else rules.types.activation

    def _quantizer(self, tensor: str, mark: Mark, key: Key) -> Quantizer:
        root = self._root(tensor)
        own = root.key == key
        constant = self.marks.view.is_constant(tensor)
        role: Role = "constant" if constant else "activation"
        if constant and mark.weight:
            role = "weight"
        elif tensor in self.marks.view.inputs:
            role = "input"
        override = self.marks.rules.overrides.get(tensor, _PLAIN)
        # signed weights are symmetric, and so is everything per channel; activations are not
        symmetric = mark.axis is not None or (role == "weight" and root.grid.signed)
        qmin, qmax = root.grid.levels(symmetric=symmetric)
        source = self.sources.get(tensor, tensor)
        fixed = override.fixed_range or (None if isinstance(source, str) else source)
        return Quantizer(
            node=key[0],
            slot=key[1],
            tensor=tensor,
            role=role,
            bits=root.grid.bits,
            signed=root.grid.signed,
            symmetric=symmetric,
            axis=mark.axis,
            qmin=qmin,
            qmax=qmax,
            group=None if own else ":".join(root.key),
            observer="minmax" if constant or fixed else self.observer,
            follows=None if own else root.key,
            fixed_range=fixed if own else None,
            observes=(source,) if isinstance(source, str) and source != tensor else (),
            replaces_node=key[1] == "out0" and key[0] in self.marks.merged,
        )

    def _conversion(self, tensor: str, key: Key) -> Quantizer:
        """Return the second Q/DQ pair in front of a reader that wants another type."""
        root = self._root(tensor, min(self.marks.rules.overrides[tensor].receivers))
        qmin, qmax = root.grid.levels(symmetric=False)
        source = self.sources.get(tensor, tensor)
        own = root.key == key
        fixed = None if isinstance(source, str) else source
        return Quantizer(
            node=key[0],
            slot=key[1],
            tensor=tensor,
            role="activation",
            bits=root.grid.bits,
            signed=root.grid.signed,
            symmetric=False,
            qmin=qmin,
            qmax=qmax,
            group=None if own else ":".join(root.key),
            observer="minmax" if fixed else self.observer,
            follows=None if own else root.key,
            fixed_range=fixed if own else None,
            observes=(source,) if isinstance(source, str) and source != tensor else (),
        )

    def _bias(self, bias: Bias) -> Quantizer:
        model = self.marks.model
        weight = self.marks.tensors.get(bias.weight)
        per_channel = weight is not None and weight.axis is not None
        # weights are widened by the input's own range, even where it takes over another scale
        source = self.sources.get(bias.source, bias.source)
        shared = self.marks.tensors[bias.source].provider is not None
        observes = (source,) if shared and isinstance(source, str) else ()
        return Quantizer(
            node=bias.node,
            slot=bias.slot,
            tensor=bias.tensor,
            role="bias",
            bits=32,
            axis=last_axis(model, bias.tensor) if per_channel else None,
            qmin=-(2**31),
            qmax=2**31 - 1,
            observer=self.observer if observes else None,
            observes=observes,
        )


def range_sources(marks: Marks) -> dict[str, Source]:
    """Return the ranges that are not a tensor's own (`adjust_tensor_ranges`).

    In front of a Relu or Clip that alone reads a tensor, the range behind it counts, even where
    the tensor is a graph output as well.  A Softmax yields 0..1.
    """
    found: dict[str, Source] = {}
    for node in marks.view.nodes.values():
        if not marks.rules.quantizes(node):
            continue
        if node.op_type in ("Relu", "Clip"):
            source, output = node.input[0], node.output[0]
            known = marks.known(source) and marks.known(output)
            if known and marks.readers[source] == 1 and not marks.view.is_constant(source):
                found[source] = found.get(output, output)
        elif node.op_type == "Softmax":
            found[node.output[0]] = (0.0, 1.0)
    return found
