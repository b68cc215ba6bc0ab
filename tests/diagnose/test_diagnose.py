# SPDX-License-Identifier: Apache-2.0
"""Causes are tried by removing them: gains are those of two full runs, written out in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer import diagnose as stage
from analyzer.codes import CODES
from analyzer.diagnose import diagnose
from analyzer.diagnose.candidate import Candidate
from analyzer.diagnose.rules import RULES

WEIGHT = np.random.default_rng(3).standard_normal((4, 8)).astype(np.float32)
SCALES = {"r": 4.0, "m": 0.25}


@pytest.fixture
def net(bind):
    """A Relu and a projection; the fourth of eight channels will be a hundred times the others."""
    return bind(
        "g (float[64,8] x) => (float[64,4] y) { [r] t = Relu(x)  [m] y = Gemm<transB=1>(t, w) }",
        w=WEIGHT * np.where(np.arange(8) == 3, 0.01, 1).astype(np.float32),
    )


@pytest.fixture
def case(net, case_of, quantizer):
    outlier = np.where(np.arange(8) == 3, 100, 1)
    rng = np.random.default_rng(4)
    samples = [
        {"x": (rng.standard_normal((64, 8)) * outlier).astype(np.float32)} for _ in range(2)
    ]
    grid = [quantizer("r", "out0", "t", SCALES["r"]), quantizer("m", "out0", "y", SCALES["m"])]
    return case_of(net, grid, samples)


def rounded(x, scale):
    return np.clip(np.rint(x / scale), -128, 127) * scale


def nsr(case, scale):
    """NSR of the output with the Relu's output on `scale`, mean over samples."""
    weight = case.view.array("w").astype(np.float64)
    found = []
    for sample in case.samples:
        t = np.maximum(sample["x"].astype(np.float64), 0)
        y = t @ weight.T
        noisy = rounded(rounded(t, scale) @ weight.T, SCALES["m"])
        found.append(np.sum((noisy - y) ** 2) / np.sum(y**2))
    return np.mean(found)


def test_the_gain_is_what_two_full_runs_say(case):
    """One outlier channel: one finding, at its layer, with the share of noise that goes."""
    (found,) = [f for f in diagnose(case) if f.layer == "r"]
    assert (found.code, found.evidence["channel"]) == ("QA101", 3)
    assert found.advice == CODES["QA101"].remedy
    top = max(np.delete(s["x"], 3, axis=1).max() for s in case.samples)
    scales = np.full(8, 2.0 ** np.ceil(np.log2(top / 127)))
    scales[3] = SCALES["r"]
    expected = 1 - nsr(case, scales) / nsr(case, SCALES["r"])
    assert found.gain == pytest.approx(expected, rel=1e-4)
    assert expected > 0.5


def test_a_change_that_does_nothing_is_no_cause(case, monkeypatch):
    """The same grid again: no gain, no finding, unless it is a fact."""
    same = {q.key: q for q in case.plan.quantizers}
    guess = Candidate("QA104", "r", {}, same)
    monkeypatch.setattr(stage, "RULES", (lambda _: [guess],))
    assert diagnose(case) == ()
    monkeypatch.setattr(stage, "RULES", (lambda _: [replace(guess, certain=True)],))
    assert [f.gain for f in diagnose(case)] == [0.0]


def test_what_cannot_be_taken_out_has_no_gain(case, monkeypatch):
    """A fact without quantizers is told without a number."""
    fact = Candidate("QA208", "r", {}, certain=True)
    monkeypatch.setattr(stage, "RULES", (lambda _: [fact],))
    assert [(f.code, f.gain) for f in diagnose(case)] == [("QA208", None)]


def test_only_the_most_promising_guesses_are_tried(case, monkeypatch):
    """Where too many are suspected, those with the largest expected gains, in the rules' order."""
    none = {q.key: None for q in case.plan.quantizers}
    guesses = [Candidate("QA104", "r", {"n": n}, none, expected=n / 10) for n in range(5)]
    certain = Candidate("QA201", "r", {}, none, certain=True)
    monkeypatch.setattr(stage, "RULES", (lambda _: guesses, lambda _: [certain]))
    monkeypatch.setattr(stage, "MOST_TRIALS", 2)
    tried = []
    diagnose(case, step=tried.append)
    assert len(tried) == 3 * len(case.samples)


def test_an_output_that_is_no_number_is_mended_or_not():
    """From infinite to finite is all the gain there is; outputs without noise do not count."""
    before = {"a": np.inf, "b": 0.5, "c": 0.0, "d": np.nan}
    after = {"a": 0.1, "b": 0.125, "c": 0.0, "d": np.nan}
    assert stage._gain(before, after, before) == pytest.approx((1 + 0.75 + 0) / 3)
    assert stage._gain({"c": 0.0}, {"c": 0.0}, {"c": 0.0}) is None


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([0.3], True), ([-0.1], False),
        ([0.5, -0.1], True), ([0.5, -0.2], False),
        ([2.0, 0.0, 0.0, -0.5], True), ([2.0, 0.0, -0.3, -0.3], False),
    ],
)  # fmt: skip
def test_a_gain_that_may_be_chance_is_none(gains, expected):
    """On some samples no more than a quarter may be lost of what is gained on the others."""
    assert stage._steady(gains) is expected


def test_two_workers_find_the_same_as_one(case):
    """Whole findings are equal."""
    assert diagnose(case) == diagnose(case, workers=2)


def test_every_rule_stands_alone(case):
    """A case without rows, target or calibration data is no reason to fail."""
    for rule in RULES:
        assert all(isinstance(found, Candidate) for found in rule(case))
