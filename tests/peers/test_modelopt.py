# SPDX-License-Identifier: Apache-2.0
"""The TensorRT target against NVIDIA ModelOpt itself: Q/DQ pairs, their scales, and the noise."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer.targets.tensorrt import TENSORRT

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from modelopt_plans import agreement, decibels_apart, planned, write_question  # noqa: E402

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"
# model -> shape of a run, range of its values
CASES = {
    "resnet8_cifar10": ((1, 32, 32, 3), (0, 255)),
    "face_rfb320": ((1, 3, 240, 320), (-1, 1)),
    "ppocrv3_det": ((1, 3, 96, 96), (-2, 2)),
    "vww_mobilenet": ((1, 96, 96, 3), (0, 1)),
}
SAMPLES = 4

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


def pictures(shape, low, high):
    """Blurred noise of growing contrast, so that each sample widens the ranges of the last."""
    rng = np.random.default_rng(0)
    found = []
    for contrast in np.linspace(0.4, 1, SAMPLES):
        x = rng.random(shape)
        for axis in range(1, len(shape)):
            x = x + np.roll(x, 1, axis) + np.roll(x, 2, axis)
        x = (x - x.min()) / (x.max() - x.min())
        found.append((low + (high - low) * (0.5 + contrast * (x - 0.5))).astype(np.float32))
    return found


@pytest.fixture
def both(judge, tmp_path):
    """Return a function: a model, its samples and options -> (our plan, agreement, their NSRs)."""

    def ask(path, samples, **options):
        question = write_question(tmp_path, samples, analysed=len(samples), **options)
        answer = judge("modelopt", "modelopt_ptq", path, *question)
        mine = planned(path, samples, **options)
        return mine, agreement(mine, tmp_path / "produced.onnx"), answer["nsr"]

    return ask


@pytest.mark.parametrize(
    ("name", "method"),
    # ModelOpt takes half a minute for the placement of ppocrv3_det alone
    [*((name, "max") for name in CASES), *((n, "entropy") for n in CASES if n != "ppocrv3_det")],
)
def test_every_pair_agrees(both, name, method):
    """Placement and FP16 scales, as ModelOpt writes them by default."""
    path = MODELS / name / "model.onnx"
    if not path.is_file():
        pytest.skip(f"the shared model {name} is not here")
    shape, values = CASES[name]
    mine = planned_input(path)
    samples = [{mine: x} for x in pictures(shape, *values)]
    _, found, _ = both(path, samples, method=method)
    assert found.quantized > 20
    assert not found.differing
    # values summed in another order may fall on the other side of an FP16 step, or of a bin:
    # 64 of them lie between zero and the smallest threshold that the search looks at
    apart = list(found.scales.values())
    assert max(apart) <= (2**-10 if method == "max" else 1 / 60)
    assert sum(d > 0 for d in apart) <= 0.1 * len(apart)


def test_noise_agrees(both):
    """The network in float32 but for the pairs: our simulation has the noise of their model."""
    path = MODELS / "resnet8_cifar10" / "model.onnx"
    if not path.is_file():
        pytest.skip("the shared model resnet8_cifar10 is not here")
    shape, values = CASES["resnet8_cifar10"]
    samples = [{planned_input(path): x} for x in pictures(shape, *values)]
    mine, _, theirs = both(path, samples, method="max", precision="fp32")
    assert all(abs(d) < 0.1 for d in decibels_apart(mine, samples, theirs).values())


def test_excluded_layers_agree(both, tmp_path):
    """`nodes_to_exclude` is what a dispatch table with fp32 says."""
    path = tmp_path / "branches.onnx"
    onnx.save(branches(), path)
    rng = np.random.default_rng(2)
    samples = [{"x": rng.standard_normal((1, 16, 8, 8)).astype(np.float32)} for _ in range(2)]
    _, found, _ = both(path, samples, method="max", excluded=["two", "cat_conv"])
    assert found.quantized > 5
    assert not found.differing
    assert max(found.scales.values()) == 0


def test_quirks_are_theirs(both, tmp_path):
    """One scale for a Constant's weight, FP16 scales of tiny channels, a beta that is lost."""
    values = ", ".join("0.5" if i else "2.0" for i in range(256))
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 13]>
    quirks (float[4,16] x) => (float[4,16] y) {{
        v = Constant<value = float[16,16] {{ {values} }}>()
        [one] a = Gemm<beta = 0.5>(x, w, b)
        [two] y = MatMul(a, v)
    }}""")
    rng = np.random.default_rng(4)
    tiny = np.where(np.arange(16) < 3, 1e-5, 1)
    proto.graph.initializer.extend([
        numpy_helper.from_array((rng.standard_normal((16, 16)) * tiny).astype(np.float32), "w"),
        numpy_helper.from_array(rng.standard_normal(16).astype(np.float32), "b"),
    ])  # fmt: skip
    onnx.save(proto, tmp_path / "quirks.onnx")
    samples = [{"x": rng.standard_normal((4, 16)).astype(np.float32)}]
    mine, found, _ = both(tmp_path / "quirks.onnx", samples, method="max")
    assert not found.differing
    assert max(found.scales.values()) == 0
    codes = {f.code: f.layer for f in TENSORRT.findings(mine.graph, mine.plan)}
    assert codes == {"QA241": "two", "QA242": "one", "QA243": "one"}
    theirs = {n.name: n for n in onnx.load(tmp_path / "produced.onnx").graph.node}
    assert {a.name: a.f for a in theirs["one"].attribute}.get("beta", 1.0) == 1


def branches():
    """Two branches from one tensor, a residual Add, a Concat, a gate and a small head."""
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 13]>
    branches (float[1,16,8,8] x) => (float[1,16,8,8] y, float[1,4] z) {
        [stem] s = Conv(x, w0)
        [act] a = Relu(s)
        [one] b = Conv(a, w1)
        [sigmoid] g = Sigmoid(b)
        [silu] m = Mul(b, g)
        [two] c = Conv(a, w2)
        [skip] r = Add(m, a)
        [cat] k = Concat<axis = 1>(r, c)
        [cat_conv] d = Conv(k, w3)
        [pool] p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(k)
        [pool_conv] q = Conv(p, w4)
        [mean] n = GlobalAveragePool(q)
        [flat] f = Flatten(n)
        [fc] z = Gemm(f, w5)
        [resize] u = Resize(q, "", scales)
        [last] y = Add(u, d)
    }""")
    rng = np.random.default_rng(1)
    shapes = [(16, 16, 1, 1)] * 3 + [(16, 32, 1, 1)] * 2 + [(16, 4)]
    values = {f"w{i}": rng.standard_normal(shape) for i, shape in enumerate(shapes)}
    values["scales"] = np.array([1, 1, 2, 2])
    proto.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()
    )
    return proto


def planned_input(path):
    """Return the name of a model's one input."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = {t.name for t in graph.initializer}
    return next(i.name for i in graph.input if i.name not in constants)
