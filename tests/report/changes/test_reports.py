# SPDX-License-Identifier: Apache-2.0
"""Changes in words, on a terminal, as Markdown, CSV, JSON and in the page."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from analyzer.records import Analysis, LayerError, OutputError
from analyzer.report.changes import Changes, Pair, compare
from analyzer.report.changes import wording as words
from analyzer.report.changes.files import (
    render_changes_csv,
    render_changes_json,
    render_changes_markdown,
)
from analyzer.report.changes.terminal import render_changes
from analyzer.report.html import render_html

SCRIPT = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def fixed(booked: Analysis) -> Analysis:
    """What is left of the noise after a fix, on other data: 3 % became 0.1 % at `out`."""
    first, second, third, *others = booked.layers
    out, script, boxes, scores = booked.outputs
    provenance = booked.provenance
    calibration, analysed = provenance.data
    return dataclasses.replace(
        booked,
        provenance=dataclasses.replace(
            provenance,
            target=f"other {SCRIPT}",
            data=(calibration, dataclasses.replace(analysed, sha256="12" * 32)),
        ),
        outputs=(
            dataclasses.replace(out, nsr=0.001, sqnr_db=30.0),
            script,
            boxes,
            dataclasses.replace(scores, lost=False),
        ),
        layers=(
            dataclasses.replace(first, isolated_nsr=0.002, isolated_ci=(0.001, 0.003)),
            dataclasses.replace(second, isolated_nsr=0.001, isolated_ci=None, precision="int16"),
            dataclasses.replace(third, name="renamed[red]", source_nodes=(third.name,)),
            *others[:-1],
            LayerError(f"new {SCRIPT}", "Conv", isolated_nsr=0.5),
        ),
        findings=(
            dataclasses.replace(booked.findings[1], layer="renamed[red]"),
            booked.findings[2],
        ),
        task=booked.task[:2],
        balance=None,
    )


@pytest.fixture
def changes(fixed: Analysis, booked: Analysis) -> Changes:
    return compare(fixed, booked)


def printed(changes: Changes, *, width: int | None = None, **options: Any) -> list[str]:
    stream = io.StringIO()
    console = Console(
        file=stream, width=width or 40, force_terminal=width is not None, color_system=None
    )
    render_changes(changes, console=console, **options)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("   ") if cell.strip()]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (0.206, 0.00591, "35 times less"),
        (0.00591, 0.206, "35 times more"),
        (0.1, 0.35, "3.5 times more"),
        (0.2196, 0.00008927, "2,500 times less"),
        (1e-9, 0.5, "over a million times more"),
        (0.1, 0.13, "30 % more"),
        (0.1, 0.07, "30 % less"),
        (0.1, 0.1, "unchanged"),
        (0.1, 0.0, "none left"),
        (0.0, 0.1, "was none"),
        (0.1, math.inf, "no longer finite"),
        (math.nan, 0.1, "finite again"),
        (None, 0.1, ""),
    ],
)
def test_factors_in_words(old: float | None, new: float, text: str) -> None:
    """Two significant digits, a percentage where it is less than half as much again."""
    assert words.times(Pair(old, new)) == text


def test_piped_output(changes: Changes) -> None:
    """What is compared, what differs, worst changes, outputs, causes, verdicts, what is next."""
    lines = printed(changes, next_command="qanalyze x")
    assert lines[0].startswith("net · 7 layers (5 computing) · other </script>")
    assert lines[1].startswith("Baseline: net · 7 layers (5 computing) · esp32p4 · ")
    assert lines[2] == f"Note     {words.OTHER_DATA}"
    assert lines[3] == f"Differs  target: esp32p4 → other {SCRIPT}"
    assert lines[4].startswith("Differs  analysis data: 8 of data (sha256 efefefefefef) → 8 of ")
    assert [cells(line) for line in lines[6:9]] == [
        ["layer", "op", "precision", "isolated", "change", "local", "graphwise"],
        ["conv_first", "Conv", "int8", "0.0042 % → 0.200 %", "48 times more",
         "0.200 %", "0.200 %"],
        [SCRIPT, "Conv", "int8 → int16", "3.10 % → 0.100 %", "31 times less", "1.00 %",
         "4.00 %"],
    ]  # fmt: skip
    counts = "6 layers: 1 worse, 1 better, 3 unchanged, 1 not measured"
    assert lines[9:14] == [
        f"{counts} · 4 not shown, --all shows every layer",
        "1 layer matched by its nodes, the names differ.",
        f"1 layer only here: new {SCRIPT}",
        "1 layer only in the baseline: softmax",
        "",
    ]
    assert [cells(line)[:3] for line in lines[14:19]] == [
        ["output", "NSR", "change"], ["out", "3.00 % → 0.100 %", "30 times less"],
        ["boxes", "0.0400 %", "unchanged"], ["scores", "100 %", "unchanged"],
        [SCRIPT, "0.200 %", "unchanged"],
    ]  # fmt: skip
    assert lines[19].startswith("Only     1 score only in the baseline: top-1/head[red]")
    labels = [line[:8].strip() for line in lines[21:]]
    assert labels == [
        "Gone", "Gone", "Gone", "Still", "Still", "", "Answer", "Answer", "Output o", "Output <",
        "Next",
    ]  # fmt: skip
    assert lines[21].endswith(f"at {SCRIPT} (was 93 % of the noise)")
    assert lines[-3] == "Output out: NSR 3.00 % → 0.100 %, 30 times less noise"
    assert lines[-2] == f"Output {SCRIPT}: NSR 0.200 %, unchanged"
    assert printed(changes, quiet=True) == lines[-3:-1]


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_narrow_terminals(changes: Changes, width: int) -> None:
    """No line of the tables or sentences is longer than the window."""
    lines = printed(changes, width=width, show_all=True)
    assert max(map(cell_len, lines)) <= width
    assert any(cells(line)[:1] == ["layer"] and "isolated" in line for line in lines)


def test_other_networks_are_one_sentence(analysis: Analysis) -> None:
    """Nothing matches: no list of a thousand names, and outputs are compared all the same."""
    layers = tuple(LayerError(f"l{i}", "Conv", isolated_nsr=0.1) for i in range(1000))
    other = dataclasses.replace(analysis, layers=layers)
    lines = printed(compare(other, analysis))
    assert lines.count(words.OTHER_MODEL) == 1
    assert not any("l500" in line for line in lines)
    assert any(line.startswith("Output out: NSR 3.10 %, unchanged") for line in lines)


def test_lost_outputs_are_said(changes: Changes, booked: Analysis) -> None:
    """An output that is zero everywhere now is no number among others."""
    out, *others = booked.outputs
    lost = dataclasses.replace(out, nsr=1.0, lost=True)
    new = dataclasses.replace(booked, outputs=(lost, *others[1:]))
    assert words.verdicts(compare(new, booked)) == [
        "Output out: NSR 3.00 % → 100 %, 33 times more noise; always 0 now",
        f"Output {SCRIPT} is gone",
    ]


def test_markdown(changes: Changes) -> None:
    """Verdict first, tables that hold together, nothing of a name is markup."""
    text = render_changes_markdown(changes)
    assert text.startswith("**Output out: NSR 3.00 % → 0.100 %, 30 times less noise**")
    assert "&lt;/script&gt;" in text
    assert "`renamed[red]` was `/head[red]/Conv[/head]`" in text
    assert "[red]" not in re.sub("`[^`]*`", "", text)
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    for table in tables:
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in table}
        assert len(widths) == 1
    assert [len(table) - 2 for table in tables] == [4, 2, 4]
    assert "- Gone: QA203 " in text


def test_long_markdown_fits_a_comment(changes: Changes) -> None:
    """5,000 layers with names of 300 characters, before and after."""
    layers = [LayerError(f"/{'block/' * 48}{i}", "Conv", isolated_nsr=0.1) for i in range(5000)]
    old = dataclasses.replace(changes.old, layers=tuple(layers))
    new = dataclasses.replace(
        changes.new,
        layers=tuple(dataclasses.replace(x, isolated_nsr=0.01) for x in layers[:2500]),
        outputs=tuple(OutputError(f"o{i}", 0.1, 10.0, 0.9, 1.0) for i in range(900)),
    )
    text = render_changes_markdown(compare(new, old))
    assert 50_000 < len(text) < 65_536
    assert "left out for its length" in text
    assert text.count("<details>") == text.count("</details>") == 1


def test_csv(changes: Changes) -> None:
    """One row per measure; what has no counterpart has rows too."""
    rows = list(csv.DictReader(io.StringIO(render_changes_csv(changes))))
    first = next(r for r in rows if (r["kind"], r["measure"]) == ("layer", "isolated_nsr"))
    assert first == {
        "kind": "layer", "name": "conv_first", "old_name": "conv_first",
        "measure": "isolated_nsr", "old": "4.2e-05", "new": "0.002", "verdict": "worse",
    }  # fmt: skip
    renamed = [r for r in rows if (r["kind"], r["name"]) == ("layer", "renamed[red]")]
    assert {r["old_name"] for r in renamed} == {"/head[red]/Conv[/head]"}
    alone = [(r["kind"], r["name"], r["old_name"]) for r in rows if r["verdict"] in ("gone", "new")
             and r["kind"] == "layer"]  # fmt: skip
    assert alone == [("layer", "", "softmax"), ("layer", f"new {SCRIPT}", "")]


def test_json(changes: Changes) -> None:
    """A schema version, both sides, [old, new] pairs; "inf" is a text."""
    found = json.loads(render_changes_json(changes))
    assert (found["schema_version"], found["kind"], found["same_data"]) == (1, "changes", False)
    assert found["outputs"][0]["nsr"] == [0.03, 0.001]
    renamed = next(x for x in found["layers"] if x["name"] == "renamed[red]")
    assert renamed["isolated_nsr"] == ["inf", "inf"]
    assert renamed["matched_by"] == "nodes"
    assert found["unmatched"]["layer"] == {"gone": ["softmax"], "new": [f"new {SCRIPT}"]}
    assert found["verdicts"][0] == "Output out: NSR 3.00 % → 0.100 %, 30 times less noise"


def test_names_without_a_text_form(changes: Changes) -> None:
    """A path with an undecodable byte is written as an escape, not as a crash."""
    side = dataclasses.replace(changes.new.provenance, command="qanalyze \udcff.onnx")
    layer = LayerError("a\udcff", "Conv", isolated_nsr=0.1)
    new = dataclasses.replace(changes.new, provenance=side, layers=(*changes.new.layers, layer))
    found = compare(new, changes.old)
    for render in (render_changes_json, render_changes_csv, render_changes_markdown):
        assert "\\udcff" in render(found).encode("utf-8").decode("utf-8")


def test_the_page_has_a_section(fixed: Analysis, booked: Analysis) -> None:
    """Names as text, rows linked to their layers, unmatched ones folded; none without baseline."""
    text = render_html(fixed, booked)
    section = text[text.index('<section class="changes">') :]
    section = section[: section.index("</section>")]
    assert "Compared with the baseline" in section
    assert "Output out: NSR 3.00 % → 0.100 %, 30 times less noise" in section
    assert SCRIPT not in section
    assert '<a href="#layer-0"><bdi class="name">conv_first</bdi></a>' in section
    assert re.search(r'was <bdi class="name">/head\[red\]/Conv\[/head\]</bdi>', section)
    assert "<summary>Layers only in the baseline</summary>" in section
    # 3.1 % and 0.1 % on a scale of six decades: (6 + log10) / 6
    assert 'style="width:74.9%"' in section
    assert 'style="width:50.0%"' in section
    assert '<section class="changes">' not in render_html(fixed)


def test_the_page_stays_small(analysis: Analysis) -> None:
    """Of 5,000 changed layers a few hundred rows are shown, the others are counted."""
    old = tuple(LayerError(f"/{'block/' * 10}{i}", "Conv", isolated_nsr=0.1) for i in range(5000))
    new = tuple(dataclasses.replace(layer, isolated_nsr=0.2) for layer in old)
    from analyzer.report.html.changes import page

    found = page(
        compare(
            dataclasses.replace(analysis, layers=new), dataclasses.replace(analysis, layers=old)
        )
    )
    assert (len(found["layers"]), len(found["more_layers"])) == (15, 185)
    assert found["left_out"].startswith("4,800 more layers: ")
