# SPDX-License-Identifier: Apache-2.0
"""What cannot be used is refused: exit code 2, the value found, the remedy, nothing written."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from analyzer import cli

MODELS = Path(__file__).parents[2] / "shared" / "models"

TINY = """<ir_version: 8, opset_import: ["": 13]>
tiny (float[N, 3, 8, 8] x) => (float[N, 4] y) {
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)
    r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm(f, v)
}"""
PAIR = """<ir_version: 8, opset_import: ["": 13]>
pair (float[N, 4] a, float[N, 4] b) => (float[N, 4] y) { m = MatMul(a, v) y = Add(m, b) }"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def qanalyze(monkeypatch, capsys, tmp_path):
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("QANALYZE_")]:
        monkeypatch.delenv(name)

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["qanalyze", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Ran(ended.value.code, out, err)

    return run


@pytest.fixture
def tiny(tmp_path) -> Path:
    return save(TINY, tmp_path / "tiny.onnx")


@pytest.fixture
def good(tmp_path) -> Path:
    path = tmp_path / "good.npy"
    np.save(path, np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32))
    return path


def save(text: str, path: Path) -> Path:
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(1)
    used = {name for node in model.graph.node for name in node.input}
    for name, shape in (("w", (4, 3, 3, 3)), ("v", (4, 4))):
        if name in used:
            weight = rng.standard_normal(shape).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(weight, name))
    path.write_bytes(model.SerializeToString())
    return path


def check_refused(ran: Ran, *words: str) -> None:
    """Two plain sentences at the end of stderr, holding `words`; nothing else happened."""
    assert ran.code == 2, ran
    found, remedy = ran.err.splitlines()[-2:]
    assert found.startswith("Error: ")
    assert found.endswith(".")
    assert remedy.endswith((".", "?"))
    for word in words:
        assert word in f"{found}\n{remedy}"
    assert "Traceback" not in ran.err
    assert ran.out == ""
    assert not Path("reports").exists()


def test_missing_model(qanalyze, good):
    """A path without a file behind it is named."""
    check_refused(qanalyze("nothing.onnx", "--calib", good), "'nothing.onnx'", "path")


def test_model_is_a_folder(qanalyze, tiny, good):
    """A folder is told from a file, and the models in it are offered."""
    check_refused(qanalyze(tiny.parent, "--calib", good), "is a folder", "tiny.onnx")


def test_model_is_not_onnx(qanalyze, good):
    """A text file is told by how it starts."""
    Path("notes.onnx").write_text("# not a model\n")
    check_refused(qanalyze("notes.onnx", "--calib", good), "# not a", "ONNX")


def test_model_is_empty(qanalyze, good):
    """A file of no bytes is refused."""
    Path("empty.onnx").write_bytes(b"")
    check_refused(qanalyze("empty.onnx", "--calib", good), "'empty.onnx'")


def test_model_is_cut_short(qanalyze, tiny, good):
    """A file that breaks off in the middle is told from a foreign one."""
    Path("cut.onnx").write_bytes(tiny.read_bytes()[:300])
    check_refused(qanalyze("cut.onnx", "--calib", good), "300 bytes", "again")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("brevitas_tfc_mnist", ("4 onnx.brevitas.Quant", "Export")),
        ("vww_mobilenet_qdq", ("already quantized", "30 QuantizeLinear", "FP32")),
        ("resnet8_cifar10_qdq", ("already quantized", "15 QuantizeLinear", "FP32")),
        ("ad_autoencoder_qdq", ("already quantized", "10 QuantizeLinear", "FP32")),
        ("shufflenet_v2_int8_qop", ("already quantized", "56 QLinearConv", "FP32")),
    ],
)
def test_real_models_that_are_no_fp32_onnx(qanalyze, good, name, words):
    """Foreign operators and models that are quantized already are counted and refused."""
    path = MODELS / name / "model.onnx"
    if not path.exists():
        pytest.skip("the real models are not here")
    check_refused(qanalyze(path, "--calib", good), *words)


