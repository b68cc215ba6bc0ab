# SPDX-License-Identifier: Apache-2.0
"""Quantized files whose names and structure are not those of the FP32 model they came from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer.errors import ModelError
from analyzer.quantized import read_quantized

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w0": RNG.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32),
    "b0": RNG.normal(0, 0.1, 4).astype(np.float32),
    "w1": RNG.normal(0, 0.2, (4, 4, 1, 1)).astype(np.float32),
    "w2": RNG.normal(0, 0.2, (4, 4, 1, 1)).astype(np.float32),
    "w3": RNG.normal(0, 0.3, (5, 4)).astype(np.float32),
    "b3": RNG.normal(0, 0.1, 5).astype(np.float32),
}
X = {"x": RNG.normal(0, 1, (1, 3, 4, 4)).astype(np.float32)}
NET = """g (float[1,3,4,4] x) => (float[1,5] y) {
    [c0] h0 = Conv<pads = [1,1,1,1]>(x, w0, b0)
    [r0] a0 = Relu(h0)
    [c1] h1 = Conv(a0, w1)
    [c2] h2 = Conv(a0, w2)
    [add] s = Add(h1, h2)
    [pool] p = GlobalAveragePool(s)
    [flat] f = Flatten(p)
    [fc] y = Gemm<transB = 1>(f, w3, b3)
}"""
# the same network as a tool may write it: no name kept, the Relu left to the quantizer behind
# the first Conv, its layout changed and changed back, a MatMul and an Add for the Gemm
QUANTIZED = """g (float[1,3,4,4] data) => (float[1,5] out) {
    q0 = QuantizeLinear(data, s0, z0)   d0 = DequantizeLinear(q0, s0, z0)
    v0 = DequantizeLinear<axis = 0>(w0q, w0s)
    n1 = Conv<pads = [1,1,1,1]>(d0, v0, b0)
    q1 = QuantizeLinear(n1, s1, z1)     d1 = DequantizeLinear(q1, s1, z1)
    t1 = Transpose<perm = [0,2,3,1]>(d1)
    t2 = Transpose<perm = [0,3,1,2]>(t1)
    v2 = DequantizeLinear<axis = 0>(w2q, w2s)
    n2 = Conv(t2, v2)
    q2 = QuantizeLinear(n2, s2, z2)     d2 = DequantizeLinear(q2, s2, z2)
    v1 = DequantizeLinear<axis = 0>(w1q, w1s)
    n3 = Conv(d1, v1)
    q3 = QuantizeLinear(n3, s2, z2)     d3 = DequantizeLinear(q3, s2, z2)
    n4 = Add(d3, d2)
    n5 = GlobalAveragePool(n4)
    n6 = Reshape(n5, flat)
    v3 = DequantizeLinear<axis = 1>(w3q, w3s)
    n7 = MatMul(n6, v3)
    n8 = Add(b3, n7)
    q8 = QuantizeLinear(n8, s8, z8)     out = DequantizeLinear(q8, s8, z8)
}"""


def stored(values):
    """Integers and scales, one per channel, by the definition."""
    found = {}
    for name, weight in values.items():
        if name.startswith("w"):
            scale = np.abs(weight).reshape(len(weight), -1).max(1) / np.float32(127)
            spread = scale.reshape(-1, *[1] * (weight.ndim - 1))
            found[f"{name}q"] = np.rint(weight / spread).astype(np.int8)
            found[f"{name}s"] = scale
    found["w3q"] = found["w3q"].T
    return found


def quantized_values(weights=WEIGHTS):
    scales = {"s0": 0.03, "s1": 0.02, "s2": 0.016, "s8": 0.01}
    zeros = {"z0": 4, "z1": -128, "z2": -3, "z8": 10}
    return {
        **{name: np.float32(value) for name, value in scales.items()},
        **{name: np.int8(value) for name, value in zeros.items()},
        **stored(weights), "b0": weights["b0"], "b3": weights["b3"], "flat": np.array([1, 4]),
    }  # fmt: skip


def test_other_names_fused_and_added_nodes_are_matched(save, bound, simulated, as_onnxruntime):
    """All layers found; the outputs under the plan are those of the file to the bit."""
    path = save("int8", QUANTIZED, **quantized_values())
    result = read_quantized(bound(save("net", NET, **WEIGHTS)), path)
    assert (result.matched, result.unmatched, result.findings) == (1.0, (), ())
    assert not result.retrained
    keys = {q.key: q.tensor for q in result.plan.quantizers}
    assert keys == {
        ("c0", "in0"): "x", ("c0", "in1"): "w0", ("r0", "out0"): "a0", ("c1", "in1"): "w1",
        ("c1", "out0"): "h1", ("c2", "in1"): "w2", ("c2", "out0"): "h2", ("fc", "in1"): "w3",
        ("fc", "out0"): "y",
    }  # fmt: skip
    assert len(keys) == sum(result.grids.values())
    theirs = as_onnxruntime(path, {"data": X["x"]})[0]
    np.testing.assert_allclose(simulated(result, X)[0], theirs, rtol=0, atol=1e-7)


def test_a_transposed_weight_keeps_its_channels(save, bound):
    """The scales that ran along axis 1 of a MatMul's weight run along axis 0 of the Gemm's."""
    path = save("int8", QUANTIZED, **quantized_values())
    result = read_quantized(bound(save("net", NET, **WEIGHTS)), path)
    (weight,) = (q for q in result.plan.quantizers if q.key == ("fc", "in1"))
    assert weight.axis == 0
    np.testing.assert_array_equal(weight.scale, stored(WEIGHTS)["w3s"].astype(np.float64))
    assert weight.stored is None  # the rounding of the FP32 weight is what is stored


def test_precision_is_told_by_layer(save, bound):
    """A layer that reads float data with a quantized weight is weight-only."""
    path = save("int8", QUANTIZED, **quantized_values())
    result = read_quantized(bound(save("net", NET, **WEIGHTS)), path)
    wanted = dict.fromkeys(["c0", "r0", "c1", "c2", "add"], "int8")
    assert dict(result.plan.precision) == {**wanted, "fc": "w8a32"}
    assert result.plan.computing == {"c0", "c1", "c2", "fc"}


@pytest.mark.parametrize("step", [1, 3])
def test_weights_trained_further_are_recognised(save, bound, simulated, as_onnxruntime, step):
    """Integers `step` levels off: one level is another rounding, three are another weight."""
    values = quantized_values()
    rng = np.random.default_rng(1)
    for name in [n for n in values if n.endswith("q")]:
        moved = values[name] + step * rng.choice([-1, 1], values[name].shape)
        values[name] = np.clip(moved, -127, 127).astype(np.int8)
    if step == 1:
        for name in [n for n in values if n.endswith("q")]:
            weight = WEIGHTS[name[:2]].T if name == "w3q" else WEIGHTS[name[:2]]
            scale = values[f"{name[:2]}s"]
            scale = scale if name == "w3q" else scale.reshape(-1, 1, 1, 1)
            exact = np.clip(weight / scale, -127, 127)
            other = np.where(rng.random(weight.shape) > 0.5, np.floor(exact), np.ceil(exact))
            values[name] = other.astype(np.int8)
    path = save("int8", QUANTIZED, **values)
    result = read_quantized(bound(save("net", NET, **WEIGHTS)), path)
    assert result.retrained == (step == 3)
    spoken = " ".join(result.notes)
    assert ("trained further" in spoken) == (step == 3)
    assert ("not rounded to the nearest" in spoken) == (step == 1)
    assert [f.code for f in result.findings] == (["QA301"] if step == 3 else [])
    theirs = as_onnxruntime(path, {"data": X["x"]})[0]
    np.testing.assert_allclose(simulated(result, X)[0], theirs, rtol=0, atol=1e-7)


def test_a_model_trained_further_is_held_against_its_own_float_form(save, bound, as_onnxruntime):
    """Its graph holds the dequantized weights, and says which of the user's nodes they are."""
    moved = {k: v + np.float32(0.2) * v.std() for k, v in WEIGHTS.items()}
    path = save("qat", QUANTIZED, **quantized_values(moved))
    result = read_quantized(bound(save("net", NET, **WEIGHTS)), path)
    assert result.retrained
    graph = result.graph.proto.graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    first = next(node for node in graph.node if node.op_type == "Conv")
    near = np.abs(arrays[first.input[1]] - moved["w0"]).max()
    assert near <= stored(moved)["w0s"].max() / 2 * 1.001
    assert result.graph.source_nodes[first.name] == ("c0",)
    assert "Relu" in [node.op_type for node in graph.node]  # which the quantizer had taken over


