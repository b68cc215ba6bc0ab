# SPDX-License-Identifier: Apache-2.0
"""The graph that esp-ppq quantizes: onnxsim, its own rewrites, and its own kernels."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer.graph.session import open_session, run, to_value
from analyzer.load import bind_shapes, load_model
from analyzer.targets.espdl import ESP32P4
from analyzer.targets.espdl import simplifier as simplifier_module
from analyzer.targets.espdl.simplifier import simplify_model


def ones(*shape):
    return np.ones(shape, np.float32)


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def types(model):
    return {n.name: model.op_types.get(n.name, n.op_type) for n in model.proto.graph.node}


def compute(model, **feeds):
    session = open_session(model.proto.SerializeToString())
    return run(session, ["y"], {name: to_value(x) for name, x in feeds.items()})["y"].numpy()


def attributes(model, name):
    node = next(n for n in model.proto.graph.node if n.name == name)
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def proto(text, opset=13, **weights):
    made = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
    made.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()
    )
    return made


def write(folder, model):
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


FOLDING = (
    "g (float[N,3,8,8] x) => (float[N,4,8,8] y) {"
    "[p] h = Pad(x, pads) [c] k = Conv(h, w) [i] j = Identity(k) [r] y = Relu(j) }"
)
PADS = np.array([0, 0, 1, 1, 0, 0, 1, 1])


def test_loading_runs_onnxsim_and_keeps_the_users_names(tmp_path):
    """A folded Pad is counted to the Conv, the file is not touched, free axes stay free."""
    path = write(tmp_path, proto(FOLDING, pads=PADS, w=ones(4, 3, 3, 3)))
    before = path.read_bytes()
    model = load_model(path, rewrite=ESP32P4.rewrite)
    assert types(model) == {"c": "Conv", "r": "Relu"}
    assert model.source_nodes == {"c": ("p", "c"), "r": ("r",)}
    assert model.inputs[0].shape == (None, 3, 8, 8)
    assert model.rewritten
    assert "4 nodes became 2" in model.notes[0]
    assert path.read_bytes() == before


def test_outputs_inside_fused_layers_are_lost_and_told(bind):
    """esp-ppq folds the norm and fuses the SiLU although the user reads what lies in between."""
    vector = np.full(2, 0.5, np.float32)
    model = ESP32P4.prepare(
        bind(
            "g (float[1,2,4,4] x) => (float[1,2,4,4] y, float[1,2,4,4] h, float[1,2,4,4] s) "
            "{ [c] h = Conv(x, w) [n] b = BatchNormalization(h, v, v, v, v) "
            "[g] s = Sigmoid(b) [m] y = Mul(b, s) }",
            w=ones(2, 2, 1, 1),
            v=vector,
        )
    )
    assert types(model) == {"c": "Conv", "c/Swish": "Swish"}
    assert [output.name for output in model.outputs] == ["y"]
    assert [note.split("model: ")[1] for note in model.notes] == [
        "it has no output 'h', which is inside a layer with its BatchNormalization.",
        "it has no output 's', which is inside a Swish.",
    ]


def test_a_target_without_a_rewrite_changes_nothing(tmp_path):
    """The hook of the base class hands the model back: all is as without it."""
    path = write(tmp_path, proto(FOLDING, pads=PADS, w=ones(4, 3, 3, 3)))
    assert load_model(path, rewrite=lambda model: (model, ())) == load_model(path)


def test_onnxsim_says_nothing(tmp_path, capfd):
    """Neither on stdout nor on stderr: both belong to the command line."""
    load_model(
        write(tmp_path, proto(FOLDING, pads=PADS, w=ones(4, 3, 3, 3))), rewrite=ESP32P4.rewrite
    )
    assert capfd.readouterr() == ("", "")


def test_where_onnxsim_fails_the_users_model_is_taken(monkeypatch):
    """With esp-ppq's names for nodes without one, and a note that says why."""

    def fail(model):
        raise RuntimeError("No Op registered for Foo\nand more")

    monkeypatch.setattr("onnxsim.simplify", fail)
    given = proto("g (float[2] x) => (float[2] y) { h = Relu(x) [n] k = Neg(h) y = Abs(k) }")
    made, notes = simplify_model(given)
    assert [n.name for n in made.graph.node] == ["generated_name_0", "n", "generated_name_1"]
    assert made is not given
    (note,) = notes
    assert "fails (No Op registered for Foo): the model was left as it is." in note


