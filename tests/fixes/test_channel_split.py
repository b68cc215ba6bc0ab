# SPDX-License-Identifier: Apache-2.0
"""Channel splits: few channels are doubled and halved, and a weight with one scale gets finer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rewritten import assert_same_function, constant, random_sample

from analyzer.errors import ModelError
from analyzer.fixes.channel_split import channel_split_remedies, doubled, split_channels
from analyzer.records import Edit
from analyzer.targets import get_target

# a layer, a depthwise one, a layer; ReLU and pooling in between
CHAIN = """g (float[1,3,8,8] x) => (float[1,2,1,1] y) {
    [a] h = Conv(x, w1, b1)  [r1] i = Relu(h)
    [d] j = Conv<group=4, pads=[1,1,1,1]>(i, w2, b2)  [r2] k = LeakyRelu(j)
    [p] l = GlobalAveragePool(k)  [b] y = Conv(l, w3, b3)
}"""


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def chain_of(bind, text=CHAIN, **more):
    return bind(
        text,
        w1=normal(4, 3, 3, 3), b1=normal(4), w2=normal(4, 1, 3, 3), b2=normal(4),
        w3=normal(2, 4, 1, 1), b3=normal(2), **more,
    )  # fmt: skip


def split(model, layer, method, *channels):
    values = {layer: tuple(map(float, channels))}
    return split_channels(model, Edit("channel_split", (layer,), method, values=values))


def test_a_channel_may_be_split_again():
    """Of channels 0 and 1, number 1 becomes 1 and 2, then 2 becomes 2 and 3: a half, quarters."""
    source, parts = doubled(2, [1, 2])
    assert source.tolist() == [0, 1, 1, 1]
    assert parts.tolist() == [1, 0.5, 0.25, 0.25]


def test_halves_stand_where_they_are_asked_for(bind):
    """The other layers hold both copies as they were, but for biases behind the halves."""
    model = chain_of(bind)
    w1, w2, w3 = (constant(model, name) for name in ("w1", "w2", "w3"))
    b1, b2 = (constant(model, name) for name in ("b1", "b2"))
    twice = [0, 1, 2, 3, 2]
    part = np.float32([1, 1, 0.5, 1, 0.5])
    of_rows = part.reshape(-1, 1, 1, 1)
    first = split(model, "a", "outputs", 2)
    assert np.array_equal(constant(first, "w1"), w1[twice] * of_rows)
    assert np.array_equal(constant(first, "b1"), b1[twice] * part)
    assert np.array_equal(constant(first, "w2"), w2[twice])
    assert np.array_equal(constant(first, "b2"), b2[twice] * part)
    assert np.array_equal(constant(first, "w3"), w3[:, twice])
    depthwise = split(model, "d", "outputs", 2)
    assert np.array_equal(constant(depthwise, "w1"), w1[twice])
    assert np.array_equal(constant(depthwise, "b1"), b1[twice])
    assert np.array_equal(constant(depthwise, "w2"), w2[twice] * of_rows)
    last = split(model, "b", "inputs", 2)
    assert np.array_equal(constant(last, "b2"), b2[twice])
    assert np.array_equal(constant(last, "w3"), w3[:, twice] * part.reshape(1, -1, 1, 1))


@pytest.mark.parametrize(
    ("layer", "method"), [("a", "outputs"), ("d", "outputs"), ("b", "inputs")]
)
def test_the_function_stays(bind, layer, method):
    """Two channels split, one of them twice: three more in all."""
    model = chain_of(bind)
    before = model.proto.SerializeToString()
    edited = split(model, layer, method, 2, 0, 4)
    assert model.proto.SerializeToString() == before
    assert_same_function(model, edited)
    assert edited.source_nodes == model.source_nodes
    assert [edited.shapes[t][1] for t in "hijkl"] == [7] * 5
    # per output: 3 * 9 for a, 9 for d; 7 inputs for each of 2 outputs of b
    assert edited.macs == {"a": 7 * 36 * 27, "d": 7 * 36 * 9, "b": 14}


def test_copies_pass_what_halves_do_not(bind):
    """Behind a clipped activation the readers can halve, the layer itself cannot."""
    text = CHAIN.replace("Relu(h)", "Clip(h, zero, six)")
    model = chain_of(bind, text, zero=np.float32(0), six=np.float32(6))
    for layer, method in (("d", "outputs"), ("b", "inputs")):
        assert_same_function(model, split(model, layer, method, 1))
    with pytest.raises(ModelError, match="outputs of layer 'a' cannot be split"):
        split(model, "a", "outputs", 1)


def test_copies_pass_silu(bind):
    """Both copies meet in the product again."""
    text = CHAIN.replace("i = Relu(h)", "s = Sigmoid(h)  i = Mul(h, s)")
    model = chain_of(bind, text)
    assert_same_function(model, split(model, "b", "inputs", 1, 1))


@pytest.mark.parametrize(
    "text",
    [
        CHAIN.replace("i = Relu(h)", "i = Add(h, h)"),
        CHAIN.replace("i = Relu(h)", "i = Mul(h, b2s)"),
        CHAIN.replace("(float[1,2,1,1] y)", "(float[1,2,1,1] y, float[1,4,6,6] j)"),
    ],
)
def test_other_ways_are_refused(bind, text):
    """Constants per channel, sums, and outputs of the graph."""
    model = chain_of(bind, text, b2s=normal(4, 1, 1))
    with pytest.raises(ModelError, match="cannot be split"):
        split(model, "a", "outputs", 1)


@pytest.mark.parametrize(
    ("layer", "method", "channel", "message"),
    [
        ("c", "outputs", 0, "no layer 'c'"),
        ("a", "output", 0, "Did you mean 'outputs'"),
        ("a", "outputs", 4, "expected 0 to 3"),
        ("a", "inputs", 0, "cannot be split"),
    ],
)
def test_what_does_not_fit_is_refused(bind, layer, method, channel, message):
    """With the value, and what was expected."""
    with pytest.raises(ModelError, match=message):
        split(chain_of(bind), layer, method, channel)


def test_the_channel_that_sets_the_range_is_found(bind, told):
    """Channel 5 of 16 reaches 4 times as far: split three times, it reaches as far as the rest."""
    w1 = np.clip(normal(16, 3, 1, 1), -1, 1)
    w1[3, 0] = 1.0
    w1[5] = [[[3.9]], [[-3.9]], [[2.0]]]
    model = bind(
        """g (float[1,3,4,4] x) => (float[1,2,4,4] y) {
            [a] h = Conv(x, w1)  [r] i = Relu(h)  [b] y = Conv(i, w2)
        }""",
        w1=w1, w2=np.clip(normal(2, 16, 1, 1), -1, 1),
    )  # fmt: skip
    target, samples = get_target("esp32s3"), [random_sample(model, seed) for seed in range(2)]
    state = told(model, target, samples)
    (remedy,) = [r for r in channel_split_remedies(state) if r.layers == ("a",)]
    assert (remedy.edit.method, set(remedy.edit.values["a"])) == ("outputs", {5.0})
    edited = split_channels(model, remedy.edit)
    assert_same_function(model, edited)
    scales = [
        q.scale.item()
        for m in (model, edited)
        for q in told(m, target, samples).plan.quantizers
        if q.node == "a" and q.role == "weight"
    ]
    assert scales[1] == scales[0] / 2
    by_channel = told(model, get_target("onnxruntime"), samples)
    assert channel_split_remedies(by_channel) == []
    assert channel_split_remedies(replace(state, plan=by_channel.plan)) == []


def test_where_no_split_helps_none_is_proposed(bind, told):
    """The scale is a quarter of what the weight needs, as after an edit that made it smaller."""
    model = bind(
        """g (float[1,3,4,4] x) => (float[1,2,4,4] y) {
            [a] h = Conv(x, w1)  [r] i = Relu(h)  [b] y = Conv(i, w2)
        }""",
        w1=np.clip(normal(16, 3, 1, 1), -1, 1), w2=np.clip(normal(2, 16, 1, 1), -1, 1),
    )  # fmt: skip
    state = told(model, get_target("esp32s3"), [random_sample(model, 0)])
    finer = tuple(
        replace(q, scale=q.scale / 4) if q.role == "weight" else q for q in state.plan.quantizers
    )
    plan = replace(state.plan, quantizers=finer)
    assert channel_split_remedies(replace(state, plan=plan)) == []