def test_a_corrected_bias_is_taken_from_the_file(save, bound, simulated, as_onnxruntime):
    """The quantized branch adds the file's bias, the plain one the FP32 model's."""
    values = quantized_values()
    values["b0"] = values["b0"] + np.float32(0.05)
    path = save("int8", QUANTIZED, **values)
    result = read_quantized(bound(save("net", NET, **WEIGHTS)), path)
    assert any("corrected bias" in note and "'c0'" in note for note in result.notes)
    (bias,) = (q for q in result.plan.quantizers if q.key == ("c0", "in2"))
    assert bias.role == "bias"
    np.testing.assert_array_equal(bias.stored, values["b0"])
    theirs = as_onnxruntime(path, {"data": X["x"]})[0]
    np.testing.assert_allclose(simulated(result, X)[0], theirs, rtol=0, atol=1e-7)


def test_layers_that_are_missing_are_listed_with_their_share_of_macs(save, bound):
    """Without the branch of c2, 64 of its 4*4*16 MACs of all: c0 has 1728, c1 256, fc 20."""
    other = QUANTIZED.replace("n2 = Conv(t2, v2)", "n2 = Tanh(t2)")
    path = save("int8", other, **{k: v for k, v in quantized_values().items() if k[:2] != "w2"})
    text = path.read_bytes()
    proto = onnx.load_from_string(text)
    node = next(n for n in proto.graph.node if n.output[0] == "v2")
    proto.graph.node.remove(node)
    path.write_bytes(proto.SerializeToString())
    result = read_quantized(bound(save("net", NET, **WEIGHTS)), path)
    assert result.unmatched == ("c2",)
    total = 4 * 16 * 27 + 2 * 4 * 16 * 4 + 20
    assert result.matched == pytest.approx(1 - 256 / total)
    (finding,) = (f for f in result.findings if f.code == "QA302")
    assert finding.evidence["layers"] == {"c2": pytest.approx(256 / total)}
    assert result.plan.precision["c2"] == "fp32"


