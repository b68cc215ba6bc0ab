# SPDX-License-Identifier: Apache-2.0
"""The evaluator is asked the right question: precision counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.score.average_precision import Truth, as_truth, average_precision
from analyzer.score.boxes import Detections

pytest.importorskip("pycocotools")


def truth(*rows, crowd=False):
    """Each row: left, top, right, bottom, class."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 5)
    return Truth(table[:, :4], table[:, 4].astype(np.intp), np.full(len(table), crowd))


def detections(*rows):
    """Each row: left, top, right, bottom, score, class."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.intp))


def test_an_overlap_counts_for_the_thresholds_below_it():
    """IoU 0.82: right at 0.50, 0.55 ... 0.80, which are seven of ten."""
    found = average_precision([truth((0, 0, 10, 10, 3))], [detections((0, 0, 10, 8.2, 0.9, 3))])
    assert (found.at_50, found.at_50_95) == pytest.approx((1, 0.7))


def test_precision_is_read_at_101_recalls():
    """One of two found, after a better-scored false one: precision 1/2 at recalls 0.00 to 0.50."""
    found = average_precision(
        [truth((0, 0, 10, 10, 0), (20, 0, 30, 10, 0))],
        [detections((50, 0, 60, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0))],
    )
    assert found.at_50 == pytest.approx(51 * 0.5 / 101)


def test_it_is_a_mean_over_the_classes_there_are():
    """Class 0 found, class 1 missed, class 2 is in no picture: (1 + 0) / 2."""
    found = average_precision(
        [truth((0, 0, 10, 10, 0)), truth((0, 0, 10, 10, 1))],
        [detections((0, 0, 10, 10, 0.9, 0)), detections((0, 0, 10, 10, 0.9, 2))],
    )
    assert found.at_50 == pytest.approx(0.5)


def test_boxes_around_many_are_neither_right_nor_wrong():
    """A detection in a crowd costs nothing."""
    crowded = truth((0, 0, 10, 10, 0), (50, 50, 90, 90, 0))
    crowded.is_crowd[1] = True
    found = average_precision(
        [crowded], [detections((60, 60, 70, 70, 0.9, 0), (0, 0, 10, 10, 0.8, 0))]
    )
    assert found.at_50 == pytest.approx(1)


def test_nothing_found_is_zero_and_nothing_to_find_is_no_score():
    """Empty sides are no errors of the evaluator."""
    assert average_precision([truth((0, 0, 9, 9, 0))], [detections()]).at_50 == 0
    assert average_precision([truth()], [detections((0, 0, 9, 9, 0.9, 0))]) is None


def test_answers_agree_with_themselves():
    """The certain boxes of a picture, held against all of it."""
    rng = np.random.default_rng(3)
    left_top = rng.integers(0, 500, (40, 2))
    boxes = np.hstack([left_top, left_top + rng.integers(5, 90, (40, 2))]).astype(np.float32)
    own = Detections(boxes, rng.random(40).astype(np.float32), rng.integers(0, 3, 40))
    found = average_precision([as_truth(own.at_least(0.25))], [own])
    assert (found.at_50, found.at_50_95) == pytest.approx((1, 1))


def test_the_evaluator_keeps_silent(capsys):
    """Stdout belongs to the result."""
    average_precision([truth((0, 0, 9, 9, 0))], [detections((0, 0, 9, 9, 0.9, 0))])
    assert capsys.readouterr().out == ""