def test_data_of_another_type(qanalyze, tiny):
    """Complex numbers for a float input are not cast in silence."""
    np.save("complex.npy", np.zeros((2, 3, 8, 8), dtype=np.complex64))
    check_refused(qanalyze(tiny, "--calib", "complex.npy"), "complex64", "float32")


def test_fractions_for_whole_numbers(qanalyze):
    """An input of token ids does not take floats."""
    text = """<ir_version: 8, opset_import: ["": 13]>
    words (int64[N, 4] ids) => (float[N, 4, 4] y) { e = Gather(v, ids) y = MatMul(e, v) }"""
    model = save(text, Path("words.onnx"))
    np.save("floats.npy", np.zeros((2, 4), dtype=np.float32))
    check_refused(qanalyze(model, "--calib", "floats.npy"), "float32", "int64", "'ids'")


def test_whole_numbers_for_fractions_are_doubted(qanalyze, tiny):
    """Pixels that nobody divided are used as they are, with a warning."""
    np.save("bytes.npy", np.full((2, 3, 8, 8), 9, dtype=np.uint8))
    ran = qanalyze(tiny, "--calib", "bytes.npy")
    assert ran.code == 0
    assert "uint8 for the float32 input 'x'" in ran.out


def test_data_of_another_shape(qanalyze, tiny):
    """Both shapes stand in the message."""
    np.save("wide.npy", np.zeros((2, 3, 8, 9), dtype=np.float32))
    check_refused(qanalyze(tiny, "--calib", "wide.npy"), "8, 9)", "8, 8)", "'x'")


def test_npz_without_one_input(qanalyze):
    """The input that has no array is named."""
    model = save(PAIR, Path("pair.onnx"))
    np.savez("half.npz", a=np.zeros((2, 4), np.float32), c=np.zeros((2, 4), np.float32))
    check_refused(qanalyze(model, "--calib", "half.npz"), "'b'")


def test_empty_folder(qanalyze, tiny):
    """A folder without data says what was looked for."""
    Path("empty").mkdir()
    check_refused(qanalyze(tiny, "--calib", "empty"), "empty", ".npy", "(N, 3, 8, 8)")


def test_missing_data(qanalyze, tiny):
    """A path that does not exist is named."""
    check_refused(qanalyze(tiny, "--calib", "nowhere"), "nowhere", "folder")


def test_no_data_at_all(qanalyze, tiny):
    """Without --calib there is nothing to calibrate on."""
    check_refused(qanalyze(tiny), "calibration data", "--calib")


