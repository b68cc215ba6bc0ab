# SPDX-License-Identifier: Apache-2.0
"""The user's own metric: called as documented, and blamed by name when it fails."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from analyzer.errors import ConfigError
from analyzer.records import TaskScore
from analyzer.score.custom import CustomJudge

CODE = """
def worst(fp32, int8, name):
    return abs(fp32["y"] - int8["y"]).max()

def two(fp32, int8, name):
    return {"difference": worst(fp32, int8, name), "length": len(name)}

def broken(fp32, int8, name):
    return 1 / 0

def text(fp32, int8, name):
    return "good"

def changing(fp32, int8, name):
    return {name: 1.0}

class Largest:
    def __init__(self):
        self.seen = []

    def __call__(self, fp32, int8, name):
        self.seen.append(worst(fp32, int8, name))

    def result(self):
        return max(self.seen)

class Empty:
    pass

number = 3
"""


@pytest.fixture
def judge(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)

    def make(name, *, plans=1):
        return CustomJudge(name, ("y",), ["a.jpg", "bb.jpg"], plans)

    return make


def feed(judge, *plans):
    """Two samples: FP32 gives 0, every plan its own two values."""
    for index in range(2):
        judge.add(index, {"y": np.zeros(1)}, [{"y": np.array([p[index]])} for p in plans])


def test_a_function_is_averaged_plan_by_plan(judge):
    """(1 + 3) / 2 and (2 + 2) / 2."""
    found = judge("mine:worst", plans=2)
    feed(found, (1, 3), (2, -2))
    assert found.scores(0) == (TaskScore("worst", 2.0, None, "fp32", 2, ("y",)),)
    assert found.scores(1)[0].value == 2.0


def test_several_numbers_have_names_of_their_own(judge):
    """A dict is averaged key by key; the sample's name is handed over."""
    found = judge("mine:two")
    feed(found, (1, 3))
    assert {s.name: s.value for s in found.scores(0)} == {"difference": 2.0, "length": 5.5}


def test_a_class_is_asked_once_at_the_end(judge):
    """One instance per plan; asking twice gives the same."""
    found = judge("mine:Largest", plans=2)
    feed(found, (1, 3), (7, 2))
    assert [s.value for plan in (0, 1, 0) for s in found.scores(plan)] == [3.0, 7.0, 3.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mine:broken",
            r"mine:broken raised ZeroDivisionError on sample 'a\.jpg'.*mine\.py, line",
        ),
        ("mine:text", "mine:text returned 'good' on sample 'a.jpg', expected a number"),
        ("mine:changing", "returns bb.jpg on sample 'bb.jpg', expected a.jpg as before"),
        ("mine:Empty", "class without __call__ or result"),
        ("mine:number", "mine:number is int, expected a function or a class"),
        ("mine:wurst", "Did you mean 'worst'"),
        ("theirs:metric", "'theirs' of theirs:metric cannot be imported"),
        ("mine", "'mine' is no metric"),
    ],
)
def test_errors_name_the_users_code(judge, name, message):
    """And where in it."""
    with pytest.raises(ConfigError, match=message):
        feed(judge(name), (1, 3))


def test_without_samples_there_is_no_score(judge):
    """Rather than a division by zero."""
    assert judge("mine:worst").scores(0) == ()
