# SPDX-License-Identifier: Apache-2.0
"""What a plan asks for, told for tools that read an ONNX file: an order goes in.

Layers come with the names that stand in the file the tool is given, the user's own or ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import onnx

from analyzer.errors import ExportError
from analyzer.export.names import NameMap, check, known_nodes, reads
from analyzer.export.order import Order
from analyzer.formats import SOURCE, TOOLS

Width = Literal["float", "int8", "wide"]
File = Literal["original", "ours"]
_FEW = 4  # layers that a sentence names


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer whose precision is not that of the rest.

    Attributes:
        name: as the target prints it.
        precision: in the target's words.
        nodes: that stand for it in the file, in the order of the file.
        tensors: what these nodes make, the last one first.
    """

    name: str
    precision: str
    nodes: tuple[str, ...]
    tensors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """The precisions of a plan.

    Attributes:
        file: that the tool is given.
        base: width of every layer that is not listed.
        layers: with another width.
        absent: names of layers with another width that no node of the file stands for.
    """

    file: File
    base: Width
    layers: tuple[Layer, ...]
    absent: tuple[str, ...] = ()

    def of(self, wanted: Width) -> tuple[Layer, ...]:
        """Return the listed layers of one width."""
        return tuple(layer for layer in self.layers if width(layer.precision) == wanted)


def width(precision: str) -> Width:
    """Tell what a precision is in the words of all targets.

    >>> [width(p) for p in ("fp16", "u8s8", "int8-mixed", "a16w8", "int16x8")]
    ['float', 'int8', 'int8', 'wide', 'wide']
    """
    if precision.startswith(("fp", "float", "bf")):
        return "float"
    return "wide" if "16" in precision else "int8"


def asked(order: Order) -> Asked:
    """Return the precisions of the plan, by the names of the file the tool is given.

    Raises:
        ExportError: for a layer that the graph does not have.
    """
    setting = order.proposal.setting
    check(setting.table, {node.name for node in order.graph.proto.graph.node}, "layer")
    base = width(setting.precision or order.target.precisions[0])
    wanted = {layer: p for layer, p in _precisions(order) if width(p) != base}
    file = _file(order, wanted)
    nodes_of = _in_original(order) if file == "original" else in_source(order)
    known = known_nodes(order, file)
    made = _outputs(order, file)
    layers, absent = [], []
    for name, precision in wanted.items():
        nodes = nodes_of[name]
        if not nodes:
            absent.append(name)
            continue
        check(nodes, known, "layer")
        tensors = tuple(t for node in reversed(nodes) for t in made.get(node, ()))
        layers.append(Layer(name, precision, nodes, tensors))
    return Asked(file, base, tuple(layers), tuple(absent))


def asked_of_nodes(order: Order) -> Callable[[Iterable[str]], Width | None]:
    """Return what another target's plan asks for one of some nodes: float before all."""
    homes = in_source(order)
    wanted = {n: width(x.precision) for x in asked(order).layers for n in homes[x.name]}

    def kind(nodes: Iterable[str]) -> Width | None:
        found = [wanted[name] for name in nodes if name in wanted]
        return "float" if "float" in found else next(iter(found), None)

    return kind


def in_source(order: Order) -> dict[str, tuple[str, ...]]:
    """Return layer of the plan -> nodes of our FP32 file, by name or by the user's nodes.

    Raises:
        ExportError: for a layer that was made of nodes which are not there any more.
    """
    source = {node.name for node in order.source.proto.graph.node}
    homes: dict[str, list[str]] = {}
    for name, users in order.source.source_nodes.items():
        for user in users:
            homes.setdefault(user, []).append(name)
    found = {}
    for node in order.graph.proto.graph.node:
        users = order.graph.source_nodes.get(node.name, ())
        behind = dict.fromkeys(home for user in users for home in homes.get(user, ()))
        found[node.name] = (node.name,) if node.name in source else tuple(behind)
        if not found[node.name] and users:
            raise ExportError(
                f"Layer {node.name!r} has no node in {SOURCE}, expected one.",
                "Choose another format.",
            )
    return found


