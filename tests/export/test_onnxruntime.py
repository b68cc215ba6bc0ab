# SPDX-License-Identifier: Apache-2.0
"""Arguments for `quantize_static`, and the script that calls it with them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from tiny_orders import tiny_order

from analyzer.errors import ExportError
from analyzer.export.onnxruntime import write
from analyzer.formats import SOURCE
from analyzer.records import Setting


@pytest.fixture
def arguments(tmp_path):
    """Return a function: target, setting -> what `arguments.json` of the small net says."""

    def make(target="onnxruntime", setting=None):
        return json.loads(
            write(tiny_order(tmp_path, target, setting))["onnxruntime/arguments.json"]
        )

    return make


def overrides(said):
    return said["extra_options"]["TensorQuantOverrides"]


def test_defaults_ask_for_nothing(arguments):
    """A plan without changes is a call with the types of the target."""
    said = arguments()
    assert said.pop("about")[0].startswith("qanalyze")
    assert said == {
        "model": f"../{SOURCE}",
        "quantizer": "quantize_static",
        "quant_format": "QDQ",
        "activation_type": "QInt8",
        "weight_type": "QInt8",
        "per_channel": True,
        "calibrate_method": "MinMax",
        "op_types_to_quantize": None,
        "nodes_to_exclude": [],
        "extra_options": {"TensorQuantOverrides": {}},
    }


def test_whole_model_settings(arguments):
    """Types, granularity and calibration are arguments of their own."""
    said = arguments(
        setting=Setting(precision="u8s8", granularity="tensor", observer="percentile")
    )
    named = "activation_type", "weight_type", "per_channel", "calibrate_method"
    assert [said[key] for key in named] == ["QUInt8", "QInt8", False, "Percentile"]


def test_a_float_layer_is_excluded(arguments):
    """By the name of its node."""
    assert arguments(setting=Setting(table={"stem": "fp32"}))["nodes_to_exclude"] == ["stem"]


def test_a_wider_layer_gets_converts(arguments):
    """Its output and what reads that have 16 bits; its input is converted for it alone."""
    wide, eight = "QInt16", "QInt8"
    assert overrides(arguments(setting=Setting(table={"head": "s16s8"}))) == {
        "y": [{"quant_type": wide}],
        "f": [{"quant_type": eight, "convert": {"quant_type": wide, "recv_nodes": ["head"]}}],
    }


def test_ranges_hold_for_both_types(arguments):
    """A tensor that is converted has a second grid, which needs the range as well."""
    setting = Setting(table={"act": "s16s8"}, ranges={"a": (0.0, 2.5), "x": (-1.0, 1.0)})
    said = overrides(arguments(setting=setting))
    assert said["x"] == [{"rmin": -1.0, "rmax": 1.0}]
    assert (said["a"][0]["rmin"], said["a"][0]["rmax"]) == (0.0, 2.5)


def test_a_range_that_nobody_looks_at_is_said(arguments):
    """The Flatten takes over the scale of the tensor before it."""
    said = arguments(setting=Setting(ranges={"f": (0.0, 1.0)}))
    assert overrides(said) == {}
    assert any("The range of 'f'" in line for line in said["about"])


def test_qnn_has_a_call_of_its_own(arguments):
    """`get_qnn_qdq_config` adds what QNN wants."""
    said = arguments("qnn", Setting(precision="a16w8"))
    assert (said["quantizer"], said["activation_type"], said["weight_type"]) == (
        "qnn",
        "QUInt16",
        "QUInt8",
    )


def test_plans_of_others_give_their_scales(arguments, tmp_path):
    """Power-of-two scales of esp-ppq are written out, with the levels' type."""
    said = arguments("esp32p4")
    order = tiny_order(tmp_path, "esp32p4")
    scale = {q.tensor: q.scale for q in order.plan.quantizers if q.active}
    assert overrides(said)["x"] == [
        {"quant_type": "QInt8", "scale": float(scale["x"][0]), "zero_point": 0}
    ]
    assert np.log2(overrides(said)["x"][0]["scale"]) % 1 == 0
    assert [e["scale"] for e in overrides(said)["w0"]] == scale["w0"].tolist()
    assert overrides(said)["w0"][0]["axis"] == 0
    assert "Measured with the rules of esp32p4" in " ".join(said["about"])
    # the Relu that the target fuses stays: both its sides have one grid
    assert overrides(said)["h"] == overrides(said)["a"]
    assert said["extra_options"]["QDQKeepRemovableActivations"] is True


@pytest.mark.parametrize(
    ("setting", "nearest"),
    [(Setting(table={"stam": "fp32"}), "stem"), (Setting(ranges={"xx": (0.0, 1.0)}), "x")],
    ids=["layer", "tensor"],
)
def test_a_name_that_is_not_there_is_refused(tmp_path, setting, nearest):
    """onnxruntime would not notice."""
    order = tiny_order(tmp_path)
    order = replace(order, proposal=replace(order.proposal, setting=setting))
    with pytest.raises(ExportError, match=f"'{nearest}'"):
        write(order)


def script(tmp_path, order, **changed):
    """Write an order down and return what running the script with it gives."""
    folder = tmp_path / "export"
    (folder / "onnxruntime").mkdir(parents=True)
    (folder / SOURCE).write_bytes(order.source.proto.SerializeToString())
    for path, text in write(order).items():
        (folder / path).write_text(text, encoding="utf-8")
    arguments = folder / "onnxruntime" / "arguments.json"
    said = json.loads(arguments.read_text(encoding="utf-8"))
    arguments.write_text(json.dumps({**said, **changed}), encoding="utf-8")
    command = [sys.executable, folder / "onnxruntime" / "quantize.py", tmp_path / "samples.npz"]
    return subprocess.run(
        [str(part) for part in [*command, "--output", tmp_path / "q.onnx"]],
        capture_output=True, text=True,
    )  # fmt: skip


def test_the_script_names_the_nearest_match(tmp_path):
    """With another model, a name may be missing."""
    done = script(tmp_path, tiny_order(tmp_path), nodes_to_exclude=["stam"])
    assert done.returncode == 1
    assert done.stderr.strip() == "The model has no node 'stam'. The nearest is 'stem'."
    assert not (tmp_path / "q.onnx").exists()


def test_the_script_cuts_samples_apart(tmp_path):
    """Four samples in one array of an .npz are four runs."""
    done = script(tmp_path, tiny_order(tmp_path, "onnxruntime", Setting(table={"stem": "fp32"})))
    assert done.returncode == 0, done.stderr
    assert "calibrated on 4 samples" in done.stdout
