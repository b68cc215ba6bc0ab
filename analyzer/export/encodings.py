# SPDX-License-Identifier: Apache-2.0
"""Encodings: the grids of a plan by tensor name, for tools that read such lists (QNN, AIMET).

One grid per tensor, over the whole of an integer type; float layers are told by their tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analyzer.export.asked import asked, several
from analyzer.export.grids import TYPES, container
from analyzer.export.names import check, known_tensors, reads
from analyzer.export.order import Order
from analyzer.formats import SOURCE
from analyzer.graph.build import is_float
from analyzer.graph.view import GraphView
from analyzer.quant.fake import calibrated
from analyzer.records import Quantizer


@dataclass(frozen=True, slots=True)
class Encoding:
    """One grid: level q, counted from 0, stands for `(q + offset) * scale`.

    Attributes:
        signed: whether the plan counts levels from -2^(bits - 1) instead.
        axis: of the channels; None for one scale.
        scale, offset: one value, or one per channel.
    """

    bits: int
    signed: bool
    axis: int | None
    scale: tuple[float, ...]
    offset: tuple[int, ...]

    @property
    def symmetric(self) -> bool:
        """Whether 0 lies in the middle, with one level more below it."""
        return all(offset == -(2 ** (self.bits - 1)) for offset in self.offset)

    @property
    def zero_point(self) -> tuple[int, ...]:
        """The level of 0 among signed levels where `signed`, else among those from 0."""
        middle = 2 ** (self.bits - 1) if self.signed else 0
        return tuple(-offset - middle for offset in self.offset)


@dataclass(frozen=True, slots=True)
class Encodings:
    """All encodings of a plan.

    Attributes:
        file: that has these tensors: the user's own, or ours.
        activations, parameters: tensor -> its grid.
        floats: tensor of a layer that stays in float -> bits.
        float_parameters: likewise.
        left_out: one sentence per thing that is not told.
    """

    file: Literal["original", "ours"]
    activations: Mapping[str, Encoding]
    parameters: Mapping[str, Encoding]
    floats: Mapping[str, int]
    float_parameters: Mapping[str, int]
    left_out: tuple[str, ...]


def encodings(order: Order) -> Encodings:
    """Collect the encodings of a plan.

    Raises:
        ExportError: for a tensor that the file has not.
    """
    source = known_tensors(order, "ours")
    view = GraphView(order.source.proto.graph)
    found: dict[str, list[Quantizer]] = {}
    for quantizer in order.plan.quantizers:
        if quantizer.active and quantizer.role != "bias":
            found.setdefault(quantizer.tensor, []).append(quantizer)
    kept = {tensor: _chosen(quantizers) for tensor, quantizers in found.items()}
    grids = {t: e for t, q in kept.items() if t in source and (e := _encoding(q)) is not None}
    floats, parameters = _floats(order, view, set(grids))
    file = reads(order, (), [*grids, *floats, *parameters])
    if any(len(users) > 1 for users in order.source.source_nodes.values()):
        file = "ours"  # the weights that have these grids are folded ones
    check([*grids, *floats, *parameters], known_tensors(order, file), "tensor")
    return Encodings(
        file=file,
        activations={t: e for t, e in grids.items() if not view.is_constant(t)},
        parameters={t: e for t, e in grids.items() if view.is_constant(t)},
        floats=floats,
        float_parameters=parameters,
        left_out=tuple(_left_out(order, found, kept, set(grids), source)),
    )


def file_line(order: Order, found: Encodings) -> str:
    """Say which FP32 file has these tensors."""
    name = order.original.name if found.file == "original" else f"{SOURCE} beside this folder"
    return f"The names are those of the tensors in {name}."


def _chosen(quantizers: list[Quantizer]) -> Quantizer:
    """Take the grid that the tensor is made on, else that of its first reader."""
    made = [q for q in quantizers if q.slot.startswith("out")]
    return (made or quantizers)[0]


def _encoding(quantizer: Quantizer) -> Encoding | None:
    kind = container(quantizer)
    if kind is None:
        return None
    scale, zero = calibrated(quantizer)
    low, high = TYPES[kind]
    bits = (high - low).bit_length()
    return Encoding(
        bits=bits,
        signed=low < 0,
        axis=quantizer.axis,
        scale=tuple(float(s) for s in scale.astype(np.float32).ravel()),
        offset=tuple(low - int(z) for z in zero.ravel()),
    )


def _floats(
    order: Order, view: GraphView, taken: set[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the tensors of float layers: what they make, and their own constants."""
    made: dict[str, int] = {}
    constants: dict[str, int] = {}
    wanted = asked(order)
    layers = {
        node: 16 if "16" in layer.precision else 32
        for layer in wanted.of("float")
        for node in layer.nodes
    }
    for name, bits in layers.items():
        node = view.nodes.get(name)
        if node is None:
            continue
        for tensor in node.output:
            if tensor and tensor not in taken and is_float(order.source, tensor):
                made[tensor] = bits
        for tensor in node.input:
            alone = set(view.consumers.get(tensor, ())) <= set(layers)
            floating = view.is_constant(tensor) and is_float(order.source, tensor)
            if floating and alone and tensor not in taken:
                constants[tensor] = bits
    return made, constants


def _left_out(
    order: Order,
    found: Mapping[str, list[Quantizer]],
    kept: Mapping[str, Quantizer],
    told: set[str],
    source: frozenset[str],
) -> Iterator[str]:
    if any(q.role == "bias" and q.active for q in order.plan.quantizers):
        yield "Biases: the tool quantizes them itself, to 32 bits."
    if mixed := [t for t, quantizers in found.items() if len({_told(q) for q in quantizers}) > 1]:
        yield (
            f"A second grid on the same tensor: {several(mixed)} keep the one they are made on; "
            "readers that had another get that one."
        )
    if inner := [tensor for tensor in kept if tensor not in source]:
        yield f"Tensors that only the target's own form of the graph has: {several(inner)}."
    if wide := [tensor for tensor in kept if tensor in source and tensor not in told]:
        yield f"Grids of more than 16 bits: {several(wide)}."
    if narrow := [t for t, q in kept.items() if t in told and _is_narrow(q)]:
        yield (
            f"Levels that the plan does not use: {several(narrow)} have the whole range of their "
            "integer type."
        )
    if any(q.rounding == "half_up" for q in kept.values()):
        yield "Rounding: the plan was measured with halves rounded up."


def _told(quantizer: Quantizer) -> tuple[object, ...]:
    scale, zero = calibrated(quantizer)
    return container(quantizer), scale.tobytes(), zero.tobytes()


def _is_narrow(quantizer: Quantizer) -> bool:
    """Tell whether an activation's grid ends before its integer type does."""
    kind = container(quantizer)
    whole = kind is not None and TYPES[kind] == (quantizer.qmin, quantizer.qmax)
    return quantizer.role in ("input", "activation") and not whole
