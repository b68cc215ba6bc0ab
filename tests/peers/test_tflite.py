# SPDX-License-Identifier: Apache-2.0
"""The litert target against ai-edge-quantizer itself: placement, scales, and quantized outputs.

There is no TensorFlow here: the judge writes float .tflite files out of the ONNX graphs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer.load import bind_shapes, load_model
from analyzer.records import Setting

HERE = Path(__file__).resolve().parent
MODELS = HERE.parents[2] / "shared" / "models"
sys.path[:0] = [str(HERE), str(HERE.parent)]

from random_graphs import random_model  # noqa: E402
from tflite_cases import Case, ask  # noqa: E402
from tflite_nets import NETS  # noqa: E402

# name -> range of its inputs
REAL = {
    "resnet8_cifar10": (0, 255),
    "mobilenet_v1_025_imagenet": (-1, 1),
    "vww_mobilenet": (0, 1),
    "ad_autoencoder": (-40, 10),
}
SAMPLES = 4
# edges that differ: a graph output that is requantized for a Concat is handed out requantized
KNOWN = {
    "output_read_inside.int8": {("", "y")},
    "output_read_inside.int16x8": {("", "y")},
}
# LiteRT 2.3 computes something else than fake-quantization here, or nothing at all
KERNELS = {
    "div.int8", "batch_matmul_by_a_constant.int8", "batch_matmul_by_a_constant.int16x8",
    "concat_of_sigmoid.int8", "output_read_inside.int8",
}  # fmt: skip

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


def bound(path):
    model = load_model(path)
    return bind_shapes(model, {s.name: tuple(d or 1 for d in s.shape) for s in model.inputs})


def small(name, folder):
    text, constants = NETS[name]
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 14]> {text}')
    for number, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}{number}"
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()
    )
    path = folder / f"{name}.onnx"
    path.write_bytes(proto.SerializeToString())
    return bound(path)


def smooth(rng, shape, low, high):
    """Random pictures with structure, darker or brighter from one to the next."""
    x = rng.random(shape) * 0.3
    for coarse in (8, 2):
        part = rng.random([max(1, d // coarse) if d > 4 else d for d in shape])
        for axis, d in enumerate(shape):
            part = np.take(part, np.arange(d) * part.shape[axis] // d, axis=axis)
        x += part
    x = (x - x.min()) / (x.max() - x.min()) * rng.uniform(0.6, 1.0)
    return (low + (high - low) * x).astype(np.float32)


def samples_of(model, low, high):
    rng = np.random.default_rng(0)
    return [
        {s.name: smooth(rng, s.shape, low, high) for s in model.inputs} for _ in range(SAMPLES)
    ]


@pytest.fixture(scope="module")
def nets(judge, tmp_path_factory):
    """All small graphs at int8 and int16x8, asked in one go."""
    folder = tmp_path_factory.mktemp("nets")
    cases = []
    for name in NETS:
        model = small(name, folder)
        samples = samples_of(model, -1.5, 1)
        cases += [
            Case(f"{name}.{precision}", model, samples, Setting(precision=precision))
            for precision in ("int8", "int16x8")
        ]
    return ask(judge, folder / "asked", cases)


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
@pytest.mark.parametrize("name", list(NETS))
def test_small_graphs_are_placed_alike(nets, name, precision):
    """Every edge is quantized alike, with scales equal to float32 rounding, and as noisy."""
    case = f"{name}.{precision}"
    check(nets[case], KNOWN.get(case, set()))
    if case not in KERNELS:
        assert nets[case].ours_db == pytest.approx(nets[case].theirs_db, abs=1.0)


# net -> (node left in float, the output of its operator; a graph output would be named, too)
DENIED = {
    "silu": ("Sigmoid1", "s"),
    "concat_read_elsewhere": ("Concat2", "j"),
    "concat_of_pools": ("MaxPool1", "p"),
    "depthwise": ("Conv0", "r"),
    "global_pool_softmax": ("Add4", "a"),
    "slices": ("Slice1", "s"),
}


def test_operators_in_float_are_placed_alike(judge, tmp_path):
    """A dispatch table on our side, a `no_quantize` rule by the name of the output on theirs."""
    cases = []
    for name, (node, output) in DENIED.items():
        model = small(name, tmp_path)
        setting = Setting(table={node: "fp32"})
        cases.append(Case(name, model, samples_of(model, -1.5, 1), setting, (output,)))
    found = ask(judge, tmp_path / "asked", cases)
    assert set(found) == set(DENIED)
    for result in found.values():
        check(result)


@pytest.fixture(scope="module")
def real(judge, tmp_path_factory):
    """Real CNNs, both ways to find ranges."""
    if not MODELS.is_dir():
        pytest.skip("the shared models are not here")
    cases = []
    for name, (low, high) in REAL.items():
        model = bound(MODELS / name / "model.onnx")
        samples = samples_of(model, low, high)
        for observer in ("moving_average", "minmax"):
            setting = Setting(observer=observer)
            cases.append(Case(f"{name}.{observer}", model, samples, setting, evaluate=SAMPLES))
    return ask(judge, tmp_path_factory.mktemp("real"), cases)


@pytest.mark.parametrize("observer", ["moving_average", "minmax"])
@pytest.mark.parametrize("name", list(REAL))
def test_real_models_are_placed_alike(real, name, observer):
    """And our simulated output is as noisy as the quantized model in the LiteRT interpreter."""
    result = real[f"{name}.{observer}"]
    check(result)
    assert result.ours_db == pytest.approx(result.theirs_db, abs=1.0)


def test_random_graphs_are_placed_alike(judge, tmp_path):
    """At least 99 % of the edges of random networks, with equal scales.

    Graphs that cannot be written as .tflite are left out.  What differs is a Clip to bounds that
    make a MAXIMUM and a MINIMUM of it, of which the tool quantizes the first, and see `KNOWN`.
    """
    cases = []
    for seed in range(60):
        proto, samples = random_model(seed)
        path = tmp_path / f"{seed}.onnx"
        path.write_bytes(proto.SerializeToString())
        cases.append(Case(str(seed), bound(path), samples))
    found = [r.agreement for r in ask(judge, tmp_path / "asked", cases).values() if same(r)]
    assert len(found) >= 30
    quantized = sum(a.quantized for a in found)
    exact = sum(a.scales[e] <= 2e-5 and a.zero_points[e] == 0 for a in found for e in a.scales)
    assert exact >= 0.99 * quantized


def same(result):
    """Tell whether the two float models compute the same."""
    return result.float_gap <= 1e-4


def check(result, known=frozenset()):
    found = result.agreement
    assert same(result)
    assert set(found.differing) <= known
    assert {e: v for e, v in found.scales.items() if v > 2e-5 and e not in known} == {}
    assert {e: v for e, v in found.zero_points.items() if v and e not in known} == {}
