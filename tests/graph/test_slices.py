# SPDX-License-Identifier: Apache-2.0
"""Slices: parts of outputs beside them, measured like them, asked for or where ranges differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from analyzer.errors import ConfigError
from analyzer.graph.slices import MOST_PARTS, check_slices, with_slices
from analyzer.graph.tensors import TensorRuns
from analyzer.records import Quantizer, QuantPlan, TensorSpec
from analyzer.simulate import simulate

DETECTOR = """g (float[1,4,20] a, float[1,3,20] b) => (float[1,7,20] y) {
    [join] y = Concat <axis = 1> (a, b)
}"""
RNG = np.random.default_rng(3)
BOXES = RNG.uniform(-640, 640, (1, 4, 20)).astype(np.float32)
SCORES = RNG.uniform(0, 1, (1, 3, 20)).astype(np.float32)
SAMPLE = {"a": BOXES, "b": SCORES}
PARTS = {"y[:, :4]": "y", "y[:, 4:]": "y"}


@pytest.fixture
def plain(bind):
    """Return a function: opset -> a model with one output of 6 x 5 x 4, without parts."""
    return lambda opset=13: bind(
        "g (float[6,5,4] x) => (float[6,5,4] y) { [r] y = Relu(x) }", opset=opset
    )


@pytest.mark.parametrize("opset", [7, 9, 10, 13, 19])
@pytest.mark.parametrize(
    ("index", "part"),
    [
        (":, :4", np.s_[:, :4]),
        ("1:5, ..., 2:", np.s_[1:5, :, 2:]),
        ("-1, 2, 3", np.s_[5:6, 2:3, 3:4]),
        ("..., ::2", np.s_[:, :, ::2]),
        ("1:, ::-2, -3::2", np.s_[1:, ::-2, -3::2]),
        ("...", np.s_[...]),
    ],
)
def test_a_slice_is_the_part_that_numpy_takes(plain, opset, index, part):
    """By runs of the new output, in opsets old and new; its shape is known beforehand."""
    model = with_slices(plain(opset), {"part": f"y[{index}]"}, {})
    x = RNG.standard_normal((6, 5, 4)).astype(np.float32)
    found = TensorRuns(model, ["part"]).run({"x": x})["part"]
    assert np.array_equal(found, np.maximum(x, 0)[part])
    assert model.shapes["part"] == found.shape
    onnx.checker.check_model(model.proto, full_check=True)


def test_everything_about_a_model_stays_right(plain):
    """One more output of known type, made by a node that is none of the user's."""
    old = plain()
    before = old.proto.SerializeToString(deterministic=True)
    new = with_slices(old, {"first rows": "y[:2]"}, {})
    assert new.slices == {"first rows": "y"}
    assert new.outputs == (*old.outputs, TensorSpec("first rows", "float32", (2, 5, 4)))
    assert [o.name for o in new.proto.graph.output] == ["y", "first rows"]
    assert new.source_nodes == {**old.source_nodes, "first rows": ()}
    tensors = {t for n in new.proto.graph.node for t in (*n.input, *n.output)}
    assert tensors <= new.shapes.keys() & new.dtypes.keys()
    assert old.proto.SerializeToString(deterministic=True) == before
    touched = "proto slices outputs source_nodes shapes dtypes".split()
    assert replace(new, **{name: getattr(old, name) for name in touched}) == old


def test_a_slice_stands_right_behind_what_it_cuts(bind):
    """The whole output need not be kept until the graph ends."""
    model = bind(
        "g (float[4] x) => (float[4] y, float[4] z) "
        "{ [p] y = Relu(x) [q] h = Neg(y) [r] z = Neg(h) }"
    )
    new = with_slices(model, {"1": "y[::2]", "2": "y[0]", "3": "z[-1]"}, {})
    assert [n.name for n in new.proto.graph.node] == ["p", "1", "2", "q", "r", "3"]
    found = TensorRuns(new, "123").run({"x": np.array([1, 2, 3, 4], np.float32)})
    assert {t: value.tolist() for t, value in found.items()} == {"1": [1, 3], "2": [1], "3": [4]}


