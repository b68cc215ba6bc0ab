# SPDX-License-Identifier: Apache-2.0
"""The onnxruntime target against the real `quantize_static`: placement, scales and outputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from ort_judge import agreement, bound_model, executed, our_plan, real_quantizer

from analyzer.errors import TargetError
from analyzer.graph.session import open_session
from analyzer.place import place
from analyzer.records import Quantizer, Setting
from analyzer.targets.onnxruntime import ONNXRUNTIME
from analyzer.targets.onnxruntime.rules import S8, S16, U8, U16, opset_after_update


def normal_samples(model, count=3, seed=1):
    rng = np.random.default_rng(seed)
    return [
        {spec.name: rng.standard_normal(spec.shape).astype(np.float32) for spec in model.inputs}
        for _ in range(count)
    ]


def check(model, samples, setting=Setting(), *, target="onnxruntime"):  # noqa: B008
    found = agreement(model, samples, target, setting)
    assert not found.differences
    assert found.slots
    assert found.error <= 1e-4


def weights(*shape):
    rng = np.random.default_rng(sum(shape))
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


NETS = {
    "conv, relu, conv": (
        """g (float[1,3,6,6] x) => (float[1,2,6,6] y) {
            h = Conv(x, w0, b0)  a = Relu(h)  y = Conv(a, w1)
        }""",
        {"w0": weights(4, 3, 1, 1), "b0": weights(4), "w1": weights(2, 4, 1, 1)},
    ),
    "relu behind a tensor read twice": (
        """g (float[1,3,6,6] x) => (float[1,4,6,6] y) {
            h = Conv(x, w0)  a = Relu(h)  y = Add(a, h)
        }""",
        {"w0": weights(4, 3, 1, 1)},
    ),
    "relu of a graph input": (
        "g (float[1,8] x) => (float[1,8] y) { a = Relu(x)  y = Sigmoid(a) }",
        {},
    ),
    "clip": (
        """g (float[1,3,6,6] x) => (float[1,4,6,6] y) {
            h = Conv(x, w0)  a = Clip(h, low, high)  y = Sigmoid(a)
        }""",
        {"w0": weights(4, 3, 1, 1), "low": np.float32(0), "high": np.float32(0.5)},
    ),
    "add and mul with constants": (
        "g (float[1,8] x) => (float[1,8] y) { a = Add(x, c)  y = Mul(a, d) }",
        {"c": weights(1, 8), "d": weights(1, 8) + 2},
    ),
    "concat": (
        """g (float[1,3,4,4] x) => (float[1,7,4,4] y) {
            a = Conv(x, w0)  y = Concat<axis = 1>(a, x)
        }""",
        {"w0": weights(4, 3, 1, 1)},
    ),
    "max pool and reshape": (
        """g (float[1,3,4,4] x) => (float[1,16] y) {
            a = Conv(x, w0)  p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(a)
            y = Reshape(p, shape)
        }""",
        {"w0": weights(4, 3, 1, 1), "shape": np.array([1, 16])},
    ),
    "max pool of a graph input": (
        """g (float[1,3,4,4] x) => (float[1,3,2,2] y) {
            p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(x)  y = Sigmoid(p)
        }""",
        {},
    ),
    "average pool": (
        """g (float[1,3,4,4] x) => (float[1,4,2,2] y) {
            a = Conv(x, w0)  y = AveragePool<kernel_shape = [2,2], strides = [2,2]>(a)
        }""",
        {"w0": weights(4, 3, 1, 1)},
    ),
    "matmul by a weight": (
        "g (float[1,5,8] x) => (float[1,5,4] y) { y = MatMul(x, w0) }",
        {"w0": weights(8, 4)},
    ),
    "matmul by a weight of rank 3": (
        "g (float[2,5,8] x) => (float[2,5,4] y) { y = MatMul(x, w0) }",
        {"w0": weights(2, 8, 4)},
    ),
    "matmul of activations": (
        """g (float[1,5,8] x) => (float[1,5,5] y) {
            a = MatMul(x, w0)  t = Transpose<perm = [0,2,1]>(a)  y = MatMul(a, t)
        }""",
        {"w0": weights(8, 8)},
    ),
    "gemm": (
        "g (float[2,8] x) => (float[2,4] y) { y = Gemm(x, w0, b0) }",
        {"w0": weights(8, 4), "b0": weights(4)},
    ),
    "gemm of a transposed weight": (
        "g (float[2,8] x) => (float[2,4] y) { h = Gemm<transB = 1>(x, w0, b0)  y = Relu(h) }",
        {"w0": weights(4, 8), "b0": weights(4)},
    ),
    "softmax": (
        "g (float[2,8] x) => (float[2,4] y) { h = Gemm(x, w0)  y = Softmax<axis = 1>(h) }",
        {"w0": weights(8, 4)},
    ),
    "split": (
        """g (float[1,4,4,4] x) => (float[1,4,4,4] y) {
            h = Conv(x, w0)  p, q = Split<axis = 1>(h, halves)  y = Concat<axis = 1>(q, p)
        }""",
        {"w0": weights(4, 4, 1, 1), "halves": np.array([1, 3])},
    ),
    "resize": (
        """g (float[1,3,4,4] x) => (float[1,4,8,8] y) {
            h = Conv(x, w0)
            r = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric",
                       nearest_mode = "floor">(h, , scales)
            y = Sigmoid(r)
        }""",
        {"w0": weights(4, 3, 1, 1), "scales": np.float32([1, 1, 2, 2])},
    ),
    "pad with zeros": (
        """g (float[1,3,4,4] x) => (float[1,2,4,4] y) {
            h = Conv(x, w0)  p = Pad(h, pads)  y = Conv(p, w1)
        }""",
        {"w0": weights(4, 3, 1, 1), "w1": weights(2, 4, 3, 3),
         "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
    ),
    "pad with a value": (
        """g (float[1,3,4,4] x) => (float[1,4,6,6] y) {
            h = Conv(x, w0)  p = Pad(h, pads, value)  y = Sigmoid(p)
        }""",
        {"w0": weights(4, 3, 1, 1), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
         "value": np.float32(-4)},
    ),
    "gather from a table": (
        "g (float[4,8] x) => (float[4,8] y) { e = Gather(table, rows)  y = Add(x, e) }",
        {"table": weights(10, 8), "rows": np.array([1, 3, 3, 9])},
    ),
    "gather from an activation": (
        """g (float[4,8] x) => (float[2,8] y) {
            h = Sigmoid(x)  e = Gather(h, rows)  y = Sigmoid(e)
        }""",
        {"rows": np.array([1, 3])},
    ),
    "global average pool": (
        """g (float[1,3,4,4] x) => (float[1,4,1,1] y) {
            h = Conv(x, w0)  y = GlobalAveragePool(h)
        }""",
        {"w0": weights(4, 3, 1, 1)},
    ),
    "silu": (
        """g (float[1,3,4,4] x) => (float[1,4,4,4] y) {
            h = Conv(x, w0)  s = Sigmoid(h)  y = Mul(h, s)
        }""",
        {"w0": weights(4, 3, 1, 1)},
    ),
    "float op between": (
        """g (float[1,3,4,4] x) => (float[1,2,4,4] y) {
            h = Conv(x, w0)  t = Tanh(h)  y = Conv(t, w1)
        }""",
        {"w0": weights(4, 3, 1, 1), "w1": weights(2, 4, 1, 1)},
    ),
    "conv transpose": (
        """g (float[1,4,3,3] x) => (float[1,2,6,6] y) {
            y = ConvTranspose<strides = [2,2]>(x, w0, b0)
        }""",
        {"w0": weights(4, 2, 2, 2), "b0": weights(2)},
    ),
    "weight shared by two layers": (
        """g (float[1,4,4,4] x) => (float[1,4,4,4] y) {
            h = Conv(x, w0, b0)  a = Relu(h)  y = Conv(a, w0)
        }""",
        {"w0": weights(4, 4, 1, 1), "b0": weights(4)},
    ),
    "channels that are nearly dead": (
        "g (float[1,3,4,4] x) => (float[1,4,4,4] y) { h = Conv(x, w0, b0)  y = Relu(h) }",
        {"w0": weights(4, 3, 1, 1) * np.float32([1, 1e-12, 1, 1e-9]).reshape(4, 1, 1, 1),
         "b0": np.float32([0.1, 0.4, 0, -0.3])},
    ),
    "slice, squeeze and unsqueeze": (
        """g (float[1,3,4,4] x) => (float[4,4,4] y) {
            h = Conv(x, w0)  s = Squeeze(h, zero)  u = Unsqueeze(s, zero)
            v = Slice(u, starts, ends, axes)  t = Squeeze(v, zero)  y = Relu(t)
        }""",
        {"w0": weights(4, 3, 1, 1), "zero": np.array([0]), "starts": np.array([0]),
         "ends": np.array([4]), "axes": np.array([1])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_small_nets_agree_with_the_real_quantizer(bind, name):
    """Same tensors, same scales, same zero points, same output."""
    text, constants = NETS[name]
    model = bind(text, **constants)
    check(model, normal_samples(model))


def test_layer_normalization_agrees_with_the_real_quantizer(bind):
    """Scale per tensor, bias at the product of scales (opset 17)."""
    model = bind(
        """g (float[1,5,8] x) => (float[1,5,8] y) {
            h = MatMul(x, w0)  y = LayerNormalization(h, gamma, beta)
        }""",
        opset=17, w0=weights(8, 8), gamma=weights(8) + 2, beta=weights(8),
    )  # fmt: skip
    check(model, normal_samples(model))


OLD_NETS = {
    "max pool before opset 12": (
        11,
        """g (float[1,3,6,6] x) => (float[1,4,3,3] z) {
            y = Conv(x, w0)  p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(y)  z = Sigmoid(p)
        }""",
    ),
    "pad with an attribute": (
        10,
        """g (float[1,3,6,6] x) => (float[1,4,8,8] z) {
            y = Conv(x, w0)  p = Pad<pads = [0,0,1,1,0,0,1,1]>(y)  z = Sigmoid(p)
        }""",
    ),
    "clip with attributes, opset raised to 11": (
        8,
        """g (float[1,3,6,6] x) => (float[1,4,6,6] z) {
            y = Conv(x, w0)  p = Clip<min = 0.0, max = 0.5>(y)  z = Sigmoid(p)
        }""",
    ),
}


@pytest.mark.parametrize("precision", ["int8", "u16s8"])
@pytest.mark.parametrize("name", OLD_NETS)
def test_old_opsets_agree(bind, name, precision):
    """What is quantized depends on the opset, which 16-bit types raise to 21."""
    opset, text = OLD_NETS[name]
    model = bind(text, opset=opset, w0=weights(4, 3, 1, 1))
    setting = Setting(precision=precision, granularity="tensor")
    check(model, normal_samples(model), setting)


def test_an_lstm_and_its_neighbours_agree(bind):
    """An LSTM is left alone, but a quantized neighbour quantizes what lies between."""
    model = bind(
        """g (float[5,1,4] x) => (float[5,1,1,3] y) {
            s = Sigmoid(x)  y, h, c = LSTM<hidden_size = 3>(s, w, r)
        }""",
        w=weights(1, 12, 4), r=weights(1, 12, 3),
    )  # fmt: skip
    check(model, normal_samples(model))


def test_a_body_reads_the_float_tensor(bind):
    """Q/DQ pairs are put in front of the main graph's readers: the If reads what stands before."""
    model = bind(
        """g (float[1,4] x, bool c) => (float[1,4] z, float[1,4] s) {
            h = Gemm(x, w)
            z = If (c) <then_branch = tb () => (float[1,4] t) { t = Add(h, x) },
                        else_branch = eb () => (float[1,4] e) { e = Mul(h, x) }>
            s = Sigmoid(h)
        }""",
        w=weights(4, 4),
    )
    samples = [{"x": weights(1, 4) + i, "c": np.array(bool(i % 2))} for i in range(3)]
    check(model, samples)
    _, plan = our_plan(model, samples, "onnxruntime", Setting())
    assert [q.slot for q in plan.quantizers if q.tensor == "h"] == ["in0"]


