# SPDX-License-Identifier: Apache-2.0
"""Nodes that a quantizer sees as one become one, under the names esp-ppq gives them."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.graph.edit import GraphEditor
from analyzer.graph.fuse import fuse_bias_adds, fuse_lp_norms, fuse_rms_norms, fuse_swish
from analyzer.graph.session import open_session, run, to_value

SILU = """g (float[1,4] x) => (float[1,4] y) {
    [conv] h = Neg(x)
    [gate] s = Sigmoid(h)
    [times] m = Mul(h, s)
    [last] y = Abs(m)
}"""


def fused(fuse, model):
    edit = GraphEditor(model)
    fuse(edit)
    return edit.done()


def types(model):
    return {n.name: model.op_types.get(n.name, n.op_type) for n in model.proto.graph.node}


def compute(model, **feeds):
    session = open_session(model.proto.SerializeToString())
    values = {name: to_value(np.asarray(x, np.float32)) for name, x in feeds.items()}
    return run(session, ["y"], values)["y"].numpy()


def test_a_silu_becomes_one_swish(bind):
    """Named after the producer of its input, printed as Swish, with the way back."""
    model = fused(fuse_swish, bind(SILU))
    assert types(model) == {"conv": "Neg", "conv/Swish": "Swish", "last": "Abs"}
    assert model.source_nodes == {
        "conv": ("conv",),
        "conv/Swish": ("gate", "times"),
        "last": ("last",),
    }


def test_a_swish_computes_what_the_pair_computed(bind):
    """Equal to x * sigmoid(x) in float64 to float32 precision."""
    x = np.linspace(-8, 8, 4, dtype=np.float32)[None]
    made = compute(fused(fuse_swish, bind(SILU)), x=x)
    h = -x.astype(np.float64)
    np.testing.assert_allclose(made, np.abs(h / (1 + np.exp(-h))), rtol=1e-5, atol=1e-6)


def test_a_silu_of_a_graph_input_is_named_after_the_sigmoid(bind):
    """There is no producer to name it after."""
    text = "g (float[4] x) => (float[4] y) { [gate] s = Sigmoid(x)  [times] y = Mul(s, x) }"
    assert types(fused(fuse_swish, bind(text))) == {"gate/Swish": "Swish"}


def test_two_swishes_of_one_producer_have_two_names(bind):
    """The second is named after its Sigmoid, for the first name is taken."""
    model = bind(
        """g (float[4] x) => (float[4] y) {
            [a] h = Neg(x)
            [s1] s1 = Sigmoid(h)  [m1] m1 = Mul(h, s1)
            [s2] s2 = Sigmoid(h)  [m2] m2 = Mul(h, s2)
            [sum] y = Add(m1, m2)
        }"""
    )
    assert types(fused(fuse_swish, model)) == {
        "a": "Neg", "a/Swish": "Swish", "s2/Swish": "Swish", "sum": "Add"
    }  # fmt: skip


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
    assert types(fused(fuse_swish, model)) == types(model)


def test_a_sigmoid_that_is_an_output_is_lost(bind):
    """As in esp-ppq: the output is gone, and who fuses is told which one."""
    text = "g (float[4] x) => (float[4] y, float[4] s) { s = Sigmoid(x) y = Mul(x, s) }"
    edit = GraphEditor(bind(text))
    assert fuse_swish(edit) == ["s"]
    assert list(types(edit.done()).values()) == ["Swish"]
    assert [output.name for output in edit.done().outputs] == ["y"]


def test_a_layer_that_is_an_output_gets_the_bias_behind_it(bind):
    """As in esp-ppq: the sum is returned under the name of what was there without the bias."""
    model = bind(
        "g (float[1,2] x) => (float[1,2] y, float[1,2] b, float[1,2] h) "
        "{ [f] h = Gemm(x, w) [a] b = Add(h, c) [n] y = Neg(b) }",
        w=np.eye(2, dtype=np.float32),
        c=np.float32([1, 2]),
    )
    edit = GraphEditor(model)
    assert fuse_bias_adds(edit) == ["h"]
    made = edit.done()
    assert [output.name for output in made.outputs] == ["y", "h"]
    session = open_session(made.proto.SerializeToString())
    found = run(session, ["y", "h"], {"x": to_value(np.float32([[3, 4]]))})
    np.testing.assert_array_equal(found["h"].numpy(), [[4, 6]])
    np.testing.assert_array_equal(found["y"].numpy(), [[-4, -6]])


def test_a_constant_behind_a_conv_becomes_its_bias(bind):
    """One value per channel, of the rank of the weight; the Add is counted to the Conv."""
    model = bind(
        """g (float[1,1,1,2] x) => (float[1,2,1,2] y) {
            [c] h = Conv(x, w)  [a] y = Add(b, h)
        }""",
        w=np.array([2, 3], np.float32).reshape(2, 1, 1, 1),
        b=np.array([10, 20], np.float32).reshape(1, 2, 1, 1),
    )
    made = fused(fuse_bias_adds, model)
    assert types(made) == {"c": "Conv"}
    assert made.source_nodes == {"c": ("c", "a")}
    assert made.macs == {"c": 4}
    assert compute(made, x=[[[[1, 2]]]]).tolist() == [[[[12, 14]], [[23, 26]]]]


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 1), (1, 2, 1, 2)])
def test_other_constants_behind_a_conv_stay(bind, shape):
    """One value for all, another rank, or values that differ within a channel."""
    model = bind(
        "g (float[1,1,1,2] x) => (float[1,2,1,2] y) { [c] h = Conv(x, w) [a] y = Add(b, h) }",
        w=np.ones((2, 1, 1, 1), np.float32), b=np.ones(shape, np.float32),
    )  # fmt: skip
    assert types(fused(fuse_bias_adds, model)) == {"c": "Conv", "a": "Add"}


def test_rms_normalization_is_found(bind):
    """It is named after the last Mul and computes x / sqrt(mean(x^2) + 1) * scale."""
    model = bind(
        """g (float[1,2] x) => (float[1,2] y) {
            [p] s = Pow(x, two)  [r] m = ReduceMean<axes=[-1]>(s)  [a] e = Add(m, one)
            [q] d = Sqrt(e)  [n] k = Div(x, d)  [g] y = Mul(k, scale)
        }""",
        two=np.float32(2), one=np.float32(1), scale=np.array([1, 10], np.float32),
    )  # fmt: skip
    made = fused(fuse_rms_norms, model)
    assert types(made) == {"g_rmsnorm": "RMSNormalization"}
    assert made.source_nodes == {"g_rmsnorm": ("p", "r", "a", "q", "n", "g")}
    # mean of 1 and 5 is 3, sqrt(3 + 1) is 2
    np.testing.assert_allclose(compute(made, x=[[1, 5**0.5]]), [[0.5, 5 * 5**0.5]], rtol=1e-6)


def test_a_cube_is_no_rms_normalization(bind):
    """The exponent must be 2."""
    model = bind(
        """g (float[1,2] x) => (float[1,2] y) {
            s = Pow(x, three)  m = ReduceMean<axes=[-1]>(s)  d = Sqrt(m)  k = Div(x, d)
            y = Mul(k, scale)
        }""",
        three=np.float32(3), scale=np.ones(2, np.float32),
    )  # fmt: skip
    assert len(types(fused(fuse_rms_norms, model))) == 5


def test_lp_normalization_is_found(bind):
    """(3, 4) has length 5."""
    model = bind(
        """g (float[1,2] x) => (float[1,2] y) {
            [r] n = ReduceL2<axes=[1]>(x)  [c] m = Clip(n, low)  [e] k = Expand(m, shape)
            [d] y = Div(x, k)
        }""",
        low=np.float32(1e-12), shape=np.array([1, 2]),
    )  # fmt: skip
    made = fused(fuse_lp_norms, model)
    assert types(made) == {"d_lpnorm": "LpNormalization"}
    np.testing.assert_allclose(compute(made, x=[[3, 4]]), [[0.6, 0.8]], rtol=1e-6)