def test_names_may_hold_anything(bind):
    """The last brackets are the index; a node's name is no obstacle, nor are made-up constants."""
    name = "out[0]/a.b:0"
    model = bind(
        'g (float[4] x) => (float[4] y) { ["slice//starts"] h = Relu(x) [slice] y = Neg(h) }'
    )
    model.proto.graph.node[1].output[0] = model.proto.graph.output[0].name = name
    model = replace(
        model, outputs=(replace(model.outputs[0], name=name),),
        shapes={**model.shapes, name: (4,)}, dtypes={**model.dtypes, name: "float32"},
    )  # fmt: skip
    asked = {"slice": f"{name} [1:3]", "größe = '%s' <b>": f" {name}[2:]"}
    new = with_slices(model, asked, {})
    found = TensorRuns(new, asked).run({"x": np.arange(4, dtype=np.float32)})
    assert [v.tolist() for v in found.values()] == [[-1, -2], [-2, -3]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s", "y", r"The slice 's' is 'y'. Expected OUTPUT\[INDEX\] such as"),
        ("s", "[:4]", r"'s' is '\[:4\]'. Expected"),
        ("s", "scoers[:4]", "part of 'scoers', expected an output .* Did you mean 'scores'"),
        ("s", "hidden[:4]", "part of 'hidden', expected an output of the model"),
        ("s", "count[0]", "part of 'count', which holds int64 and carries .*: y, scores."),
        ("s", "x[0]", "part of 'x', which holds float32 and carries no noise"),
        ("s", "y[:, 9:]", "The slice 's': '9:' reaches beyond axis 1 of 1x7. The axis has 7"),
        ("hidden", "y[0]", "'hidden' is called like a tensor of the model. Give it another name"),
        ("y", "y[0]", "'y' is called like a tensor"),
        ("x", "y[0]", "'x' is called like a tensor"),
        ("a\nb", "y[0]", r"'a\\nb' cannot be a slice's name"),
        ("\udcff", "y[0]", "cannot be a slice's name"),
        (" ", "y[0]", "cannot be a slice's name"),
    ],
)
def test_what_does_not_fit_is_refused(bind, name, text, message):
    """Before anything runs, in one sentence with the slice's name."""
    model = bind(
        """g (float[1,7] x) => (float[1,7] y, float[1,7] scores, int64[2] count, x) {
            hidden = Relu(x)  y = Neg(hidden)  scores = Sigmoid(x)  count = Shape(hidden)
        }"""
    )
    with pytest.raises(ConfigError, match=message):
        check_slices(model, {name: text})
    with pytest.raises(ConfigError, match=message):
        with_slices(model, {name: text}, {})


def automatic(model, sample):
    return dict(with_slices(model, {}, sample).slices)


def test_parts_of_very_different_ranges_are_told_apart(bind):
    """Boxes up to 640 and scores up to 1; not boxes up to 7."""
    model = bind(DETECTOR)
    assert automatic(model, SAMPLE) == PARTS
    assert with_slices(model, {}, {"a": BOXES / 100, "b": SCORES}) is model


def test_what_the_user_slices_is_left_to_the_user(bind):
    """Also under the name that it would have got."""
    model = bind(DETECTOR)
    for name in ("boxes", "y[:, 4:]"):
        found = with_slices(model, {name: "y[:, :4]"}, SAMPLE)
        assert dict(found.slices) == {name: "y"}


def test_a_name_that_is_taken_is_left_out(bind):
    """A tensor may be called like an expression."""
    model = bind(DETECTOR)
    node = model.proto.graph.node.add(op_type="Relu", name="odd")
    node.input.append("a")
    node.output.append("y[:, :4]")
    assert automatic(model, SAMPLE) == {"y[:, 4:]": "y"}


def test_equal_neighbours_are_one_part(bind):
    """Left, top, width and height joined one by one, then scores of three classes, then angles."""
    model = bind(
        """g (float[1,1,9] a, float[1,1,9] b, float[1,2,9] c) => (float[1,8,9] y) {
            y = Concat <axis = 1> (a, a, a, a, b, b, c)
        }"""
    )
    sample = {
        "a": np.full((1, 1, 9), -300, np.float32), "b": np.ones((1, 1, 9), np.float32),
        "c": np.full((1, 2, 9), 90, np.float32),
    }  # fmt: skip
    assert automatic(model, sample) == dict.fromkeys(["y[:, :4]", "y[:, 4:6]", "y[:, 6:]"], "y")


