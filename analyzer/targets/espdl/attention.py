# SPDX-License-Identifier: Apache-2.0
"""Attention written as MatMul, Softmax, MatMul becomes one `Attention`.

Imitates `quantization/optim/espdl_attention.py` of esp-ppq 1.3.12.  onnxruntime runs the node as
a function of the model: softmax(scale * q k^T + mask) v, with (B, heads, length, size) operands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from analyzer.graph.edit import GraphEditor
from analyzer.graph.view import attributes

DOMAIN = "qanalyze.attention"
MAX_HEAD_SIZE = 64
MAX_KEYS = 2048
_OLDEST_OPSET = 12  # the function reads its scale from a float Constant

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Match:
    """Attention as it was found.

    Attributes:
        nodes: names of all that go away.
        key: tensor that becomes the second input, after `turn`.
        turn: what is done to the keys: "" (as they are), "insert" (a Transpose is made up), or
            the name of the Transpose whose axes are changed.
        shapes: of query, keys and values, each (..., length, size).
    """

    nodes: tuple[str, ...]
    query: str
    key: str
    value: str
    mask: str | None
    output: str
    scale: float
    turn: str
    shapes: tuple[Shape, Shape, Shape]


def fuse_attention(edit: GraphEditor, order: Sequence[str]) -> int:
    """Fuse all attention that ESP-DL has a kernel for.

    Args:
        edit: the model.
        order: names of the nodes in the order in which esp-ppq lists them.

    Returns:
        the first number that is free for `PPQ_Operation_<n>`.
    """
    if not edit.of_type("Softmax") or _opset(edit) < _OLDEST_OPSET:
        return 0
    number = 0
    for masked in (True, False):
        for scaled in (None, "Mul", "Div"):
            for name in order:
                node = edit.view.nodes.get(name)
                if node is not None and node.op_type == "MatMul":
                    match = _match(edit, node, scaled, masked)
                    if match is not None:
                        number = _rewrite(edit, match, number)
    return number


def _opset(edit: GraphEditor) -> int:
    return next(int(o.version) for o in edit.proto.opset_import if o.domain == "")


def _match(
    edit: GraphEditor, scores: onnx.NodeProto, scaled: str | None, masked: bool
) -> _Match | None:
    """Follow scores -> [scale] -> [mask] -> Softmax -> values; None where it is something else."""
    if any(edit.view.is_constant(name) for name in scores.input):
        return None
    nodes, last, scale, mask = [scores.name], scores, 1.0, None
    if scaled is not None:
        found = edit.reader(last.output[0])
        factor = _factor(edit, found, last.output[0]) if found is not None else None
        if found is None or factor is None or found.op_type != scaled:
            return None
        scale, last = factor, found
        nodes.append(found.name)
    if masked:
        found = edit.reader(last.output[0])
        if found is None or found.op_type != "Add":
            return None
        mask = next(name for name in found.input if name != last.output[0])
        last = found
        nodes.append(found.name)
    softmax = edit.reader(last.output[0])
    if softmax is None or softmax.op_type != "Softmax" or not _is_over_last(edit, softmax):
        return None
    product = edit.reader(softmax.output[0])
    if product is None or product.op_type != "MatMul" or product.input[0] != softmax.output[0]:
        return None
    if edit.view.is_constant(product.input[1]):
        return None
    nodes += [softmax.name, product.name]
    sides = [_unscaled(edit, name, scores) for name in scores.input]
    if sides[0] is None or sides[1] is None:
        return None
    (query, left, before), (transposed, right, after) = sides[0], sides[1]
    keys = _keys(edit, query, transposed)
    value = product.input[1]
    if keys is None or any(_transposed(edit, t) or _merged(edit, t) for t in (query, value)):
        return None
    key, shape, turn, gone = keys
    shapes = (edit.shapes[query], shape, edit.shapes[value])
    match = _Match(
        (*nodes, *before, *after, *gone), query, key, value, mask, product.output[0],
        scale * left * right, turn, shapes,
    )  # fmt: skip
    return match if _is_eligible(edit, match, scores) else None


def _scalar(edit: GraphEditor, tensor: str) -> float | None:
    array = edit.array(tensor)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _factor(edit: GraphEditor, node: onnx.NodeProto, scores: str) -> float | None:
    """Return what a Mul or Div by a constant multiplies `scores` with."""
    if node.op_type not in ("Mul", "Div") or len(node.input) != 2:
        return None
    if node.op_type == "Div" and node.input[0] != scores:
        return None
    value = _scalar(edit, next((n for n in node.input if n != scores), ""))
    if value is None or node.op_type == "Mul":
        return value
    return 1 / value if value else math.inf


def _is_over_last(edit: GraphEditor, softmax: onnx.NodeProto) -> bool:
    rank = len(edit.shapes[softmax.input[0]])
    axis = attributes(softmax).get("axis", -1 if _opset(edit) >= 13 else 1)
    return axis in (-1, rank - 1)


def _unscaled(
    edit: GraphEditor, tensor: str, reader: onnx.NodeProto
) -> tuple[str, float, tuple[str, ...]] | None:
    """Look through a Mul by a scalar: the data, the factor, and the Mul; None: another Mul."""
    mul = edit.producer(tensor)
    if mul is None or mul.op_type != "Mul":
        return tensor, 1.0, ()
    if edit.reader(tensor) != reader:
        return None
    factors = [_scalar(edit, name) for name in mul.input]
    for factor, data in ((factors[0], mul.input[1]), (factors[1], mul.input[0])):
        if factor is not None and math.isfinite(factor) and factor > 0:
            return data, factor, (mul.name,)
    return None


def _transposed(edit: GraphEditor, tensor: str) -> str:
    """Return how the Transpose before `tensor` makes keys ready to multiply with; "" if not."""
    node = edit.producer(tensor)
    if node is None or node.op_type != "Transpose":
        return ""
    order = list(attributes(node).get("perm", ()))
    rank = len(order)
    if rank >= 2 and order == [*range(rank - 2), rank - 1, rank - 2]:
        return "drop"
    return "turn" if order in ([0, 2, 3, 1], [1, 2, 0]) else ""


def _merged(edit: GraphEditor, tensor: str) -> list[onnx.NodeProto] | None:
    """Return Reshape, Transpose, Reshape that swap the last axes of 4-D keys in 3-D."""
    chain: list[onnx.NodeProto] = []
    for kind in ("Reshape", "Transpose", "Reshape"):
        node = edit.producer(tensor)
        if node is None or node.op_type != kind or edit.reader(tensor) is None:
            return None
        chain.append(node)
        tensor = node.input[0]
    given = edit.shapes[tensor]
    if attributes(chain[1]).get("perm") != [0, 2, 1] or len(given) != 4:
        return None
    batch, heads, length, size = given
    made = [edit.shapes[node.output[0]] for node in chain]
    wanted = [
        (batch, heads, size, length), (batch * heads, size, length), (batch * heads, length, size)
    ]  # fmt: skip
    return chain[::-1] if made == wanted else None


def _keys(
    edit: GraphEditor, query: str, tensor: str
) -> tuple[str, Shape, str, tuple[str, ...]] | None:
    """Return the keys, their (..., length, size), what to do to them, and what goes away."""
    merged = _merged(edit, tensor)
    if merged is not None:
        source = merged[0].input[0]
        return source, edit.shapes[source], "", tuple(node.name for node in merged)
    node, how, shape = edit.producer(tensor), _transposed(edit, tensor), edit.shapes[tensor]
    turned = (*shape[:-2], shape[-1], shape[-2])
    if node is not None and how == "drop":
        unused = edit.reader(tensor) is not None
        return node.input[0], edit.shapes[node.input[0]], "", (node.name,) if unused else ()
    if node is not None and how == "turn":
        return (tensor, turned, node.name, ()) if edit.reader(tensor) is not None else None
    asked = edit.shapes[query]
    if len(asked) == len(shape) == 4 and shape == (*asked[:2], asked[3], asked[2]):
        if node is not None and node.op_type == "Reshape":
            before = edit.shapes[node.input[0]]
            if len(before) == 3 and before != (shape[0] * shape[1], *shape[2:]):
                return None
        return tensor, turned, "insert", ()
    return None


def _is_eligible(edit: GraphEditor, match: _Match, scores: onnx.NodeProto) -> bool:
    """Tell whether ESP-DL's kernel takes these shapes (`espdl_attention_ineligible_reason`)."""
    query, key, value = match.shapes
    rank = len(query)
    if rank not in (3, 4) or len(key) != rank or len(value) != rank:
        return False
    size, length = query[-1], key[-2]
    fits = query[:-2] == key[:-2] == value[:-2] and key[-1] == value[-1] == size
    fits = fits and value[-2] == length and size <= MAX_HEAD_SIZE and length <= MAX_KEYS
    if not fits or not np.finfo(np.float32).tiny <= match.scale <= np.finfo(np.float32).max:
        return False
    if rank == 4 and any(_splits_heads(edit, t) for t in (match.query, match.key, match.value)):
        return False
    made = edit.shapes[scores.output[0]]
    if match.mask is None:
        return True
    mask = edit.shapes[match.mask]
    return len(mask) <= rank and np.broadcast_shapes(mask, made) == made


