# SPDX-License-Identifier: Apache-2.0
"""Files for NNCF: names, presets, and what is said about the rest."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from plans import constants_of, ordered, said  # noqa: E402

from analyzer.errors import ExportError  # noqa: E402
from analyzer.export.nncf import write  # noqa: E402
from analyzer.records import Setting  # noqa: E402

NET = """g (float[1,2,4,4] x) => (float[1,2,4,4] y, float[1,3] z) {
    [one] h = Conv(x, w, b) [act] k = Relu(h) [up] l = ConvTranspose(k, w, b)
    [plus] y = Add(l, k) [flat] f = Flatten(l) [last] z = Gemm(f, v, c)
}"""
WEIGHTS = {"w": (2, 2, 1, 1), "b": (2,), "v": (32, 3), "c": (3,)}
SCRIPT, SCOPE = "nncf/quantize.py", "nncf/ignored_scope.json"


def order(folder, target="openvino", drop_names=(), **setting):
    return ordered(folder, NET, target, Setting(**setting), drop_names=drop_names, **WEIGHTS)


def test_float_layers_are_told_by_nodes_and_by_tensors(tmp_path):
    """OpenVINO keeps names of tensors; a bias is an operation of its own."""
    files = write(order(tmp_path, table={"one": "fp32", "up": "fp32", "last": "fp32"}))
    told = constants_of(files[SCRIPT])
    assert told["FLOAT"] == {"one": ["h"], "up": ["l"], "last": ["z"]}
    assert told["BEHIND"] == {"one": ["k"], "up": [], "last": []}
    assert told["NODES"] == ["one", "up", "last"]
    assert told["INPUTS"] == {"x": ("float32", (1, 2, 4, 4))}
    scope = json.loads(files[SCOPE])
    assert scope["onnx"] == {"names": ["one", "up", "last"], "validate": True}
    names = ["one/WithoutBiases", "one", "last/WithoutBiases", "z"]
    assert scope["openvino"] == {"names": names, "validate": True}
    assert scope["openvino_by_quantize.py_only"] == ["up"]
    assert scope["model"] == "net.onnx"


def test_what_was_simulated_is_asked_for(tmp_path):
    """Preset, ranges and number of samples; channel alignment is what NNCF fails at."""
    text = write(order(tmp_path, precision="int8-mixed", observer="minmax"))[SCRIPT]
    assert "preset=nncf.QuantizationPreset.MIXED" in text
    assert "activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX" in text
    assert "disable_channel_alignment=True" in text
    assert "disable_bias_correction=False" in text
    assert "subset_size=4" in text
    compile(text, SCRIPT, "exec")


def test_defaults_are_left_alone(tmp_path):
    """Where nothing is asked for, nothing of ranges is said."""
    text = write(order(tmp_path))[SCRIPT]
    assert "PERFORMANCE" in text
    assert "RangeEstimator" not in text
    assert constants_of(text)["FLOAT"] == {}


def test_what_nncf_cannot_do_is_said(tmp_path):
    """16 bits, ranges, calibration and another target's rules."""
    found = order(
        tmp_path,
        "esp32p4",
        table={"one": "int16"},
        observer="percentile",
        ranges={"k": (0.0, 2.0)},
    )
    text = said(write(found)[SCRIPT])
    assert "no 16-bit activations: one" in text
    assert "no ranges of single tensors: k" in text
    assert "'percentile' of esp32p4 has no counterpart" in text
    assert "Measured with the rules of esp32p4, not with those of NNCF" in text


def test_nodes_without_names_are_called_by_our_file(tmp_path):
    """The tool is given the model in which they have some."""
    found = order(tmp_path, drop_names=["up"], table={"ConvTranspose_2": "fp32"})
    files = write(found)
    assert constants_of(files[SCRIPT])["NODES"] == ["ConvTranspose_2"]
    assert "MODEL is model.fp32.onnx" in files[SCRIPT]
    assert json.loads(files[SCOPE])["model"] == "model.fp32.onnx"


def test_a_plan_that_names_what_is_quantized_is_refused(tmp_path):
    """NNCF is told the float layers; a list of nearly all nodes would not be the same."""
    found = order(tmp_path, "onnxruntime", precision="fp32", table={"one": "int8"})
    with pytest.raises(ExportError, match="leaves all layers of 'net' but 1 in float"):
        write(found)
