# SPDX-License-Identifier: Apache-2.0
"""The OpenVINO target: where NNCF's rules put quantizers, and the arithmetic of their grids.

Expected places were read off NNCF 3.4's rules by hand; `tests/peers/test_nncf.py` asks NNCF.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer.calibrate import calibrate
from analyzer.errors import TargetError
from analyzer.load import bind_shapes, load_model
from analyzer.place import place
from analyzer.records import Setting
from analyzer.targets.openvino import OPENVINO
from analyzer.targets.openvino.operations import Edge, Operation
from analyzer.targets.openvino.patterns import Matcher, chain
from analyzer.targets.openvino.ranges import asymmetric_grid, symmetric_grid, weight_grid
from analyzer.targets.openvino.traits import Grid, grids, merged

HEAD = '<ir_version: 8, opset_import: ["": 13]>\n'
SHAPE = (1, 4, 6, 6)


@pytest.fixture
def placed(tmp_path):
    """Return a function: text of a graph, weights, setting -> (graph, plan)."""

    def make(text, setting=None, shape=SHAPE, **weights):
        proto = onnx.parser.parse_model(HEAD + text)
        proto.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()
        )
        onnx.save(proto, tmp_path / "net.onnx")
        model = bind_shapes(load_model(tmp_path / "net.onnx"), {"x": shape})
        return place(model, OPENVINO, setting or Setting())

    return make


def w(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def activations(plan):
    return {q.key for q in plan.quantizers if q.role in ("input", "activation")}


def completed(graph, plan, samples, target=OPENVINO):
    return target.complete(graph, calibrate(graph, plan, target, samples), samples)[1]


# -- grids


def test_weights_spread_the_largest_magnitude_over_127_steps():
    """No level at -128; a dead channel gets 1 % of the widest one's range."""
    scale, zero = weight_grid(np.array([-2.54, 0.0]), np.array([1.0, 0.0]), half=False)
    assert scale == pytest.approx([0.02, 0.0002])
    assert zero.tolist() == [0, 0]


def test_half_a_grid_ends_at_63_and_a_half():
    """The first convolution's weights use half the levels: scale = reach / 63.5."""
    scale, _ = weight_grid(np.array([-1.27]), np.array([0.5]), half=True)
    assert scale == pytest.approx([0.02])


def test_a_tensor_without_negative_values_uses_all_levels_above_zero():
    """Scale = reach / 255, zero point -128; one negative value: reach / 127, zero point 0."""
    assert [v.tolist() for v in symmetric_grid(np.array([0.0]), np.array([2.55]))] == [
        pytest.approx([0.01]),
        [-128],
    ]
    scale, zero = symmetric_grid(np.array([0.0, -0.1]), np.array([1.27, 2.54]))
    assert scale == pytest.approx([0.01, 0.02])
    assert zero.tolist() == [0, 0]


def test_an_asymmetric_grid_has_a_level_at_zero():
    """-0.3 is 50.67 steps below zero of -0.3..1.21: 51 of 255, so that the lower end moves out."""
    scale, zero = asymmetric_grid(np.array([-0.3]), np.array([1.21]))
    assert zero.tolist() == [-128 + 51]
    assert scale == pytest.approx([1.21 / 204])


def test_a_constant_tensor_gets_a_range_around_it():
    """Ranges up to 8e-4 are widened by as much on both sides, and reach to zero."""
    scale, zero = asymmetric_grid(np.array([0.0]), np.array([0.0]))
    assert scale[0] > 0
    assert zero[0] in (-1, 0)


def test_branches_agree_on_the_grid_that_both_know():
    """A depthwise convolution would like channels, an ordinary one cannot: per tensor."""
    both = merged([grids("DepthwiseConvolution", symmetric=True), grids("MatMul", symmetric=True)])
    assert both[0] == Grid(8, True, False)
    assert not merged([grids("MatMul", symmetric=False), grids("MatMul", symmetric=True)])


# -- placement