def test_a_type_that_onnx_cannot_infer_is_not_quantized(tmp_path):
    """Behind a foreign operator, quantize_static does not know that a tensor is float."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 13, "com.microsoft": 1]>
        g (float[1,4] x) => (float[1,4] z) {
            h = Sigmoid(x)  q = com.microsoft.QuickGelu(h)  r = Sigmoid(q)  z = Add(r, x)
        }"""
    )
    model = bound_model(proto, {"x": np.zeros((1, 4), np.float32)}, tmp_path)
    samples = normal_samples(model)
    check(model, samples)
    _, plan = our_plan(model, samples, "onnxruntime", Setting())
    assert {q.tensor for q in plan.quantizers} == {"x", "h", "z"}


def test_a_shared_weight_is_widened_for_both_biases(bind):
    """One scale per weight: the larger need of the two layers, seen in both."""
    dead = np.float32([1, 1e-12, 1e-9]).reshape(3, 1, 1, 1)
    model = bind(
        """g (float[1,3,6,6] x) => (float[1,3,6,6] z) { y = Conv(x, w, b)  z = Conv(y, w, c) }""",
        w=weights(3, 3, 1, 1) * dead, b=np.float32([0.1, 0.4, 0.2]), c=np.float32([0.3, 1.4, 0]),
    )  # fmt: skip
    check(model, normal_samples(model))


