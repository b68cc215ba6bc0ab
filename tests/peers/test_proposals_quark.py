# SPDX-License-Identifier: Apache-2.0
"""Exported plans given to AMD Quark itself: it does what they ask, about as noisily as foreseen.

No target imitates Quark, but its quantizer is made from onnxruntime's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from exported import deviations, exported, real_inputs, without_softmax  # noqa: E402

from analyzer.export.source import source_bytes  # noqa: E402
from analyzer.records import Setting  # noqa: E402

MODEL = HERE.parents[2] / "shared" / "models" / "resnet8_cifar10" / "model.onnx"
CONV, DENSE, RELU = "model/conv2d_8/BiasAdd", "model/dense/MatMul", "model/activation_6/Relu:0"
LOGITS = "model/dense/BiasAdd:0"
CLOSE = 0.1  # share of the noise

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def ask(judge, tmp_path):
    """Return a function: a setting of a target -> the order, and what Quark makes of it."""
    data = real_inputs("resnet8_cifar10", tmp_path / "inputs.npz", 8)
    path = without_softmax(MODEL, tmp_path / "model.onnx")

    def quantize(target="onnxruntime", **setting):
        order, _ = exported(tmp_path, "quark", path, data, target, Setting(**setting))
        model = tmp_path / "model.fp32.onnx"
        model.write_bytes(source_bytes(order))
        script = tmp_path / "quark" / "config.py"
        return order, judge("quark", "quark_exported", script, model, data)

    return quantize


@pytest.mark.parametrize(
    ("target", "setting"),
    [
        ("onnxruntime", {}),
        ("onnxruntime", {"precision": "s16s8"}),
        ("onnxruntime", {"precision": "u8u8", "granularity": "tensor"}),
        ("onnxruntime", {"ranges": {RELU: (0.0, 1.0)}}),
        ("tensorrt", {}),
        ("tflite", {}),
        ("pytorch", {}),
    ],
    ids=["default", "16 bits", "unsigned", "range", "tensorrt", "tflite", "pytorch"],
)
def test_the_noise_is_what_was_simulated(ask, target, setting):
    """That of the logits, within a tenth."""
    order, found = ask(target, **setting)
    print(order.proposal.outputs_after, found["nsr"])
    assert deviations(order, found["nsr"])[LOGITS] < CLOSE


def test_layers_get_16_bits_or_float(ask):
    """The Conv writes 16 bits and keeps its 8-bit weights, those of the MatMul stay floats."""
    _, plain = ask()
    assert set(plain["quantized"].values()) == {"INT8"}
    assert plain["weights"][CONV] == plain["weights"][DENSE] == "INT8"
    _, moved = ask(table={CONV: "s16s8", DENSE: "fp32"})
    wide = {name for name, kind in moved["quantized"].items() if kind == "INT16"}
    assert f"{CONV}:0" in wide
    assert len(wide) < 5
    assert moved["weights"][CONV] == "INT8"
    assert DENSE not in moved["weights"]
    assert moved["nsr"][LOGITS] < plain["nsr"][LOGITS]


def test_weights_of_16_bits(ask):
    """esp-ppq's int16 has them, with its own scales."""
    _, found = ask("esp32p4", table={DENSE: "int16"})
    assert found["weights"][DENSE] == "INT16"
    assert found["weights"][CONV] == "INT8"


@pytest.mark.parametrize("observer", ["percentile", "entropy"])
def test_calibrations_are_known_to_quark(ask, observer):
    """They run, and give other grids than the default."""
    assert ask(observer=observer)[1]["nsr"] != ask()[1]["nsr"]