def test_a_residual_block(placed):
    """Quantizers stand behind Relu, before the Add on both sides, never between layer and Relu."""
    _, plan = placed(
        """net (float[1,4,6,6] x) => (float[1,4,6,6] y) {
            [a] h = Conv(x, wa, b)
            [r] s = Relu(h)
            [b] t = Conv(s, wb, b)
            [sum] u = Add(t, s)
            [end] y = Relu(u)
        }""",
        wa=w(4, 4, 1, 1), wb=w(4, 4, 1, 1), b=w(4),
    )  # fmt: skip
    assert activations(plan) == {("a", "in0"), ("r", "out0"), ("b", "out0")}
    weights = {q.key: q for q in plan.quantizers if q.role == "weight"}
    assert set(weights) == {("a", "in1"), ("b", "in1")}
    assert weights["a", "in1"].observer == "half_range"
    assert weights["b", "in1"].observer == "minmax"
    assert all(q.axis == 0 and q.qmin == -127 for q in weights.values())


def test_depthwise_inputs_are_quantized_per_channel(placed):
    """Unless another layer reads the same tensor."""
    text = """net (float[1,4,6,6] x) => (float[1,4,6,6] y, float[1,4,6,6] z) {
        [first] h = Conv(x, wp)
        [r] s = Relu(h)
        [dw] y = Conv<group = 4>(s, wd)
        [other] z = Conv(OTHER, wp)
    }"""
    _, alone = placed(text.replace("OTHER", "x"), wp=w(4, 4, 1, 1), wd=w(4, 1, 1, 1))
    assert {q.axis for q in alone.quantizers if q.key == ("r", "out0")} == {1}
    _, shared = placed(text.replace("OTHER", "s"), wp=w(4, 4, 1, 1), wd=w(4, 1, 1, 1))
    assert {q.axis for q in shared.quantizers if q.key == ("r", "out0")} == {None}


def test_silu_is_one_operation(placed):
    """No quantizer between the gate and the product."""
    _, plan = placed(
        """net (float[1,4,6,6] x) => (float[1,4,6,6] y) {
            [a] h = Conv(x, wa)
            [gate] g = Sigmoid(h)
            [silu] s = Mul(h, g)
            [b] y = Conv(s, wa)
        }""",
        wa=w(4, 4, 1, 1),
    )  # fmt: skip
    assert activations(plan) == {("a", "in0"), ("silu", "out0")}


def test_inputs_of_a_concat_share_a_scale_before_a_layer(placed):
    """One group, observed on both tensors; before a Softmax there is none."""
    text = """net (float[1,4,6,6] x) => (float[1,8,6,6] y) {
        [a] h = Conv(x, wa)
        [ra] s = Relu(h)
        [b] i = Conv(x, wa)
        [rb] t = Relu(i)
        [cat] k = Concat<axis = 1>(s, t)
        [end] y = END
    }"""
    _, plan = placed(text.replace("END", "Conv(k, we)"), wa=w(4, 4, 1, 1), we=w(8, 8, 1, 1))
    pair = {q.key: q for q in plan.quantizers if q.tensor in ("s", "t")}
    assert set(pair) == {("ra", "out0"), ("rb", "out0")}
    assert pair["ra", "out0"].observes == ("s", "t")
    assert pair["rb", "out0"].follows == ("ra", "out0")
    _, plan = placed(text.replace("END", "Softmax(k)"), wa=w(4, 4, 1, 1))
    assert not {q.key for q in plan.quantizers if q.tensor in ("s", "t")}


def test_a_lone_factor_is_not_quantized(placed):
    """A Mul with a constant reads one activation, whose quantizer would serve nothing else."""
    _, plan = placed(
        """net (float[1,4,6,6] x) => (float[1,4,6,6] y) {
            [scale] h = Mul(x, two)
            [act] s = Tanh(h)
            [a] y = Conv(s, wa)
        }""",
        two=np.float32(2), wa=w(4, 4, 1, 1),
    )  # fmt: skip
    assert activations(plan) == {("act", "out0")}