def file_name(order: Order, found: Asked) -> str:
    """Return what the file that the tool is given is called."""
    return order.original.name if found.file == "original" else SOURCE


def is_own(order: Order, tool: str) -> bool:
    """Tell whether the plan was measured with the rules of this tool."""
    return order.target.name in TOOLS[tool].targets


def several(names: Collection[str]) -> str:
    """Name a few, and say how many more there are.

    >>> several(["a", "b", "c", "d", "e", "f"])
    'a, b, c, d and 2 more'
    """
    listed = list(names)
    more = f" and {len(listed) - _FEW} more" if len(listed) > _FEW else ""
    return ", ".join(listed[:_FEW]) + more


def left_out(
    order: Order,
    found: Asked,
    *,
    tool: str,
    wide: bool = False,
    ranges: bool = False,
    observers: Iterable[str] = (),
) -> Iterator[str]:
    """Yield a sentence per thing that is asked for and that a format cannot say.

    Args:
        order: what is exported.
        found: as `asked` returned it.
        tool: name of the format.
        wide: whether it has 16-bit activations.
        ranges: whether it takes ranges of tensors.
        observers: that it has, in the target's words.
    """
    title, setting = TOOLS[tool].title, order.proposal.setting
    layers = [layer.name for layer in found.of("wide")]
    if found.base == "wide" and not wide:
        yield f"All layers are at 16 bits in the plan; {title} has int8 only, as has this file."
    elif layers and not wide:
        yield (
            f"{title} has no 16-bit activations: {several(layers)} stay at its int8. Add them to "
            "the float layers to have them better than that."
        )
    if found.absent:
        yield (
            f"{several(found.absent)}: put in by {order.target.name}, no node of the FP32 file "
            "stands for it."
        )
    if setting.ranges and not ranges:
        yield (
            f"{title} takes no ranges of single tensors: {several(setting.ranges)} get what its "
            "own observers find."
        )
    if setting.observer and setting.observer not in observers:
        yield (
            f"Calibration {setting.observer!r} of {order.target.name} has no counterpart: "
            f"{title} calibrates as it does by default."
        )
    if order.native_edits:
        kinds = {edit.kind.replace("_", " ") for edit in order.native_edits}
        yield f"What {order.target.name}'s own config asks for is not done: {', '.join(kinds)}."


def _precisions(order: Order) -> Iterator[tuple[str, str]]:
    """Yield layer and precision where it was asked for, or follows from what was asked for."""
    table, plan = order.proposal.setting.table, order.plan.precision
    before = order.analysis.plan.precision
    for node in order.graph.proto.graph.node:
        name = node.name
        if name in table:
            yield name, table[name]
        elif name in plan and width(before.get(name, plan[name])) != width(plan[name]):
            yield name, plan[name]


def _file(order: Order, layers: Iterable[str]) -> File:
    """Choose the user's own file where it names all nodes of these layers, once."""
    if order.our_edits:
        return "ours"
    found = NameMap(order)
    nodes: list[str] = []
    for layer in layers:
        named = found.layer(layer)
        if named.unnamed or named.elsewhere or not named.nodes:
            return "ours"
        nodes += named.nodes
    return reads(order, nodes)


def _in_original(order: Order) -> dict[str, tuple[str, ...]]:
    found = NameMap(order)
    return {node.name: found.layer(node.name).nodes for node in order.graph.proto.graph.node}


def _outputs(order: Order, file: File) -> dict[str, tuple[str, ...]]:
    """Return node -> tensors it makes, in the file the tool is given."""
    if file == "ours":
        return _made(order.source.proto.graph)
    state = order.original.stat()
    return _made_in(order.original, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)  # several formats ask for the same one
def _made_in(path: Path, changed_ns: int, size: int) -> dict[str, tuple[str, ...]]:
    return _made(onnx.load(str(path), load_external_data=False).graph)


def _made(graph: onnx.GraphProto) -> dict[str, tuple[str, ...]]:
    return {node.name: tuple(t for t in node.output if t) for node in graph.node if node.name}
