# SPDX-License-Identifier: Apache-2.0
"""Quantized files made in tests, and two ways to run them: our simulation and onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from analyzer.graph.build import GraphBuilder, emit, slots_by_node
from analyzer.graph.session import open_session
from analyzer.graph.view import GraphView
from analyzer.load import bind_shapes, load_model
from analyzer.quantized import load_float_form

OPSETS = '"": {}, "com.microsoft": 1'


@pytest.fixture
def save(tmp_path):
    """Return a function: name, graph text, and values of tensors the text only names -> file."""

    def make(name, text, *, opset=13, **values):
        head = f"<ir_version: 10, opset_import: [{OPSETS.format(opset)}]>"
        proto = onnx.parser.parse_model(f"{head} {text}")
        proto.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value), key) for key, value in values.items()
        )
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(proto.SerializeToString())
        return path

    return make


def _bound(path, *, quantized=False, **shapes):
    """Load and bind a file, free axes 1; a quantized one as its own float form."""
    model = load_float_form(path) if quantized else load_model(path)
    free = {spec.name: tuple(d or 1 for d in spec.shape) for spec in model.inputs}
    return bind_shapes(model, {**free, **shapes})


def _simulated(result, feeds):
    """Run the graph with the plan's quantizers, node by node as it stands."""
    graph = result.graph
    builder = GraphBuilder(graph, GraphView(graph.proto.graph))
    made = emit(
        builder,
        graph.proto.graph.node,
        prefix="",
        outside=lambda t: builder.input(t, t),
        slots=slots_by_node(result.plan.quantizers),
    )
    names = [made.get(spec.name, spec.name) for spec in graph.outputs]
    for name, spec in zip(names, graph.outputs, strict=True):
        builder.output(name, spec.name)
    return open_session(builder.serialize(), optimize=False).run(names, feeds)


def _as_onnxruntime(path, feeds):
    """Run a quantized file without fusion, and on one thread, so that sums have one order."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options).run(None, feeds)


def _told(path):
    """Count the grids of a file anew: (of activations, of constants)."""
    graph = onnx.load(path).graph
    constants = {t.name for t in graph.initializer}
    activations = sum(n.op_type == "QuantizeLinear" and n.input[0] not in constants
                      for n in graph.node)  # fmt: skip
    stored = sum(n.op_type == "DequantizeLinear" and n.input[0] in constants for n in graph.node)
    stored += sum(n.op_type == "QuantizeLinear" and n.input[0] in constants for n in graph.node)
    for node in graph.node:
        if node.op_type.startswith(("QLinear", "QGemm")):
            activations += 1
            values = {"QLinearConcat": range(2, len(node.input), 3), "QLinearConv": (0, 3, 8)}
            two = node.op_type in ("QLinearMatMul", "QLinearAdd", "QLinearMul")
            read = values.get(node.op_type, (0, 3) if two else (0,))
            stored += sum(k < len(node.input) and node.input[k] in constants for k in read)
    given = any(v.type.tensor_type.elem_type == onnx.TensorProto.INT8 for v in graph.input)
    return activations + given, stored


@pytest.fixture
def bound():
    """Return a function: path of a file -> bound model; `quantized`: its own float form."""
    return _bound


@pytest.fixture
def simulated():
    """Return a function: a read model and its inputs -> outputs under its plan."""
    return _simulated


@pytest.fixture
def as_onnxruntime():
    """Return a function: path of a quantized file and its inputs -> outputs without fusion."""
    return _as_onnxruntime


@pytest.fixture
def told():
    """Return a function: path of a quantized file -> its grids of activations, of constants."""
    return _told
