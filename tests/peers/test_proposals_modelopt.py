# SPDX-License-Identifier: Apache-2.0
"""Exported plans given to NVIDIA ModelOpt itself: its model has the noise that was simulated."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from exported import SHARED, deviations, exported, real_inputs, without_softmax  # noqa: E402

from analyzer.records import Setting  # noqa: E402

LOGITS = "model/dense/BiasAdd:0"
CLOSE = 0.1  # share of the noise

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def resnet8(tmp_path):
    data = real_inputs("resnet8_cifar10", tmp_path / "inputs.npz", 32)
    source = SHARED / "models" / "resnet8_cifar10" / "model.onnx"
    return without_softmax(source, tmp_path / "resnet8.onnx"), data


@pytest.mark.parametrize(
    ("setting", "pairs"),
    [
        (Setting(), None),
        # conv2d is the beginning of the names of nine other layers
        (Setting(observer="minmax", table={"model/conv2d/BiasAdd": "fp16"}), None),
        (Setting(precision="fp16", table={"model/conv2d_8/BiasAdd": "int8"}), 2),
    ],
    ids=["default", "one layer in float, minmax", "one layer at int8"],
)
def test_a_real_model(judge, resnet8, tmp_path, setting, pairs):
    """The noise is within a tenth of what was simulated, the rest of the network at FP16."""
    path, data = resnet8
    order, model = exported(tmp_path, "modelopt", path, data, "tensorrt", setting)
    script = tmp_path / "modelopt" / "quantize.py"
    answer = judge("modelopt", "modelopt_exported", script, model, data, "fp16")
    assert deviations(order, answer["nsr"])[LOGITS] < CLOSE, answer
    if setting.table:
        assert answer["nsr"][LOGITS] < order.proposal.outputs_before[LOGITS]
    if pairs:
        assert answer["pairs"] == pairs


def test_another_model_is_refused(judge, resnet8, tmp_path):
    """Names that no node has end the script: ModelOpt itself would pass over them."""
    path, data = resnet8
    setting = Setting(table={"model/conv2d/BiasAdd": "fp16"})
    exported(tmp_path, "modelopt", path, data, "tensorrt", setting)
    script = tmp_path / "modelopt" / "quantize.py"
    text = script.read_text("utf-8").replace("'model/conv2d/BiasAdd'", "'model/conv2d'")
    script.write_text(text, "utf-8")
    answer = judge("modelopt", "modelopt_exported", script, path, data, "fp16")
    assert "no nodes ['model/conv2d']" in answer["error"]
