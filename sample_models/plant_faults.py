# SPDX-License-Identifier: Apache-2.0
"""Plant quantization faults in `digits_dw.onnx` and `blobs_det.onnx` without changing their FP32.

Each fault becomes `<name>_<fault>.onnx` with its ground truth `<name>_<fault>.json`, next to this
file or in the folder asked for, where its own data and clean twin go as well, if it needs any:

* outlier_channel: one output channel times K, the reader's matching weights divided by K.
* concat_ranges: one branch of a Concat times K, the reader's matching weights divided by K.
* dead_channel: one more output channel with zero weights and a bias of K times the range of the
  others; its reader gives it zero weights.
* outlier_values: a few positions of a tensor hold K times the range of the others, and are
  masked out behind it.
* weight_channels: one row of a convolution's weights is K times as large as the others, where it
  reads a channel that is always zero; in `digits_dw` folding BatchNorm has done that.
* shifted: K times its range is added to a tensor and taken from the reader's bias.
* saturating_bias: K more constant channels, and a bias that takes out again what they add up to.
* rounding: all channels get a large part in common, which the reader subtracts.
* clipping: most of the calibration data are K times as dark; the observer cuts the others.
* shared_output: what were two outputs, pixels and scores, are concatenated to one.
* long_softmax: keys and values of an attention come K times over.
* infinite_mask: minus infinity is added to padded keys of the attention; ahead of a Relu.
* many_values: outlier_values, 1.6 % of all.
* masked_keys: a finite mask of -K on padded keys of the attention.
* shifted_and_cut: shifted, calibrated by KL, which cuts it.
* narrow_calibration: the calibration data are K times as dark as the others.
* foreign_calibration: the calibration data are in 0..255, the others in 0..1.

Where a tensor is scaled, that is exact in FP32: K is a power of two and only a Relu, if anything,
lies between.  Run with onnx, onnxruntime, numpy and pillow:

    python sample_models/plant_faults.py [FAULT ...] [--to FOLDER]

Without FAULT it writes the six that belong to the checkout; `all` stands for every fault.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
from isolated_noise import (
    HERE,
    SAMPLES,
    activation_noise,
    bias_noise,
    calibration,
    weight_noise,
)
from model_editor import Editor
from planters import DATA, MINMAX, ORT, PLANTERS, SPECIAL, TENSOR, Spot

COMMITTED = ("outlier_channel", "concat_ranges", "dead_channel")

SPOTS = [
    Spot("digits_dw", "outlier_channel", "/pw1/conv/Conv", "/dw2/conv/Conv", 128),
    Spot(
        "digits_dw",
        "concat_ranges",
        "/mix/dw5/conv/Conv",
        "/mix/dw/conv/Conv",
        64,
        concat="/mix/Concat",
    ),
    Spot("digits_dw", "dead_channel", "/head1/conv/Conv", "/head2/conv/Conv", 128),
    Spot("digits_dw", "outlier_values", "/stem/conv/Conv", "/dw1/conv/Conv", 128, options=ORT),
    Spot("digits_dw", "weight_channels", "", "/dw2/conv/Conv", options=TENSOR),
    Spot(
        "digits_dw",
        "shifted",
        "/project/conv/Conv",
        "/head1/conv/Conv",
        32,
        options=MINMAX,
    ),
    Spot(
        "digits_dw",
        "saturating_bias",
        "/project/conv/Conv",
        "/head1/conv/Conv",
        64,
        options={"target": "esp32s3"},
    ),
    Spot("digits_dw", "rounding", "/project/conv/Conv", "/head1/conv/Conv", 64),
    Spot("digits_dw", "clipping", factor=4),
    Spot("digits_dw", "shared_output", factor=64),
    Spot("digits_dw", "infinite_mask", "/pw1/conv/Conv", "/dw2/conv/Conv", np.inf, options=ORT),
    Spot("digits_dw", "many_values", "/pw1/conv/Conv", "/dw2/conv/Conv", 128, options=ORT),
    Spot("digits_dw", "shifted_and_cut", "/project/conv/Conv", "/head1/conv/Conv", 32),
    Spot("digits_dw", "narrow_calibration", factor=4),
    Spot("digits_dw", "foreign_calibration", factor=255),
    Spot("blobs_det", "outlier_channel", "/stem/conv/Conv", "/down1/conv/Conv", 128),
    Spot(
        "blobs_det",
        "concat_ranges",
        "/csp2/skip/conv/Conv",
        "/csp2/cv4/conv/Conv",
        64,
        concat="/csp2/Concat",
    ),
    Spot("blobs_det", "dead_channel", "/head8/box2/conv/Conv", "/head8/box3/Conv", 128),
    Spot("blobs_det", "outlier_values", "/stem/conv/Conv", "/down1/conv/Conv", 128, options=ORT),
    Spot(
        "blobs_det", "weight_channels", "/stem/conv/Conv", "/down1/conv/Conv", 64, options=TENSOR
    ),
    Spot(
        "blobs_det",
        "shifted",
        "/csp2/skip/conv/Conv",
        "/csp2/cv4/conv/Conv",
        32,
        concat="/csp2/Concat",
        options=MINMAX,
    ),
    Spot(
        "blobs_det",
        "saturating_bias",
        "/csp2/skip/conv/Conv",
        "/csp2/cv4/conv/Conv",
        64,
        concat="/csp2/Concat",
        options={"target": "esp32s3"},
    ),
    Spot(
        "blobs_det",
        "rounding",
        "/csp2/deep/conv/Conv",
        "/csp2/cv4/conv/Conv",
        64,
        concat="/csp2/Concat",
    ),
    Spot("blobs_det", "clipping", factor=4),
    Spot("blobs_det", "shared_output", concat="/Concat_4"),
    Spot("blobs_det", "long_softmax", "/attn/MatMul", "/attn/MatMul_1", 256, options=ORT),
    Spot("blobs_det", "infinite_mask", "/attn/MatMul", "/attn/MatMul_1", np.inf, options=ORT),
    Spot("blobs_det", "masked_keys", "/attn/MatMul", "/attn/MatMul_1", 10000, options=ORT),
    Spot("blobs_det", "narrow_calibration", factor=4),
    Spot("blobs_det", "foreign_calibration", factor=255),
]


def noise_of(spot: Spot, model: onnx.ModelProto, samples: np.ndarray) -> dict[str, float]:
    """Return node -> noise of what the fault spoils there: its activation, weights or bias."""
    if spot.fault == "weight_channels":
        return weight_noise(model, samples, per_tensor=True)
    if spot.fault == "saturating_bias":
        return bias_noise(model, samples, bits=20)
    if spot.fault == "long_softmax":
        return activation_noise(model, samples, probabilities=1 / 256)
    return activation_noise(model, samples)


def evidence(spot: Spot, model: onnx.ModelProto, layers: list[str]) -> dict[str, object]:
    """Return the isolated noise of the first layer and the largest outside `layers`."""
    samples = calibration(spot.model)[:SAMPLES]
    noise = noise_of(spot, model, samples)
    others = {name: value for name, value in noise.items() if name not in layers}
    runner_up = max(others, key=others.__getitem__)
    weights = weight_noise(model, samples)
    worst_weight = max(weights, key=weights.__getitem__)
    return {
        "nsr": float(f"{noise[layers[0]]:.3g}"),
        "next_layer": runner_up,
        "next_nsr": float(f"{others[runner_up]:.3g}"),
        "ratio": float(f"{noise[layers[0]] / others[runner_up]:.3g}"),
        "worst_weight_layer": worst_weight,
        "worst_weight_nsr": float(f"{weights[worst_weight]:.3g}"),
    }


def plant(spot: Spot, folder: Path, *, measured: bool = False) -> dict[str, object]:
    """Write a faulty twin and whatever belongs to it into a folder; return its ground truth.

    Files are named relative to that folder, or else to the one of this script.

    Args:
        spot: what to plant.
        folder: where to.
        measured: the ground truth holds the isolated noise too.
    """
    edit = Editor(HERE / f"{spot.model}.onnx")
    code, planter = PLANTERS[spot.fault]
    found = SPECIAL.get(spot.name, planter)(edit, spot)
    clean = f"{spot.model}.onnx"
    save(edit.model, folder / f"{spot.name}.onnx")
    if found.twin:
        clean = f"{spot.name}_clean.onnx"
        save(found.twin, folder / clean)
    clean_run = {"target": "esp32p4", "calib": spot.model, **spot.options}
    faulty_run = clean_run
    if spot.fault in DATA:
        clean_run = {**clean_run, "eval": f"{spot.model}_eval"}
        faulty_run = {**clean_run, "calib": f"{spot.name}_data"}
        if spot.fault == "clipping":  # the data are fit, what is made of them is not
            clean_run = {**faulty_run, "calibration": "minmax"}
        changed = DATA[spot.fault](calibration(spot.model), spot.factor)
        (folder / faulty_run["calib"]).mkdir(exist_ok=True)
        inputs = {edit.model.graph.input[0].name: changed.astype(np.float32)}
        np.savez_compressed(folder / faulty_run["calib"] / "inputs.npz", **inputs)
    truth: dict[str, object] = {
        "fault": spot.fault,
        "code": code,
        "layers": found.layers,
        "tensor": found.tensor,
        "channels": found.channels,
        "clean": clean,
        "factor": spot.factor if np.isfinite(spot.factor) else str(spot.factor),
        "reader": spot.reader,
        "run": faulty_run,
        "clean_run": clean_run,
    }
    if measured:
        truth["isolated"] = evidence(spot, edit.model, found.layers)
    (folder / f"{spot.name}.json").write_text(json.dumps(truth, indent=1) + "\n")
    return truth


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model that the checker accepts."""
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def main() -> None:
    """Write the faulty twins asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("fault", nargs="*", default=COMMITTED)
    parser.add_argument("--to", type=Path, default=HERE)
    asked = parser.parse_args()
    asked.to.mkdir(exist_ok=True)
    for spot in SPOTS:
        if "all" in asked.fault or {spot.fault, spot.name} & {*asked.fault}:
            print(f"{spot.name}:", plant(spot, asked.to, measured=spot.fault in COMMITTED))


if __name__ == "__main__":
    main()