def test_a_weight_is_widened_by_the_own_range_of_a_shared_scale(bind):
    """Behind a MaxPool the input has another's scale; the widening looks at its own range."""
    dead = np.float32([1, 1e-12, 1e-9]).reshape(3, 1, 1, 1)
    model = bind(
        """g (float[1,3,6,6] x) => (float[1,3,3,3] z) {
            s = Mul(x, minus)  p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(s)
            z = Conv(p, w, b)
        }""",
        minus=np.float32(-2), w=weights(3, 3, 1, 1) * dead, b=np.float32([0.1, 0.4, 0.2]),
    )  # fmt: skip
    samples = [{"x": np.abs(s["x"])} for s in normal_samples(model)]
    check(model, samples)
    check(model, samples, Setting(observer="percentile", precision="u16s8"))


def test_every_layer_has_a_copy_of_a_shared_bias(bind):
    """Each copy has its own layer's scale, but one that is an operand as well stays 8 bits."""
    model = bind(
        """g (float[1,4] x) => (float[1,4] y, float[1,4] z, float[1,4] v) {
            [first] y = Gemm(x, w, b)  z = Add(y, b)  [second] v = Gemm(z, w, b)
        }""",
        w=weights(4, 4), b=weights(4),
    )  # fmt: skip
    samples = normal_samples(model)
    check(model, samples)
    _, plan = our_plan(model, samples, "onnxruntime", Setting())
    bits = {q.node: q.bits for q in plan.quantizers if q.tensor == "b" and q.slot == "in2"}
    assert bits == {"first": 8, "second": 32}


