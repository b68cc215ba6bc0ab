# SPDX-License-Identifier: Apache-2.0
"""Overlaps, suppression and pairing against boxes counted on squared paper."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.score.boxes import MOST_DETECTIONS, Detections, common_boxes, iou, suppress


def detections(*rows):
    """Each row: left, top, right, bottom, score, class."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.intp))


def as_rows(found):
    return np.column_stack([found.boxes, found.scores, found.classes]).round(4).tolist()


def test_iou_is_the_common_area_over_the_joint_one():
    """A quarter in common of two squares: 1 / (4 + 4 - 1); apart: 0; the same: 1."""
    square, shifted, apart = [0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]
    found = iou(np.float32([square]), np.float32([square, shifted, apart]))
    assert found == pytest.approx(np.array([[1, 1 / 7, 0]]))


def test_boxes_without_area_overlap_nothing():
    """Not even themselves: 0, and no division by zero."""
    flat = np.float32([[1, 1, 1, 5], [3, 3, 2, 2]])
    assert iou(flat, flat).tolist() == [[0, 0], [0, 0]]


def test_the_best_of_overlapping_boxes_stays():
    """Of one class: 0.9 of the area in common is too much, 0.6 is not; other classes stay."""
    best, double = (0, 0, 10, 10, 0.8, 0), (0, 0, 10, 9, 0.7, 0)
    beside, other = (0, 0, 10, 6, 0.6, 0), (0, 0, 10, 10, 0.75, 1)
    found = suppress(detections(double, beside, best, other))
    assert as_rows(found) == as_rows(detections(best, other, beside))


def test_a_suppressed_box_suppresses_nothing():
    """Greedy: the third overlaps only the second, which is gone."""
    rows = [(0, 0, 10, 10, 0.9, 0), (0, 2, 10, 10, 0.8, 0), (0, 4, 10, 10, 0.7, 0)]
    assert suppress(detections(*rows)).scores.tolist() == pytest.approx([0.9, 0.7])


def test_what_is_not_finite_is_no_detection():
    """NaN and inf are dropped, the rest stays."""
    nan, inf = float("nan"), float("inf")
    rows = [(0, 0, nan, 1, 0.9, 0), (0, 0, 1, 1, nan, 0), (0, 0, inf, 1, 0.8, 0)]
    assert as_rows(suppress(detections(*rows, (0, 0, 1, 1, 0.5, 0)))) == [[0, 0, 1, 1, 0.5, 0]]


def test_no_picture_has_more_than_three_hundred():
    """The best ones are kept."""
    many = [(3 * i, 0, 3 * i + 1, 1, 1 - i / 1000, 0) for i in range(MOST_DETECTIONS + 50)]
    found = suppress(detections(*many))
    assert len(found) == MOST_DETECTIONS
    assert found.scores.min() == pytest.approx(1 - (MOST_DETECTIONS - 1) / 1000)


def test_nothing_in_nothing_out():
    """An empty picture is no special case."""
    assert len(suppress(detections())) == 0
    assert common_boxes(detections(), detections((0, 0, 1, 1, 1, 0))) == 0
    assert common_boxes(detections((0, 0, 1, 1, 1, 0)), detections()) == 0


def test_pairs_are_one_to_one_and_of_one_class():
    """Two boxes on one find it once; a box of another class finds nothing."""
    expected = detections((0, 0, 10, 10, 0.9, 0), (20, 0, 30, 10, 0.9, 1))
    doubled = detections((0, 0, 10, 9, 0.9, 0), (0, 0, 10, 8, 0.8, 0), (20, 0, 30, 10, 0.7, 0))
    assert common_boxes(expected, doubled) == 1


def test_half_of_the_area_is_enough_and_less_is_not():
    """IoU 0.5 pairs, 0.4 does not."""
    expected = detections((0, 0, 10, 10, 0.9, 0))
    assert common_boxes(expected, detections((0, 0, 10, 5, 0.9, 0))) == 1
    assert common_boxes(expected, detections((0, 0, 10, 4, 0.9, 0))) == 0
