# SPDX-License-Identifier: Apache-2.0
"""The ESP-DL target: states of all slots by hand, from the rules of esp-ppq (2.2 to 2.6)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.place import place
from analyzer.records import Quantizer, Setting
from analyzer.targets.espdl import ESP32, ESP32P4, ESP32S3


def states(model):
    """Return slot -> "own", "off", "bias" or "as <slot of the scale>"; float ones are left out."""
    _, plan = place(model, ESP32P4)
    found = {}
    for q in plan.quantizers:
        if not q.active:
            state = "off"
        elif q.role == "bias":
            state = "bias"
        else:
            state = "as {}.{}".format(*q.follows) if q.follows else "own"
        found[f"{q.node}.{q.slot}"] = state
    return found


def by_slot(model, **options):
    _, plan = place(model, ESP32P4, Setting(**options))
    return {f"{q.node}.{q.slot}": q for q in plan.quantizers}


def ones(*shape):
    return np.ones(shape, np.float32)


def test_a_relu_takes_over_the_output_of_its_conv(bind):
    """The tensor between them and the next input are left to the Relu's output."""
    model = bind(
        """g (float[1,2,4,4] x) => (float[1,2,4,4] y) {
            [c1] h = Conv(x, w, b)  [r] a = Relu(h)  [c2] y = Conv(a, w2, b)
        }""",
        w=ones(2, 2, 1, 1), w2=ones(2, 2, 1, 1), b=ones(2),
    )  # fmt: skip
    assert states(model) == {
        "c1.in0": "own", "c1.in1": "own", "c1.in2": "bias", "c1.out0": "off",
        "r.in0": "off", "r.out0": "own",
        "c2.in0": "off", "c2.in1": "own", "c2.in2": "bias", "c2.out0": "own",
    }  # fmt: skip


def test_a_relu_beside_another_reader_is_not_fused(bind):
    """With two readers the Conv keeps its output, and both readers leave the tensor to it."""
    model = bind(
        """g (float[1,2,4,4] x) => (float[1,2,4,4] y, float[1,2,4,4] z) {
            [c] h = Conv(x, w)  [r] y = Relu(h)  [s] z = Sigmoid(h)
        }""",
        w=ones(2, 2, 1, 1),
    )
    assert states(model) == {
        "c.in0": "own", "c.in1": "own", "c.out0": "own",
        "r.in0": "off", "r.out0": "own", "s.in0": "off", "s.out0": "own",
    }  # fmt: skip


def test_clip_is_fused_and_its_bounds_follow(bind):
    """A Clip behind any op is an activation like Relu; its bounds are on the same grid."""
    model = bind(
        "g (float[1,8] x) => (float[1,8] y) { [t] h = Tanh(x)  [c] y = Clip(h, low, high) }",
        low=np.float32(0), high=np.float32(6),
    )  # fmt: skip
    assert states(model) == {
        "t.in0": "own", "t.out0": "off", "c.in0": "off", "c.out0": "own",
        "c.in1": "as c.out0", "c.in2": "as c.out0",
    }  # fmt: skip


def test_every_reader_quantizes_a_graph_input_itself(bind):
    """There is no producer that could do it for them."""
    model = bind(
        "g (float[1,8] x) => (float[1,8] y, float[1,8] z) { [a] y = Tanh(x)  [b] z = Sigmoid(x) }"
    )
    assert states(model) == {"a.in0": "own", "a.out0": "own", "b.in0": "own", "b.out0": "own"}


def test_an_add_sets_the_scale_of_producers_it_alone_reads(bind):
    """Tanh is read only here and follows; Sigmoid is read twice, requantized at the input."""
    model = bind(
        """g (float[1,8] x) => (float[1,8] y, float[1,8] z) {
            [a] p = Tanh(x)  [b] q = Sigmoid(x)  [sum] y = Add(p, q)  [other] z = Tanh(q)
        }"""
    )
    assert states(model) == {
        "a.in0": "own", "a.out0": "as sum.out0",
        "b.in0": "own", "b.out0": "own",
        "sum.in0": "as sum.out0", "sum.in1": "as sum.out0", "sum.out0": "own",
        "other.in0": "off", "other.out0": "own",
    }  # fmt: skip


