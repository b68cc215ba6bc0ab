# SPDX-License-Identifier: Apache-2.0
"""Rows taken apart: shares, clipping, channels and prices, all worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer import dissect as stage
from analyzer.calibrate import calibrate
from analyzer.dissect import Dissection, dissect, looks
from analyzer.dissect.axes import channel_axis
from analyzer.dissect.prices import narrowed
from analyzer.dissect.rows import part_of, worst_channels
from analyzer.graph.families import sources_of
from analyzer.graph.view import GraphView
from analyzer.place import place
from analyzer.records import Quantizer, QuantPlan, Setting, Source
from analyzer.targets.espdl import ESP32P4
from analyzer.targets.tflite import TFLITE


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


def no_run(*args, **kwargs):
    raise AssertionError("nothing has to be run")


@pytest.fixture
def gemm(bind):
    """y = x W = (1, 7.25) for x = (1, 2); one weight of 3 steps of 0.5 has to hold 3."""
    model = bind(
        "g (float[1,2] x) => (float[1,2] y) { [n] y = Gemm(x, w) }",
        w=f32([0.5, 1.25], [0.25, 3.0]),
    )
    weight = grid("n", "in1", "w", "weight", 0.5, qmin=-4, qmax=3)
    return model, weight, grid("n", "out0", "y", qmin=-8, qmax=7)


SAMPLES = [{"x": f32([1.0, 2.0])}]


def test_a_gemm_with_a_clipped_weight(gemm):
    """Weights 1.25 -> 1, 0.25 -> 0 are rounded, 3 -> 1.5 is clipped: 2.25 of 2.375 in power.

    They turn y into (0.5, 4): 10.8125 in power.  The output alone turns 7.25 into 7: 0.0625.
    Both together make (0, 4), with ties to even: 1 and 10.5625 in power.
    """
    model, weight, output = gemm
    found = dissect(model, plan_of(weight, output), ["n"], [], SAMPLES)
    clipping = (173 / 174) * (18 / 19)
    assert found.parts["n"] == pytest.approx({
        "weight": 173 / 174, "output": 1 / 174, "rounding": 1 - clipping, "clipping": clipping,
        "weight_clipping": 18 / 19, "output_clipping": 0.0,
    })  # fmt: skip
    ((channel, share),) = found.channels["n"]
    assert (channel, share) == (1, pytest.approx(10.5625 / 11.5625))


def test_one_part_is_all_there_is(gemm, monkeypatch):
    """Nothing is probed for it."""
    model, weight, _ = gemm
    monkeypatch.setattr(stage, "run_trials", no_run)
    found = dissect(model, plan_of(weight), ["n"], [], SAMPLES)
    assert found.parts["n"] == pytest.approx(
        {"weight": 1.0, "rounding": 1 / 19, "clipping": 18 / 19, "weight_clipping": 18 / 19}
    )


def test_a_part_without_noise_has_no_clipping(gemm):
    """All values on the grid: no share can be told, and no channel."""
    model, weight, output = gemm
    fine = [replace(q, scale=np.array([0.25]), qmin=-128, qmax=127) for q in (weight, output)]
    found = dissect(model, plan_of(*fine), ["n"], [], SAMPLES)
    assert found == Dissection({"n": {}}, {"n": ()}, {})


def test_rows_without_an_active_quantizer_are_left_out(gemm):
    """Nor is anything said without samples."""
    model, weight, output = gemm
    off = plan_of(replace(weight, active=False), output)
    assert dissect(model, plan_of(replace(weight, active=False)), ["n"], [], SAMPLES).parts == {}
    assert dissect(model, off, ["elsewhere"], [], SAMPLES) == Dissection()
    assert dissect(model, off, ["n"], [], []) == Dissection()


def test_a_stored_weight_is_judged_as_it_is_stored(gemm):
    """The file holds 2.5 for 3, whatever the grid makes of it: 0.25 of 0.375 is clipping."""
    model, weight, _ = gemm
    stored = replace(weight, stored=f32([0.5, 1.0], [0.0, 2.5]))
    found = dissect(model, plan_of(stored), ["n"], [], SAMPLES)
    assert found.parts["n"]["clipping"] == pytest.approx(0.25 / 0.375)


def test_a_function_left_to_the_grid_is_no_clipping(bind):
    """A Relu dropped for a grid from 0 to 2: -3 -> 0 is right, 1.25 rounds, 5 is clipped."""
    model = bind("g (float[1,3] x) => (float[1,3] y) { [r] y = Relu(x) }")
    q = grid("r", "out0", "y", scale=0.5, qmin=0, qmax=4, replaces_node=True)
    found = dissect(model, plan_of(q), ["r"], [], [{"x": f32([-3.0, 1.25, 5.0])}])
    assert found.parts["r"]["clipping"] == pytest.approx(9 / 9.0625)
    assert found.channels["r"] == ((2, pytest.approx(9 / 9.0625)),)


def test_factors_count_by_their_ratio_to_the_signal(bind):
    """Of a product's inputs, one is clipped from 200 to 127, one rounded from 0.4 to 0."""
    model = bind("g (float[1] x, float[1] z) => (float[1] y) { [m] y = Mul(x, z) }")
    plan = plan_of(grid("m", "in0", "x"), grid("m", "in1", "z"))
    found = dissect(model, plan, ["m"], [], [{"x": f32(200.0), "z": f32(0.4)}])
    clipped = (73 / 200) ** 2
    assert found.parts["m"]["input_clipping"] == pytest.approx(clipped / (clipped + 1))
    assert found.channels["m"] == ()  # a vector has no channels


