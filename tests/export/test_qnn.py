# SPDX-License-Identifier: Apache-2.0
"""Encodings for QNN: the numbers of version 0.6.1, computed by hand from grids."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_orders import tiny_order

from analyzer.errors import ExportError
from analyzer.export.qnn import write
from analyzer.formats import SOURCE
from analyzer.records import Setting


def written(order):
    return json.loads(write(order)["qnn/quantization_overrides.json"])


def with_grid(order, tensor, **changed):
    """Give the quantizers of a tensor another grid."""
    found = tuple(
        replace(q, **changed) if q.tensor == tensor else q for q in order.plan.quantizers
    )
    return replace(order, plan=replace(order.plan, quantizers=found))


def test_an_unsigned_grid(tmp_path):
    """Level q stands for (q + offset) * scale: zero point 100 is offset -100."""
    order = tiny_order(tmp_path, "qnn")
    order = with_grid(order, "x", scale=np.array([0.5]), zero_point=np.array([100]))
    assert written(order)["activation_encodings"]["x"] == [
        {
            "bitwidth": 8,
            "dtype": "int",
            "is_symmetric": "False",
            "max": 77.5,
            "min": -50.0,
            "offset": -100,
            "scale": 0.5,
        }
    ]


def test_a_signed_grid_is_counted_from_its_lowest_level(tmp_path):
    """int8 with zero point -3: level -128 stands for -125 steps, so the offset is -125."""
    order = tiny_order(tmp_path)
    order = with_grid(order, "x", scale=np.array([0.5]), zero_point=np.array([-3]))
    (found,) = written(order)["activation_encodings"]["x"]
    assert (found["offset"], found["min"], found["max"]) == (-125, -62.5, 65.0)


def test_symmetric_weights_per_channel(tmp_path):
    """One entry per channel; 0 is in the middle, so the offset is -128."""
    order = tiny_order(tmp_path)
    found = written(order)["param_encodings"]["w0"]
    scale = next(q.scale for q in order.plan.quantizers if q.tensor == "w0")
    assert [e["scale"] for e in found] == scale.tolist()
    assert {(e["offset"], e["is_symmetric"]) for e in found} == {(-128, "True")}
    assert "b0" not in written(order)["param_encodings"]  # the converter's own: 32 bits


def test_sixteen_bits(tmp_path):
    """Offsets count from 0 in 65536 levels."""
    order = tiny_order(tmp_path, "qnn", Setting(precision="a16w8"))
    order = with_grid(order, "x", scale=np.array([1.0]), zero_point=np.array([32768]))
    (found,) = written(order)["activation_encodings"]["x"]
    assert (found["bitwidth"], found["offset"], found["max"]) == (16, -32768, 32767.0)
    assert found["is_symmetric"] == "True"


def test_float_layers(tmp_path):
    """Output and constants of a float layer have float encodings."""
    said = written(tiny_order(tmp_path, "qnn", Setting(table={"head": "fp32"})))
    float32 = [{"bitwidth": 32, "dtype": "float"}]
    assert said["activation_encodings"]["y"] == float32
    assert said["param_encodings"]["w1"] == said["param_encodings"]["b1"] == float32
    assert said["param_encodings"]["w0"][0]["dtype"] == "int"


def test_what_is_left_out_is_said(tmp_path):
    """Two grids on one tensor: the first is told, the text names the tensor."""
    order = tiny_order(tmp_path, "onnxruntime", Setting(table={"head": "s16s8"}))
    text = write(order)["qnn/README.txt"]
    assert "A second grid on the same tensor: f" in text
    assert "Measured with the rules of onnxruntime" in text
    assert "Biases" in text


def test_folded_norms_need_our_file(tmp_path):
    """The weights that have these grids are not those of the user's file."""
    text = """<ir_version: 8, opset_import: ["": 13]>
    net (float[1,3,8,8] x) => (float[1,4,8,8] y)
        <float[4] one = {1, 1, 1, 1}, float[4] zero = {0, 0, 0, 0}> {
        [stem] h = Conv<pads = [1,1,1,1]>(x, w0, b0)
        [norm] y = BatchNormalization(h, one, zero, zero, one)
    }"""
    assert SOURCE in write(tiny_order(tmp_path, "qnn", text=text))["qnn/README.txt"]
    assert "in net.onnx" in write(tiny_order(tmp_path, "qnn"))["qnn/README.txt"]


def test_a_layer_that_is_not_there_is_refused(tmp_path):
    """With the nearest match."""
    order = tiny_order(tmp_path, "qnn")
    setting = Setting(table={"haed": "fp32"})
    with pytest.raises(ExportError, match="head"):
        write(replace(order, proposal=replace(order.proposal, setting=setting)))