def _splits_heads(edit: GraphEditor, tensor: str) -> bool:
    """Tell whether (B, N, heads * size) was split without bringing the heads forward."""
    node = edit.producer(tensor)
    if node is None or node.op_type != "Reshape":
        return False
    before, after = edit.shapes[node.input[0]], edit.shapes[tensor]
    if len(before) != 3 or len(after) != 4 or min(after[1:3]) < 2:
        return False
    return before == (*after[:2], after[2] * after[3])


def _rewrite(edit: GraphEditor, match: _Match, number: int) -> int:
    """Put one Attention in the place of `match`, and return the next free number."""

    def name() -> str:
        nonlocal number
        number += 1
        return f"PPQ_Operation_{number - 1}"

    key, extra = match.key, []
    if match.turn == "insert":
        extra.append(_transpose(edit, match, name()))
        key = extra[-1].output[0]
    elif match.turn:
        node = edit.view.nodes[match.turn]
        edit.set_attributes(node, perm=[1, 0, 2] if len(match.shapes[1]) == 3 else [0, 2, 1, 3])
        edit.shapes[key] = match.shapes[1]
    inputs, output = [match.query, key, match.value], match.output
    flat = len(match.shapes[0]) == 3
    if flat:
        for index, shape in enumerate(match.shapes):
            extra.append(_reshape(edit, inputs[index], (1, *shape), name()))
            inputs[index] = extra[-1].output[0]
    title = name()
    after = f"{title}//out" if flat else output
    kind = "MaskedAttention" if match.mask else "Attention"
    node = helper.make_node(
        kind,
        [*inputs, *([match.mask] if match.mask else [])],
        [after],
        name=title,
        domain=DOMAIN,
        scale=match.scale,
    )
    _declare(edit, kind)
    edit.fuse(match.nodes, node, kind="Attention")
    edit.shapes[after] = (*([1] if flat else []), *match.shapes[0][:-1], match.shapes[2][-1])
    edit.dtypes[after] = edit.dtypes[match.query]
    for made in extra:
        edit.insert_before(title, made)
    if flat:
        last = _reshape(edit, after, edit.shapes[after][1:], name(), output)
        edit.insert_before(title, last)
    return number


