# SPDX-License-Identifier: Apache-2.0
"""What `nsr_and_metric.py` measures: models with data and a metric, and settings of the noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measure import SAMPLES, SHARED
from PIL import Image

DATA = SHARED / "data"
COCO, CATS, CIFAR, IMAGENET = (DATA / n for n in ("coco", "coco_cat", "cifar10", "imagenet"))
Options = Mapping[str, Any]  # as `analyzer.config.resolve` takes them


@dataclass(frozen=True)
class Noise:
    """One setting.

    Attributes:
        options: of the run.
        wide: part of the layers with more bits: from and to, as shares of the layers in execution
            order, and the precision.
        copy: of the sample model with a planted fault; "": the model itself.
    """

    title: str
    options: Options
    wide: tuple[float, float, str] | None = None
    copy: str = ""


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        task: what it does, in the words of the page.
        noises: settings.
        options: of the data; makes them in the folder it is given, where they have to be made.
        shared: whether the model is one of the shared ones; else it is a sample model.
    """

    task: str
    noises: tuple[Noise, ...]
    options: Callable[[Path], Options]
    shared: bool = True


def _noise(target: str, *, wide: tuple[float, float, str] | None = None, **options: Any) -> Noise:
    words = [target, *(str(v) for k, v in options.items() if k != "calib_samples")]
    words = [f"per {w}" if w in ("tensor", "channel") else w for w in words]
    if options.get("calib_samples"):
        words.append(f"calibrated on {options['calib_samples']} sample")
    if wide:
        part = {(0.0, 0.5): "first half", (0.5, 1.0): "last half"}[wide[:2]]
        words.append(f"{part} of the layers {wide[2]}")
    return Noise(", ".join(words), {"target": target, **options}, wide)


P4, S3, ORT = "esp32p4", "esp32s3", "onnxruntime"
_FIRST, _LAST = (0.0, 0.5, "int16"), (0.5, 1.0, "int16")
FEW = (
    _noise(P4), _noise(P4, calibration="minmax"), _noise(P4, wide=_FIRST), _noise(P4, wide=_LAST),
    _noise(S3), _noise(ORT), _noise(ORT, granularity="tensor"), _noise(P4, calib_samples=1),
)  # fmt: skip
MORE = (
    *FEW, _noise(P4, precision="int16"), _noise(P4, calibration="percentile"),
    _noise(ORT, precision="u8u8", granularity="tensor"), _noise("qnn"), _noise("litert"),
    _noise(ORT, calib_samples=1),
)  # fmt: skip
ALL = (
    *MORE, _noise(S3, calibration="minmax"), _noise("openvino"), _noise("tensorrt"),
    _noise("pytorch"), _noise("pytorch-qnnpack"), _noise("tflite"),
    _noise(S3, calibration="minmax", calib_samples=1),
)  # fmt: skip


def _copies(model: str, faults: tuple[str, ...]) -> tuple[Noise, ...]:
    chosen = (_noise(P4), _noise(ORT), _noise(ORT, granularity="tensor"), _noise(P4, wide=_LAST))
    return tuple(
        Noise(f"{fault.replace('_', ' ')} planted, {noise.title}", noise.options, noise.wide,
              f"{model}_{fault}")
        for fault in faults for noise in chosen
    )  # fmt: skip


def _pictures(
    calib: Path, count: int, val: Path, labels: Path, **options: Any
) -> Callable[[Path], Options]:
    given = {
        "calib": str(calib), "calib_samples": count, "eval": str(val), "samples": 1000,
        "labels": str(labels),
    }  # fmt: skip
    return lambda folder: {**given, **options}


def _mnist(folder: Path) -> Options:
    """500 test digits as the model takes them: 0..255, white on black."""
    found = np.load(DATA / "mnist" / "mnist_t10k_500.npz")
    np.save(folder / "mnist.npy", found["images"][:, None].astype(np.float32))
    rows = "\n".join(f"{i},{label}" for i, label in enumerate(found["labels"]))
    (folder / "mnist.csv").write_text(f"index,label\n{rows}\n", encoding="utf-8")
    return {
        "calib": str(folder / "mnist.npy"), "calib_samples": 64, "eval": str(folder / "mnist.npy"),
        "samples": 1000, "labels": str(folder / "mnist.csv"),
    }  # fmt: skip


