# SPDX-License-Identifier: Apache-2.0
"""Q/DQ models: what they compute, by hand and by onnxruntime, and that they read back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from tiny_orders import tiny_order

from analyzer.export.qdq import write
from analyzer.export.qdq_graph import write_qdq
from analyzer.quantized import read_quantized
from analyzer.records import Quantizer, Setting


def grid(node, slot, tensor, scale, zero=0, role="activation", bits=8, **given):
    """Return a calibrated quantizer with a whole signed type."""
    half = 2 ** (bits - 1)
    given = {"qmin": -half, "qmax": half - 1, "bits": bits, **given}
    return Quantizer(
        node=node, slot=slot, tensor=tensor, role=role,
        scale=np.atleast_1d(np.float64(scale)),
        zero_point=np.broadcast_to(zero, np.shape(np.atleast_1d(scale))).astype(np.int64), **given,
    )  # fmt: skip


def run(proto, **feeds):
    """Run a model as it stands, without integer kernels."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), options)
    return session.run(None, {name: np.asarray(x, np.float32) for name, x in feeds.items()})


def kinds(proto):
    return [node.op_type for node in proto.graph.node]


def constants(proto):
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def test_values_are_those_of_the_grid(bind):
    """0.5 k, clipped at -64 and 63.5, halves to even: 0.25 becomes 0, 0.75 becomes 1."""
    model = bind("g (float[5] x) => (float[5] y) { [a] y = Neg(x) }")
    made = write_qdq(model, [grid("a", "in0", "x", 0.5)]).proto
    (y,) = run(made, x=[0.25, 0.75, 100, -100, 1.6])
    assert y.tolist() == [-0.0, -1.0, -63.5, 64.0, -1.5]


def test_an_output_keeps_its_name_behind_its_quantizer(bind):
    """Users ask for graph outputs by name, and get the quantized value."""
    model = bind("g (float[2] x) => (float[2] y) { [a] y = Neg(x) }")
    made = write_qdq(model, [grid("a", "out0", "y", 1.0)]).proto
    assert [output.name for output in made.graph.output] == ["y"]
    assert kinds(made) == ["Neg", "QuantizeLinear", "DequantizeLinear"]
    assert run(made, x=[0.4, 1.7])[0].tolist() == [-0.0, -2.0]


def test_readers_with_different_grids_get_their_own(bind):
    """A grid at the maker and another one at one of two readers: that reader passes both."""
    model = bind(
        """g (float[3] x) => (float[3] y, float[3] z) {
            [m] t = Neg(x)  [a] y = Neg(t)  [b] z = Neg(t)
        }"""
    )
    plan = [grid("m", "out0", "t", 0.5), grid("b", "in0", "t", 2.0)]
    y, z = run(write_qdq(model, plan).proto, x=[0.6, 2.6, 4.4])
    assert y.tolist() == [0.5, 2.5, 4.5]
    assert z.tolist() == [0.0, 2.0, 4.0]  # -0.5 / 2 rounds to 0, -2.5 / 2 to -1, -4.5 / 2 to -2


def test_readers_with_one_grid_share_a_pair(bind):
    """An engine that sees one pair keeps one integer tensor."""
    model = bind("g (float[3] x) => (float[3] y, float[3] z) { [a] y = Neg(x) [b] z = Abs(x) }")
    made = write_qdq(model, [grid(n, "in0", "x", 0.5) for n in "ab"]).proto
    assert kinds(made).count("QuantizeLinear") == 1


def test_weights_are_stored_as_integers_per_channel(bind):
    """Weights 0.3 and -4 on scales 0.1 and 2 are the levels 3 and -2, biases have 32 bits."""
    model = bind(
        "g (float[1,1,1,1] x) => (float[1,2,1,1] y) { [c] y = Conv(x, w, b) }",
        w=np.float32([0.31, -4.2]).reshape(2, 1, 1, 1), b=np.float32([0.26, 9.9]),
    )  # fmt: skip
    plan = [
        grid("c", "in1", "w", [0.1, 2.0], role="weight", axis=0),
        grid("c", "in2", "b", [0.05, 1.0], role="bias", bits=32, axis=0),
        grid("c", "in0", "x", 0.5),
    ]
    made = write_qdq(model, plan).proto
    found = {a.dtype.name: a.ravel().tolist() for a in constants(made).values() if a.ndim == 4}
    assert found == {"int8": [3, -2]}
    assert [a.tolist() for a in constants(made).values() if a.dtype == np.int32] == [[5, 10]]
    (y,) = run(made, x=np.ones((1, 1, 1, 1)))
    assert y.ravel().tolist() == pytest.approx([0.55, 6.0], rel=1e-6)


