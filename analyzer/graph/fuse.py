# SPDX-License-Identifier: Apache-2.0
"""Fusing a pair of nodes into the one node that a quantizer sees."""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnx import helper

from analyzer.graph.build import MS
from analyzer.graph.view import GraphView
from analyzer.records import Model


def fuse_swish(model: Model) -> Model:
    """Turn `x * Sigmoid(x)` into one node of op type `Swish`, run as com.microsoft QuickGelu.

    The Sigmoid must have no other reader and must not be a graph output.  The node is called
    `<producer of x>/Swish`, or `<sigmoid>/Swish` where x is a graph input, as esp-ppq does
    (`IR/morph.py`).
    """
    view = GraphView(model.proto.graph)
    fused: dict[str, onnx.NodeProto] = {}
    gone: set[str] = set()
    sources = dict(model.source_nodes)
    for node in view.nodes.values():
        if node.op_type != "Sigmoid" or node.output[0] in view.outputs:
            continue
        readers = view.consumers.get(node.output[0], [])
        if len(readers) != 1:
            continue
        product = view.nodes[readers[0]]
        if product.op_type != "Mul" or sorted(product.input) != sorted(
            [node.input[0], node.output[0]]
        ):
            continue
        name = _free_name(
            f"{view.producer.get(node.input[0], node.name)}/Swish", {*view.nodes, *sources}
        )
        fused[product.name] = helper.make_node(
            "QuickGelu", [node.input[0]], [product.output[0]], name=name, domain=MS, alpha=1.0
        )
        gone.add(node.name)
        sources[name] = (*sources.pop(node.name, ()), *sources.pop(product.name, ()))
    if not fused:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.node[:]
    proto.graph.node.extend(
        fused.get(n.name, n) for n in view.nodes.values() if n.name not in gone
    )
    if not any(o.domain == MS for o in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid(MS, 1))
    return replace(
        model,
        proto=proto,
        source_nodes=sources,
        op_types={**model.op_types, **{n.name: "Swish" for n in fused.values()}},
    )


def _free_name(name: str, taken: set[str]) -> str:
    free, k = name, 2
    while free in taken:
        free, k = f"{name}_{k}", k + 1
    return free
