# SPDX-License-Identifier: Apache-2.0
"""QA115: inputs that hold nothing, or are prepared otherwise than the model takes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer.diagnose.inputs import foreign_inputs

RNG = np.random.default_rng(0)


@pytest.fixture
def net(bind):
    """A first layer for pixels in 0..1: its products are about as large as its biases."""
    return bind(
        "g (float[1,3,32,32] x) => (float[1,4,32,32] y) { [a] y = Conv<pads=[1,1,1,1]>(x, w, b) }",
        w=RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
        b=np.ones(4, np.float32),
    )


def pictures(count=3, factor=1.0):
    """Smooth ones in 0..1: waves of other phases."""
    line = np.linspace(0, 6, 32)
    waves = [np.sin(line[:, None] + k) * np.cos(line[None] - k) / 2 + 0.5 for k in range(count)]
    rows = [factor * np.stack([wave, wave**2, 1 - wave])[None] for wave in waves]
    return [{"x": row.astype(np.float32)} for row in rows]


def told(net, case_of, quantizer, calibration, analysis=None):
    case = case_of(net, [quantizer("a", "in0", "x", 0.01)], analysis or calibration[:2])
    found = list(foreign_inputs(replace(case, calibration=calibration)))
    assert all(c.code == "QA115" and c.layer is None and c.certain for c in found)
    return [c.evidence["what"] for c in found]


def test_real_pictures(net, case_of, quantizer):
    """Nothing to say about them."""
    assert told(net, case_of, quantizer, pictures()) == []


@pytest.mark.parametrize(
    ("samples", "what"),
    [
        ([{"x": np.zeros((1, 3, 32, 32), np.float32)}] * 3, "constant"),
        (pictures(1) * 3, "one sample repeated"),
        ([{"x": RNG.random((1, 3, 32, 32), np.float32)} for _ in range(3)], "noise"),
        (pictures(factor=255), "too large for the first layer"),
        (pictures(factor=1 / 255), "too small for the first layer"),
    ],
)
def test_samples_that_cannot_be_right(net, case_of, quantizer, samples, what):
    """Each is told by what is wrong with it."""
    assert told(net, case_of, quantizer, samples) == [what]


def test_other_than_the_analysis_data(net, case_of, quantizer):
    """255 times as large as what is analysed, by the root of the mean square."""
    case = case_of(net, [quantizer("a", "in0", "x", 0.01)], pictures(2))
    (found,) = foreign_inputs(replace(case, calibration=pictures(2, factor=255)))
    assert found.evidence["what"] == "other than the analysis data"
    assert found.evidence["size_over_analysis"] == pytest.approx(255)


def test_a_single_sample_is_no_repetition(net, case_of, quantizer):
    """And a plan from a file has no calibration data to doubt."""
    assert told(net, case_of, quantizer, pictures(1)) == []
    case = case_of(net, [quantizer("a", "in0", "x", 0.01)], pictures(1))
    assert not list(foreign_inputs(case))


def test_a_setting_beside_inputs_that_vary(bind, case_of, quantizer):
    """A rate that never changes is no constant picture."""
    net = bind("g (float[1,4] x, float[2] rate) => (float[1,4] y, float[2] z) "
               "{ [a] y = Relu(x)  [b] z = Relu(rate) }")  # fmt: skip
    rows = [
        {"x": RNG.random((1, 4), np.float32), "rate": np.ones(2, np.float32)} for _ in range(3)
    ]
    assert told(net, case_of, quantizer, rows) == []
