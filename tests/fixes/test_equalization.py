# SPDX-License-Identifier: Apache-2.0
"""Equalization: ranges of channels become alike, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper
from rewritten import assert_same_function, constant, outputs, random_sample

from analyzer.errors import ModelError
from analyzer.fixes.equalization import equalization_remedies, equalize
from analyzer.fixes.factors import capped, esp_ppq_factors, pairs_of, paper_factors
from analyzer.records import Edit
from analyzer.targets import get_target

TWO = """g (float[1,2] x) => (float[1,2] y) {
    [a] h = Gemm<transB=1>(x, w1, b1)  [r] k = Relu(h)  [b] y = Gemm(k, w2)
}"""
# every kind of layer, and much of what may stand in between
CHAIN = """g (float[1,4,9,9] x) => (float[1,3] y) {
    [c1] a = Conv(x, w1, b1)  [r1] b = PRelu(a, slope)
    [dw] c = Conv<group=8, pads=[1,1,1,1]>(b, w2, b2)  [r2] d = LeakyRelu(c)
    [pad] e = Pad(d, pads)  [pool] f = AveragePool<kernel_shape=[2,2]>(e)
    [gr] g1 = Conv<group=2>(f, w3, b3)  [add] h = Add(g1, offset)  [r3] i = Relu(h)
    [up] j = ConvTranspose<group=2, strides=[2,2]>(i, w4, b4)  [r4] k = Relu(j)
    [flat] l = Flatten(k)  [fc] m = Gemm(l, w5, b5)  [r5] n = Relu(m)  [mm] y = MatMul(n, w6)
}"""


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


@pytest.fixture
def two(bind):
    return bind(
        TWO,
        w1=np.float32([[4, 1], [0.5, 1]]),
        b1=np.float32([1, -1]),
        w2=np.float32([[1, -0.5], [2, -4]]),
    )


@pytest.fixture
def chain(bind):
    return bind(
        CHAIN,
        w1=normal(8, 4, 1, 1), b1=normal(8), slope=np.abs(normal(8, 1, 1)),
        w2=normal(8, 1, 3, 3), b2=normal(8), pads=np.array([0, 0, 0, 0, 0, 0, 1, 1]),
        w3=normal(6, 4, 1, 1), b3=normal(6), offset=normal(6, 1, 1),
        w4=normal(6, 2, 2, 2), b4=normal(4), w5=normal(4 * 18 * 18, 5), b5=normal(5),
        w6=normal(5, 3),
    )  # fmt: skip


def test_both_weights_reach_equally_far(two):
    """Ranges 4, 1 and 1, 4 become 2, 2 and 2, 2 by the factors 1/2 and 2."""
    factors = paper_factors(two, pairs_of(two))
    assert factors["a"] == pytest.approx([0.5, 2.0])
    edited = equalize(two, Edit("equalization", ("a",), values={"a": tuple(factors["a"])}))
    assert constant(edited, "w1").tolist() == [[2, 0.5], [1, 2]]
    assert constant(edited, "b1").tolist() == [0.5, -2]
    assert constant(edited, "w2").tolist() == [[2, -1], [1, -2]]


def test_every_kind_of_layer_hands_its_factors_on(chain):
    """Any factors leave the function, shapes and names as they are; so does the model itself."""
    pairs = pairs_of(chain)
    assert [p.first for p in pairs] == ["c1", "dw", "gr", "up", "fc"]
    rng = np.random.default_rng(1)
    values = {p.first: tuple(np.exp(rng.normal(0, 1, p.way.channels))) for p in pairs}
    before = chain.proto.SerializeToString()
    edited = equalize(chain, Edit("equalization", tuple(values), values=values))
    assert chain.proto.SerializeToString() == before != edited.proto.SerializeToString()
    assert_same_function(chain, edited)
    for name in ("shapes", "dtypes", "macs", "source_nodes", "parameters"):
        assert getattr(edited, name) == getattr(chain, name)


def test_the_paper_leaves_no_pair_unequal(chain):
    """At the end both ranges agree in every channel of every pair."""
    values = {k: tuple(v) for k, v in paper_factors(chain, pairs_of(chain)).items()}
    edited = equalize(chain, Edit("equalization", tuple(values), values=values))
    again = paper_factors(edited, pairs_of(edited))
    for factors in again.values():
        assert factors == pytest.approx(np.ones(factors.size), rel=1e-3)


def test_layers_that_share_a_tensor_share_its_factors(bind):
    """The wider of two readers counts: ranges 1 and max(1, 4)."""
    model = bind(
        """g (float[1,1] x) => (float[1,1] y, float[1,1] z) {
            [a] h = Gemm(x, w)  [r] k = Relu(h)  [b] y = Gemm(k, u)  [c] z = Gemm(k, v)
        }""",
        w=np.float32([[1]]), u=np.float32([[1]]), v=np.float32([[4]]),
    )  # fmt: skip
    assert paper_factors(model, pairs_of(model))["a"] == pytest.approx([2.0])


@pytest.mark.parametrize(
    "between",
    [
        "k = Sigmoid(h)",
        "k = Clip(h, zero, six)",
        "s = Sigmoid(h) k = Mul(h, s)",
        "r = Relu(h) k = Add(h, r)",
        "r = Relu(h) k = Mul(h, r)",
        "k = Softmax(h)",
    ],
)
def test_factors_do_not_pass_everything(bind, between):
    """What is not positively homogeneous, and what joins a tensor with itself, voids a pair."""
    model = bind(
        f"g (float[1,2] x) => (float[1,2] y) {{ h = Gemm(x, w) {between} y = Gemm(k, w) }}",
        w=normal(2, 2), zero=np.float32(0), six=np.float32(6),
    )  # fmt: skip
    assert pairs_of(model) == []


def test_an_output_of_the_graph_keeps_its_channels(bind):
    """It is the user's."""
    model = bind(
        """g (float[1,2] x) => (float[1,2] y, float[1,2] h) {
            h = Gemm(x, w)  y = Gemm(h, w)
        }""",
        w=normal(2, 2),
    )
    assert pairs_of(model) == []


