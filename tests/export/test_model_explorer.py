# SPDX-License-Identifier: Apache-2.0
"""Node ids of the user's file, as Model Explorer's ONNX adapter makes them.

Expected ids were read off model-explorer-onnx 0.4.2; `tests/peers/test_model_explorer.py` asks it.
"""

from __future__ import annotations

import json
from dataclasses import replace

import onnx
import pytest
from tiny_orders import NET, tiny_order

from analyzer.errors import ExportError
from analyzer.export import export
from analyzer.export.model_explorer import node_ids, write

CHAIN = """<ir_version: 8, opset_import: ["": 17, "f": 1]>
g (float[2] x) => (float[2] y) {
    a = Neg(x)
    b = Relu(a)
    c = Abs(b)
    d = f.twice(c)
    y = Exp(d)
}
<domain: "f", opset_import: ["": 17]>
twice (p) => (q) { r = Add(p, p)  q = Mul(r, r) }"""

BODIES = """<ir_version: 8, opset_import: ["": 17]>
g (float[2] x, bool c) => (float[2] y) {
    a = Neg(x)
    b = If(c) <then_branch = t () => (float[2] u) { n = Abs(a)  u = Exp(n) },
               else_branch = e () => (float[2] v) { v = Abs(a) }>
    y = Exp(b)
}"""


def ids_of(text, names=()):
    model = onnx.parser.parse_model(text)
    for node, name in zip(model.graph.node, names, strict=False):
        node.name = name
    return node_ids(model)


def test_named_nodes_keep_their_names(tmp_path):
    """And an unnamed one among them is the first of its kind."""
    text = NET.replace("[act] ", "").replace("[flat] ", "")
    assert ids_of(text) == {
        "stem": "stem", "Relu#1": "node", "pool": "pool", "Flatten#3": "node_1", "head": "head",
    }  # fmt: skip


def test_what_a_function_was_expanded_into_is_at_its_call():
    """Unnamed nodes are counted in the file, not in what it is expanded to."""
    assert ids_of(CHAIN) == {
        "Neg#0": "node", "Relu#1": "node_1", "Abs#2": "node_2",
        "Add#3": "node_3", "Mul#4": "node_3", "Exp#5": "node_4",
    }  # fmt: skip


def test_a_name_that_is_taken_is_numbered():
    """Also where a node had that name of its own, further down."""
    found = ids_of(CHAIN, ["", "conv", "", "call", "node_1"])
    assert found == {
        "Neg#0": "node", "conv": "conv", "Abs#2": "node_1", "Add#3": "call", "Mul#4": "call",
        "node_1": "node_1_1",
    }  # fmt: skip


def test_bodies_count_along():
    """Two unnamed nodes of the first body collide once, so the next one outside is number 3."""
    assert ids_of(BODIES) == {"Neg#0": "node", "If#1": "node_1", "Exp#2": "node_3"}


def test_what_was_measured_is_written_whatever_the_plan(tmp_path):
    """Every layer is in it, by the file's names."""
    order = tiny_order(tmp_path, text=NET.replace("[act] ", ""))
    files = {path: json.loads(text) for path, text in write(order).items()}
    found = files["model-explorer/graphwise.json"]["results"]
    assert set(found) <= {"stem", "node", "pool", "flat", "head", "[value] y"}


def test_it_is_a_format_like_the_others(tmp_path):
    """With a README that says how to open it, and no doubt about rules."""
    order = tiny_order(tmp_path)
    layers = [
        replace(layer, graphwise_nsr=0.1, isolated_nsr=0.2, source_nodes=(layer.name,))
        for layer in order.analysis.layers
    ]
    order = replace(order, analysis=replace(order.analysis, layers=tuple(layers)))
    files = export(order, ["model-explorer"])
    assert "model-explorer/isolated.json" in files
    assert "--extensions=model_explorer_onnx" in files["README.txt"].replace("\n", " ")
    assert "not with those of this tool" not in files["README.txt"]
    assert not any(path.endswith(".onnx") for path in files)


def test_a_file_that_has_gone_is_no_bug(tmp_path):
    """The error names it."""
    order = tiny_order(tmp_path)
    order.original.unlink()
    with pytest.raises(ExportError, match=r"net\.onnx' cannot be read any more"):
        write(order)