@pytest.mark.parametrize(
    ("name", "low", "high"), [("resnet8_cifar10", 0, 255), ("mobilenet_v1_025_imagenet", -1, 1)]
)
def test_real_models_agree_with_the_real_quantizer(shared, name, low, high):
    """Whole networks, random pixels of the right range."""
    model = shared(name)
    rng = np.random.default_rng(2)
    (spec,) = model.inputs
    samples = [
        {spec.name: rng.uniform(low, high, spec.shape).astype(np.float32)} for _ in range(2)
    ]
    check(model, samples)


def test_a_range_always_holds_zero():
    """compute_scale_zp: 1..3 is widened to 0..3, with zero at the lower end."""
    q = Quantizer("n", "out0", "y", "activation", 8, symmetric=False)
    scale, zero = ONNXRUNTIME.scale(q, np.array([1.0]), np.array([3.0]), "minmax")
    assert (scale.tolist(), zero.tolist()) == ([float(np.float32(3 / 255))], [-128])


def test_a_silent_tensor_has_scale_one():
    """No range at all must not divide by zero."""
    for symmetric in (False, True):
        q = Quantizer("n", "out0", "y", "activation", 8, symmetric=symmetric)
        scale, zero = ONNXRUNTIME.scale(q, np.zeros(1), np.zeros(1), "minmax")
        assert (scale.tolist(), zero.tolist()) == ([1.0], [0])


def test_unsigned_symmetric_weights_have_their_zero_in_the_middle():
    """Per-channel uint8: 2 * 3 / 255 a step, zero at round(127.5) = 128."""
    q = Quantizer(
        "n", "in1", "w", "weight", 8, signed=False, axis=0, qmin=0, qmax=255
    )  # fmt: skip
    scale, zero = ONNXRUNTIME.scale(q, np.array([-3.0]), np.array([2.0]), "minmax")
    assert (scale.tolist(), zero.tolist()) == ([float(np.float32(6 / 255))], [128])


def test_only_signed_weights_are_widened_for_their_bias():
    """A bias of 2^31 steps and more: uint8 weights stay as they are, int8 ones get wider."""
    one, bias = np.ones(1), np.array([2.0**32])
    for signed, expected in ((False, 1.0), (True, float(np.float32(2 * 1.0001)))):
        q = Quantizer("n", "in1", "w", "weight", 8, signed=signed)
        widened = ONNXRUNTIME.weight_scale(q, one, one, bias)
        assert widened == pytest.approx(expected, rel=1e-6)


