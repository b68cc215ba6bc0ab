# SPDX-License-Identifier: Apache-2.0
"""Agreement of classes, vectors and tokens, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.errors import ConfigError
from analyzer.records import TaskScore
from analyzer.score.classification import ClassJudge
from analyzer.score.vectors import PlacesJudge, VectorJudge

NAN = float("nan")


def fed(judge, plain, *plans):
    """One sample: FP32 and a few plans."""
    arrays = [{"y": np.array(values, dtype=np.float32)} for values in (plain, *plans)]
    judge.add(0, arrays[0], arrays[1:])
    return judge


def values(judge, plan=0):
    return {score.name: score.value for score in judge.scores(plan)}


def test_top_1_is_the_share_of_equal_answers():
    """Three rows, two of them answered alike; the other plan agrees everywhere."""
    plain = [[1, 2, 0], [5, 1, 1], [0, 0, 3]]
    judge = fed(ClassJudge("y", 3, 2), plain, [[1, 3, 0], [1, 5, 1], [0, 1, 3]], plain)
    assert judge.scores(0) == (
        TaskScore("top-1 agreement", pytest.approx(2 / 3), None, "fp32", 3, ("y",)),
    )
    assert values(judge, plan=1) == {"top-1 agreement": 1}


def test_top_5_asks_whether_the_answer_is_among_the_first_five():
    """FP32 says 0, which INT8 has in fifth place; and in sixth."""
    plain = [[9, 0, 0, 0, 0, 0]]
    fifth, sixth = [[2, 9, 8, 7, 6, 1]], [[1, 9, 8, 7, 6, 5]]
    judge = fed(ClassJudge("y", 6, 2), plain, fifth, sixth)
    assert values(judge, 0) == {"top-1 agreement": 0, "top-5 agreement": 1}
    assert values(judge, 1) == {"top-1 agreement": 0, "top-5 agreement": 0}


def test_equal_values_are_answered_by_the_first_class():
    """As ArgMax does on the chip: a row of zeros says class 0."""
    judge = fed(ClassJudge("y", 3, 1), [[1, 0, 0], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]])
    assert values(judge) == {"top-1 agreement": 0.5}


def test_a_row_that_is_not_a_number_agrees_with_nothing():
    """NaN in INT8, NaN in FP32, and NaN in both are disagreement; inf is a value."""
    plain = [[1, 0], [NAN, 0], [NAN, 0], [1, 0]]
    judge = fed(ClassJudge("y", 2, 1), plain, [[NAN, 0], [1, 0], [NAN, 0], [float("inf"), 0]])
    assert values(judge) == {"top-1 agreement": 0.25}


def test_one_value_says_yes_or_no():
    """Probabilities on the sides of 0.5: one of three has changed sides."""
    judge = ClassJudge("y", 1, 1, threshold=0.5)
    fed(judge, [[0.9], [0.2], [0.4]], [[0.6], [0.1], [0.7]])
    assert values(judge) == {"top-1 agreement": pytest.approx(2 / 3)}


def test_labels_give_the_metric_of_both_models():
    """FP32 is right twice of two, INT8 once; the row without a label is left out."""
    judge = ClassJudge("y", 3, 1, labels=lambda index: np.array([1, 0, -1]))
    fed(judge, [[0, 9, 0], [9, 0, 0], [9, 0, 0]], [[0, 9, 0], [0, 9, 0], [9, 0, 0]])
    assert judge.scores(0) == (
        TaskScore("top-1", 0.5, 1.0, "labels", 2, ("y",)),
        TaskScore("top-1 agreement", pytest.approx(2 / 3), None, "fp32", 3, ("y",)),
    )


def test_a_label_beyond_the_classes_is_an_error():
    """With both numbers."""
    judge = ClassJudge("y", 3, 1, labels=lambda index: np.array([3]))
    with pytest.raises(ConfigError, match=r"class 3, but output 'y' has 3 classes \(0 to 2\)"):
        fed(judge, [[1, 0, 0]], [[1, 0, 0]])


def test_samples_are_added_up():
    """One right of two samples; then two of three."""
    judge = fed(fed(ClassJudge("y", 2, 1), [[1, 0]], [[1, 0]]), [[1, 0]], [[0, 1]])
    assert values(judge) == {"top-1 agreement": 0.5}
    assert values(fed(judge, [[0, 1]], [[0, 1]])) == {"top-1 agreement": pytest.approx(2 / 3)}


def test_vectors_are_held_against_each_other_by_their_angle():
    """Same direction 1, 60 degrees 0.5."""
    judge = fed(VectorJudge("y", 1), [[1, 0], [2, 0]], [[3, 0], [1, np.sqrt(3)]])
    assert judge.scores(0) == (TaskScore("cosine", pytest.approx(0.75), None, "fp32", 2, ("y",)),)


def test_vectors_without_a_direction():
    """Both zero: nothing has changed.  One zero, or NaN: no agreement."""
    judge = fed(VectorJudge("y", 1), [[0, 0], [1, 0], [1, 0]], [[0, 0], [0, 0], [NAN, 1]])
    assert values(judge) == {"cosine": pytest.approx(1 / 3)}


def test_tokens_agree_place_by_place():
    """Two of four places name the same token; NaN is none."""
    plain = [[[1, 0], [0, 1], [1, 0], [1, 0]]]
    judge = PlacesJudge("token agreement", "y", -1, 1)
    fed(judge, plain, [[[1, 0], [0, 1], [0, 1], [NAN, 0]]])
    assert values(judge) == {"token agreement": 0.5}
