# SPDX-License-Identifier: Apache-2.0
"""Encodings for AIMET: its two formats tell one grid."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_orders import tiny_order

from analyzer.export.aimet import write
from analyzer.records import Setting


@pytest.fixture
def files(tmp_path):
    return write(tiny_order(tmp_path, "onnxruntime", Setting(table={"head": "fp32"})))


def test_the_latest_format_is_that_of_quantize_linear(files, tmp_path):
    """Activations are counted from 0, weights around 0, with an axis."""
    said = json.loads(files["aimet/encodings.json"])
    assert said["version"] == "2.0.0"
    found = {entry["name"]: entry for entry in said["encodings"]}
    plan = tiny_order(tmp_path, "onnxruntime", Setting(table={"head": "fp32"})).plan
    ours = {q.tensor: q for q in plan.quantizers}
    x, w = found["x"], found["w0"]
    assert (x["output_dtype"], w["output_dtype"]) == ("uint8", "int8")
    assert x["y_scale"] == ours["x"].scale[0]
    assert x["y_zero_point"] == ours["x"].zero_point[0] + 128
    assert (w["y_scale"], w["y_zero_point"], w["axis"]) == (ours["w0"].scale.tolist(), [0] * 4, 0)


def test_both_formats_have_the_same_values(files):
    """(q + offset) * scale of one is (q - y_zero_point) * y_scale of the other."""
    latest = json.loads(files["aimet/encodings.json"])["encodings"]
    first = json.loads(files["aimet/encodings_1.0.0.json"])
    old = {e["name"]: e for key in ("activation", "param") for e in first[f"{key}_encodings"]}
    for entry in latest:
        same = old[entry["name"]]
        assert np.atleast_1d(entry["y_scale"]).tolist() == same["scale"]
        lowest = -128 if entry["output_dtype"] == "int8" else 0
        assert (lowest - np.atleast_1d(entry["y_zero_point"])).tolist() == same["offset"]
        assert same["enc_type"] == ("PER_CHANNEL" if "axis" in entry else "PER_TENSOR")


def test_float_layers(files):
    """Format 1.0.0 has entries for them, the latest one a list in the text beside it."""
    first = json.loads(files["aimet/encodings_1.0.0.json"])
    kept = [e["name"] for e in first["param_encodings"] if e["dtype"] == "FLOAT"]
    assert kept == ["w1", "b1"]
    names = {e["name"] for e in json.loads(files["aimet/encodings.json"])["encodings"]}
    assert names.isdisjoint(kept)
    assert "stay in float by plan:" in files["aimet/README.txt"]
    assert "  w1\n" in files["aimet/README.txt"]
