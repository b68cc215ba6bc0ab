# SPDX-License-Identifier: Apache-2.0
"""Quirks QA201 to QA208, shown on esp-ppq itself: the error with and without."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).parent))

from esp_plans import job, planned, save_samples

from analyzer.targets import get_target

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]

RNG = np.random.default_rng(5)
IMAGE = "(float[1,2,8,8] x) => (float[1,2,8,8] y)"
EMPTY = np.ones((2, 2, 1, 1))
EMPTY[1] = 0
OUTLIER = RNG.uniform(-1, 1, (128, 144))
OUTLIER[5, 7] = -5
# nearly all values are the same: KL keeps 3 % of the range
SHAPE = (1, 2, 200, 200)
SPIKED = np.where(RNG.random(SHAPE) < 0.95, 0.03, RNG.uniform(0, 1, SHAPE))
WIDE = "(float[1,2,200,200] x) => (float[1,2,200,200] y)"
ADD = (
    "(float[1,256] x) => (float[1,256] y) { [a] p = Tanh(x) [b] q = Sigmoid(x) [s] y = Add(p, q) }"
)
BIASED = f"{IMAGE} {{ [c] y = Conv(x, w, b) }}"
POOL = (
    IMAGE
    + " {{ [p] y = AveragePool<kernel_shape = [3,3], pads = [1,1,1,1], strides = [1,1]{}>(x) }}"
)
NORMAL, LINE = RNG.standard_normal((1, 2, 8, 8)), np.linspace(-3, 3, 256)[None]
HALVES = np.full((2, 2, 1, 1), 0.24)
# code -> graph, constants, input, options that show it, and options or constants that do not
CASES = {
    "QA201": (ADD, {}, LINE, {"algorithm": "minmax", "table": {"s": "int16"}}, {"table": {}}),
    "QA203": (f"{WIDE} {{ [n] y = Neg(x) }}", {}, SPIKED, {}, {"algorithm": "minmax"}),
    "QA204": (BIASED, {"w": HALVES, "b": np.array([100.0, 0.1])}, NORMAL,
              {"target": "esp32s3"}, {"target": "esp32"}),
    "QA205": (BIASED, {"w": EMPTY, "b": np.array([0.1, 3.0])}, NORMAL, {}, {"target": "esp32"}),
    "QA206": ("(float[1,128] x) => (float[1,144] y) { [m] y = MatMul(x, w) }", {"w": OUTLIER},
              RNG.standard_normal((1, 128)), {"algorithm": "minmax"},
              {"algorithm": "minmax", "precision": "int16"}),
}  # fmt: skip


def write(folder, name, text, constants, value):
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 13]> g {text}')
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in constants.items()
    )
    onnx.save(proto, folder / f"{name}.onnx")
    samples = [{"x": value.astype(np.float32)}] * 2
    return folder / f"{name}.onnx", save_samples(folder / f"{name}.npz", samples), samples


@pytest.fixture(scope="module")
def answers(judge, tmp_path_factory):
    """Quantize all nets with and without; return code -> (model, samples, with, without)."""
    folder = tmp_path_factory.mktemp("quirks")
    made = {code: write(folder, code, *case[:3]) for code, case in CASES.items()}
    jobs = [
        job(made[code][0], made[code][1], graphwise=True, **options)
        for code, case in CASES.items()
        for options in (case[3], {**case[3], **case[4]})
    ]
    pools = {
        name: write(folder, name, POOL.format(more), {}, NORMAL)
        for name, more in (("ignored", ""), ("counted", ", count_include_pad = 1"))
    }
    jobs += [job(path, inputs, plain=True) for path, inputs, _ in pools.values()]
    relu = write(
        folder, "relu",
        "(float[1,2,8,8] x) => (float[1,2,8,8] h, float[1,2,8,8] y) "
        "{ [c] h = Conv(x, w) [r] y = Relu(h) }",
        {"w": EMPTY}, NORMAL,
    )  # fmt: skip
    jobs.append(job(relu[0], relu[1]))
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    found = judge("esp-ppq", "esp_ppq_plans", folder / "jobs.json")
    assert not [a["error"] for a in found if "error" in a]
    pairs = zip(found[::2], found[1::2], strict=False)
    shown = {code: (made[code], *pair) for code, pair in zip(CASES, pairs, strict=False)}
    return {
        **shown,
        "QA208": [(pools[n], a) for n, a in zip(pools, found[-3:-1], strict=True)],
        "QA207": (relu, found[-1]),
    }


def codes(path, samples, options):
    mine = planned(path, samples, **options)
    target = get_target(options.get("target", "esp32p4"))
    return {f.code for f in target.findings(mine.graph, mine.plan)}


@pytest.mark.parametrize("code", CASES)
def test_the_quirk_costs_the_real_quantizer_accuracy(answers, code):
    """The error is ten times that of the same net without it, and only there it is found."""
    (path, _, samples), there, not_there = answers[code]
    assert there["graphwise"]["output:y"] > 10 * not_there["graphwise"]["output:y"]
    shown, hidden = CASES[code][3], {**CASES[code][3], **CASES[code][4]}
    assert code in codes(path, samples, shown)
    assert code not in codes(path, samples, hidden)


def test_an_8_bit_layer_with_a_16_bit_scale_is_lost(answers):
    """QA201 turns an error of less than 0.1 % into one of more than 50 %."""
    _, there, not_there = answers["QA201"]
    assert not_there["graphwise"]["output:y"] < 1e-3
    assert there["graphwise"]["output:y"] > 0.5


def test_an_output_in_front_of_a_relu_is_float(answers):
    """QA207: esp-ppq leaves the config of that output to the Relu."""
    (path, _, samples), theirs = answers["QA207"]
    states = {(c["node"], c["slot"]): c["state"] for c in theirs["configs"]}
    assert states["c", "out0"] == "OVERLAPPED"
    assert "QA207" in codes(path, samples, {})


def test_its_float_reference_is_not_the_model(answers):
    """QA208: an average without its padding differs by percents, one that counts it does not."""
    errors = []
    for (path, _, samples), theirs in answers["QA208"]:
        (reference,) = ort.InferenceSession(path).run(None, samples[0])
        noise = np.asarray(theirs["plain"][0]) - reference
        errors.append(float((noise**2).sum() / (reference**2).sum()))
        assert ("QA208" in codes(path, samples, {})) == (errors[-1] > 1e-6)
    assert errors[0] > 0.01
    assert errors[1] < 1e-10
