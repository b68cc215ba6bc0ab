# SPDX-License-Identifier: Apache-2.0
"""Every kind of input data goes through the whole run, and the analysis says which it was."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from analyzer import cli
from analyzer.records import Analysis
from analyzer.store import load_analysis

PICTURES = """<ir_version: 8, opset_import: ["": 13]>
pictures (float[N, 3, 8, 8] x) => (float[N, 4] y) {
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)
    r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm(f, v)
}"""
FREE = PICTURES.replace("N, 3, 8, 8", "N, 3, H, W")
PAIR = """<ir_version: 8, opset_import: ["": 13]>
pair (float[N, 4] a, float[N, 4] b) => (float[N, 4] y) { m = MatMul(a, v) y = Add(m, b) }"""


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path) -> Path:
    """Every test runs in an empty folder and leaves the import path as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in os.environ if name.startswith("QANALYZE_")]:
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def analyze(monkeypatch):
    """Run the command on a model in ONNX text and return the analysis that it wrote."""

    def run(text: str, *arguments: str) -> Analysis:
        model = save(text, Path("model.onnx"))
        command = ["qanalyze", str(model), *arguments, "--out", "out", "-q"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        return load_analysis(Path("out/analysis.json"))

    return run


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


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).random(shape, dtype=np.float32)


def draw(folder: str, suffix: str, count: int = 3, side: int = 8) -> None:
    Path(folder).mkdir()
    for index, pixels in enumerate((noise(count, side, side, 3) * 255).astype(np.uint8)):
        Image.fromarray(pixels).save(f"{folder}/{index}.{suffix}")


def summary(analysis: Analysis) -> list[tuple[str, int, dict[str, tuple[int, ...]]]]:
    return [(d.role, d.count, dict(d.shapes)) for d in analysis.provenance.data]


def both_roles(count: int, shapes: dict[str, tuple[int, ...]]) -> list[tuple[str, int, object]]:
    return [("calibration", count, shapes), ("analysis", count, shapes)]


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_folder_of_pictures(analyze, suffix):
    """Pictures of each format are prepared and counted."""
    draw("data", suffix)
    analysis = analyze(PICTURES, "--calib", "data", "--preset", "zero-one")
    assert summary(analysis) == both_roles(3, {"x": (1, 3, 8, 8)})
    assert "RGB, x/255, NCHW" in analysis.provenance.data[0].preprocessing


def test_npy(analyze):
    """A batch in one .npy file is as many samples as it has rows."""
    np.save("data.npy", noise(5, 3, 8, 8))
    analysis = analyze(PICTURES, "--calib", "data.npy")
    assert summary(analysis) == both_roles(5, {"x": (1, 3, 8, 8)})


def test_npz_with_two_inputs(analyze):
    """The arrays of an .npz file go to the inputs of the same names."""
    np.savez("data.npz", b=noise(4, 4), a=noise(4, 4))
    analysis = analyze(PAIR, "--calib", "data.npz")
    assert summary(analysis) == both_roles(4, {"a": (1, 4), "b": (1, 4)})


def test_onnx_test_data_set(analyze):
    """The input_*.pb files of an ONNX test data set are one sample."""
    for index in range(2):
        place = Path(f"data/test_data_set_{index}")
        place.mkdir(parents=True)
        for position, name in enumerate("ab"):
            tensor = numpy_helper.from_array(noise(1, 4), name)
            (place / f"input_{position}.pb").write_bytes(tensor.SerializeToString())
    assert summary(analyze(PAIR, "--calib", "data"))[0][1] == 2
    assert summary(analyze(PAIR, "--calib", "data/test_data_set_0"))[0][1] == 1


def test_generator_function(analyze):
    """`module:function` is imported from the working folder."""
    Path("feed_generator.py").write_text(
        textwrap.dedent("""
            import numpy as np

            def samples():
                rng = np.random.default_rng(3)
                for _ in range(3):
                    yield {"x": rng.random((1, 3, 8, 8), dtype=np.float32)}
        """)
    )
    analysis = analyze(PICTURES, "--calib", "feed_generator:samples")
    assert summary(analysis) == both_roles(3, {"x": (1, 3, 8, 8)})
    assert analysis.provenance.data[0].origin == "feed_generator:samples"


