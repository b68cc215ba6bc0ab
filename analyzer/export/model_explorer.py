# SPDX-License-Identifier: Apache-2.0
"""Node data for Model Explorer: what was measured, at the nodes of the user's own file.

Unlike the other formats it says nothing of a plan: what is written is the analysis as it was
asked for.  See `analyzer/node_data.py`, which also serves an analysis that was stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs
from onnx import inliner

from analyzer.errors import ExportError
from analyzer.export.order import Files, Order
from analyzer.graph.names import name_nodes
from analyzer.node_data import node_data
from analyzer.records import Analysis


def write(order: Order) -> Files:
    """Return one file per measure, see `files_of`."""
    return files_of(order.analysis, order.original)


def files_of(analysis: Analysis, original: Path) -> Files:
    """Return one file per measure, with the adapter's ids of all nodes.

    Args:
        analysis: what was measured.
        original: the user's own file.

    Raises:
        ExportError: if the user's file has gone.
    """
    try:
        proto = onnx.load(str(original), load_external_data=False)
    except (OSError, DecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExportError(
            f"'{original}' cannot be read any more: {reason}.",
            "Leave the model in its place until the run has ended.",
        ) from error
    return node_data(analysis, node_ids(proto))


def node_ids(proto: onnx.ModelProto) -> dict[str, str]:
    """Return what the adapter calls the nodes of a file, by their names in `source_nodes`.

    What functions were expanded into is found at the node that called them.

    Args:
        proto: as the file has it; is not modified.
    """
    graph = proto.graph
    names = list(_named(graph, Counter()))
    expanded = inliner.inline_local_functions(proto) if proto.functions else proto
    copy = onnx.GraphProto()
    copy.CopyFrom(expanded.graph)
    entries = [entry for (entry,) in name_nodes(copy).values()]
    if proto.functions:
        places = _callers(graph, copy, {(f.domain, f.name) for f in proto.functions})
        names = [names[place] for place in places]
    found: dict[str, str] = {}
    for entry, name in zip(entries, names, strict=True):
        found.setdefault(entry, name)
    return found


def _named(graph: onnx.GraphProto, met: Counter[str]) -> Iterator[str]:
    """Yield the ids of a graph's nodes: the first of a name keeps it, later ones are numbered.

    As `NameFixPass` of onnx-ir does it, which the adapter runs first: names are unique within a
    graph, the numbers go on through the bodies of its nodes.
    """
    taken: set[str] = set()
    for node in graph.node:
        wanted = node.name or "node"
        name = wanted
        while name in taken:
            met[wanted] += 1
            name = f"{wanted}_{met[wanted]}"
        taken.add(name)
        yield name
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                for _ in _named(body, met):
                    pass


def _callers(
    graph: onnx.GraphProto, expanded: onnx.GraphProto, functions: set[tuple[str, str]]
) -> Iterator[int]:
    """Yield for every node of the expanded graph the place of the file's node it comes from.

    Expanding keeps the order, and what a call makes keeps its name.
    """
    calls = [
        (place, {name for name in node.output if name})
        for place, node in enumerate(graph.node)
        if (node.domain, node.op_type) in functions
    ]
    own = {
        tuple(node.output): place
        for place, node in enumerate(graph.node)
        if (node.domain, node.op_type) not in functions
    }
    missing: set[str] = set()
    for node in expanded.node:
        place = own.get(tuple(node.output))
        if place is None:
            if not missing and calls:
                current, missing = calls.pop(0)
            place = current
            missing = missing - set(node.output)
        yield place
