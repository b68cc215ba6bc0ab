# SPDX-License-Identifier: Apache-2.0
"""Bias correction: mean errors of a quantized graph are found, and go into biases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper
from rewritten import constant, outputs, random_sample

from analyzer.errors import ModelError
from analyzer.fixes.bias_correction import bias_correction_remedies, correct_biases
from analyzer.fixes.shifts import find_shifts, likely, local_shifts
from analyzer.graph.ends import EndRuns
from analyzer.records import Edit, Setting
from analyzer.targets import get_target

TWO = """g (float[1,3,6,6] x) => (float[1,2,4,4] y) {
    [a] h = Conv(x, w1, b1)  [r] i = Relu(h)  [b] y = Conv(i, w2)
}"""


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


@pytest.fixture
def two(bind):
    return bind(TWO, w1=normal(4, 3, 3, 3), b1=normal(4), w2=normal(2, 4, 1, 1))


@pytest.fixture
def state(two, told):
    # inputs above 0: rounded weights shift what they make
    samples = [
        {"x": np.abs(sample["x"])} for sample in (random_sample(two, seed) for seed in range(6))
    ]
    return told(two, get_target("esp32s3"), samples)


def correct(model, **shifts):
    return correct_biases(model, Edit("bias_correction", tuple(shifts), values=shifts))


def test_shifts_are_added_and_missing_biases_made(two):
    """The outputs move by the last layer's shift, and by what the first one's does on its way."""
    before = two.proto.SerializeToString()
    only_last = correct(two, b=(0.5, -1.0))
    assert two.proto.SerializeToString() == before
    sample = random_sample(two)
    (old,), (new,) = outputs(two, sample), outputs(only_last, sample)
    assert new - old == pytest.approx(np.broadcast_to([[[0.5]], [[-1.0]]], new.shape), abs=1e-5)
    both = correct(two, a=(1.0, 0.0, 0.0, 0.0), b=(0.5, -1.0))
    assert constant(both, "b1") == pytest.approx(constant(two, "b1") + np.float32([1, 0, 0, 0]))
    assert (both.macs, both.source_nodes) == (two.macs, two.source_nodes)
    assert both.shapes == {**two.shapes, "b_bias": (2,)}
    assert both.parameters == two.parameters + 2


def test_a_bias_behind_a_product_is_a_bias_too(bind):
    """A MatMul has none of its own; without a constant behind it, it cannot be corrected."""
    model = bind(
        """g (float[1,2] x) => (float[1,2] y) {
            [a] h = MatMul(x, w)  [add] i = Add(b, h)  [c] y = MatMul(i, w)
        }""",
        w=normal(2, 2), b=normal(2),
    )  # fmt: skip
    edited = correct(model, a=(1.0, 2.0))
    assert constant(edited, "b") == pytest.approx(constant(model, "b") + np.float32([1, 2]))
    with pytest.raises(ModelError, match="'c' has no bias"):
        correct(model, c=(1.0, 2.0))


def test_a_scalar_bias_becomes_one_per_channel(bind):
    """A Gemm adds one number to all channels, which cannot be shifted differently."""
    model = bind("g (float[1,2] x) => (float[1,2] y) { [a] y = Gemm(x, w, b) }",
                 w=normal(2, 2), b=np.float32([3]))  # fmt: skip
    assert constant(correct(model, a=(1.0, 2.0)), "b").tolist() == [4, 5]


@pytest.mark.parametrize(
    ("shifts", "message"),
    [({"c": (1.0,)}, "no layer 'c'"), ({"b": (1.0,)}, "expected 2"), ({"r": (1.0,)}, "no bias")],
)
def test_what_does_not_fit_is_refused(two, shifts, message):
    """With the layer, and how many shifts it has."""
    with pytest.raises(ModelError, match=message):
        correct(two, **shifts)


def test_local_shifts_are_those_of_rounded_weights(two, state):
    """mean(x * w + b) - mean(x * rounded w + rounded b), by a run of the rounded constants."""
    rounded = type(two.proto)()
    rounded.CopyFrom(two.proto)
    fake = EndRuns(
        replace(two, proto=_ending(rounded, "h")),
        [q for q in state.plan.quantizers if q.node == "a" and q.slot.startswith("in")],
    )
    plain = EndRuns(replace(two, proto=_ending(rounded, "h")))
    errors = [
        (plain.outputs(s)["h"] - fake.outputs(s)["h"]).mean(axis=(0, 2, 3), dtype=np.float64)
        for s in state.samples
    ]
    found = local_shifts(state.model, state.plan, ["a"], state.samples)
    assert found["a"] == pytest.approx(likely(np.array(errors)), rel=1e-4, abs=1e-9)
    assert np.abs(found["a"]).max() > 1e-3


def test_a_corrected_layer_has_no_mean_error_left(two, state):
    """On one sample, whose mean is not doubted, with the plan's scales and biases not rounded."""
    sample = state.samples[0]
    quantizers = tuple(q for q in state.plan.quantizers if q.role != "bias")
    plan = replace(state.plan, quantizers=quantizers)
    shifts = find_shifts(state.model, plan, ["a", "b"], [sample])
    edited = correct(two, **{name: tuple(values) for name, values in shifts.items()})
    quantizers = [q for q in quantizers if q.key != ("b", "out0")]
    plain, before, after = EndRuns(two), EndRuns(two, quantizers), EndRuns(edited, quantizers)
    errors = [
        (plain.outputs(sample)["y"] - runs.outputs(sample)["y"]).mean(axis=(0, 2, 3))
        for runs in (before, after)
    ]
    assert np.abs(errors[1]).max() < 0.001 * np.abs(errors[0]).max()


def test_the_less_certain_a_mean_the_smaller_the_shift():
    """Means 2 and 0 of errors 1, 3 and -1, 1: variance 2 of each, 1 of a mean of two."""
    assert likely(np.array([[1.0, -1.0], [3.0, 1.0]])) == pytest.approx([2 * 4 / 5, 0.0])
    assert likely(np.array([[2.0, 0.0]])) == pytest.approx([2.0, 0.0])


def test_both_methods_are_candidates_once(state):
    """All layers at once; what has been corrected, and who corrects himself, is left alone."""
    remedies = bias_correction_remedies(state)
    assert [r.edit.method for r in remedies] == ["sequential", "local"]
    assert all(r.layers == ("a", "b") for r in remedies)
    again = Setting(edits=(remedies[0].edit,))
    assert bias_correction_remedies(replace(state, setting=again)) == ()
    assert bias_correction_remedies(replace(state, target=get_target("openvino"))) == ()


def _ending(proto, tensor):
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    return proto
