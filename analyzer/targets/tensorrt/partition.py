# SPDX-License-Identifier: Apache-2.0
"""Groups of nodes that TensorRT merges into one kernel, and patterns it has kernels for.

A group starts at a convolution or matrix product and takes in what follows element by element.
Imitates `onnx/quantization/partitioning.py` of nvidia-modelopt and the map of residual Adds of
its `graph_utils.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from analyzer.targets.tensorrt.net import COPY, LINEAR, Net, Op

# `is_pointwise_or_elementwise_op` of `onnx/op_types.py`
POINTWISE = frozenset(
    """
    Neg Sqrt Abs Log Exp Not Cast Floor Ceil Round Erf Gelu Sin Cos Atan Sign IsNaN IsInf
    LeakyRelu Elu Tanh Sigmoid Softmax Softplus InstanceNormalization CumSum
    Add Sub Mul Pow Div Min Max Greater GreaterOrEqual Less LessOrEqual Equal
    BitwiseOr BitwiseAnd BitwiseXor BitShift
    """.split()
)
_FUSED_BEHIND_CONV = frozenset({"BatchNormalization", "Relu", "MaxPool"})
_RESIZE = frozenset({"Resize", "Upsample"})
_MERGED_PRODUCTS = (
    ("Mul", "Sigmoid", "Conv"),
    ("Mul", "Sigmoid", "BatchNormalization", "Conv"),
    ("Mul", "Sigmoid", "Add"),
)
_OTHER_PRODUCTS = (("Mul", "Sigmoid"), ("Mul", "HardSigmoid"))
_GELU = ("Div", "Erf", "Add", "Mul", "Mul")
_VARIANCE = ("ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div")
_LAYER_NORM = (*_VARIANCE, "Mul", "Add")
_ATTENTION = ("MatMul", "NonBiasAdd", "Softmax", "MatMul")

Group = list[str]


def attentions(net: Net) -> Iterator[tuple[str, ...]]:
    """Yield every MatMul, Add, Softmax, MatMul chain of attention (`find_mha_partitions`)."""
    for op in net.ops.values():
        if op.kind == "MatMul":
            chain = net.follows(op.name, _ATTENTION, forward=True)
            if chain is not None:
                yield chain


def patterns(net: Net) -> set[str]:
    """Return the nodes of GELUs, layer normalizations and attentions, which stay whole."""
    found = {name for chain in attentions(net) for name in chain}
    for op in net.ops.values():
        found.update(net.follows(op.name, _GELU, forward=True) or ())
        if op.kind == "LayerNormalization":
            found.add(op.name)
        elif op.kind == "ReduceMean":
            casts = frozenset({"Cast"})
            for path in (_LAYER_NORM, _VARIANCE):
                chain = net.follows(op.name, path, forward=True, skipping=casts)
                if chain is not None:
                    found.update(chain)
                    break
    return found


def merged_inputs(net: Net) -> dict[str, str | None]:
    """Return for each Add the input that is merged with it into one kernel, if one is.

    That is the longer of two paths from where they part, if a convolution ends it; the other one
    is the residual connection (`build_non_residual_input_map`).
    """
    return {op.name: _merged_input(net, op) for op in net.ops.values() if op.kind == "Add"}


def _merged_input(net: Net, add: Op) -> str | None:
    one, other = (net.maker.get(tensor) for tensor in add.inputs[:2])
    if net.has_constant(add.name) or one is None or other is None:
        return None
    mine, theirs = net.backbone(one), net.backbone(other)
    ancestor, my_way, their_way = net.common_ancestor(one, other)
    if mine and theirs:
        if mine == theirs:
            return None
        return add.inputs[0] if my_way > their_way else add.inputs[1]
    if mine:
        return None if ancestor == mine else add.inputs[0]
    if theirs:
        return None if ancestor == theirs else add.inputs[1]
    return None


def groups(
    net: Net, taken: set[str], merged: dict[str, str | None]
) -> tuple[list[Group], list[Group]]:
    """Cut the graph into groups (`find_fusible_partitions`).

    Args:
        net: the graph.
        taken: nodes that are left out; nodes of the groups are added.
        merged: as `merged_inputs` returns it.

    Returns:
        groups that start at a convolution or matrix product, and other groups.
    """

    def cut(starts: Callable[[str], bool]) -> list[Group]:
        found = []
        for op in net.ops.values():
            if op.name not in taken and starts(op.kind):
                group: Group = []
                _grow(net, op.name, group, taken, merged)
                if group:
                    found.append(group)
        return found

    linear = cut(LINEAR.__contains__)
    other = cut(POINTWISE.__contains__)
    ends = {net.ops[group[-1]].outputs[0] for group in linear}
    other += [[op.name] for op in net.ops.values() if op.kind in _RESIZE and op.inputs[0] in ends]
    return linear, other


def _grow(
    net: Net, name: str, group: Group, taken: set[str], merged: dict[str, str | None]
) -> None:
    """Add `name` to `group`, then what may follow it (`_build_fusible_partition`)."""
    op = net.ops[name]
    if op.kind == "Mul" and not _merges(net, op):
        return
    group.append(name)
    taken.add(name)
    if op.kind == "Add" and merged[name]:
        return
    made = {tensor for inside in group for tensor in net.ops[inside].outputs}
    for reader in net.children(name):
        if reader in taken:
            continue
        after = net.ops[reader]
        if (
            ((after.kind in COPY or after.kind in POINTWISE) and _closed(net, after, made))
            or (after.kind in _FUSED_BEHIND_CONV and net.backbone(reader))
            or (after.kind == "Add" and merged[reader] and op.outputs[0] == merged[reader])
        ):
            _grow(net, reader, group, taken, merged)


def _closed(net: Net, op: Op, made: set[str]) -> bool:
    """Tell whether the node reads only what the group makes, and constants."""
    return all(tensor in made or net.is_constant(tensor) for tensor in op.inputs)


def _merges(net: Net, product: Op) -> bool:
    """Tell whether a Mul may be part of a group: not as a gate, but behind a Conv-Sigmoid."""
    varying = [
        t
        for t in product.inputs
        if not net.is_initializer(t)
        and (t not in net.maker or net.ops[net.maker[t]].kind != "Constant")
    ]
    if len(varying) <= 1:
        return True

    def ends(path: tuple[str, ...]) -> bool:
        return net.follows(product.name, path, forward=False) is not None

    return any(map(ends, _MERGED_PRODUCTS)) or not any(map(ends, _OTHER_PRODUCTS))