def test_levels_of_a_detector(bind):
    """Boxes and scores of two levels, the levels joined, and the axes swapped at last."""
    model = bind(
        """g (float[1,4,20] a, float[1,3,20] b, float[1,4,5] c, float[1,3,5] d)
        => (float[1,25,7] y, float[1,4,20] z) {
            l = Concat <axis = 1> (a, b)  s = Concat <axis = 1> (c, d)
            t = Concat <axis = 2> (l, s)  y = Transpose <perm = [0, 2, 1]> (t)  z = Neg(a)
        }"""
    )
    sample = SAMPLE | {"c": BOXES[..., :5], "d": SCORES[..., :5]}
    assert automatic(model, sample) == {"y[:, :, :4]": "y", "y[:, :, 4:]": "y"}


def test_the_axis_with_the_greater_contrast_is_cut(bind):
    """Where levels differ as well, but less than boxes and scores."""
    model = bind(
        """g (float[1,4,20] a, float[1,3,20] b) => (float[1,7,40] y) {
            l = Concat <axis = 1> (a, b)
            c = Mul(a, tenth)  d = Mul(b, tenth)  s = Concat <axis = 1> (c, d)
            y = Concat <axis = 2> (l, s)
        }""",
        tenth=np.float32(0.1),
    )
    assert automatic(model, SAMPLE) == PARTS


def test_there_are_not_more_parts_than_one_can_read(bind):
    """Of ten parts, each sixteen times the one before, the neighbours most alike are united."""
    text = " ".join(f"p{i} = Mul(x, c{i})" for i in range(10))
    model = bind(
        f"""g (float[1,1] x) => (float[1,10] y) {{ {text}
            y = Concat <axis = 1> ({", ".join(f"p{i}" for i in range(10))}) }}""",
        **{f"c{i}": np.float32(16.0**i * (0.75 if i in (5, 9) else 1)) for i in range(10)},
    )
    found = automatic(model, {"x": np.ones((1, 1), np.float32)})
    assert len(found) == MOST_PARTS
    # 16 * 0.75 = 12 lies between parts 4 and 5, and between 8 and 9; of two alike, the first goes
    assert list(found)[3:6] == ["y[:, 3:4]", "y[:, 4:6]", "y[:, 6:7]"]
    assert list(found)[-1] == "y[:, 8:]"


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_parts_without_a_range_are_no_slice(bind, value):
    """Zero throughout, or not finite: there is nothing to compare."""
    model = bind(DETECTOR)
    assert automatic(model, SAMPLE | {"b": np.full_like(SCORES, value)}) == {}


def test_whole_numbers_have_no_slices(bind):
    """Class numbers beside large indices carry no noise."""
    model = bind(
        "g (int64[1,2] a, int64[1,2] b) => (int64[1,4] y) { y = Concat <axis = 1> (a, b) }"
    )
    ones = np.ones((1, 2), np.int64)
    assert automatic(model, {"a": ones, "b": 1000 * ones}) == {}


def test_a_slice_shows_what_the_whole_hides(bind):
    """One int8 scale for boxes and scores: cosine 0.9999 or more, and every score is 0."""
    model = with_slices(bind(DETECTOR), {}, SAMPLE)
    shared = Quantizer(
        "join", "out0", "y", "activation", 8,
        scale=np.array([640 / 127]), zero_point=np.array([0]), group="y",
    )  # fmt: skip
    plan = QuantPlan("none", ("join",), frozenset(), {"join": "int8"}, (shared,))
    found = simulate(model, plan, [SAMPLE, SAMPLE]).graphwise
    assert found["y"].cosine > 0.9999
    assert {name: found[name].lost for name in ("y", *PARTS)} == {
        "y": False, "y[:, :4]": False, "y[:, 4:]": True
    }  # fmt: skip
    assert found["y[:, 4:]"].nsr == 1  # all of the signal is gone
    assert found["y[:, 4:]"].cosine == 0
    step = 640 / 127
    boxes = BOXES.astype(np.float64)
    noise = np.rint(boxes / step) * step - boxes
    assert found["y[:, :4]"].nsr == pytest.approx((noise**2).sum() / (boxes**2).sum(), rel=1e-4)
