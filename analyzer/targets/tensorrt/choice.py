# SPDX-License-Identifier: Apache-2.0
"""Which nodes get a Q/DQ pair in front of them, and which of their inputs go without.

Imitates `_find_nodes_to_quantize` of `onnx/quantization/int8.py` of nvidia-modelopt, what it
calls in `graph_utils.py` and `partitioning.py`, and its lists of exclusions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from analyzer.graph.view import GraphView, attributes
from analyzer.records import Model
from analyzer.targets.tensorrt.net import COPY, LINEAR, Net
from analyzer.targets.tensorrt.partition import (
    POINTWISE,
    Group,
    attentions,
    groups,
    merged_inputs,
    patterns,
)

# `configure_ort` of `ort_utils.py`: onnxruntime's registries without what only moves or bounds
# values, with the normalizations and HardSwish
QUANTIZED = frozenset(
    """
    Add AveragePool BatchNormalization Clip Conv ConvTranspose CumSum Gemm GlobalAveragePool
    HardSwish LRN LayerNormalization MatMul MaxPool Mul Resize TopK
    """.split()
)
_POOLS = frozenset(
    """
    AveragePool GlobalAveragePool MaxPool GlobalMaxPool GlobalLpPool LpPool MaxPoolGridSample
    HammingWindow BlackmanWindow HannWindow
    """.split()
)
# an Add, Mul ... behind one of these gets a quantized input although no group ends there
_WORTH_QUANTIZING = frozenset(
    {"AveragePool", "BatchNormalization", "GlobalAveragePool", "MaxPool", "Mul"}
)
_MAY_END = frozenset({"Conv", "Gemm", "MatMul"})
_MIN_CHANNELS = 16
_MAX_SEQUENCE = 512
_MAX_COPIES = 10
_CONVERTED_BELOW = 19


@dataclass(frozen=True, slots=True)
class Bypass:
    """An input that reads the tensor itself although others read it behind a Q/DQ pair."""

    maker: str
    reader: str
    tensor: str


@dataclass(frozen=True, slots=True)
class Choice:
    """What is quantized: nodes, whose inputs all are but for some."""

    nodes: frozenset[str] = frozenset()
    bypasses: tuple[Bypass, ...] = ()


def choose(net: Net, excluded: frozenset[str]) -> Choice:
    """Choose the nodes to quantize.

    Args:
        net: the graph.
        excluded: nodes that must stay in float.
    """
    taken = patterns(net) | excluded
    linear, other = groups(net, taken, merged_inputs(net))
    heads, bypasses = _heads(net, linear)
    bypasses += [
        Bypass(net.maker[tensor], op.name, tensor)
        for op in net.ops.values()
        if op.name in excluded and op.kind in LINEAR
        for tensor in op.inputs
        if tensor in net.maker
    ]
    first, more = _pointwise_heads(net, linear, other)
    chosen = {*heads, *first, *_norms_behind_groups(net, linear)}
    partly = {bypass.reader for bypass in bypasses}
    chosen |= partly
    chosen |= _alone(net, chosen, taken)
    ends = {
        op.name
        for op in net.ops.values()
        if op.kind not in _MAY_END
        and op.name not in partly
        and not net.outputs.isdisjoint(op.outputs)
    }
    return Choice(frozenset(chosen - ends - excluded), (*bypasses, *more))


def too_small(net: Net, model: Model) -> frozenset[str]:
    """Return the layers that TensorRT would not run faster in INT8.

    Matrix products with a vector or with fewer than 16 rows or columns
    (`find_nodes_from_matmul_to_exclude`), convolutions of few channels
    (`find_nodes_from_convs_to_exclude`) and long attentions (`find_nodes_from_mha_to_exclude`).
    """
    view = GraphView(model.proto.graph)
    found: set[str] = set()
    for chain in attentions(net):
        shape = model.shapes.get(net.ops[chain[0]].inputs[1], ())
        if shape and shape[-1] > _MAX_SEQUENCE:
            found.update((chain[0], chain[2]))
    for name, node in view.nodes.items():
        if node.op_type == "Conv":
            weight = node.input[1]
            # what a Constant node makes has a shape once ModelOpt converted the file to opset 19
            known = net.is_initializer(weight) or model.opset < _CONVERTED_BELOW
            small = not (known and view.is_constant(weight)) or _few_channels(
                attributes(node),
                model.shapes[weight],
                first=any(t in view.inputs for t in node.input),
            )
        elif node.op_type in ("MatMul", "Gemm"):
            small = _small_product(net, name, attributes(node), model.shapes)
        else:
            small = False
        if small:
            found.add(name)
    return frozenset(found)


def _few_channels(given: Mapping[str, Any], weight: tuple[int, ...], *, first: bool) -> bool:
    out, into = weight[:2]
    kernel = given.get("kernel_shape", [1, 1])
    if min(out, into) >= _MIN_CHANNELS:
        return False
    if given.get("group", 1) > 1:
        return not (out % 8 == 0 and all(k >= 3 for k in kernel))
    return not (
        (out % 8 == 0 or into % 8 == 0)
        and (first or max(out, into) >= _MIN_CHANNELS)
        and len(set(kernel)) == 1
    )


def _small_product(
    net: Net, name: str, given: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> bool:
    op = net.ops[name]
    out = shapes[op.outputs[0]]
    if not any(net.is_initializer(tensor) for tensor in op.inputs):
        if len(out) < 2 or 1 in out[-2:]:
            return True
    elif len(out) < 3 and 1 in out:
        return True
    columns = out[-1] if len(out) >= 2 else 0
    second = shapes[op.inputs[1]]
    transposed = op.kind == "Gemm" and given.get("transB", 0)
    rows = second[-1 if transposed else -2] if len(second) >= 2 else 0
    return 0 < columns < _MIN_CHANNELS or 0 < rows < _MIN_CHANNELS


def _heads(net: Net, linear: Iterable[Group]) -> tuple[list[str], list[Bypass]]:
    """Return the nodes where data enters a group, and what they read from within it.

    `classify_partition_nodes`.
    """
    heads, bypasses = [], []
    for group in linear:
        made = {tensor for name in group for tensor in net.ops[name].outputs}
        for name in group:
            varying = [t for t in net.ops[name].inputs if not net.is_constant(t)]
            inner = [Bypass(net.maker[t], name, t) for t in varying if t in made]
            if len(inner) == len(varying):
                continue
            bypasses += inner
            if not inner:
                heads.append(name)
    return heads, bypasses


def _norms_behind_groups(net: Net, linear: Iterable[Group]) -> list[str]:
    """Return layer normalizations that read a group (`find_conv_to_layernorm_nodes`)."""
    inside = {name for group in linear for name in group}
    return [
        op.name
        for op in net.ops.values()
        if op.kind == "LayerNormalization"
        and op.inputs[0] in net.maker
        and _behind(net, net.maker[op.inputs[0]], inside, _MAX_COPIES)
    ]


def _behind(net: Net, name: str, inside: set[str], copies: int) -> bool:
    """Tell whether a node belongs to a group, or only moves what groups made."""
    if name in inside:
        return True
    if copies <= 0 or net.ops[name].kind not in COPY:
        return False
    parents = net.parents(name)
    return bool(parents) and all(_behind(net, p, inside, copies - 1) for p in parents)


def _pointwise_heads(
    net: Net, linear: Iterable[Group], other: Iterable[Group]
) -> tuple[list[str], list[Bypass]]:
    """Return the first nodes of other groups that read a quantizable tensor.

    `filter_quantizable_kgen_heads`.
    """
    inside = {name for group in linear for name in group}
    starts = [group[0] for group in linear]
    heads: list[str] = []
    bypasses: list[Bypass] = []
    for head in (group[0] for group in other):
        op = net.ops[head]
        if op.kind not in QUANTIZED or net.has_constant(head):
            continue
        without: list[Bypass] = []
        wanted = False
        for parent in net.parents(head):
            tensor = net.ops[parent].outputs[0]
            worth = net.ops[parent].kind in _WORTH_QUANTIZING
            if worth or _behind(net, parent, inside, _MAX_COPIES):
                if _masks_attention(net, head):
                    without.append(Bypass(parent, head, tensor))
                else:
                    heads.append(head)
                    wanted = True
            elif not _read_elsewhere(net, tensor, [*starts, *heads], head):
                without.append(Bypass(parent, head, tensor))
        if op.kind == "Add" and wanted:
            bypasses += without
    return heads, bypasses


def _masks_attention(net: Net, name: str) -> bool:
    """Tell whether the Add puts a mask on attention weights."""
    skipping = frozenset({"Flatten", "Reshape"})
    return net.ops[name].kind == "Add" and any(
        net.follows(child, ("Softmax", "MatMul"), forward=True, skipping=skipping) is not None
        for child in net.children(name)
    )


def _read_elsewhere(net: Net, tensor: str, quantized: list[str], head: str) -> bool:
    """Tell whether a quantized node other than `head` reads the tensor.

    A head that is listed twice counts as another one, as in ModelOpt.
    """
    if head in quantized:
        quantized.remove(head)
    return any(reader in quantized for reader in net.readers.get(tensor, ()))


def _alone(net: Net, chosen: set[str], taken: set[str]) -> set[str]:
    """Return quantizable nodes outside all groups (`find_quantizable_nodes`)."""
    left = [op for op in net.ops.values() if op.name not in taken and op.kind in QUANTIZED]
    found = {
        op.name
        for op in left
        if op.kind not in _POOLS and not (op.kind in POINTWISE and net.has_constant(op.name))
    }
    around = chosen | found
    pools = {
        op.name
        for op in left
        if op.kind in _POOLS
        and (_reaches(net, op.name, around, COPY, forward=True)
             or _reaches(net, op.name, around, COPY | {"Cast"}, forward=False))
    }  # fmt: skip
    return found | pools


def _reaches(
    net: Net, name: str, goal: set[str], through: frozenset[str], *, forward: bool
) -> bool:
    """Tell whether a node of `goal` is a neighbour, seen through nodes of the types `through`."""
    near = net.children if forward else net.parents
    stack, seen = near(name), set[str]()
    while stack:
        here = stack.pop()
        if here in goal:
            return True
        if here not in seen and net.ops[here].kind in through:
            stack += near(here)
        seen.add(here)
    return False
