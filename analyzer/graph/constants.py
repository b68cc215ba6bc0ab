# SPDX-License-Identifier: Apache-2.0
"""Constants in one form: Constant nodes become initializers, narrow floats become float32."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from analyzer.graph.names import replace_nodes
from analyzer.graph.read import all_graphs, all_nodes, all_tensors

_NARROW: dict[int, str] = {TensorProto.FLOAT16: "FP16", TensorProto.BFLOAT16: "BF16"}
# attributes that hold a tensor element type: Cast, RandomNormal, HannWindow, DequantizeLinear ...
_TYPE_ATTRIBUTES = frozenset(
    {"to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision"}
)


def lift_constants(graph: onnx.GraphProto) -> None:
    """Turn the Constant nodes of `graph` (not of its bodies) into initializers, in place.

    A Constant that makes a graph output stays a node, and so does a sparse one.
    """
    outputs = {o.name for o in graph.output}
    kept = []
    lifted = 0
    for node in graph.node:
        tensor = None
        if node.op_type == "Constant" and not node.domain and node.output[0] not in outputs:
            tensor = _constant_value(node)
        if tensor is None:
            kept.append(node)
        else:
            lifted += 1
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    if lifted:
        replace_nodes(graph, kept)


def _constant_value(node: onnx.NodeProto) -> TensorProto | None:
    for attribute in node.attribute:
        match attribute.name:
            case "value":
                value: TensorProto = attribute.t
                return value
            case "value_float":
                return numpy_helper.from_array(np.array(attribute.f, np.float32))
            case "value_floats":
                return numpy_helper.from_array(np.array(attribute.floats, np.float32))
            case "value_int":
                return numpy_helper.from_array(np.array(attribute.i, np.int64))
            case "value_ints":
                return numpy_helper.from_array(np.array(attribute.ints, np.int64))
            case "value_string":
                return onnx.helper.make_tensor("", TensorProto.STRING, [], [attribute.s])
            case "value_strings":
                strings = list(attribute.strings)
                return onnx.helper.make_tensor("", TensorProto.STRING, [len(strings)], strings)
    return None


def widen_floats(proto: onnx.ModelProto) -> set[str]:
    """Make every float16 and bfloat16 of the model a float32, in place.

    Returns:
        which there were, as `FP16` and `BF16`.
    """
    found: set[str] = set()
    for tensor in all_tensors(proto):
        if tensor.data_type in _NARROW:
            found.add(_NARROW[tensor.data_type])
            wide = numpy_helper.to_array(tensor).astype(np.float32)
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(wide, name))
    for node in all_nodes(proto):
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _NARROW:
                found.add(_NARROW[attribute.i])
                attribute.i = TensorProto.FLOAT
            for kind in [attribute.tp, *attribute.type_protos]:
                found |= _widen_type(kind)
    for graph in all_graphs(proto.graph):
        for value in [*graph.input, *graph.output, *graph.value_info]:
            found |= _widen_type(value.type)
    return found


def _widen_type(kind: onnx.TypeProto) -> set[str]:
    found = set()
    for tensor in _tensor_types(kind):
        if tensor.elem_type in _NARROW:
            found.add(_NARROW[tensor.elem_type])
            tensor.elem_type = TensorProto.FLOAT
    return found


def _tensor_types(
    kind: onnx.TypeProto,
) -> Iterator[onnx.TypeProto.Tensor | onnx.TypeProto.SparseTensor]:
    match kind.WhichOneof("value"):
        case "tensor_type":
            yield kind.tensor_type
        case "sparse_tensor_type":
            yield kind.sparse_tensor_type
        case "sequence_type":
            yield from _tensor_types(kind.sequence_type.elem_type)
        case "optional_type":
            yield from _tensor_types(kind.optional_type.elem_type)
        case "map_type":
            yield from _tensor_types(kind.map_type.value_type)


def count_floats(graph: onnx.GraphProto) -> int:
    """Count the numbers in the float constants of `graph` and of the bodies below it."""
    floats = {TensorProto.FLOAT, TensorProto.DOUBLE}
    total = 0
    for part in all_graphs(graph):
        tensors = list(part.initializer)
        tensors += [a.t for n in part.node if n.op_type == "Constant" for a in n.attribute]
        for tensor in tensors:
            if tensor.data_type in floats:
                total += int(np.prod(tensor.dims, dtype=np.int64))
    return total
