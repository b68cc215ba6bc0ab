# SPDX-License-Identifier: Apache-2.0
"""Files for esp-ppq: fields and numbers as its sources have them, and names that are refused."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from orders import order_of

from analyzer.errors import ExportError
from analyzer.export.esp_ppq import SETTING, write
from analyzer.export.esp_ppq_script import SCRIPT
from analyzer.records import Edit, Setting

TEXT = """g (float[1,2,4,4] x) => (float[1,2,4,4] y, float[1,2,4,4] z) {
    [a_Conv] h = Conv(x, v, b) [a_Relu] k = Relu(h) [b_Conv] l = Conv(k, w)
    [c_Add] y = Add(l, x) [d_Conv] z = Conv(l, w)
}"""
RNG = np.random.default_rng(4)


@pytest.fixture
def ordered(tmp_path):
    """Return a function: target, setting -> the order for a small net of three convolutions."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 13]> {TEXT}')
    weights = {"v": (2, 2, 1, 1), "w": (2, 2, 1, 1), "b": (2,)}
    proto.graph.initializer.extend(
        numpy_helper.from_array(RNG.standard_normal(shape).astype("f4"), name)
        for name, shape in weights.items()
    )
    onnx.save(proto, tmp_path / "net.onnx")
    np.save(tmp_path / "calib.npy", RNG.standard_normal((3, 2, 4, 4)).astype("f4"))

    def make(target="esp32p4", **setting):
        path = tmp_path / "net.onnx"
        return order_of(path, tmp_path / "calib.npy", target, Setting(**setting))

    return make


def read(order):
    """Return the setting and the constants of the script."""
    files = write(order)
    assert set(files) == {SETTING, SCRIPT}
    constants = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(files[SCRIPT]).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return json.loads(files[SETTING]), constants


def split(*layers, threshold=0.125):
    return Edit("weight_split", layers, "balance", threshold)


def test_the_setting_has_what_espdl_setting_changes_and_what_was_asked_for(ordered):
    """`from_json` starts from other defaults, so all of it has to stand there."""
    order = ordered(observer="percentile", table={"b_Conv": "int16", "d_Conv": "fp32"})
    setting, constants = read(order)
    said = setting["dispatching_table"].pop("intro_0")
    assert "target 'esp32p4' and quant_type 'w8a8' are arguments" in " ".join(said)
    shown = {"__ppq_enum__": "QuantizationVisibility", "name": "EXPORT_WHEN_ACTIVE"}
    assert setting == {
        "version": "0.6.6",
        "signature": "PPL Quantization Tool",
        "dispatching_table": {"dispatchings": {"b_Conv": 552, "d_Conv": 0}},
        "dispatcher": "allin",
        "quantize_activation_setting": {"calib_algorithm": "percentile"},
        "quantize_parameter_setting": {
            "calib_algorithm": None,
            "baking_parameter": False,
            "clip_visiblity": shown,
            "pad_visiblity": shown,
        },
        "fusion_setting": {
            "align_elementwise_to": "Align to Output",
            "force_alignment_overlap": False,
        },
    }
    assert constants == {
        "TARGET": "esp32p4",
        "QUANT_TYPE": "w8a8",
        "INPUTS": {"x": ("float32", (1, 2, 4, 4))},
        "SAMPLES": 3,
        "PREPARATION": {},
        "NAMES": ["b_Conv", "d_Conv"],
    }


@pytest.mark.parametrize(
    ("target", "numbers"),
    [("esp32p4", [552, 560, 0]), ("esp32s3", [554, 561, 0]), ("esp32", [558, 562, 0])],
)
def test_platforms_are_those_of_the_chip(ordered, target, numbers):
    """`TargetPlatform` of `core/quant.py`."""
    table = {"a_Conv": "int16", "b_Conv": "w8a16", "d_Conv": "fp32"}
    setting, constants = read(ordered(target, table=table))
    assert list(setting["dispatching_table"]["dispatchings"].values()) == numbers
    assert setting["quantize_activation_setting"] == {"calib_algorithm": "kl"}
    assert constants["TARGET"] == target


def test_everything_in_16_bits_calibrates_with_minmax(ordered):
    """As `espdl_setting(num_of_bits=16)`; int8 in the table is the 8-bit platform."""
    setting, constants = read(ordered(precision="int16", table={"b_Conv": "int8"}))
    assert setting["quantize_activation_setting"]["calib_algorithm"] == "minmax"
    assert setting["quantize_parameter_setting"]["calib_algorithm"] == "minmax"
    assert setting["dispatching_table"]["dispatchings"] == {"b_Conv": 551}
    assert constants["QUANT_TYPE"] == "w16a16"


