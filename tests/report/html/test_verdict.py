# SPDX-License-Identifier: Apache-2.0
"""The top of the page: what hurts, why, and what it would be with the recommended plan."""

from __future__ import annotations

import dataclasses
import math

from analyzer.records import Analysis, Finding, OutputError
from analyzer.report.html import verdict
from analyzer.report.html.verdict import Cause, Culprit, Figure

SCRIPT = "</script><img src=x onerror=alert(1)>"
MARKUP = "/head[red]/Conv[/head]"


def test_culprits_are_the_largest_sources_at_the_worst_output(booked: Analysis) -> None:
    """4 % and 1 % of 5.001 % are 80 and 20 %; what is next is too small to be named."""
    assert verdict.culprits(booked) == [
        Culprit(f"MatMul group {MARKUP} (2 layers)", 2, (1,), "80 %", "80.0"),
        Culprit("conv_first", 0, (), "20 %", "20.0"),
    ]


def test_without_a_balance_the_worst_rows_stand(analysis: Analysis) -> None:
    """Isolated errors then, in order of damage; rows without any are not named."""
    found = verdict.culprits(analysis)
    assert [(c.place, c.amount, c.width) for c in found] == [
        (2, "inf", None),
        (1, "3.10 %", None),
        (3, "1.20 %", None),
    ]
    quiet = dataclasses.replace(analysis, layers=analysis.layers[-1:])
    assert verdict.culprits(quiet) == []


def test_the_cause_is_the_one_that_brings_most(booked: Analysis) -> None:
    """Whatever stands first; NaN and causes that could not be tried out come last."""
    odd = Finding("QA101", "nowhere", {}, "Do.", math.nan)
    found = verdict.cause(dataclasses.replace(booked, findings=(odd, *booked.findings)))
    assert found is not None
    assert found.code == "QA203"
    assert found.place == 1
    assert found.layer == SCRIPT
    assert found.gain == "93 % of the output noise goes without it"
    assert not found.is_minor
    assert found.others == 5


def test_a_cause_that_brings_nothing_claims_nothing(booked: Analysis) -> None:
    """No gain is named where none was measured, and an unknown code speaks by its advice."""
    finding = Finding("QA999", None, {}, "Look.", 0.001)
    found = verdict.cause(dataclasses.replace(booked, findings=(finding,)))
    assert found == Cause("QA999", "Look", "", None, "", True, 0)
    assert verdict.cause(dataclasses.replace(booked, findings=())) is None


def test_figures_before_and_after(advised: Analysis) -> None:
    """NSR 3 % to 0.3 %, -10 log10 of both, scores of the plan, additivity as it is."""
    assert verdict.figures(advised) == [
        Figure("NSR at the worst output", "nsr", "3.00 %", "0.300 %"),
        Figure("SQNR", "sqnr", "15.2 dB", "25.2 dB"),
        Figure("box AP50", "agreement", "0.940", "0.970", "against the FP32 model"),
        Figure("box AP50:95", "agreement", "0.831", "", "against the FP32 model"),
        Figure(f"top-1{MARKUP}", "agreement", "0.750", "", "against labels"),
        Figure("Additivity", "additivity", "1.67", "", "far from 1: shares overlap"),
    ]
    assert verdict.basis(advised) == (
        "Before and after were measured on the same 4 samples; on all 8 the NSR is 3.00 % now."
    )


def test_figures_without_a_plan(analysis: Analysis) -> None:
    """What is, and no arrow; NaN is no decibel."""
    assert verdict.figures(analysis) == [
        Figure("NSR at the worst output", "nsr", "3.10 %"),
        Figure("SQNR", "sqnr", "15.1 dB"),
        Figure("Cosine", "cosine", "0.984000"),
        Figure("Additivity", "additivity", "0.90", "", "near 1: shares add up"),
    ]
    assert verdict.basis(analysis) == ""
    unknown = (OutputError("out", math.nan, math.nan, math.nan, math.nan),)
    found = verdict.figures(dataclasses.replace(analysis, outputs=unknown))
    assert [figure.now for figure in found] == ["nan", "nan dB", "nan", "\N{EN DASH}"]