def test_factors_of_esp_ppq(two):
    """1/sqrt(u/d) is held within 0.1 and 10 in each of ten passes; small ranges are left alone."""
    assert esp_ppq_factors(two, pairs_of(two))["a"] == pytest.approx([0.5, 2.0])
    small = equalize(two, Edit("equalization", ("a",), values={"a": (1e-6, 1.0)}))
    # u = 4e-6, d = 1e6: ten times each pass, until 1e6 * 1e-3 is met: 5e5 = sqrt(d / u)
    assert esp_ppq_factors(small, pairs_of(small))["a"] == pytest.approx([5e5, 2.0])


def test_no_channel_becomes_the_widest_by_its_weights_alone():
    """Channels reach 8, 1 and 0: the second grows to 4 at most, the third is left alone."""
    found = capped({"a": np.array([2.0, 100.0, 9.0])}, {"a": np.array([8.0, 1.0, 0.0])})
    assert found["a"].tolist() == [0.5, 4.0, 1.0]


@pytest.mark.parametrize(
    ("layer", "values", "message"),
    [
        ("c", (1.0, 1.0), "no layer 'c'"),
        ("b", (1.0, 1.0), "cannot be equalized"),
        ("a", (1.0,), "expected 2 positive ones"),
        ("a", (1.0, -1.0), "expected 2 positive ones"),
    ],
)
def test_what_does_not_fit_is_refused(two, layer, values, message):
    """With the layer's name, and what was expected."""
    with pytest.raises(ModelError, match=message):
        equalize(two, Edit("equalization", (layer,), values={layer: values}))


def test_channels_before_a_depthwise_layer_become_equally_wide(bind, told):
    """With weight scales per channel nothing speaks against it."""
    model = bind(
        """g (float[1,3,6,6] x) => (float[1,2,6,6] y) {
            [a] h = Conv(x, w1)  [r] k = Relu(h)  [d] m = Conv<group=4>(k, w2)  [s] n = Relu(m)
            [b] y = Conv(n, w3)
        }""",
        w1=normal(4, 3, 1, 1) * np.float32([1, 0.1, 5, 2]).reshape(-1, 1, 1, 1),
        w2=normal(4, 1, 1, 1), w3=normal(2, 4, 1, 1),
    )  # fmt: skip
    samples = [random_sample(model, seed) for seed in range(3)]
    state = told(model, get_target("onnxruntime"), samples)
    found = {r.edit.method: r for r in equalization_remedies(state)}
    assert list(found) == ["activations 0.7", "activations 0.3", "weights", "depthwise"]
    for remedy in found.values():
        edited = equalize(model, remedy.edit)
        assert_same_function(model, edited)
        if remedy.edit.method != "weights":
            reach = _reach(edited, "k", samples)
            assert reach == pytest.approx(np.full(4, reach[0]), rel=1e-4)
            assert reach.max() == pytest.approx(_reach(model, "k", samples).max(), rel=1e-4)
    assert found["depthwise"].layers == ("a",)


def _reach(model, tensor, samples):
    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    proto.graph.output.append(_value(tensor))
    watched = replace(model, proto=proto)
    return np.max([outputs(watched, s)[-1].max(axis=(0, 2, 3)) for s in samples], axis=0)


def _value(tensor):
    return helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None)


def test_esp_ppq_is_offered_with_its_own_factors(two_ends, told):
    """Two layers read the same tensor, one behind a ReLU: they share its factors."""
    assert [pair.first for pair in pairs_of(two_ends)] == ["a"]
    state = told(two_ends, get_target("esp32p4"), [random_sample(two_ends)])
    methods = [remedy.edit.method for remedy in equalization_remedies(state)]
    assert methods == ["activations 0.7", "activations 0.3", "weights", "esp-ppq"]


def test_nothing_to_equalize_is_no_candidate(bind, told):
    """A single layer has nobody to share with."""
    model = bind("g (float[1,2] x) => (float[1,2] y) { y = Gemm(x, w) }", w=normal(2, 2))
    state = told(model, get_target("onnxruntime"), [random_sample(model)])
    assert equalization_remedies(state) == ()
