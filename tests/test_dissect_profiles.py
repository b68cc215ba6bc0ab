# SPDX-License-Identifier: Apache-2.0
"""Histograms, ranges and channels of tensors, held against numpy and against hand counts."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_faults import SAMPLES

from analyzer.calibrate import calibrate
from analyzer.config import Config
from analyzer.dissect import profiles as stage
from analyzer.dissect.profiles import CHANNELS, profiles
from analyzer.dissect.tally import BINS, Tally, bins_for
from analyzer.pipeline import run
from analyzer.place import place
from analyzer.records import Quantizer, QuantPlan
from analyzer.targets.espdl import ESP32P4


def f32(*values):
    return np.array(values, np.float32)


def grid(node, slot, tensor, role="activation", scale=1.0, zero=0, **changes):
    scale = np.atleast_1d(np.asarray(scale, np.float64))
    zeros = np.broadcast_to(np.asarray(zero, np.int64), scale.shape)
    quantizer = Quantizer(node, slot, tensor, role, 8, scale=scale, zero_point=zeros)
    return replace(quantizer, **changes)


def plan_of(*quantizers):
    layers = tuple(dict.fromkeys(q.node for q in quantizers))
    return QuantPlan("test", layers, frozenset(), dict.fromkeys(layers, "int8"), quantizers)


def rounded(x, scale, low=-128, high=127):
    """What a grid without a zero point makes of values, by the formula."""
    return np.clip(np.rint(x / scale), low, high) * scale


def shares(x, profile, bins):
    """Share of values in the bins of a profile, by numpy; those beyond are in the end bins."""
    counts, _ = np.histogram(np.clip(x, profile.low, profile.high), bins,
                             (profile.low, profile.high))  # fmt: skip
    return counts / x.size


@pytest.fixture
def add(bind):
    """y = x + 0.5 for x of 4 channels; its input and its output have a grid each."""
    model = bind("g (float[1,4] x) => (float[1,4] y) { [n] y = Add(x, b) }", b=f32(0.5))
    return model, grid("n", "in0", "x", "input", 1.0, qmin=-4, qmax=3), grid(
        "n", "out0", "y", scale=0.5, qmin=-8, qmax=7
    )  # fmt: skip


def test_a_tensor_by_hand(add):
    """x = (-1, 0.25, 3, 5) on the grid -4 .. 3 in ones: 5 is clipped to 3, 0.25 becomes 0.

    y = (-0.5, 0.75, 3.5, 5.5) on -4 .. 3.5 in halves; quantized it is made from (-1, 0, 3, 3).
    """
    model, inner, outer = add
    first, second = profiles(model, plan_of(inner, outer), ["n"], [{"x": f32([-1, 0.25, 3, 5])}])
    assert (first.layer, first.slot, first.tensor, first.role) == ("n", "in0", "x", "input")
    assert (first.range, first.limits, first.step) == ((-1.0, 5.0), (-4.0, 3.0), 1.0)
    assert (first.clipped, first.samples, first.bits, first.scales) == (0.25, 1, 8, 1)
    assert (first.axis, first.count, first.per, first.holder) == (1, 4, 1, None)
    assert first.channels == ((-1.0, -1.0), (0.25, 0.25), (3.0, 3.0), (5.0, 5.0))
    assert first.noise == (0.0, 1.0, 0.0, 0.16)  # 4 of 25
    assert first.nsr == first.arriving == pytest.approx((0.0625 + 4) / (1 + 0.0625 + 9 + 25), 1e-3)
    assert second.slot == "out0"
    assert second.range == (-0.5, 5.5)
    signal = 0.25 + 0.5625 + 12.25 + 30.25
    assert second.nsr == pytest.approx((0.0625 + 4) / signal, 1e-3)  # 0.75 -> 1, 5.5 -> 3.5
    assert second.arriving == pytest.approx((0.0625 + 4) / signal, 1e-3)  # 0.5, 3.5 -> 3.5


def test_the_quantized_values_are_those_with_everything_quantized(add):
    """0.25 alone would leave y at 1 in halves; made from a rounded x it is 0.5."""
    model, inner, outer = add
    _, seen = profiles(model, plan_of(inner, outer), ["n"], [{"x": f32([0.25] * 4)}])
    width = (seen.high - seen.low) / len(seen.int8)
    (bin_,) = (k for k, share in enumerate(seen.int8) if share)
    assert seen.low + bin_ * width < 0.5 < seen.low + (bin_ + 1) * width
    assert seen.nsr == pytest.approx((0.25 / 0.75) ** 2, 1e-3)
    assert seen.arriving == pytest.approx((0.25 / 0.75) ** 2, 1e-3)


def test_histograms_are_those_of_numpy(bind):
    """Three samples of a MatMul, both branches written down in numpy."""
    rng = np.random.default_rng(5)
    w = rng.standard_normal((16, 24)).astype(np.float32)
    xs = [rng.standard_normal((32, 16)).astype(np.float32) * k for k in (1, 2, 3)]
    model = bind("g (float[32,16] x) => (float[32,24] y) { [n] y = MatMul(x, w) }", w=w)
    plan = plan_of(
        grid("n", "in0", "x", "input", 0.0625),
        grid("n", "in1", "w", "weight", 0.03125),
        grid("n", "out0", "y", scale=0.25),
    )
    x, wq = np.concatenate(xs), rounded(w, 0.03125)
    y = x @ w
    xq = rounded(x, 0.0625)
    yq = rounded(xq @ wq, 0.25)
    expected = {"in0": (x, xq), "in1": (w, wq), "out0": (y, yq)}
    found = profiles(model, plan, ["n"], [{"x": part} for part in xs], workers=2)
    assert [profile.slot for profile in found] == ["in0", "in1", "out0"]
    for profile in found:
        plain, made = expected[profile.slot]
        bins = len(profile.fp32)
        assert 32 < bins <= BINS
        # the ends are rounded: a few values may fall to their other side
        few = 3 / plain.size
        assert np.abs(profile.fp32 - shares(plain, profile, bins)).max() <= few
        assert np.abs(profile.int8 - shares(made, profile, bins)).max() <= few
        assert profile.range == pytest.approx((plain.min(), plain.max()), rel=1e-3)
        ends = zip(plain.min(0), plain.max(0), strict=True)
        assert np.array(profile.channels) == pytest.approx(np.array(list(ends)), rel=1e-3)
        step = profile.step
        alone = rounded(plain, step)
        noise = ((alone - plain) ** 2).sum(0) / (plain**2).sum(0)
        assert profile.noise == pytest.approx(noise, rel=1e-3)
        over = (plain > 127.5 * step) | (plain < -128.5 * step)
        assert profile.clipped == pytest.approx(over.mean(), rel=1e-3)
    each = [((rounded(part, 0.0625) - part) ** 2).sum() / (part**2).sum() for part in xs]
    assert found[0].nsr == pytest.approx(np.mean(each), rel=1e-3)


def test_what_arrives_is_named_after_who_quantizes_it(bind):
    """The second layer has no quantizer at its input: the first one's makes what arrives."""
    model = bind(
        "g (float[1,3] x) => (float[1,3] z) { [a] y = Relu(x)  [b] z = Gemm(y, w) }",
        w=np.eye(3, dtype=np.float32) * f32(1, 2, 3),
    )
    weight = grid("b", "in1", "w", "weight", 1.0)
    plan = plan_of(grid("a", "out0", "y", scale=0.5), weight)
    first, second = profiles(model, plan, ["b"], [{"x": f32([-1, 1.25, 2.0])}])
    assert (first.slot, first.holder, first.step) == ("in0", "a", 0.5)
    assert (second.slot, second.holder) == ("in1", None)
    # an inactive slot of its own changes nothing
    follower = grid("b", "in0", "y", active=False, follows=("a", "out0"))
    again = profiles(model, plan_of(*plan.quantizers, follower), ["b"],
                     [{"x": f32([-1, 1.25, 2.0])}])  # fmt: skip
    assert again == (first, second)


