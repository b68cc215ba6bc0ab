# SPDX-License-Identifier: Apache-2.0
"""The stage as the pipeline uses it: models and data in, scores out."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest

from analyzer.config import Config
from analyzer.errors import ConfigError
from analyzer.samples import open_roles
from analyzer.score import Scorer, average_precision
from analyzer.score.detection import DetectionJudge

CLASSIFIER = """g (float[1,3] x) => (float[1,3] y) {
    t = Relu (x)
    y = Softmax <axis = 1> (t)
}"""
# two levels of 32x32 pixels: 16 + 4 + 1 cells, boxes and two classes
DETECTOR = """g (float[1,3,32,32] x, float[1,4,21] b, float[1,2,21] c) => (float[1,6,21] y) {
    y = Concat <axis = 1> (b, c)
}"""


@pytest.fixture
def scorer(tmp_path):
    """Return a function: model, arrays by input name, fields of Config -> Scorer."""
    with ExitStack() as stack:

        def make(model, arrays, plans=1, **fields):
            np.savez(tmp_path / "data.npz", **arrays)
            config = Config(calib=str(tmp_path / "data.npz"), **fields)
            _, analysis = open_roles(model, config, stack)
            return Scorer(model, config, analysis, plans)

        yield make


def values(scorer, plan=0):
    return {(s.name, s.against): s.value for s in scorer.scores(plan)}


def rows(count):
    return {"x": np.zeros((count, 3), dtype=np.float32)}


def fed(scorer, plain, *plans):
    for index in range(len(plain)):
        scorer.watch(index, {"y": plain[index]}, [{"y": plan[index]} for plan in plans])
    return scorer


def pictures(count):
    return {
        "x": np.zeros((count, 3, 32, 32), dtype=np.float32),
        "b": np.zeros((count, 4, 21), dtype=np.float32),
        "c": np.zeros((count, 2, 21), dtype=np.float32),
    }


def table(*found):
    """A joined output whose boxes cover their cells; `found`: cell, score of class 0, of 1."""
    values = np.zeros((1, 6, 21), dtype=np.float32)
    at = 0
    for stride in (8, 16, 32):
        for y in range(32 // stride):
            for x in range(32 // stride):
                values[0, :4, at] = [(x + 0.5) * stride, (y + 0.5) * stride, stride, stride]
                at += 1
    for cell, *scores in found:
        values[0, 4:, cell] = scores
    return values


def test_equal_outputs_agree_in_full(bind, scorer):
    """Classes and boxes: 1 everywhere."""
    plain = [np.float32([[0.1, 0.7, 0.2]])] * 2
    assert values(fed(scorer(bind(CLASSIFIER), rows(2)), plain, plain)) == {
        ("top-1 agreement", "fp32"): 1.0
    }
    boxes = [table((3, 0.9, 0), (17, 0, 0.6)), table((0, 0.3, 0))]
    found = values(fed(scorer(bind(DETECTOR), pictures(2)), boxes, boxes))
    assert found[("box agreement", "fp32")] == 1.0
    assert all(value == pytest.approx(1) for value in found.values())


def test_plans_have_scores_of_their_own(bind, scorer):
    """FP32 answers once for both."""
    plain = [np.float32([[0.1, 0.7, 0.2]])]
    other = [np.float32([[0.7, 0.1, 0.2]])]
    both = fed(scorer(bind(CLASSIFIER), rows(1), plans=2), plain, plain, other)
    assert [s.value for plan in (0, 1) for s in both.scores(plan)] == [1.0, 0.0]


def test_boxes_found_again(bind, scorer):
    """Of two boxes one is found again and one in another class: 2 * 1 / (2 + 2)."""
    plain, noisy = [table((3, 0.9, 0), (17, 0, 0.6))], [table((3, 0.8, 0), (17, 0.6, 0))]
    found = values(fed(scorer(bind(DETECTOR), pictures(1)), plain, noisy))
    assert found[("box agreement", "fp32")] == 0.5


def test_without_the_evaluator_nothing_is_called_ap(bind, scorer, monkeypatch):
    """Box agreement is our own; AP is the evaluator's."""
    monkeypatch.setattr("analyzer.score.detection.has_evaluator", lambda: False)
    boxes = [table((3, 0.9, 0))]
    found = values(fed(scorer(bind(DETECTOR), pictures(1)), boxes, boxes))
    assert found == {("box agreement", "fp32"): 1.0}


def test_labels_of_boxes_ask_for_the_evaluator(bind, scorer, tmp_path, monkeypatch):
    """By the name of the extra."""
    monkeypatch.setattr("analyzer.score.has_evaluator", lambda: False)
    (tmp_path / "labels").mkdir()
    with pytest.raises(ConfigError, match=r"pip install 'qanalyze\[detection\]'"):
        scorer(bind(DETECTOR), pictures(1), labels=str(tmp_path / "labels"))


