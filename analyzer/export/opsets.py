# SPDX-License-Identifier: Apache-2.0
"""Raising the opset of a model: a model goes in, one with new enough Q/DQ operators comes out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, version_converter

from analyzer.graph.session import open_session

# opset -> the oldest IR version that may hold it, for those that matter here
_IR = {13: 7, 21: 10}
_CLOSE = 1e-3  # relative; kernels of two opsets may sum in another order


@dataclass(frozen=True, slots=True)
class Opset:
    """A model, and which Q/DQ operators it may use.

    Attributes:
        version: of the ONNX operators.
        foreign: Q/DQ have to be those of com.microsoft, which exist for every opset.
        notes: one sentence each.
    """

    proto: onnx.ModelProto
    version: int
    foreign: bool = False
    notes: tuple[str, ...] = ()


def raised(
    proto: onnx.ModelProto, wanted: int, *, keep: Collection[tuple[str, str, str]] = ()
) -> Opset:
    """Convert a model to opset `wanted` where its own is older.

    Args:
        proto: is not modified.
        wanted: 13 (scales per channel) or 21 (16-bit integers).
        keep: (node, slot, tensor) that must still be there afterwards.

    Returns:
        the converted model; or the model as it is, where onnx cannot convert it.
    """
    version = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    if version >= wanted:
        return Opset(proto, version)
    try:
        made = version_converter.convert_version(proto, wanted)
        made.ir_version = max(made.ir_version, _IR[wanted])
        same = _has(made, keep) and _agree(proto, made)
    except Exception:  # the converter is C++ and raises what it likes: the model stays as it is
        same = False
    if same:
        _restore(made, proto)
        return Opset(made, wanted)
    note = (
        f"onnx cannot convert this model from opset {version} to {wanted}: its quantizers are "
        "those of com.microsoft, which onnxruntime alone loads."
    )
    return Opset(proto, version, foreign=True, notes=(note,))


def _has(proto: onnx.ModelProto, keep: Collection[tuple[str, str, str]]) -> bool:
    """Tell whether all slots still hold the tensor they held."""
    nodes = {node.name: node for node in proto.graph.node}
    for name, slot, tensor in keep:
        node = nodes.get(name)
        if node is None:
            return False
        held = list(node.input if slot.startswith("in") else node.output)
        index = int(slot.lstrip("inout"))
        if index >= len(held) or held[index] != tensor:
            return False
    return True


def _agree(one: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    """Run both on the same made-up input: a converted model may load and compute another thing."""
    feeds = _made_up(one.graph)
    answers = [
        open_session(proto.SerializeToString(), optimize=False).run(None, feeds)
        for proto in (one, other)
    ]
    return all(_close(a, b) for a, b in zip(*answers, strict=True))


def _close(one: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind != "f":
        return True
    a, b = one.astype(np.float64), other.astype(np.float64)
    largest = float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) or 1.0
    return bool(np.allclose(a, b, rtol=0, atol=_CLOSE * largest, equal_nan=True))


def _made_up(graph: onnx.GraphProto) -> dict[str, npt.NDArray[np.generic]]:
    rng = np.random.default_rng(0)
    constants = {tensor.name for tensor in graph.initializer}
    feeds: dict[str, npt.NDArray[np.generic]] = {}
    for value in graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        shape = [d.dim_value or 1 for d in tensor.shape.dim]
        if kind.kind == "f":
            feeds[value.name] = rng.uniform(0, 1, shape).astype(kind)
        else:
            feeds[value.name] = np.ones(shape, kind)
    return feeds


def _restore(made: onnx.ModelProto, proto: onnx.ModelProto) -> None:
    """Put back what the converter drops: it is no part of the graph, but users read it."""
    if not made.metadata_props:
        made.metadata_props.extend(proto.metadata_props)
    for name in ("domain", "model_version"):
        setattr(made, name, getattr(proto, name))
