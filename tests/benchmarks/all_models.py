# SPDX-License-Identifier: Apache-2.0
"""Run qanalyze on every real model with real data; one row per model and target.

python tests/benchmarks/all_models.py [--target NAME ...] [--models NAME ...] [--extra OPTION ...]
"""

from __future__ import annotations

import argparse
import tempfile
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measure import SHARED, machine, qanalyze, table

DATA = SHARED / "data"


def mnist(folder: Path) -> Path:
    """Digits as the model takes them: 0..255, white on black, (N, 1, 28, 28)."""
    images = np.load(DATA / "mnist" / "mnist_t10k_500.npz")["images"][:100]
    np.save(folder / "mnist.npy", images[:, None].astype(np.float32))
    return folder / "mnist.npy"


def speech(folder: Path) -> Path:
    """Chunks of 512 samples with the last 64 of the chunk before in front; state zero."""
    with wave.open(str(DATA / "speech" / "speech_60s_16k.wav")) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(32768)
    starts = np.linspace(64, len(pcm) - 512, 64).astype(int)
    chunks = np.stack([pcm[start - 64 : start + 512] for start in starts])[:, None]
    state = np.zeros((1, 2, 1, 128), np.float32)
    np.savez(folder / "speech.npz", input=chunks, state=state, sr=np.int64(16000))
    return folder / "speech.npz"


Where = Path | Callable[[Path], Path]
COCO, IMAGENET = DATA / "coco" / "calib" / "images", DATA / "imagenet" / "images"
# model -> where its data is, and how it is prepared (see the SOURCE.md beside each model)
CASES: dict[str, tuple[Where, str]] = {
    "ad_autoencoder": (DATA / "toycar" / "normal_id_01_features.npy", ""),
    "espdet_pico_cat": (DATA / "coco_cat" / "images", "--preset yolo"),
    "face_rfb320": (DATA / "faces" / "images", "--preset ultraface"),
    "mnist_cntk": (mnist, ""),
    "mobilenet_v1_025_imagenet": (IMAGENET, "--preset tf"),
    "ppocrv3_det": (
        DATA / "text" / "images",
        "--preset imagenet --resize stretch --size 736x736 --channels bgr",
    ),
    "resnet8_cifar10": (DATA / "cifar10" / "images", "--preset raw"),
    "silero_vad_16k": (speech, ""),
    "squeezenet_fp16": (IMAGENET, "--preset caffe"),
    "squeezenet_imagenet": (IMAGENET, "--preset caffe"),
    "stories260k": (DATA / "tinystories" / "tokens.npy", ""),
    "superres_subpixel": (COCO, "--resize stretch --channels y"),
    "vww_mobilenet": (COCO, "--preset zero-one"),
    "yolo11n": (COCO, ""),
    "yolo11n_heads": (COCO, "--preset yolo"),
    "yolox_nano": (COCO, "--preset yolox"),
    "ad_autoencoder_qdq": (DATA / "toycar" / "normal_id_01_features.npy", ""),
    "brevitas_tfc_mnist": (mnist, ""),
    "resnet8_cifar10_qdq": (DATA / "cifar10" / "images", "--preset raw"),
    "shufflenet_v2_int8_qop": (IMAGENET, "--preset imagenet"),
    "vww_mobilenet_qdq": (COCO, "--preset raw"),
}


def main() -> None:
    """Print the table; end with 1 where a run ended in a bug."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", nargs="+", default=["esp32p4", "onnxruntime"])
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--extra", nargs="+", default=[], help="as in --extra=--samples --extra=2")
    chosen = parser.parse_args()
    print(machine())
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in chosen.models:
            where, flags = CASES[model]
            data = where if isinstance(where, Path) else where(folder)
            for target in chosen.target:
                rows.append(row(model, target, data, [*flags.split(), *chosen.extra], folder))
                print(".", end="", flush=True)
    print()
    head = ["model", "target", "exit", "layers", "computing", "seconds", "peak MB", "worst NSR %"]
    table(head, [cells for cells, _ in rows])
    for cells, said in rows:
        if said:
            print(f"{cells[0]} ({cells[1]}): {said}")
    raise SystemExit(any(cells[2] == 3 for cells, _ in rows))


def row(
    model: str, target: str, data: Path, flags: list[str], folder: Path
) -> tuple[list[object], str]:
    """Run one model for one target; return the row and, for a refusal, its sentence."""
    path = SHARED / "models" / model / "model.onnx"
    spent, found = qanalyze(path, "--calib", data, "--target", target, *flags, out=folder / "out")
    start: list[object] = [model, target, spent.code]
    cost: list[object] = [spent.seconds, f"{spent.peak_mb:.0f}"]
    if found is None:
        said = " ".join(line for line in spent.err.splitlines()[-2:])
        return [*start, "", "", *cost, ""], said
    layers = found["layers"]
    worst = max(100 * float(output["nsr"]) for output in found["outputs"])
    return [*start, len(layers), sum(r["computing"] for r in layers), *cost, worst], ""


if __name__ == "__main__":
    main()
