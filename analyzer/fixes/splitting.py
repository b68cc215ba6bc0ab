# SPDX-License-Identifier: Apache-2.0
"""One layer becomes the sum of two: what every way to split weights has in common."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from analyzer.errors import ModelError, nearest
from analyzer.graph.edit import GraphEditor
from analyzer.graph.names import unique
from analyzer.records import Edit

SPLIT_TYPES = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_NEEDS_BIAS_BEFORE = 11  # opset from which on a Gemm does without its third input

F32 = npt.NDArray[np.float32]


def check_split(edit: Edit) -> None:
    """Refuse what no quantizer does.

    Raises:
        ModelError: naming the value.
    """
    if edit.method not in ("", "balance"):
        raise ModelError(
            f"There is no weight split {edit.method!r}.", nearest(edit.method, ["balance"])
        )
    if edit.threshold is None or not edit.threshold >= 0:
        raise ModelError(
            f"The threshold of a weight split is {edit.threshold}, expected a number from 0 on.",
            "Give one below the largest weight of the layer.",
        )


def is_split(editor: GraphEditor, layer: str, edit: Edit) -> bool:
    """Tell whether a layer has weights above the threshold; a note says it where it has none.

    Raises:
        ModelError: if it is not there, is of another kind, or its weight is not constant.
    """
    node = editor.view.nodes.get(layer)
    if node is None:
        raise ModelError(
            f"There is no layer {layer!r} to split.", nearest(layer, editor.view.nodes)
        )
    weight = editor.array(node.input[1]) if node.op_type in SPLIT_TYPES else None
    if weight is None:
        raise ModelError(
            f"{node.op_type} {layer!r} cannot be split: it has no constant weight.",
            f"Name one of these that has: {', '.join(sorted(SPLIT_TYPES))}.",
        )
    assert edit.threshold is not None, "checked"
    largest = float(np.abs(weight).max(initial=0))
    if largest > edit.threshold:
        return True
    editor.note(
        f"'{layer}' was not split: its largest weight is {largest:.6g}, and the threshold "
        f"{edit.threshold:.6g}."
    )
    return False


def split_layer(
    editor: GraphEditor, layer: str, edit: Edit, *, part: str, total: str, source: str = ""
) -> None:
    """Split one layer, where `is_split` says so.

    Args:
        editor: the model.
        layer: that keeps its name, its bias and what is left of the weights.
        edit: says above which weight.
        part: name of the other layer.
        total: name of the Add.
        source: tensor that the other layer reads; empty: what the first one does.
    """
    if not is_split(editor, layer, edit):
        return
    node = onnx.NodeProto()
    node.CopyFrom(editor.view.nodes[layer])
    weight = editor.view.array(node.input[1])
    rest, taken = halves(weight, edit.threshold or 0.0)
    output, shape = node.output[0], editor.shapes[node.output[0]]
    names = set(editor.shapes)
    rest_out, part_out = unique(f"{layer}//rest", names), unique(f"{part}//out", names)
    inputs = [source or node.input[0], editor.constant(f"{part}//weight", taken)]
    if node.op_type == "Gemm" and _opset(editor) < _NEEDS_BIAS_BEFORE:
        inputs.append(editor.constant(f"{part}//bias", np.zeros(1, weight.dtype)))
    other = helper.make_node(node.op_type, inputs, [part_out], name=part, domain=node.domain)
    other.attribute.extend(node.attribute)
    node.input[1] = editor.constant(f"{layer}//weight", rest)
    node.output[0] = rest_out
    add = helper.make_node("Add", [rest_out, part_out], [output], name=total)
    origin, kind = editor.sources[layer], editor.kind(node)
    editor.fuse([layer], add)
    for made, tensor in ((node, rest_out), (other, part_out)):
        own = kind if kind != made.op_type else None
        editor.insert_before(total, made, kind=own, shapes={tensor: shape})
        editor.dtypes[tensor] = editor.dtypes[output]
    editor.sources[total] = ()
    editor.sources[layer] = origin


def halves(weight: npt.NDArray[np.floating], threshold: float) -> tuple[F32, F32]:
    """Return what stays of a weight and what is taken out of it; together they are the weight.

    >>> rest, taken = halves(np.float32([0.5, -3.0]), 1.0)
    >>> rest.tolist(), taken.tolist()
    ([0.5, -1.5], [0.0, -1.5])
    """
    # the comparison in float32, as the weights are: a threshold read from JSON is none
    large = np.abs(weight) > weight.dtype.type(threshold)
    taken = (weight / 2) * large
    return weight - taken, taken


def _opset(editor: GraphEditor) -> int:
    return next(int(o.version) for o in editor.proto.opset_import if o.domain == "")
