# SPDX-License-Identifier: Apache-2.0
"""The PyTorch targets by hand: which tensors FX observes, with which observer, on which grid.

`tests/peers/test_pytorch.py` holds them against torch itself.
"""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.calibrate import calibrate
from analyzer.load import bind_shapes, load_model
from analyzer.place import place
from analyzer.quant.torch_observers import BINS, TorchHistogram, best_bins, bin_counts, spread
from analyzer.records import Quantizer, Setting
from analyzer.targets.pytorch import QNNPACK, X86


@pytest.fixture
def plan_of(bind, tmp_path):
    """Return a function: graph text, weights -> active quantizers by (node, slot)."""

    def make(text, *, target=X86, setting=Setting(), opset=17, **weights):  # noqa: B008
        bind(text, opset=opset, **weights)
        model = load_model(tmp_path / "tiny.onnx", fold_norms=False)
        shapes = {spec.name: spec.shape for spec in model.inputs}
        _, plan = place(bind_shapes(model, shapes, fold_norms=False), target, setting)
        return plan, {q.key: q for q in plan.quantizers}

    return make


def kernel(*shape):
    rng = np.random.default_rng(sum(shape))
    return rng.standard_normal(shape).astype(np.float32)


CONV = {"w": kernel(4, 3, 1, 1)}


def test_conv_and_relu_are_one(plan_of):
    """Input, weight and the output behind the Relu are quantized; the bias stays in float."""
    plan, found = plan_of(
        "g (float[1,3,4,4] x) => (float[1,4,4,4] y) { [c] h = Conv(x, w, b)  [r] y = Relu(h) }",
        **CONV, b=kernel(4),
    )  # fmt: skip
    assert set(found) == {("c", "in0"), ("c", "in1"), ("r", "out0")}
    assert (found["c", "in0"].qmin, found["c", "in0"].qmax) == (0, 255)
    assert (found["c", "in1"].axis, found["c", "in1"].qmin) == (0, -128)
    assert plan.layers == ("c", "r")
    assert plan.computing == {"c"}


def test_weights_of_qnnpack_have_one_scale(plan_of):
    """No channel axis, unless it is asked for."""
    text = "g (float[1,3,4,4] x) => (float[1,4,4,4] y) { [c] y = Conv(x, w) }"
    _, found = plan_of(text, target=QNNPACK, **CONV)
    assert found["c", "in1"].axis is None
    _, found = plan_of(text, target=QNNPACK, setting=Setting(granularity="channel"), **CONV)
    assert found["c", "in1"].axis == 0


def test_transposed_conv_has_one_scale_and_keeps_its_relu_apart(plan_of):
    """Its Relu shares the observer of the output, which sees both tensors."""
    _, found = plan_of(
        """g (float[1,3,4,4] x) => (float[1,4,4,4] y) {
            [c] h = ConvTranspose(x, w)  [r] y = Relu(h)
        }""",
        w=kernel(3, 4, 1, 1),
    )
    assert found["c", "in1"].axis is None
    assert found["c", "out0"].observes == ("h", "y")
    assert found["r", "out0"].follows == ("c", "out0")


@pytest.mark.parametrize(("behind", "norm_is_quantized"), [("Relu", True), ("Sigmoid", False)])
def test_norm_behind_a_transposed_conv_goes_with_its_relu(plan_of, behind, norm_is_quantized):
    """Folded into the layer, unless a Relu follows: FX finds that pair first."""
    _, found = plan_of(
        f"""g (float[1,3,4,4] x) => (float[1,4,4,4] y) {{
            [c] h = ConvTranspose(x, w)  [n] b = BatchNormalization(h, s, s, s, s)
            [r] y = {behind}(b)
        }}""",
        w=kernel(3, 4, 1, 1), s=np.ones(4, np.float32),
    )  # fmt: skip
    tensor = "h" if norm_is_quantized else "b"
    assert found["c", "out0"].tensor == tensor
    assert ("n", "out0") not in found
    assert found["r", "out0"].tensor == "y"


def test_concat_puts_all_inputs_on_the_grid_of_the_first(plan_of):
    """But what had shared with a later input keeps its observer: taps are turned over singly."""
    _, found = plan_of(
        """g (float[1,3,4,4] x) => (float[1,8,4,4] y) {
            [a] p = Conv(x, w)  [b] q = Conv(x, v)
            [m] r = MaxPool<kernel_shape = [1,1]>(q)  [k] y = Concat<axis = 1>(p, r)
        }""",
        **CONV, v=kernel(4, 3, 1, 1),
    )  # fmt: skip
    assert found["a", "out0"].observes == ("p", "r", "y")
    assert found["m", "out0"].follows == found["k", "out0"].follows == ("a", "out0")
    assert found["b", "out0"].follows is None
    assert found["b", "out0"].observes == ()


