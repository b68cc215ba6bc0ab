# SPDX-License-Identifier: Apache-2.0
"""Smoothing: what a norm makes gets narrower, and the weights behind it make up for it."""

from __future__ import annotations

import numpy as np
import pytest
from rewritten import assert_same_function, constant, random_sample

from analyzer.errors import ModelError
from analyzer.fixes.smoothing import sites_of, smooth, smoothing_factors, smoothing_remedies
from analyzer.records import Edit
from analyzer.targets import get_target

WRITTEN_OUT = """g (float[1,3,4] x) => (float[1,3,5] y, float[1,3,2] z) {
    [mean] m = ReduceMean<axes=[-1]>(x)  [sub] d = Sub(x, m)  [sq] q = Mul(d, d)
    [var] v = ReduceMean<axes=[-1]>(q)  [eps] e = Add(v, small)  [root] s = Sqrt(e)
    [div] n = Div(d, s)  [gain] g1 = Mul(gamma, n)  [shift] h = Add(g1, beta)
    [q1] y = MatMul(h, w)  [q2] z = MatMul(h, u)
}"""
FUSED = """g (float[1,3,4] x) => (float[1,3,5] y) {
    [norm] h = LayerNormalization<axis=-1>(x, gamma, beta)  [q1] y = MatMul(h, w)
}"""


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def norm(bind, text, **more):
    gamma = np.float32([1, 40, 1, 2])
    return bind(text, opset=17, gamma=gamma, beta=normal(4), w=normal(4, 5), **more)


@pytest.fixture
def written_out(bind):
    return norm(bind, WRITTEN_OUT, small=np.float32(1e-5), u=normal(4, 2))


def test_a_channel_and_its_weights_meet_half_way():
    """max|X| 16, 1 and max|W| 1, 4: factors sqrt(W / X) are 1/4 and 2, here 1 for the widest."""
    factors = smoothing_factors(np.array([16.0, 1.0]), np.array([1.0, 4.0]), 0.5)
    assert factors == pytest.approx([1 / 4 * 4, 2 * 4])
    assert (np.array([16.0, 1.0]) * factors).max() == pytest.approx(16.0)


def test_a_dead_channel_is_left_alone():
    """Nothing is known of a channel that is always 0."""
    assert smoothing_factors(np.array([2.0, 0.0]), np.array([1.0, 1.0]), 0.5).tolist() == [1, 1]


def test_a_norm_is_smoothed_written_out_and_fused(bind, written_out):
    """All that reads the norm shares its factors; the function stays."""
    values = (1.0, 0.125, 3.0, 0.3)
    for model, name in ((written_out, "gain"), (norm(bind, FUSED), "norm")):
        (site,) = sites_of(model)
        assert site.node == name
        edited = smooth(model, Edit("smoothing", (name,), values={name: values}))
        assert_same_function(model, edited)
        assert constant(edited, "gamma").tolist() == pytest.approx([1, 5, 3, 0.6])
        expected = constant(model, "w") / np.float32(values)[:, None]
        assert constant(edited, "w") == pytest.approx(expected)
        for field in ("shapes", "macs", "source_nodes", "parameters"):
            assert getattr(edited, field) == getattr(model, field)


def test_a_norm_with_another_reader_is_left_alone(bind):
    """A residual connection would see other values."""
    text = FUSED.replace("y = MatMul(h, w)", "k = MatMul(h, v)  y = Add(h, k)")
    model = norm(bind, text.replace("float[1,3,5]", "float[1,3,4]"), v=normal(4, 4))
    assert sites_of(model) == []


def test_candidates_of_three_strengths(written_out, told):
    """All norms at once; the stronger, the more alike are the channels."""
    samples = [random_sample(written_out, seed) for seed in range(4)]
    remedies = smoothing_remedies(told(written_out, get_target("onnxruntime"), samples))
    assert [remedy.edit.method for remedy in remedies] == ["0.5", "0.7", "0.3"]
    gains = {}
    for remedy in remedies:
        assert remedy.layers == ("gain",)
        edited = smooth(written_out, remedy.edit)
        assert_same_function(written_out, edited)
        gains[remedy.edit.method] = np.abs(constant(edited, "gamma"))
    spread = [gains[a].max() / gains[a].min() for a in ("0.3", "0.5", "0.7")]
    assert spread == sorted(spread, reverse=True)


@pytest.mark.parametrize(
    ("layer", "values", "message"),
    [
        ("gains", (1.0,) * 4, "Did you mean 'gain'"),
        ("shift", (1.0,) * 4, "cannot be smoothed"),
        ("gain", (1.0, 2.0), "expected 4 positive ones"),
    ],
)
def test_what_does_not_fit_is_refused(written_out, layer, values, message):
    """With the name of the layer, and what was expected."""
    with pytest.raises(ModelError, match=message):
        smooth(written_out, Edit("smoothing", (layer,), values={layer: values}))


def test_the_norms_of_a_language_model(shared):
    """Two norms per layer and the last one: queries, keys and values share one."""
    model = shared("stories260k")
    sites = sites_of(model)
    assert len(sites) == 11
    assert [len(site.way.readers) for site in sites] == [3, 2] * 5 + [1]