def test_attention_leaves_its_values_in_float(placed):
    """Queries and keys are quantized, the third input of attention is not."""
    _, plan = placed(
        """net (float[1,5,8] x) => (float[1,5,8] y) {
            [q] q0 = MatMul(x, wq)
            [k] k0 = MatMul(x, wk)
            [v] v0 = MatMul(x, wv)
            [turn] kt = Transpose<perm = [0,2,1]>(k0)
            [scores] s = MatMul(q0, kt)
            [scale] t = Mul(s, c)
            [soft] p = Softmax<axis = -1>(t)
            [mix] y = MatMul(p, v0)
        }""",
        shape=(1, 5, 8), wq=w(8, 8), wk=w(8, 8), wv=w(8, 8), c=np.float32(0.3),
    )  # fmt: skip
    keys = activations(plan)
    assert {("q", "out0"), ("k", "out0")} <= keys
    assert not keys & {("v", "out0"), ("soft", "out0"), ("mix", "in0"), ("mix", "in1")}


def test_squeeze_and_excitation_stays_in_float(placed):
    """Its two layers keep float weights; the mean before and the product behind are quantized."""
    _, plan = placed(
        """net (float[1,4,6,6] x) => (float[1,4,6,6] y) {
            [a] h = Conv(x, wa)
            [r] s = Relu(h)
            [mean] m = GlobalAveragePool(s)
            [down] d = Conv(m, wa, b)
            [rd] e = Relu(d)
            [up] f = Conv(e, wa, b)
            [gate] g = Sigmoid(f)
            [product] p = Mul(s, g)
            [end] y = Conv(p, wa)
        }""",
        wa=w(4, 4, 1, 1), b=w(4),
    )  # fmt: skip
    weights = {q.node for q in plan.quantizers if q.role == "weight"}
    assert weights == {"a", "end"}
    assert activations(plan) == {
        ("a", "in0"), ("r", "out0"), ("gate", "out0"), ("product", "out0"),
    }  # fmt: skip


def test_a_table_of_embeddings_is_quantized_instead_of_what_is_read_from_it(placed):
    """Per tensor on the performance preset; the mixed preset quantizes both."""
    text = """net (int64[1,5] x) => (float[1,5,3] y) {
        [table] h = Gather(t, x)
        [a] y = MatMul(h, wa)
    }"""
    _, plan = placed(text, shape=(1, 5), t=w(9, 8), wa=w(8, 3))
    assert activations(plan) == set()
    assert {q.axis for q in plan.quantizers if q.key == ("table", "in0")} == {None}
    _, plan = placed(text, Setting(precision="int8-mixed"), shape=(1, 5), t=w(9, 8), wa=w(8, 3))
    assert activations(plan) == {("table", "out0")}
    assert {q.axis for q in plan.quantizers if q.key == ("table", "in0")} == {0}


def test_what_leads_to_a_top_k_stays_in_float(placed):
    """From the last layer with weights to the output."""
    _, plan = placed(
        """net (float[1,4,6,6] x) => (float[1,4,6,2] y, int64[1,4,6,2] i) {
            [a] h = Conv(x, wa)
            [more] m = Add(h, x)
            [top] y, i = TopK<axis = -1>(m, two)
        }""",
        wa=w(4, 4, 1, 1), two=np.array([2]),
    )  # fmt: skip
    assert activations(plan) == {("a", "in0")}


def test_matches_are_disjoint_and_closed():
    """The longer pattern wins; a tensor that is read elsewhere ends a pattern."""
    ops = [
        Operation("MatMul", "a"),
        Operation("Add", "b", [Edge(0, 0, "", ())]),
        Operation("Relu", "c", [Edge(1, 0, "", ())]),
        Operation("Result", "d", [Edge(1, 0, "", ())]),
    ]
    patterns = [chain("MatMul", "Add"), chain("MatMul", "Add", "Relu")]
    assert Matcher(ops).find(patterns, strict=True) == [[0, 1]]
    assert Matcher(ops[:3]).find(patterns, strict=True) == [[0, 1, 2]]


# -- what a user may ask for