def test_a_replaced_relu_is_gone(bind):
    """A grid from 0 on clips like the Relu that its quantizer takes the place of."""
    model = bind("g (float[2] x) => (float[2] y) { [n] t = Neg(x) [r] y = Relu(t) }")
    plan = [grid("r", "out0", "y", 0.5, zero=-128, replaces_node=True)]
    made = write_qdq(model, plan).proto
    assert kinds(made) == ["Neg", "QuantizeLinear", "DequantizeLinear"]
    assert run(made, x=[-3.1, 5.0])[0].tolist() == [3.0, 0.0]


def test_seven_bits_are_cut_out_of_eight(bind):
    """A grid 0..127 ends there, although uint8 goes on to 255."""
    model = bind("g (float[2] x) => (float[2] y) { [a] y = Neg(x) }")
    plan = [grid("a", "in0", "x", 1.0, signed=False, bits=7, qmin=0, qmax=127)]
    made = write_qdq(model, plan)
    assert run(made.proto, x=[200, -9])[0].tolist() == [-127.0, -0.0]
    assert made.left_out == ()


def test_sixteen_bits_raise_the_opset(bind):
    """QuantizeLinear knows int16 from opset 21 on."""
    model = bind("g (float[2] x) => (float[2] y) { [a] y = Neg(x) }")
    made = write_qdq(model, [grid("a", "in0", "x", 0.001, bits=16)]).proto
    assert made.opset_import[0].version == 21
    assert run(made, x=[1.2345, 30.0])[0].tolist() == pytest.approx([-1.234, -30.0])


def test_an_old_opset_is_raised_for_scales_per_channel(bind):
    """Opset 11 has Q/DQ of one scale only."""
    model = bind("g (float[2] x) => (float[2] y) { [a] y = Neg(x) }", opset=11)
    assert write_qdq(model, [grid("a", "in0", "x", 0.5)]).proto.opset_import[0].version == 13


def test_a_model_that_cannot_be_converted_gets_foreign_quantizers(bind, monkeypatch):
    """com.microsoft has Q/DQ for every opset; that only onnxruntime loads them is said."""

    def refuse(*_):
        raise RuntimeError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuse)
    model = bind("g (float[2] x) => (float[2] y) { [a] y = Neg(x) }")
    made = write_qdq(model, [grid("a", "in0", "x", 0.001, bits=16)])
    assert {n.domain for n in made.proto.graph.node if "Linear" in n.op_type} == {"com.microsoft"}
    assert "onnxruntime alone" in made.left_out[0]
    assert run(made.proto, x=[1.2345, 30.0])[0].tolist() == pytest.approx([-1.234, -30.0])


def test_half_up_is_said_and_constants_are_exact(bind):
    """0.5 and 2.5 stored half up are 1 and 3; activations are rounded to even, which is told."""
    model = bind("g (float[2] x) => (float[2] y) { [a] y = Add(x, w) }", w=np.float32([0.5, 2.5]))
    plan = [
        grid("a", "in1", "w", 1.0, role="constant", rounding="half_up"),
        grid("a", "in0", "x", 1.0, rounding="half_up"),
    ]
    made = write_qdq(model, plan)
    assert run(made.proto, x=[0.0, 0.0])[0].tolist() == [1.0, 3.0]
    assert "rounds halves to even" in made.left_out[0]


