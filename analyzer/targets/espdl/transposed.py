# SPDX-License-Identifier: Apache-2.0
"""ConvTranspose as esp-ppq runs it: zeros between the values, then a Conv with a flipped kernel.

Imitates `decompose_convtranspose` in `IR/morph.py` of esp-ppq 1.3.12.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from analyzer.graph.edit import GraphEditor
from analyzer.graph.view import attributes


def decompose_transposed(edit: GraphEditor, order: Sequence[str], number: int) -> None:
    """Turn every ConvTranspose into `InsertZeros` and a Conv that keeps the name.

    InsertZeros, only where some stride is above 1, is called `PPQ_Operation_<n>`.  It is one
    node: a depthwise ConvTranspose with a kernel of a single 1.

    Args:
        edit: the model.
        order: names of the nodes in the order in which esp-ppq lists them.
        number: the first n that is free.
    """
    place = {name: i for i, name in enumerate(order)}
    layers = sorted(edit.of_type("ConvTranspose"), key=lambda n: place.get(n.name, len(place)))
    for name in [layer.name for layer in layers]:
        layer = edit.view.nodes[name]
        if _fits(edit, layer):
            number += _decompose(edit, layer, f"PPQ_Operation_{number}")


def _fits(edit: GraphEditor, layer: onnx.NodeProto) -> bool:
    """Tell whether what esp-ppq makes of the layer is what it stands for."""
    given = attributes(layer)
    weight = edit.array(layer.input[1])
    if weight is None:
        return False
    kernel = weight.shape[2:]
    pads = given.get("pads", [0] * 2 * len(kernel))
    reason = ""
    if any(d != 1 for d in given.get("dilations", ())):
        reason = "with dilations above 1"
    elif given.get("auto_pad", b"NOTSET") != b"NOTSET" or "output_shape" in given:
        reason = "with auto_pad or output_shape"
    elif any(k - 1 - p < 0 for k, p in zip((*kernel, *kernel), pads, strict=True)):
        reason = "with pads wider than its kernel"
    if reason:
        edit.note(
            f"ConvTranspose '{layer.name}' is simulated as one layer: esp-ppq turns one {reason} "
            "into a Conv that computes something else."
        )
    return not reason


def _decompose(edit: GraphEditor, layer: onnx.NodeProto, name: str) -> int:
    """Return how many nodes were made up."""
    given = attributes(layer)
    weight = edit.view.array(layer.input[1])
    kernel = weight.shape[2:]
    strides = list(given.get("strides", [1] * len(kernel)))
    extra = list(given.get("output_padding", [0] * len(kernel)))
    pads = list(given.get("pads", [0] * 2 * len(kernel)))
    group = int(given.get("group", 1))
    x, spread = layer.input[0], any(s != 1 for s in strides)
    flipped = edit.constant(f"{layer.name}//flipped", _flipped(weight, group))
    conv = helper.make_node(
        "Conv",
        [f"{name}//out" if spread else x, flipped, *layer.input[2:]],
        list(layer.output),
        name=layer.name,
        kernel_shape=list(kernel),
        pads=[k - p - 1 for k, p in zip((*kernel, *kernel), pads, strict=True)],
        group=group,
    )
    before = edit.shapes[x]
    edit.fuse([layer.name], conv)
    if not spread:
        return 0
    zeros = helper.make_node(
        "ConvTranspose",
        [x, edit.constant(f"{name}//one", np.ones((before[1], 1, *(1 for _ in kernel)), "f4"))],
        [f"{name}//out"],
        name=name,
        kernel_shape=[1] * len(kernel),
        strides=strides,
        output_padding=extra,
        group=before[1],
    )
    sizes = [(d - 1) * s + 1 + e for d, s, e in zip(before[2:], strides, extra, strict=True)]
    shape = (*before[:2], *sizes)
    edit.insert_before(layer.name, zeros, kind="InsertZeros", shapes={f"{name}//out": shape})
    return 1


def _flipped(weight: npt.NDArray[Any], group: int) -> npt.NDArray[Any]:
    """Turn (C, M / group, *kernel) into the (M, C / group, *kernel) of a Conv, kernel reversed."""
    size = weight.shape[2:]
    flipped = np.flip(weight, tuple(range(2, weight.ndim)))
    grouped = flipped.reshape(group, -1, weight.shape[1], *size)
    return grouped.swapaxes(1, 2).reshape(group * weight.shape[1], -1, *size)
