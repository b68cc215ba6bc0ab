# SPDX-License-Identifier: Apache-2.0
"""Loading: what is refused and why, and what the canonical form of a model holds."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest

from analyzer.errors import ModelError
from analyzer.load import bind_shapes, load_model
from analyzer.records import TensorSpec

HEADER = '<ir_version: 8, opset_import: ["": 13]>'


@pytest.fixture
def write(tmp_path):
    def write_model(text, header=HEADER, edit=lambda model: None):
        model = onnx.parser.parse_model(f"{header} {text}")
        edit(model)
        path = tmp_path / "tiny.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write_model


SMALL = """g (float[N, 2] x) => (float[N, 3] y) {
    w = Constant <value = float[2, 3] {1, 2, 3, 4, 5, 6}> ()
    h = MatMul(x, w) d = Dropout(h) y = Relu(d)
}"""


def test_a_loaded_model_keeps_names_and_free_axes(write):
    """Specs, opset, digest, metadata and the way back to the file's nodes."""

    def edit(model):
        model.graph.node[1].name = "fc"
        model.metadata_props.add(key="stride", value="32")

    path = write(SMALL, edit=edit)
    model = load_model(path)
    assert (model.name, model.path, model.opset) == ("tiny", path, 13)
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.inputs == (TensorSpec("x", "float32", (None, 2)),)
    assert model.outputs == (TensorSpec("y", "float32", (None, 3)),)
    assert model.source_nodes == {"fc": ("fc",), "Relu_3": ("Relu#3",)}
    assert [t.name for t in model.proto.graph.initializer] == ["w"]
    assert (model.parameters, model.metadata, model.notes) == (6, {"stride": "32"}, ())
    assert (model.shapes, model.dtypes, model.macs) == ({}, {}, {})


def test_a_bound_model_knows_every_tensor(write):
    """Shapes, types and counts of all tensors; the model it came from is as it was."""
    model = load_model(write(SMALL))
    before = model.proto.SerializeToString()
    bound = bind_shapes(model, {"x": (4, 2)})
    assert bound.shapes == {"x": (4, 2), "w": (2, 3), "h": (4, 3), "y": (4, 3)}
    assert bound.dtypes == dict.fromkeys("xwhy", "float32")
    assert bound.macs == {"MatMul_1": 24}
    assert bound.inputs == (TensorSpec("x", "float32", (4, 2)),)
    assert bound.outputs == (TensorSpec("y", "float32", (4, 3)),)
    assert model.proto.SerializeToString() == before


def test_shapes_that_depend_on_data_are_learnt_by_running(write):
    """NonZero gives as many columns as the sample has numbers other than zero."""
    model = load_model(write("g (float[N] x) => (int64[1, M] y) { y = NonZero(x) }"))
    sample = {"x": np.array([0, 5, 6, 0], np.float32)}
    assert bind_shapes(model, {"x": (4,)}, sample=sample).shapes["y"] == (1, 2)
    assert bind_shapes(model, {"x": (4,)}).shapes["y"] == (1, 0)


def test_types_of_foreign_operators_are_learnt_by_running(write):
    """An operator that ONNX has no schema for is known after a run, as are its followers."""
    model = load_model(
        write(
            "g (float[N] x) => (float[N] y) { a = com.microsoft.Gelu(x) y = Relu(a) }",
            '<ir_version: 8, opset_import: ["": 13, "com.microsoft": 1]>',
        )
    )
    bound = bind_shapes(model, {"x": (4,)})
    assert bound.shapes == {"x": (4,), "a": (4,), "y": (4,)}
    assert set(bound.dtypes.values()) == {"float32"}


def test_stale_output_shapes_are_corrected(write):
    """What the file says about an output gives way to what is computed."""
    model = load_model(write("g (float[N, 2] x) => (float[A, B, C] y) { y = Relu(x) }"))
    assert bind_shapes(model, {"x": (4, 2)}).outputs == (TensorSpec("y", "float32", (4, 2)),)


def test_a_half_precision_model_becomes_float32(write):
    """Inputs and outputs say so, Casts in between are gone, and a note tells it."""
    model = load_model(
        write(
            """g (float16[2] x) => (float16[2] y) <float16[2] w = {15360, 16384}> {
                a = Cast <to = 1> (x) b = Relu(a) c = Cast <to = 10> (b) y = Add(c, w) }"""
        )
    )
    bound = bind_shapes(model, {"x": (2,)})
    assert [n.op_type for n in bound.proto.graph.node] == ["Relu", "Add"]
    assert bound.inputs == (TensorSpec("x", "float32", (2,)),)
    assert bound.outputs == (TensorSpec("y", "float32", (2,)),)
    assert bound.notes == ("FP16 model: computed in FP32.",)