@pytest.mark.parametrize(
    ("slot", "role", "part"),
    [
        ("in1", "weight", "weight"), ("in1", "constant", "weight"), ("in2", "bias", "bias"),
        ("in0", "input", "input"), ("in1", "activation", "input"),
        ("out0", "activation", "output"),
    ],
)  # fmt: skip
def test_origins(slot, role, part):
    """The role says it for constants, the slot for everything else."""
    assert part_of(grid("n", slot, "t", role)) == part


def test_an_infinite_ratio_tells_no_shares(bind):
    """Noise on an output that is silent: either part is infinitely large."""
    model = bind("g (float[1,2] x) => (float[1,2] y) { [a] y = Add(x, c) }", c=f32([-0.4, -0.4]))
    plan = plan_of(grid("a", "in0", "x", scale=0.5), grid("a", "in1", "c", "constant"))
    found = dissect(model, plan, ["a"], [], [{"x": f32([0.4, 0.4])}])
    assert found.parts["a"] == {"input_clipping": 0.0, "weight_clipping": 0.0}


def test_values_that_are_no_numbers(bind):
    """A row of NaN has one part and no channels."""
    model = bind("g (float[1,2] x) => (float[1,2] y) { [s] y = Sqrt(x) }")
    found = dissect(model, plan_of(grid("s", "out0", "y")), ["s"], [], [{"x": f32([-1.0, 4.0])}])
    assert found.parts["s"] == {"output": 1.0}
    assert found.channels["s"] == ()


def test_the_bad_channel_of_a_convolution(bind):
    """Of the weights 1, 0.3 and 1 only the second is off the grid of 0.5."""
    model = bind(
        "g (float[1,1,2,2] x) => (float[1,3,2,2] y) { [c] y = Conv(x, w) }",
        w=f32(1.0, 0.3, 1.0).reshape(3, 1, 1, 1),
    )
    plan = plan_of(grid("c", "in1", "w", "weight", 0.5))
    found = dissect(model, plan, ["c"], [], [{"x": np.ones((1, 1, 2, 2), np.float32)}])
    assert found.channels["c"] == ((1, 1.0),)


def test_channels_are_few_and_in_falling_order():
    """As many as reach 80 %, at most eight; equal ones as they come; none of no noise."""
    assert worst_channels(np.array([1.0, 6.0, 0.0, 3.0])) == ((1, 0.6), (3, 0.3))
    assert worst_channels(np.array([2.0, 8.0])) == ((1, 0.8),)
    assert [c for c, _ in worst_channels(np.ones(20))] == list(range(8))
    assert worst_channels(np.zeros(3)) == ()
    assert worst_channels(np.array([1.0, np.nan])) == ()


