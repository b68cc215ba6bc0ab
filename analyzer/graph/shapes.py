# SPDX-License-Identifier: Apache-2.0
"""Static shapes: a graph with fixed inputs goes in, type and shape of every tensor come out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from analyzer.errors import ModelError
from analyzer.graph.check import RUNTIME_ERRORS, first_line, open_plain
from analyzer.graph.view import reads

# shape arithmetic lives in constants smaller than this; the others need not be passed around
_SMALL = 1024


@dataclass(slots=True)
class Known:
    """What is known about the tensors of a graph, bodies excluded.

    Attributes:
        shapes: tensor -> static shape, where that is known.
        dtypes: tensor -> numpy dtype name, where that is known.
        others: sequences, optionals and maps, which have no shape.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)

    def add(self, value: onnx.ValueInfoProto) -> None:
        """Take over what a value info tells."""
        if value.type.WhichOneof("value") not in ("tensor_type", None):
            self.others.add(value.name)
            return
        tensor = value.type.tensor_type
        if tensor.elem_type:
            self.dtypes[value.name] = dtype_name(tensor.elem_type)
        shape = value_shape(value)
        if tensor.HasField("shape") and None not in shape:
            self.shapes[value.name] = tuple(d for d in shape if d is not None)

    def missing(self, graph: onnx.GraphProto) -> list[str]:
        """Return the tensors of `graph` whose shape or dtype is not known, in order."""
        names = [name for node in graph.node for name in (*reads(node), *node.output) if name]
        names += [value.name for values in (graph.input, graph.output) for value in values]
        return [
            name
            for name in dict.fromkeys(names)
            if name not in self.others and not (name in self.shapes and name in self.dtypes)
        ]


def dtype_name(data_type: int) -> str:
    """Return the numpy name of an ONNX element type.

    >>> dtype_name(onnx.TensorProto.FLOAT)
    'float32'
    """
    return np.dtype(helper.tensor_dtype_to_np_dtype(data_type)).name


def value_shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """Return the declared shape of a tensor, None for a free axis.

    A negative size, which some exporters write for a free axis, is taken as one.
    """
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None
        for d in value.type.tensor_type.shape.dim
    )


def set_shape(value: onnx.ValueInfoProto, shape: Iterable[int]) -> None:
    """Declare the static shape of a tensor, in place."""
    dims = value.type.tensor_type.shape
    dims.Clear()
    for size in shape:
        dims.dim.add().dim_value = size
    value.type.tensor_type.shape.SetInParent()  # a scalar has a shape without dims


def infer(proto: onnx.ModelProto) -> Known:
    """Infer shapes from those of the graph inputs; big constants are not copied for it."""
    graph = proto.graph
    known = Known()
    skeleton = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    skeleton.graph.name = "skeleton"
    skeleton.graph.node.extend(graph.node)
    skeleton.graph.input.extend(graph.input)
    for output in graph.output:
        copy = skeleton.graph.output.add()
        copy.CopyFrom(output)
        if copy.type.WhichOneof("value") == "tensor_type":
            # what the file says about outputs is often stale
            copy.type.tensor_type.ClearField("shape")
    for tensor in graph.initializer:
        shape = tuple(tensor.dims)
        known.shapes[tensor.name] = shape
        known.dtypes[tensor.name] = dtype_name(tensor.data_type)
        if prod(shape) <= _SMALL:
            skeleton.graph.initializer.append(tensor)
        else:
            declared = helper.make_tensor_value_info(tensor.name, tensor.data_type, shape)
            skeleton.graph.input.append(declared)
    for sparse in graph.sparse_initializer:
        values = sparse.values
        known.shapes[values.name] = tuple(sparse.dims)
        known.dtypes[values.name] = dtype_name(values.data_type)
        skeleton.graph.input.append(
            helper.make_tensor_value_info(values.name, values.data_type, sparse.dims)
        )
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True, strict_mode=False)
    except onnx.shape_inference.InferenceError:
        # onnxruntime took the model, so a run will tell (see `learn`)
        inferred = skeleton
    for values in (inferred.graph.value_info, inferred.graph.input, inferred.graph.output):
        for value in values:
            known.add(value)
    return known


def learn(
    proto: onnx.ModelProto,
    names: Iterable[str],
    known: Known,
    sample: Mapping[str, npt.NDArray[Any]] | None,
) -> None:
    """Run the model once and add what `names` turn out to be to `known`.

    Only shapes are fetched where the type is known already, so that memory does not grow with
    the number of tensors.  `sample` holds values of graph inputs; the others are zeros.

    Raises:
        ModelError: if the model does not run on them.
    """
    graph = proto.graph
    probe = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    probe.graph.CopyFrom(graph)
    fetched = {}
    have = {o.name for o in graph.output}
    for index, name in enumerate(names):
        if name in known.dtypes:
            fetched[name] = f"shape//{index}"
            probe.graph.node.append(helper.make_node("Shape", [name], [fetched[name]]))
            probe.graph.output.append(
                helper.make_tensor_value_info(fetched[name], TensorProto.INT64, None)
            )
        else:
            fetched[name] = name
            if name not in have:
                probe.graph.output.append(onnx.ValueInfoProto(name=name))
    values = run_once(probe, list(fetched.values()), _feeds(graph, known, sample))
    for (name, source), value in zip(fetched.items(), values, strict=True):
        if source != name:
            known.shapes[name] = tuple(int(d) for d in value)
        elif isinstance(value, np.ndarray | np.generic):
            known.shapes[name] = tuple(value.shape)
            known.dtypes[name] = value.dtype.name
        else:
            known.others.add(name)


def run_once(
    proto: onnx.ModelProto, outputs: list[str], feeds: Mapping[str, npt.NDArray[Any]]
) -> list[npt.NDArray[Any]]:
    """Run a model as it is and return the values of `outputs`.

    Raises:
        ModelError: with what onnxruntime says and the shapes that were fed.
    """
    try:
        session = open_plain(proto.SerializeToString())
        values: list[npt.NDArray[Any]] = session.run(outputs, dict(feeds))
    except RUNTIME_ERRORS as error:
        fed = ", ".join(f"{name} {tuple(value.shape)}" for name, value in feeds.items())
        on = f" on {fed}" if fed else " with the shapes it was given"
        raise ModelError(
            f"The model does not run{on}: {first_line(error)}",
            "Give shapes and values that it takes.",
        ) from error
    return values


def _feeds(
    graph: onnx.GraphProto, known: Known, sample: Mapping[str, npt.NDArray[Any]] | None
) -> dict[str, npt.NDArray[Any]]:
    given = sample or {}
    feeds = {}
    for value in graph.input:
        shape, dtype = known.shapes[value.name], known.dtypes[value.name]
        array = given[value.name] if value.name in given else np.zeros(shape)
        if tuple(array.shape) != shape:
            raise ModelError(
                f"The sample of input '{value.name}' has shape {tuple(array.shape)}, "
                f"expected {shape}.",
                "Give a sample of the shape that was bound.",
            )
        feeds[value.name] = np.asarray(array, dtype)
    return feeds