def test_each_channel_is_clipped_at_its_own_limits(bind):
    """Channel 0 may hold 1, channel 1 may hold 10: of the weights 4 and 4 one is clipped."""
    model = bind(
        "g (float[1,2] x) => (float[1,2] y) { [n] y = Gemm(x, w) }", w=f32([4, 4], [0.5, 5])
    )
    weight = grid("n", "in1", "w", "weight", [0.5, 5.0], axis=1, qmin=-2, qmax=2)
    (found,) = profiles(model, plan_of(weight), ["n"], [])
    assert (found.limits, found.step, found.scales, found.axis) == ((-10.0, 10.0), 5.0, 2, 1)
    assert found.clipped == 0.25
    assert found.channels == ((0.5, 4.0), (4.0, 5.0))
    assert found.noise == pytest.approx((9 / 16.25, 1 / 41), 1e-3)  # 4 -> 1; 4 -> 5
    assert (found.samples, found.arriving) == (0, None)


def test_a_stored_weight_is_shown_as_it_is_stored(bind):
    """Whatever the grid would make of it."""
    model = bind("g (float[1,2] x) => (float[1,2] y) { [n] y = Gemm(x, w) }",
                 w=f32([1, 2], [3, 4]))  # fmt: skip
    weight = grid("n", "in1", "w", "weight", 1.0, stored=f32([1, 2], [3, 3]))
    (found,) = profiles(model, plan_of(weight), ["n"], [])
    assert found.nsr == pytest.approx(1 / 30, 1e-3)
    assert found.noise == pytest.approx((0.0, 1 / 20), 1e-3)