def test_layers_in_float_are_the_ignored_scope(placed):
    """A layer at fp32 has float weights, and asks for no quantized input."""
    text = """net (float[1,4,6,6] x) => (float[1,4,6,6] y) {
        [a] h = Conv(x, wa)
        [b] y = Conv(h, wa)
    }"""
    _, plan = placed(text, Setting(table={"b": "fp32"}), wa=w(4, 4, 1, 1))
    assert {q.node for q in plan.quantizers} == {"a"}


def test_one_preset_for_the_whole_model(placed):
    """A layer with another preset is refused: NNCF has none."""
    text = "net (float[1,4,6,6] x) => (float[1,4,6,6] y) { [a] y = Conv(x, wa) }"
    with pytest.raises(TargetError, match="int8-mixed"):
        placed(text, Setting(table={"a": "int8-mixed"}), wa=w(4, 4, 1, 1))


def test_layers_in_a_row_are_told(placed):
    """NNCF 3.4.0 fails there with its default settings."""
    text = """net (float[1,4,6,6] x) => (float[1,4,6,6] y) {
        [a] h = Conv(x, wa)
        [b] y = Conv(h, wa)
    }"""
    _, plan = placed(text, wa=w(4, 4, 1, 1))
    assert "disable_channel_alignment" in plan.notes[0]


# -- bias correction

POINT = """net (float[1,2,1,1] x) => (float[1,2,1,1] y) { [a] y = Conv(x, wa, b) }"""


def test_bias_takes_up_what_rounded_weights_shift(placed):
    """On a half grid of reach 100, scale 1.575, a weight of 1 becomes 1.575: 5.75 too much."""
    weights = np.float32([[100, 1], [0, 100]]).reshape(2, 2, 1, 1)
    graph, plan = placed(POINT, shape=(1, 2, 1, 1), wa=weights, b=np.float32([8, 8]))
    samples = [{"x": np.full((1, 2, 1, 1), v, np.float32)} for v in (9, 11)]
    done = {q.key: q for q in completed(graph, plan, samples).quantizers}
    step = 100 / 63.5
    # 63.5 steps become 63, see `half_range_weights`
    first = 8 + 10 * (100 - 63 * step) + 10 * (1 - step)
    second = 8 + 10 * (100 - 63 * step)
    assert done["a", "in2"].stored == pytest.approx([first, second], rel=1e-4)
    assert done["a", "in1"].stored.ravel()[0] == pytest.approx(63 * step)


def test_large_changes_and_zero_biases_are_left_alone(placed):
    """A change of twice the bias or more, or any bias of zero, and the layer keeps its own."""
    weights = np.float32([[100, 1], [0, 100]]).reshape(2, 2, 1, 1)
    samples = [{"x": np.full((1, 2, 1, 1), 10, np.float32)}]
    for bias in ([1, 1], [8, 0]):
        graph, plan = placed(POINT, shape=(1, 2, 1, 1), wa=weights, b=np.float32(bias))
        done = {q.key for q in completed(graph, plan, samples).quantizers}
        assert ("a", "in2") not in done


def test_bias_correction_can_be_turned_off(placed):
    """As `disable_bias_correction` does."""
    weights = np.float32([[100, 1], [0, 100]]).reshape(2, 2, 1, 1)
    graph, plan = placed(POINT, shape=(1, 2, 1, 1), wa=weights, b=np.float32([8, 8]))
    samples = [{"x": np.full((1, 2, 1, 1), 10, np.float32)}]
    done = completed(graph, plan, samples, replace(OPENVINO, bias_correction=False))
    assert {q.role for q in done.quantizers} == {"input", "weight"}


def test_more_samples_than_nncf_takes_are_told(placed):
    """NNCF stops after 300 by default."""
    graph, plan = placed(POINT, shape=(1, 2, 1, 1), wa=w(2, 2, 1, 1), b=w(2))
    samples = [{"x": np.ones((1, 2, 1, 1), np.float32)}] * 301
    assert any("300" in note for note in completed(graph, plan, samples).notes)
