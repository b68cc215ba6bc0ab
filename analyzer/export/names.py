# SPDX-License-Identifier: Apache-2.0
"""Names: which ones a tool finds in the file it reads, and what our layers are called there."""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs

from analyzer.errors import ExportError, nearest
from analyzer.export.order import Order
from analyzer.graph.names import all_names
from analyzer.graph.view import GraphView
from analyzer.graph.view import reads as read_by

_UNNAMED = re.compile(r"(?P<kind>.*)#(?P<index>\d+)", re.DOTALL)
_FEW = 8


def check(names: Iterable[str], known: Collection[str], what: str) -> None:
    """Refuse names that the file does not have: most quantizers ignore them without a word.

    Args:
        names: to be written.
        known: of the graph that the tool will read.
        what: they are names of: "layer", "tensor" ...

    Raises:
        ExportError: with the nearest match.
    """
    among = known if isinstance(known, set | frozenset | dict) else set(known)
    for name in names:
        if name not in among:
            raise ExportError(
                f"There is no {what} {name!r} in the graph that the tool reads.",
                _nearest(name, among),
            )


def reads(
    order: Order, nodes: Iterable[str] | None = None, tensors: Iterable[str] | None = None
) -> Literal["original", "ours"]:
    """Tell which FP32 file a tool is to be given: the user's own, or `SOURCE` that we write.

    The user's own, where it has every name that is written, once, and the plan changes nothing
    in the graph but what the tool does itself.

    Args:
        order: what is exported.
        nodes: names of nodes that are written; None: those that the setting names.
        tensors: names of tensors that are written; None: those that the setting names.
    """
    if order.our_edits:
        return "ours"
    setting = order.proposal.setting
    if nodes is None:
        nodes = [*setting.table, *(layer for e in order.native_edits for layer in e.layers)]
    if tensors is None:
        tensors = setting.ranges
    found = NameMap(order)
    there = all(found.nodes.get(name) == 1 for name in nodes) and found.tensors.issuperset(tensors)
    return "original" if there else "ours"


def known_nodes(order: Order, file: Literal["original", "ours"]) -> frozenset[str]:
    """Return the names of the nodes in the FP32 file that a tool is given."""
    if file == "original":
        return frozenset(name for name, count in NameMap(order).nodes.items() if count == 1)
    return frozenset(node.name for node in order.source.proto.graph.node)


def known_tensors(order: Order, file: Literal["original", "ours"]) -> frozenset[str]:
    """Return the names of the tensors in the FP32 file that a tool is given."""
    if file == "original":
        return NameMap(order).tensors
    return frozenset(all_names(order.source.proto.graph) - {""})


@dataclass(frozen=True, slots=True)
class Named:
    """What stands for one layer in the user's file.

    Attributes:
        nodes: names of the user's nodes; two may have the same.
        unnamed: those that have none, as `op_type#index`.
        elsewhere: names that stand in no node of the file itself, but in a function of it.
        tensor: what the layer makes, as our graph calls it.
        outputs: what it makes, as the file calls it; empty where the file has nothing like it.
    """

    nodes: tuple[str, ...]
    unnamed: tuple[str, ...]
    elsewhere: tuple[str, ...]
    tensor: str
    outputs: tuple[str, ...]


class NameMap:
    """From the names that the target prints to those of the user's file.

    Attributes:
        nodes: name -> how many nodes of the user's file have it; "" is no name.
        tensors: of the user's file, bodies included.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._file = _read(order.original)
        self.nodes = {name: len(at) for name, at in self._file.places.items()}
        self.tensors = self._file.tensors

    def layer(self, name: str) -> Named:
        """Look up one layer.

        Args:
            name: of a node of the order's graph.

        Raises:
            ExportError: if it is none; with the nearest match.
        """
        check([name], self._view.nodes, "layer")
        nodes, unnamed, elsewhere, places = [], [], [], set()
        for source in self._order.graph.source_nodes.get(name, ()):
            at = self._file.find(source)
            places.update(at)
            if source in self._file.places:
                nodes.append(source)
            elif at:
                unnamed.append(source)
            else:
                elsewhere.append(source)
        tensor = next((t for t in self._view.nodes[name].output if t), "")
        outputs = (tensor,) if tensor in self.tensors else tuple(self._file.made(places))
        return Named(tuple(nodes), tuple(unnamed), tuple(elsewhere), tensor, outputs)

    def tensor(self, name: str) -> str | None:
        """Return what the user's file calls a tensor of our graph; None: it has none like it."""
        if name in self.tensors:
            return name
        maker = self._view.producer.get(name)
        if maker is None:
            return None
        outputs = self.layer(maker).outputs
        return outputs[0] if len(outputs) == 1 else None

    @cached_property
    def _view(self) -> GraphView:
        return GraphView(self._order.graph.proto.graph)