@pytest.mark.skipif(not average_precision.has_evaluator(), reason="pycocotools is an extra")
def test_labels_of_boxes_give_the_metric_of_both_models(bind, scorer, tmp_path):
    """Row 0 has its box in cell 3, (24, 0, 32, 8); INT8 misses it.  Row 1 has no label."""
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0.txt").write_text("0 0.875 0.125 0.25 0.25\n")
    judge = scorer(bind(DETECTOR), pictures(2), labels=str(tmp_path / "labels"))
    fed(judge, [table((3, 0.9, 0)), table()], [table(), table((3, 0.9, 0))])
    by_labels = [s for s in judge.scores(0) if s.against == "labels"]
    assert [(s.name, s.value, s.reference, s.samples) for s in by_labels] == [
        ("mAP50", 0, pytest.approx(1), 1),
        ("mAP50:95", 0, pytest.approx(1), 1),
    ]


@pytest.mark.skipif(not average_precision.has_evaluator(), reason="pycocotools is an extra")
def test_two_pictures_at_once_have_labels_of_their_own(bind, scorer, tmp_path):
    """A batch of two: row 1 has its box in cell 3, row 0 has none and finds none."""
    model = bind(DETECTOR.replace("[1,", "[2,"))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0.txt").write_text("")
    (tmp_path / "labels" / "1.txt").write_text("0 0.875 0.125 0.25 0.25\n")
    judge = scorer(model, pictures(2), labels=str(tmp_path / "labels"))
    both = [np.concatenate([table(), table((3, 0.9, 0))])]
    fed(judge, both, both)
    assert [(s.value, s.reference, s.samples) for s in judge.scores(0)[:2]] == [
        (pytest.approx(1), pytest.approx(1), 2)
    ] * 2


def test_broken_outputs_are_no_detections(bind, scorer):
    """NaN and inf on the INT8 side: no agreement, no crash."""
    plain = [table((3, 0.9, 0))] * 2
    noisy = [np.full((1, 6, 21), np.nan, np.float32), np.full((1, 6, 21), np.inf, np.float32)]
    found = values(fed(scorer(bind(DETECTOR), pictures(2)), plain, noisy))
    assert all(value < 0.5 for value in found.values())
    assert found


def test_outputs_that_hold_no_boxes_have_no_score(bind, scorer):
    """Unless the user insists, which is an error."""
    odd = [np.full((1, 6, 21), 1000, dtype=np.float32)]
    assert values(fed(scorer(bind(DETECTOR), pictures(1)), odd, odd)) == {}
    with pytest.raises(ConfigError, match="none that are known"):
        fed(scorer(bind(DETECTOR), pictures(1), task="detection"), odd, odd)


def test_labels_of_rows_go_by_number(bind, scorer, tmp_path):
    """FP32 is right in both rows that have a label, INT8 in one."""
    (tmp_path / "labels.csv").write_text("index,class\n0,1\n2,0\n")
    judge = scorer(bind(CLASSIFIER), rows(3), labels=str(tmp_path / "labels.csv"))
    one, zero = np.float32([[0, 1, 0]]), np.float32([[1, 0, 0]])
    fed(judge, [one, one, zero], [one, one, one])
    (score, _) = judge.scores(0)
    assert (score.name, score.value, score.reference, score.samples) == ("top-1", 0.5, 1.0, 2)


@pytest.mark.parametrize(
    ("name", "text", "fields", "message"),
    [
        ("labels.csv", "name,label\ncat,1\n", {}, r"first sample is '0'.* is for 'cat'"),
        ("labels.csv", "0,1\n", {"task": "embedding"}, "the task is embedding"),
        ("labels.csv", "0,1\n", {"task": "none"}, "the task is none"),
        ("labels.json", "{}", {}, "holds boxes, which need the task detection; the task is told"),
    ],
)
def test_labels_that_do_not_fit(bind, scorer, tmp_path, name, text, fields, message):
    """Before anything runs."""
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        scorer(bind(CLASSIFIER), rows(2), labels=str(tmp_path / name), **fields)


def test_slices_are_not_judged(bind):
    """They are parts of what is judged already."""
    from dataclasses import replace

    from analyzer.score.ends import ends_of

    model = replace(bind(DETECTOR), slices={"y": "other"})
    assert ends_of(model) == []


def test_memory_is_answers_only(bind, scorer):
    """Nothing of a classifier's samples is kept but counts."""
    judge = scorer(bind(CLASSIFIER), rows(1))
    plain = np.float32([[0.1, 0.7, 0.2]])
    for _ in range(1000):
        judge.watch(0, {"y": plain}, [{"y": plain}])
    assert judge.scores(0)[0].samples == 1000
    held = vars(judge._judges[0])
    assert not any(isinstance(value, list | tuple) and len(value) > 5 for value in held.values())
    assert not isinstance(judge._judges[0], DetectionJudge)
