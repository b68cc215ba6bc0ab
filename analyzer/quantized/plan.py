# SPDX-License-Identifier: Apache-2.0
"""From grids on the edges of a quantized model to quantizers at the slots of a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from analyzer.graph.build import in_execution_order, is_float
from analyzer.graph.view import GraphView
from analyzer.quant.fake import fake_quantize
from analyzer.quantized.form import FloatForm
from analyzer.quantized.grids import Grid
from analyzer.quantized.match import ACTIVATIONS, LAYOUT, Match, Slot, pairs
from analyzer.quantized.operators import MOVES
from analyzer.records import Model, Quantizer, QuantPlan, Role
from analyzer.targets.base import COMPUTING

F32 = npt.NDArray[np.float32]
Grids = tuple[Grid, ...]

PLAN_NAME = "quantized"
_SAME = 1e-6  # relative: what two writers of one float32 number may differ by
_CLOSE = 0.25  # steps: float weights that are the same in half precision stay within it
_ROUNDED = 1.01  # steps: a tuned rounding takes the other neighbour, never one further away


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the weight of one layer lies from the FP32 one, beyond rounding and clipping.

    Attributes:
        share: of its values that are further away than any rounding brings them.
        tuned: share that was rounded to the further neighbour (AdaRound and its kin).
    """

    layer: str
    share: float
    tuned: float


@dataclass(slots=True)
class Placement:
    """The quantizers of a file at the slots of a graph.

    Attributes:
        plan: calibrated.
        drifts: of computing layers whose weights both files have.
        replaced: layers whose float constants the file has changed (a corrected bias, say).
        lost: (reader in the file, input) of grids that found no slot.
    """

    plan: QuantPlan
    drifts: list[Drift] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    lost: list[Slot] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Reading:
    """One reader of an activation in our graph; `slot` is None for a graph output."""

    slot: Slot | None
    grids: Grids


def make_plan(model: Model, other: Model, form: FloatForm, match: Match) -> Placement:
    """Place every grid of `form` on `model`.

    Args:
        model: the graph to be analysed, bound.
        other: the own float form, bound; may be `model` itself.
        form: tells the grids of its edges.
        match: from `other` to `model`.
    """
    return _Planner(model, other, form, match).run()


