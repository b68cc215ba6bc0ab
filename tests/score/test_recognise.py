# SPDX-License-Identifier: Apache-2.0
"""The task is told from the outputs, or it is left open."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.errors import ConfigError
from analyzer.score.find_heads import find_heads
from analyzer.score.heads import JoinedHead, PairedHeads, SplitHeads
from analyzer.score.listed import ListedHead
from analyzer.score.recognise import recognise

PICTURE = "float[1,3,32,32] x"


def kind(model, task="auto"):
    found = recognise(model, task)
    return None if found is None else found.kind


def rows(bind, width, tail="y = Identity (t)", name="y"):
    """A picture, averaged and turned into one row of `width` numbers."""
    return bind(
        f"""g ({PICTURE}) => (float[1,{width}] {name}) {{
        p = GlobalAveragePool (x)
        f = Flatten (p)
        t = MatMul (f, w)
        {tail.replace("y", name, 1)}
        }}""",
        w=np.ones((3, width), dtype=np.float32),
    )


@pytest.fixture
def given(bind):
    """A model of a picture with outputs of any shape."""

    def make(*outputs):
        declared = ", ".join(f"float{shape} {name}" for name, shape in outputs)
        fed = ", ".join(f"float{[1, 1, *shape]} i_{name}" for name, shape in outputs)
        lines = "\n".join(
            f"{name} = ReduceMax <axes = [0, 1], keepdims = 0> (i_{name})" for name, _ in outputs
        )
        return bind(f"g ({PICTURE}, {fed}) => ({declared}) {{ {lines} }}")

    return make


@pytest.mark.parametrize(
    ("width", "tail", "name", "expected"),
    [
        (10, "y = Softmax (t)", "y", "classification"),
        (10, "y = Neg (t)", "y", None),
        (512, "y = Softmax (t)", "y", "classification"),
        (1, "y = Sigmoid (t)", "y", "classification"),
        (1, "y = Neg (t)", "y", None),
        (10, "y = Tanh (t)", "y", None),
        (196, "y = Softmax (t)", "landmarks", "classification"),
    ],
)
def test_rows_by_their_last_operator(bind, width, tail, name, expected):
    """Probabilities are classes; what else is computed last is left open."""
    assert kind(rows(bind, width, tail, name)) == expected


@pytest.mark.parametrize(
    ("width", "name", "expected"),
    [
        (10, "logits", "classification"),
        (1000, "y", "classification"),
        (512, "y", "embedding"),
        (128, "y", "embedding"),
        (100, "embeddings", "embedding"),
        (196, "landmarks", None),
        (4, "bbox", None),
    ],
)
def test_logits_by_their_width_and_name(bind, width, name, expected):
    """Multiples of 64 from 128 on are sizes of embeddings; 10, 100 and 1000 count classes."""
    model = bind(
        f"""g (float[1,3] x) => (float[1,{width}] {name}) {{
        {name} = MatMul (x, w)
        }}""",
        w=np.ones((3, width), dtype=np.float32),
    )
    assert kind(model) == expected


def test_an_autoencoder_has_no_classes(bind):
    """Its output is shaped like its input."""
    model = bind(
        "g (float[1,6] x) => (float[1,6] y) { y = MatMul (x, w) }",
        w=np.ones((6, 6), dtype=np.float32),
    )
    assert kind(model) is None


def test_tokens_are_logits_for_every_whole_number_read(bind):
    """(N, T) integers in, (N, T, V) out."""
    model = bind(
        "g (int64[1,4] ids) => (float[1,4,9] logits) { logits = Gather (w, ids) }",
        w=np.ones((3, 9), dtype=np.float32),
    )
    assert kind(model) == "tokens"


def test_pictures_from_pictures_have_no_score(bind):
    """Super-resolution and masks of a Sigmoid: no score rather than a wrong one."""
    for operator in ("Sigmoid", "Relu"):
        text = f"g ({PICTURE}) => (float[1,3,32,32] y) {{ y = {operator} (x) }}"
        assert kind(bind(text)) is None


def test_a_softmax_over_classes_of_pixels_is_a_segmentation(bind):
    """As large as the picture."""
    model = bind(
        f"""g ({PICTURE}) => (float[1,3,32,32] y) {{
        y = Softmax <axis = 1> (x)
        }}"""
    )
    assert kind(model) == "pixels"


def test_joined_boxes_by_their_parts(bind):
    """4 and 10 channels are boxes and classes; 4, 1 and 10 have an objectness between."""
    text = """g (float[1,3,32,32] x, float[1,4,21] b, float[1,{n},21] c)
        => (float[1,{m},21] y) {{ y = Concat <axis = 1> ({parts}) }}"""
    plain = find_heads(bind(text.format(n=10, m=14, parts="b, c")))
    assert isinstance(plain, JoinedHead)
    assert (plain.classes, plain.has_objectness, plain.channels_last) == (10, False, False)
    split = """g (float[1,3,32,32] x, float[1,4,21] b, float[1,1,21] o, float[1,10,21] c)
        => (float[1,21,15] y) {
        t = Concat <axis = 1> (b, o, c)
        y = Transpose <perm = [0, 2, 1]> (t)
        }"""
    objects = find_heads(bind(split))
    assert (objects.classes, objects.has_objectness, objects.channels_last) == (10, True, True)


def test_maps_of_boxes_and_scores_go_in_pairs(given):
    """Two strides; four channels are distances, the others are classes."""
    heads = find_heads(
        given(
            ("score0", [1, 7, 4, 4]), ("box0", [1, 4, 4, 4]),
            ("score1", [1, 7, 2, 2]), ("box1", [1, 4, 2, 2]),
        )
    )  # fmt: skip
    assert isinstance(heads, PairedHeads)
    assert heads.outputs == ("box0", "score0", "box1", "score1")
    assert [level.stride for level in heads.levels] == [8, 16]
    assert (heads.classes, heads.bins) == (7, 1)


def test_maps_with_equal_channels_are_told_by_their_names(given):
    """64 classes and 4 * 16 bins; without a name it is left open."""
    named = given(("cls", [1, 64, 4, 4]), ("reg", [1, 64, 4, 4]))
    assert find_heads(named).levels[0].box == "reg"
    assert find_heads(given(("a", [1, 64, 4, 4]), ("b", [1, 4, 4, 4]))) is None


def test_maps_of_anchors_are_not_guessed_at(given):
    """255 channels per stride need anchors that the file does not hold."""
    assert find_heads(given(("a", [1, 255, 4, 4]), ("b", [1, 255, 2, 2]))) is None


def test_six_numbers_each_are_a_list_of_detections(given):
    """Of the form of YOLOv10; how many classes there are is not told."""
    assert isinstance(find_heads(given(("y", [1, 300, 6]))), ListedHead)


def test_split_heads_by_their_softmax(bind):
    """Boxes beside probabilities of the same places, the first of which is nothing."""
    heads = find_heads(
        bind(
            """g (float[1,3,32,32] x, float[1,4,50] b, float[1,3,50] s)
            => (float[1,50,3] scores, float[1,50,4] boxes) {
            t = Transpose <perm = [0, 2, 1]> (s)
            scores = Softmax <axis = 2> (t)
            boxes = Transpose <perm = [0, 2, 1]> (b)
            }"""
        )
    )
    assert isinstance(heads, SplitHeads)
    assert (heads.classes, heads.has_background) == (2, True)


def test_a_task_that_does_not_fit_is_an_error(bind):
    """It names the outputs and what was expected."""
    model = rows(bind, 10)
    with pytest.raises(
        ConfigError, match=r"--task detection does not fit the outputs: y \[1, 10\]"
    ):
        recognise(model, "detection")
    with pytest.raises(ConfigError, match=r"\(N, T, V\)"):
        recognise(bind("g (float[4] x) => (float[4] y) { y = Abs (x) }"), "tokens")
    assert recognise(model, "none") is None
    assert kind(model, "embedding") == "embedding"


@pytest.mark.parametrize(
    ("name", "shapes", "expected"),
    [
        ("yolo11n_heads", {}, "detection"),
        ("yolox_nano", {}, "detection"),
        ("espdet_pico_cat", {}, "detection"),
        ("face_rfb320", {}, "detection"),
        ("mobilenet_v1_025_imagenet", {}, "classification"),
        ("squeezenet_imagenet", {}, "classification"),
        ("stories260k", {}, "tokens"),
        ("superres_subpixel", {}, None),
        ("ad_autoencoder", {}, None),
        ("ppocrv3_det", {"x": (1, 3, 64, 64)}, None),
    ],
)
def test_real_models(shared, name, shapes, expected):
    """What they are said to be in their own papers."""
    assert kind(shared(name, **shapes)) == expected
