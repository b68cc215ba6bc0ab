# SPDX-License-Identifier: Apache-2.0
"""Sentences: what was found, what it brings, and what does not add up."""

from __future__ import annotations

import dataclasses
import math

import pytest

from analyzer.codes import CODES
from analyzer.records import Analysis, Finding, TaskScore
from analyzer.report import wording


def test_samples_are_named_once_if_all_roles_share_them(analysis: Analysis) -> None:
    """The head line does not repeat itself."""
    data = analysis.provenance.data
    assert wording.samples(data[:1]) == "32 samples"
    assert wording.samples(data[:1] * 2) == "32 samples"
    assert wording.samples(()) == "no data"


def test_verdict_names_interactions_and_lost_slices(booked: Analysis) -> None:
    """Where errors do not add up the verdict says what explains them; nothing lost is hidden."""
    assert wording.verdict(booked) == (
        "Worst output out: NSR 3.00 %, SQNR 15.2 dB; isolated errors sum to 5.00 %, additivity "
        "1.67 (they interact: with that, 100 % is explained); always 0: scores"
    )


def test_findings_are_entries_in_the_order_of_the_diagnosis(booked: Analysis) -> None:
    """One line each with evidence and gain; without a gain one line per code."""
    script = "</script><img src=x onerror=alert(1)>"
    cuts, constant, channel, bias = (CODES[f"QA{n}"].title for n in (203, 206, 205, 204))
    numbers = f"range ratio 128, channels 3, 17, 5, …, where {script}"
    goes = "of the output noise goes without it"
    kept = "seen 8.25, kept 2, share 0.125 %"
    assert wording.findings(booked.findings) == [
        ("QA203", f"{cuts} at {script}: {numbers}; 93 % {goes}"),
        ("QA206", f"{constant} at /head[red]/Conv[/head]: {kept}; 4 % {goes}"),
        ("QA205", f"{channel} at conv_first; without it the output noise grows by 12 %"),
        ("QA204", rf"{bias} at clear\x1b[2J\n\u202egnp.exe|`$x$` and 1 more layer"),
    ]


def test_a_line_says_what_tells_most() -> None:
    """A cause has its own order of evidence; two of a kind at one layer are told apart."""
    one, other = (
        Finding("QA104", "/conv", {"tensor": tensor, "step": 0.5}, "x", 0.1) for tensor in "ab"
    )
    reach = {"tensor": "t", "channel": 3, "channels": [3], "reach": 9.0, "range_ratio": 128.0}
    far = Finding("QA101", "/act", reach, "x", 0.5)
    lines = [line for _, line in wording.findings((far, one, other))]
    assert [line.partition(" at ")[2] for line in lines] == [
        "/act: range ratio 128, channel 3; 50 % of the output noise goes without it",
        "/conv (a): step 0.5; 10 % of the output noise goes without it",
        "/conv (b): step 0.5; 10 % of the output noise goes without it",
    ]


@pytest.mark.parametrize(
    ("gain", "text"),
    [
        (None, ""), (math.nan, ""), (0.004, "without it the output noise stays as it is"),
        (-0.004, "without it the output noise stays as it is"),
        (0.006, "1 % of the output noise goes without it"),
    ],
)  # fmt: skip
def test_gain(gain: float | None, text: str) -> None:
    """Nothing measured, nothing said; a change too small for a whole percent is none."""
    assert wording.gain(Finding("QA203", None, {}, "x", gain)) == text


def test_a_code_of_a_newer_release_shows_its_advice() -> None:
    """What a table of codes does not know is not dropped."""
    found = (Finding("QA999", None, {}, "Do as told.", 0.5),)
    assert wording.findings(found) == [
        ("QA999", "Do as told; 50 % of the output noise goes without it")
    ]


def test_evidence_of_any_kind() -> None:
    """Shares are percentages, truth values words, long things are cut only in a line."""
    found = {"ok": True, "none": None, "nsr": 0.5, "ranges": {"a": 1.0, "b": 640.0}, "n": 1234,
             "name": "/model" * 20}  # fmt: skip
    assert wording.evidence(found) == [
        "ok yes", "none none", "nsr 50.0 %", "ranges a 1, b 640", "n 1,234",
        f"name {'/model' * 20}",
    ]  # fmt: skip
    assert len(wording.evidence({"name": "/model" * 20}, 3)[0]) == len("name ") + 48
    assert wording.evidence({"what": "noise", "shared": 0.5}) == ["noise", "shared 0.5"]


def test_answer_groups_what_it_was_held_against(booked: Analysis) -> None:
    """A repeated first word is said once; with labels FP32's own score stands beside it."""
    assert wording.answer(booked.task) == (
        "box AP50 0.940, AP50:95 0.831 against FP32 (8 samples); "
        "top-1/head[red]/Conv[/head] 0.750 (FP32 0.875) against labels (1 sample)"
    )
    assert wording.answer(()) == ""
    cosine = TaskScore("embedding cosine", 0.9999871, None, "fp32", 4)
    assert wording.answer((cosine,)) == "embedding cosine 0.999987 against FP32 (4 samples)"


def test_interactions_say_who_and_what_is_off(booked: Analysis) -> None:
    """Pairs, one against the rest, and one against what is left when others are off."""
    assert booked.balance
    titles = {"conv_first": "conv_first", "/head[red]/Conv[/head]:out0": "the group"}
    pair, rest, left = (wording.interaction(i, titles) for i in booked.balance.interactions)
    assert pair.endswith(": alone 1.00 % + 0.0010 %, together 1.01 %: +0.0090 %")
    assert rest == (
        "the group and everything else: alone 4.00 % + 1.00 %, together 3.00 %: \u22122.00 %"
    )
    assert left.startswith("conv_first and everything else, the group switched off: alone 1.00 %")
    more = dataclasses.replace(booked.balance.interactions[2], without=("a", "b"))
    assert ", 2 others switched off: " in wording.interaction(more, titles)
