# SPDX-License-Identifier: Apache-2.0
"""Placement and scales of the TensorRT target; the nets are as small as its rules allow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer.calibrate import calibrate
from analyzer.load import bind_shapes, load_model
from analyzer.place import place
from analyzer.records import Quantizer, Setting
from analyzer.targets.tensorrt import TENSORRT

RNG = np.random.default_rng(3)
FP32 = replace(TENSORRT, fp16_scales=False)


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture
def bound(tmp_path):
    """Return a function: graph text and initializers -> the model as this target sees it."""

    def make(text, *, opset=13, **initializers):
        proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
        proto.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in initializers.items()
        )
        onnx.save(proto, tmp_path / "net.onnx")
        model = load_model(
            tmp_path / "net.onnx", rewrite=TENSORRT.rewrite, fold_norms=TENSORRT.folds_norms
        )
        shapes = {spec.name: spec.shape for spec in model.inputs}
        return bind_shapes(model, shapes, fold_norms=TENSORRT.folds_norms)

    return make


def placed(model, **setting):
    """Return slot keys -> quantizer."""
    _, plan = place(model, TENSORRT, Setting(**setting))
    return {q.key: q for q in plan.quantizers}


def test_only_what_enters_a_group_is_quantized(bound):
    """Convolutions read int8; their outputs and biases, merged into the kernel, stay in float."""
    model = bound(
        """g (float[1,16,4,4] x) => (float[1,16,4,4] y) {
            [one] a = Conv(x, w, b)
            [act] r = Relu(a)
            [two] y = Conv(r, v)
        }""",
        w=weights(16, 16, 1, 1), b=weights(16), v=weights(16, 16, 1, 1),
    )  # fmt: skip
    found = placed(model)
    assert set(found) == {("one", "in0"), ("one", "in1"), ("act", "out0"), ("two", "in1")}
    assert [found["one", f"in{i}"].axis for i in (0, 1)] == [None, 0]
    assert {q.bits for q in found.values()} == {8}


def test_of_a_residual_add_only_the_shortcut_is_quantized(bound):
    """The convolution's side of the Add is merged with it; what it skips over is read as int8."""
    model = bound(
        """g (float[1,16,4,4] x) => (float[1,16,4,4] y) {
            [stem] s = Conv(x, w)
            [act] a = Relu(s)
            [body] c = Conv(a, v)
            [skip] t = Add(c, a)
            [tail] r = Relu(t)
            [last] y = Conv(r, u)
        }""",
        w=weights(16, 16, 1, 1), v=weights(16, 16, 1, 1), u=weights(16, 16, 1, 1),
    )  # fmt: skip
    activations = {key for key, q in placed(model).items() if q.role != "weight"}
    assert activations == {("stem", "in0"), ("act", "out0"), ("tail", "out0")}


def test_a_layer_left_in_float_reads_the_tensor_itself(bound):
    """Of two readers one is excluded: the pair stands before the other one only."""
    model = bound(
        """g (float[1,16,4,4] x) => (float[1,16,4,4] y, float[1,16,4,4] z) {
            [stem] s = Conv(x, w)
            [act] a = Relu(s)
            [one] y = Conv(a, v)
            [two] z = Conv(a, u)
        }""",
        w=weights(16, 16, 1, 1), v=weights(16, 16, 1, 1), u=weights(16, 16, 1, 1),
    )  # fmt: skip
    found = placed(model, table={"two": "fp16"})
    assert {key for key in found if key[0] in ("act", "one", "two")} == {
        ("one", "in0"), ("one", "in1"),
    }  # fmt: skip


def test_only_named_layers_where_the_rest_is_float(bound):
    """With fp16 as the precision of all others, a table is ModelOpt's list of nodes."""
    model = bound(
        """g (float[1,16,4,4] x) => (float[1,16,4,4] y) {
            [one] a = Conv(x, w)
            [two] y = Conv(a, v)
        }""",
        w=weights(16, 16, 1, 1), v=weights(16, 16, 1, 1),
    )  # fmt: skip
    found = placed(model, precision="fp16", table={"two": "int8"})
    assert set(found) == {("one", "out0"), ("two", "in1")}


