# SPDX-License-Identifier: Apache-2.0
"""The PyTorch targets against `torch.ao.quantization` itself: placement, scales, output noise.

Networks written in torch are quantized there as they stand and exported for us; shared models are
rebuilt in torch node by node.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from analyzer.quant.torch_observers import TorchHistogram

sys.path.insert(0, str(Path(__file__).resolve().parent))
from torch_plans import (
    agreement,
    decibels_apart,
    outputs_of,
    planned,
    write_question,
)

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"
NETWORKS = ["residual", "mobile", "detector", "transformer", "decoder", "arithmetic"]
RANGES = {"resnet8_cifar10": (0, 255), "face_rfb320": (-1, 1), "yolo11n_heads": (0, 1)}

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module", params=[("x86", "histogram"), ("qnnpack", "minmax")], ids=str)
def zoo(request, judge, tmp_path_factory):
    """Return (backend, observer, folder with the exported networks, network -> edges)."""
    folder = tmp_path_factory.mktemp("zoo")
    backend, observer = request.param
    return backend, observer, folder, judge("pytorch", "torch_zoo", backend, observer, folder)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_written_in_torch(zoo, name):
    """Every edge on the same grid, whatever module it came from; noise within half a dB."""
    backend, observer, folder, edges = zoo
    data = np.load(folder / f"{name}.npz")
    samples = [{"x": x} for x in data["x"]]
    mine = planned(folder / f"{name}.onnx", samples, backend, observer)
    found = agreement(mine, edges[name])
    assert not found.differing
    assert found.alike >= 15
    assert max(found.scales.values()) < 1e-6
    assert not any(found.zero_points.values())
    (output,) = mine.graph.proto.graph.output
    pair = {output.name: (data["float"], data["quantized"])}
    apart = decibels_apart(mine, samples, pair)[output.name]
    assert abs(apart) < 0.5, apart


def smooth(rng, shape, low, high):
    """Return a random picture: noise of two octaves."""
    coarse = rng.random([max(1, d // 8) if d > 4 else d for d in shape])
    for axis, d in enumerate(shape):
        coarse = np.take(coarse, np.arange(d) * coarse.shape[axis] // d, axis=axis)
    x = 0.8 * coarse + 0.2 * rng.random(shape)
    return (low + (high - low) * x).astype(np.float32)


def shared_case(name, count):
    path = MODELS / name / "model.onnx"
    if not path.is_file():
        pytest.skip(f"the shared model {name} is not here")
    (value,) = [v for v in onnx.load(path).graph.input if v.name in ("input_1", "input", "images")]
    shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
    rng = np.random.default_rng(0)
    return path, [{value.name: smooth(rng, shape, *RANGES[name])} for _ in range(count)]


@pytest.mark.parametrize(
    ("name", "backend", "observer", "count"),
    [
        ("resnet8_cifar10", "x86", "histogram", 16),
        ("resnet8_cifar10", "qnnpack", "histogram", 16),
        ("face_rfb320", "qnnpack", "minmax", 2),
        ("yolo11n_heads", "x86", "histogram", 1),
    ],
)
def test_shared_models(judge, tmp_path, name, backend, observer, count):
    """All edges alike; the search for a range may stop elsewhere where sums differ in rounding."""
    path, samples = shared_case(name, count)
    mine = planned(path, samples, backend, observer)
    question = write_question(tmp_path, mine, samples)
    theirs = judge("pytorch", "torch_fx", *question, backend, observer, "")
    found = agreement(mine, theirs["edges"])
    assert not found.differing
    assert found.median_scale < 1e-6
    scales = list(found.scales.values())
    assert np.quantile(scales, 0.9) < 1e-5
    apart = decibels_apart(mine, samples, outputs_of(mine, theirs["outputs"]))
    assert max(map(abs, apart.values())) < 1, apart


def test_layers_left_in_float(judge, tmp_path):
    """A layer named in the table is a layer whose module has no qconfig."""
    path, samples = shared_case("resnet8_cifar10", 2)
    floats = ["model/conv2d_3/BiasAdd", "model/dense/MatMul"]
    mine = planned(path, samples, "x86", "minmax", floats=floats)
    question = write_question(tmp_path, mine, samples)
    theirs = judge("pytorch", "torch_fx", *question, "x86", "minmax", ",".join(floats))
    found = agreement(mine, theirs["edges"])
    assert not found.differing
    assert max(found.scales.values()) < 1e-6


def test_histograms_are_equal_to_the_bit(judge, tmp_path):
    """Counts and range of `HistogramObserver` over streams whose range grows."""
    rng = np.random.default_rng(0)
    streams = {}
    for k in range(30):
        for i in range(int(rng.integers(1, 5))):
            x = rng.laplace(size=int(rng.integers(10, 50_000))) * rng.uniform(0.5, 2)
            x = [x, np.maximum(x, 0), np.clip(x * 3, 0, 6), x + 3, np.exp(x)][k % 5]
            streams[f"{k}/{i}"] = x.astype(np.float32)
    streams["constant/0"] = np.full(9, 2.5, np.float32)
    streams["constant, then wider/0"] = np.full(9, 2.5, np.float32)
    streams["constant, then wider/1"] = rng.random(99, np.float32) * 9
    np.savez(tmp_path / "streams.npz", **{k.replace("/", "//"): v for k, v in streams.items()})
    theirs = judge("pytorch", "torch_histogram", tmp_path / "streams.npz")
    assert len(theirs) == 32
    for name, (counts, lo, hi) in theirs.items():
        observer = TorchHistogram()
        for key, x in streams.items():
            if key.rsplit("/", 1)[0] == name:
                observer.update(x, 0)
        found = observer.result()
        assert observer.counts.tolist() == counts, name
        assert (found.lo, found.hi) == (lo, hi), name