class _Planner:
    def __init__(self, model: Model, other: Model, form: FloatForm, match: Match) -> None:
        self.model, self.form, self.match = model, form, match
        self.ours, self.other = GraphView(model.proto.graph), GraphView(other.proto.graph)
        self.found: dict[tuple[str, str], Quantizer] = {}
        self.seen: dict[Slot, Grids] = {}  # what our reader gets its input through
        self.placement = Placement(QuantPlan(PLAN_NAME, (), frozenset(), {}, ()))

    def run(self) -> Placement:
        self._constants()
        self._activations()
        self._count_lost()
        precision = self._precision()
        self.placement.plan = QuantPlan(
            target=PLAN_NAME,
            layers=tuple(precision),
            computing=frozenset(n for n in precision if self.ours.nodes[n].op_type in COMPUTING),
            precision=precision,
            quantizers=in_execution_order(self.ours, self.found.values()),
        )
        return self.placement

    # constants

    def _constants(self) -> None:
        for node in self.other.nodes.values():
            for index, name in enumerate(node.input):
                slot = self.match.slots.get((node.name, index))
                if slot is None or not self.other.is_constant(name):
                    continue
                if slot in self.match.relations:
                    self._constant(node.name, index, name, slot)

    def _constant(self, reader: str, index: int, name: str, slot: Slot) -> None:
        array = self.other.array(name)
        tensor = self.ours.nodes[slot[0]].input[slot[1]]
        own = self.ours.array(tensor)
        if array.dtype != np.float32 or own.dtype != np.float32 or not own.size:
            return
        grids = self.form.edges.get((reader, index), ())
        if not all(grid.fits(array.shape) for grid in grids):
            self.placement.lost.append((reader, index))
            return
        value = array
        for grid in grids:
            value = grid.round(value)
        relation = self.match.relations[slot]
        stored = np.ascontiguousarray(relation.apply(value))
        if not grids:
            if not np.allclose(stored, own, rtol=_SAME, atol=_SAME * float(np.abs(own).max())):
                self._add(slot, tensor, _float_grid(stored), stored)
                self.placement.replaced.append(slot[0])
            return
        moved = grids[-1].moved(array.shape, relation.apply)
        if moved is None:
            self.placement.lost.append((reader, index))
            return
        self.seen[slot] = (moved,)
        self._add(slot, tensor, moved, stored)
        if self._role(slot, tensor, moved) == "weight":
            self._drift(slot, relation.apply(array), own, moved, exact=name in self.form.stored)

    def _drift(self, slot: Slot, array: F32, own: F32, grid: Grid, *, exact: bool) -> None:
        """Hold a weight against the FP32 one: stored integers against its rounding."""
        step = grid.steps(own.ndim)
        if exact:
            low, high = (grid.dequantize(np.full(own.shape, q)) for q in (grid.qmin, grid.qmax))
            off = np.abs(array - np.clip(own, low, high)) / step
            share, tuned = np.mean(off > _ROUNDED), np.mean((off > 0.51) & (off <= _ROUNDED))
        else:
            off = np.abs(array.astype(np.float64) - own) / step
            share, tuned = np.mean(off > _CLOSE), np.float64(0)
        self.placement.drifts.append(Drift(slot[0], float(share), float(tuned)))

    # activations

    def _activations(self) -> None:
        groups: dict[str, list[_Reading]] = {}
        for node in self.other.nodes.values():
            for index, name in enumerate(node.input):
                slot = self.match.slots.get((node.name, index))
                if slot is None or not name or self.other.is_constant(name):
                    continue
                tensor = self.ours.nodes[slot[0]].input[slot[1]]
                if self.model.dtypes.get(tensor) == "float32" and not self.ours.is_constant(
                    tensor
                ):
                    self._read(groups, slot, tensor, name, self.form.edges.get((node.name, index)))
        for theirs, mine in pairs(self.ours.outputs, self.other.outputs):
            if is_float(self.model, mine):
                self._read(groups, None, mine, theirs, self.form.outputs.get(theirs))
        for tensor, readings in groups.items():
            self._settle(tensor, readings)

    def _read(
        self,
        groups: dict[str, list[_Reading]],
        slot: Slot | None,
        tensor: str,
        name: str,
        grids: Grids | None,
    ) -> None:
        """Find the tensor of ours at which a value got the grids it is read through."""
        origin, passed = self._origin(name, grids or ())
        if slot is not None:
            self.seen[slot] = passed
        home = self._home(tensor, origin)
        groups.setdefault(home, []).append(_Reading(slot, passed))

    def _origin(self, name: str, grids: Grids) -> tuple[str | None, Grids]:
        """Walk up over nodes that ours lacks; None where the maker was not matched."""
        while True:
            producer = self.other.producer.get(name)
            if producer is None or producer in self.match.nodes:
                return self.match.tensors.get(name), grids
            if producer not in self.match.extra:
                return None, grids
            above = self.form.edges.get((producer, 0), ())
            grids = (*above, *(g for g in grids if not (above and above[-1].same(g))))
            name = self.other.nodes[producer].input[0]

    def _home(self, tensor: str, origin: str | None) -> str:
        """Return where between `origin` and `tensor` the value is what the file quantizes.

        That is behind the last node that changes it.  Without an origin it is not known.
        """
        home, current = None, tensor
        while origin is not None and current != origin:
            node = self.ours.nodes.get(self.ours.producer.get(current, ""))
            if node is None or node.op_type not in LAYOUT | ACTIVATIONS:
                return f"?{tensor}"
            if node.op_type in ACTIVATIONS and home is None:
                home = current
            current = node.input[0]
        if origin is None:
            return f"?{tensor}"
        return home or origin

    def _settle(self, tensor: str, readings: Sequence[_Reading]) -> None:
        """Quantize at the producer what all readers see on the same grid, else at the readers."""
        first = readings[0].grids[0] if readings[0].grids else None
        producer = self.ours.producer.get(tensor)
        shared = first is not None and all(r.grids and first.same(r.grids[0]) for r in readings)
        if shared and producer is not None:
            assert first is not None
            place = list(self.ours.nodes[producer].output).index(tensor)
            self._add_activation(producer, f"out{place}", tensor, first)
            readings = [replace(r, grids=r.grids[1:]) for r in readings]
        for reading in readings:
            if not reading.grids:
                continue
            if reading.slot is None:
                self._at_output(tensor, reading.grids)
                continue
            node, index = reading.slot
            read = self.ours.nodes[node].input[index]
            self._add_activation(node, f"in{index}", read, reading.grids[-1])
            self.placement.lost.extend(reading.slot for _ in reading.grids[:-1])

    def _at_output(self, tensor: str, grids: Grids) -> None:
        """A grid that only a graph output is read through sits at its maker, or nowhere."""
        name = tensor.removeprefix("?")
        producer = self.ours.producer.get(name)
        if producer is not None and not self.ours.consumers.get(name):
            place = list(self.ours.nodes[producer].output).index(name)
            self._add_activation(producer, f"out{place}", name, grids[-1])
        else:
            self.placement.lost.append((name, -1))

    # quantizers

    def _add_activation(self, node: str, slot: str, tensor: str, grid: Grid) -> None:
        shape = self.model.shapes[tensor]
        if not grid.fits(shape):
            self.placement.lost.append((node, int(slot.lstrip("inout"))))
            return
        if grid.axis is not None:
            grid = replace(grid, axis=grid.axis % len(shape))
        role: Role = "input" if tensor in self.ours.inputs else "activation"
        self.found[node, slot] = _quantizer(node, slot, tensor, role, grid)

    def _add(self, slot: Slot, tensor: str, grid: Grid, stored: F32) -> None:
        node, name = slot[0], f"in{slot[1]}"
        quantizer = _quantizer(node, name, tensor, self._role(slot, tensor, grid), grid)
        if not np.array_equal(fake_quantize(self.ours.array(tensor), quantizer), stored):
            quantizer = replace(quantizer, stored=stored)
        self.found[node, name] = quantizer

    def _role(self, slot: Slot, tensor: str, grid: Grid) -> Role:
        computing = self.ours.nodes[slot[0]].op_type in COMPUTING
        if grid.bits == 32 or (computing and slot[1] == 2):
            return "bias"
        return "weight" if computing and slot[1] == 1 else "constant"

    # layers

    def _precision(self) -> dict[str, str]:
        """Return the precision of every layer: of those that touch a grid, or compute."""
        out: dict[str, int] = {}
        for quantizer in self.found.values():
            if quantizer.slot.startswith("out"):
                out.setdefault(quantizer.node, quantizer.bits)
        found: dict[str, str] = {}
        on: dict[str, int] = {}  # tensor -> bits of the grid its values lie on
        for name, node in self.ours.nodes.items():
            read = {
                index: grids[-1].bits if (grids := self.seen.get((name, index))) else on[tensor]
                for index, tensor in enumerate(node.input)
                if self.seen.get((name, index)) or tensor in on
            }
            if name in out:
                on[node.output[0]] = out[name]
            elif read and node.op_type in MOVES:
                on.update(dict.fromkeys(node.output, max(read.values())))
            bits = [b for b in [*read.values(), out.get(name, 0)] if 0 < b < 32]
            if node.op_type in COMPUTING:
                found[name] = _named(node.input, read, self.ours)
            elif bits:
                found[name] = f"int{max(bits)}"
        return found

    def _count_lost(self) -> None:
        for (reader, index), grids in self.form.edges.items():
            known = reader in self.match.extra or (reader, index) in self.match.slots
            if grids and not known and reader in self.other.nodes:
                self.placement.lost.append((reader, index))