def test_calibration_data_reader(analyze):
    """An object with get_next(), as onnxruntime's quantizer takes it, serves as it is."""
    Path("feed_reader.py").write_text(
        textwrap.dedent("""
            import numpy as np
            from onnxruntime.quantization import CalibrationDataReader

            class Reader(CalibrationDataReader):
                def __init__(self):
                    rng = np.random.default_rng(3)
                    self.items = [{"x": rng.random((1, 3, 8, 8), dtype=np.float32)}] * 2
                    self.rewind()

                def get_next(self):
                    return next(self.iterator, None)

                def rewind(self):
                    self.iterator = iter(self.items)

            reader = Reader()
        """)
    )
    analysis = analyze(PICTURES, "--calib", "feed_reader:reader")
    assert summary(analysis) == both_roles(2, {"x": (1, 3, 8, 8)})


def test_preparation_beside_the_data(analyze):
    """qanalyze.toml in the folder of pictures says how they are prepared; flags go over it."""
    draw("data", "png")
    Path("data/qanalyze.toml").write_text('[preprocess]\npreset = "yolox"\n')
    assert "BGR, x, NCHW" in analyze(PICTURES, "--calib", "data").provenance.data[0].preprocessing
    flagged = analyze(PICTURES, "--calib", "data", "--scale", "1/255")
    assert "BGR, x/255, NCHW" in flagged.provenance.data[0].preprocessing


def test_other_data_for_the_analysis(analyze):
    """With --eval the provenance keeps both data sets apart."""
    np.save("calib.npy", noise(5, 3, 8, 8))
    np.save("eval.npy", noise(3, 3, 8, 8))
    analysis = analyze(PICTURES, "--calib", "calib.npy", "--eval", "eval.npy")
    roles = {d.role: (d.origin, d.count) for d in analysis.provenance.data}
    assert roles == {"calibration": ("calib.npy", 5), "analysis": ("eval.npy", 3)}


def test_shape_for_free_axes(analyze):
    """--shape decides the size that pictures are brought to where the model leaves it free."""
    draw("data", "png", side=12)
    analysis = analyze(FREE, "--calib", "data", "--shape", "x=1,3,16,8", "--preset", "zero-one")
    assert summary(analysis) == both_roles(3, {"x": (1, 3, 16, 8)})


def test_batches_stay_whole_with_a_shape(analyze):
    """--shape with a batch feeds that many rows at once, and drops what does not fill one."""
    np.save("data.npy", noise(5, 3, 8, 8))
    analysis = analyze(PICTURES, "--calib", "data.npy", "--shape", "x=2,3,8,8")
    assert summary(analysis) == both_roles(2, {"x": (2, 3, 8, 8)})
    assert any("dropped" in warning for warning in analysis.warnings)


def test_calib_samples_and_samples(analyze):
    """The two counts choose how many are calibrated on and how many are analysed."""
    np.save("data.npy", noise(6, 3, 8, 8))
    analysis = analyze(PICTURES, "--calib", "data.npy", "--calib-samples", "4", "--samples", "2")
    assert [(d.role, d.count) for d in analysis.provenance.data] == [
        ("calibration", 4),
        ("analysis", 2),
    ]
    assert {row.isolated_samples for row in analysis.layers if row.isolated_nsr is not None} == {2}


def test_two_runs_give_the_same_bytes(analyze):
    """But for times and memory, the same command writes the same analysis."""
    np.save("data.npy", noise(6, 3, 8, 8))

    def written() -> dict:
        analyze(PICTURES, "--calib", "data.npy")
        found = json.loads(Path("out/analysis.json").read_text(encoding="utf-8"))
        return {k: v for k, v in found.items() if k not in ("timing", "peak_rss_bytes")}

    assert written() == written()
