# SPDX-License-Identifier: Apache-2.0
"""Separate outputs: the Concat that joins boxes and scores is left in float, and it helps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analyzer.calibrate import calibrate
from analyzer.fixes.outputs import outputs_remedies
from analyzer.fixes.remedy import applied
from analyzer.place import place
from analyzer.records import Finding, Setting
from analyzer.targets import get_target
from analyzer.targets.espdl import ESP32P4
from analyzer.verify import verify

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"


@pytest.fixture
def net(bind):
    """Boxes in pixels beside scores, joined twice and turned around before they are returned."""
    return bind(
        """g (float[1,4,6] x) => (float[1,6,9] y, float[1,4,6] z) {
            [boxes] b = Mul(x, hundred)  [score] s = Sigmoid(x)  [more] m = Relu(x)
            [part] p = Slice(m, zero, one, one)
            [inner] i = Concat<axis=1>(s, p)  [outer] c = Concat<axis=1>(b, i)
            [turned] y = Transpose<perm=[0,2,1]>(c)  [other] z = Neg(x)
        }""",
        hundred=np.full(1, 100, np.float32),
        zero=np.zeros(1, np.int64),
        one=np.ones(1, np.int64),
    )


def samples_of(count=2):
    rng = np.random.default_rng(2)
    return [{"x": rng.standard_normal((1, 4, 6)).astype(np.float32)} for _ in range(count)]


def found_at(layer, code="QA106", gain=0.5):
    return (Finding(code, layer, {"output": "y"}, "", gain=gain),)


def test_all_that_joins_and_hands_on_is_left_in_float(net, told):
    """Both Concats and the Transpose behind; what makes the parts stays quantized."""
    situation = told(net, ESP32P4, samples_of(), findings=found_at("outer"))
    (remedy,) = outputs_remedies(situation)
    assert remedy.kind == "separate_outputs"
    assert remedy.table == dict.fromkeys(("inner", "outer", "turned"), "fp32")
    assert remedy.layers == ("outer", "inner", "turned")
    assert remedy.expected == 0.5
    b = 100 * np.concatenate([s["x"] for s in situation.samples])
    assert remedy.before.startswith(f"y joins b [{b.min():.4g}, {b.max():.4g}], s [0.")
    assert "outputs of their own" in remedy.after


@pytest.mark.parametrize("code", ["QA105", "QA106", "QA116"])
def test_a_finding_at_any_of_the_concats_is_enough(net, told, code):
    """A join in front of the last one is on the way out, too."""
    situation = told(net, ESP32P4, samples_of(), findings=found_at("inner", code))
    assert [r.layers[0] for r in outputs_remedies(situation)] == ["outer"]


def test_without_a_finding_there_is_no_advice(net, told):
    """Nor with one of another layer, or of another kind."""
    for findings in ((), found_at("boxes"), found_at("outer", "QA104")):
        assert outputs_remedies(told(net, ESP32P4, samples_of(), findings=findings)) == []


def test_what_is_float_already_is_not_asked_for_again(net, told):
    """Nothing is left to do where the table has it all."""
    table = dict.fromkeys(("inner", "outer", "turned"), "fp32")
    situation = told(net, ESP32P4, samples_of(), Setting(table=table), findings=found_at("outer"))
    assert outputs_remedies(situation) == []


@pytest.mark.parametrize("name", ["esp32p4", "esp32s3", "onnxruntime", "qnn"])
def test_small_parts_are_whole_again(net, told, name):
    """Scores on a grid of boxes are lost; with the Concat in float they are as good as alone."""
    target, samples = get_target(name), samples_of()
    situation = told(net, target, samples, findings=found_at("outer"))
    (remedy,) = outputs_remedies(situation)
    graph, plan = place(net, target, applied(situation.setting, [remedy]))
    plan = calibrate(graph, plan, target, samples)
    before, after = (scores_of(net, p, samples) for p in (situation.plan, plan))
    assert before > 0.25
    assert after < 0.05


def scores_of(model, plan, samples):
    """Return the largest difference at a score, every second column of the output from the 5th."""
    worst = []

    def watch(index, plain, noisy):
        worst.append(np.abs(noisy[0]["y"] - plain["y"])[..., 4:8].max())

    verify(model, [(model, plan)], samples, watch=watch)
    return max(worst)


def test_the_detector_of_the_samples_gets_its_scores_back(measured):
    """Boxes to 64 beside scores to 1: a third of the noise of outputs and slices goes."""
    path = ROOT / "sample_models" / "blobs_det.onnx"
    situation = measured(path, path.with_suffix(""), "esp32p4", calib_samples="4")
    (remedy,) = outputs_remedies(situation)
    assert dict(remedy.table) == {"/Concat_4": "fp32"}
    assert remedy.expected > 0.2


@pytest.mark.slow
def test_yolo11n_with_one_output(measured):
    """Boxes of 640 pixels beside scores: they share the last Concat."""
    path = SHARED / "models" / "yolo11n" / "model.onnx"
    if not path.is_file():
        pytest.skip("the shared model yolo11n is not here")
    pictures = SHARED / "data" / "coco" / "calib" / "images"
    situation = measured(path, pictures, "esp32p4", preset="yolo", calib_samples="4")
    (remedy,) = outputs_remedies(situation)
    assert dict(remedy.table) == {"/model.23/Concat_3": "fp32"}
