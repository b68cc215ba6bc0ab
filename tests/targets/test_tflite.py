# SPDX-License-Identifier: Apache-2.0
"""The TFLite targets: placement and scales by hand, and against models of the TFLite converter."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from analyzer.calibrate import calibrate
from analyzer.place import place
from analyzer.records import Setting
from analyzer.targets.tflite import LITERT, TFLITE

sys.path.insert(0, str(Path(__file__).resolve().parent))
from tflite_siblings import compare, edges_of_plan, quantized, samples_of, sibling_edges

X = np.linspace(-1, 3, 64, dtype=np.float32).reshape(1, 4, 4, 4)
WEIGHT = {"w": np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)}


def plan_of(model, target=TFLITE, samples=(X,), **setting):
    graph, plan = place(model, target, Setting(**setting))
    (spec,) = model.inputs
    return calibrate(graph, plan, target, [{spec.name: x} for x in samples])


def keys(plan):
    return {(q.tensor, q.slot) for q in plan.quantizers}


def at(plan, tensor, slot):
    (found,) = [q for q in plan.quantizers if q.tensor == tensor and q.slot == slot]
    return found


def grid(plan, tensor, slot):
    found = at(plan, tensor, slot)
    return found.scale[0], found.zero_point[0]


def image(body, inner="float[1,4,4,4] x", out="float[1,4,4,4] y"):
    return f"g ({inner}) => ({out}) {{ {body} }}"


def test_bias_and_activation_are_one_operator(bind):
    """A Conv with bias and Relu has four quantizers: input, weight, bias and the Relu's output."""
    model = bind(image("c = Conv(x, w, b) y = Relu(c)"), b=np.float32([1, 2, 3, 4]), **WEIGHT)
    plan = plan_of(model)
    assert keys(plan) == {("x", "in0"), ("w", "in1"), ("b", "in2"), ("y", "out0")}
    assert at(plan, "b", "in2").bits == 32
    assert np.allclose(at(plan, "b", "in2").scale, 4 / 255 / 127)
    assert grid(plan, "x", "in0") == (pytest.approx(4 / 255), -64)
    assert plan.layers == tuple(node.name for node in model.proto.graph.node)


def test_an_activation_read_beside_is_an_operator(bind):
    """A Relu whose input has another reader is not fused: both tensors are quantized."""
    model = bind(image("c = Conv(x, w) r = Relu(c) y = Add(r, c)"), **WEIGHT)
    assert {("c", "out0"), ("r", "out0"), ("y", "out0")} <= keys(plan_of(model))


@pytest.mark.parametrize(
    ("low", "high", "fused"), [(0, 6, True), (-1, 1, True), (0, 1, False), (-2, 2, False)]
)
def test_clips_that_tflite_can_fuse(bind, low, high, fused):
    """Relu6 and Relu_n1_to_1 are fused into a Conv; other bounds are operators of their own."""
    bounds = {"lo": np.float32(low), "hi": np.float32(high)}
    plan = plan_of(bind(image("c = Conv(x, w) y = Clip(c, lo, hi)"), **bounds, **WEIGHT))
    assert (("c", "out0") not in keys(plan)) == fused


def test_a_product_and_its_bias_are_one_operator(bind):
    """MatMul and Add make a FULLY_CONNECTED: the Add's constant is on the accumulator's grid."""
    w = np.float32([[1, 0], [0, 2], [0, 0]])
    model = bind("g (float[2,3] x) => (float[2,2] y) { m = MatMul(x, w) y = Add(b, m) }",
                 w=w, b=np.float32([0.5, -0.5]))  # fmt: skip
    plan = plan_of(model, samples=[np.float32([[0, 1, 2], [0, 0, 2.55]])])
    assert keys(plan) == {("x", "in0"), ("w", "in1"), ("b", "in0"), ("y", "out0")}
    assert at(plan, "w", "in1").axis == 1
    assert at(plan, "b", "in0").scale == pytest.approx([0.01 / 127, 0.02 / 127])


def test_older_converters_have_one_scale_per_dense_weight(bind):
    """Before TensorFlow 2.17 only convolutions had scales per channel."""
    model = bind("g (float[2,3] x) => (float[2,2] y) { y = MatMul(x, w) }",
                 w=np.float32([[1, 0], [0, 2], [0, 0]]))  # fmt: skip
    older = replace(TFLITE, dense_per_channel=False)
    plan = plan_of(model, older, samples=[np.ones((2, 3), np.float32)])
    assert at(plan, "w", "in1").scale == pytest.approx([2 / 127])


def test_granularity_tensor_holds_for_all_weights(bind):
    """And for the bias, whose scale follows."""
    model = bind(image("y = Conv(x, w, b)"), b=np.ones(4, np.float32), **WEIGHT)
    plan = plan_of(model, granularity="tensor")
    assert at(plan, "w", "in1").axis is None
    assert at(plan, "b", "in2").scale.size == 1


