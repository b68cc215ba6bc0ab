# SPDX-License-Identifier: Apache-2.0
"""The FP32 model for tools that cannot use the user's own file: an order in, ONNX bytes out."""

from __future__ import annotations

import onnx
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]  # no stubs

from analyzer.errors import ExportError
from analyzer.export.order import Order
from analyzer.graph.simplify import remove_unused


def source_bytes(order: Order) -> bytes:
    """Return the order's FP32 model without the slices of outputs that were only looked at.

    It computes what the user's file computes, but for corrected biases; its input shapes are
    those of the data.

    Raises:
        ExportError: if it is too large for one file.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(order.source.proto)
    graph = proto.graph
    kept = [output for output in graph.output if output.name not in order.source.slices]
    if len(kept) < len(graph.output):
        del graph.output[:]
        graph.output.extend(kept)
        remove_unused(graph)
    proto.producer_name = "qanalyze"
    proto.producer_version = order.analysis.provenance.tool_version
    try:
        data: bytes = proto.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ExportError(
            f"The FP32 model of this plan does not fit into one ONNX file: {error}.",
            "Choose a plan without edits of the graph, or name all nodes of the model.",
        ) from error
    return data
