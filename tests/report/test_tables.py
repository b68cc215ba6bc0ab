# SPDX-License-Identifier: Apache-2.0
"""Numbers as text, and the order of the rows."""

from __future__ import annotations

import math

import pytest

from analyzer.records import LayerError
from analyzer.report import tables

DASH = "\N{EN DASH}"


@pytest.mark.parametrize(
    ("nsr", "text"),
    [
        (0.031, "3.10 %"), (0.000042, "0.0042 %"), (0.0000031, "0.00031 %"), (1e-9, "1.0e-07 %"),
        (0.0001, "0.0100 %"), (0.09996, "10.0 %"), (0.9996, "100 %"), (1.0, "100 %"),
        (12.3456, "1235 %"), (1e9, "1.00e+11 %"), (0.0, "0 %"), (math.inf, "inf"),
        (math.nan, "nan"), (None, DASH),
    ],
)  # fmt: skip
def test_percent(nsr: float | None, text: str) -> None:
    """Three significant digits, and no value that is mistaken for another."""
    assert tables.percent(nsr) == text


@pytest.mark.parametrize(
    ("part", "text"),
    [(0.9321, "93 %"), (0.004, "<1 %"), (0.0, "0 %"), (1.79, "179 %"), (-0.12, "\u221212 %"),
     (math.inf, DASH), (None, DASH)],
)  # fmt: skip
def test_share(part: float | None, text: str) -> None:
    """Whole percentages; a little is not nothing."""
    assert tables.share(part) == text


def test_changes_have_a_sign() -> None:
    """More noise is plus, less is a real minus sign."""
    assert [tables.signed(x) for x in (0.02, -0.02, math.inf)] == [
        "+2.00 %",
        "\u22122.00 %",
        "+inf",
    ]


def test_other_formats() -> None:
    """Units and digits of the other columns."""
    assert tables.interval((0.00003, 0.00006)) == "0.0030 .. 0.0060 %"
    assert tables.interval((0.1, math.inf)) == "10.0 .. inf"
    assert tables.interval(None) == ""
    assert tables.decibel(math.inf) == "inf dB"
    assert tables.decibel(None) == tables.cosine(None) == tables.number(None) == DASH
    assert tables.duration(59.96) == "1 min 0 s"


def test_shorten_keeps_both_ends_and_counts_wide_characters() -> None:
    """Two columns of a Chinese character are two columns."""
    assert tables.shorten("abcdefgh", 8) == "abcdefgh"
    assert tables.shorten("abcdefgh", 7) == "abc…fgh"
    assert tables.shorten("\u5c42\u5c42\u5c42\u5c42", 6) == "\u5c42…\u5c42"
    assert tables.shorten("abcdefgh", 1) == "…"


def test_rank_puts_the_undefined_first_and_keeps_ties_in_order() -> None:
    """inf and NaN are the worst; equal layers stay in execution order."""
    values = {"a": 0.1, "b": math.nan, "c": 0.1, "d": 0.2}
    ranked = tables.rank(LayerError(name, "Conv", isolated_nsr=v) for name, v in values.items())
    assert [layer.name for layer in ranked] == ["b", "d", "a", "c"]
