# SPDX-License-Identifier: Apache-2.0
"""ESP-DL chips at 8 and 16 bits, and layers dispatched one by one: bits, scales and states."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.calibrate import calibrate
from analyzer.errors import TargetError
from analyzer.place import place
from analyzer.records import Setting
from analyzer.targets import get_target

RELU = """g (float[1,2,4,4] x) => (float[1,2,4,4] y) {
    [c] h = Conv(x, w, b)  [r] a = Relu(h)  [d] y = Conv(a, w2)
}"""
ADD = "g (float[1,8] x) => (float[1,8] y) { [a] p = Tanh(x) [b] q = Sigmoid(x) [s] y = Add(p, q) }"


def ones(*shape):
    return np.ones(shape, np.float32)


def placed(model, target="esp32p4", **setting):
    return place(model, get_target(target), Setting(**setting))[1]


def slots(plan):
    return {f"{q.node}.{q.slot}": q for q in plan.quantizers}


@pytest.fixture
def relu(bind):
    return bind(RELU, w=ones(2, 2, 1, 1), w2=ones(2, 2, 1, 1), b=ones(2))


@pytest.mark.parametrize(
    ("target", "precision", "axis", "observer", "bias", "rounding"),
    [
        ("esp32p4", "int8", 0, "minmax", 32, "half_even"),
        ("esp32p4", "int16", 0, "minmax", 40, "half_even"),
        ("esp32s3", "int8", None, "percentile", 20, "half_up"),
        ("esp32s3", "int16", None, "minmax", 40, "half_up"),
        ("esp32", "int8", None, "percentile", 32, "half_up"),
        ("esp32", "int16", None, "minmax", 64, "half_up"),
    ],
)
def test_what_the_chip_decides(relu, target, precision, axis, observer, bias, rounding):
    """Granularity and observer of weights, width of the bias, rounding."""
    found = slots(placed(relu, target, precision=precision))
    weight = found["c.in1"]
    assert (weight.axis, weight.observer, weight.rounding) == (axis, observer, rounding)
    assert (found["c.in2"].bits, found["c.in2"].axis) == (bias, axis)
    assert {q.bits for q in found.values() if q.role != "bias"} == {int(precision[3:])}


@pytest.mark.parametrize(("precision", "observer"), [("int8", "kl"), ("int16", "minmax")])
def test_the_default_observer_depends_on_the_width(relu, precision, observer):
    """KL at 8 bits, the plain range at 16."""
    assert slots(placed(relu, precision=precision))["c.in0"].observer == observer


def test_w8a16_narrows_weights_but_not_depthwise_ones(bind):
    """A depthwise filter keeps its 16 bits, and a MatMul of two activations is int16."""
    model = bind(
        """g (float[1,2,4,4] x) => (float[1,2,4,4] y) {
            [c] h = Conv(x, w)  [d] e = Conv<group = 2>(h, dw)  [m] y = MatMul(e, h)
        }""",
        w=ones(2, 2, 1, 1), dw=ones(2, 1, 1, 1),
    )  # fmt: skip
    plan = placed(model, precision="w8a16")
    found = slots(plan)
    assert (found["c.in1"].bits, found["c.in0"].bits, found["d.in1"].bits) == (8, 16, 16)
    assert plan.precision == {"c": "w8a16", "d": "w8a16", "m": "int16"}
    assert found["m.in0"].active  # another platform: the tensor is quantized once more
    assert plan.default_precision == "w8a16"


def test_a_relu_is_widened_to_its_conv(relu):
    """The fused pair runs at the larger width; the next Conv requantizes."""
    plan = placed(relu, table={"c": "int16"})
    found = slots(plan)
    assert plan.precision == {"c": "int16", "r": "int16", "d": "int8"}
    assert (found["r.out0"].bits, found["c.out0"].active) == (16, False)
    assert (found["d.in0"].bits, found["d.in0"].active) == (8, True)
    assert found["d.in0"].follows is None


def test_a_wide_relu_behind_a_narrow_conv_is_fused_all_the_same(relu):
    """The Conv's output is left to the 16-bit Relu."""
    found = slots(placed(relu, table={"r": "int16"}))
    assert (found["r.out0"].bits, found["c.out0"].active) == (16, False)


def test_a_layer_left_in_float_has_no_slot(relu):
    """Its neighbours quantize for themselves, the Conv in front of a float Relu too."""
    plan = placed(relu, table={"r": "fp32"})
    found = slots(plan)
    assert plan.layers == ("c", "d")
    assert not any(key.startswith("r.") for key in found)
    assert found["c.out0"].active
    assert found["d.in0"].active


def test_a_table_can_quantize_what_the_chip_leaves_alone(bind):
    """Sqrt has no kernel, but is quantized when asked for by name."""
    model = bind("g (float[1,8] x) => (float[1,8] y) { [a] h = Sigmoid(x)  [r] y = Sqrt(h) }")
    assert "r.out0" not in slots(placed(model))
    assert slots(placed(model, table={"r": "int8"}))["r.out0"].active