def test_the_levels_of_each_type():
    """Only signed symmetric grids leave the lowest level out (`ONNX_INT_TYPE_SYMMETRIC_RANGE`)."""
    assert S8.levels(symmetric=True) == (-127, 127)
    assert S8.levels(symmetric=False) == (-128, 127)
    assert U8.levels(symmetric=True) == U8.levels(symmetric=False) == (0, 255)
    assert S16.levels(symmetric=True) == (-32767, 32767)
    assert U16.levels(symmetric=False) == (0, 65535)


@pytest.mark.parametrize(
    ("opset", "wide", "after"), [(7, False, 11), (10, False, 10), (13, False, 13), (13, True, 21)]
)
def test_the_opset_that_is_quantized(opset, wide, after):
    """`update_opset_version`: at least 11 below 10, 10 as it is, 21 for 16 bits."""
    assert opset_after_update(opset, wide=wide) == after


def test_nothing_is_rewritten(bind):
    """quantize_static takes the graph as it is."""
    model = bind("g (float[1,8] x) => (float[1,8] y) { y = Relu(x) }")
    assert ONNXRUNTIME.prepare(model) is model


THREE = """g (float[1,8] x) => (float[1,8] y) {
    [one] a = Sigmoid(x)  [two] b = Mul(a, a)  [three] y = Sigmoid(b)
}"""


def test_a_layer_in_float_is_excluded(bind):
    """`nodes_to_exclude`: what only excluded nodes touch is not quantized."""
    model = bind(THREE)
    setting = Setting(table={"one": "fp32", "two": "fp32"})
    check(model, normal_samples(model), setting)
    _, plan = place(model, ONNXRUNTIME, setting)
    assert {q.tensor for q in plan.quantizers} == {"b", "y"}
    assert plan.precision == {"two": "fp32", "three": "int8"}


def test_all_in_float_but_one(bind):
    """A table may name what is quantized, where the rest is not."""
    model = bind(THREE)
    _, plan = place(model, ONNXRUNTIME, Setting(precision="fp32", table={"three": "u8s8"}))
    assert {(q.tensor, q.bits, q.signed) for q in plan.quantizers} == {
        ("b", 8, False), ("y", 8, False)
    }  # fmt: skip


def test_a_wide_layer_is_converted_to_and_from(bind):
    """16 bits in the middle: its input is converted behind its own Q/DQ pair, its output back."""
    model = bind(THREE)
    setting = Setting(table={"two": "s16s8"})
    check(model, normal_samples(model), setting)
    _, plan = place(model, ONNXRUNTIME, setting)
    assert {q.key: q.bits for q in plan.quantizers} == {
        ("one", "in0"): 8, ("one", "out0"): 8, ("two", "in0"): 16, ("two", "in1"): 16,
        ("two", "out0"): 16, ("three", "out0"): 16,
    }  # fmt: skip


@pytest.mark.parametrize(
    "table", [{"two": "u8u8"}, {"two": "u16s8"}, {"one": "s16s8", "two": "u8s8"}]
)
def test_types_that_do_not_mix_are_refused(bind, table):
    """Overrides change activations only, and a signed type does not meet an unsigned one."""
    with pytest.raises(
        TargetError, match=r"'(two|one)' cannot be .* of 'int8'.*'s16s8' or 'fp32'"
    ):
        place(bind(THREE), ONNXRUNTIME, Setting(table=table))


def findings(model, samples, setting=Setting()):  # noqa: B008
    graph, plan = our_plan(model, samples, "onnxruntime", setting)
    return [(f.code, f.layer) for f in ONNXRUNTIME.findings(graph, plan)]


def nsr(quantized, model, feeds):
    """Return the NSR of every output of the real quantized model."""
    plain = open_session(model.proto.SerializeToString()).run(None, feeds)
    return [
        float(np.sum((q - y) ** 2) / np.sum(y**2))
        for q, y in zip(executed(quantized, feeds), plain, strict=True)
    ]


def test_a_graph_output_loses_what_its_relu_cuts(bind):
    """QA221, shown on the real quantizer: h has the range of Relu(h), half its power is gone."""
    model = bind(
        """g (float[1,3,4,4] x) => (float[1,4,4,4] h, float[1,4,4,4] y) {
            [conv] h = Conv(x, w)  [act] y = Relu(h)
        }""",
        w=weights(4, 3, 1, 1),
    )
    samples = normal_samples(model)
    check(model, samples)
    cut, kept = nsr(real_quantizer(model, samples, "onnxruntime", Setting()), model, samples[0])
    assert cut > 0.3
    assert kept < 1e-3
    assert findings(model, samples) == [("QA221", "conv")]