def test_a_skip_connection_is_requantized_at_the_add(bind):
    """The Relu in front is read by Conv and Add; all of the Add follows the Relu behind."""
    model = bind(
        """g (float[1,2,4,4] x) => (float[1,2,4,4] y) {
            [r0] a = Relu(x)  [c] h = Conv(a, w)  [add] s = Add(h, a)  [r1] y = Relu(s)
        }""",
        w=ones(2, 2, 1, 1),
    )
    assert states(model) == {
        "r0.in0": "own", "r0.out0": "own",
        "c.in0": "off", "c.in1": "own", "c.out0": "as r1.out0",
        "add.in0": "as r1.out0", "add.in1": "as r1.out0", "add.out0": "off",
        "r1.in0": "off", "r1.out0": "own",
    }  # fmt: skip


def test_a_constant_operand_of_an_add_uses_the_output_scale(bind):
    """Add and Sub align constants, Mul keeps an own scale for them."""
    model = bind(
        "g (float[1,8] x) => (float[1,8] y) { [add] h = Add(x, c)  [mul] y = Mul(h, c2) }",
        c=ones(1, 8), c2=ones(1, 8),
    )  # fmt: skip
    assert states(model) == {
        "add.in0": "as add.out0", "add.in1": "as add.out0", "add.out0": "own",
        "mul.in0": "off", "mul.in1": "own", "mul.out0": "own",
    }  # fmt: skip


def test_concat_inputs_follow_its_output(bind):
    """Convs that only the Concat reads follow, a MaxPool is passive and is requantized."""
    model = bind(
        """g (float[1,2,4,4] x) => (float[1,6,4,4] y) {
            [a] p = Conv(x, w)  [b] q = Conv(x, w2)
            [pool] m = MaxPool<kernel_shape = [3,3], pads = [1,1,1,1]>(q)
            [cat] y = Concat<axis = 1>(p, q, m)
        }""",
        w=ones(2, 2, 1, 1), w2=ones(2, 2, 1, 1),
    )  # fmt: skip
    assert states(model) == {
        "a.in0": "own", "a.in1": "own", "a.out0": "as cat.out0",
        "b.in0": "own", "b.in1": "own", "b.out0": "own",
        "pool.in0": "off", "pool.out0": "off",
        "cat.in0": "as cat.out0", "cat.in1": "as cat.out0", "cat.in2": "as cat.out0",
        "cat.out0": "own",
    }  # fmt: skip


def test_ops_that_only_move_values_are_passive(bind):
    """MaxPool and Reshape keep the scale of what they read, and so does the next input."""
    model = bind(
        """g (float[1,2,4,4] x) => (float[1,3] y) {
            [c] h = Conv(x, w)
            [pool] m = MaxPool<kernel_shape = [2,2], strides = [2,2]>(h)
            [flat] f = Reshape(m, shape)  [fc] y = Gemm(f, v)
        }""",
        w=ones(2, 2, 1, 1), v=ones(8, 3), shape=np.array([1, 8]),
    )  # fmt: skip
    assert states(model) == {
        "c.in0": "own", "c.in1": "own", "c.out0": "own",
        "pool.in0": "off", "pool.out0": "off", "flat.in0": "off", "flat.out0": "off",
        "fc.in0": "off", "fc.in1": "own", "fc.out0": "own",
    }  # fmt: skip


def test_a_passive_op_on_a_graph_input_has_two_scales(bind):
    """Nothing in front of it is quantized: input and output are calibrated separately."""
    model = bind("g (float[1,2,4] x) => (float[1,4,2] y) { [t] y = Transpose<perm = [0,2,1]>(x) }")
    assert states(model) == {"t.in0": "own", "t.out0": "own"}


def test_a_relu_behind_a_passive_op(bind):
    """The producer keeps its own scale, the passive op's slots go to the Relu."""
    model = bind(
        """g (float[1,2,4] x) => (float[1,8] y) {
            [a] h = Tanh(x)  [flat] f = Flatten(h)  [r] y = Relu(f)
        }"""
    )
    assert states(model) == {
        "a.in0": "own", "a.out0": "own", "flat.in0": "off", "flat.out0": "off",
        "r.in0": "off", "r.out0": "own",
    }  # fmt: skip