def test_pools_and_reshapes_pass_their_grid_on(bind):
    """What only moves or averages values has the grid of its input."""
    model = bind(
        image(
            "c = Conv(x, w) p = MaxPool<kernel_shape = [2,2]>(c) "
            "q = AveragePool<kernel_shape = [2,2]>(p) y = Flatten(q)", out="float[1,16] y",
        ), **WEIGHT,
    )  # fmt: skip
    plan = plan_of(model)
    assert len({grid(plan, t, "out0") for t in "cpqy"}) == 1


def test_a_mean_has_a_grid_of_its_own(bind):
    """GlobalAveragePool becomes MEAN, which may rescale."""
    model = bind(image("y = GlobalAveragePool(x)", out="float[1,4,1,1] y"))
    plan = plan_of(model)
    assert at(plan, "y", "out0").follows is None


CONCAT = image(
    "a = Conv(x, w) s = Mul(a, k) j = Concat<axis = 1>(a, s) t = Tanh(a) "
    "y = Concat<axis = 1>(j, t)",
    out="float[1,12,4,4] y",
)


def test_the_converter_spreads_the_grid_of_a_concat(bind):
    """All that flows into the last Concat has its grid, for all readers; Tanh is requantized."""
    model = bind(CONCAT, k=np.float32(10), **WEIGHT)
    plan = plan_of(model)
    spread = grid(plan, "y", "out0")
    assert {grid(plan, t, "out0") for t in "asj"} == {spread}
    assert grid(plan, "t", "out0") == (1 / 128, 0)
    assert grid(plan, "t", "in1") == spread


def test_ai_edge_quantizer_requantizes_for_a_concat(bind):
    """Only a tensor that nothing else reads is brought onto the grid where it is made."""
    model = bind(CONCAT, k=np.float32(10), **WEIGHT)
    plan = plan_of(model, LITERT)
    joined = grid(plan, "j", "out0")
    assert grid(plan, "a", "out0") == (pytest.approx(4 / 255), -64)  # three readers: its own
    assert grid(plan, "a", "in0") == joined
    assert grid(plan, "s", "out0") == joined
    assert ("s", "in1") not in keys(plan)


def test_the_grids_that_kernels_prescribe(bind):
    """Softmax and sigmoid 1/256 and -128, tanh 1/128 and 0, log-softmax 16/256 and 127."""
    model = bind(
        "g (float[1,8] x) => (float[1,8] a, float[1,8] b, float[1,8] c, float[1,8] d) "
        "{ a = Softmax<axis = 1>(x) b = Sigmoid(x) c = Tanh(x) d = LogSoftmax<axis = 1>(x) }"
    )
    rows = [np.arange(8, dtype=np.float32).reshape(1, 8)]
    plan = plan_of(model, samples=rows)
    assert [grid(plan, t, "out0") for t in "abcd"] == [
        (1 / 256, -128), (1 / 256, -128), (1 / 128, 0), (16 / 256, 127),
    ]  # fmt: skip
    wide = plan_of(model, samples=rows, precision="int16x8")
    assert [grid(wide, t, "out0") for t in "abc"] == [(1 / 32768, 0)] * 3
    assert ("d", "out0") not in keys(wide)  # no kernel with 16 bits


def test_int16x8_is_symmetric_with_a_wide_bias(bind):
    """16-bit activations have zero point 0, weights stay at 8 bits, the bias takes 64."""
    model = bind(image("y = Conv(x, w, b)"), b=np.ones(4, np.float32), **WEIGHT)
    plan = plan_of(model, precision="int16x8")
    assert grid(plan, "x", "in0") == (pytest.approx(3 / 32767), 0)
    assert at(plan, "w", "in1").bits == 8
    assert at(plan, "b", "in2").bits == 64


def test_an_operator_in_float_leaves_its_neighbours_quantized(bind):
    """Denied: its output is quantized where an integer operator reads it, not where it is made."""
    model = bind(image("a = Conv(x, w) b = Mul(a, a) y = Conv(b, w)"), **WEIGHT)
    name = model.proto.graph.node[1].name
    plan = plan_of(model, table={name: "fp32"})
    assert {("a", "out0"), ("b", "in0")} <= keys(plan)
    assert ("b", "out0") not in keys(plan)
    assert plan.precision[name] == "fp32"


def test_one_node_in_float_takes_its_whole_operator_along(bind):
    """A fused Relu cannot be integer without its Conv."""
    model = bind(image("c = Conv(x, w) y = Relu(c)"), **WEIGHT)
    relu = model.proto.graph.node[1].name
    assert plan_of(model, table={relu: "fp32"}).quantizers == ()


def test_mixed_widths_requantize_at_the_reader(bind):
    """ai-edge-quantizer puts a Quantize between an int8 and an int16 operator."""
    model = bind(image("a = Conv(x, w) y = Mul(a, a)"), **WEIGHT)
    product = model.proto.graph.node[1].name
    plan = plan_of(model, LITERT, table={product: "int16x8"})
    assert at(plan, "a", "out0").bits == 8
    assert {q.bits for q in plan.quantizers if q.node == product} == {16}
    assert "mixed int8 and int16" in plan_of(model, table={product: "int16x8"}).notes[0]


