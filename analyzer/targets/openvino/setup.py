# SPDX-License-Identifier: Apache-2.0
"""From quantizers at their places to a plan: slots of the ONNX graph, groups, weights.

After `quantization/algorithms/min_max/algorithm.py` of NNCF 3.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from analyzer.errors import TargetError
from analyzer.graph.view import GraphView
from analyzer.records import Model, Quantizer, QuantPlan, Role, Setting
from analyzer.targets.base import COMPUTING, Target
from analyzer.targets.openvino.kernels import Kernel, kernels
from analyzer.targets.openvino.operations import Operation, Slot, Weight, operations
from analyzer.targets.openvino.patterns import LINEAR
from analyzer.targets.openvino.propagation import Moving, propagate
from analyzer.targets.openvino.ranges import half_range_weights
from analyzer.targets.openvino.traits import Grid

HALF = "half_range"  # observer of the first convolution's weights
CHANNELS = "channel_minmax"
MIXED = "int8-mixed"
FLOAT = "fp32"


@dataclass(frozen=True, slots=True)
class _Home:
    """A tensor to be quantized, and the slots at which that is done."""

    tensor: str
    slots: tuple[Slot, ...]
    role: Role


def plan(target: Target, model: Model, setting: Setting) -> QuantPlan:
    """Return the placed quantizers of a bound model.

    Raises:
        TargetError: for a layer that is to have another preset than the whole model.
    """
    precision = setting.precision or target.precisions[0]
    left_out = _left_out(setting, precision)
    view = GraphView(model.proto.graph)
    if precision == FLOAT:
        left_out = frozenset(view.nodes)
    ops = operations(model)
    found = kernels(ops, left_out)
    moved = propagate(found, symmetric=precision != MIXED)
    observer = setting.observer or target.observers[0]
    quantizers = [
        *_weights(ops, found, moved),
        *_activations(view, ops, found, moved, observer),
    ]
    layers = _layers(view, ops, found, moved, quantizers)
    return QuantPlan(
        target=target.name,
        layers=layers,
        computing=frozenset(n for n in layers if view.nodes[n].op_type in COMPUTING),
        precision={n: FLOAT if n in left_out else precision for n in layers},
        quantizers=tuple(quantizers),
        notes=tuple(_notes(view, ops)),
        default_precision=precision,
    )


def store_half_range(model: Model, plan: QuantPlan) -> QuantPlan:
    """Return the plan with the rounded weights of first convolutions stored.

    The largest weight of a channel lies half way between two levels there, and which one it gets
    hangs on the last bit of OpenVINO's arithmetic.
    """
    view = GraphView(model.proto.graph)

    def stored(quantizer: Quantizer) -> Quantizer:
        if quantizer.role != "weight" or quantizer.observer != HALF:
            return quantizer
        weights = view.array(quantizer.tensor).astype(np.float32)
        return replace(quantizer, stored=half_range_weights(weights, quantizer.axis))

    return replace(plan, quantizers=tuple(stored(q) for q in plan.quantizers))


def _left_out(setting: Setting, precision: str) -> frozenset[str]:
    for layer, wanted in setting.table.items():
        if wanted not in (FLOAT, precision):
            raise TargetError(
                f"Layer {layer!r} is to be {wanted}, the whole model {precision}.",
                f"NNCF has one preset for a model: give layers {FLOAT} or {precision}.",
            )
    return frozenset(n for n, wanted in setting.table.items() if wanted == FLOAT)


def _weights(
    ops: list[Operation], found: list[Kernel], moved: list[Moving]
) -> Iterator[Quantizer]:
    """Yield quantizers of weights; only the first operation of a kernel has its quantized.

    Layers that share a constant share the quantizer of the first one.
    """
    known: dict[str, Quantizer] = {}
    first = _first_convolutions(ops, found)
    tables = {m.embedding for m in moved if m.embedding is not None and _replaces(m)}
    for index, kernel in enumerate(found):
        if kernel.ignored:
            continue
        for weight in ops[kernel.members[0]].weights:
            half = kernel.members[0] in first
            quantizer = _weight(weight, half=half)
            if index in tables:
                quantizer = replace(quantizer, axis=None, qmin=-128)
            first_one = known.setdefault(weight.tensor, quantizer)
            yield quantizer if first_one is quantizer else _like(first_one, weight.slot)


def _weight(weight: Weight, *, half: bool) -> Quantizer:
    return Quantizer(
        node=weight.slot[0],
        slot=weight.slot[1],
        tensor=weight.tensor,
        role="weight",
        bits=8,
        axis=weight.axis,
        qmin=-127,
        observer=HALF if half else "minmax",
    )


def _like(quantizer: Quantizer, slot: Slot) -> Quantizer:
    node, place = quantizer.key
    return replace(
        quantizer, node=slot[0], slot=slot[1], follows=quantizer.key, group=f"{node}:{place}"
    )


def _first_convolutions(ops: list[Operation], found: list[Kernel]) -> set[int]:
    """Return the quantized convolutions first met on the ways from the inputs.

    They use half of the grid (`OverflowFix.FIRST_LAYER`).
    """
    quantized = {
        k.members[0] for k in found if not k.ignored and ops[k.members[0]].kind == "Convolution"
    }
    quantized = {i for i in quantized if ops[i].weights}
    readers: dict[int, list[int]] = {}
    for index, operation in enumerate(ops):
        for edge in operation.inputs:
            readers.setdefault(edge.source, []).append(index)
    seen: set[int] = set()
    stack = [i for i, op in enumerate(ops) if op.kind == "Parameter"]
    while stack:
        for reader in readers.get(stack.pop(), []):
            if reader not in seen:
                seen.add(reader)
                if reader not in quantized:
                    stack.append(reader)
    return seen & quantized


def _replaces(moving: Moving) -> bool:
    """Tell whether quantizing a table of weights spares quantizing what is read from it."""
    return any(grid.bits == 8 and grid.symmetric and not grid.per_channel for grid in moving.grids)


def _activations(
    view: GraphView,
    ops: list[Operation],
    found: list[Kernel],
    moved: list[Moving],
    observer: str,
) -> Iterator[Quantizer]:
    groups: dict[object, list[tuple[Moving, _Home]]] = {}
    for moving in sorted(moved, key=lambda m: (m.place[1], m.place[0], m.place[2])):
        if moving.embedding is not None and _replaces(moving):
            continue
        for number, home in enumerate(_homes(view, ops, found, moving)):
            key = (id(moving), number) if moving.group is None else moving.group
            groups.setdefault(key, []).append((moving, home))
    for members in groups.values():
        tensors = tuple(dict.fromkeys(home.tensor for _, home in members))
        root = members[0][1].slots[0]
        many = sum(len(home.slots) for _, home in members) > 1
        for moving, home in members:
            for slot in home.slots:
                quantizer = _activation(home, slot, moving.grids[0], observer)
                yield replace(
                    quantizer,
                    observes=tensors if len(tensors) > 1 and slot == root else (),
                    group=f"{root[0]}:{root[1]}" if many else None,
                    follows=root if slot != root else None,
                )


def _activation(home: _Home, slot: Slot, grid: Grid, observer: str) -> Quantizer:
    return Quantizer(
        node=slot[0],
        slot=slot[1],
        tensor=home.tensor,
        role=home.role,
        bits=8,
        symmetric=grid.symmetric,
        axis=1 if grid.per_channel else None,
        observer=CHANNELS if grid.per_channel else observer,
    )


def _homes(
    view: GraphView, ops: list[Operation], found: list[Kernel], moving: Moving
) -> Iterator[_Home]:
    """Yield what a quantizer at its final place quantizes.

    Behind an operation with several outputs in use, every reader has a quantizer of its own.
    What is read inside a group of nodes (the gate of a Swish) is not quantized there.
    """
    where, index, port = moving.place
    kernel = found[index]
    if where == "before":
        edge = kernel.inputs[port]
        yield _Home(edge.tensor, edge.slots, _role(view, edge.tensor))
        return
    edges = [found[k].inputs[i] for k, i in kernel.readers]
    tensors = dict.fromkeys(edge.tensor for edge in edges)
    slots = dict(ops[kernel.members[-1]].outputs)
    if len(tensors) > 1:
        for edge in edges:
            if edge.slots:
                yield _Home(edge.tensor, edge.slots, _role(view, edge.tensor))
        return
    for tensor in tensors:
        slot = slots[tensor]
        seen = tuple(dict.fromkeys(s for edge in edges for s in edge.slots))
        whole = slot is not None and set(seen) == set(_reading_slots(view, tensor))
        yield _Home(tensor, (slot,) if whole and slot else seen, _role(view, tensor))


def _role(view: GraphView, tensor: str) -> Role:
    return "input" if tensor in view.inputs else "activation"


def _reading_slots(view: GraphView, tensor: str) -> Iterator[Slot]:
    for node in view.nodes.values():
        for index, name in enumerate(node.input):
            if name == tensor:
                yield node.name, f"in{index}"


def _notes(view: GraphView, ops: list[Operation]) -> Iterator[str]:
    """Yield a note where NNCF 3.4.0 cannot quantize the model with its default settings.

    `channel_alignment/algorithm.py` casts with a numpy type, which its tensors do not know, as
    soon as it finds two layers in a row.
    """
    readers: dict[int, int] = {}
    for operation in ops:
        for edge in operation.inputs:
            readers[edge.source] = readers.get(edge.source, 0) + 1
    for operation in ops:
        if operation.kind != "Convolution" or not operation.weights:
            continue
        before = operation.inputs[0].source
        if ops[before].kind in ("Add", "Subtract") and readers[before] == 1:
            before = ops[before].inputs[0].source
        layer = ops[before]
        linear = layer.kind == "MatMul" or (layer.kind in LINEAR and "Backprop" not in layer.kind)
        if linear and layer.weights and readers[before] == 1 and _is_plain(view, operation.node):
            yield (
                f"NNCF 3.4.0 ends with KeyError at '{layer.node}' and '{operation.node}', which "
                "have no activation between them: pass AdvancedQuantizationParameters("
                "disable_channel_alignment=True), as this plan assumes."
            )
            return


def _is_plain(view: GraphView, name: str) -> bool:
    """Tell whether a convolution neither pads nor steps nor dilates."""
    ones = ("strides", "dilations")
    return not any(
        (a.name == "pads" and any(a.ints))
        or (a.name in ones and any(i != 1 for i in a.ints))
        or (a.name == "auto_pad" and a.s not in (b"NOTSET", b"VALID"))
        for a in view.nodes[name].attribute
    )


def _layers(
    view: GraphView,
    ops: list[Operation],
    found: list[Kernel],
    moved: list[Moving],
    quantizers: list[Quantizer],
) -> tuple[str, ...]:
    """Return the nodes that carry a quantizer or read what one has quantized."""
    names = {q.node for q in quantizers}
    for moving in moved:
        for sink in moving.sinks:
            names.add(ops[found[sink].members[0]].node)
    return tuple(name for name in view.nodes if name in names)
