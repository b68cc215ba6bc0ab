# SPDX-License-Identifier: Apache-2.0
"""The sample models are what sample_models/README.md says: accurate, small, faulty as planted."""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from PIL import Image
from sample_faults import DATA, NAMED, OTHERS, SAMPLES, evidence, planted

from analyzer.config import resolve
from analyzer.pipeline import run as analyze
from analyzer.pipeline import run_quantized

TWINS = sorted(path.stem for path in SAMPLES.glob("*.json"))
MODELS = sorted(path.name for path in SAMPLES.glob("*.onnx"))


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def read_images(folder: Path) -> np.ndarray:
    images = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    return np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255


def calibration(name: str) -> np.ndarray:
    if name.startswith("digits_dw"):
        return np.load(SAMPLES / "digits_dw" / "inputs.npz")["input"]
    return read_images(SAMPLES / "blobs_det")


def run(model: onnx.ModelProto, samples: np.ndarray) -> np.ndarray:
    """Return the first output of each sample, (samples, ...)."""
    runner = session(model)
    name = runner.get_inputs()[0].name
    return np.stack([runner.run(None, {name: sample[None]})[0][0] for sample in samples])


def held_out(name: str) -> np.ndarray:
    if name.startswith("digits_dw"):
        return np.load(SAMPLES / "digits_dw_eval" / "inputs.npz")["input"][:100]
    return read_images(SAMPLES / "blobs_det_eval")


def joined(model: onnx.ModelProto, samples: np.ndarray) -> np.ndarray:
    """Return all outputs of each sample behind each other on the channel axis."""
    runner = session(model)
    name = runner.get_inputs()[0].name
    each = [np.concatenate(runner.run(None, {name: sample[None]}), axis=1) for sample in samples]
    return np.concatenate(each)


def largest(model: onnx.ModelProto, tensor: str, samples: np.ndarray) -> float:
    """Return the largest magnitude of an inner tensor."""
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    return float(np.abs(run(model, samples)).max())


def truth_of(twin: str) -> dict:
    return json.loads((SAMPLES / f"{twin}.json").read_text())


def test_both_models_have_all_three_faults():
    """Each model comes with each of the three planted faults, and each fault with its model."""
    faults = ("concat_ranges", "dead_channel", "outlier_channel")
    names = [f"{name}_{fault}" for name in ("blobs_det", "digits_dw") for fault in faults]
    assert names == TWINS
    assert {f"{twin}.onnx" for twin in TWINS} < set(MODELS)


@pytest.mark.parametrize("twin", TWINS)
def test_faulty_twin_equals_clean_twin_in_fp32(twin: str):
    """A planted fault changes no FP32 output by more than 1e-4 of the channel's largest value."""
    samples = calibration(twin)
    clean = run(onnx.load(SAMPLES / truth_of(twin)["clean"]), samples)
    faulty = run(onnx.load(SAMPLES / f"{twin}.onnx"), samples)
    axes = tuple(axis for axis in range(clean.ndim) if axis != 1)
    assert (np.abs(faulty - clean).max(axes) <= 1e-4 * np.abs(clean).max(axes)).all()


@pytest.mark.parametrize("twin", TWINS)
def test_planted_tensor_has_lost_its_range(twin: str):
    """The named tensor reaches at least twenty times as far as in the clean twin."""
    truth, samples = truth_of(twin), calibration(twin)[:4]
    clean = largest(onnx.load(SAMPLES / truth["clean"]), truth["tensor"], samples)
    assert largest(onnx.load(SAMPLES / f"{twin}.onnx"), truth["tensor"], samples) > 20 * clean


@pytest.mark.parametrize("twin", TWINS)
def test_ground_truth_names_nodes_of_the_graph(twin: str):
    """Every layer of the ground truth is a node of the faulty file; the first makes the tensor."""
    truth = truth_of(twin)
    nodes = {node.name: node for node in onnx.load(SAMPLES / f"{twin}.onnx").graph.node}
    assert {*truth["layers"], truth["reader"], truth["isolated"]["next_layer"]} <= {*nodes}
    assert list(nodes[truth["layers"][0]].output) == [truth["tensor"]]
    assert truth["isolated"]["ratio"] >= 50


@pytest.mark.parametrize("name", [*NAMED, *OTHERS])
def test_every_planted_fault_leaves_the_fp32_function_alone(name: str, tmp_path: Path):
    """Calibration and held-out inputs give the outputs of the clean twin, or their parts."""
    case = planted(name, tmp_path)
    samples = np.concatenate([calibration(name), held_out(name)])
    faulty = joined(onnx.load(case.faulty), samples)
    clean = joined(onnx.load(case.clean), samples)
    largest_value = np.abs(clean).max((0, *range(2, clean.ndim)))
    assert (np.abs(faulty - clean).max((0, *range(2, clean.ndim))) <= 1e-4 * largest_value).all()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if spot.model == "blobs_det" else [])
        for name, spot in {
            **NAMED,
            "blobs_det_long_softmax": OTHERS["blobs_det_long_softmax"],
        }.items()
    ],
)
def test_noise_of_one_quantizer_at_a_time_confirms_the_place(name: str, tmp_path: Path):
    """By code that is not qanalyze, the planted layer makes more noise than any other."""
    case = planted(name, tmp_path)
    measured = evidence(case.spot, onnx.load(case.faulty), case.truth["layers"])
    assert measured["ratio"] > (1.5 if case.spot.fault == "long_softmax" else 50)