def _named(inputs: Iterable[str], read: Mapping[int, int], view: GraphView) -> str:
    """Name the precision of a computing layer by the bits of its data and of its weight."""
    names = list(inputs)
    data, weight = read.get(0, 0), read.get(1, 0)
    if len(names) > 1 and view.is_constant(names[1]):
        if not weight:
            return "fp32"
        return f"int{data}" if data == weight else f"w{weight}a{data or 32}"
    return f"int{data}" if data else "fp32"


def _quantizer(node: str, slot: str, tensor: str, role: Role, grid: Grid) -> Quantizer:
    middle = 0 if grid.signed else 2 ** (grid.bits - 1)
    return Quantizer(
        node=node,
        slot=slot,
        tensor=tensor,
        role=role,
        bits=grid.bits,
        signed=grid.signed,
        symmetric=bool(np.all(grid.zero_point == middle)),
        axis=grid.axis,
        scale=grid.scale,
        zero_point=grid.zero_point,
        qmin=grid.qmin,
        qmax=grid.qmax,
    )


def _float_grid(values: npt.NDArray[Any]) -> Grid:
    """Return a 32-bit grid for a constant that stays in float: fine enough to be none."""
    largest = float(np.abs(values).max()) or 1.0
    scale = np.array([largest / (2**31 - 1)]).astype(np.float32).astype(np.float64)
    return Grid(32, True, -(2**31), 2**31 - 1, scale, np.zeros(1, np.int64))