def test_a_bias_that_onnxruntime_would_cut_off_is_kept(bind):
    """It makes float biases int32 at input times weight scale: here 1 is 1e10 times that."""
    model = bind(
        "g (float[1,1,1,1] x) => (float[1,1,1,1] y) { [c] y = Conv(x, w, b) }",
        w=np.full((1, 1, 1, 1), 1.27e-8, np.float32), b=np.ones(1, np.float32),
    )  # fmt: skip
    plan = [
        grid("c", "in0", "x", 1.0),
        grid("c", "in1", "w", [1e-10], role="weight", axis=0),
        grid("c", "out0", "y", 0.01),
    ]
    made = write_qdq(model, plan).proto
    session = ort.InferenceSession(made.SerializeToString())  # all optimizations
    (y,) = session.run(None, {"x": np.ones((1, 1, 1, 1), np.float32)})
    assert y.item() == pytest.approx(1.0)


RESHAPED = """<ir_version: 8, opset_import: ["": 13]>
net (float[1,3,8,8] x) => (float[1,5] y) <int64[2] shape = {1, 4}> {
    [stem] h = Conv<pads = [1,1,1,1]>(x, w0, b0)
    [pool] p = GlobalAveragePool(h)
    [flat] f = Reshape(p, shape)
    [head] y = Gemm<transB = 1>(f, w1, b1)
}"""


def test_onnxruntime_loads_sixteen_bits_beside_eight(tmp_path):
    """It moves pairs through a Reshape in a way that it refuses itself at opset 21."""
    order = tiny_order(tmp_path, "esp32p4", Setting(table={"stem": "int16"}), RESHAPED)
    session = ort.InferenceSession(write(order)["qdq/model.onnx"])
    session.run(None, {"x": np.ones((1, 3, 8, 8), np.float32)})


@pytest.mark.parametrize(
    ("target", "setting"),
    [
        ("onnxruntime", Setting()),
        ("onnxruntime", Setting(table={"head": "s16s8"})),
        ("onnxruntime", Setting(precision="u8s8", table={"stem": "fp32"})),
        ("qnn", Setting()),
        ("esp32p4", Setting(table={"stem": "int16"})),
        ("openvino", Setting()),
        ("tensorrt", Setting()),
        ("tflite", Setting()),
        ("pytorch", Setting()),
    ],
    ids=str,
)
def test_noise_is_what_was_predicted(tmp_path, target, setting):
    """onnxruntime's outputs have the NSR that the order says, and the file reads back."""
    order = tiny_order(tmp_path, target, setting)
    path = tmp_path / "qdq.onnx"
    files = write(order)
    path.write_bytes(files["qdq/model.onnx"])
    samples = np.load(tmp_path / "samples.npz")["x"]
    found = []
    for x in samples:
        (plain,) = run(order.source.proto, x=x[None])
        (y,) = run(onnx.load(path), x=x[None])
        found.append(np.sum((y - plain) ** 2) / np.sum(plain**2))
    assert np.mean(found) == pytest.approx(order.proposal.outputs_after["y"], rel=1e-3)
    read = read_quantized(order.graph, path)
    assert (read.matched, read.retrained) == (1.0, False)
    told = {q.tensor: q.scale for q in read.plan.quantizers if q.role in ("weight", "input")}
    ours = {q.tensor: q.scale for q in order.plan.quantizers if q.active}
    for tensor, scale in told.items():
        np.testing.assert_allclose(scale, ours[tensor], rtol=1e-6)


def test_the_same_order_gives_the_same_bytes(tmp_path):
    """Names are made in the order of the nodes."""
    order = tiny_order(tmp_path)
    assert write(order) == write(order)


def test_what_was_measured_stands_in_the_file(tmp_path):
    """The description of the model and the text beside it say the same."""
    order = tiny_order(tmp_path, "esp32s3")
    files = write(order)
    model = onnx.load_from_string(files["qdq/model.onnx"])
    for text in (model.doc_string, files["qdq/README.txt"]):
        assert "target: esp32s3" in text
        assert "halves to even" in text


def test_slices_are_left_out(bind):
    """An output that was added to look at a part of another one is none of the user's."""
    model = bind("g (float[2] x) => (float[2] y, float[2] y0) { [a] y = Neg(x) [b] y0 = Abs(y) }")
    made = write_qdq(replace(model, slices={"y0": "y"}), []).proto
    assert [o.name for o in made.graph.output] == ["y"]
    assert kinds(made) == ["Neg"]
