# SPDX-License-Identifier: Apache-2.0
"""Ranges of single tensors: they reach the grid they are meant for, and promise what they do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer.calibrate import calibrate
from analyzer.fixes.grids import ends, giving, loud_grids, scale_of
from analyzer.fixes.ranges import MOST, ranges_remedies
from analyzer.fixes.remedy import applied
from analyzer.place import place
from analyzer.records import Finding, Setting, Source
from analyzer.targets import get_target, target_names
from analyzer.targets.espdl import ESP32P4
from analyzer.targets.onnxruntime import ONNXRUNTIME


@pytest.fixture
def net(bind):
    """Two layers in a row, and one that goes another way."""
    rng = np.random.default_rng(0)
    return bind(
        """g (float[1,16,32,32] x) => (float[1,16,32,32] y, float[1,16,32,32] z) {
            [a] h = Conv(x, wa)  [b] y = Conv(h, wb)  [c] z = Conv(x, wb)
        }""",
        wa=rng.standard_normal((16, 16, 1, 1)).astype(np.float32),
        wb=rng.standard_normal((16, 16, 1, 1)).astype(np.float32),
    )


def samples_of(count=2, outliers=0):
    rng = np.random.default_rng(1)
    found = []
    for _ in range(count):
        x = rng.standard_normal((1, 16, 32, 32)).astype(np.float32)
        x.ravel()[:outliers] *= 12
        found.append({"x": x})
    return found


def replanned(situation, remedy, samples):
    setting = applied(situation.setting, [remedy])
    graph, plan = place(situation.source, situation.target, setting)
    return calibrate(graph, plan, situation.target, samples)


@pytest.mark.parametrize("name", target_names())
def test_every_range_makes_another_scale_where_it_is_asked_for(net, told, name):
    """For every target: the scale of the tensor's quantizers is the one announced, and no
    other quantizer of activations is moved.
    """
    samples = samples_of(outliers=2)
    situation = told(net, get_target(name), samples)
    before = {q.key: q for q in situation.plan.quantizers}
    alone = [r for r in ranges_remedies(situation) if len(r.ranges) == 1]
    assert alone or name == "pytorch"
    for remedy in alone[:3]:
        (tensor,) = remedy.ranges
        plan = replanned(situation, remedy, samples)
        moving = [q for q in plan.quantizers if q.active and q.role in ("input", "activation")]
        moved = {
            q.tensor for q in moving if not np.allclose(q.scale, before[q.key].scale, rtol=1e-5)
        }
        assert moved in ({tensor}, set())  # a range may move only the zero point
        ((low, high),) = {ends(q) for q in moving if q.tensor == tensor}
        assert f"[{low:.4g}, {high:.4g}]" in remedy.after


@pytest.mark.parametrize("name", target_names())
def test_the_present_grid_can_be_asked_for_by_a_range(net, told, name):
    """Every target's rule for ranges is inverted: the range gives exactly the scale back."""
    situation = told(net, get_target(name), samples_of())
    for grid in loud_grids(situation):
        choice = giving(situation.target, grid.root, "")
        assert scale_of(choice.made) == pytest.approx(scale_of(grid.root), rel=1e-5)


def test_a_kl_threshold_is_asked_for_by_its_scale(net, told):
    """esp-ppq rounds a KL threshold to the nearest power of two and a range up to the next."""
    samples = samples_of(outliers=2)
    situation = told(net, ESP32P4, samples, Setting(observer="minmax"))
    by_kl = {q.tensor: q for q in told(net, ESP32P4, samples).plan.quantizers}
    found = [r for r in ranges_remedies(situation) if r.after.endswith("(as by kl)")]
    assert found
    for remedy in found:
        (tensor,) = remedy.ranges
        plan = replanned(situation, remedy, samples)
        made = next(q for q in plan.quantizers if q.tensor == tensor and q.active)
        assert scale_of(made) == scale_of(by_kl[tensor])


def test_the_least_squared_error_is_found(net, told):
    """Few values far out: no other grid over the tensor has less error, by trying them all."""
    samples = samples_of(outliers=2)
    situation = told(net, ONNXRUNTIME, samples)
    remedy = next(
        r for r in ranges_remedies(situation) if "x" in r.ranges and "least squared" in r.after
    )
    values = np.concatenate([s["x"].ravel() for s in samples])

    def error(low, high):
        step = (high - low) / 255
        zero = np.rint(-128 - low / step)
        grid = (np.clip(np.rint(values / step) + zero, -128, 127) - zero) * step
        return float(np.sum((grid - values) ** 2))

    low, high = float(values.min()), float(values.max())
    tried = [error(low * a, high * b) for a in np.linspace(0.1, 1, 40) for b in
             np.linspace(0.1, 1, 40)]  # fmt: skip
    assert error(*remedy.ranges["x"]) <= 1.1 * min(tried)
    assert error(*remedy.ranges["x"]) < 0.95 * error(low, high)
    assert remedy.expected > 0