def test_a_clip_beyond_zero_is_missed(bind):
    """QA222, shown on the real quantizer: dropped, a Clip to 2..6 lets values down to 0 pass."""
    model = bind(
        """g (float[1,64] x) => (float[1,64] y) {
            [sum] h = Add(x, one)  [act] y = Clip(h, a, b)
        }""",
        one=np.float32(-1), a=np.float32(2), b=np.float32(6),
    )  # fmt: skip
    samples = [{"x": np.linspace(0, 8, 64, dtype=np.float32)[None]}]
    check(model, samples)
    quantized = real_quantizer(model, samples, "onnxruntime", Setting())
    assert executed(quantized, samples[0])[0].min() == 0
    assert findings(model, samples) == [("QA222", "act")]


def test_a_relu_that_calibration_never_saw_open_is_missed(bind):
    """QA222, shown on the real quantizer: negative values pass a quantizer of scale 1."""
    model = bind(
        "g (float[1,4] x) => (float[1,4] y) { [sum] h = Add(x, ten)  [act] y = Relu(h) }",
        ten=np.float32(-10),
    )
    samples = normal_samples(model)
    check(model, samples)
    quantized = real_quantizer(model, samples, "onnxruntime", Setting())
    assert executed(quantized, samples[0])[0].max() < -5
    assert findings(model, samples) == [("QA222", "act")]
    assert not findings(model, samples, Setting(precision="u8u8"))


def test_a_relu_that_only_a_body_reads_is_missed(bind):
    """QA222, shown on the real quantizer: the If reads what stands before the dropped Relu."""
    model = bind(
        """g (float[1,4] x, bool c) => (float[1,4] z) {
            [sum] h = Add(x, ten)  [act] r = Relu(h)
            z = If (c) <then_branch = tb () => (float[1,4] t) { t = Identity(r) },
                        else_branch = eb () => (float[1,4] e) { e = Neg(r) }>
        }""",
        ten=np.float32(-10),
    )
    samples = [{"x": weights(1, 4) + i, "c": np.array(True)} for i in range(3)]
    quantized = real_quantizer(model, samples, "onnxruntime", Setting())
    assert executed(quantized, samples[0])[0].max() < -5
    assert findings(model, samples) == [("QA222", "act")]


def test_a_gemm_loses_its_beta(bind):
    """QA223, shown on the real quantizer: the bias counts four times."""
    model = bind(
        "g (float[2,8] x) => (float[2,4] y) { [fc] y = Gemm<beta = 0.25>(x, w, b) }",
        w=weights(8, 4), b=np.float32([4, -4, 8, 2]),
    )  # fmt: skip
    samples = normal_samples(model)
    (error,) = nsr(real_quantizer(model, samples, "onnxruntime", Setting()), model, samples[0])
    assert error > 0.5
    assert findings(model, samples) == [("QA223", "fc")]


def test_entropy_is_minmax(bind):
    """QA224, shown on the real quantizer: the same file with either method."""
    model = bind(THREE)
    samples = normal_samples(model)
    one, two = (
        real_quantizer(model, samples, "onnxruntime", Setting(observer=o))
        for o in ("minmax", "entropy")
    )
    assert one.SerializeToString() == two.SerializeToString()
    assert findings(model, samples, Setting(observer="entropy")) == [("QA224", None)]


def test_per_channel_weights_below_opset_13_do_not_load(bind):
    """QA225, shown on the real quantizer: DequantizeLinear has no axis there."""
    model = bind(
        "g (float[1,3,4,4] x) => (float[1,4,4,4] y) { y = Conv(x, w) }",
        opset=11, w=weights(4, 3, 1, 1),
    )  # fmt: skip
    samples = normal_samples(model)
    quantized = real_quantizer(model, samples, "onnxruntime", Setting())
    with pytest.raises(Exception, match="Unrecognized attribute: axis"):
        executed(quantized, samples[0])
    assert findings(model, samples) == [("QA225", None)]
    assert not findings(model, samples, Setting(granularity="tensor"))
    assert not findings(model, samples, Setting(precision="u16s8"))
