# SPDX-License-Identifier: Apache-2.0
"""The ESP-DL targets against esp-ppq itself, on real models and on random graphs.

Larger models: `tests/benchmarks/fidelity_esp.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from esp_plans import (  # noqa: E402
    accumulated,
    differences,
    isolated,
    job,
    planned,
    relative,
    save_samples,
)
from pictures import octaves  # noqa: E402
from random_graphs import random_model  # noqa: E402

MODELS = HERE.parents[2] / "shared" / "models"
# model -> shape and range of its input
INPUTS = {
    "resnet8_cifar10": ((1, 32, 32, 3), 0, 255),
    "mobilenet_v1_025_imagenet": ((1, 224, 224, 3), -1, 1),
    "face_rfb320": ((1, 3, 240, 320), -1, 1),
}
WAYS = [
    ("resnet8_cifar10", {"target": "esp32p4"}),
    ("resnet8_cifar10", {"target": "esp32s3"}),
    ("resnet8_cifar10", {"target": "esp32", "precision": "int16"}),
    ("resnet8_cifar10", {"target": "esp32p4", "algorithm": "mse"}),
    ("resnet8_cifar10", {
        "target": "esp32p4", "algorithm": "minmax",
        "table": {"model/conv2d_3/BiasAdd": "int16", "model/conv2d_4/BiasAdd": "fp32"},
    }),
    ("mobilenet_v1_025_imagenet", {"target": "esp32p4"}),
    ("face_rfb320", {"target": "esp32s3"}),
]  # fmt: skip
GRAPHS = 200
# KL search of 16 bits takes esp-ppq seconds per tensor, so mixed graphs use the others
RANDOM_WAYS = [
    {"target": "esp32p4"},
    {"target": "esp32s3"},
    {"target": "esp32p4", "precision": "int16"},
    {"target": "esp32", "algorithm": "percentile"},
    {"target": "esp32s3", "precision": "w8a16"},
    {"target": "esp32p4", "algorithm": "mse"},
]

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


def smooth(rng, shape, low, high):
    """Random pictures of a range."""
    x = octaves(rng, shape)
    x = (x - x.min()) / (x.max() - x.min())
    return (low + (high - low) * x).astype(np.float32)


def ask(judge, jobs, folder):
    """Ask about all jobs in one process."""
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    return judge("esp-ppq", "esp_ppq_plans", folder / "jobs.json")


@pytest.fixture(scope="module")
def real(judge, tmp_path_factory):
    """Quantize the shared models all ways; return way's number -> (ours, samples, theirs)."""
    if not all((MODELS / name / "model.onnx").is_file() for name in INPUTS):
        pytest.skip("the shared models are not here")
    folder = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    data = {}
    for name, (shape, low, high) in INPUTS.items():
        path = MODELS / name / "model.onnx"
        graph = onnx.load(path).graph
        constants = {t.name for t in graph.initializer}
        (tensor,) = (i.name for i in graph.input if i.name not in constants)
        samples = [{tensor: smooth(rng, shape, low, high)} for _ in range(2)]
        data[name] = path, samples, save_samples(folder / f"{name}.npz", samples)
    jobs = [
        job(data[name][0], data[name][2], layerwise=True, graphwise=True, **way)
        for name, way in WAYS
    ]
    answers = ask(judge, jobs, folder)
    assert not [a["error"] for a in answers if "error" in a]
    return [
        (planned(data[name][0], data[name][1], **way), data[name][1], answer)
        for (name, way), answer in zip(WAYS, answers, strict=True)
    ]


@pytest.mark.parametrize("number", range(len(WAYS)))
def test_every_config_agrees(real, number):
    """State, bits, rounding and scales of all slots of a real model."""
    mine, _, theirs = real[number]
    differing, total = differences(theirs["configs"], mine)
    assert total > 60
    assert not differing


@pytest.mark.parametrize("number", range(len(WAYS)))
def test_errors_agree(real, number):
    """Isolated errors within 1e-3 of the layerwise report, graphwise ones within 1 %.

    Another order of summation moves a value over a rounding tie now and then, so one row in
    twenty may be off by more; 16-bit sums are not exact in float32 at all.
    """
    mine, samples, theirs = real[number]
    wide = WAYS[number][1].get("precision") == "int16"
    floor = 1e-5 if wide else 1e-7
    off = relative(isolated(mine, samples), theirs["layerwise"], floor)
    assert set(off) == set(theirs["layerwise"])
    assert np.quantile(list(off.values()), 0.95, method="lower") < 1e-3, off
    assert max(off.values()) < 0.05, off
    found = relative(accumulated(mine, samples), theirs["graphwise"], floor)
    assert max(found.values()) < 0.01, found


def test_random_graphs(judge, tmp_path):
    """At least 99.9 % of the configs of 200 random graphs agree: only ties may fall otherwise."""
    jobs, cases = [], []
    for seed in range(GRAPHS):
        model, samples = random_model(seed)
        path = tmp_path / f"{seed}.onnx"
        onnx.save(model, path)
        way = RANDOM_WAYS[seed % len(RANDOM_WAYS)]
        jobs.append(job(path, save_samples(tmp_path / f"{seed}.npz", samples), **way))
        cases.append((seed, path, samples, way))
    answers = ask(judge, jobs, tmp_path)
    found, slots, refused = {}, 0, []
    for (seed, path, samples, way), theirs in zip(cases, answers, strict=True):
        if "error" in theirs:
            refused.append((seed, theirs["error"]))
            continue
        differing, total = differences(theirs["configs"], planned(path, samples, **way))
        slots += total
        found.update({(seed, *key): pair for key, pair in differing.items()})
    assert len(refused) <= GRAPHS // 20, refused
    assert slots > 20 * GRAPHS
    assert len(found) <= 0.001 * slots, found
