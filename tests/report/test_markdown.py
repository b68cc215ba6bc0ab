# SPDX-License-Identifier: Apache-2.0
"""Markdown whose tables hold together, whatever the names are."""

from __future__ import annotations

import dataclasses
import re

from analyzer.records import Analysis, Finding, LayerError
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
    layers, outputs, remarks = tables_of(text)
    assert remarks[0] == ["remark"]
    assert (len(outputs), len(layers)) == (2 + 2, 2 + 7)
    assert {len(row) for row in outputs} == {8}
    assert {len(row) for row in layers} == {10}
    assert layers[3] == [
        "`</script><img src=x onerror=alert(1)>`", "`Conv`", "int8", "3.10 %", "2.80 .. 3.40 %",
        "1.00 %", "4.00 %", "8", "QA999", "ok",
    ]  # fmt: skip
    assert r"`` clear\x1b[2J\n\u202egnp.exe\|`$x$` ``" in text
    warning = r"| Layer &lt;/script&gt;&lt;img src=x onerror=alert(1)&gt; \[bold\]"
    assert warning in text
    assert text.startswith("**Worst output out: NSR 3.10 %, SQNR 15.1 dB; ")
    assert text.splitlines()[0].endswith("additivity 0.90**")


def test_proposals(advised: Analysis) -> None:
    """One row per plan of the front with all scores; the recommended one is bold."""
    text = render_markdown(advised)
    _, plans, *_ = tables_of(text)
    assert text.index("Advice: plan 2") < text.index("| layer |") < text.index("| proposal |")
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
    _, outputs, contributors, _ = tables_of(text)
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


def many(analysis: Analysis, count: int) -> Analysis:
    """The same with `count` layers and findings, all with names of 300 characters."""
    names = [f"/{'block/' * 49}{i:05}" for i in range(count)]
    return dataclasses.replace(
        analysis,
        layers=tuple(
            LayerError(name, "Conv", isolated_nsr=1.0 / (1 + i)) for i, name in enumerate(names)
        ),
        findings=tuple(Finding("QA101", name, {"channel": 3}, "x", 0.5) for name in names),
        warnings=tuple(names),
    )


def test_a_comment_on_github_holds_it(advised: Analysis) -> None:
    """Ten worst layers, the rest folded; what is too long for 65,536 characters is counted."""
    text = render_markdown(many(advised, 30))
    assert [len(rows) - 2 for rows in tables_of(text)] == [10, 3, 4, 3, 30, 20]
    assert "<details><summary>20 more layers</summary>\n\n| layer |" in text
    assert text.count("<details>") == text.count("</details>") == 4
    assert "… 3 more lines left out for its length" in text
    assert "- … 10 more findings" in text
    long = render_markdown(many(advised, 5000))
    assert 50_000 < len(long) < 65_536
    *_, rest = tables_of(long)
    left = re.findall(r"… ([0-9,]+) more lines left out for its length", long)[-1]
    assert len(rest) - 2 + int(left.replace(",", "")) == 4990
    assert long.endswith("</details>\n")


def test_all_is_everything(advised: Analysis) -> None:
    """Whole names, every layer in the first table, nothing counted."""
    text = render_markdown(many(advised, 1000), show_all=True)
    assert len(tables_of(text)[0]) == 2 + 1000
    assert text.count(f"`/{'block/' * 49}00999`") == 1
    assert "more finding" not in text
