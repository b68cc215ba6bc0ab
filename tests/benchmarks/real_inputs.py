# SPDX-License-Identifier: Apache-2.0
"""Real inputs of the shared models, prepared as each model wants them (see its SOURCE.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
from measure import SHARED

from analyzer.data import open_data
from analyzer.load import load_model

DATA = SHARED / "data"
COCO, IMAGENET = DATA / "coco" / "calib" / "images", DATA / "imagenet" / "images"
TEXT = {"resize": "stretch", "size": (320, 320), "channels": "bgr"}
# model -> data, preset, single fields of it, samples
CASES: dict[str, tuple[Any, str | None, dict[str, Any], int]] = {
    "resnet8_cifar10": (DATA / "cifar10" / "images", "raw", {}, 64),
    "mobilenet_v1_025_imagenet": (IMAGENET, "tf", {}, 24),
    "vww_mobilenet": (COCO, "zero-one", {}, 32),
    "face_rfb320": (DATA / "faces" / "images", "ultraface", {}, 8),
    "espdet_pico_cat": (DATA / "coco_cat" / "images", "yolo", {}, 6),
    "yolo11n_heads": (COCO, "yolo", {}, 4),
    "squeezenet_imagenet": (IMAGENET, "caffe", {}, 8),
    "ppocrv3_det": (DATA / "text" / "images", "imagenet", TEXT, 6),
    "yolox_nano": (COCO, "yolox", {}, 6),
    "superres_subpixel": (COCO, None, {"resize": "stretch", "channels": "y"}, 6),
    "stories260k": (DATA / "tinystories" / "tokens.npy", None, {}, 24),
}


def samples_of(name: str, limit: int | None = None) -> list[dict[str, np.ndarray]]:
    """Return the first prepared samples of a model's data, `limit` or the usual number."""
    where, preset, overrides, usual = CASES[name]
    model = load_model(SHARED / "models" / name / "model.onnx")
    data = open_data(
        str(where), model.inputs, role="calibration", metadata=model.metadata, preset=preset,
        overrides=overrides, limit=limit or usual,
    )  # fmt: skip
    return [dict(data[i]) for i in range(len(data))]
