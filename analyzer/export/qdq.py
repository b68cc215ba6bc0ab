# SPDX-License-Identifier: Apache-2.0
"""Our own Q/DQ model of a plan: `qdq/model.onnx`, which engines load as it is."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from analyzer.export.header import lines
from analyzer.export.order import Files, Order
from analyzer.export.qdq_graph import write_qdq
from analyzer.export.sidecar import readme

_USE = (
    "Integer kernels round in other places than the simulation does, so that single values differ "
    "by a level. To see in onnxruntime what was measured, set session.disable_quant_qdq to 1."
)


def write(order: Order) -> Files:
    """Return the model, and what is to be said about it."""
    written = write_qdq(order.graph, order.plan.quantizers)
    left_out = [*written.left_out, *_fixed_shapes(order)]
    return {
        "qdq/model.onnx": serialized(written.proto, order, left_out, tool="qdq"),
        "qdq/README.txt": readme(order, left_out, [_USE], tool="qdq"),
    }


def serialized(
    proto: onnx.ModelProto, order: Order, left_out: Sequence[str], *, tool: str
) -> bytes:
    """Return a model as bytes, with the header as its description."""
    proto.producer_name = "qanalyze"
    proto.producer_version = str(order.analysis.provenance.tool_version)
    proto.doc_string = "\n".join(lines(order, left_out, tool=tool))
    return bytes(proto.SerializeToString(deterministic=True))


def _fixed_shapes(order: Order) -> list[str]:
    shapes = ", ".join(
        f"{spec.name} {list(spec.shape)}" for spec in order.graph.inputs if None not in spec.shape
    )
    return [f"Free axes: the inputs have the shapes that were analysed ({shapes})."]