def test_one_unreadable_picture_is_skipped(qanalyze, tiny):
    """One damaged file among good ones is counted and named, and the run goes on."""
    Path("pictures").mkdir()
    for index in range(3):
        Image.new("RGB", (8, 8), (80 * index, 40, 20)).save(f"pictures/{index}.png")
    Path("pictures/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    ran = qanalyze(tiny, "--calib", "pictures")
    assert ran.code == 0
    warning = next(line for line in ran.out.splitlines() if "broken.png" in line)
    assert warning.startswith("Note")
    assert "1 " in warning
    assert "3 samples" in ran.out


def test_all_pictures_unreadable(qanalyze, tiny):
    """Nothing but damaged files is refused."""
    Path("pictures").mkdir()
    for index in range(2):
        Path(f"pictures/{index}.png").write_bytes(b"not a picture")
    check_refused(qanalyze(tiny, "--calib", "pictures"), "2 of 2 images", "0.png")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_is_not_finite(qanalyze, tiny, value):
    """NaN or infinity in an input would make every number after it meaningless."""
    data = np.zeros((2, 3, 8, 8), dtype=np.float32)
    data[1, 0, 0, 0] = value
    np.save("odd.npy", data)
    check_refused(qanalyze(tiny, "--calib", "odd.npy"), "odd.npy", "'x'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "esp32p5"], ["'esp32p5'", "'esp32p4'?"]),
        (["--target", "esp32p4,"], ["''", "onnxruntime"]),
        (["--calibration", "mnmax"], ["calibration", "'mnmax'", "'minmax'?"]),
        (["--quantized", "none.onnx"], ["'none.onnx'"]),
        (["--quantized", "none.onnx", "--target", "esp32p4"], ["--target", "--quantized"]),
        (["--granularity", "row"], ["granularity", "'row'", "channel"]),
        (["--precision", "int9"], ["precision", "'int9'", "'int8'?"]),
        (["--dispatch", "c1"], ["dispatch", "'c1'", "LAYER=PRECISION"]),
        (["--dispatch", "none=int16"], ["'none'"]),
        (["--samples", "many"], ["samples", "'many'", "whole number"]),
        (["--samples", "0"], ["samples", "'0'", "from 1"]),
        (["--calib-samples", "-3"], ["calib_samples", "'-3'"]),
        (["--threads", "two"], ["threads", "'two'"]),
        (["--layers", "all"], ["'--layers'", "'--labels'?"]),
        (["--slice", "y"], ["slices", "'y'", "NAME=EXPRESSION"]),
        (["--slice", "a=y[0]", "--slice", "a=y[:]"], ["slices", "'a'"]),
        (["--slice", "a=none[0]"], ["'a'", "'none'", "y"]),
        (["--slice", "a=y[::0]"], ["'a'", "'::0'"]),
        (["--slice", "y=y[0]"], ["'y'"]),
        (["--task", "detect"], ["task", "'detect'", "'detection'?"]),
        (["--labels", "none.csv"], ["none.csv"]),
        (["--metric", "none"], ["'none'", "MODULE:FUNCTION"]),
        (["--explain", "QA999"], ["QA999"]),
        (["--max-nsr", "lots"], ["max_nsr", "'lots'", "10%"]),
        (["--max-nsr", "-1%"], ["max_nsr", "'-1%'"]),
        (["--shape", "x"], ["shapes", "'x'", "NAME=DIMS"]),
        (["--shape", "x=0,3,8,8"], ["'x=0,3,8,8'"]),
        (["--shape", "z=1,3,8,8"], ["'z'", "x"]),
        (["--shape", "x=1,3,9,9"], ["(1, 3, 9, 9)", "'x'"]),
        (["--format", "xml"], ["'xml'", "'json'"]),
        (["--cali", "more"], ["'--cali'", "'--calib'?"]),
        (["extra"], ["extra", "--help"]),
    ],
)
def test_wrong_option(qanalyze, tiny, good, arguments, words):
    """An unknown option or value is named, with the nearest or all known ones."""
    check_refused(qanalyze(tiny, "--calib", good, *arguments), *words)


def test_no_model_at_all(qanalyze):
    """The bare command says what is missing and where help is."""
    check_refused(qanalyze(), "MODEL", "--help")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tool.qanalyze]\nsample = 3", ["'sample'", "'samples'?"]),
        ("[tool.qanalyze]\nsamples = 3.5", ["samples", "'3.5'"]),
        ("[tool.qanalyze]\ncalibration = ['kl']", ["calibration", "one value"]),
        ("[tool.qanalyze]\nseed = 'x'", ["seed", "'x'"]),
        ("[tool]\nqanalyze = 3", ["tool.qanalyze", "table"]),
        ("[tool.qanalyze", ["pyproject.toml", "TOML"]),
    ],
)
def test_wrong_configuration_file(qanalyze, tiny, good, text, words):
    """A key or value of [tool.qanalyze] is checked as an option is."""
    Path("pyproject.toml").write_text(text)
    check_refused(qanalyze(tiny, "--calib", good), *words)


def test_output_below_a_file(qanalyze, tiny, good):
    """A folder that cannot be made is refused before any work is done."""
    ran = qanalyze(tiny, "--calib", good, "--out", tiny / "reports")
    check_refused(ran, "tiny.onnx", "--out")
    assert "calibrate" not in ran.err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_output_folder_without_permission(qanalyze, tiny, good):
    """A folder that may not be written to is refused before any work is done."""
    Path("locked").mkdir(mode=0o500)
    check_refused(qanalyze(tiny, "--calib", good, "--out", "locked/run"), "locked", "--out")
