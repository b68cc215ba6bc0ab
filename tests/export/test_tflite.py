# SPDX-License-Identifier: Apache-2.0
"""Recipes and denylists: what their rules match, and how names of a .tflite are found."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from plans import constants_of, ordered, said  # noqa: E402

from analyzer.errors import ExportError  # noqa: E402
from analyzer.export.tflite import write  # noqa: E402
from analyzer.records import Setting  # noqa: E402

NET = """g (float[1,2,4,4] x) => (float[1,2,4,4] y) {
    [one] h = Conv(x, w, b) [act] "k.1" = Relu(h) [two] m = Conv("k.1", w)
    [gate] n = Sigmoid(m) [last] y = Conv(n, w)
}"""
WEIGHTS = {"w": (2, 2, 1, 1), "b": (2,)}
RECIPE, SCRIPT = "tflite/recipe.json", "tflite/quantize.py"
DENYLIST, DEBUGGER = "tflite/denylist.txt", "tflite/debugger.py"
GRID = {"num_bits": 8, "symmetric": False, "granularity": "TENSORWISE", "dtype": "INT"}


def order(folder, target="litert", **setting):
    return ordered(folder, NET, target, Setting(**setting), **WEIGHTS)


def chosen(recipe, scope, operation="CONV_2D"):
    """Return the rule ai-edge-quantizer takes: expressions in the order of their first use."""
    grouped = {}
    for rule in recipe:
        grouped.setdefault(rule["regex"], []).append(rule)
    found = [
        rule
        for expression, rules in grouped.items()
        if re.search(expression, scope)
        for rule in rules
        if rule["operation"] in ("*", operation)
    ]
    return found[-1]


def test_rules_are_about_the_tensor_behind_the_activation(tmp_path):
    """The convolution with its ReLU is one operator; a dot in a name is a dot."""
    files = write(order(tmp_path, table={"one": "fp32", "two": "int16x8"}))
    recipe = json.loads(files[RECIPE])
    assert chosen(recipe, "k.1;")["algorithm_key"] == "no_quantize"
    assert chosen(recipe, "kX1;")["op_config"]["activation_tensor_config"] == GRID
    assert chosen(recipe, "a k.1;")["op_config"]["activation_tensor_config"] == GRID
    wide = chosen(recipe, "m;")["op_config"]["activation_tensor_config"]
    assert wide == {**GRID, "num_bits": 16, "symmetric": True}
    assert chosen(recipe, "other;m;") == chosen(recipe, "m;")
    assert constants_of(files[SCRIPT])["TENSORS"] == ["k.1", "m"]
    assert len(recipe) == 3


def test_the_end_of_the_graph_stays_as_it_was(tmp_path):
    """A float operator that makes an output does not take the output's own grid along."""
    recipe = json.loads(write(order(tmp_path, table={"last": "fp32"}))[RECIPE])
    assert chosen(recipe, "y;")["algorithm_key"] == "no_quantize"
    end = chosen(recipe, "y;", "OUTPUT")
    assert end["op_config"]["activation_tensor_config"] == GRID


def test_int8_operators_of_a_float_model(tmp_path):
    """The base rule quantizes nothing then; there is no denylist for that."""
    files = write(order(tmp_path, precision="fp32", table={"two": "int8"}))
    recipe = json.loads(files[RECIPE])
    assert recipe[0] == {"regex": ".*", "operation": "*", "algorithm_key": "no_quantize"}
    assert chosen(recipe, "m;")["algorithm_key"] == "min_max_uniform_quantize"
    assert set(files) == {RECIPE, SCRIPT}


def test_weights_with_one_scale(tmp_path):
    """Granularity is part of every rule that quantizes."""
    (rule,) = json.loads(write(order(tmp_path, granularity="tensor"))[RECIPE])
    assert rule["op_config"]["weight_tensor_config"]["granularity"] == "TENSORWISE"


def test_the_script_knows_ranges_and_calibration(tmp_path):
    """Both are given while calibrating: a recipe has no place for them."""
    told = constants_of(
        write(order(tmp_path, observer="minmax", ranges={"k.1": (0.0, 1.5)}))[SCRIPT]
    )
    assert told["RANGES"] == {"k.1": (0.0, 1.5)}
    assert told["EXTREMES"] is True
    assert constants_of(write(order(tmp_path))[SCRIPT])["EXTREMES"] is False


def test_the_denylist_names_tensors(tmp_path):
    """One per line behind comments, as JSON; what the converter cannot do is said there."""
    files = write(order(tmp_path, "tflite", table={"one": "fp32"}, ranges={"m": (-1.0, 1.0)}))
    lines = files[DENYLIST].splitlines()
    assert [line for line in lines if not line.startswith("#")] == ['"k.1"']
    assert "no ranges of single tensors: m" in said(files[DENYLIST])
    compile(files[DEBUGGER], DEBUGGER, "exec")
    compile(files[SCRIPT], SCRIPT, "exec")