NETS = {
    "image": """g (float[1,4,6,6] x) => (float[1,2,6,6] y) {
        [n] k = Sigmoid(x)  [b] y = Conv(k, w) }""",
    "signal": "g (float[1,4,6] x) => (float[1,4,6] y) { [a] h = MaxPool<kernel_shape=[1]>(x) "
    "[n] y = Sigmoid(h) }",
    "tokens": """g (float[1,5,4] x) => (float[1,5,4] y) {
        [n] h = Sigmoid(x)  [b] y = MatMul(h, m) }""",
    "scaled": "g (float[1,4,6] x) => (float[1,4,6] y) { [n] y = Mul(x, c) }",
    "turned": """g (float[1,4,6,6] x) => (float[1,6,6,4] y) {
        [a] h = AveragePool<kernel_shape=[1,1]>(x)  [t] k = Transpose<perm=[0,2,3,1]>(h)
        [n] j = Sigmoid(k)  [b] y = MatMul(j, m) }""",
    "unknown": "g (float[1,5,4] x) => (float[1,5,4] y) { [n] y = Sigmoid(x) }",
    "flat": "g (float[3,4] x) => (float[3,4] y) { [n] y = Sigmoid(x) }",
    "vector": "g (float[4] x) => (float[4] y) { [n] y = Sigmoid(x) }",
}
WEIGHTS = {
    "image": {"w": np.zeros((2, 4, 1, 1), np.float32)},
    "tokens": {"m": np.zeros((4, 4), np.float32)},
    "turned": {"m": np.zeros((4, 4), np.float32)},
    "scaled": {"c": np.zeros((4, 1), np.float32)},
}


@pytest.mark.parametrize(
    ("net", "axis"),
    [
        ("image", 1), ("signal", 1), ("tokens", 2), ("scaled", 1), ("turned", 3), ("unknown", 2),
        ("flat", 1), ("vector", None),
    ],
)  # fmt: skip
def test_axis_of_channels(bind, net, axis):
    """Neighbours, constants, then the rank tell what the op type does not."""
    model = bind(NETS[net], **WEIGHTS.get(net, {}))
    view = GraphView(model.proto.graph)
    assert channel_axis(model, view, view.nodes["n"]) == axis


@pytest.fixture
def joined(bind):
    """Concat of values up to 1.27 and up to 127 on one grid of whole numbers."""
    model = bind(
        """g (float[1,2] x, float[1,2] z) => (float[1,4] y) {
            [m] a = Neg(x)  [n] b = Neg(z)  [c] y = Concat<axis=1>(a, b)
        }"""
    )
    root = {"follows": ("c", "out0"), "group": "c:out0"}
    plan = plan_of(
        grid("m", "out0", "a", **root), grid("n", "out0", "b", **root), grid("c", "out0", "y")
    )
    (source,) = sources_of(GraphView(model.proto.graph), plan)
    return model, plan, source


def test_the_price_of_a_concat(joined):
    """With steps of 1, -0.4 and 1.27 become 0 and 1; steps of 0.01 hold them, and b is exact."""
    model, plan, source = joined
    sample = {"x": f32([0.4, -1.27]), "z": f32([127.0, 3.0])}
    found = dissect(model, plan, [], [source], [sample])
    signal = 0.4**2 + 1.27**2 + 127**2 + 3**2
    assert found.prices == {"c:out0": pytest.approx((0.4**2 + 0.27**2) / signal, rel=1e-5)}


def test_equal_ranges_pay_nothing(joined, monkeypatch):
    """Every tensor asks for the shared scale: there is nothing to measure."""
    model, plan, source = joined
    monkeypatch.setattr(stage, "run_trials", no_run)
    sample = {"x": f32([12.7, 1.0]), "z": f32([-12.7, 3.0])}
    assert dissect(model, plan, [], [source], [sample]).prices == {"c:out0": 0.0}


