# SPDX-License-Identifier: Apache-2.0
"""SiLU becomes one node under the name esp-ppq gives it, and computes the same."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.graph.fuse import fuse_swish
from analyzer.graph.session import open_session, run, to_value

SILU = """g (float[1,4] x) => (float[1,4] y) {
    [conv] h = Neg(x)
    [gate] s = Sigmoid(h)
    [times] m = Mul(h, s)
    [last] y = Abs(m)
}"""


def types(model):
    return {n.name: model.op_types.get(n.name, n.op_type) for n in model.proto.graph.node}


def test_a_silu_becomes_one_swish(bind):
    """Named after the producer of its input, printed as Swish, with the way back."""
    fused = fuse_swish(bind(SILU))
    assert types(fused) == {"conv": "Neg", "conv/Swish": "Swish", "last": "Abs"}
    assert fused.source_nodes == {
        "conv": ("conv",),
        "conv/Swish": ("gate", "times"),
        "last": ("last",),
    }


def test_a_swish_computes_what_the_pair_computed(bind):
    """Equal to x * sigmoid(x) in float64 to float32 precision."""
    fused = fuse_swish(bind(SILU))
    x = np.linspace(-8, 8, 4, dtype=np.float32)[None]
    session = open_session(fused.proto.SerializeToString())
    made = run(session, ["y"], {"x": to_value(x)})["y"].numpy()
    h = -x.astype(np.float64)
    np.testing.assert_allclose(made, np.abs(h / (1 + np.exp(-h))), rtol=1e-5, atol=1e-6)


def test_a_silu_of_a_graph_input_is_named_after_the_sigmoid(bind):
    """There is no producer to name it after."""
    fused = fuse_swish(
        bind("g (float[4] x) => (float[4] y) { [gate] s = Sigmoid(x)  [times] y = Mul(s, x) }")
    )
    assert types(fused) == {"gate/Swish": "Swish"}


def test_two_swishes_of_one_producer_have_two_names(bind):
    """A name that is taken gets a number."""
    fused = fuse_swish(
        bind(
            """g (float[4] x) => (float[4] y) {
                [a] h = Neg(x)
                [s1] s1 = Sigmoid(h)  [m1] m1 = Mul(h, s1)
                [s2] s2 = Sigmoid(h)  [m2] m2 = Mul(h, s2)
                [sum] y = Add(m1, m2)
            }"""
        )
    )
    assert types(fused) == {"a": "Neg", "a/Swish": "Swish", "a/Swish_2": "Swish", "sum": "Add"}


@pytest.mark.parametrize(
    "body",
    [
        "s = Sigmoid(x) m = Mul(x, s) y = Add(m, s)",
        "s = Sigmoid(x) y = Mul(s, s)",
        "h = Neg(x) s = Sigmoid(x) y = Mul(h, s)",
        "s = Sigmoid(x) y = Add(x, s)",
    ],
    ids=["sigmoid read twice", "squared", "another factor", "sum"],
)
def test_what_is_no_silu_stays(bind, body):
    """Only x * Sigmoid(x), and only where nothing else reads the Sigmoid."""
    model = bind(f"g (float[4] x) => (float[4] y) {{ {body} }}")
    assert fuse_swish(model) is model


def test_a_sigmoid_that_is_an_output_stays(bind):
    """A tensor the user asked for does not disappear."""
    model = bind("g (float[4] x) => (float[4] y, float[4] s) { s = Sigmoid(x) y = Mul(x, s) }")
    assert fuse_swish(model) is model
