# SPDX-License-Identifier: Apache-2.0
"""Files for TensorRT: its rules for Q/DQ, and the bits of a calibration cache."""

from __future__ import annotations

import struct

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from tiny_orders import tiny_order

from analyzer.export.tensorrt import write
from analyzer.export.tensorrt_grids import fitted
from analyzer.formats import SOURCE
from analyzer.records import Quantizer, Setting


def model_of(files):
    model = onnx.load_from_string(files["tensorrt/model.onnx"])
    onnx.checker.check_model(model, full_check=True)
    return model, {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def linears(model):
    return [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]


@pytest.mark.parametrize("target", ["onnxruntime", "qnn", "openvino", "esp32p4"])
def test_all_is_symmetric_int8(tmp_path, target):
    """Whatever the plan has: zero points are int8 and 0, biases are plain, and it runs."""
    files = write(tiny_order(tmp_path, target))
    model, constants = model_of(files)
    assert linears(model)
    for node in linears(model):
        zero = constants[node.input[2]]
        assert (zero.dtype, np.any(zero)) == (np.int8, False)
    assert "b0" in constants
    session = ort.InferenceSession(model.SerializeToString())
    session.run(None, {"x": np.ones((1, 3, 8, 8), np.float32)})


def grid(**given):
    named = {"node": "act", "slot": "out0", "tensor": "a", "role": "activation", "bits": 8}
    return Quantizer(**{**named, **given})


def test_a_grid_with_a_zero_point_becomes_symmetric(tmp_path):
    """uint8, scale 0.5, zero point 55 covers -27.5 .. 100: the new scale is 100 / 127."""
    model = tiny_order(tmp_path).graph
    plan = [
        grid(
            signed=False, symmetric=False, qmin=0, qmax=255, scale=np.array([0.5]),
            zero_point=np.array([55]), replaces_node=True,
        )
    ]  # fmt: skip
    found = fitted(model, plan)
    assert found.moved == ["a"]
    assert found.quantizers[0].scale == pytest.approx(100 / 127)
    # and the Relu that the grid did not stand in for any more is back
    assert not found.quantizers[0].replaces_node


def test_sixteen_bits_stay_in_float(tmp_path):
    """TensorRT has no 16-bit integers; 8-bit weights of such a layer would have no partner."""
    model = tiny_order(tmp_path).graph
    one, zero = np.ones(1), np.zeros(1, np.int64)
    plan = [
        grid(
            node="stem",
            slot="in0",
            tensor="x",
            bits=16,
            qmin=-32768,
            qmax=32767,
            scale=one,
            zero_point=zero,
        ),
        grid(node="stem", slot="in1", tensor="w0", role="weight", scale=one, zero_point=zero),
        grid(node="head", slot="in0", tensor="f", scale=one, zero_point=zero),
        grid(node="head", slot="in1", tensor="w1", role="weight", scale=one, zero_point=zero),
    ]
    found = fitted(model, plan)
    assert {q.tensor for q in found.quantizers} == {"f", "w1"}
    assert (found.wide, found.floats) == (["x"], ["w0"])
    assert any("16-bit integers" in text for text in found.left_out())


def test_the_cache_has_float32_scales_as_hex(tmp_path):
    """Power-of-two scales come back from their bits exactly."""
    order = tiny_order(tmp_path, "esp32p4")
    text = write(order)["tensorrt/calibration.cache"]
    first, *lines = text.splitlines()
    assert first.startswith("TRT-")
    assert first.endswith("-EntropyCalibration2")
    read = {}
    for line in lines:
        name, _, digits = line.rpartition(": ")
        (read[name],) = struct.unpack(">f", bytes.fromhex(digits))
    ours = {q.tensor: q.scale[0] for q in order.plan.quantizers if q.active and q.scale.size == 1}
    assert read["x"] == ours["x"]
    assert "w0" not in read


def test_flags_name_float_layers(tmp_path):
    """16-bit integers are asked for as FP16; the float model is the user's own."""
    order = tiny_order(tmp_path, "onnxruntime", Setting(table={"stem": "fp32"}))
    lines = write(order)["tensorrt/flags.txt"].splitlines()
    flags = [line for line in lines if not line.startswith("#")]
    assert flags == [
        "--onnx=net.onnx", "--int8", "--fp16", "--calib=calibration.cache",
        "--precisionConstraints=obey", "--layerPrecisions=stem:fp32",
        "--layerOutputTypes=stem:fp32",
    ]  # fmt: skip
    order = tiny_order(tmp_path, "onnxruntime", Setting(table={"stem": "s16s8"}))
    assert "--layerPrecisions=stem:fp16" in write(order)["tensorrt/flags.txt"]


def test_a_model_without_names_is_replaced_by_ours(tmp_path):
    """Flags go by the names of nodes."""
    text = """<ir_version: 8, opset_import: ["": 13]>
    net (float[1,3,8,8] x) => (float[1,4,8,8] y) { h = Conv<pads = [1,1,1,1]>(x, w0, b0)
        y = Add(h, h)
    }"""
    order = tiny_order(tmp_path, "onnxruntime", Setting(table={"Conv_0": "fp32"}), text)
    files = write(order)
    assert f"--onnx=../{SOURCE}" in files["tensorrt/flags.txt"]
    assert SOURCE in files["tensorrt/README.txt"]


def test_names_that_the_flags_cannot_hold_are_said(tmp_path):
    """trtexec cuts its lists at commas and colons."""
    order = tiny_order(tmp_path, "onnxruntime", Setting(table={"a:b": "fp32"}), NAMED)
    text = write(order)["tensorrt/flags.txt"]
    assert "--layerPrecisions" not in text
    assert "a:b" in text


NAMED = """<ir_version: 8, opset_import: ["": 13]>
net (float[1,3,8,8] x) => (float[1,4,8,8] y) {
    ["a:b"] h = Conv<pads = [1,1,1,1]>(x, w0, b0)  [act] y = Add(h, h)
}"""


def test_own_plans_come_out_as_they_are(tmp_path):
    """A plan with TensorRT's own rules loses nothing."""
    order = tiny_order(tmp_path, "tensorrt")
    found = fitted(order.graph, order.plan.quantizers)
    own = [q for q in order.plan.quantizers if q.active]
    assert sorted(q.key for q in found.quantizers) == sorted(q.key for q in own)
    assert list(found.left_out()) == []