@pytest.mark.parametrize("name", [n for n, spot in OTHERS.items() if spot.fault in DATA])
def test_data_of_a_fault_are_as_far_off_as_they_say(name: str, tmp_path: Path):
    """The calibration data are the clean ones, a given factor smaller or larger."""
    case = planted(name, tmp_path)
    changed = next(iter(np.load(Path(case.faulty_run["calib"]) / "inputs.npz").values()))
    clean = calibration(name)
    factor = case.truth["factor"]
    times = factor if case.spot.fault == "foreign_calibration" else 1 / factor
    np.testing.assert_allclose(changed[: len(clean)], clean * times, rtol=1e-6)


@pytest.mark.parametrize("target", ["esp32p4", "onnxruntime"])
@pytest.mark.parametrize("twin", TWINS)
def test_planted_layer_ranks_first(twin: str, target: str):
    """The worst isolated row is a planted layer, at least twice as bad as any other layer."""
    truth = truth_of(twin)
    calib = str(SAMPLES / Path(truth["clean"]).stem)
    config = resolve({"calib": calib, "target": target, "samples": 8, "propose": False})
    rows = {row.name: row.isolated_nsr for row in analyze(SAMPLES / f"{twin}.onnx", config).layers}
    planted = max(rows[name] or 0 for name in truth["layers"] if name in rows)
    others = max(nsr or 0 for name, nsr in rows.items() if name not in truth["layers"])
    assert planted >= 2 * others


def test_digits_dw_is_accurate_in_fp32():
    """With BatchNorm folded or kept, at least 97 % of the held-out digits are right."""
    evaluation = SAMPLES / "digits_dw_eval"
    inputs = np.load(evaluation / "inputs.npz")["input"]
    with (evaluation / "labels.csv").open(newline="") as file:
        classes = [int(row["class_index"]) for row in csv.DictReader(file)]
    for name in ("digits_dw.onnx", "digits_dw_bn.onnx"):
        logits = session(onnx.load(SAMPLES / name)).run(None, {"input": inputs})[0]
        assert np.mean(logits.argmax(1) == classes) >= 0.97


def test_blobs_det_finds_the_labelled_digits():
    """The best-scored cell inside each box has the right class (>= 90 %) and a mean IoU >= 0.8."""
    evaluation = SAMPLES / "blobs_det_eval"
    outputs = run(onnx.load(SAMPLES / "blobs_det.onnx"), read_images(evaluation))
    ious, hits = [], []
    for output, file in zip(outputs, sorted((evaluation / "labels").glob("*.txt")), strict=True):
        for line in file.read_text().splitlines():
            label, *box = map(float, line.split())
            truth = np.array(box) * 64
            inside = np.abs(output[:2] - truth[:2, None]) < truth[2:, None] / 2
            scores = np.where(inside.all(0), output[4:], 0)
            best = output[:, scores.max(0).argmax()]
            ious.append(iou(best[:4], truth))
            hits.append(best[4:].argmax() == label)
    assert np.mean(ious) >= 0.8
    assert np.mean(hits) >= 0.9


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union of two boxes (centre x, centre y, width, height)."""
    low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
    high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
    common = np.prod(np.maximum(high - low, 0))
    return float(common / (a[2:].prod() + b[2:].prod() - common))


@pytest.mark.parametrize("name", MODELS)
def test_models_are_plain_onnx(name: str):
    """Each file passes the checker, uses opset 13 and only operators of ONNX itself."""
    model = onnx.load(SAMPLES / name)
    onnx.checker.check_model(model, full_check=True)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 13)]
    assert all(node.name and not node.domain for node in model.graph.node)


def test_samples_stay_small():
    """All of sample_models/ together takes less than 3 MB."""
    files = (path for path in SAMPLES.rglob("*") if path.is_file())
    assert (
        sum(path.stat().st_size for path in files if "__pycache__" not in path.parts) < 3_000_000
    )


def test_a_quantized_sample_is_read_as_onnxruntime_runs_it():
    """The error reported for `digits_dw_int8.onnx` is that of its outputs in onnxruntime."""
    data, quantized = SAMPLES / "digits_dw", SAMPLES / "digits_dw_int8.onnx"
    config = resolve({"calib": str(data), "quantized": str(quantized), "samples": "8"})
    (analysis,) = run_quantized(SAMPLES / "digits_dw.onnx", quantized, config).analyses
    picked = np.linspace(0, 63, 8).round().astype(int)
    samples = calibration("digits_dw")[picked]
    plain = run(onnx.load(SAMPLES / "digits_dw.onnx"), samples).astype(np.float64)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    unfused = ort.InferenceSession(quantized, options, providers=["CPUExecutionProvider"])
    noisy = np.stack([unfused.run(None, {"input": s[None]})[0][0] for s in samples])
    nsr = (((noisy - plain) ** 2).sum(axis=1) / (plain**2).sum(axis=1)).mean()
    assert analysis.outputs[0].nsr == pytest.approx(nsr, rel=1e-4)
    assert analysis.provenance.target == "digits_dw_int8.onnx"
    assert [info.role for info in analysis.provenance.data] == ["analysis"]
