# SPDX-License-Identifier: Apache-2.0
"""Written graphs compute what numpy computes, quantizers to the bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from analyzer.graph.build import GraphBuilder, emit, is_float, slots_by_node
from analyzer.graph.session import open_session
from analyzer.graph.view import GraphView
from analyzer.quant.fake import fake_quantize
from analyzer.records import Quantizer

BITS = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
    "odd": (-127, 127),
    "int12": (-2048, 2047),
}


def execute(builder, **feeds):
    session = open_session(builder.serialize())
    return session.run(None, {k: np.asarray(v) for k, v in feeds.items()})


def quantizer_of(grid, rounding, scales, zero, axis=None):
    low, high = BITS[grid]
    scale = np.asarray(scales, np.float64)
    return Quantizer(
        "n", "in0", "x", "activation", 16 if high > 255 else 8, axis=axis, scale=scale,
        zero_point=np.full(scale.shape, zero), qmin=low, qmax=high, rounding=rounding,
    )  # fmt: skip


def values_for(quantizer, rng, shape):
    """Random values over and beyond the range, ties of every sort, and extremes."""
    scale = quantizer.scale.max()
    span = (quantizer.qmax - quantizer.qmin) * scale
    x = (rng.uniform(-1.2, 1.2, shape) * span).astype(np.float32)
    ties = (rng.integers(quantizer.qmin, quantizer.qmax, shape) + 0.5) * scale
    x = np.where(rng.random(shape) < 0.4, ties, x).astype(np.float32)
    near = np.nextafter(x, np.float32(rng.choice([-np.inf, np.inf])))
    x = np.where(rng.random(shape) < 0.2, near, x)
    x.flat[:6] = [0.0, -0.0, 1e30, -1e30, np.inf, -np.inf]
    x.flat[6] = np.nextafter(np.float32(0.5), np.float32(0)) * np.float32(scale)
    return x


@pytest.mark.parametrize("opset", [7, 13])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("rounding", ["half_even", "half_up"])
@pytest.mark.parametrize("grid", BITS)
def test_a_quantizer_in_the_graph_equals_numpy_to_the_bit(
    bind, grid, rounding, per_channel, opset
):
    """Random, tied and extreme values, powers of two and odd scales; old operators too."""
    model = bind("g (float[5, 3, 400] x) => (float[5, 3, 400] y) { y = Relu(x) }", opset=opset)
    rng = np.random.default_rng(3)
    zero = {"int8": -3, "uint8": 131, "int16": 77, "uint16": 40000}.get(grid, 0)
    for base in [2.0**-7, 0.013, float(np.float32(1 / 3)), 25.0]:
        scales = base * np.array([1.0, 0.5, 3.7]) if per_channel else [base]
        quantizer = quantizer_of(grid, rounding, scales, zero, 1 if per_channel else None)
        builder = GraphBuilder(model, GraphView(model.proto.graph))
        builder.output(builder.fake_quantize(builder.input("x", "x"), quantizer, "q"), "x")
        x = values_for(quantizer, rng, (5, 3, 400))
        (result,) = execute(builder, x=x)
        expected = fake_quantize(x, quantizer)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("grid", "rounding", "expected"),
    [
        pytest.param("int8", "half_up", np.nan, id="written out"),
        pytest.param("int8", "half_even", -64.0, id="Q/DQ pair: lowest level, as on the device"),
    ],
)
def test_nan(bind, grid, rounding, expected):
    """NaN stays NaN where a grid is written out, and is the lowest level of a Q/DQ pair."""
    model = bind("g (float[40] x) => (float[40] y) { y = Relu(x) }")
    builder = GraphBuilder(model, GraphView(model.proto.graph))
    quantizer = quantizer_of(grid, rounding, [0.5], 0)
    builder.output(builder.fake_quantize(builder.input("x", "x"), quantizer, "q"), "x")
    (result,) = execute(builder, x=np.full(40, np.nan, np.float32))
    np.testing.assert_array_equal(result, np.full(40, expected, np.float32))


NET = """g (float[1, 2, 3, 3] x) => (float[1, 4, 3, 3] y) {
    [conv] h = Conv(x, w, b)
    [act] y = Relu(h)
}"""


@pytest.fixture
def net(bind):
    rng = np.random.default_rng(4)
    weight = rng.standard_normal((4, 2, 1, 1)).astype(np.float32)
    return bind(NET, w=weight, b=np.float32([1, -1, 0.5, 0.25]))


def plain_grid(node, slot, tensor, role="activation", scale=0.25):
    return Quantizer(
        node, slot, tensor, role, 8, scale=np.array([scale]), zero_point=np.array([0])
    )


def test_a_branch_with_quantizers_beside_a_plain_one(net):
    """Two branches in one graph share weights, and each computes its own thing."""
    view = GraphView(net.proto.graph)
    builder = GraphBuilder(net, view)
    quantizers = [
        plain_grid("conv", "in0", "x", "input"),
        plain_grid("conv", "in1", "w", "weight"),
        plain_grid("act", "out0", "y", scale=0.5),
    ]
    nodes = list(net.proto.graph.node)
    outside = lambda t: builder.input(t, t)  # noqa: E731
    plain = emit(builder, nodes, prefix="", outside=outside, slots={})
    noisy = emit(builder, nodes, prefix="q:", outside=outside, slots=slots_by_node(quantizers))
    for made in (plain, noisy):
        builder.output(made["y"], "y")
    x = np.random.default_rng(5).standard_normal((1, 2, 3, 3)).astype(np.float32)
    first, second = execute(builder, x=x)

    weight, bias = view.array("w")[:, :, 0, 0], view.array("b")[:, None, None]

    def layer(a, w):
        return np.maximum(np.einsum("oc,chw->ohw", w, a[0])[None] + bias, 0)

    def grid(a, scale):
        return np.clip(np.rint(a / np.float32(scale)), -128, 127) * np.float32(scale)

    np.testing.assert_allclose(first, layer(x, weight), rtol=1e-5, atol=1e-6)
    expected = grid(layer(grid(x, 0.25), grid(weight, 0.25)), 0.5)
    np.testing.assert_array_equal(second, expected)


def test_an_inactive_quantizer_is_left_out(net):
    """Only active quantizers stand in the table by node."""
    one = plain_grid("conv", "in0", "x")
    assert slots_by_node([one, replace(one, slot="in1", active=False)]) == {"conv": [one]}


def test_captured_tensors_are_renamed_in_bodies(bind):
    """A body inside a body reads the tensors of its own branch, its own names untouched."""
    model = bind(
        """g (float[2] x, bool c) => (float[2] y) {
            [first] h = Relu(x)
            [pick] y = If (c) <
                then_branch = t () => (float[2] a) {
                    [inner] a = If (c) <
                        then_branch = tt () => (float[2] p) { p = Neg(h) },
                        else_branch = ee () => (float[2] q) { q = Abs(h) }
                    >
                },
                else_branch = e () => (float[2] b) { h2 = Neg(h)  b = Neg(h2) }
            >
        }"""
    )
    builder = GraphBuilder(model, GraphView(model.proto.graph))
    made = emit(
        builder, model.proto.graph.node, prefix="q:", outside=lambda t: builder.input(t, t),
        slots=slots_by_node([plain_grid("first", "out0", "h", scale=1.0)]),
    )  # fmt: skip
    builder.output(made["y"], "y")
    x = np.float32([0.7, 2.2])
    for condition, expected in [(True, [-1, -2]), (False, [1, 2])]:
        (result,) = execute(builder, x=x, c=np.array(condition))
        np.testing.assert_array_equal(result, np.float32(expected))


def test_missing_optional_inputs_stay_missing(bind):
    """Clip without a lower bound is written as it was."""
    model = bind("g (float[3] x) => (float[3] y) { [clip] y = Clip(x, , high) }",
                 high=np.float32(1))  # fmt: skip
    builder = GraphBuilder(model, GraphView(model.proto.graph))
    made = emit(
        builder, model.proto.graph.node, prefix="q:", outside=lambda t: builder.input(t, t),
        slots={},
    )  # fmt: skip
    builder.output(made["y"], "y")
    (result,) = execute(builder, x=np.float32([-5, 0, 5]))
    np.testing.assert_array_equal(result, np.float32([-5, 0, 1]))


def test_written_graphs_are_valid(net):
    """The checker of onnx accepts what is written for a plain branch."""
    builder = GraphBuilder(net, GraphView(net.proto.graph))
    made = emit(
        builder, net.proto.graph.node, prefix="", outside=lambda t: builder.input(t, t), slots={}
    )
    builder.output(made["y"], "y")
    onnx.checker.check_model(onnx.load_from_string(builder.serialize()))


def test_only_float32_is_quantized(bind):
    """Integer tensors and unknown names are no floats."""
    model = bind("g (float[3] x) => (float[3] y, int64[3] i) { y = Relu(x)  i = Cast<to = 7>(x) }")
    assert [is_float(model, t) for t in ("x", "y", "i", "nobody")] == [True, True, False, False]


def test_a_quantizer_may_replace_its_node(bind):
    """A dropped Relu lets negative values through to the grid; without the quantizer it works."""
    model = bind("g (float[1,4] x) => (float[1,4] y) { [act] y = Relu(x) }")
    view = GraphView(model.proto.graph)
    q = Quantizer(
        "act", "out0", "y", "activation", 8, scale=np.array([1.0]), zero_point=np.array([0]),
        replaces_node=True,
    )  # fmt: skip
    for quantizers, expected in (([q], [-3.0, -1.0, 0.0, 2.0]), ([], [0.0, 0.0, 0.0, 2.25])):
        builder = GraphBuilder(model, view)
        made = emit(
            builder, model.proto.graph.node, prefix="", slots=slots_by_node(quantizers),
            outside=lambda t, b=builder: b.input(t, t),
        )  # fmt: skip
        builder.output(made["y"], "y")
        (y,) = execute(builder, x=np.float32([[-3.25, -1, 0, 2.25]]))
        assert y.tolist() == [expected]