@pytest.mark.parametrize(
    ("first", "shape", "attributes", "quantized"),
    [
        (True, (8, 3, 3, 3), "", True),  # the first layer of a network may have few channels
        (False, (8, 8, 3, 3), "", False),
        (False, (24, 8, 3, 3), "", True),
        (False, (24, 8, 1, 3), "", False),  # not square
        (False, (15, 15, 3, 3), "", False),
        (False, (16, 1, 3, 3), "group = 16", True),  # depthwise
        (False, (16, 1, 1, 1), "group = 16", False),
    ],
)
def test_small_convolutions_stay_in_float(bound, first, shape, attributes, quantized):
    """TensorRT has no faster INT8 kernel for them."""
    channels = 16 if attributes else shape[1]
    kernel = ", ".join(map(str, shape[2:]))
    given = ", ".join(filter(None, (f"kernel_shape = [{kernel}]", attributes)))
    before = "" if first else "[first] s = Neg(x)"
    model = bound(
        f"""g (float[1,{channels},8,8] x, float[1,32,4,4] e)
            => (float[N,M,O,P] y, float[A,B,C,D] z) {{
            {before}
            [conv] y = Conv<{given}>({"x" if first else "s"}, w)
            [other] z = Conv(e, v)
        }}""",
        w=weights(*shape), v=weights(32, 32, 1, 1),
    )  # fmt: skip
    assert (("conv", "in1") in placed(model)) == quantized


@pytest.mark.parametrize(
    ("left", "right", "quantized"),
    [
        ((1, 32), (32, 32), False),  # a vector times a matrix
        ((4, 32), (32, 32), True),
        ((4, 32), (32, 8), False),
        ((4, 8), (8, 32), False),
        ((2, 1, 32), (32, 32), True),  # a batch of vectors is not looked at
    ],
)
def test_small_products_stay_in_float(bound, left, right, quantized):
    """Products with a vector, or with fewer than 16 rows or columns."""
    model = bound(
        f"""g (float[{",".join(map(str, left))}] x, float[1,32,4,4] e)
            => (float[{",".join("ABC"[: len(left)])}] y, float[D,E,F,G] z) {{
            [product] y = MatMul(x, w)
            [other] z = Conv(e, v)
        }}""",
        w=weights(*right), v=weights(32, 32, 1, 1),
    )  # fmt: skip
    found = placed(model)
    assert (("product", "in1") in found) == quantized
    if quantized:
        assert found["product", "in1"].axis == 1


def test_tensors_around_a_concat_share_a_scale(bound):
    """Quantized inputs of a Concat and its output are observed together."""
    model = bound(
        """g (float[1,16,4,4] x) => (float[1,16,4,4] y, float[1,16,4,4] z) {
            [one] a = Conv(x, w)
            [act] r = Relu(a)
            [two] b = Conv(r, v)
            [bend] s = Relu(b)
            [cat] c = Concat<axis = 1>(r, s)
            [three] y = Conv(c, u)
            [four] z = Conv(s, w2)
        }""",
        w=weights(16, 16, 1, 1), v=weights(16, 16, 1, 1), u=weights(16, 32, 1, 1),
        w2=weights(16, 16, 1, 1),
    )  # fmt: skip
    found = placed(model)
    shared = [found[name, "out0"] for name in ("act", "bend", "cat")]
    root = next(q for q in shared if q.follows is None)
    assert root.observes == ("c", "r", "s")
    assert {q.follows for q in shared if q is not root} == {root.key}
    assert {q.group for q in shared} == {f"{root.node}:{root.slot}"}


def test_weights_from_constant_nodes_have_one_scale(bound):
    """Per-channel scales are for initializers; other constants are observed like activations."""
    values = ", ".join("0.5" if i else "2.0" for i in range(16 * 16))
    model = bound(
        f"""g (float[1,16,4,4] x) => (float[1,16,4,4] y) {{
            v = Constant<value = float[16,16,1,1] {{ {values} }}>()
            [one] a = Conv(x, w)
            [two] y = Conv(a, v)
        }}""",
        w=weights(16, 16, 1, 1),
    )  # fmt: skip
    found = placed(model, observer="minmax")
    assert found["one", "in1"].axis == 0
    assert found["two", "in1"].axis is None
    _, plan = place(model, FP32, Setting(observer="minmax"))
    samples = [{"x": weights(1, 16, 4, 4)}]
    scales = {q.key: q.scale for q in calibrate(model, plan, FP32, samples).quantizers}
    assert scales["two", "in1"] == pytest.approx([2 / 127])


def test_a_softmax_has_a_range_without_data(bound):
    """What it makes lies between 0 and 1, whatever calibration saw."""
    model = bound(
        """g (float[1,16,4,4] x) => (float[1,16,4,4] y) {
            [stem] s = Conv(x, w)
            [soft] p = Softmax<axis = 1>(s)
            [last] y = Conv(p, v)
        }""",
        w=weights(16, 16, 1, 1), v=weights(16, 16, 1, 1),
    )  # fmt: skip
    assert placed(model)["soft", "out0"].fixed_range == (0.0, 1.0)


