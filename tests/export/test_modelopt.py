# SPDX-License-Identifier: Apache-2.0
"""The script for ModelOpt: its expressions match one name each; the tool is in tests/peers."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from plans import constants_of, ordered, said  # noqa: E402

from analyzer.errors import ExportError  # noqa: E402
from analyzer.export.modelopt import write  # noqa: E402
from analyzer.records import Setting  # noqa: E402

NET = """g (float[1,16,8,8] x) => (float[1,16,8,8] y) {
    ["a.b"] h = Conv(x, w) ["a.b2"] k = Conv(h, w) ["aXb"] y = Conv(k, w)
}"""
WEIGHTS = {"w": (16, 16, 1, 1)}
SCRIPT = "modelopt/quantize.py"


def order(folder, target="tensorrt", **setting):
    return ordered(folder, NET, target, Setting(**setting), **WEIGHTS)


def test_an_expression_matches_its_name_alone(tmp_path):
    """ModelOpt asks `re.match`, for which `a.b` would be all three."""
    told = constants_of(write(order(tmp_path, table={"a.b": "fp16"}))[SCRIPT])
    (pattern,) = told["FLOAT"].values()
    assert list(told["FLOAT"]) == ["a.b"]
    assert [bool(re.match(pattern, name)) for name in ("a.b", "a.b2", "aXb")] == [
        True,
        False,
        False,
    ]
    assert told["INT8"] == {}


@pytest.mark.parametrize(("observer", "method"), [(None, "entropy"), ("minmax", "max")])
def test_calibration_has_their_name(tmp_path, observer, method):
    """The extremes are called max."""
    text = write(order(tmp_path, observer=observer))[SCRIPT]
    assert f'calibration_method="{method}"' in text
    assert 'default="fp16"' in text


def test_single_int8_layers_are_chosen(tmp_path):
    """Where the model stays in float, layers are named that do not."""
    told = constants_of(write(order(tmp_path, precision="fp16", table={"a.b2": "int8"}))[SCRIPT])
    assert list(told["INT8"]) == ["a.b2"]
    assert told["FLOAT"] == {}


def test_nothing_to_quantize_is_refused(tmp_path):
    """An empty list would mean: all."""
    found = order(tmp_path, "onnxruntime", precision="fp32", table={"a.b": "int8"})
    nothing = replace(found.proposal, setting=Setting(precision="fp32"))
    plan = replace(found.plan, precision={})
    with pytest.raises(ExportError, match="leaves all of 'net' in float"):
        write(replace(found, proposal=nothing, plan=plan))


def test_what_modelopt_cannot_do_is_said(tmp_path):
    """Other targets' 16 bits, and two kinds of float in one model."""
    assert "no 16-bit activations: a.b" in said(
        write(order(tmp_path, "esp32p4", table={"a.b": "int16"}))[SCRIPT]
    )
    text = said(write(order(tmp_path, table={"a.b": "fp32"}))[SCRIPT])
    assert "Whatever is not INT8 becomes FP16, a.b too" in text
