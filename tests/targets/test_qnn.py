# SPDX-License-Identifier: Apache-2.0
"""The QNN target against `get_qnn_qdq_config` and `quantize`."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ort_judge import agreement, bound_model, our_plan
from random_graphs import random_model

from analyzer.place import place
from analyzer.records import Quantizer, Setting
from analyzer.targets import get_target
from analyzer.targets.qnn import QNN_HTP

CHOICES = list(itertools.product(["a8w8", "a16w8"], ["tensor", "channel"]))
OBSERVERS = ("minmax", "percentile", "entropy")


def weights(*shape):
    rng = np.random.default_rng(sum(shape))
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def normal_samples(model, count=3):
    rng = np.random.default_rng(1)
    return [
        {spec.name: rng.standard_normal(spec.shape).astype(np.float32) for spec in model.inputs}
        for _ in range(count)
    ]


def check(model, setting, samples=None):
    found = agreement(model, samples or normal_samples(model), "qnn", setting)
    assert not found.differences
    assert found.slots
    assert found.error <= 2e-4


def test_it_is_known_by_name():
    """The table of targets leads here."""
    assert get_target("qnn") is QNN_HTP


def check_random(tmp_path, seeds, precision, granularity):
    """Every slot alike and the outputs equal.

    The AveragePool of opset 19, which 16 bits raise the file beyond, sums in another order.
    """
    for seed in seeds:
        proto, samples = random_model(seed, more_ops=seed % 2 == 1)
        model = bound_model(proto, samples[0], tmp_path)
        setting = Setting(OBSERVERS[seed % 3], precision, granularity=granularity)
        found = agreement(model, samples, "qnn", setting)
        assert not found.differences, seed
        assert found.error <= (1e-2 if precision == "a16w8" else 1e-4), seed


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_random_networks_agree(tmp_path, choice):
    """On a dozen networks for each of four choices."""
    check_random(tmp_path, range(2000, 2012), *choice)


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_many_random_networks_agree(tmp_path, choice):
    """On 100 more for each."""
    first = 2100 + 100 * CHOICES.index(choice)
    check_random(tmp_path, range(first, first + 100), *choice)


@pytest.mark.parametrize("precision", ["a8w8", "a16w8"])
def test_networks_with_layers_in_float_agree(tmp_path, precision):
    """A quarter of the nodes excluded; a 16-bit Sigmoid among them keeps no prescribed scale."""
    for seed in range(5):
        proto, samples = random_model(seed)
        model = bound_model(proto, samples[0], tmp_path)
        rng = np.random.default_rng(seed)
        nodes = [n.name for n in model.proto.graph.node if rng.random() < 0.25]
        setting = Setting(precision=precision, table=dict.fromkeys(nodes, "fp32"))
        assert not agreement(model, samples, "qnn", setting).differences, seed


MIXED = """g (float[1,3,6,6] x) => (float[1,4,6,6] y, float[1,4,6,6] z) {
    [stem] a = Conv(x, w0, b0)  [act] r = Relu(a)  [mid] b = Conv(r, w1, b1)
    [gate] s = Sigmoid(b)  [mul] y = Mul(b, s)  [end] z = Tanh(r)
}"""


@pytest.mark.parametrize("layer", ["act", "mid", "gate", "mul", "end"])
def test_a_wide_layer_is_converted_around_as_the_fixer_does(bind, layer):
    """`init_overrides` of one layer's output: the same conversions at its neighbours."""
    model = bind(
        MIXED, w0=weights(4, 3, 1, 1), b0=weights(4), w1=weights(4, 4, 1, 1), b1=weights(4)
    )
    check(model, Setting(table={layer: "a16w8"}))


def test_a_narrow_layer_in_a_wide_network(bind):
    """The other way round."""
    model = bind(
        MIXED, w0=weights(4, 3, 1, 1), b0=weights(4), w1=weights(4, 4, 1, 1), b1=weights(4)
    )
    check(model, Setting(precision="a16w8", table={"mid": "a8w8"}))


