# SPDX-License-Identifier: Apache-2.0
"""Calibration: scales worked out by hand, and what must not depend on order or threads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer import calibrate as module
from analyzer.calibrate import (
    calibrate,
    calibration_phases,
    observe_all,
    scaled,
    watched,
    with_other_observers,
)
from analyzer.errors import DataError
from analyzer.graph.view import GraphView
from analyzer.place import place
from analyzer.records import Quantizer, Setting
from analyzer.targets.espdl import ESP32P4
from analyzer.targets.onnxruntime import ONNXRUNTIME

TWO_CONVS = """g (float[1,1,1,4] x) => (float[1,1,1,4] y) {
    [c1] h = Conv(x, w1, b1)
    [r1] r = Relu(h)
    [c2] y = Conv(r, w2, b2)
}"""


@pytest.fixture
def net(bind):
    return bind(
        TWO_CONVS,
        w1=np.float32([1, 0.25]).reshape(2, 1, 1, 1), b1=np.float32([0.5, -0.25]),
        w2=np.float32([0.75, -0.5]).reshape(1, 2, 1, 1), b2=np.float32([0.0]),
    )  # fmt: skip


def runs(*rows):
    return [{"x": np.float32(row).reshape(1, 1, 1, 4)} for row in rows]


DATA = runs([-1, 0.5, 2, 3], [0, 1, -2, 1.5])


def scales(plan):
    return {f"{q.node}.{q.slot}": q.scale.tolist() for q in plan.quantizers}


def calibrated(model, samples, target=ESP32P4, observer="minmax", **options):
    graph, plan = place(model, target, Setting(observer=observer))
    return calibrate(graph, plan, target, samples, **options)


def test_minmax_scales_by_hand(net):
    """Powers of two from 2 max|x| / 255 upwards, bias scales the product of two.

    x reaches 3: 6/255 -> 2^-5.  w1: 2/255 -> 2^-6 and 0.5/255 -> 2^-8.  The Relu reaches 3.5:
    7/255 -> 2^-5, and Conv and the next input follow it.  w2: 1.5/255 -> 2^-7.
    y reaches 0.75 * 3.5 - 0.5 * 0.5 = 2.375: 4.75/255 -> 2^-5.
    """
    assert scales(calibrated(net, DATA)) == {
        "c1.in0": [2**-5],
        "c1.in1": [2**-6, 2**-8],
        "c1.in2": [2**-11, 2**-13],
        "c1.out0": [2**-5],
        "r1.in0": [2**-5],
        "r1.out0": [2**-5],
        "c2.in0": [2**-5],
        "c2.in1": [2**-7],
        "c2.in2": [2**-12],
        "c2.out0": [2**-5],
    }


def test_onnxruntime_scales_by_hand(net):
    """x covers -2..3 in 255 steps, zero at -26; weights 254 steps; biases have the product."""
    plan = calibrated(net, DATA, ONNXRUNTIME)
    found = {f"{q.node}.{q.slot}": q for q in plan.quantizers}

    def check(key, scale, zero):
        np.testing.assert_allclose(found[key].scale, scale, rtol=1e-6)
        assert found[key].zero_point.tolist() == zero

    check("c1.in0", [5 / 255], [-26])  # -128 + 2 / (5/255) = -26
    check("c1.in1", [1 / 127, 0.25 / 127], [0, 0])
    check("c1.in2", [5 / 255 / 127, 5 / 255 * 0.25 / 127], [0, 0])
    check("r1.out0", [3.5 / 255], [-128])
    check("c2.in1", [0.75 / 127], [0])
    check("c2.out0", [2.375 / 255], [-128])


@pytest.mark.parametrize(
    ("observer", "scale"), [("kl", 2**-7), ("minmax", 2**-6), ("percentile", 2**-6)]
)
def test_a_kl_threshold_goes_to_the_nearest_power_of_two(bind, observer, scale):
    """Uniform values up to 1.3: 1.3/128 is nearest to 2^-7, a range must be covered by 2^-6."""
    model = bind("g (float[1,6000] x) => (float[1,6000] y) { [act] y = LeakyRelu(x) }")
    x = np.linspace(-1.3, 1.3, 6000, dtype=np.float32)[None]
    plan = calibrated(model, [{"x": x}], observer=observer)
    assert scales(plan)["act.in0"] == [scale]


def test_followers_take_the_scale_of_their_root(bind):
    """Whatever the producers' own ranges are, an Add's inputs have the scale of its output."""
    model = bind(
        """g (float[1,4] x) => (float[1,4] s) {
            [a] p = LeakyRelu(x)  [b] q = Tanh(x)  [sum] s = Add(p, q)
        }"""
    )
    plan = calibrated(model, [{"x": np.float32([[-1, 0, 3, 90]])}])
    found = {f"{q.node}.{q.slot}": q for q in plan.quantizers}
    for key in ("a.out0", "b.out0", "sum.in0", "sum.in1"):
        assert found[key].follows == ("sum", "out0")
        assert found[key].scale.tolist() == found["sum.out0"].scale.tolist() == [2.0**0]


@pytest.mark.parametrize(("with_quantized_weights", "scale"), [(True, 2**-4), (False, 2**-5)])
def test_the_weights_that_calibration_sees(bind, with_quantized_weights, scale):
    """esp-ppq calibrates behind quantized weights, onnxruntime behind the real ones.

    0.99 becomes 127/128; 4.02 times that is 3.98859, beyond the 127.5 steps of 2^-5 (3.98438)
    which 4.02 * 0.99 = 3.9798 stays below.
    """
    model = bind(
        "g (float[1,1,1,1] x) => (float[1,1,1,1] y) { [c] y = Conv(x, w) }",
        w=np.float32([[[[0.99]]]]),
    )
    target = replace(ESP32P4, calibrates_with_quantized_weights=with_quantized_weights)
    plan = calibrated(model, [{"x": np.float32([[[[4.02]]]])}], target)
    assert scales(plan)["c.out0"] == [scale]


def test_each_target_says_which_weights_it_calibrates_with():
    """The two profiles differ in this."""
    assert ESP32P4.calibrates_with_quantized_weights
    assert not ONNXRUNTIME.calibrates_with_quantized_weights


@pytest.fixture
def many():
    rng = np.random.default_rng(0)
    return runs(*rng.standard_normal((12, 4)))


@pytest.mark.parametrize("observer", ["minmax", "kl", "mse", "percentile"])
def test_the_order_of_samples_and_the_number_of_threads_do_not_matter(net, many, observer):
    """Forwards, backwards and on three threads: the same scales."""
    forth = scales(calibrated(net, many, observer=observer))
    assert scales(calibrated(net, many[::-1], observer=observer)) == forth
    assert scales(calibrated(net, many, observer=observer, workers=3)) == forth


@pytest.mark.parametrize("observer", ["minmax", "kl"])
def test_cutting_the_graph_does_not_matter(net, many, observer, monkeypatch):
    """One session per node sees what one session for all sees."""
    whole = scales(calibrated(net, many, observer=observer))
    monkeypatch.setattr("analyzer.calibrate.observe.SEGMENT_BYTES", 0)
    assert scales(calibrated(net, many, observer=observer)) == whole


def test_no_sample_is_an_error(net):
    """Calibration without data is refused, not made up."""
    with pytest.raises(DataError, match="no calibration sample"):
        calibrated(net, [])


def test_nan_in_an_input_names_the_tensor_and_the_sample(net):
    """The user learns which sample to look at."""
    with pytest.raises(DataError, match="'x' turns NaN on calibration sample 1"):
        calibrated(net, [DATA[0], *runs([0, np.nan, 0, 0])])


def test_nan_made_inside_names_the_tensor(bind):
    """0 / 0 appears behind the division."""
    model = bind("g (float[1,4] x) => (float[1,4] y) { [half] h = Div(x, x)  [n] y = Tanh(h) }")
    with pytest.raises(DataError, match="'h' turns NaN on calibration sample 0"):
        calibrated(model, [{"x": np.zeros((1, 4), np.float32)}])


@pytest.mark.parametrize(("observer", "phases"), [("minmax", 1), ("percentile", 1), ("kl", 2)])
def test_the_number_of_phases_and_the_progress(net, observer, phases):
    """KL reads the data twice: every run is told once."""
    _, plan = place(net, ESP32P4, Setting(observer=observer))
    told = []
    calibrated(net, DATA, observer=observer, step=told.append)
    assert calibration_phases(net, [(plan, ESP32P4)]) == phases
    assert sum(told) == phases * len(DATA)


def test_targets_share_runs_only_where_they_run_the_same_graph(net):
    """With and without graph optimizations, values differ by rounding: two sweeps."""
    _, plan = place(net, ONNXRUNTIME)
    optimized = replace(ONNXRUNTIME, calibrates_unoptimized=False)
    assert calibration_phases(net, [(plan, ONNXRUNTIME), (plan, ONNXRUNTIME)]) == 1
    assert calibration_phases(net, [(plan, ONNXRUNTIME), (plan, optimized)]) == 2


def test_silence_has_a_scale(net):
    """All-zero data calibrates to the smallest scale, and quantizes to zero."""
    plan = calibrated(net, runs([0, 0, 0, 0]))
    assert scales(plan)["c1.in0"] == [2**-26]


def test_the_range_of_a_parameter():
    """Per channel along the axis, per tensor, and by percentile where there are many values."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)

    def quantizer(**changes):
        return Quantizer("n", "in1", "w", "weight", 8, **changes)

    low, high = ESP32P4.constant_range(x, quantizer(axis=1, observer="minmax"))
    assert (low.tolist(), high.tolist()) == ([0, 1, 2], [3, 4, 5])
    low, high = ESP32P4.constant_range(x, quantizer(observer="minmax"))
    assert (low.tolist(), high.tolist()) == ([0], [5])
    low, high = ESP32P4.constant_range(
        np.arange(30000, dtype=np.float32), quantizer(observer="percentile")
    )
    assert (low.tolist(), high.tolist()) == ([2], [29997])
    low, high = ESP32P4.constant_range(np.empty(0, np.float32), quantizer(observer="percentile"))
    assert (low.tolist(), high.tolist()) == ([0], [0])


