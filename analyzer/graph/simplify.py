# SPDX-License-Identifier: Apache-2.0
"""Nodes that do nothing at inference are taken out of a graph, and what nobody reads with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from analyzer.graph.names import rename_reads, replace_nodes
from analyzer.graph.view import reads


def remove_identities(graph: onnx.GraphProto, dtypes: Mapping[str, str] | None = None) -> None:
    """Take out Identity, inference Dropout and, given the dtypes, Casts to the same type.

    One that connects a graph input or constant with a graph output stays, for neither can be
    renamed.  `graph` is changed in place.
    """
    initializers = {t.name: t for t in graph.initializer}
    outputs = {o.name for o in graph.output}
    made: set[str] = set()
    renamed: dict[str, str] = {}

    def resolve(name: str) -> str:
        while name in renamed:
            name = renamed[name]
        return name

    read = {name for node in graph.node for name in reads(node)}
    kept = []
    for node in graph.node:
        if _does_nothing(node, initializers, read | outputs, dtypes or {}):
            source, target = resolve(node.input[0]), node.output[0]
            if target not in outputs:
                renamed[target] = source
                continue
            if source in made and source not in outputs:
                # the node before takes over the name of the graph output
                made.discard(source)
                renamed[source] = target
                made.add(target)
                continue
        kept.append(node)
        made.update(name for name in node.output if name)
    if not renamed:
        return
    _rename(kept, resolve)
    replace_nodes(graph, kept)


def _rename(nodes: list[onnx.NodeProto], resolve: Callable[[str], str]) -> None:
    for node in nodes:
        rename_reads(node, resolve)
        for index, name in enumerate(node.output):
            if name and (new := resolve(name)) != name:
                node.output[index] = new


def _does_nothing(
    node: onnx.NodeProto,
    initializers: Mapping[str, TensorProto],
    used: set[str],
    dtypes: Mapping[str, str],
) -> bool:
    if node.domain:
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type == "Cast":
        kind = dtypes.get(node.input[0])
        return kind is not None and kind == dtypes.get(node.output[0])
    if node.op_type != "Dropout" or any(mask in used for mask in node.output[1:] if mask):
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    training = initializers.get(node.input[2])
    return training is not None and not np.any(numpy_helper.to_array(training))


def remove_unused(graph: onnx.GraphProto) -> None:
    """Take out the nodes and initializers that no graph output depends on, in place."""
    needed = {o.name for o in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(reads(node))
    if len(kept) < len(graph.node):
        replace_nodes(graph, kept[::-1])
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]
    for index in reversed(range(len(graph.sparse_initializer))):
        if graph.sparse_initializer[index].values.name not in needed:
            del graph.sparse_initializer[index]