SHARED = "g (float[1,4,4] x) => (float[1,4,4] y) { [add] h = Add(x, w)  [fc] y = MatMul(h, w) }"


@pytest.mark.parametrize(
    ("setting", "bits", "axis"),
    [
        (Setting(precision="a16w8"), 8, None),
        (Setting(precision="a16w8", granularity="channel"), 8, None),
        (Setting(precision="a8w8", granularity="channel"), 8, None),
    ],
)
def test_a_factor_that_is_an_operand_too_has_the_weights_type(bind, setting, bits, axis):
    """`_process_matmul`: neither 16 bits from the Add nor scales per channel."""
    model = bind(SHARED, w=weights(4, 4))
    check(model, setting)
    _, plan = place(model, QNN_HTP, setting)
    found = {(q.bits, q.axis) for q in plan.quantizers if q.tensor == "w"}
    assert found == {(bits, axis)}


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_layer_normalization_agrees(bind, granularity):
    """Its scale is a weight of 8 bits, per tensor either way."""
    model = bind(
        "g (float[1,5,8] x) => (float[1,5,8] y) { y = LayerNormalization(x, gamma, beta) }",
        opset=17, gamma=weights(8) + 2, beta=weights(8),
    )  # fmt: skip
    check(model, Setting(precision="a16w8", granularity=granularity))


@pytest.mark.parametrize(
    ("op", "precision", "scale", "zero"),
    [
        ("Sigmoid", "a16w8", 1 / 65536, 0),
        ("Tanh", "a16w8", 1 / 32768, 32768),
        ("Sigmoid", "a8w8", None, 0),
    ],
)
def test_prescribed_scales_of_16_bit_functions(bind, op, precision, scale, zero):
    """quant_config.py: 1/65536 for Sigmoid, 1/32768 around 32768 for Tanh; none at 8 bits."""
    model = bind(f"g (float[1,8] x) => (float[1,8] y) {{ [f] y = {op}(x) }}")
    _, plan = our_plan(model, normal_samples(model), "qnn", Setting(precision=precision))
    (found,) = (q for q in plan.quantizers if q.tensor == "y")
    if scale:
        assert found.scale.tolist() == [scale]
    assert found.zero_point.tolist() == [zero]
    assert (found.fixed_range is None) == (scale is None)


def test_a_range_is_at_least_a_ten_thousandth_wide():
    """MinimumRealRange: 0..1e-6 becomes 0..1e-4."""
    q = Quantizer("n", "out0", "y", "activation", 8, False, False, qmin=0, qmax=255)
    scale, zero = QNN_HTP.scale(q, np.array([0.0]), np.array([1e-6]), "minmax")
    assert scale == pytest.approx([1e-4 / 255], rel=1e-6)
    assert zero.tolist() == [0]


def test_everything_but_cast_is_quantized(bind):
    """Div and Sub are no ops of onnxruntime's own list, Cast is excluded in both."""
    text = """g (float[1,8] x) => (float[1,8] y) {
        [a] d = Div(x, two)  [m] m = Greater(d, two)  [c] k = Cast<to = 1>(m)  [s] y = Sub(k, d)
    }"""
    model = bind(text, two=np.float32(2))
    check(model, Setting())
    _, plan = place(model, QNN_HTP)
    assert {q.tensor for q in plan.quantizers} == {"x", "two", "d", "k", "y"}


@pytest.mark.parametrize("precision", ["a8w8", "a16w8"])
def test_a_real_model_agrees(shared, precision):
    """A whole network, random pixels."""
    model = shared("resnet8_cifar10")
    rng = np.random.default_rng(2)
    (spec,) = model.inputs
    samples = [{spec.name: rng.uniform(0, 255, spec.shape).astype(np.float32)} for _ in range(2)]
    check(model, Setting(precision=precision), samples)