@pytest.fixture
def shown(monkeypatch):
    """How many runs were begun: one entry per sweep over the data."""
    sweeps = []
    real = module.show_samples

    def counted(model, view, watches, *rest, **options):
        sweeps.append(len(watches))
        return real(model, view, watches, *rest, **options)

    monkeypatch.setattr(module, "show_samples", counted)
    return sweeps


@pytest.mark.parametrize(("table", "sweeps"), [({}, 1), ({"c2": "fp32"}, 2), ({"c2": "int16"}, 2)])
def test_plans_with_the_same_weights_share_their_runs(net, shown, table, sweeps):
    """Observers may differ; a weight in 16 bits, or in float, makes other values."""
    plans = [
        place(net, ESP32P4, setting)[1]
        for setting in (Setting("minmax"), Setting("mse", table=table))
    ]
    graph = place(net, ESP32P4)[0]
    found = observe_all(graph, [(plan, ESP32P4) for plan in plans], DATA)
    assert len(shown) == sweeps
    for plan, ranges in zip(plans, found, strict=True):
        alone = scales(calibrate(graph, plan, ESP32P4, DATA))
        assert scales(scaled(GraphView(graph.proto.graph), plan, ESP32P4, ranges)) == alone


def test_targets_that_calibrate_in_fp32_always_share(net, shown):
    """onnxruntime sees the real weights, whatever they are rounded to."""
    graph, plan = place(net, ONNXRUNTIME)
    wide = place(net, ONNXRUNTIME, Setting(table={"c2": "fp32"}))[1]
    found = observe_all(graph, [(plan, ONNXRUNTIME), (wide, ONNXRUNTIME)], DATA)
    assert len(shown) == 1
    for job, ranges in zip((plan, wide), found, strict=True):
        assert set(ranges) == set(watched(job))


