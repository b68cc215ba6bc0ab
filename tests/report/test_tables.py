# SPDX-License-Identifier: Apache-2.0
"""Numbers as text, the order of the rows, and tables that other programs read back."""

from __future__ import annotations

import csv
import io
import json
import math
import re

import pytest

from analyzer.records import Analysis, LayerError
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


def test_samples_are_named_once_if_all_roles_share_them(analysis: Analysis) -> None:
    """The head line does not repeat itself."""
    data = analysis.provenance.data
    assert tables.samples(data[:1]) == "32 samples"
    assert tables.samples(data[:1] * 2) == "32 samples"
    assert tables.samples(()) == "no data"


def test_csv_reads_back(analysis: Analysis) -> None:
    """Names are exact, missing is empty, numbers have all their digits."""
    rows = list(csv.DictReader(io.StringIO(tables.render_csv(analysis), newline="")))
    assert [row["name"] for row in rows] == [layer.name for layer in analysis.layers]
    first, second, third, *_, last = rows
    assert float(first["isolated_nsr"]) == 0.000042
    assert (first["isolated_low"], first["isolated_high"]) == ("3e-05", "6e-05")
    assert first["isolated_nsr:out"] == "2e-05"
    assert (first["part:input"], first["part:weight"]) == ("0.25", "0.75")
    assert (first["index"], first["computing"], first["macs"]) == ("0", "true", "1000000")
    assert json.loads(first["source_nodes"]) == ["conv_first", "bn_first"]
    assert second["findings"] == "QA103"
    assert third["graphwise_nsr"] == "inf"
    assert (last["isolated_nsr"], last["status"]) == ("", "float: left in FP32")


def test_markdown_reads_back(analysis: Analysis) -> None:
    """Every row has the columns of its header, and names stay inside code spans."""
    text = tables.render_markdown(analysis)
    tables_found = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    outputs, layers = (
        [re.split(r"(?<!\\)\|", line)[1:-1] for line in block] for block in tables_found
    )
    assert (len(outputs), len(layers)) == (2 + 2, 2 + 7)
    assert {len(row) for row in outputs} == {7}
    assert {len(row) for row in layers} == {9}
    assert [cell.strip() for cell in layers[3]] == [
        "`</script><img src=x onerror=alert(1)>`", "`Conv`", "int8", "3.10 %", "2.80 .. 3.40 %",
        "1.00 %", "4.00 %", "8", "ok",
    ]  # fmt: skip
    assert r"`` clear\x1b[2J\n\u202egnp.exe\|`$x$` ``" in text
    warning = r"- Note: Layer &lt;/script&gt;&lt;img src=x onerror=alert(1)&gt; \[bold\]"
    assert warning in text
    assert text.endswith("additivity 0.90\n")
