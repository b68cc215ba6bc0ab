# SPDX-License-Identifier: Apache-2.0
"""Quirks of esp-ppq that a plan runs into: one net per code, and the numbers behind it."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.calibrate import calibrate
from analyzer.codes import CODES
from analyzer.place import place
from analyzer.records import Setting
from analyzer.targets import get_target

RNG = np.random.default_rng(3)


def f32(x):
    return np.asarray(x, np.float32)


def quirks(model, samples, target="esp32p4", **setting):
    """Return code -> findings."""
    target = get_target(target)
    graph, plan = place(model, target, Setting(**setting))
    plan = calibrate(graph, plan, target, samples)
    graph, plan = target.complete(graph, plan, samples)
    found = {}
    for finding in target.findings(graph, plan):
        assert finding.code in CODES
        assert finding.advice
        found.setdefault(finding.code, []).append(finding)
    return found


def normal(*shape, n=2):
    return [{"x": f32(RNG.standard_normal(shape))} for _ in range(n)]


ADD = """g (float[1,64] x) => (float[1,64] y) {
    [a] p = Tanh(x)  [b] q = Sigmoid(x)  [s] y = Add(p, q)
}"""


def test_an_8_bit_layer_in_front_of_a_16_bit_add(bind):
    """QA201: the Tanh's 127 steps of 2^-14 end at 0.0078, though it makes values up to 1."""
    found = quirks(bind(ADD), [{"x": f32(np.linspace(-3, 3, 64)[None])}] * 2, observer="minmax",
                   table={"s": "int16"})  # fmt: skip
    assert [f.layer for f in found["QA201"]] == ["a", "b"]
    assert found["QA201"][0].evidence == {
        "aligned_to": "s", "bits": 8, "bits_of_scale": 16, "step": 2.0**-14,
        "largest_value": 127 * 2.0**-14,
    }  # fmt: skip
    assert "QA202" not in found


def test_a_16_bit_layer_in_front_of_an_8_bit_add(bind):
    """QA202: its output has the Add's 8-bit step."""
    found = quirks(bind(ADD), normal(1, 64), observer="minmax", table={"a": "int16"})
    assert [f.layer for f in found["QA202"]] == ["a"]
    assert "QA201" not in found


def test_kl_cuts_a_spike(bind):
    """QA203: one value of 64 among normal ones is beyond what KL keeps; minmax keeps it."""
    x = RNG.standard_normal((1, 50000))
    x[0, 0] = 64
    model = bind("g (float[1,50000] x) => (float[1,50000] y) { [a] y = Sigmoid(x) }")
    (finding,) = quirks(model, [{"x": f32(x)}] * 2)["QA203"]
    assert (finding.layer, finding.evidence["slot"], finding.evidence["seen"]) == ("a", "in0", 64)
    assert finding.evidence["kept"] <= 16
    assert finding.evidence["exponent_of_range"] == 0  # 128 / 255 rounds up to 1
    assert "QA203" not in quirks(model, [{"x": f32(x)}] * 2, observer="minmax")


CONV = "g (float[1,2,4,4] x) => (float[1,2,4,4] y) { [c] y = Conv(x, w, b) }"


@pytest.mark.parametrize(("target", "bias", "saturates"), [
    ("esp32s3", 10.0, True), ("esp32p4", 10.0, False), ("esp32s3", 4.0, False),
])  # fmt: skip
def test_biases_of_20_bits(bind, target, bias, saturates):
    """QA204: steps of 2^-9 times 2^-7 hold +-8 in 20 bits, and 10 does not fit."""
    model = bind(CONV, w=np.full((2, 2, 1, 1), 0.24, np.float32), b=f32([bias, 0.1]))
    samples = [{"x": np.full((1, 2, 4, 4), 0.99, np.float32)}] * 2
    found = quirks(model, samples, target, observer="minmax")
    assert ("QA204" in found) == saturates
    if saturates:
        evidence = found["QA204"][0].evidence
        assert (evidence["bits"], evidence["channels"], evidence["share"]) == (20, 1, 0.5)
        assert evidence["largest_stored"] == (2**19 - 1) * 2.0**-16


def test_a_channel_of_zeros(bind):
    """QA205: steps of 2^-26 times 2^-6 hold +-0.5 in 32 bits."""
    weight = np.ones((2, 2, 1, 1), np.float32)
    weight[1] = 0
    found = quirks(bind(CONV, w=weight, b=f32([0.1, 3.0])), normal(1, 2, 4, 4))
    assert found["QA205"][0].evidence["largest_bias"] == 3
    assert "QA204" not in found