def _shrunk(folder: Path) -> Options:
    """Luma of pictures, 672 x 672 (the truth), and shrunk to a third (what is restored)."""
    for part, place in (("calib", COCO / "calib"), ("eval", COCO / "val")):
        truths = []
        for path in sorted((place / "images").iterdir())[:16]:
            luma = Image.open(path).convert("RGB").convert("YCbCr").getchannel("Y")
            truths.append(luma.resize((672, 672), Image.Resampling.BICUBIC))
        small = [t.resize((224, 224), Image.Resampling.BICUBIC) for t in truths]
        stacked = np.stack([np.asarray(s, np.float32)[None] for s in small])
        np.save(folder / f"{part}.small.npy", stacked / np.float32(255))
        np.save(folder / f"{part}.truth.npy", np.stack([np.asarray(t) for t in truths]))
    from nsr_metrics import TRUTHS

    TRUTHS["pictures"] = np.load(folder / "eval.truth.npy")
    return {
        "calib": str(folder / "calib.small.npy"), "eval": str(folder / "eval.small.npy"),
        "samples": 1000, "metric": "nsr_metrics:restoration", "task": "none",
    }  # fmt: skip


def _stories(folder: Path) -> Options:
    from nsr_metrics import TRUTHS

    path = DATA / "tinystories" / "tokens.npy"
    TRUTHS["stories"] = np.load(path)
    return {
        "calib": str(path), "calib_samples": 16, "eval": str(path), "samples": 1000,
        "metric": "nsr_metrics:Perplexity",
    }  # fmt: skip


def _machines(folder: Path) -> Options:
    from nsr_metrics import TRUTHS

    path = DATA / "toycar" / "normal_id_01_features.npy"
    TRUTHS["machines"] = np.load(path)
    return {
        "calib": str(path), "eval": str(path), "samples": 1000, "task": "none",
        "metric": "nsr_metrics:anomaly",
    }  # fmt: skip


def _sample(model: str, **options: Any) -> Callable[[Path], Options]:
    held_out = SAMPLES / f"{model}_eval"
    given = {"calib": str(SAMPLES / model), "eval": str(held_out), "samples": 1000}
    return lambda folder: {**given, **options}


CASES: Mapping[str, Case] = {
    "digits_dw": Case(
        "classification, 10 classes",
        ALL + _copies("digits_dw", ("outlier_channel", "dead_channel", "concat_ranges")),
        _sample("digits_dw", labels=str(SAMPLES / "digits_dw_eval" / "labels.csv")), shared=False,
    ),
    "mnist_cntk": Case("classification, 10 classes", ALL, _mnist),
    "resnet8_cifar10": Case(
        "classification, 10 classes", ALL,
        _pictures(CIFAR / "images", 64, CIFAR / "images", CIFAR / "labels.csv", preset="raw"),
    ),
    "vww_mobilenet": Case(
        "classification, 2 classes", MORE,
        _pictures(COCO / "calib" / "images", 32, COCO / "val" / "images",
                  COCO / "person_present.csv", preset="zero-one"),
    ),
    "mobilenet_v1_025_imagenet": Case(
        "classification, 1000 classes", MORE,
        _pictures(IMAGENET / "images", 24, IMAGENET / "images", IMAGENET / "labels.csv",
                  preset="tf"),
    ),
    "squeezenet_imagenet": Case(
        "classification, 1000 classes", FEW,
        _pictures(IMAGENET / "images", 16, IMAGENET / "images", IMAGENET / "labels.csv",
                  preset="caffe"),
    ),
    "blobs_det": Case(
        "detection, boxes and scores in one output",
        MORE + _copies("blobs_det", ("outlier_channel", "dead_channel", "concat_ranges")),
        _sample("blobs_det", labels=str(SAMPLES / "blobs_det_eval" / "labels")), shared=False,
    ),
    "espdet_pico_cat": Case(
        "detection, outputs per stride", FEW,
        _pictures(CATS / "images", 28, CATS / "images", CATS / "labels", preset="yolo"),
    ),
    "yolox_nano": Case(
        "detection, boxes and scores in one output", FEW,
        _pictures(COCO / "calib" / "images", 12, COCO / "val" / "images",
                  COCO / "val" / "labels", preset="yolox"),
    ),
    "yolo11n_heads": Case(
        "detection, outputs per stride", FEW,
        _pictures(COCO / "calib" / "images", 8, COCO / "val" / "images",
                  COCO / "val" / "labels", preset="yolo"),
    ),
    "superres_subpixel": Case("super resolution", MORE, _shrunk),
    "stories260k": Case("language model, next token", MORE, _stories),
    "ad_autoencoder": Case("anomaly score", ALL, _machines),
}  # fmt: skip
