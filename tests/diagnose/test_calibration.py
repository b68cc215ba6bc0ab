# SPDX-License-Identifier: Apache-2.0
"""QA114: what only the analysis data hold, told apart from what an observer cut on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.calibrate import calibrate
from analyzer.diagnose import diagnose
from analyzer.diagnose.calibration import narrow_calibration, refitted
from analyzer.diagnose.case import Case
from analyzer.place import place
from analyzer.records import Balance, Setting
from analyzer.targets import get_target

RNG = np.random.default_rng(0)


@pytest.fixture
def net(bind):
    return bind(
        """g (float[1,8] x) => (float[1,8] y) {
            [a] h = Gemm(x, w)  [r] k = Relu(h)  [b] y = Gemm(k, w)
        }""",
        w=RNG.standard_normal((8, 8)).astype(np.float32),
    )


def samples(size, count=4):
    rng = np.random.default_rng(1)
    return [{"x": (size * rng.standard_normal((1, 8))).astype(np.float32)} for _ in range(count)]


def measured(net, calibration, analysis, *, target="esp32p4", observer="minmax"):
    chosen = get_target(target)
    graph, plan = place(net, chosen, Setting(observer=observer))
    plan = calibrate(graph, plan, chosen, calibration)
    return Case(graph, plan, chosen, (), (), Balance(()), analysis, calibration)


@pytest.mark.parametrize("target", ["esp32p4", "onnxruntime"])
def test_values_that_calibration_did_not_show(net, target):
    """Analysis data four times as large: every range is at fault, and most of the noise goes."""
    case = measured(net, samples(1), samples(4), target=target)
    found = list(narrow_calibration(case))
    assert {c.code for c in found} == {"QA114"}
    assert found[0].layer is None
    assert found[0].evidence["tensors"] >= 3
    assert found[0].evidence["range_over_calibration"] == pytest.approx(4, rel=0.01)
    told = [f for f in diagnose(case) if f.code == "QA114"]
    assert told[0].layer is None
    assert told[0].gain > 0.9


def test_the_scale_grows_as_the_range_does(net):
    """Powers of two stay powers of two: four times the range is two more bits, at every place."""
    case = measured(net, samples(1), samples(4))
    (whole, *_) = narrow_calibration(case)
    before = {q.key: q.scale.item() for q in case.plan.quantizers if q.key in whole.changes}
    after = {key: q.scale.item() for key, q in whole.changes.items()}
    assert after == {key: 4 * scale for key, scale in before.items()}


def test_data_like_those_of_the_calibration(net):
    """Nothing is found on the calibration data themselves, nor where a KL search cut the range."""
    assert not list(narrow_calibration(measured(net, samples(1), samples(1))))
    tails = [{"x": np.float32([[50, *row["x"][0, 1:]]])} for row in samples(1)]
    assert not list(narrow_calibration(measured(net, tails, tails, observer="kl")))


def test_a_plan_from_a_file_tells_no_calibration(net, case_of, quantizer):
    """Its grids are known, what was seen is not."""
    q = quantizer("a", "in0", "x", 0.001)
    assert not list(narrow_calibration(case_of(net, [q], samples(4))))


def test_ranges_of_the_analysis_data(net):
    """Calibrated 16 times too wide, every scale is 16 times as large as it has to be."""
    case = measured(net, samples(16), samples(1))
    before = {q.key: q.scale for q in case.plan.quantizers}
    changes = refitted(case)
    assert len(changes) >= 3
    assert all(q.scale == before[key] / 16 for key, q in changes.items())