def test_operators_without_a_kernel_stay_in_float(bind):
    """LeakyRelu is an integer operator for the converter only, Div for ai-edge-quantizer only.

    The latter quantizes the graph's input for the LeakyRelu all the same.
    """
    model = bind(image("a = LeakyRelu(x) y = Div(a, x)"))
    converter, edge = plan_of(model), plan_of(model, LITERT)
    assert {q.tensor for q in converter.quantizers} == {"x", "a"}
    assert {(q.tensor, q.slot) for q in edge.quantizers} == {
        ("x", "in0"), ("a", "in0"), ("x", "in1"), ("y", "out0"),
    }  # fmt: skip
    assert converter.notes == ("Left in float, as it has no integer kernel for them: Div.",)


def test_constants_have_an_asymmetric_grid(bind):
    """A summand is quantized like an activation over its own range, zero included."""
    model = bind(image("y = Add(x, k)"), k=np.float32([[[[2.55]]]]))
    assert grid(plan_of(model), "k", "in1") == (pytest.approx(0.01), -128)


def test_the_moving_average_by_hand(bind):
    """0.95 of the range so far and 0.05 of the new one, starting with the first run's."""
    model = bind(image("y = Conv(x, w)"), **WEIGHT)
    runs = [X * np.float32(f) for f in (1, 2, 4)]
    lo, hi = -1.0, 3.0
    for f in (2, 4):
        lo, hi = 0.95 * lo - 0.05 * f, 0.95 * hi + 0.05 * 3 * f
    found = grid(plan_of(model, LITERT, samples=runs), "x", "in0")
    assert found == (pytest.approx((hi - lo) / 255), round(-128 - lo / ((hi - lo) / 255)))
    extremes = plan_of(model, LITERT, samples=runs, observer="minmax")
    assert grid(extremes, "x", "in0")[0] == pytest.approx(16 / 255)


def test_a_large_bias_widens_the_weight_of_the_converter(bind):
    """Until it takes half of an int32; ai-edge-quantizer clips it, and a dead channel goes silent.

    Both show: weight 1e-9, input scale 4/255, bias 1.
    """
    small = {"w": WEIGHT["w"] * np.float32(1e-9)}
    model = bind(image("y = Conv(x, w, b)"), b=np.ones(4, np.float32), **small)
    widened = at(plan_of(model), "w", "in1").scale
    assert widened == pytest.approx([255 / 4 / ((2**31 - 1) // 2)] * 4, rel=1e-6)
    kept = plan_of(model, LITERT)
    assert at(kept, "w", "in1").scale == pytest.approx([1e-9 / 127] * 4, rel=1e-6)
    bias = at(kept, "b", "in2")
    assert bias.qmax * bias.scale[0] < 1e-3


def test_silent_tensors(bind):
    """A tensor of zeros: the converter's scale is 1, ai-edge-quantizer's 1e-9 / 255."""
    model = bind(image("y = Conv(x, w)"), **WEIGHT)
    zeros = [np.zeros_like(X)]
    assert grid(plan_of(model, samples=zeros), "x", "in0") == (1.0, -128)
    scale, zero = grid(plan_of(model, LITERT, samples=zeros), "x", "in0")
    assert (scale, zero) == (pytest.approx(1e-9 / 255), -128)


@pytest.mark.parametrize("name", ["ad_autoencoder", "resnet8_cifar10", "vww_mobilenet"])
def test_the_converters_own_models(shared, name):
    """All edges are placed alike, and weights have the scales that the converter gave them.

    A weight whose scale was widened depends on the input's scale, so that of the sibling is put
    in.  Activation ranges stand on other data and are only near.
    """
    pytest.importorskip("PIL")
    model = shared(name)
    older = replace(TFLITE, dense_per_channel=False)
    graph, plan = place(model, older)
    plan = calibrate(graph, plan, older, samples_of(name, 4), workers=2)
    theirs = sibling_edges(quantized(name), graph.proto.graph)
    found = compare(edges_of_plan(graph, plan), theirs)
    assert found.differing == {}
    assert found.quantized >= 31
    biases = {q.node: q for q in plan.quantizers if q.role == "bias"}
    constants = {t.name: t for t in graph.proto.graph.initializer}
    for q in plan.quantizers:
        if q.role == "weight":
            lo, hi = older.constant_range(array_of(constants[q.tensor]), q)
            scale, _ = older.scale(q, lo, hi, "minmax")
            step = theirs[q.node, 0].scale[0]
            if q.node in biases:
                bias = array_of(constants[biases[q.node].tensor]).astype(np.float64)
                scale = older.weight_scale(q, scale, np.array([step]), bias)
            assert scale == pytest.approx(np.array(theirs[q.node, 1].scale), rel=1e-5)
    softmax = [q for q in plan.quantizers if q.fixed_range]
    assert all(found.scales["", q.tensor] == 0 for q in softmax)


def array_of(tensor):
    return numpy_helper.to_array(tensor)
