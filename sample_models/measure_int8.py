# SPDX-License-Identifier: Apache-2.0
"""Task accuracy of every model here in FP32 and INT8, by onnxruntime's own quantizer.

INT8 is QDQ, signed activations and weights, symmetric, min/max, per channel or per tensor.
Run with onnx, onnxruntime, numpy and pillow: `python sample_models/measure_int8.py`.
"""

import csv
import logging
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
from isolated_noise import calibration, read_images
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

HERE = Path(__file__).parent
SIZE = 64  # side of the scenes of blobs_det, pixels
STRIDES = (8, 16)


class Samples(CalibrationDataReader):
    """Feeds the samples of one array, one at a time."""

    def __init__(self, name: str, samples: np.ndarray) -> None:
        self._feeds = iter([{name: sample[None]} for sample in samples])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next feed, or None after the last."""
        return next(self._feeds, None)


def session(model: Path) -> ort.InferenceSession:
    """Open a model single-threaded, with graph optimizations off: the file as it is written."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def score(model: Path, base: str) -> str:
    """Score a model on the held-out data of `digits_dw` or `blobs_det`, as text."""
    return (
        digits_accuracy(session(model)) if base == "digits_dw" else blobs_quality(session(model))
    )


def digits_accuracy(run: ort.InferenceSession) -> str:
    """Return the share of samples whose largest logit is the labelled class."""
    folder = HERE / "digits_dw_eval"
    with (folder / "labels.csv").open(newline="") as file:
        classes = [int(row["class_index"]) for row in csv.DictReader(file)]
    logits = run.run(None, {"input": np.load(folder / "inputs.npz")["input"]})[0]
    return f"{np.mean(logits.argmax(1) == classes):.1%}"


def blobs_quality(run: ort.InferenceSession) -> str:
    """Return mean IoU and class accuracy of the best cell of each object.

    The best cell is the one with the highest score of any class among the cells whose centre
    lies in the object.
    """
    folder = HERE / "blobs_det_eval"
    centres, _ = anchors()
    ious, hits = [], []
    labels = sorted((folder / "labels").glob("*.txt"))
    for x, file in zip(read_images(folder), labels, strict=True):
        output = run.run(None, {"images": x[None]})[0][0]
        for line in file.read_text().splitlines():
            label, *box = map(float, line.split())
            truth = SIZE * np.array(box)
            inside = (np.abs(centres - truth[:2]) < truth[2:] / 2).all(1)
            best = np.flatnonzero(inside)[output[4:, inside].max(0).argmax()]
            ious.append(iou(output[:4, best], truth))
            hits.append(output[4:, best].argmax() == label)
    return f"IoU {np.mean(ious):.3f}, class {np.mean(hits):.1%}"


def anchors() -> tuple[np.ndarray, np.ndarray]:
    """Return the cell centres (80, 2), x first, and strides (80,) of blobs_det, in pixels."""
    centres, strides = [], []
    for stride in STRIDES:
        axis = np.arange(stride / 2, SIZE, stride)
        y, x = np.meshgrid(axis, axis, indexing="ij")
        centres.append(np.stack([x.ravel(), y.ravel()], 1))
        strides.append(np.full(x.size, stride))
    return np.concatenate(centres).astype(np.float32), np.concatenate(strides).astype(np.float32)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union of two boxes (centre x, centre y, width, height)."""
    low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
    high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
    common = np.prod(np.maximum(high - low, 0))
    return float(common / (a[2:].prod() + b[2:].prod() - common))


def measure(model: Path) -> dict[str, str]:
    """Return the scores of a model in FP32, INT8 per channel and INT8 per tensor."""
    logging.getLogger().setLevel(logging.ERROR)
    base = next(name for name in ("digits_dw", "blobs_det") if model.stem.startswith(name))
    scores = {"FP32": score(model, base)}
    for label, per_channel in (("per channel", True), ("per tensor", False)):
        with tempfile.TemporaryDirectory() as folder:
            quantized = Path(folder) / "int8.onnx"
            quantize_static(
                model,
                quantized,
                Samples(session(model).get_inputs()[0].name, calibration(base)),
                quant_format=QuantFormat.QDQ,
                per_channel=per_channel,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
            )
            scores[label] = score(quantized, base)
    return scores


def main() -> None:
    """Print one row per model, as a Markdown table."""
    print("| model | FP32 | INT8 per channel | INT8 per tensor |\n|---|---|---|---|")
    for model in sorted(HERE.glob("*.onnx")):
        print("|", " | ".join([f"`{model.stem}`", *measure(model).values()]), "|")


if __name__ == "__main__":
    main()
