# SPDX-License-Identifier: Apache-2.0
"""Names and order: every node of a graph gets a unique name and stands behind what it reads."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

import onnx

from analyzer.errors import ModelError
from analyzer.graph.view import reads, subgraphs


def unique(name: str, taken: Container[str]) -> str:
    """Return `name`, or `name_2`, `name_3` ... whichever is the first not taken.

    >>> unique("conv", {"conv", "conv_2"})
    'conv_3'
    """
    if name not in taken:
        return name
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def name_nodes(graph: onnx.GraphProto) -> dict[str, tuple[str, ...]]:
    """Give every node of `graph` a unique name, in place.

    Returns:
        new name -> the name in the file, or `op_type#index` where the file has none.
    """
    # a made-up name must not take one that a later node has of its own
    taken = {node.name for node in graph.node if node.name}
    source: dict[str, tuple[str, ...]] = {}
    for index, node in enumerate(graph.node):
        given = node.name
        if not given:
            node.name = unique(f"{node.op_type}_{index}", taken)
        elif given in source:
            node.name = unique(given, taken)
        taken.add(node.name)
        source[node.name] = (given or f"{node.op_type}#{index}",)
    return source


def all_names(graph: onnx.GraphProto) -> set[str]:
    """Return every tensor name used in `graph` and in the bodies below it."""
    found = {v.name for values in (graph.input, graph.output) for v in values}
    found.update(t.name for t in graph.initializer)
    found.update(s.values.name for s in graph.sparse_initializer)
    for node in graph.node:
        found.update(node.input, node.output)
        for body in subgraphs(node):
            found |= all_names(body)
    return found


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put the nodes into a topological order, keeping the file's where that is one already.

    Raises:
        ModelError: if nodes wait for each other in a circle.
    """
    made_by = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    waits = [{made_by[name] for name in reads(node) if name in made_by} for node in graph.node]
    if all(not later or max(later) < i for i, later in enumerate(waits)):
        return
    order: list[int] = []
    done: set[int] = set()
    left = list(range(len(waits)))
    while left:
        ready = [i for i in left if waits[i] <= done]
        if not ready:
            names = ", ".join(f"'{graph.node[i].name}'" for i in left[:3])
            raise ModelError(
                f"The graph has a cycle through {len(left)} nodes ({names} ...), expected none.",
                "Export the model again.",
            )
        order += ready
        done.update(ready)
        left = [i for i in left if i not in done]
    replace_nodes(graph, [graph.node[i] for i in order])


def replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Make `nodes` the nodes of `graph`, in place; they may be nodes of it."""
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)


def rename_reads(node: onnx.NodeProto, rename: Callable[[str], str]) -> None:
    """Rename the tensors that `node` and its bodies read from outside, in place."""
    for index, name in enumerate(node.input):
        if name and (new := rename(name)) != name:
            node.input[index] = new
    for body in subgraphs(node):
        local = {i.name for i in body.input} | {t.name for t in body.initializer}
        local.update(name for inner in body.node for name in inner.output)

        def outer(name: str, local: Container[str] = local) -> str:
            return name if name in local else rename(name)

        for inner in body.node:
            rename_reads(inner, outer)
        for output in body.output:
            if (new := outer(output.name)) != output.name:
                output.name = new


def keep_sources(
    graph: onnx.GraphProto, source: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Return the part of `source` that belongs to nodes still in `graph`, in their order."""
    return {node.name: source[node.name] for node in graph.node}
