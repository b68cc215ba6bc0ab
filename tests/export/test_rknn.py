# SPDX-License-Identifier: Apache-2.0
"""RKNN-Toolkit2: the fragment, and that merging it leaves every other character as it was."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys

import pytest
from tiny_orders import NET, tiny_order

from analyzer.errors import ExportError
from analyzer.export import rknn
from analyzer.records import Edit, Setting

# as step 1 writes it: floats in a form that no YAML library gives back, names plain and quoted
STEP1 = """custom_quantize_layers: {}
quantize_parameters:
    x:
        qtype: asymmetric_quantized
        qmethod: layer
        dtype: int8
        min:
        - -1.0000000000000002
        scale:
        - 0.00784313725490196
    w0:
        dtype: int8
    a:
        dtype: int8
        max: 1e-07
    'add_1: 0':
        dtype: int8
    FeatureExtractor/add_1:0:
        dtype: int8
    ? y
    :   dtype: int8
"""


@pytest.fixture
def files(tmp_path):
    """Return a function: precision by layer -> the files of the format, below a folder."""

    def write(table, target="onnxruntime", **setting):
        order = tiny_order(tmp_path, target, Setting(table=table, **setting))
        written = dict(rknn.write(order))
        for path, text in written.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(text, "utf-8")
        return written

    return write


@pytest.fixture
def merge(tmp_path):
    """Return a function: text of a cfg -> exit code, what was said, the merged text or None."""

    def run(text):
        source, target = tmp_path / "step1.cfg", tmp_path / "merged.cfg"
        source.write_bytes(text.encode())
        command = [sys.executable, tmp_path / "rknn" / "merge.py", source, target]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        merged = target.read_bytes().decode() if target.exists() else None
        return done.returncode, done.stderr, merged

    return run


def section(text):
    """Read `custom_quantize_layers` without any code of ours."""
    body = text.split("custom_quantize_layers:", 1)[1].split("quantize_parameters:")[0]
    return dict(re.findall(r'^ +"?([^"\n]+?)"?: (\w+)$', body, re.MULTILINE))


def test_layers_are_named_by_their_outputs(files):
    """Both layers of the plan, by what they make in the user's file."""
    cfg = files({"stem": "s16s8", "head": "fp32"})["rknn/hybrid.quantization.cfg"]
    assert section(cfg) == {"h": "int16", "y": "float16"}
    body = [line for line in cfg.splitlines() if not line.startswith("#")]
    assert body == ["custom_quantize_layers:", '    "h": int16', '    "y": float16']


def test_the_merge_changes_no_other_character(files, merge):
    """The Conv is called after its Relu there, the Gemm's key is written on a line of its own."""
    files({"stem": "s16s8", "head": "fp32"})
    code, said, merged = merge(STEP1)
    assert code == 0, said
    lines = "custom_quantize_layers:\n    a: int16\n    y: float16\n"
    assert merged == STEP1.replace("custom_quantize_layers: {}\n", lines)


def test_line_ends_stay_as_they_are(files, merge):
    """A file from Windows keeps its line ends, and gets more of them."""
    files({"head": "fp32"})
    code, said, merged = merge(STEP1.replace("\n", "\r\n"))
    assert code == 0, said
    assert merged.count("\n") == merged.count("\r\n") == STEP1.count("\n") + 1


def test_entries_that_are_there_stay(files, merge):
    """What step 1 proposed is kept, and nothing is written twice."""
    files({"stem": "s16s8", "head": "fp32"})
    there = "custom_quantize_layers:\n  y: float16\n  x: float16\n"
    code, said, merged = merge(STEP1.replace("custom_quantize_layers: {}\n", there))
    assert code == 0, said
    assert section(merged) == {"a": "int16", "y": "float16", "x": "float16"}
    assert there.partition("\n")[2] in merged


def test_an_entry_that_contradicts_is_refused(files, merge):
    """Somebody has decided otherwise: that is not overwritten."""
    files({"head": "fp32"})
    cfg = STEP1.replace("custom_quantize_layers: {}\n", "custom_quantize_layers:\n    y: int16\n")
    code, said, merged = merge(cfg)
    assert (code, merged) == (1, None)
    assert "y is int16 already, not float16" in said


def test_a_layer_that_step_1_does_not_list_is_refused(files, merge):
    """With the nearest names, and nothing is written."""
    files({"stem": "s16s8", "head": "fp32"})
    code, said, merged = merge(STEP1.replace("    a:\n", "    a-rs:\n"))
    assert (code, merged) == (1, None)
    assert "stem: h or a; the nearest are" in said
    assert "a-rs" in said


def test_another_file_is_refused(files, merge):
    """Anything that is no cfg of step 1."""
    files({"head": "fp32"})
    code, said, merged = merge("nothing: here\n")
    assert (code, merged) == (1, None)
    assert "Expected one custom_quantize_layers" in said


def test_keys_are_read_however_they_are_written(files, tmp_path):
    """Plain, quoted, with colons, and on lines of their own."""
    files({"head": "fp32"})
    keys = runpy.run_path(str(tmp_path / "rknn" / "merge.py"))["keys"]
    lines = STEP1.splitlines(keepends=True)[2:]
    assert keys(lines) == {
        "x": "x", "w0": "w0", "a": "a", "add_1: 0": "'add_1: 0'",
        "FeatureExtractor/add_1:0": "FeatureExtractor/add_1:0", "y": "y",
    }  # fmt: skip


def test_a_swish_is_followed_to_its_product(tmp_path):
    """x * sigmoid(x) is one operation on the chip, called after the product."""
    text = NET.replace("[act] a = Relu(h)", "[gate] g = Sigmoid(h) [act] a = Mul(h, g)")
    order = tiny_order(tmp_path, setting=Setting(table={"stem": "s16s8"}), text=text)
    assert "[('stem', ['h', 'a'], 'int16')]" in rknn.write(order)["rknn/merge.py"]


def test_what_cannot_be_said_is_in_the_header(files):
    """Ranges have no place in the cfg, fp32 and 8-bit weights of a 16-bit layer become others."""
    text = files({"stem": "s16s8", "head": "fp32"}, observer="entropy", ranges={"a": (0.0, 2.0)})[
        "rknn/convert.py"
    ].replace("\n#     ", " ")
    assert "takes no ranges of single tensors: a" in text
    assert "There is no fp32 on the NPU" in text
    assert "'s16s8' becomes int16" in text
    assert "quantized_algorithm='kl_divergence'" in text
    assert "CONFIG = {'quantized_algorithm': 'kl_divergence'}" in text


def test_scripts_are_python(files):
    """They parse, and so does the assignment of the layers."""
    written = files({"head": "fp32"}, target="tensorrt")
    for path in ("rknn/merge.py", "rknn/convert.py"):
        ast.parse(written[path])
    assert "python convert.py net.onnx DATASET.txt" in written["rknn/convert.py"]


def test_an_edited_model_is_ours(tmp_path):
    """The split halves stand in the model that is written beside the scripts."""
    edit = Edit("weight_split", ("stem",), "balance", 0.5)
    order = tiny_order(tmp_path, setting=Setting(edits=(edit,)))
    written = rknn.write(order)
    assert "python convert.py model.fp32.onnx" in written["rknn/convert.py"]
    assert "custom_quantize_layers: {}" in written["rknn/hybrid.quantization.cfg"]


def test_a_plan_that_moves_nothing_is_refused(tmp_path):
    """There is nothing that RKNN-Toolkit2 could be told."""
    with pytest.raises(ExportError, match="moves no layer"):
        rknn.write(tiny_order(tmp_path))