@pytest.mark.slow
def test_a_model_that_asks_for_any_memory_is_simplified_under_a_limit(monkeypatch):
    """Folding a Range of 1e9 fills 23 GB; in another process, it meets a limit."""
    monkeypatch.setattr(simplifier_module, "MEMORY_LIMIT", 2 << 30)
    given = proto(
        """g (float[1] x) => (float[n] y) <int64 a = {0}, int64 b = {1000000000}, int64 c = {1}> {
            r = Range(a, b, c)  f = Cast<to=1>(r)  y = Mul(x, f)
        }"""
    )
    made, notes = simplify_model(given)
    assert [n.op_type for n in made.graph.node] == ["Range", "Cast", "Mul"]
    # onnxsim leaves alone what it has no memory for, or gives up as a whole
    assert notes == () or "of memory" in notes[0]


def test_a_model_that_takes_forever_is_given_up(monkeypatch):
    """The other process ends with the time limit."""
    monkeypatch.setattr(simplifier_module, "TIME_LIMIT_S", 0.01)
    start = time.perf_counter()
    _, notes = simplify_model(
        proto("g (float[2] x) => (float[2] y) <int64[1] s = {2}> { c = Expand(x0, s) "
              "y = Add(x, c) }", x0=ones(1))
    )  # fmt: skip
    assert "takes longer than" in notes[0]
    assert time.perf_counter() - start < 5


def test_a_small_growing_constant_is_folded_in_the_other_process():
    """The limit does not get in the way of what fits."""
    made, notes = simplify_model(
        proto("g (float[2] x) => (float[2] y) <int64[1] s = {2}> { c = Expand(x0, s) "
              "y = Add(x, c) }", x0=ones(1))
    )  # fmt: skip
    assert [n.op_type for n in made.graph.node] == ["Add"]
    assert "2 nodes became 1" in notes[0]


def test_shape_arithmetic_that_free_axes_leave_is_named():
    """esp-ppq stops at this very model: its Reshape gets a fake-quantized shape."""
    given = proto(
        """g (float[N,3,8] x) => (float[A,B] y) {
            s = Shape(x)  n = Gather(s, zero)  u = Unsqueeze(n, axis)  c = Concat<axis=0>(u, rest)
            y = Reshape(x, c)
        }""",
        zero=np.array(0), axis=np.array([0]), rest=np.array([-1]),
    )  # fmt: skip
    assert "quantizes arithmetic on shapes" in simplify_model(given)[1][-1]


def test_a_norm_without_a_layer_becomes_a_conv(bind):
    """A 1x1 depthwise Conv of its name: (x - 1) / sqrt(3 + 1) * 2 + 5."""
    model = bind(
        "g (float[1,2,1,1] x) => (float[1,2,1,1] y) {"
        "[n] y = BatchNormalization<epsilon=1.0>(x, s, o, m, v) }",
        s=2 * ones(2), o=5 * ones(2), m=ones(2), v=3 * ones(2),
    )  # fmt: skip
    made = ESP32P4.prepare(model)
    assert types(made) == {"n": "Conv"}
    assert attributes(made, "n") == {"kernel_shape": [1, 1], "group": 2}
    assert compute(made, x=7 * ones(1, 2, 1, 1)).tolist() == [[[[11.0]], [[11.0]]]]