def test_values_that_are_no_numbers_are_counted_apart(bind):
    """x / b with b = 0 somewhere: (inf, NaN, 2, 4); the two others make range and histogram."""
    model = bind("g (float[1,4] x) => (float[1,4] y) { [n] y = Div(x, b) }", b=f32(0, 0, 1, 1))
    plan = plan_of(grid("n", "out0", "y", scale=0.5))
    (found,) = profiles(model, plan, ["n"], [{"x": f32([1, 0, 2, 4])}])
    assert (found.not_finite, found.range, found.clipped) == (0.5, (2.0, 4.0), 0.0)
    assert sum(found.fp32) == pytest.approx(1)
    assert found.channels == ((0.0, 0.0), (0.0, 0.0), (2.0, 2.0), (4.0, 4.0))
    (nothing,) = [profiles(model, plan, ["n"], [{"x": f32([0] * 4)}])]
    assert nothing[0].range == (0.0, 0.0)


def test_a_tensor_without_a_number_has_no_picture(bind):
    """Nothing but NaN: nothing to draw, and no error."""
    model = bind("g (float[1,2] x) => (float[1,2] y) { [n] y = Sqrt(x) }")
    plan = plan_of(grid("n", "out0", "y"))
    assert profiles(model, plan, ["n"], [{"x": f32([-1, -2])}]) == ()


def test_what_has_nothing_to_show_is_left_out(bind):
    """Indices, single values, empty tensors, rows without a quantizer and unknown ones."""
    model = bind(
        """g (float[2,3] x) => (float[2,2] y, float[0,3] e, float s) {
            [g] y = Gather <axis=1> (x, i)
            [s] e = Slice(x, zero, zero)
            [r] s = ReduceSum <keepdims=0> (x)
            [f] z = Relu(x)
        }""",
        i=np.array([0, 2]), zero=np.array([0]),
    )  # fmt: skip
    plan = plan_of(
        grid("g", "out0", "y"), grid("s", "out0", "e"), grid("r", "out0", "s"),
    )  # fmt: skip
    names = ["g", "s", "r", "f", "gone"]
    found = profiles(model, plan, names, [{"x": f32([1, 2, 3], [4, 5, 6])}])
    assert [(p.layer, p.slot) for p in found] == [("g", "out0")]