def test_no_price_where_a_range_is_not_known(joined):
    """NaN has no range, and a source without a group pays nothing to anybody."""
    model, plan, source = joined
    sample = {"x": f32([np.nan, 1.0]), "z": f32([127.0, 3.0])}
    assert dissect(model, plan, [], [source], [sample]).prices == {}
    alone = plan_of(grid("m", "out0", "a"))
    other = Source("m", "layer", ("m",), (("m", "out0"),))
    assert dissect(model, alone, [], [other], [sample]).prices == {}


def test_what_groups_in_the_last_hundredth_pay_is_not_asked(joined):
    """Of two groups, one with a thousandth of the noise is left out."""
    model, plan, source = joined
    sample = {"x": f32([0.4, -1.27]), "z": f32([127.0, 3.0])}
    loud, quiet = replace(source, nsr=1.0), replace(source, name="quiet", nsr=0.001)
    assert set(dissect(model, plan, [], [quiet, loud], [sample]).prices) == {"c:out0"}


@pytest.mark.parametrize(("target", "steps"), [(ESP32P4, (1.0, 1 / 64)), (TFLITE, None)])
def test_the_price_by_a_targets_own_rules(bind, target, steps):
    """Ranges 1 and 100: powers of two 1/64 and 1 on an ESP32-P4; (hi - lo) / 255 elsewhere."""
    model = bind(
        """g (float[1,8] x, float[1,8] z) => (float[1,16] y) {
            [m] a = Abs(x)  [n] b = Abs(z)  [c] y = Concat<axis=1>(a, b)
        }"""
    )
    rng = np.random.default_rng(0)
    x, z = (rng.uniform(-1, 1, (1, 8)).astype(np.float32) for _ in range(2))
    x[0, 0], z = 1.0, z * 100
    z[0, 0] = 100.0
    graph, plan = place(model, target, Setting(observer="minmax"))
    plan = calibrate(graph, plan, target, [{"x": x, "z": z}])
    sources = sources_of(GraphView(graph.proto.graph), plan)
    (group,) = [s for s in sources if ("c", "out0") in s.quantizers]
    price = dissect(graph, plan, [], [group], [{"x": x, "z": z}], target=target).prices
    wide, fine = steps or (100 / 255, 1 / 255)
    a = np.abs(x.astype(np.float64))
    noise = [np.sum((np.rint(a / step) * step - a) ** 2) for step in (wide, fine)]
    signal = np.sum(a**2) + np.sum(z.astype(np.float64) ** 2)
    assert price[group.name] == pytest.approx((noise[0] - noise[1]) / signal, rel=1e-4)


def test_ends_of_a_grid_move_by_the_ratio_of_ranges():
    """From -10..15.5 in steps of 0.1 to a tenth of it; a side without values gets no levels."""
    q = grid("n", "out0", "t", scale=0.1, zero=-28, symmetric=False)
    ten, one = (np.array([-10.0]), np.array([31.0])), (np.array([-1.0]), np.array([3.1]))
    made = narrowed(q, one, ten)
    assert (made.scale.item(), made.zero_point.item()) == (pytest.approx(0.01), -28)
    made = narrowed(q, (np.array([0.0]), np.array([31.0])), ten)
    assert (made.scale.item(), made.zero_point.item()) == (pytest.approx(15.5 / 255), -128)
    assert narrowed(q, ten, ten) is q
    assert narrowed(q, (np.array([0.0]), np.array([0.0])), ten) is q  # no range at all


def test_how_looks_are_bundled_does_not_show(joined, gemm, monkeypatch):
    """One bundle or one each, one worker or two: whole records are equal."""
    model, plan, source = joined
    samples = [{"x": f32([0.4, -1.27]), "z": f32([127.0, k])} for k in (3.0, 5.5)]
    args = model, plan, ["m", "n", "c"], [source], samples
    told = []
    first = dissect(*args, step=told.append)
    monkeypatch.setattr(looks, "BUNDLE_BYTES", 0)
    assert dissect(*args, workers=2) == first
    assert sum(told) == 2 + 2 * 2  # looks in one bundle, two units