def test_a_silu_is_one_swish_with_scales_of_its_own(bind):
    """Named after its producer; Conv and Swish keep separate scales."""
    model = bind(
        """g (float[1,2,4,4] x) => (float[1,2,4,4] y) {
            [c] h = Conv(x, w)  [gate] s = Sigmoid(h)  [times] y = Mul(h, s)
        }""",
        w=ones(2, 2, 1, 1),
    )
    assert states(model) == {
        "c.in0": "own", "c.in1": "own", "c.out0": "own",
        "c/Swish.in0": "off", "c/Swish.out0": "own",
    }  # fmt: skip


def test_a_softmax_output_stays_float(bind):
    """The next op quantizes it at its own input."""
    model = bind(
        "g (float[2,8] x) => (float[2,8] y) "
        "{ [soft] p = Softmax<axis = 1>(x)  [mul] y = Mul(p, x) }"
    )
    assert states(model) == {
        "soft.in0": "own", "mul.in0": "own", "mul.in1": "own", "mul.out0": "own",
    }  # fmt: skip


def test_squaring_leaves_one_slot_to_the_producer(bind):
    """Mul(h, h): only the first slot is linked, the second has a scale of its own."""
    model = bind("g (float[1,8] x) => (float[1,8] y) { [t] h = Tanh(x)  [sq] y = Mul(h, h) }")
    assert states(model) == {
        "t.in0": "own", "t.out0": "own", "sq.in0": "off", "sq.in1": "own", "sq.out0": "own",
    }  # fmt: skip


def test_what_the_chip_has_no_kernel_for_stays_float(bind):
    """Sqrt is no quantable type: its neighbours quantize for themselves."""
    model = bind(
        "g (float[1,8] x) => (float[1,8] y) "
        "{ [a] h = Sigmoid(x)  [r] s = Sqrt(h)  [b] y = Tanh(s) }"
    )
    assert states(model) == {"a.in0": "own", "a.out0": "own", "b.in0": "own", "b.out0": "own"}


@pytest.mark.parametrize(("trans", "axis"), [(0, 1), (1, 0)])
def test_a_gemm_weight_has_a_scale_per_output(bind, trans, axis):
    """The axis of the output channels depends on transB."""
    model = bind(
        f"g (float[1,8] x) => (float[1,8] y) {{ [fc] y = Gemm<transB = {trans}>(x, w, b) }}",
        w=ones(8, 8), b=ones(8),
    )  # fmt: skip
    found = by_slot(model)
    assert found["fc.in1"] == Quantizer(
        "fc", "in1", "w", "weight", 8, axis=axis, observer="minmax"
    )
    assert found["fc.in2"] == Quantizer(
        "fc", "in2", "b", "bias", 32, axis=0, qmin=-(2**31), qmax=2**31 - 1
    )


def test_a_conv_weight_and_its_input(bind):
    """Whole records: per channel on axis 0, the input with the target's observer."""
    model = bind("g (float[1,2,4,4] x) => (float[1,2,4,4] y) { [c] y = Conv(x, w) }",
                 w=ones(2, 2, 1, 1))  # fmt: skip
    assert by_slot(model) == {
        "c.in0": Quantizer("c", "in0", "x", "input", 8, observer="kl"),
        "c.in1": Quantizer("c", "in1", "w", "weight", 8, axis=0, observer="minmax"),
        "c.out0": Quantizer("c", "out0", "y", "activation", 8, observer="kl"),
    }


def test_a_matmul_weight_is_per_tensor_by_percentile(bind):
    """Only Conv and Gemm have scales per channel."""
    model = bind("g (float[1,8] x) => (float[1,8] y) { [m] y = MatMul(x, w) }", w=ones(8, 8))
    assert by_slot(model)["m.in1"] == Quantizer(
        "m", "in1", "w", "weight", 8, observer="percentile"
    )


def test_layers_and_rows_of_the_report(bind):
    """All quantized nodes are layers; only those that multiply and accumulate are rows."""
    model = bind(
        """g (float[1,2,4,4] x) => (float[1,2,4,4] y) {
            [c] h = Conv(x, w)  [r] a = Relu(h)  [root] y = Sqrt(a)
        }""",
        w=ones(2, 2, 1, 1),
    )
    _, plan = place(model, ESP32P4)
    assert (plan.target, plan.layers, plan.computing, plan.precision) == (
        "esp32p4", ("c", "r"), {"c"}, {"c": "int8", "r": "int8"}
    )  # fmt: skip