def test_outliers_of_a_large_constant(bind):
    """QA206: one weight of -5 among 18432 below 1 is left out by the percentile, not by minmax."""
    weight = RNG.uniform(-1, 1, (128, 144)).astype(np.float32)
    weight[5, 7] = -5
    model = bind("g (float[1,128] x) => (float[1,144] y) { [m] y = MatMul(x, w) }", w=weight)
    (finding,) = quirks(model, normal(1, 128))["QA206"]
    assert finding.evidence["values"] == 1
    assert finding.evidence["largest"] == 5
    assert "QA206" not in quirks(model, normal(1, 128), precision="int16")


def test_an_output_in_front_of_a_relu(bind):
    """QA207: the Conv's output is returned, and left in float for the Relu's sake."""
    model = bind(
        """g (float[1,2,4,4] x) => (float[1,2,4,4] h, float[1,2,4,4] y) {
            [c] h = Conv(x, w)  [r] y = Relu(h)
        }""",
        w=RNG.standard_normal((2, 2, 1, 1)).astype(np.float32),
    )
    (finding,) = quirks(model, normal(1, 2, 4, 4))["QA207"]
    assert (finding.layer, finding.evidence) == ("c", {"output": "h", "left_to": "r"})


def test_an_average_that_counts_its_padding(bind):
    """QA208: esp-ppq's own reference is another network; without padding it is the same one."""
    text = "g (float[1,2,6,6] x) => (float[1,2,6,6] y) {{ [p] y = AveragePool<{}>(x) }}"
    padded = text.format("kernel_shape = [3,3], pads = [1,1,1,1], strides = [1,1]")
    assert "'p'" in quirks(bind(padded), normal(1, 2, 6, 6))["QA208"][0].evidence["difference"]
    counted = padded.replace("kernel_shape", "count_include_pad = 1, kernel_shape")
    assert "QA208" not in quirks(bind(counted), normal(1, 2, 6, 6))


@pytest.mark.parametrize(("setting", "code"), [
    ({"precision": "int16"}, "QA209"), ({"table": {"t": "int16"}}, "QA210"),
])  # fmt: skip
def test_tables(bind, setting, code):
    """In a 16-bit model the reference reads them; in an 8-bit one only the exported file has."""
    model = bind("g (float[1,8] x) => (float[1,8] y) { [t] y = Tanh(x) }")
    found = quirks(model, normal(1, 8), observer="minmax", **setting)
    assert set(found) == {code}


def test_small_scales_that_differ(bind):
    """QA211: a Sigmoid below 0.02 has a finer step than the Add of 0.2 that reads it."""
    model = bind(
        """g (float[1,8] x) => (float[1,8] y, float[1,8] z) {
            [a] p = Sigmoid(x)  [t] z = Tanh(p)  [s] y = Add(p, c)
        }""",
        c=f32(np.full((1, 8), 0.2)),
    )
    samples = [{"x": f32(np.linspace(-9, -4, 8)[None])}] * 2
    (finding,) = quirks(model, samples, precision="int16")["QA211"]
    assert finding.layer == "s"
    assert finding.evidence == {
        "slot": "in0", "scale": 2.0**-17, "scale_of_producer": 2.0**-20
    }  # fmt: skip
    assert "QA211" not in quirks(model, samples, precision="int8")


def test_mse_at_16_bits(bind):
    """QA212: the search has a single candidate."""
    model = bind("g (float[1,8] x) => (float[1,8] y) { [t] y = Relu(x) }")
    found = quirks(model, normal(1, 8), observer="mse", precision="int16")
    assert found["QA212"][0].evidence["quantizers"] == 2


def test_nothing_is_found_in_a_plain_net(bind):
    """A Conv and a Relu of ordinary numbers run into none."""
    model = bind(
        "g (float[1,2,8,8] x) => (float[1,2,8,8] y) { [c] h = Conv(x, w, b)  [r] y = Relu(h) }",
        w=RNG.standard_normal((2, 2, 1, 1)).astype(np.float32), b=f32([0.1, -0.2]),
    )  # fmt: skip
    assert quirks(model, normal(1, 2, 8, 8)) == {}


def test_every_code_has_three_sentences():
    """Title, why, remedy."""
    for code in CODES.values():
        assert all(code)
        assert not code.title.endswith(".")
        assert code.why.endswith(".")
        assert code.remedy.endswith(".")
