# SPDX-License-Identifier: Apache-2.0
"""Reading a quantized ONNX file: a path goes in, its own float form and all its grids come out.

The own float form is the network that the file computes when every quantizer is switched off:
stored weights are dequantized, integer operators are the float ones they stand for.  Where a
quantizer stood, the edge from a tensor to a reader remembers its grid.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
from onnx import helper, inliner

from analyzer.errors import ModelError
from analyzer.graph.build import MS
from analyzer.graph.check import check_loads, refuse_unsupported
from analyzer.graph.constants import lift_constants, widen_floats
from analyzer.graph.fold import fold_constants
from analyzer.graph.names import name_nodes, sort_nodes
from analyzer.graph.read import all_nodes, read_model
from analyzer.graph.view import subgraphs
from analyzer.quantized.form import FloatForm
from analyzer.quantized.operators import DEQUANTIZE, DYNAMIC, INTEGER_OPS, QUANTIZE
from analyzer.quantized.rewrite import Rewriter


def read_float_form(path: Path) -> FloatForm:
    """Read a quantized ONNX file.

    Raises:
        ModelError: if it is no ONNX file that onnxruntime runs, holds no quantizer, or finds its
            scales while it runs.
    """
    file = read_model(path)
    proto = file.proto
    refuse_unsupported(proto, quantized_too=False)
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    for node in all_nodes(proto):
        node.domain = "" if node.domain == "ai.onnx" else node.domain
    _refuse_unreadable(proto, path)
    graph = proto.graph
    source = name_nodes(graph)
    sort_nodes(graph)
    widened = widen_floats(proto)
    check_loads(proto, None if widened else path)
    lift_constants(graph)
    # folding leaves alone what does not belong to ONNX itself: quantizers of constants stay
    for node in graph.node:
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            node.domain = MS
    if not any(opset.domain == MS for opset in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(MS, 1))
    fold_constants(proto, source)
    return Rewriter(FloatForm(proto, path, file.sha256)).run()


def _refuse_unreadable(proto: onnx.ModelProto, path: Path) -> None:
    kinds = Counter(node.op_type for node in all_nodes(proto))
    inside = {
        n.op_type for top in proto.graph.node for body in subgraphs(top) for n in _deep(body)
    }
    found = {QUANTIZE, DEQUANTIZE, *INTEGER_OPS} & set(kinds)
    if dynamic := DYNAMIC & set(kinds):
        listed = ", ".join(f"{kinds[kind]} {kind}" for kind in sorted(dynamic))
        raise ModelError(
            f"'{path}' is quantized dynamically ({listed}): it finds its scales while it runs, "
            "expected scales that are stored.",
            "Quantize the model statically, with calibration data.",
        )
    if inside & found:
        raise ModelError(
            f"'{path}' has quantizers inside an If, Loop or Scan, expected them in the main "
            "graph.",
            "Quantize the model without its control flow.",
        )
    if not found:
        raise ModelError(
            f"'{path}' has no quantizer (QuantizeLinear, QLinearConv ...), expected a quantized "
            "model.",
            "Give the model that your quantizer wrote.",
        )


def _deep(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    found = list(graph.node)
    for node in graph.node:
        for body in subgraphs(node):
            found += _deep(body)
    return found
