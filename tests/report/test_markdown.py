# SPDX-License-Identifier: Apache-2.0
"""Markdown whose tables hold together, whatever the names are."""

from __future__ import annotations

import re

from analyzer.records import Analysis
from analyzer.report.markdown import render_markdown


def tables_of(text: str) -> list[list[list[str]]]:
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    return [
        [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block]
        for block in blocks
    ]


def test_rows_have_the_columns_of_their_header(analysis: Analysis) -> None:
    """Names stay inside code spans."""
    text = render_markdown(analysis)
    outputs, layers = tables_of(text)
    assert (len(outputs), len(layers)) == (2 + 2, 2 + 7)
    assert {len(row) for row in outputs} == {8}
    assert {len(row) for row in layers} == {10}
    assert layers[3] == [
        "`</script><img src=x onerror=alert(1)>`", "`Conv`", "int8", "3.10 %", "2.80 .. 3.40 %",
        "1.00 %", "4.00 %", "8", "QA999", "ok",
    ]  # fmt: skip
    assert r"`` clear\x1b[2J\n\u202egnp.exe\|`$x$` ``" in text
    warning = r"- Note: Layer &lt;/script&gt;&lt;img src=x onerror=alert(1)&gt; \[bold\]"
    assert warning in text
    assert text.endswith("additivity 0.90\n")


def test_proposals(advised: Analysis) -> None:
    """One row per plan of the front with all scores; the recommended one is bold."""
    text = render_markdown(advised)
    _, plans, *_ = tables_of(text)
    assert {len(row) for row in plans} == {9}
    assert [row[0] for row in plans[2:]] == [
        "`plan 1`", "**`plan 2`**", "`dear </script><img src=x onerror=alert(1)>`",
    ]  # fmt: skip
    assert plans[3][2:] == [
        "2.10 %", "1.02x", "3.00 % → 0.300 %", "19 %", "10 %", "0.940 → 0.970",
        "0.999000 → 0.999900",
    ]  # fmt: skip
    assert "- Advice: plan 2: The least noise within the budget of &lt;/script&gt;" in text
    assert r"- Free: plan 1: calibration /head\[red\]" in text


def test_balance_findings_and_answer(booked: Analysis) -> None:
    """Slices follow their output, contributors have shares, causes their gain."""
    text = render_markdown(booked)
    outputs, contributors, _ = tables_of(text)
    assert [row[0] for row in outputs[2:]] == [
        "`out`", "`boxes` of `out`", "`scores` of `out`, **lost: always 0**",
        "`</script><img src=x onerror=alert(1)>`",
    ]  # fmt: skip
    assert outputs[2][-3:] == ["5.00 %", "1.67", "100 %"]
    assert contributors[2] == [
        "`MatMul group /head[red]/Conv[/head] (2 layers)`", "80 %", "4.00 %", "2.50 %",
    ]  # fmt: skip
    assert "Answer: box AP50 0.940, AP50:95 0.831 against FP32 (8 samples); " in text
    assert "range ratio 128, channels 3, 17, 5, …" in text
    assert "together 3.00 %: \u22122.00 %" in text