def test_alignment_does_not_look_at_bits(bind):
    """An 8-bit Tanh in front of a 16-bit Add writes with the 16-bit step."""
    found = slots(placed(bind(ADD), table={"s": "int16"}))
    assert (found["a.out0"].bits, found["a.out0"].follows) == (8, ("s", "out0"))
    assert (found["s.in0"].bits, found["s.in0"].active) == (16, True)


def test_a_constant_operand_has_its_own_scale_until_the_end(bind):
    """Ranges are found with the constant on its own grid; then it takes over the Add's.

    0.3 is 77 steps of 2^-8 while calibrating: 1 + 0.30078125 is seen.
    """
    model = bind("g (float[1,1] x) => (float[1,1] y) { [s] y = Add(x, c) }",
                 c=np.full((1, 1), 0.3, np.float32))  # fmt: skip
    target = get_target("esp32p4")
    graph, plan = place(model, target, Setting(observer="minmax"))
    plan = calibrate(graph, plan, target, [{"x": ones(1, 1)}])
    found = slots(plan)
    assert found["s.out0"].range == (1.30078125, 1.30078125)
    assert found["s.in1"].scale.tolist() == found["s.out0"].scale.tolist() == [2.0**-6]


def test_a_comparison_shares_the_doubled_larger_scale(bind):
    """1.0 has the step 2^-6, 0.25 the step 2^-8: both operands get 2^-5, and so do producers."""
    model = bind(
        """g (float[1,2] x) => (float[1,2] y) {
            [a] p = Identity(x)  [n] q = Neg(x)  [t] r = Sigmoid(x)
            [g] c = Greater(q, r)  [w] y = Where(c, p, q)
        }"""
    )
    target = get_target("esp32p4")
    samples = [{"x": np.array([[-1.0, 0.5]], np.float32)}] * 2
    graph, plan = place(model, target, Setting(observer="minmax"))
    graph, plan = target.complete(graph, calibrate(graph, plan, target, samples), samples)
    found = slots(plan)
    assert found["g.in0"].scale.tolist() == [2.0**-5]
    assert (found["g.in1"].follows, found["t.out0"].follows) == (("g", "in0"), ("g", "in0"))
    assert found["t.out0"].scale.tolist() == [2.0**-5]  # read by the comparison alone
    assert found["n.out0"].scale.tolist() == [2.0**-6]  # read twice: keeps its own
    assert all(found[key].active for key in ("g.in0", "g.in1", "n.out0", "t.out0"))


def test_recurrent_slots(bind):
    """The bias and state have a fixed 16-bit step, the second output follows the first."""
    model = bind(
        """g (float[5,1,4] x) => (float[5,1,1,3] y, float[1,1,3] last) {
            [g] y, last = GRU<hidden_size = 3, linear_before_reset = 1>(x, w, r, b, , h)
        }""",
        opset=14, w=ones(1, 9, 4), r=ones(1, 9, 3), b=ones(1, 18), h=ones(1, 1, 3),
    )  # fmt: skip
    target = get_target("esp32p4")
    graph, plan = place(model, target, Setting())
    samples = [{"x": ones(5, 1, 4)}] * 2
    found = slots(calibrate(graph, plan, target, samples))
    assert found["g.in3"].scale.tolist() == [2.0**-9]
    assert (found["g.in3"].bits, found["g.in1"].bits) == (16, 8)
    assert found["g.out1"].follows == found["g.in5"].follows == ("g", "out0")
    assert any("recurrent" in note for note in plan.notes)


def test_a_mask_of_infinities_stays_float(bind):
    """Neither the Add that holds it nor the input that it reaches is quantized."""
    model = bind(
        "g (float[1,2] x) => (float[1,2] y) { [s] h = Add(x, m)  [p] y = Softmax<axis = 1>(h) }",
        m=np.array([[0, -np.inf]], np.float32),
    )  # fmt: skip
    plan = placed(model)
    assert plan.layers == ("p",)
    assert not plan.quantizers


def test_a_split_in_front_of_a_relu_gives_up_its_first_output(bind):
    """The only edge leads to the Relu, but it is the first output that is left to it."""
    model = bind(
        """g (float[1,4] x) => (float[1,2] p, float[1,2] y) {
            [t] h = Tanh(x)  [s] p, q = Split<axis = 1>(h)  [r] y = Relu(q)
        }"""
    )
    found = slots(placed(model))
    assert found["s.out0"].follows == ("r", "out0")


def test_what_esp_ppq_makes_later_cannot_be_dispatched(bind):
    """InsertZeros goes where its ConvTranspose goes, and is refused by its own name."""
    model = bind(
        "g (float[1,2,4,4] x) => (float[1,2,8,8] y) "
        "{ [up] y = ConvTranspose<strides = [2,2]>(x, w) }",
        w=ones(2, 2, 2, 2),
    )
    assert placed(model, table={"up": "int16"}).precision == {
        "PPQ_Operation_0": "int16", "up": "int16"
    }  # fmt: skip
    with pytest.raises(
        TargetError, match=r"esp-ppq makes it after it has read the dispatch table"
    ):
        placed(model, table={"PPQ_Operation_0": "int16"})