def test_silu_and_split_run_in_float(plan_of):
    """Their readers observe what they made, each piece on its own."""
    plan, found = plan_of(
        """g (float[1,3,4,4] x) => (float[1,4,4,4] y) {
            [c] h = Conv(x, w)  [s] g0 = Sigmoid(h)  [m] a = Mul(h, g0)
            [split] p, q = Split<axis = 1>(a)  [add] t = Add(p, q)  [k] y = Concat<axis = 1>(t, p)
        }""",
        opset=13, **CONV,
    )  # fmt: skip
    assert plan.layers == ("c", "add", "k")
    assert ("m", "out0") not in found
    # one tap on p for both readers, which the Concat turns over to the observer of t
    assert found["add", "in0"].observes == ("p", "t", "y")
    assert found["k", "in1"].follows == found["add", "out0"].follows == ("add", "in0")
    assert found["add", "in1"].follows is None
    assert plan.notes == (
        "PyTorch has no quantized form for these, they run in float: 1 SiLU, 1 Split.",
    )


COMPOSITES = {
    "GELU": (
        "d = Div(x, r)  e = Erf(d)  p = Add(e, one)  m = Mul(x, p)  y = Mul(m, half)",
        dict.fromkeys(("r", "one", "half"), np.float32(1)),
        [],
    ),
    "GELU, halved first": (
        "h = Mul(x, half)  d = Div(x, r)  e = Erf(d)  p = Add(e, one)  y = Mul(h, p)",
        dict.fromkeys(("r", "one", "half"), np.float32(1)),
        [],
    ),
    "Mish": ("s = Softplus(x)  t = Tanh(s)  y = Mul(x, t)", {}, []),
    "Hardswish": ("s = HardSigmoid<alpha = 0.16666667>(x)  y = Mul(s, x)", {}, ["x"]),
    "another slope": ("s = HardSigmoid(x)  y = Mul(s, x)", {}, ["s", "x"]),
    "LayerNorm": (
        """u = ReduceMean<axes = [-1]>(x)  c = Sub(x, u)  q = Pow(c, two)
           v = ReduceMean<axes = [-1]>(q)  w = Add(v, eps)  s = Sqrt(w)  d = Div(c, s)
           g0 = Mul(d, gamma)  y = Add(g0, beta)""",
        {
            **dict.fromkeys(("two", "eps"), np.float32(2)),
            **dict.fromkeys(("gamma", "beta"), np.ones(8, np.float32)),
        },
        ["x"],
    ),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_modules_that_exporters_take_apart(plan_of, name):
    """Only what goes in and comes out is observed, nothing where torch has no quantized form."""
    nodes, weights, observed = COMPOSITES[name]
    _, found = plan_of(
        f"g (float[1,8] x) => (float[1,8] z) {{ {nodes} z = Flatten(y) }}", **weights
    )
    assert {q.tensor for q in found.values()} == {*observed, "y", "z"}


def test_fixed_grids(plan_of):
    """A Sigmoid has steps of 1/256; behind a float tensor it forces them on its input too."""
    _, found = plan_of(
        """g (float[1,8] x) => (float[1,8] y, float[1,8] z) {
            [s] y = Sigmoid(x)  [e] h = Exp(x)  [t] z = Tanh(h)
        }"""
    )
    lo, hi = np.zeros(1), np.ones(1)
    for key in (("s", "in0"), ("s", "out0")):
        assert found[key].fixed_range == (0, 1)
        scale, zero = X86.scale(found[key], lo, hi, "minmax")
        assert (scale[0], zero[0]) == (1 / 256, 0)
    scale, zero = X86.scale(found["t", "out0"], -hi, hi, "minmax")
    assert (scale[0], zero[0]) == (1 / 128, 128)


def test_numbers_share_and_constants_are_observed(plan_of):
    """`x + 2` keeps the grid of x; a constant tensor gets a grid as if it were data."""
    _, found = plan_of(
        """g (float[1,8] x) => (float[1,8] y, float[1,8] z) {
            [n] y = Add(x, two)  [t] z = Mul(x, c)
        }""",
        two=np.float32(2), c=np.linspace(0, 1, 8, dtype=np.float32),
    )  # fmt: skip
    assert found["n", "out0"].follows == ("n", "in0")
    assert found["n", "in0"].observes == ("x", "y")
    assert found["t", "in0"].follows == ("n", "in0")
    assert (found["t", "in1"].role, found["t", "in1"].observer) == ("constant", "histogram")
    assert found["t", "out0"].follows is None


def test_prelu_has_the_full_range(plan_of):
    """Its qconfig has no reduce_range: 255 steps where the others have 127."""
    _, found = plan_of(
        "g (float[1,3,4,4] x) => (float[1,3,4,4] y) { [p] y = PRelu(x, s) }", s=kernel(3, 1, 1)
    )
    one, zero = np.ones(1), np.zeros(1)
    quantizer = found["p", "out0"]
    full = X86.scale(quantizer, zero, one, quantizer.observer)[0]
    assert full[0] == np.float32(1) / np.float32(255)
    assert X86.scale(quantizer, zero, one, "histogram")[0][0] == np.float32(1) / np.float32(127)


def test_linear_on_three_axes(plan_of):
    """MatMul and Add of a bias are one nn.Linear, with a scale per column."""
    _, found = plan_of(
        "g (float[1,5,3] x) => (float[1,5,4] y) { [m] h = MatMul(x, w)  [b] y = Add(h, v) }",
        w=kernel(3, 4), v=kernel(4),
    )  # fmt: skip
    assert set(found) == {("m", "in0"), ("m", "in1"), ("b", "out0")}
    assert found["m", "in1"].axis == 1


def test_table_leaves_layers_in_float(plan_of):
    """Neither weight nor output of a layer in fp32 is quantized; its reader taps its input."""
    plan, found = plan_of(
        "g (float[1,3,4,4] x) => (float[1,4,4,4] y) { [c] h = Conv(x, w)  [d] y = Conv(h, v) }",
        setting=Setting(table={"c": "fp32"}), **CONV, v=kernel(4, 4, 1, 1),
    )  # fmt: skip
    assert set(found) == {("d", "in0"), ("d", "in1"), ("d", "out0")}
    assert plan.precision == {"c": "fp32", "d": "int8"}


def test_affine_scale():
    """(max - min) / 127 in float32, zero included; the zero point is rounded from below."""
    quantizer = Quantizer("n", "out0", "t", "activation", 8, symmetric=False, qmin=0, qmax=255)
    scale, zero = X86.scale(quantizer, np.array([-1.0]), np.array([2.0]), "minmax")
    assert scale[0] == np.float32(3) / np.float32(127)
    assert zero[0] == 42  # 1 / (3 / 127) = 42.33
    scale, zero = QNNPACK.scale(quantizer, np.array([0.5]), np.array([2.0]), "minmax")
    assert (scale[0], zero[0]) == (np.float32(2) / np.float32(255), 0)


def test_largest_weight_falls_where_multiplying_puts_it():
    """-reach / step lies between -127 and -128; the inverse that torch multiplies by decides."""
    weight = Quantizer("n", "in1", "w", "weight", 8, qmin=-128, qmax=127)
    reach = np.exp(np.random.default_rng(0).standard_normal(2000)).astype(np.float32)
    scale, _ = X86.scale(weight, -reach.astype(np.float64), np.zeros(2000), "minmax")
    step = scale.astype(np.float32)
    theirs = np.rint(-reach * (np.float32(1) / (reach / np.float32(127.5))))
    assert {-127.0, -128.0} == set(theirs.tolist())
    assert np.array_equal(np.rint(-reach / step), theirs)
    assert np.allclose(step * 127.5, reach, rtol=3e-7)


def test_order_of_samples_holds_with_many_threads(bind):
    """Histograms depend on the order in which samples come; threads must not change it."""
    model = bind(
        "g (float[1,64] x) => (float[1,64] y) { a = Exp(x)  b = Sub(a, x)  y = Mul(b, b) }"
    )
    graph, plan = place(model, X86)
    rng = np.random.default_rng(0)
    samples = [
        {"x": (rng.standard_normal((1, 64)) * rng.uniform(0.2, 2)).astype(np.float32)}
        for _ in range(24)
    ]
    alone = [q.scale for q in calibrate(graph, plan, X86, samples, workers=1).quantizers]
    for _ in range(3):
        found = calibrate(graph, plan, X86, samples, workers=6).quantizers
        assert [q.scale for q in found] == alone


def test_histogram_counts():
    """Equal bins over the range, the largest value in the last; none is lost in spreading."""
    x = np.array([0.0, 1.0, 2047.0, 2048.0], np.float32)
    counts = bin_counts(x, np.float32(0), np.float32(2048))
    assert counts[[0, 1, 2047]].tolist() == [1, 1, 2]
    wider = spread(
        counts, (np.float32(0), np.float32(2048)), (np.float32(-2048), np.float32(2048))
    )
    assert wider.sum() == 4
    assert wider[[1024, 2047]].tolist() == [2, 2]


def test_search_gives_up_a_lone_outlier():
    """One value far away is cut off; an even distribution loses the bin of the first step."""
    even = np.ones(BINS, np.float32)
    assert best_bins(even, np.float32(0), np.float32(1)) == (0, BINS - 2)
    spiky = np.zeros(BINS, np.float32)
    spiky[:100] = 10_000
    spiky[-1] = 1
    first, last = best_bins(spiky, np.float32(0), np.float32(1))
    assert first == 0
    assert last < BINS - 1


def test_observer_at_the_edges():
    """Nothing seen, infinite values, constants and NaN."""
    observer = TorchHistogram()
    observer.update(np.zeros(0, np.float32), 0)
    assert (observer.result().lo, observer.result().hi) == (0, 0)
    observer.update(np.array([np.inf, 3.0, 3.0], np.float32), 0)
    assert (observer.result().lo, observer.result().hi) == (3, 3)
    with pytest.raises(ValueError, match="NaN"):
        observer.update(np.array([np.nan], np.float32), 0)