def test_a_bias_is_shown_only_where_something_happens_to_it(bind):
    """One on a fine grid is not, one that is clipped is."""
    model = bind(
        "g (float[1,2] x) => (float[1,2] y) { [n] y = Gemm(x, w, b) }",
        w=np.eye(2, dtype=np.float32), b=f32(0.25, 100.0),
    )  # fmt: skip
    fine = grid("n", "in2", "b", "bias", 1e-6, qmin=-(2**31), qmax=2**31 - 1, bits=32)
    assert profiles(model, plan_of(fine), ["n"], []) == ()
    (found,) = profiles(model, plan_of(replace(fine, qmin=-128, qmax=127)), ["n"], [])
    assert (found.clipped, found.bits) == (1.0, 32)


def test_a_function_left_to_the_grid_is_no_clipping(bind):
    """A Relu dropped for a grid from 0: -3 is none of its values."""
    model = bind("g (float[1,3] x) => (float[1,3] y) { [r] y = Relu(x) }")
    q = grid("r", "out0", "y", scale=0.5, qmin=0, qmax=4, replaces_node=True)
    (found,) = profiles(model, plan_of(q), ["r"], [{"x": f32([-3.0, 1.25, 5.0])}])
    assert (found.range, found.clipped) == ((0.0, 5.0), pytest.approx(1 / 3, 1e-3))
    assert found.arriving == pytest.approx((0.0625 + 9) / (1.5625 + 25), 1e-3)


def test_values_that_are_handed_on_are_shown_once(bind):
    """A Reshape on one grid is one picture, on two grids two."""
    model = bind(
        "g (float[2,3] x) => (float[3,2] y) { [n] y = Reshape(x, s) }", s=np.array([3, 2])
    )
    inner, outer = grid("n", "in0", "x", scale=0.5), grid("n", "out0", "y", scale=0.5)
    sample = [{"x": f32([1, 2, 3], [4, 5, 6])}]
    assert [p.slot for p in profiles(model, plan_of(inner, outer), ["n"], sample)] == ["in0"]
    coarse = replace(outer, scale=np.array([2.0]))
    assert len(profiles(model, plan_of(inner, coarse), ["n"], sample)) == 2


def test_many_channels_are_put_together(bind):
    """300 channels k with the value k + 1: 100 entries of three, the noise of a group its own."""
    model = bind("g (float[1,300] x) => (float[1,300] y) { [n] y = Relu(x) }")
    plan = plan_of(grid("n", "out0", "y", scale=10.0))
    values = np.arange(1, 301, dtype=np.float32)[None]
    (found,) = profiles(model, plan, ["n"], [{"x": values}])
    assert (found.per, found.count, len(found.channels)) == (3, 300, 100)
    assert len(found.channels) <= CHANNELS
    assert found.channels[0] == (1.0, 3.0)
    assert found.channels[99] == (298.0, 300.0)
    assert found.noise[0] == 1.0
    assert found.noise[1] == pytest.approx((4**2 + 5**2 + 4**2) / (16 + 25 + 36), 1e-3)


def test_bundles_workers_and_order_change_nothing(two_ends, monkeypatch):
    """One tensor at a time, or all at once; the layers in the order asked for."""
    rng = np.random.default_rng(2)
    samples = [{"x": rng.standard_normal((1, 8)).astype(np.float32)} for _ in range(5)]
    plan = plan_of(
        grid("a", "in0", "x", "input", 0.125), grid("a", "in1", "w0", "weight", 0.125),
        grid("r", "out0", "k", scale=0.25), grid("b", "out0", "y", scale=0.5),
    )  # fmt: skip
    found = profiles(two_ends, plan, ["b", "a"], samples)
    assert [(p.layer, p.slot) for p in found] == [
        ("b", "in0"), ("b", "out0"), ("a", "in0"), ("a", "in1")
    ]  # fmt: skip
    assert [p.samples for p in found] == [4, 4, 4, 0]
    steps = []
    monkeypatch.setattr(stage, "BUNDLE_BYTES", 1)
    assert profiles(two_ends, plan, ["b", "a"], samples, workers=2, step=steps.append) == found
    assert steps == [8, 8, 8]
    fixed = profiles(two_ends, plan, ["b", "a"], [])
    assert [(p.layer, p.slot) for p in fixed] == [("a", "in1")]