def test_splits_with_one_threshold_need_no_code(ordered):
    """Two edits become one list, in their order."""
    setting, constants = read(ordered(edits=(split("d_Conv"), split("a_Conv"))))
    assert setting["weight_split"] is True
    assert setting["weight_split_setting"] == {
        "interested_layers": ["d_Conv", "a_Conv"], "value_threshold": 0.125, "method": "balance"
    }  # fmt: skip
    assert "THRESHOLDS" not in constants


def test_splits_with_several_thresholds_are_told_by_the_script(ordered):
    """And the setting says that it cannot."""
    edits = (split("d_Conv", threshold=0.5), split("a_Conv"))
    setting, constants = read(ordered(edits=edits))
    assert constants["THRESHOLDS"] == [0.5, 0.125]
    assert setting["weight_split_setting"]["value_threshold"] == 0.125
    said = " ".join(setting["dispatching_table"]["intro_0"])
    assert "one threshold for all splits, here the lowest; quantize.py gives every" in said


def test_ranges_are_scales_of_first_outputs(ordered):
    """2 * 3 / 255 is 0.0235: up to 2^-5."""
    setting, constants = read(ordered(ranges={"k": (-1.0, 3.0)}))
    assert setting["quant_config_modify"] is True
    assert setting["quant_config_modify_setting"] == {"custom_config": {"a_Relu": 2**-5}}
    assert "SCALES" not in constants
    assert constants["NAMES"] == ["a_Relu"]


def test_ranges_of_inputs_are_told_by_the_script(ordered):
    """Only the first reader has a scale of its own; the Add follows its output."""
    setting, constants = read(ordered(ranges={"x": (-0.5, 0.25)}))
    assert setting["quant_config_modify_setting"] == {"custom_config": {}}
    assert constants["SCALES"] == {"a_Conv in0": 2**-7}
    said = " ".join(setting["dispatching_table"]["intro_0"])
    assert "quantize.py also fixes those of a_Conv in0" in said


def test_a_range_without_effect_is_said(ordered):
    """What a Relu reads is on the Relu's grid."""
    files = write(ordered(ranges={"h": (-1.0, 1.0)}))
    assert "the range of h: its scale is another tensor's" in files[SCRIPT]


def test_other_edits_come_with_the_model(ordered, monkeypatch):
    """The names stand in the FP32 model that is written beside the folder."""
    order = ordered()
    edits = (Edit("equalization", ("a_Conv", "b_Conv")), split("a_Conv"))
    order = replace(order, proposal=replace(order.proposal, setting=Setting(edits=edits)))
    files = write(order)
    assert "MODEL is model.fp32.onnx" in files[SCRIPT]
    assert json.loads(files[SETTING])["weight_split_setting"]["interested_layers"] == ["a_Conv"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (Setting(table={"b_Con": "int16"}), r"layer 'b_Con' .* Did you mean 'b_Conv'\?"),
        (Setting(edits=(split("e_Conv"),)), r"layer 'e_Conv' .* Did you mean"),
        (Setting(ranges={"hh": (0, 1)}), "no tensor 'hh'"),
        (Setting(precision="fp32"), "quantizes nothing in fp32"),
    ],
    ids=["table", "split", "range", "float"],
)
def test_what_is_not_there_is_refused(ordered, setting, message):
    """Nothing is written."""
    order = ordered()
    with pytest.raises(ExportError, match=message):
        write(replace(order, proposal=replace(order.proposal, setting=setting)))


def test_a_plan_of_another_tool_is_translated_as_far_as_it_goes(ordered):
    """Layers keep their names; the header says whose rules were measured."""
    files = write(ordered("onnxruntime", table={"b_Conv": "fp32"}, observer="entropy"))
    setting = json.loads(files[SETTING])
    assert setting["dispatching_table"]["dispatchings"] == {"b_Conv": 0}
    assert setting["quantize_activation_setting"]["calib_algorithm"] == "kl"
    assert "Measured with the rules of onnxruntime" in files[SCRIPT]
    assert "Calibration 'entropy' of onnxruntime has no counterpart" in files[SCRIPT]


def test_a_plan_that_says_nothing_to_esp_ppq_is_refused(ordered):
    """A granularity of weights is the chip's matter."""
    with pytest.raises(ExportError, match="no counterpart"):
        write(ordered("onnxruntime", granularity="tensor"))


def test_the_name_of_a_file_cannot_leave_its_text(ordered):
    """Quotes and backslashes of a path stay inside the docstring."""
    order = replace(ordered(table={"b_Conv": "int16"}), original=Path('a"""\\n\n#.onnx'))
    ast.parse(write(order)[SCRIPT])


def test_two_runs_write_the_same(ordered):
    """Byte for byte."""
    order = ordered(observer="minmax", table={"b_Conv": "int16", "a_Conv": "fp32"})
    assert write(order) == write(order)