def test_another_network_is_refused(save, bound):
    """No computing layer in common: not a quantized form of this model."""
    path = save("int8", QUANTIZED, **quantized_values())
    text = "g (float[1,3,4,4] x) => (float[1,2,2,2] y) { y = Conv<strides = [2,2]>(x, k) }"
    other = save("other", text, k=RNG.normal(0, 1, (2, 3, 2, 2)).astype(np.float32))
    with pytest.raises(ModelError, match="shares no computing layer"):
        read_quantized(bound(other), path)


def test_inputs_must_be_as_many(save, bound):
    """A file with other inputs cannot be fed the same data."""
    path = save("int8", QUANTIZED, **quantized_values())
    text = "g (float[1,3,4,4] a, float[1,3,4,4] b) => (float[1,3,4,4] y) { y = Add(a, b) }"
    with pytest.raises(ModelError, match=r"has the inputs data, expected .*\(a, b\)"):
        read_quantized(bound(save("other", text)), path)


def test_inputs_go_by_the_names_the_data_comes_under(save, bound, simulated, as_onnxruntime):
    """Even where a tensor of the quantized file has that name already."""
    moved = {k: v + np.float32(0.2) * v.std() for k, v in WEIGHTS.items()}
    path = save("qat", QUANTIZED.replace("d0", "x"), **quantized_values(moved))
    other = save("qat2", QUANTIZED.replace("n1", "x"), **quantized_values(moved))
    for file in (path, other):
        result = read_quantized(bound(save("net", NET, **WEIGHTS)), file)
        assert result.retrained
        assert [spec.name for spec in result.graph.inputs] == ["x"]
        theirs = as_onnxruntime(file, {"data": X["x"]})[0]
        np.testing.assert_allclose(simulated(result, X)[0], theirs, rtol=0, atol=1e-7)


NORMED = """g (float[1,3,4,4] x) => (float[1,4,4,4] y) {
    [c0] h = Conv<pads = [1,1,1,1]>(x, w0, b0)
    [bn] n = BatchNormalization(h, g, b, m, v)
    [r] y = Relu(n)
}"""
NORMED_INT8 = """g (float[1,3,4,4] x) => (float[1,4,4,4] y) {
    q = QuantizeLinear(x, s0, z0)  d = DequantizeLinear(q, s0, z0)
    wd = DequantizeLinear<axis = 0>(w0q, w0s)
    [c0] h = Conv<pads = [1,1,1,1]>(d, wd, b0)
    hq = QuantizeLinear(h, s1, z0)  hd = DequantizeLinear(hq, s1, z0)
    [bn] n = BatchNormalization(hd, g, b, m, v)
    [r] y = Relu(n)
}"""


def test_a_file_that_kept_its_normalization_is_matched_unfolded(
    save, bound, simulated, as_onnxruntime
):
    """The quantizer between Conv and BatchNormalization has its place."""
    norm = {
        "g": np.float32([1, 2, 0.5, -1]), "b": np.float32([0, 0.1, 0.2, 0]),
        "m": np.float32([0.1, 0, -0.1, 0]), "v": np.float32([1, 0.5, 2, 1]),
    }  # fmt: skip
    values = {k: v for k, v in quantized_values().items() if k in ("s0", "s1", "z0", "b0")}
    integers = {k: v for k, v in stored(WEIGHTS).items() if k[:2] == "w0"}
    path = save("int8", NORMED_INT8, **norm, **values, **integers)
    weights = {k: WEIGHTS[k] for k in ("w0", "b0")}
    result = read_quantized(bound(save("net", NORMED, **norm, **weights)), path)
    assert [n.name for n in result.graph.proto.graph.node] == ["c0", "bn", "r"]
    assert {q.key for q in result.plan.quantizers} == {
        ("c0", "in0"),
        ("c0", "in1"),
        ("c0", "out0"),
    }
    theirs = as_onnxruntime(path, X)[0]
    np.testing.assert_allclose(simulated(result, X)[0], theirs, rtol=0, atol=1e-6)
