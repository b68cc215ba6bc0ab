# SPDX-License-Identifier: Apache-2.0
"""onnxruntime: the arguments of `quantize_static`, and a script that calls it with them."""

from __future__ import annotations

import json

from analyzer.export.header import header, lines
from analyzer.export.names import check
from analyzer.export.order import Files, Order
from analyzer.export.ort_call import Call, call_for
from analyzer.export.ort_script import SCRIPT
from analyzer.formats import SOURCE
from analyzer.graph.names import all_names

# written once for all formats
MODEL = f"../{SOURCE}"


def write(order: Order) -> Files:
    """Return `arguments.json` and `quantize.py`.

    The script reads the FP32 model that is written beside them: only in that one have nodes the
    names, and norms the form, that were analysed.

    Raises:
        ExportError: if that model lacks a name.
    """
    call = call_for(order)
    _check(order, call)
    arguments = {
        "about": lines(order, call.left_out, tool="onnxruntime"),
        "model": MODEL,
        "quantizer": call.by,
        "quant_format": "QDQ",
        "activation_type": call.activation_type,
        "weight_type": call.weight_type,
        "per_channel": call.per_channel,
        "calibrate_method": call.calibrate_method,
        "op_types_to_quantize": None,
        "nodes_to_exclude": list(call.nodes_to_exclude),
        "extra_options": {**call.options, "TensorQuantOverrides": call.overrides},
    }
    text = json.dumps(arguments, indent=1, ensure_ascii=False)
    return {
        "onnxruntime/arguments.json": f"{text}\n",
        "onnxruntime/quantize.py": header(order, left_out=call.left_out, tool="onnxruntime")
        + SCRIPT,
    }


def _check(order: Order, call: Call) -> None:
    graph = order.source.proto.graph
    nodes = {node.name for node in graph.node}
    tensors = all_names(graph)
    receivers = [
        name
        for entries in call.overrides.values()
        for entry in entries
        for name in entry.get("convert", {}).get("recv_nodes", ())
    ]
    check((*call.nodes_to_exclude, *receivers), nodes, "node")
    check(call.overrides, tensors, "tensor")