def test_numbers_are_plain_and_short(two_ends):
    """What JSON needs no help with, four digits each."""
    plan = plan_of(grid("a", "in1", "w0", "weight", 0.1))
    (found,) = profiles(two_ends, plan, ["a"], [])
    record = asdict(found)
    assert json.loads(json.dumps(record))["fp32"] == list(found.fp32)
    assert len(json.dumps(record)) < 2500
    assert all(float(f"{v:.4g}") == v for v in (*found.fp32, *found.noise, *found.range))


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60),
    st.floats(1e-3, 100),
    st.integers(-200, 0),
    st.integers(1, 200),
)
@settings(max_examples=150, deadline=None)
def test_bins_hold_all_values_and_end_between_levels(values, step, qmin, qmax):
    """At most 64 of them; every count is there; no level that shows is where two bins meet."""
    tally = Tally(grid("n", "out0", "y", scale=step, qmin=qmin, qmax=qmax), None)
    x = np.array(values, np.float32)
    tally.widen(x)
    tally.add(x, rounded(x, np.float32(step), qmin, qmax).astype(np.float32))
    bins = tally.bins
    assert 1 <= bins.count <= BINS
    assert tally.fp32.sum() == tally.made.sum() == len(values)
    slack = 1e-6 * (abs(bins.low) + abs(bins.high))
    assert bins.low - slack <= x.min()
    assert x.max() <= bins.high + slack
    levels = np.arange(math.ceil(bins.low / step), math.floor(bins.high / step) + 1) * step
    places = (levels - bins.low) / bins.width
    apart = min(0.5, 0.5 * step / bins.width)
    assert np.abs(places - np.rint(places)).min(initial=1.0) >= apart - 1e-3


def test_limits_far_away_do_not_hide_the_values():
    """A grid a thousand times wider than the values is cut, a narrow one is shown whole."""
    wide = bins_for((0.0, 1.0), (-1000.0, 1000.0), 0.001)
    assert wide.low == pytest.approx(-1.5, abs=0.1)
    assert wide.high == pytest.approx(2.5, abs=0.1)
    narrow = bins_for((-8.0, 8.0), (-1.0, 1.0), 0.0078125)
    assert (narrow.low, narrow.high) == (pytest.approx(-8, abs=0.3), pytest.approx(8, abs=0.3))


def test_an_outlier_channel_sticks_out():
    """Channel 15 of the planted model reaches 128 times as far; its grid ends below it."""
    config = Config(calib=str(SAMPLES / "digits_dw"), target="esp32p4", propose=False)
    analysis = run(SAMPLES / "digits_dw_outlier_channel.onnx", config)
    found = next(p for p in analysis.profiles if (p.layer, p.slot) == ("/pw1/act/Relu", "out0"))
    reach = [max(abs(a), abs(b)) for a, b in found.channels]
    assert reach.index(max(reach)) == 15
    assert sorted(reach)[-2] < max(reach) / 32
    assert max(reach) > found.limits[1]
    assert found.clipped > 0
    assert analysis.profiles[0].layer == "/pw1/act/Relu"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolo11n_heads", "mobilenet_v1_025_imagenet", "stories260k"])
def test_real_models(shared, name):
    """Every layer of a real model can be looked into, and says what it holds."""
    model = shared(name)
    rng = np.random.default_rng(0)
    feeds = {
        spec.name: rng.random(model.shapes[spec.name], np.float32)
        if spec.dtype == "float32"
        else np.zeros(model.shapes[spec.name], spec.dtype)
        for spec in model.inputs
    }
    graph, plan = place(model, ESP32P4)
    plan = calibrate(graph, plan, ESP32P4, [feeds])
    found = profiles(graph, plan, plan.layers, [feeds], workers=2)
    assert {p.layer for p in found} > set(plan.computing) - {"gone"}
    for profile in found:
        assert sum(profile.fp32) == pytest.approx(1, abs=2e-3)
        assert sum(profile.int8) == pytest.approx(1, abs=2e-3)
        assert profile.low <= profile.range[0] + 1e-3 * abs(profile.low)
        assert len(profile.channels) == len(profile.noise) <= CHANNELS
