# SPDX-License-Identifier: Apache-2.0
"""TPU-MLIR: the tables follow the tool's own patterns, and names are checked before it reads."""

from __future__ import annotations

import re
import subprocess
import sys

import onnx
import pytest
from tiny_orders import NET, tiny_order

from analyzer.errors import ExportError
from analyzer.export import tpu_mlir
from analyzer.records import Setting

# the patterns of TPU-MLIR's own readers: TopToTpuPass.cpp and ImportCalibration.cpp
MODE = re.compile(r"\S+\s+\S+")
RANGE = re.compile(r"\S+\s+[-0-9.e]+\s+[-0-9.e]+\s+[-0-9.e]+")
INFO = re.compile(r"#.*")
# as run_calibration.py writes it: the Relu is a part of the Conv and gives it its name
TABLE = """# generated time: 2022-08-11 10:00:59.743675
# sample number: 4
###
# op_name    threshold    min    max
x 3.1000000 -3.1000000 3.0000000
a_Relu 9.0000000 0.0000000 9.0000000
p_GlobalAveragePool 2.0000000 0.0000000 2.0000000
y_Gemm 4.0000000 -4.0000000 3.5000000
#asym_op
p_GlobalAveragePool 1 2 3
"""


@pytest.fixture
def files(tmp_path):
    """Return a function: precision by layer and more of the setting -> the files, written."""

    def write(table, target="onnxruntime", **setting):
        order = tiny_order(tmp_path, target, Setting(table=table, **setting))
        written = dict(tpu_mlir.write(order))
        for path, text in written.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(text, "utf-8")
        return written

    return write


@pytest.fixture
def merge(tmp_path):
    """Return a function: text of the tool's table -> exit code, what was said, both files."""

    def run(text):
        (tmp_path / "CALI").write_text(text, "utf-8")
        command = [sys.executable, str(tmp_path / "tpu-mlir" / "merge.py"), "CALI"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        made = [tmp_path / name for name in ("qtable.checked", "CALI.plan")]
        texts = [path.read_text("utf-8") if path.exists() else None for path in made]
        return done.returncode, done.stdout + done.stderr, *texts

    return run


def modes(text):
    """Read a quantize table as TPU-MLIR does."""
    found = {}
    for line in text.splitlines():
        assert line, "its reader looks at the last character of every line"
        if not INFO.fullmatch(line):
            assert MODE.fullmatch(line)
            name, mode = line.split()
            found[name] = mode
    return found


def ranges(text):
    """Read the first section of a calibration table as TPU-MLIR does."""
    found = {}
    for line in text.splitlines():
        assert line, "its reader looks at the last character of every line"
        if not INFO.fullmatch(line):
            assert RANGE.fullmatch(line), line
            name, *values = line.split()
            found[name] = tuple(map(float, values))
    return found


def test_operations_are_called_after_output_and_type(files):
    """16 bits become F16, which there is instead; fp32 is F32."""
    written = files({"stem": "s16s8", "head": "fp32"})
    assert modes(written["tpu-mlir/qtable.txt"]) == {"h_Conv": "F16", "y_Gemm": "F32"}
    assert (
        "There are no layers of 16-bit integers: 1 of the plan" in written["tpu-mlir/qtable.txt"]
    )
    assert "tpu-mlir/calibration_table.txt" not in written


def test_names_are_taken_from_the_tools_own_table(files, merge):
    """The Conv is found under the name of its Relu; without a say in ranges, these stay."""
    files({"stem": "s16s8", "head": "fp32"})
    code, said, qtable, table = merge(TABLE)
    assert code == 0, said
    assert modes(qtable) == {"a_Relu": "F16", "y_Gemm": "F32"}
    assert table == TABLE


def test_a_name_that_is_not_there_is_refused(files, merge):
    """With the nearest ones, and nothing is written: TPU-MLIR would ignore it."""
    files({"stem": "s16s8", "head": "fp32"})
    code, said, *made = merge(TABLE.replace("y_Gemm", "y_MatMul"))
    assert (code, *made) == (1, None, None)
    assert re.search("head: y_Gemm; the nearest are .*y_MatMul", said)


def test_another_file_is_refused(files, merge):
    """Anything that is no calibration table."""
    files({"head": "fp32"})
    code, said, *made = merge("# nothing\n")
    assert (code, *made) == (1, None, None)
    assert "is no calibration table" in said


def test_ranges_of_a_calibration_are_carried_over(files, merge):
    """They replace the tool's own where it has the tensor; all else stays as it is."""
    written = files({}, observer="percentile")
    found = ranges(written["tpu-mlir/calibration_table.txt"])
    assert {"x", "a_Relu"} <= set(found)
    low, high = found["a_Relu"][1:]
    assert low == 0
    assert found["a_Relu"][0] >= high > 0
    code, said, _, table = merge(TABLE)
    assert code == 0, said
    old, new = TABLE.splitlines(), table.splitlines()
    changed = {a.split()[0] for a, b in zip(old, new, strict=True) if a != b}
    assert changed == set(found) & {line.split()[0] for line in old[4:8]}
    first = table.partition("#asym_op")[0]
    assert {name: ranges(first)[name] for name in changed} == {n: found[n] for n in changed}


def test_a_range_of_the_plan_has_to_be_found(files, merge):
    """By hand: 0 to 2.54 on a symmetric 8-bit grid is a threshold of 2.54."""
    written = files({}, ranges={"a": (0.0, 2.54)})
    text = written["tpu-mlir/calibration_table.txt"]
    threshold, low, _ = ranges(text)["a_Relu"]
    assert list(ranges(text)) == ["a_Relu"]
    assert (round(threshold, 5), low) == (2.54, 0.0)
    code, said, *made = merge(TABLE.replace("a_Relu", "b_Relu"))
    assert (code, *made) == (1, None, None)
    assert "range of a_Relu; the nearest are b_Relu" in said


def test_a_name_with_a_blank_is_refused(tmp_path):
    """The columns of the table are separated by blanks."""
    order = tiny_order(tmp_path, setting=Setting(table={"stem": "s16s8"}))
    model = onnx.load(order.original)
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "h 1"
    onnx.save(model, order.original)
    with pytest.raises(ExportError, match="'h 1_Conv' cannot stand in a table"):
        tpu_mlir.write(order)


def test_a_plan_in_float_is_refused(tmp_path):
    """A quantize table starts from INT8."""
    order = tiny_order(tmp_path, setting=Setting(precision="s16s8", table={"head": "int8"}))
    with pytest.raises(ExportError, match="float or 16 bits"):
        tpu_mlir.write(order)


def test_a_plan_that_moves_nothing_is_refused(tmp_path):
    """There is nothing that TPU-MLIR could be told."""
    with pytest.raises(ExportError, match="moves no layer"):
        tpu_mlir.write(tiny_order(tmp_path))


def test_a_swish_is_followed_to_its_product(tmp_path):
    """x * sigmoid(x) is one operation there."""
    text = NET.replace("[act] a = Relu(h)", "[gate] g = Sigmoid(h) [act] a = Mul(h, g)")
    order = tiny_order(tmp_path, setting=Setting(table={"stem": "s16s8"}), text=text)
    script = tpu_mlir.write(order)["tpu-mlir/merge.py"]
    assert "MODES = [('stem', ['h_Conv', 'a_Mul'], 'F16')]" in script