def _transpose(edit: GraphEditor, match: _Match, name: str) -> onnx.NodeProto:
    made = f"{name}//out"
    edit.shapes[made], edit.dtypes[made] = match.shapes[1], edit.dtypes[match.key]
    return helper.make_node("Transpose", [match.key], [made], name=name, perm=[0, 1, 3, 2])


def _reshape(
    edit: GraphEditor, tensor: str, shape: Shape, name: str, output: str = ""
) -> onnx.NodeProto:
    made = output or f"{name}//out"
    edit.shapes[made], edit.dtypes[made] = shape, edit.dtypes[tensor]
    wanted = edit.constant(f"{name}//shape", np.array(shape, np.int64))
    return helper.make_node("Reshape", [tensor, wanted], [made], name=name)


def _declare(edit: GraphEditor, kind: str) -> None:
    """Bring the function `kind` in, once."""
    if any((f.domain, f.name) == (DOMAIN, kind) for f in edit.proto.functions):
        return
    scale = helper.make_node("Constant", [], ["factor"])
    reference = scale.attribute.add()
    reference.name, reference.ref_attr_name = "value_float", "scale"
    reference.type = onnx.AttributeProto.FLOAT
    masked = kind == "MaskedAttention"
    nodes = [
        helper.make_node("Transpose", ["k"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "turned"], ["scores"]),
        scale,
        helper.make_node("Mul", ["scores", "factor"], ["scaled"]),
        *([helper.make_node("Add", ["scaled", "mask"], ["masked"])] if masked else []),
        helper.make_node("Softmax", ["masked" if masked else "scaled"], ["weights"], axis=3),
        helper.make_node("MatMul", ["weights", "v"], ["y"]),
    ]
    opset = [helper.make_opsetid("", _opset(edit))]
    inputs = ["q", "k", "v", *(["mask"] if masked else [])]
    edit.proto.functions.append(
        helper.make_function(DOMAIN, kind, inputs, ["y"], nodes, opset, ["scale"])
    )
    edit.proto.ir_version = max(edit.proto.ir_version, 8)
    edit.use_domain(DOMAIN)
