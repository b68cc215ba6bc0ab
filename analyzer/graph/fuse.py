# SPDX-License-Identifier: Apache-2.0
"""Fusing nodes into the one node that a quantizer sees."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from analyzer.graph.build import MS
from analyzer.graph.edit import GraphEditor
from analyzer.graph.names import unique
from analyzer.graph.view import attributes


def fuse_bias_adds(edit: GraphEditor) -> list[str]:
    """Make a constant that is added behind a Conv, ConvTranspose or Gemm its bias.

    The layer must have no bias and no other reader.  Behind a convolution the constant has one
    value per channel: the rank of the weight, only axis 1 longer than 1.  Behind a Gemm it may
    have any shape (`fuse_bias_add` in `IR/morph.py` of esp-ppq).

    Returns:
        graph outputs of such layers: what they make has the bias in it now.  A graph output
        behind the Add is gone then.
    """
    biased = []
    for layer in edit.of_type("Conv", "ConvTranspose", "Gemm"):
        add = edit.reader(layer.output[0], or_output=True)
        if len(layer.input) > 2 or add is None or add.op_type != "Add":
            continue
        constants = [name for name in add.input if edit.view.is_constant(name)]
        if len(constants) != 1:
            continue
        value = edit.view.array(constants[0])
        bias = constants[0]
        if layer.op_type != "Gemm":
            rank = len(edit.shapes[layer.input[1]])
            if value.ndim != rank or value.shape[1] == 1 or value.size != value.shape[1]:
                continue
            bias = edit.constant(f"{layer.name}_bias", value.reshape(-1))
        elif not _broadcasts(value.shape, edit.shapes[layer.output[0]]):
            continue
        node = onnx.NodeProto()
        node.CopyFrom(layer)
        node.input.append(bias)
        made, added = layer.output[0], add.output[0]
        if made not in edit.view.outputs:
            node.output[0] = added
        edit.fuse([layer.name, add.name], node)
        if node.output[0] == made:
            edit.drop_output(added)
            edit.rename_readers(added, made)
            biased.append(made)
    return biased


def _broadcasts(shape: tuple[int, ...], onto: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, onto) == onto
    except ValueError:
        return False


def fuse_swish(edit: GraphEditor) -> list[str]:
    """Turn `x * Sigmoid(x)` into one node of op type `Swish`, run as com.microsoft QuickGelu.

    The Sigmoid must have no other reader.  The node is called `<producer of x>/Swish`, or
    `<sigmoid>/Swish` where x is a graph input or that name is taken, as esp-ppq does
    (`IR/morph.py`).

    Returns:
        graph outputs that are gone: a Sigmoid made them.
    """
    lost = []
    for sigmoid in edit.of_type("Sigmoid"):
        x, gate = sigmoid.input[0], sigmoid.output[0]
        product = edit.reader(gate, or_output=True)
        if (
            product is None
            or product.op_type != "Mul"
            or sorted(product.input) != sorted([x, gate])
        ):
            continue
        name = f"{edit.view.producer.get(x, sigmoid.name)}/Swish"
        if name in edit.view.nodes:
            name = unique(f"{sigmoid.name}/Swish", edit.view.nodes)
        edit.use_domain(MS)
        node = helper.make_node(
            "QuickGelu", [x], [product.output[0]], name=name, domain=MS, alpha=1.0
        )
        edit.fuse([sigmoid.name, product.name], node, kind="Swish")
        if edit.drop_output(gate):
            lost.append(gate)
    return lost


def fuse_rms_norms(edit: GraphEditor) -> None:
    """Turn `x / sqrt(mean(x^2) + eps) * scale` into one `RMSNormalization`.

    It is called `<last Mul>_rmsnorm`, as esp-ppq does (`fuse_rmsnorm` in `IR/morph.py`), and run
    by onnxruntime's SimplifiedLayerNormalization.
    """
    for power in edit.of_type("Pow"):
        chain = _rms_chain(edit, power)
        if chain is not None:
            _fuse_rms_norm(edit, chain)


def _rms_chain(edit: GraphEditor, power: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Return Pow, ReduceMean, [Add], Sqrt, the division of x by it, and the Mul with the scale."""
    x = power.input[0]
    chain = [power]

    def follow(*kinds: str) -> onnx.NodeProto | None:
        reader = edit.reader(chain[-1].output[0])
        if reader is None or reader.op_type not in kinds:
            return None
        chain.append(reader)
        return reader

    if edit.view.is_constant(x) or follow("ReduceMean") is None:
        return None
    found = follow("Add", "Sqrt")
    if found is not None and found.op_type == "Add":
        found = follow("Sqrt")
    if found is None:
        return None
    found = follow("Reciprocal", "Div")
    if found is None:
        return None
    if found.op_type == "Reciprocal" or x not in found.input:
        if found.op_type == "Div" and chain[-2].output[0] != found.input[1]:
            return None
        found = follow("Mul")
        if found is None or x not in found.input:
            return None
    return chain if follow("Mul") is not None else None


def _fuse_rms_norm(edit: GraphEditor, chain: list[onnx.NodeProto]) -> None:
    power, mean, last = chain[0], chain[1], chain[-1]
    x, rank = power.input[0], len(edit.shapes[power.input[0]])
    axes = attributes(mean).get("axes")
    if axes is None and len(mean.input) > 1:
        given = edit.array(mean.input[1])
        axes = None if given is None else given.tolist()
    exponent = edit.array(power.input[1])
    if not axes or exponent is None or exponent.size != 1 or exponent.item() != 2:
        return
    first = min(a % rank for a in axes)
    scale = next(name for name in last.input if name != chain[-2].output[0])
    if sorted(a % rank for a in axes) != list(range(first, rank)):
        return
    if edit.shapes[scale] != edit.shapes[x][first:]:
        return
    epsilon = 1e-5
    for name in chain[2].input if chain[2].op_type == "Add" else ():
        value = edit.array(name)
        epsilon = float(value.item()) if value is not None and value.size == 1 else epsilon
    node = helper.make_node(
        "SimplifiedLayerNormalization",
        [x, scale],
        [last.output[0]],
        name=f"{last.name}_rmsnorm",
        axis=first - rank,
        epsilon=epsilon,
        stash_type=1,
    )
    edit.fuse([n.name for n in chain], node, kind="RMSNormalization")


def fuse_lp_norms(edit: GraphEditor) -> None:
    """Turn `x / Expand(Clip(ReduceL2(x)))` into one LpNormalization called `<Div>_lpnorm`.

    As esp-ppq does (`fuse_lp_normalization` in `IR/morph.py`); the lower bound of the norm is
    dropped.
    """
    for norm in edit.of_type("ReduceL2"):
        x, chain = norm.input[0], [norm]
        for kind in ("Clip", "Expand", "Div"):
            reader = edit.reader(chain[-1].output[0])
            if reader is None or reader.op_type != kind:
                break
            chain.append(reader)
        else:
            axes = attributes(norm).get("axes")
            if axes is None and len(norm.input) > 1:
                given = edit.array(norm.input[1])
                axes = None if given is None else given.tolist()
            last = chain[-1]
            if axes is None or len(axes) != 1 or last.input[0] != x:
                continue
            node = helper.make_node(
                "LpNormalization", [x], [last.output[0]], name=f"{last.name}_lpnorm",
                axis=int(axes[0]), p=2,
            )  # fmt: skip
            edit.fuse([n.name for n in chain], node)
