# SPDX-License-Identifier: Apache-2.0
"""Detections read from outputs, against boxes decoded by hand.

The picture is 32x32, so strides 8, 16 and 32 have 16, 4 and 1 cells; cell 5 of the first level
has its corner at (8, 8) and its centre at (12, 12).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer.score.anchors import grid_of, strides_of
from analyzer.score.heads import JoinedHead, Level, PairedHeads, SplitHeads
from analyzer.score.listed import ListedHead

SIZE = (32, 32)
GRID = grid_of(SIZE, (8, 16, 32))
CELL = 5


def table(unit, channels=6):
    """A joined output where every box covers its cell, and nothing is found."""
    values = np.zeros((1, channels, 21), dtype=np.float32)
    if unit == "raw":
        values[0, :2] = 0.5
    else:
        values[0, :2], values[0, 2:4] = GRID.centres.T, GRID.strides.T
    if unit == "share":
        values[0, :4] /= 32
    return values


def only(found):
    """The one detection: box, score, class."""
    assert len(found) == 1
    return found.boxes[0].tolist(), float(found.scores[0]), int(found.classes[0])


def joined(**fields):
    wanted = {"classes": 2, "has_objectness": False, "channels_last": False, **fields}
    return JoinedHead("out", SIZE, GRID, **wanted)


def test_pixels_are_told_from_where_boxes_lie():
    """Ultralytics: centre and sides in pixels, one score per class."""
    values = table("pixel")
    values[0, :, CELL] = [13, 12, 8, 4, 0.1, 0.9]
    head = joined().settled({"out": values})
    assert head.unit == "pixel"
    found = head.read({"out": values}, 0)
    assert found.boxes.tolist() == [[9, 10, 17, 14]] * 2
    assert found.scores.tolist() == pytest.approx([0.9, 0.1])
    assert found.classes.tolist() == [1, 0]


def test_shares_of_the_picture_are_told_too():
    """The same box, written as TensorFlow exports write it."""
    values = table("share")
    values[0, :, CELL] = [13 / 32, 12 / 32, 8 / 32, 4 / 32, 0, 0.9]
    head = joined().settled({"out": values})
    assert head.unit == "share"
    assert only(head.read({"out": values}, 0)) == ([9, 10, 17, 14], pytest.approx(0.9), 1)


def test_raw_cells_are_decoded_as_yolox_does():
    """Centre (0.5 + 1) * 8, sides exp(log 2) * 8 and exp(0) * 8; objectness times class."""
    values = table("raw", channels=7)
    values[0, :, CELL] = [0.5, 0.5, np.log(2), 0, 0.5, 0.8, 0]
    arrays = {"out": values.transpose(0, 2, 1)}
    head = joined(has_objectness=True, channels_last=True).settled(arrays)
    assert head.unit == "raw"
    box, score, kind = only(head.read(arrays, 0))
    assert box == pytest.approx([4, 8, 20, 16])
    assert (score, kind) == (pytest.approx(0.4), 0)


def test_what_lies_nowhere_near_its_cells_is_no_head():
    """Boxes all in one corner, scores beyond 1, and NaN: no score rather than a wrong one."""
    corner, loud, broken = table("pixel"), table("pixel"), table("pixel")
    corner[0, :2] = 500
    loud[0, 4, 0] = 3
    broken[0, 0, 0] = np.nan
    assert [joined().settled({"out": v}) for v in (corner, loud, broken)] == [None] * 3


def test_a_broken_int8_model_finds_nothing():
    """NaN everywhere is no detection, and no crash."""
    head = joined().settled({"out": table("pixel")})
    assert len(head.read({"out": np.full((1, 6, 21), np.nan, dtype=np.float32)}, 0)) == 0


def test_boxes_end_at_the_edges_of_the_picture():
    """Evaluators expect them cut."""
    values = table("pixel")
    values[0, :, CELL] = [2, 30, 20, 20, 0.9, 0]
    head = joined(unit="pixel")
    assert only(head.read({"out": values}, 0))[0] == [0, 20, 12, 32]


def maps(channels, fill=0.0):
    return np.full((1, channels, 4, 4), fill, dtype=np.float32)


def paired(bins):
    return PairedHeads((Level("box", "score", None, 8),), SIZE, bins, classes=2)


def test_distances_are_in_cells_from_the_centre():
    """(12 - 8, 12 - 4, 12 + 8, 12 + 16), and a logit of 0 is a score of 0.5."""
    box, score = maps(4), maps(2, fill=-20)
    box[0, :, 1, 1] = [1, 0.5, 1, 2]
    score[0, 1, 1, 1] = 0
    arrays = {"box": box, "score": score}
    head = paired(1).settled(arrays)
    assert only(head.read(arrays, 0)) == ([4, 8, 20, 28], 0.5, 1)


def test_bins_give_their_expectation():
    """All weight on bin 2; then half on bin 1 and half on bin 2."""
    box, score = maps(64), maps(2, fill=-20)
    logits = box.reshape(4, 16, 4, 4)
    logits[:3, 2, 1, 1] = 60
    logits[3, [1, 2], 1, 1] = 60
    score[0, 0, 1, 1] = 20
    arrays = {"box": box, "score": score}
    box_found, score_found, _ = only(paired(16).settled(arrays).read(arrays, 0))
    assert box_found == pytest.approx([0, 0, 28, 24])
    assert score_found == pytest.approx(1)


def test_scores_between_zero_and_one_are_probabilities():
    """Then no sigmoid is laid over them."""
    box, score = maps(4, fill=1), maps(2)
    score[0, 0, 1, 1] = 0.75
    arrays = {"box": box, "score": score}
    assert only(paired(1).settled(arrays).read(arrays, 0))[1] == 0.75


def test_objectness_is_multiplied():
    """0.5 * 0.5."""
    arrays = {"box": maps(4, fill=1), "score": maps(2, fill=-20), "any": maps(1, fill=-20)}
    arrays["score"][0, 1, 1, 1] = arrays["any"][0, 0, 1, 1] = 0
    head = replace(paired(1), levels=(Level("box", "score", "any", 8),)).settled(arrays)
    assert only(head.read(arrays, 0))[1:] == (0.25, 1)


def test_distances_that_point_inwards_are_none():
    """Centres and logarithms of sides have either sign where something is found."""
    box, score = maps(4, fill=-1), maps(2, fill=20)
    assert paired(1).settled({"box": box, "score": score}) is None


def test_split_heads_leave_out_the_background():
    """Relative corners and a Softmax whose first class is nothing; the second is a face."""
    boxes = np.float32([[[0.25, 0.25, 0.5, 0.75], [0, 0, 1, 1]]])
    scores = np.float32([[[0.1, 0.9], [1, 0]]])
    arrays = {"boxes": boxes, "scores": scores}
    head = SplitHeads("boxes", "scores", SIZE, 1, has_background=True).settled(arrays)
    assert only(head.read(arrays, 0)) == ([8, 8, 16, 24], pytest.approx(0.9), 0)


def test_split_heads_tell_centres_from_corners():
    """DETR writes centre and sides."""
    boxes = np.float32([[[0.5, 0.5, 0.25, 0.5], [0.75, 0.5, 0.5, 0.5]]])
    arrays = {"boxes": boxes, "scores": np.float32([[[0.9], [0]]])}
    head = SplitHeads("boxes", "scores", SIZE, 1, has_background=False).settled(arrays)
    assert only(head.read(arrays, 0))[0] == [12, 8, 20, 24]


def test_offsets_from_unknown_anchors_are_no_boxes():
    """Half of them have a negative width."""
    offsets = np.random.default_rng(0).normal(size=(1, 400, 4)).astype(np.float32)
    arrays = {"boxes": offsets, "scores": np.zeros((1, 400, 1), dtype=np.float32)}
    assert SplitHeads("boxes", "scores", SIZE, 1, has_background=False).settled(arrays) is None


def test_listed_detections_are_taken_as_they_are():
    """End-to-end models: no suppression of the double, nothing below 0.005, best first."""
    rows = [[1, 2, 9, 9, 0.001, 0], [1, 2, 9, 9, 0.5, 3], [1, 2, 9, 40, 0.9, 3]]
    arrays = {"out": np.float32([rows])}
    head = ListedHead("out", SIZE, 80).settled(arrays)
    found = head.read(arrays, 0)
    assert found.boxes.tolist() == [[1, 2, 9, 32], [1, 2, 9, 9]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])
    assert found.classes.tolist() == [3, 3]
    assert ListedHead("out", SIZE, 80).settled({"out": -arrays["out"]}) is None


def test_the_number_of_boxes_tells_the_strides():
    """YOLOv8 and YOLOX at 416: 52^2 + 26^2 + 13^2; YOLOv5: three per cell; two levels of 64."""
    assert strides_of((416, 416), 3549) == ((8, 16, 32), 1)
    assert strides_of((640, 640), 25200) == ((8, 16, 32), 3)
    assert strides_of((64, 64), 80) == ((8, 16), 1)
    assert strides_of((640, 640), 300) is None