def test_a_norm_of_another_rank_is_named(bind):
    """esp-ppq makes a 2-D Conv of it, which a 3-D input does not fit; the user is told."""
    model = bind(
        "g (float[1,2,3] x) => (float[1,2,3] y) { [r] h = Relu(x)"
        "[n] y = BatchNormalization(h, s, o, m, v) }",
        s=ones(2), o=ones(2), m=ones(2), v=ones(2),
    )  # fmt: skip
    made = ESP32P4.prepare(model)
    assert types(made)["n"] == "BatchNormalization"
    assert made.notes[-1].startswith("esp-ppq makes a 2-D Conv of BatchNormalization 'n'")


@pytest.mark.parametrize(
    ("shape", "weight", "given"),
    [
        ((1, 4, 5, 6), (4, 3, 3, 4), "strides=[2,3],pads=[1,0,1,1],output_padding=[1,0],group=2"),
        ((1, 4, 5), (4, 3, 3), "strides=[2],pads=[1,1]"),
        ((1, 2, 3, 3, 3), (2, 2, 2, 2, 2), "strides=[2,1,2]"),
        ((1, 4, 5, 5), (4, 1, 3, 3), "group=4,pads=[1,1,1,1]"),
    ],
    ids=["grouped", "1-D", "3-D", "depthwise, stride 1"],
)
def test_a_transposed_conv_is_split_and_computes_the_same(bind, shape, weight, given):
    """InsertZeros where something is strided, then a Conv under the layer's name."""
    text = (
        f"g (float{list(shape)} x) => (float[A] y) {{ [t] y = ConvTranspose<{given},"
        f"kernel_shape={list(weight[2:])}>(x, w) }}"
    )
    model = bind(text.replace("float[A]", "float[" + ",".join("ABCDE"[: len(shape)]) + "]"),
                 w=random(*weight))  # fmt: skip
    made = ESP32P4.prepare(model)
    strided = "strides" in given
    assert types(made) == {
        **({"PPQ_Operation_0": "InsertZeros"} if strided else {}), "t": "Conv"
    }  # fmt: skip
    assert made.source_nodes["t"] == ("t",)
    assert set(made.macs) == {"t"}
    assert set(made.shapes) == {t for n in made.proto.graph.node for t in (*n.input, *n.output)}
    x = random(*shape)
    np.testing.assert_allclose(compute(made, x=x), compute(model, x=x), rtol=1e-4, atol=1e-5)


def test_a_dilated_transposed_conv_stays_whole(bind):
    """esp-ppq forgets the dilation and computes something else; that is said."""
    model = bind(
        "g (float[1,1,3,3] x) => (float[A,B,C,D] y) {"
        "[t] y = ConvTranspose<dilations=[2,2],kernel_shape=[2,2]>(x, w) }",
        w=ones(1, 1, 2, 2),
    )
    made = ESP32P4.prepare(model)
    assert types(made) == {"t": "ConvTranspose"}
    assert "one with dilations above 1" in made.notes[-1]


ATTENTION = """g (float[1,2,5,8] x) => (float[1,2,5,8] y) {
    [q0] q = Neg(x) [k0] k = Relu(x) [v0] v = Abs(x)
    [tk] t = Transpose<perm=[0,1,3,2]>(k) [qk] s = MatMul(q, t) [sc] c = Mul(s, f)
    [ma] a = Add(c, m) [sm] p = Softmax(a) [pv] y = MatMul(p, v)
}"""