def test_halving_the_step_is_worth_three_quarters(net, told):
    """A grid twice as wide as its values: the error of rounding goes with the step's square."""
    samples = samples_of()
    wide = Setting(observer="minmax", ranges={"h": (-60.0, 60.0)})
    sources = [Source("h", "group", ("a", "b"), (("a", "out0"),), nsr=1.0)]
    situation = told(net, ESP32P4, samples, wide, sources=sources)
    half = next(r for r in ranges_remedies(situation) if r.after.endswith("(half the step)"))
    assert list(half.ranges) == ["h"]
    assert half.expected == pytest.approx(0.75, abs=0.02)


def test_grids_that_the_target_sets_or_that_are_fine_are_left_alone(bind, told):
    """A Softmax of TFLite has its scale by definition; 16 bits are enough."""
    model = bind(
        "g (float[1,8] x) => (float[1,8] y) { [a] h = MatMul(x, w) [s] y = Softmax(h) }",
        w=np.eye(8, dtype=np.float32),
    )
    rng = np.random.default_rng(0)
    samples = [{"x": rng.standard_normal((1, 8)).astype(np.float32)} for _ in range(2)]
    tensors = {
        t for r in ranges_remedies(told(model, get_target("tflite"), samples)) for t in r.ranges
    }
    assert tensors <= {"x", "h"}
    wide = told(model, ESP32P4, samples, Setting(precision="int16"))
    assert ranges_remedies(wide) == []


def test_levels_that_pytorch_keeps_free_stay_free(net, told):
    """For x86 observed ranges take up 127 of 255 steps; no remedy fills the others by the way."""
    plain = {}
    for name in ("pytorch", "pytorch-qnnpack"):
        situation = told(net, get_target(name), samples_of(outliers=2), Setting(observer="minmax"))
        plain[name] = [r for r in ranges_remedies(situation) if len(r.ranges) == 1]
    assert plain["pytorch-qnnpack"]
    assert plain["pytorch"] == []


def test_quiet_sources_are_left_alone_unless_something_was_found_there(net, told):
    """Less than half a percent of the noise is nothing to look at, but a finding's gain is."""
    samples = samples_of(outliers=2)
    sources = [
        Source("loud", "group", ("a",), (("a", "in0"),), nsr=1.0),
        Source("quiet", "group", ("b",), (("a", "out0"),), nsr=1e-4),
    ]
    situation = told(net, ESP32P4, samples, sources=sources)
    assert {t for r in ranges_remedies(situation) for t in r.ranges} == {"x"}
    finding = Finding("QA103", "a", {"tensor": "h"}, "", gain=0.3)
    noted = replace(situation, findings=(finding,))
    assert {t for r in ranges_remedies(noted) for t in r.ranges} == {"x", "h"}


def test_grids_of_one_source_are_widened_together(net, told):
    """Values cut twice: both ranges in one remedy, which promises more than either alone."""
    narrow = Setting(ranges={"h": (-1.0, 1.0), "y": (-4.0, 4.0)})
    keys = (("a", "out0"), ("b", "out0"))
    sources = [Source("h", "group", ("a", "b"), keys, nsr=1.0)]
    found = ranges_remedies(told(net, ONNXRUNTIME, samples_of(), narrow, sources=sources))
    assert set(found[0].ranges) == {"h", "y"}
    assert found[0].layers == ("a", "b")
    assert found[0].expected > 0.8
    assert all(r.expected < 0.8 for r in found if len(r.ranges) == 1)


def test_there_are_few_and_the_best_come_first(net, told):
    """At most so many, sorted by what they promise, none twice; the same every time."""
    situation = told(net, ONNXRUNTIME, samples_of(outliers=3))
    found = ranges_remedies(situation)
    assert len(found) <= MOST
    expected = [r.expected for r in found]
    assert expected == sorted(expected, reverse=True)
    assert len({tuple(r.ranges.items()) for r in found}) == len(found)
    assert found == ranges_remedies(situation)