def names_csv(order: Order) -> str:
    """Return the table of names: one line per layer of the plan, in execution order.

    `source_nodes` and `tensors_in_file` are JSON lists: the user's nodes in the layer, and what
    the user's file calls its output.
    """
    before = {row.name: row.precision for row in order.analysis.layers}
    found = NameMap(order)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["layer", "op_type", "precision_before", "precision_after", "source_nodes", "tensor",
         "tensors_in_file", "note"]
    )  # fmt: skip
    nodes = {node.name: node for node in order.graph.proto.graph.node}
    for layer in order.plan.layers:
        named = found.layer(layer)
        writer.writerow(
            [
                layer,
                order.graph.op_types.get(layer, nodes[layer].op_type),
                before.get(layer, ""),
                order.plan.precision[layer],
                _json([*named.nodes, *named.unnamed, *named.elsewhere]),
                named.tensor,
                _json(named.outputs),
                "; ".join(_notes(order, layer, named, found)),
            ]
        )
    return stream.getvalue()


def _notes(order: Order, layer: str, named: Named, found: NameMap) -> Iterator[str]:
    for edit in order.proposal.setting.edits:
        if layer in edit.layers:
            yield f"part of the {edit.kind.replace('_', ' ')}"
    if named.unnamed:
        yield "has no name in the file"
    for name in dict.fromkeys(named.nodes):
        if found.nodes[name] > 1:
            yield f"{found.nodes[name]} nodes of the file have this name"
    if named.elsewhere:
        yield "inside a function of the file"
    if not (named.nodes or named.unnamed or named.elsewhere):
        yield "not in the file: it was put in"
    elif len(named.nodes) == 1 and named.nodes[0] != layer:
        yield "called otherwise in the file"


class _File:
    """The user's file, as far as names go.

    Attributes:
        places: name of a node -> where in the file it stands.
        tensors: names, bodies included.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes = [(node.op_type, node.name, tuple(node.output)) for node in graph.node]
        self.places: dict[str, list[int]] = {}
        # -1 stands for the user, who reads the graph's outputs
        self._readers: dict[str, set[int]] = {value.name: {-1} for value in graph.output}
        for index, node in enumerate(graph.node):
            if node.name:
                self.places.setdefault(node.name, []).append(index)
            for tensor in read_by(node):
                self._readers.setdefault(tensor, set()).add(index)
        self.tensors = frozenset(all_names(graph) - {""})

    def find(self, source: str) -> list[int]:
        """Return where an entry of `Model.source_nodes` stands."""
        if source in self.places:
            return self.places[source]
        written = _UNNAMED.fullmatch(source)
        if written and (index := int(written["index"])) < len(self._nodes):
            kind, name, _ = self._nodes[index]
            if not name and kind == written["kind"]:
                return [index]
        return []

    def made(self, places: Collection[int]) -> Iterator[str]:
        """Yield what the nodes at these places make for others."""
        for index in sorted(places):
            for tensor in self._nodes[index][2]:
                if tensor and not self._readers.get(tensor, set()) <= set(places):
                    yield tensor


def _read(path: Path) -> _File:
    """Read the user's file again, without its weights where these lie beside it."""
    try:
        state = path.stat()
        return _indexed(path, state.st_mtime_ns, state.st_size)
    except (OSError, DecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExportError(
            f"'{path}' cannot be read any more: {reason}.",
            "Leave the model in its place until the run has ended.",
        ) from error


@lru_cache(maxsize=1)  # every format asks for the same one
def _indexed(path: Path, changed_ns: int, size: int) -> _File:
    return _File(onnx.load(str(path), load_external_data=False).graph)


def _nearest(name: str, known: Collection[str]) -> str:
    """Name the nearest match; of long lists, nothing else."""
    if not known:
        return "It has none."
    few = known if len(known) <= _FEW else difflib.get_close_matches(name, known, 3, cutoff=0.0)
    return nearest(name, few)


def _json(names: Sequence[str]) -> str:
    return json.dumps(list(names), ensure_ascii=False)