@pytest.mark.parametrize("target", [ESP32P4, ONNXRUNTIME], ids=lambda t: t.name)
def test_constants_that_are_held_give_the_same_scales(net, target):
    """For two plans of one graph, one of them with another observer; weights are scaled once."""
    graph, plan = place(net, target)
    other = place(net, target, Setting("percentile"))[1]
    found = observe_all(graph, [(plan, target), (other, target)], DATA)
    view, held, sizes = GraphView(graph.proto.graph), {}, []
    for job, ranges in zip((plan, other, plan), (*found, found[0]), strict=True):
        with_held = scaled(view, job, target, ranges, held)
        assert scales(with_held) == scales(scaled(view, job, target, ranges))
        sizes.append(len(held))
    assert sizes[0] == sizes[1] == sizes[2] > 0


def test_a_held_constant_is_not_taken_for_another(net):
    """Per tensor, and of fewer layers: scales of their own."""
    graph, _ = place(net, ONNXRUNTIME)
    view, held = GraphView(graph.proto.graph), {}
    settings = (Setting(), Setting(granularity="tensor"), Setting(table={"c1": "fp32"}))
    for setting in settings:
        job = place(net, ONNXRUNTIME, setting)[1]
        (ranges,) = observe_all(graph, [(job, ONNXRUNTIME)], DATA)
        with_held = scaled(view, job, ONNXRUNTIME, ranges, held)
        assert scales(with_held) == scales(scaled(view, job, ONNXRUNTIME, ranges))


def test_a_plan_with_every_other_observer(net):
    """One per observer that is not its own; nothing but activations' observers is different."""
    _, plan = place(net, ESP32P4, Setting("minmax"))
    others = list(with_other_observers(plan, ESP32P4))
    moving = ("input", "activation")
    assert [
        {q.observer for q in other.quantizers if q.role in moving and q.observer}
        for other in others
    ] == [{"kl"}, {"percentile"}, {"mse"}]
    for other in others:
        assert other == replace(plan, quantizers=other.quantizers)
        for mine, theirs in zip(plan.quantizers, other.quantizers, strict=True):
            kept = mine.role not in moving or mine.observer is None
            assert theirs == (mine if kept else replace(mine, observer=theirs.observer))


def test_other_observers_are_what_a_setting_asks_for(net):
    """The plan with percentiles is the one that is placed with percentiles."""
    graph, plan = place(net, ESP32P4, Setting("minmax"))
    for other in with_other_observers(plan, ESP32P4):
        (observer,) = {q.observer for q in other.quantizers if q.role == "input"}
        placed = place(net, ESP32P4, Setting(observer))[1]
        assert set(watched(other)) == set(watched(placed))
        expected = scales(calibrate(graph, placed, ESP32P4, DATA))
        assert scales(calibrate(graph, other, ESP32P4, DATA)) == expected