def test_plans_of_other_targets_keep_their_layers(tmp_path):
    """An operator is float where one of its nodes is; 16 bits are what the tool has."""
    recipe = json.loads(
        write(order(tmp_path, "esp32p4", table={"act": "fp32", "two": "int16"}))[RECIPE]
    )
    assert chosen(recipe, "k.1;")["algorithm_key"] == "no_quantize"
    assert chosen(recipe, "m;")["op_config"]["activation_tensor_config"]["num_bits"] == 16


def test_a_plan_without_int8_is_refused(tmp_path):
    """There is nothing to write for a model that stays in float."""
    found = order(tmp_path, precision="fp32", table={"two": "int8"})
    nothing = replace(found.proposal, setting=Setting(precision="fp32"))
    plan = replace(found.plan, precision={})
    with pytest.raises(ExportError, match="leaves all of 'net' in float"):
        write(replace(found, proposal=nothing, plan=plan))


class Interpreter:
    """A model of x with channels last, twice that under another name, and its sum."""

    def __init__(self, **given):
        self.x = None

    def allocate_tensors(self):
        pass

    def get_input_details(self):
        return [
            {"name": "serving_default_x:0", "index": 0, "shape": (1, 4, 4, 2), "dtype": np.float32}
        ]

    def get_tensor_details(self):
        names = ["serving_default_x:0", "model/Relu;model/conv", "sum"]
        return [{"name": name, "index": i} for i, name in enumerate(names)]

    def _get_ops_details(self):
        return [{"outputs": [1]}, {"outputs": [2]}]

    def set_tensor(self, index, value):
        self.x = value

    def invoke(self):
        pass

    def get_tensor(self, index):
        return [self.x, 2 * self.x, self.x.sum((1, 2, 3))][index]


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Return a function: order -> what the script for ai-edge-quantizer defines."""
    for name in (
        "ai_edge_litert", "ai_edge_litert.interpreter", "ai_edge_quantizer",
        "ai_edge_quantizer.calibrator", "ai_edge_quantizer.utils",
    ):  # fmt: skip
        module = ModuleType(name)
        module.Interpreter, module.Calibrator = Interpreter, None
        module.quantizer = module.recipe_manager = module.qsv_utils = None
        monkeypatch.setitem(sys.modules, name, module)

    def run(found):
        path = tmp_path / "quantize.py"
        path.write_text(write(found)[SCRIPT], encoding="utf-8")
        defined = {"__name__": "exported", "__file__": str(path)}
        exec(compile(path.read_text("utf-8"), path, "exec"), defined)
        return defined

    return run


DOUBLE = "g (float[1,2,4,4] x) => (float[1,2,4,4] y) { [d] y = Mul(x, two) }"


def test_names_are_found_by_values(tmp_path, script):
    """In the other layout, and under whatever name; nothing is looked up that has its own name."""
    found = ordered(tmp_path, DOUBLE, "litert", two=2.0)
    run = script(found)
    samples = run["samples_of"](tmp_path / "calib.npy")
    names = run["names_in"](b"", ["y", "sum"], None, str(tmp_path / "net.onnx"), samples)
    assert names == {"y": "model/Relu;model/conv", "sum": "sum"}


def test_names_that_are_not_found_are_refused(tmp_path, script):
    """Without the ONNX file, with one that computes something else, with a wrong table."""
    run = script(ordered(tmp_path, DOUBLE.replace("two", "three"), "litert", three=3.0))
    samples = run["samples_of"](tmp_path / "calib.npy")
    for onnx_file in (None, str(tmp_path / "net.onnx")):
        with pytest.raises(SystemExit, match="calls \\['y'\\] otherwise"):
            run["names_in"](b"", ["y"], None, onnx_file, samples)
    table = tmp_path / "names.json"
    table.write_text('{"y": "summ"}', encoding="utf-8")
    with pytest.raises(SystemExit, match="has no tensors \\['summ'\\]"):
        run["names_in"](b"", ["y"], str(table), None, samples)
    table.write_text('{"y": "sum"}', encoding="utf-8")
    assert run["names_in"](b"", ["y"], str(table), None, samples) == {"y": "sum"}


def test_samples_of_another_shape_are_refused(tmp_path, script):
    """The script says what it found and what it expects."""
    run = script(ordered(tmp_path, DOUBLE, "litert", two=2.0))
    assert len(run["samples_of"](tmp_path / "calib.npy")) == 4
    np.savez(tmp_path / "other.npz", x=np.zeros((3, 4, 4, 2), np.float32))
    with pytest.raises(SystemExit, match="expected runs of \\(1, 2, 4, 4\\)"):
        run["samples_of"](tmp_path / "other.npz")
    np.savez(tmp_path / "other.npz", z=np.zeros(3))
    with pytest.raises(SystemExit, match="no array 'x'"):
        run["samples_of"](tmp_path / "other.npz")
