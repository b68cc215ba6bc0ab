# SPDX-License-Identifier: Apache-2.0
"""The onnxruntime target against the real `quantize_static`: placement, scales and outputs."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from analyzer.calibrate import calibrate
from analyzer.graph.build import GraphBuilder, emit, slots_by_node
from analyzer.graph.session import open_session
from analyzer.graph.view import GraphView
from analyzer.place import place
from analyzer.records import Quantizer
from analyzer.targets.onnxruntime import ONNXRUNTIME


class Reader(CalibrationDataReader):
    def __init__(self, samples):
        self.samples = iter(samples)

    def get_next(self):
        return next(self.samples, None)


@pytest.fixture
def quantize(tmp_path):
    """Return a function that runs the real quantizer on a bound model."""

    def run_quantizer(model, samples):
        source, result = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
        proto = onnx.ModelProto()
        proto.CopyFrom(model.proto)
        onnx.save(proto, source)
        logging.disable(logging.CRITICAL)
        try:
            quantize_static(
                source, result, Reader(samples), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )  # fmt: skip
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(result)

    return run_quantizer


def real_quantizers(quantized):
    """Return tensor -> (scale, zero point) of a QDQ model; stored constants under their name."""
    constants = {t.name: numpy_helper.to_array(t) for t in quantized.graph.initializer}
    found = {}
    for node in quantized.graph.node:
        if node.op_type == "QuantizeLinear":
            name = node.input[0].removesuffix("_QuantizeLinear_Input")
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            name = node.input[0].removesuffix("_quantized")
        else:
            continue
        scale = constants[node.input[1]]
        zero = constants[node.input[2]] if len(node.input) > 2 else np.zeros(scale.shape)
        found[name] = (np.atleast_1d(scale).tolist(), np.atleast_1d(zero).tolist())
    return found


def our_quantizers(plan):
    """Return tensor -> (scale, zero point); several slots of one tensor must agree."""
    found = {}
    for q in plan.quantizers:
        values = (q.scale.tolist(), q.zero_point.tolist())
        assert found.setdefault(q.tensor, values) == values
    return found


def simulated(model, plan, feeds):
    view = GraphView(model.proto.graph)
    builder = GraphBuilder(model, view)
    made = emit(
        builder, model.proto.graph.node, prefix="", outside=lambda t: builder.input(t, t),
        slots=slots_by_node(plan.quantizers),
    )  # fmt: skip
    for tensor in view.outputs:
        builder.output(made[tensor], tensor)
    session = open_session(builder.serialize(), optimize=False)
    return session.run([made[t] for t in view.outputs], feeds)


def executed(quantized, feeds):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        quantized.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def check_against_the_real_one(model, samples, quantize):
    graph, plan = place(model, ONNXRUNTIME)
    plan = calibrate(graph, plan, ONNXRUNTIME, samples)
    quantized = quantize(graph, samples)
    real, ours = real_quantizers(quantized), our_quantizers(plan)
    assert set(ours) == set(real)
    for tensor, (scale, zero) in real.items():
        assert ours[tensor][0] == pytest.approx(scale, rel=1e-6, abs=0), tensor
        assert ours[tensor][1] == zero, tensor
    for mine, theirs in zip(
        simulated(graph, plan, samples[0]), executed(quantized, samples[0]), strict=True
    ):
        error = np.linalg.norm(mine - theirs) / max(np.linalg.norm(theirs), 1e-30)
        assert error <= 1e-4


def weights(*shape):
    rng = np.random.default_rng(sum(shape))
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


NETS = {
    "conv, relu, conv": (
        """g (float[1,3,6,6] x) => (float[1,2,6,6] y) {
            h = Conv(x, w0, b0)  a = Relu(h)  y = Conv(a, w1)
        }""",
        {"w0": weights(4, 3, 1, 1), "b0": weights(4), "w1": weights(2, 4, 1, 1)},
    ),
    "relu behind a tensor read twice": (
        """g (float[1,3,6,6] x) => (float[1,4,6,6] y) {
            h = Conv(x, w0)  a = Relu(h)  y = Add(a, h)
        }""",
        {"w0": weights(4, 3, 1, 1)},
    ),
    "relu of a graph input": (
        "g (float[1,8] x) => (float[1,8] y) { a = Relu(x)  y = Sigmoid(a) }",
        {},
    ),
    "clip": (
        """g (float[1,3,6,6] x) => (float[1,4,6,6] y) {
            h = Conv(x, w0)  a = Clip(h, low, high)  y = Sigmoid(a)
        }""",
        {"w0": weights(4, 3, 1, 1), "low": np.float32(0), "high": np.float32(0.5)},
    ),
    "add and mul with constants": (
        "g (float[1,8] x) => (float[1,8] y) { a = Add(x, c)  y = Mul(a, d) }",
        {"c": weights(1, 8), "d": weights(1, 8) + 2},
    ),
    "concat": (
        """g (float[1,3,4,4] x) => (float[1,7,4,4] y) {
            a = Conv(x, w0)  y = Concat<axis = 1>(a, x)
        }""",
        {"w0": weights(4, 3, 1, 1)},
    ),
    "max pool and reshape": (
        """g (float[1,3,4,4] x) => (float[1,16] y) {
            a = Conv(x, w0)  p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(a)
            y = Reshape(p, shape)
        }""",
        {"w0": weights(4, 3, 1, 1), "shape": np.array([1, 16])},
    ),
    "max pool of a graph input": (
        """g (float[1,3,4,4] x) => (float[1,3,2,2] y) {
            p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(x)  y = Sigmoid(p)
        }""",
        {},
    ),
    "average pool": (
        """g (float[1,3,4,4] x) => (float[1,4,2,2] y) {
            a = Conv(x, w0)  y = AveragePool<kernel_shape = [2,2], strides = [2,2]>(a)
        }""",
        {"w0": weights(4, 3, 1, 1)},
    ),
    "matmul by a weight": (
        "g (float[1,5,8] x) => (float[1,5,4] y) { y = MatMul(x, w0) }",
        {"w0": weights(8, 4)},
    ),
    "matmul by a weight of rank 3": (
        "g (float[2,5,8] x) => (float[2,5,4] y) { y = MatMul(x, w0) }",
        {"w0": weights(2, 8, 4)},
    ),
    "matmul of activations": (
        """g (float[1,5,8] x) => (float[1,5,5] y) {
            a = MatMul(x, w0)  t = Transpose<perm = [0,2,1]>(a)  y = MatMul(a, t)
        }""",
        {"w0": weights(8, 8)},
    ),
    "gemm": (
        "g (float[2,8] x) => (float[2,4] y) { y = Gemm(x, w0, b0) }",
        {"w0": weights(8, 4), "b0": weights(4)},
    ),
    "gemm of a transposed weight": (
        "g (float[2,8] x) => (float[2,4] y) { h = Gemm<transB = 1>(x, w0, b0)  y = Relu(h) }",
        {"w0": weights(4, 8), "b0": weights(4)},
    ),
    "softmax": (
        "g (float[2,8] x) => (float[2,4] y) { h = Gemm(x, w0)  y = Softmax<axis = 1>(h) }",
        {"w0": weights(8, 4)},
    ),
    "split": (
        """g (float[1,4,4,4] x) => (float[1,4,4,4] y) {
            h = Conv(x, w0)  p, q = Split<axis = 1>(h, halves)  y = Concat<axis = 1>(q, p)
        }""",
        {"w0": weights(4, 4, 1, 1), "halves": np.array([1, 3])},
    ),
    "resize": (
        """g (float[1,3,4,4] x) => (float[1,4,8,8] y) {
            h = Conv(x, w0)
            r = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric",
                       nearest_mode = "floor">(h, , scales)
            y = Sigmoid(r)
        }""",
        {"w0": weights(4, 3, 1, 1), "scales": np.float32([1, 1, 2, 2])},
    ),
    "pad with zeros": (
        """g (float[1,3,4,4] x) => (float[1,2,4,4] y) {
            h = Conv(x, w0)  p = Pad(h, pads)  y = Conv(p, w1)
        }""",
        {"w0": weights(4, 3, 1, 1), "w1": weights(2, 4, 3, 3),
         "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
    ),
    "pad with a value": (
        """g (float[1,3,4,4] x) => (float[1,4,6,6] y) {
            h = Conv(x, w0)  p = Pad(h, pads, value)  y = Sigmoid(p)
        }""",
        {"w0": weights(4, 3, 1, 1), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
         "value": np.float32(-4)},
    ),
    "gather from a table": (
        "g (float[4,8] x) => (float[4,8] y) { e = Gather(table, rows)  y = Add(x, e) }",
        {"table": weights(10, 8), "rows": np.array([1, 3, 3, 9])},
    ),
    "gather from an activation": (
        """g (float[4,8] x) => (float[2,8] y) {
            h = Sigmoid(x)  e = Gather(h, rows)  y = Sigmoid(e)
        }""",
        {"rows": np.array([1, 3])},
    ),
    "global average pool": (
        """g (float[1,3,4,4] x) => (float[1,4,1,1] y) {
            h = Conv(x, w0)  y = GlobalAveragePool(h)
        }""",
        {"w0": weights(4, 3, 1, 1)},
    ),
    "silu": (
        """g (float[1,3,4,4] x) => (float[1,4,4,4] y) {
            h = Conv(x, w0)  s = Sigmoid(h)  y = Mul(h, s)
        }""",
        {"w0": weights(4, 3, 1, 1)},
    ),
    "float op between": (
        """g (float[1,3,4,4] x) => (float[1,2,4,4] y) {
            h = Conv(x, w0)  t = Tanh(h)  y = Conv(t, w1)
        }""",
        {"w0": weights(4, 3, 1, 1), "w1": weights(2, 4, 1, 1)},
    ),
    "conv transpose": (
        """g (float[1,4,3,3] x) => (float[1,2,6,6] y) {
            y = ConvTranspose<strides = [2,2]>(x, w0, b0)
        }""",
        {"w0": weights(4, 2, 2, 2), "b0": weights(2)},
    ),
    "weight shared by two layers": (
        """g (float[1,4,4,4] x) => (float[1,4,4,4] y) {
            h = Conv(x, w0, b0)  a = Relu(h)  y = Conv(a, w0)
        }""",
        {"w0": weights(4, 4, 1, 1), "b0": weights(4)},
    ),
    "channels that are nearly dead": (
        "g (float[1,3,4,4] x) => (float[1,4,4,4] y) { h = Conv(x, w0, b0)  y = Relu(h) }",
        {"w0": weights(4, 3, 1, 1) * np.float32([1, 1e-12, 1, 1e-9]).reshape(4, 1, 1, 1),
         "b0": np.float32([0.1, 0.4, 0, -0.3])},
    ),
    "slice, squeeze and unsqueeze": (
        """g (float[1,3,4,4] x) => (float[4,4,4] y) {
            h = Conv(x, w0)  s = Squeeze(h, zero)  u = Unsqueeze(s, zero)
            v = Slice(u, starts, ends, axes)  t = Squeeze(v, zero)  y = Relu(t)
        }""",
        {"w0": weights(4, 3, 1, 1), "zero": np.array([0]), "starts": np.array([0]),
         "ends": np.array([4]), "axes": np.array([1])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_small_nets_agree_with_the_real_quantizer(bind, quantize, name):
    """Same tensors, same scales, same zero points, same output."""
    text, constants = NETS[name]
    model = bind(text, **constants)
    rng = np.random.default_rng(1)
    shape = model.inputs[0].shape
    samples = [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(3)]
    check_against_the_real_one(model, samples, quantize)


def test_layer_normalization_agrees_with_the_real_quantizer(bind, quantize):
    """Scale per tensor, bias at the product of scales (opset 17)."""
    model = bind(
        """g (float[1,5,8] x) => (float[1,5,8] y) {
            h = MatMul(x, w0)  y = LayerNormalization(h, gamma, beta)
        }""",
        opset=17, w0=weights(8, 8), gamma=weights(8) + 2, beta=weights(8),
    )  # fmt: skip
    rng = np.random.default_rng(1)
    samples = [{"x": rng.standard_normal((1, 5, 8)).astype(np.float32)} for _ in range(3)]
    check_against_the_real_one(model, samples, quantize)


@pytest.mark.parametrize(
    ("name", "low", "high"), [("resnet8_cifar10", 0, 255), ("mobilenet_v1_025_imagenet", -1, 1)]
)
def test_real_models_agree_with_the_real_quantizer(shared, quantize, name, low, high):
    """Whole networks, random pixels of the right range."""
    model = shared(name)
    rng = np.random.default_rng(2)
    (spec,) = model.inputs
    samples = [
        {spec.name: rng.uniform(low, high, spec.shape).astype(np.float32)} for _ in range(2)
    ]
    check_against_the_real_one(model, samples, quantize)


def test_a_range_always_holds_zero():
    """compute_scale_zp: 1..3 is widened to 0..3, with zero at the lower end."""
    q = Quantizer("n", "out0", "y", "activation", 8, symmetric=False)
    scale, zero = ONNXRUNTIME.scale(q, np.array([1.0]), np.array([3.0]), "minmax")
    assert (scale.tolist(), zero.tolist()) == ([float(np.float32(3 / 255))], [-128])


def test_a_silent_tensor_has_scale_one():
    """No range at all must not divide by zero."""
    q = Quantizer("n", "out0", "y", "activation", 8, symmetric=False)
    scale, zero = ONNXRUNTIME.scale(q, np.zeros(1), np.zeros(1), "minmax")
    assert (scale.tolist(), zero.tolist()) == ([1.0], [0])


def test_nothing_is_rewritten(bind):
    """quantize_static takes the graph as it is."""
    model = bind("g (float[1,8] x) => (float[1,8] y) { y = Relu(x) }")
    assert ONNXRUNTIME.prepare(model) is model