def test_an_observer_can_be_chosen_for_activations(bind):
    """Weights keep theirs."""
    model = bind("g (float[1,2,4,4] x) => (float[1,2,4,4] y) { [c] y = Conv(x, w) }",
                 w=ones(2, 2, 1, 1))  # fmt: skip
    found = by_slot(model, observer="mse")
    assert {k: q.observer for k, q in found.items()} == {
        "c.in0": "mse", "c.in1": "minmax", "c.out0": "mse"
    }  # fmt: skip


def scale(reach, kind, bits=8):
    q = Quantizer(
        "n", "in0", "x", "activation", bits, qmin=-(2 ** (bits - 1)), qmax=2 ** (bits - 1) - 1
    )
    values, zeros = ESP32P4.scale(q, np.array([-reach]), np.array([reach / 2]), kind)
    assert zeros.tolist() == [0]
    return values.tolist()


@pytest.mark.parametrize(
    ("reach", "kind", "expected"),
    [
        (1.0, "minmax", 2**-6),  # 2/255 lies above 2^-7 = 2/256
        (0.99, "minmax", 2**-7),
        (127.5, "minmax", 1.0),  # exactly 127.5 steps still fit
        (127.6, "minmax", 2.0),
        (128.0, "kl", 1.0),
        (181.0, "kl", 1.0),  # 181 / 128 = 1.414 is just below the square root of 2
        (182.0, "kl", 2.0),
        (1.3, "kl", 2**-7),
        (1.3, "percentile", 2**-6),
        (1.3, "mse", 2**-6),
        (0.0, "minmax", 2**-26),
        (0.0, "kl", 2**-27),
        (1e-20, "minmax", 2**-26),
    ],
)
def test_scales_by_hand(reach, kind, expected):
    """Up to the next power of two, for KL to the nearest; silence has the smallest scale."""
    assert scale(reach, kind) == [expected]


@given(st.floats(1e-4, 1e4))
def test_a_covering_scale_covers_and_is_no_coarser_than_needed(reach):
    """At most 127.5 steps reach the end; half the scale would not do."""
    (step,) = scale(reach, "minmax")
    assert reach / step <= 127.5 * (1 + 1e-12)
    assert reach / (step / 2) > 127.5 * (1 - 1e-12)


def test_weights_have_a_scale_per_channel_on_the_p4_alone():
    """What `--list-targets` says is what `place` does."""
    found = {target.name: target.granularities for target in (ESP32P4, ESP32S3, ESP32)}
    assert found == {"esp32p4": ("channel",), "esp32s3": ("tensor",), "esp32": ("tensor",)}


@pytest.mark.parametrize("target", [ESP32P4, ESP32S3])
def test_integer_attention_is_told_where_esp_ppq_computes_it(bind, target):
    """Only on the P4 it runs the chip's own integer code."""
    model = bind(
        "g (float[1,2,5,8] x) => (float[1,2,5,8] y) { [a] q = Neg(x) [b] k = Relu(x) "
        "[t] kt = Transpose<perm = [0,1,3,2]>(k) [c] v = Abs(x) [m] s = MatMul(q, kt) "
        "[p] z = Softmax<axis = -1>(s) [n] y = MatMul(z, v) }"
    )
    _, plan = place(model, target)
    assert any("computes integers" in note for note in plan.notes) == (target is ESP32P4)


def test_a_norm_gives_a_layer_without_bias_one(bind):
    """Folded into a layer that the user reads as well: the bias is made, and quantized."""
    model = bind(
        "g (float[1,2,4,4] x) => (float[1,2,4,4] y, float[1,2,4,4] h) "
        "{ [c] h = Conv(x, w) [n] y = BatchNormalization(h, v, v, v, v) }",
        w=ones(2, 2, 1, 1), v=ones(2),
    )  # fmt: skip
    found = {"c.in0": "own", "c.in1": "own", "c.in2": "bias", "c.out0": "own"}
    assert states(model) == found