def test_attention_is_one_node_that_computes_the_same(bind):
    """Scale and mask included; its multiply-accumulates are those of both MatMuls."""
    model = bind(ATTENTION, f=np.float32(0.3), m=random(1, 1, 5, 5))
    made = ESP32P4.prepare(model)
    assert types(made) == {
        "q0": "Neg", "k0": "Relu", "v0": "Abs", "PPQ_Operation_0": "Attention"
    }  # fmt: skip
    assert made.source_nodes["PPQ_Operation_0"] == ("tk", "qk", "sc", "ma", "sm", "pv")
    assert made.macs == {"PPQ_Operation_0": 2 * (2 * 5 * 5 * 8)}
    x = random(1, 2, 5, 8)
    np.testing.assert_allclose(compute(made, x=x), compute(model, x=x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("c = Mul(s, f)", "c = Sub(s, f)"),
        ("p = Softmax(a)", "p = Softmax<axis=2>(a)"),
        ("t = Transpose<perm=[0,1,3,2]>(k)", "r = Relu(k) t = Reshape(r, sh)"),
    ],
    ids=["not scaled", "another axis", "keys reshaped"],
)
def test_what_is_not_attention_stays(bind, before, after):
    """The MatMuls keep their names."""
    # (1, 2, 8, 5) keys out of a Reshape would be attention; 3-D ones are not
    extra = {"sh": np.array([2, 8, 5])} if "sh" in after else {}
    model = bind(
        ATTENTION.replace(before, after), f=np.float32(0.3), m=random(1, 1, 5, 5), **extra
    )
    assert "MatMul" in types(ESP32P4.prepare(model)).values()


KERNELS = {
    "AveragePool<kernel_shape=[3,3],strides=[1,1],pads=[1,1,1,1]>(x)": (
        {"count_include_pad": 1}, "counts the padding"
    ),
    'Resize<mode="linear",coordinate_transformation_mode="asymmetric">(x, , , s)': (
        {"coordinate_transformation_mode": b"half_pixel"}, "half_pixel coordinates"
    ),
    'Resize<coordinate_transformation_mode="asymmetric",nearest_mode="ceil">(x, , , s)': (
        {"nearest_mode": b"floor"}, "the value below"
    ),
}  # fmt: skip


@pytest.mark.parametrize("body", KERNELS)
def test_its_kernels_are_used_and_told(bind, body):
    """The attribute is changed, and the user reads that the reference is another one."""
    given, told = KERNELS[body]
    model = bind(
        f"g (float[1,1,4,4] x) => (float[A,B,C,D] y) {{ [op] y = {body} }}",
        s=np.array([1, 1, 8, 8]),
    )
    made = ESP32P4.prepare(model)
    assert given.items() <= attributes(made, "op").items()
    assert made.notes[-1].startswith("esp-ppq's own FP32 reference differs from the model: ")
    assert told in made.notes[-1]


@pytest.mark.parametrize(
    "body",
    [
        "AveragePool<kernel_shape=[2,2],strides=[2,2]>(x)",
        'Resize<mode="linear">(x, , , s)',
        'Resize<coordinate_transformation_mode="asymmetric",nearest_mode="floor">(x, , , s)',
        "MaxPool<kernel_shape=[3,3],strides=[2,2],pads=[0,0,1,1]>(x)",
    ],
)
def test_equal_kernels_are_left_alone(bind, body):
    """No change, no note."""
    model = bind(
        f"g (float[1,1,4,4] x) => (float[A,B,C,D] y) {{ [op] y = {body} }}",
        s=np.array([1, 1, 8, 8]),
    )
    assert ESP32P4.prepare(model) == model


def test_what_it_cannot_run_is_named(bind):
    """Selu has no kernel in esp-ppq."""
    made = ESP32P4.prepare(bind("g (float[4] x) => (float[4] y) { y = Selu(x) }"))
    assert made.notes == ("esp-ppq stops at this model: it has no kernel for Selu.",)


def test_dropout_is_taken_out_and_named(tmp_path):
    """Where a simplifier leaves it: esp-ppq has no kernel for it."""
    text = "g (float[4] x) => (float[4] y) { [r] h = Relu(x) [d] k = Dropout(h) [n] y = Neg(k) }"
    loaded = load_model(
        write(tmp_path, proto(text)), rewrite=lambda model: (onnx.ModelProto.FromString(
            model.SerializeToString()
        ), ())
    )  # fmt: skip
    assert "Dropout" in types(loaded).values()
    made = ESP32P4.prepare(bind_shapes(loaded, {"x": (4,)}))
    assert types(made) == {"r": "Relu", "n": "Neg"}
    assert made.notes[-1] == "esp-ppq has no kernel for Dropout 'd': take it out of the model."
