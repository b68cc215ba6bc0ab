# SPDX-License-Identifier: Apache-2.0
"""Constant folding: what does not depend on the data becomes an initializer."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from analyzer.graph.constants import lift_constants
from analyzer.graph.names import all_names, rename_reads, replace_nodes, unique
from analyzer.graph.shapes import Known, infer, run_once
from analyzer.graph.simplify import remove_identities, remove_unused
from analyzer.graph.view import attributes, reads, subgraphs

# a constant larger than this costs more memory than computing it again
MAX_ELEMENTS = 16 * 2**20

_RANDOM = frozenset(
    {
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
        "Dropout",
    }
)
# a few numbers in, any number out: not run before the size of the result is known
GROWING = frozenset(
    {
        "ConstantOfShape",
        "Expand",
        "Tile",
        "Range",
        "Resize",
        "Upsample",
        "Pad",
        "OneHot",
        "EyeLike",
        "CenterCropPad",
        "Col2Im",
        "MaxUnpool",
        "AffineGrid",
        "HannWindow",
        "HammingWindow",
        "BlackmanWindow",
        "MelWeightMatrix",
    }
)


def fold_constants(proto: onnx.ModelProto, source: MutableMapping[str, tuple[str, ...]]) -> Known:
    """Fold constants and the arithmetic on static shapes of a bound model, in place.

    An `If` whose condition is constant is replaced by its branch.  Results of more than
    `MAX_ELEMENTS`, random numbers and what makes a graph output stay.  `source` gets an entry
    for every node that comes out of a branch.

    Returns:
        all that is known about tensors then; those folded away may be among them.
    """
    while True:
        known = infer(proto)
        folded = _fold_once(proto, known)
        inlined = _inline_branches(proto.graph, source)
        if folded or inlined:
            remove_unused(proto.graph)
        # with every shape known, a second look finds nothing that the first did not
        if not inlined and not (folded and known.missing(proto.graph)):
            return known


def _fold_once(proto: onnx.ModelProto, known: Known) -> bool:
    """Fold what can be with the shapes known now; tell whether there was anything."""
    graph = proto.graph
    stored = {t.name: t for t in graph.initializer}
    outputs = {o.name for o in graph.output}
    values: dict[str, npt.NDArray[Any]] = {}
    constant: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        made = [name for name in node.output if name]
        shape = _static_shape(node, known)
        if outputs.intersection(made):
            kept.append(node)
        elif shape is not None:
            values[made[0]] = shape
        elif _is_foldable(node, stored, constant | values.keys(), known):
            nodes.append(node)
            constant.update(made)
        else:
            kept.append(node)
    if len(kept) == len(graph.node):
        return False
    read = {name for node in kept for name in reads(node)}
    computed = _evaluate(proto, nodes, stored, values, sorted(read & constant))
    tensors = [
        numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        for name, array in {**values, **computed}.items()
        if name in read
    ]
    replace_nodes(graph, kept)
    graph.initializer.extend(tensors)
    for tensor in tensors:
        known.shapes[tensor.name] = tuple(tensor.dims)
    return True


def _static_shape(node: onnx.NodeProto, known: Known) -> npt.NDArray[Any] | None:
    """Return the value of a Shape or Size node of a tensor with a known shape."""
    if node.domain or node.op_type not in ("Shape", "Size"):
        return None
    shape = known.shapes.get(node.input[0])
    if shape is None:
        return None
    if node.op_type == "Size":
        return np.array(prod(shape), np.int64)
    given = attributes(node)
    # negative and too large ends mean in ONNX what they mean in Python
    return np.array(shape[given.get("start", 0) : given.get("end")], np.int64)


def _is_foldable(
    node: onnx.NodeProto,
    stored: Mapping[str, TensorProto],
    constant: set[str],
    known: Known,
) -> bool:
    if node.domain or node.op_type in _RANDOM or node.op_type == "Constant":
        return False
    names = [name for name in node.input if name]
    if any(True for _ in subgraphs(node)) or not names:
        return False
    if not all(name in stored or name in constant for name in names):
        return False
    for name in node.output:
        if not name:
            continue
        if name not in known.dtypes or name in known.others:
            return False
        shape = known.shapes.get(name)
        if shape is None:
            # NonZero and the like give no more than they get
            if node.op_type in GROWING or not all(name in stored for name in names):
                return False
        elif prod(shape) > MAX_ELEMENTS:
            return False
    return True


def _evaluate(
    proto: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    stored: Mapping[str, TensorProto],
    values: Mapping[str, npt.NDArray[Any]],
    wanted: list[str],
) -> dict[str, npt.NDArray[Any]]:
    """Compute the tensors `wanted` with onnxruntime, all in one session."""
    if not wanted:
        return {}
    part = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    part.graph.name = "constants"
    part.graph.node.extend(nodes)
    read = dict.fromkeys(name for node in nodes for name in node.input)
    part.graph.initializer.extend(stored[name] for name in read if name in stored)
    for name in read:
        if name in values:
            part.graph.initializer.append(numpy_helper.from_array(values[name], name))
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    return dict(zip(wanted, run_once(part, wanted, {}), strict=True))


def _inline_branches(graph: onnx.GraphProto, source: MutableMapping[str, tuple[str, ...]]) -> bool:
    """Replace every `If` whose condition is constant by its branch, in place."""
    conditions = {t.name: t for t in graph.initializer if t.data_type == TensorProto.BOOL}
    chosen = {}
    for node in graph.node:
        if node.op_type == "If" and not node.domain and node.input[0] in conditions:
            condition = numpy_helper.to_array(conditions[node.input[0]])
            if condition.size == 1:
                chosen[node.name] = "then_branch" if condition.item() else "else_branch"
    for name, branch in chosen.items():
        _inline(graph, name, branch, source)
    if chosen:
        lift_constants(graph)
        remove_identities(graph)
    return bool(chosen)


def _inline(
    graph: onnx.GraphProto,
    name: str,
    branch: str,
    source: MutableMapping[str, tuple[str, ...]],
) -> None:
    position = next(i for i, node in enumerate(graph.node) if node.name == name)
    node = graph.node[position]
    body = onnx.GraphProto()
    body.CopyFrom(next(a.g for a in node.attribute if a.name == branch))
    targets = list(node.output)
    del node.attribute[:]  # so that its bodies' names do not count as taken
    renamed = _new_names(body, targets, all_names(graph), prefix=name)
    nodes = []
    for inner in body.node:
        rename_reads(inner, lambda tensor: renamed.get(tensor, tensor))
        for index, output in enumerate(inner.output):
            if output:
                inner.output[index] = renamed[output]
        nodes.append(inner)
    for output, target in zip(body.output, targets, strict=True):
        value = renamed.get(output.name, output.name)
        if target and value != target:
            nodes.append(helper.make_node("Identity", [value], [target]))
    _name_inlined(nodes, graph, name, source)
    for tensor in body.initializer:
        copy = graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = renamed[tensor.name]
    replace_nodes(graph, [*graph.node[:position], *nodes, *graph.node[position + 1 :]])


def _new_names(
    body: onnx.GraphProto, targets: list[str], taken: set[str], *, prefix: str
) -> dict[str, str]:
    """Return tensor of `body` -> its name in the graph; outputs get those of the `If`."""
    made = {name for node in body.node for name in node.output if name}
    renamed: dict[str, str] = {}
    for output, target in zip(body.output, targets, strict=True):
        if target and output.name in made and output.name not in renamed:
            renamed[output.name] = target
    for name in [*(t.name for t in body.initializer), *sorted(made)]:
        if name not in renamed:
            new = unique(f"{prefix}/{name}", taken) if name in taken else name
            renamed[name] = new
            taken.add(new)
    return renamed


def _name_inlined(
    nodes: list[onnx.NodeProto],
    graph: onnx.GraphProto,
    name: str,
    source: MutableMapping[str, tuple[str, ...]],
) -> None:
    """Name the nodes of a branch after their own names or the `If` that held them."""
    taken = {node.name for node in graph.node} - {name}
    origin = source.pop(name)[0]
    for index, node in enumerate(nodes):
        given = node.name
        node.name = unique(given or f"{name}/{node.op_type}_{index}", taken)
        taken.add(node.name)
        source[node.name] = (given or f"{origin}/{node.op_type}#{index}",)