def test_an_open_branch_is_noted(write):
    """Nodes that nobody looks into are counted in one sentence."""
    model = load_model(
        write(
            """g (float[2] x, bool c) => (float[2] y) {
                y = If (c) <then_branch = t () => (float[2] p) { p = Abs(x) },
                            else_branch = e () => (float[2] q) { q = Neg(x) }> }"""
        )
    )
    assert model.notes == ("1 If node runs whole in FP32.",)
    bound = bind_shapes(model, {"x": (2,), "c": ()})
    assert bound.notes == model.notes
    assert bound.dtypes == {"x": "float32", "c": "bool", "y": "float32"}


def test_old_files_list_weights_as_inputs(write):
    """Only real inputs remain, and the IR version is one that allows that."""
    model = load_model(
        write(
            "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }",
            '<ir_version: 3, opset_import: ["": 7]>',
        )
    )
    assert [spec.name for spec in model.inputs] == ["x"]
    assert (model.proto.ir_version, model.opset) == (4, 7)


def test_a_newer_ir_version_is_lowered(write):
    """The container's version does not matter where onnxruntime knows the operators."""
    path = write("g (float[2] x) => (float[2] y) { y = Relu(x) }", HEADER.replace("8", "99"))
    assert load_model(path).proto.ir_version < 99


def test_local_functions_are_expanded(write):
    """A function of the model is replaced by its nodes."""
    path = write(
        """g (float[2] x) => (float[2] y) { y = mine.twice(x) }
        <domain: "mine", opset_import: ["": 13]> twice (a) => (b) { c = Relu(a) b = Add(c, c) }""",
        '<ir_version: 8, opset_import: ["": 13, "mine": 1]>',
    )
    assert [n.op_type for n in load_model(path).proto.graph.node] == ["Relu", "Add"]


@pytest.mark.parametrize(
    ("text", "header", "says"),
    [
        (
            "g (float[2] x) => (float[2] y) { a = odd.Quant(x) y = odd.Quant(a) }",
            '<ir_version: 8, opset_import: ["": 13, "odd": 1]>',
            "does not know \\(2 odd.Quant\\)",
        ),
        (
            """g (float[2] x, float s) => (float[2] y) {
                q = QuantizeLinear(x, s) y = DequantizeLinear(q, s) }""",
            HEADER,
            "is already quantized \\(1 DequantizeLinear, 1 QuantizeLinear\\)",
        ),
        (
            "g (float[2] x) => (float[2] y) { y = Relu(x) }",
            '<ir_version: 8, opset_import: ["": 99]>',
            "uses ONNX opset 99, expected 7 to [0-9]+,",
        ),
        (
            "g (float[2] x) => (float[2] y) { y = Relu(x) }",
            '<ir_version: 3, opset_import: ["": 6]>',
            "uses ONNX opset 6, expected 7",
        ),
        (
            "g (float[2] x) => (float[2] y) { y = Relu(x) }",
            '<ir_version: 8, opset_import: ["odd": 1]>',
            "declares no opset",
        ),
        ("g (float[2] x) => (float[2] y) { y = Relu(nobody) }", HEADER, "input 'nobody' is not"),
        ("g (float[2] x) => (float[2] y) { y = Nonsense(x) }", HEADER, "Nonsense"),
        ("g (float[2] x) => (float[2] y) { y = Add(x, a) a = Neg(y) }", HEADER, "cycle through 2"),
        ("g (seq(float[2]) x) => (int64 y) { y = SequenceLength(x) }", HEADER, "is a sequence"),
    ],
)
def test_models_that_cannot_be_analyzed_are_refused(write, text, header, says):
    """Each refusal says what was found, and what to do."""
    with pytest.raises(ModelError, match=says) as error:
        load_model(write(text, header))
    assert error.value.remedy
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({}, "Input 'x' has no shape, expected one like \\(\\?, 2\\)"),
        ({"x": (4, 2), "z": (1,)}, "no input 'z'"),
        ({"x": (4,)}, "given shape \\(4,\\), expected \\(\\?, 2\\)"),
        ({"x": (4, 3)}, "given shape \\(4, 3\\), expected \\(\\?, 2\\)"),
        ({"x": (-1, 2)}, "given shape \\(-1, 2\\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(write, shapes, says):
    """The shape given and the shape declared are both in the message."""
    model = load_model(write(SMALL))
    with pytest.raises(ModelError, match=says):
        bind_shapes(model, shapes)


def test_a_sample_of_another_shape_is_refused(write):
    """The run that learns shapes is on the shape that was bound."""
    model = load_model(write("g (float[N] x) => (int64[1, M] y) { y = NonZero(x) }"))
    with pytest.raises(ModelError, match=r"has shape \(3,\), expected \(4,\)"):
        bind_shapes(model, {"x": (4,)}, sample={"x": np.zeros(3, np.float32)})


def test_a_model_that_fails_on_the_shapes_says_so(write):
    """What onnxruntime says about the run comes with the shapes that were fed."""
    model = load_model(
        write(
            "g (float[N] x) => (float[M] y) <int64[1] s = {7}> "
            "{ n = NonZero(x) f = Cast <to = 1> (n) y = Reshape(f, s) }"
        )
    )
    with pytest.raises(ModelError, match=r"does not run on x \(4,\)"):
        bind_shapes(model, {"x": (4,)})