@pytest.mark.parametrize(("opset", "quantized"), [(18, True), (19, False)])
def test_a_constants_shape_is_known_only_after_conversion(bound, opset, quantized):
    """From opset 19 on nothing is converted, and a Conv with a Constant for a weight is left."""
    values = ", ".join(["0.5"] * 256)
    model = bound(
        f"""g (float[1,16,4,4] x) => (float[1,16,4,4] y) {{
            v = Constant<value = float[16,16,1,1] {{ {values} }}>()
            [one] a = Conv(x, w)
            [two] y = Conv(a, v)
        }}""",
        opset=opset,
        w=weights(16, 16, 1, 1),
    )  # fmt: skip
    assert (("two", "in1") in placed(model)) == quantized


def test_quirks_of_modelopt_are_told(bound):
    """A weight with one scale, scales that FP16 cannot hold, and a factor that gets lost."""
    values = ", ".join("0.5" if i else "2.0" for i in range(16 * 16))
    model = bound(
        f"""g (float[4,16] x) => (float[4,16] y) {{
            v = Constant<value = float[16,16] {{ {values} }}>()
            [one] a = Gemm<beta = 0.5>(x, w, b)
            [two] y = MatMul(a, v)
        }}""",
        w=weights(16, 16) * np.where(np.arange(16) < 3, np.float32(1e-5), np.float32(1)),
        b=weights(16),
    )  # fmt: skip
    _, plan = place(model, TENSORRT)
    plan = calibrate(model, plan, TENSORRT, [{"x": weights(4, 16)}])
    found = {f.code: (f.layer, f.evidence) for f in TENSORRT.findings(model, plan)}
    assert found["QA241"] == ("two", {"weight": "v"})
    assert found["QA242"][1]["channels"] == 3
    assert found["QA243"] == ("one", {"beta": 0.5})


def test_a_norm_behind_a_small_convolution_is_quantized_in_between(bound):
    """The convolution stays in float, the BatchNormalization does not: it reads int8."""
    model = bound(
        """g (float[1,8,4,4] x) => (float[1,32,4,4] y) {
            [small] a = Conv(x, w)
            [norm] b = BatchNormalization(a, g, h, m, s)
            [act] r = Relu(b)
            [big] y = Conv(r, v)
        }""",
        w=weights(8, 8, 1, 1), v=weights(32, 8, 1, 1),
        **{name: np.ones(8, np.float32) for name in "ghms"},
    )  # fmt: skip
    assert ("small", "out0") in placed(model, table={"small": "fp32"})


def test_pools_and_gates_are_quantized_next_to_convolutions(bound):
    """A squeeze-and-excite block: the pool, both sides of the gate, but not the Sigmoid."""
    model = bound(
        """g (float[1,16,4,4] x) => (float[1,16,4,4] y) {
            [stem] s = Conv(x, w)
            [act] a = Relu(s)
            [mean] p = GlobalAveragePool(a)
            [fc] f = Conv(p, v)
            [gate] t = HardSigmoid(f)
            [scale] m = Mul(a, t)
            [last] y = Conv(m, u)
        }""",
        w=weights(16, 16, 1, 1), v=weights(16, 16, 1, 1), u=weights(16, 16, 1, 1),
    )  # fmt: skip
    activations = {key for key, q in placed(model).items() if q.role != "weight"}
    assert activations == {
        ("stem", "in0"), ("act", "out0"), ("mean", "out0"), ("gate", "out0"), ("scale", "out0"),
    }  # fmt: skip


def test_scales_put_the_largest_magnitude_on_127_and_are_fp16():
    """0.7 / 127 in float32 and rounded to FP16; what FP16 cannot hold becomes its smallest."""
    quantizer = Quantizer("n", "in0", "x", "activation", 8)
    lo, hi = np.array([-0.7, -1e-9, 0.0]), np.array([0.3, 1e-9, 0.0])
    exact, zero = FP32.scale(quantizer, lo, hi, "minmax")
    assert exact.tolist() == [float(np.float32(0.7 / 127)), float(np.float32(1e-9 / 127)), 1.0]
    assert not zero.any()
    stored, _ = TENSORRT.scale(quantizer, lo, hi, "minmax")
    assert stored.tolist() == [float(np.float16(0.7 / 127)), 2.0**-24, 1.0]
