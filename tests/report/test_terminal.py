# SPDX-License-Identifier: Apache-2.0
"""What is printed: rows that survive a pipe, a narrow window and hostile names."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from analyzer.records import Analysis
from analyzer.report.terminal import render_terminal

DASH = "\N{EN DASH}"
VERDICT = (
    "Worst output out: NSR 3.10 %, SQNR 15.1 dB; isolated errors sum to 2.79 %, additivity 0.90"
)


def printed(analysis: Analysis, *, width: int | None = None, **options: Any) -> list[str]:
    """Lines as piped (no width), or as on a terminal of that width."""
    stream = io.StringIO()
    console = Console(
        file=stream, width=width or 40, force_terminal=width is not None, color_system=None
    )
    render_terminal(analysis, console=console, **options)
    return stream.getvalue().splitlines()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("   ") if cell.strip()]


def test_piped_output(analysis: Analysis) -> None:
    """Head, worst first, outputs, verdict, next command: one row a line, however narrow."""
    lines = printed(analysis, limit=4, report=Path("r/report.html"), next_command="qanalyze a")
    assert (
        lines[0] == "net · 7 layers (5 computing) · esp32p4 · 32 calibration + 8 analysis samples"
    )
    assert [cells(line) for line in lines[2:8]] == [
        ["layer", "op", "isolated", "95 % interval", "local", "graphwise", "samples", "cause"],
        ["/head[red]/Conv[/head]", "MatMul", "inf", "0 %", "inf", "2"],
        ["</script><img src=x onerror=alert(1)>", "Conv", "3.10 %", "2.80 .. 3.40 %", "1.00 %",
         "4.00 %", "8", "QA999"],
        ["/model" + "/block" * 49, "Gemm", "1.20 %", "0.500 %", "2.00 %", "8"],
        ["/\u0637\u0628\u0642\u0629/Conv", "Conv", "0.0500 %", "0.100 %", "3.00 %", "8"],
        ["… 3 more layers · --all shows every layer"],
    ]  # fmt: skip
    assert [cells(line) for line in lines[9:12]] == [
        ["output", "NSR", "SQNR", "cosine", "max abs", "isolated sum", "additivity"],
        ["out", "3.10 %", "15.1 dB", "0.984000", "12.2", "2.79 %", "0.90"],
        ["</script><img src=x onerror=alert(1)>", "0.200 %", "27.0 dB", "0.999000", "0.5",
         DASH, DASH],
    ]  # fmt: skip
    assert lines[-5:] == [
        "Note     Layer </script><img src=x onerror=alert(1)> [bold]diverges[/bold].",
        "QA999    Use a percentile observer at </script><img src=x onerror=alert(1)>: ratio 38.5",
        VERDICT,
        "Report   r/report.html",
        "Next     qanalyze a",
    ]


def test_balance_and_causes(booked: Analysis) -> None:
    """Slices below their output, five contributors at most, interactions, causes, the answer."""
    lines = printed(booked, limit=1)
    start = next(i for i, line in enumerate(lines) if line.startswith("output"))
    assert lines[start].split("   ")[-1].strip() == "status"
    assert [line.rstrip() for line in lines[start + 1 : start + 4]] == [
        line.rstrip() for line in lines[start + 1 : start + 4] if line.startswith(("out ", "  "))
    ]
    assert cells(lines[start + 1])[-3:] == ["5.00 %", "1.67", "100 %"]
    assert lines[start + 2].startswith("  boxes ")
    assert cells(lines[start + 3])[-1] == "lost: always 0"
    assert [cells(line) for line in lines[start + 6 : start + 12]] == [
        ["contributor to out", "share", "alone", "price of alignment"],
        ["MatMul group /head[red]/Conv[/head] (2 layers)", "80 %", "4.00 %", "+2.50 %"],
        ["conv_first", "20 %", "1.00 %"],
        [r"group clear\x1b[2J\n\u202egnp.exe|`$x$` (2 layers)", "<1 %", "0.0010 %"],
        ["… 1 more source: 0 %"],
        [],
    ]  # fmt: skip
    assert lines[start + 12] == (
        "Together MatMul group /head[red]/Conv[/head] (2 layers) and everything else: alone "
        "4.00 % + 1.00 %, together 3.00 %: \u22122.00 %"
    )
    assert [line[:9].strip() for line in lines[start + 14 :]] == [
        "", "Note", "QA203", "QA206", "QA205", "QA204", "Answer", "Worst out",
    ]  # fmt: skip


def test_interactions_are_left_out_where_errors_add_up(booked: Analysis) -> None:
    """Nobody needs an explanation of what adds up; --all shows it all the same."""
    first, *others = booked.outputs
    fine = dataclasses.replace(
        booked, outputs=(dataclasses.replace(first, additivity=1.2), *others)
    )
    assert not [line for line in printed(fine) if line.startswith("Together")]
    assert len([line for line in printed(fine, show_all=True) if line.startswith("Together")]) == 3


def test_many_findings_are_counted(booked: Analysis) -> None:
    """Eight lines, then how many more and of what kind; one more alone is shown instead."""
    many = tuple(dataclasses.replace(booked.findings[0], gain=0.5 - i / 100) for i in range(12))
    short = printed(dataclasses.replace(booked, findings=many))
    assert len([line for line in short if line.startswith("QA203")]) == 8
    assert "         … 4 more findings (QA203) · --all shows them" in short
    for findings, options in ((many, {"show_all": True}), (many[:9], {})):
        lines = printed(dataclasses.replace(booked, findings=findings), **options)
        assert len([line for line in lines if line.startswith("QA203")]) == len(findings)
        assert not [line for line in lines if "more finding" in line]


def test_all_shows_sources_that_were_not_probed(booked: Analysis) -> None:
    """They have no share, and their status says why; worst rows say what they consist of."""
    lines = printed(booked, show_all=True)
    row = next(line for line in lines if line.startswith("softmax") and "too small" in line)
    assert cells(row) == ["softmax", DASH, DASH, "isolated error not measured: too small"]
    row = next(line for line in lines if line.startswith("</script>") and "Conv" in line)
    assert "input 50 %, clipping 75 %" in cells(row)


def test_proposals(advised: Analysis) -> None:
    """The front, the recommended plan marked; why; the best free one; then the verdict."""
    lines = printed(advised, limit=1, export=Path("r/export"), next_command="qanalyze a")
    start = next(i for i, line in enumerate(lines) if line.startswith("proposal"))
    assert lines[start - 1] == ""
    assert [cells(line) for line in lines[start : start + 5]] == [
        ["proposal", "MACs moved", "time", "worst NSR", "predicted", "noise left", "box AP50",
         "changes"],
        ["plan 1", "0 %", "1.00x", "3.00 % → 1.20 %", "50 %", "40 %", "0.940 → 0.950",
         "calibration /head[red]/Conv[/head]"],
        ["* plan 2", "2.10 %", "1.02x", "3.00 % → 0.300 %", "19 %", "10 %", "0.940 → 0.970",
         "calibration /head[red]/Conv[/head]; int16 at </script><img…rror=alert(1)> +4"],
        ["dear </script><img src=x onerror=alert(1)>", "12.0 %", "1.12x", "3.00 % → 0.150 %",
         "4.0 %", "5.0 %", "0.940 → 1.000",
         ("calibration /head[red]/Conv[/head]; int16 at </script><img…rror=alert(1)> +4; "
          "weight split at conv_first")],
        ["… 1 more proposal · --all shows them"],
    ]  # fmt: skip
    script = "</script><img src=x onerror=alert(1)>"
    assert lines[start + 6 : start + 9] == [
        f"Advice   plan 2: The least noise within the budget of {script} (4 samples)",
        "Change   calibration /head[red]/Conv[/head]; int16 at </script><img…rror=alert(1)> +4",
        "Free     plan 1: calibration /head[red]/Conv[/head]; 40 % of the output noise is left",
    ]
    assert lines[start + 9].startswith("Answer ")
    assert lines[-2:] == ["Export   r/export", "Next     qanalyze a"]
    every = printed(advised, show_all=True)
    assert cells(next(line for line in every if line.startswith("  worse")))[3:5] == [
        "3.00 % → 3.90 %", DASH,
    ]  # fmt: skip


def test_a_free_plan_that_is_recommended_is_named_once(advised: Analysis) -> None:
    """No second line for what was just said."""
    plan = dataclasses.replace(advised.proposals[2], recommended=True, why="")
    lines = printed(dataclasses.replace(advised, proposals=(plan,)))
    assert "Advice   plan 1: 40 % of the output noise is left (4 samples)" in lines
    assert not [line for line in lines if line.startswith("Free")]


def test_nothing_is_proposed(advised: Analysis) -> None:
    """What was tried in vain is said; where nothing was tried there is no line."""
    bare = dataclasses.replace(advised, proposals=())
    assert [line for line in printed(bare) if line.startswith("Advice")] == [
        "Advice   Nothing is proposed: in 4 simulations nothing left clearly less noise."
    ]
    quiet = printed(dataclasses.replace(bare, attempts=()))
    assert not [line for line in quiet if line.startswith(("Advice", "proposal"))]


def test_many_plans_are_cut_down_to_the_best(advised: Analysis) -> None:
    """Eight rows at most, the recommended and the free plan among them."""
    *_, free, _ = advised.proposals
    many = tuple(
        dataclasses.replace(free, name=f"p{i}", left=0.9 - i / 100, recommended=i == 3,
                            costs=dataclasses.replace(free.costs, macs=i / 100))
        for i in range(20)
    )  # fmt: skip
    lines = printed(dataclasses.replace(advised, proposals=many))
    start = next(i for i, line in enumerate(lines) if line.startswith("proposal"))
    names = [line[2:].split()[0] for line in lines[start + 1 : start + 9]]
    assert names == ["p0", "p3", "p14", "p15", "p16", "p17", "p18", "p19"]
    assert lines[start + 9] == "… 12 more proposals · --all shows them"


def test_control_characters_are_shown_not_obeyed(analysis: Analysis) -> None:
    """A name cannot clear the screen, break the line or turn the writing direction."""
    lines = printed(analysis, show_all=True)
    row = next(line for line in lines if line.startswith("clear"))
    assert cells(row) == [
        r"clear\x1b[2J\n\u202egnp.exe|`$x$`", "Add", DASH, "0.0100 %", "3.50 %", DASH,
        "isolated: not measured, time limit reached",
    ]  # fmt: skip


def test_one_long_name_does_not_widen_every_row(analysis: Analysis) -> None:
    """Piped rows stay short where their own name is short."""
    lines = printed(analysis, show_all=True)
    assert max(len(line) for line in lines if "conv_first" in line) < 200


def test_layers_without_isolated_error_follow_by_graphwise(analysis: Analysis) -> None:
    """Errors of another kind are not mixed into the order, and dashes are not zeros."""
    lines = printed(analysis, show_all=True)
    first = next(i for i, line in enumerate(lines) if line.startswith("layer"))
    names = [cells(line)[0] for line in lines[first + 1 : first + 8]]
    assert names[-3:] == ["conv_first", r"clear\x1b[2J\n\u202egnp.exe|`$x$`", "softmax"]
    assert cells(lines[first + 7]) == [
        "softmax", "Softmax", DASH, DASH, DASH, DASH, "float: left in FP32",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_terminal_width_is_respected(width: int, advised: Analysis) -> None:
    """No table runs over the edge; layer, isolated and graphwise, output and NSR, share stay."""
    lines = printed(advised, width=width, show_all=True)
    for title, rows, kept in (
        ("layer", 7, {"isolated", "graphwise"}),
        ("output", 4, {"NSR"}),
        ("contributor", 4, {"share"}),
        ("proposal", 4, {"noise left"}),
    ):
        first = next(i for i, line in enumerate(lines) if line.startswith(title))
        table = lines[first : first + rows + 1]
        if width >= 40:
            assert all(cell_len(line) <= width for line in table)
        assert kept <= set(cells(table[0]))
        # the shorter names of plans fit where the changes are left out
        assert width > 60 - 20 * (title == "proposal") or any("…" in line for line in table)


def test_no_control_sequences_without_colour(
    analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_COLOR on a terminal leaves the text and takes the colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = io.StringIO()
    render_terminal(analysis, console=Console(file=stream, force_terminal=True, width=100))
    assert "\x1b[3" not in stream.getvalue()


def test_quiet_prints_the_verdict_only(analysis: Analysis) -> None:
    """-q is one line."""
    assert printed(analysis, quiet=True) == [VERDICT]


def test_verdict_without_isolated_errors(analysis: Analysis) -> None:
    """What was not measured is said, and one output is not called the worst."""
    output = dataclasses.replace(analysis.outputs[0], isolated_sum=None, additivity=None)
    lines = printed(dataclasses.replace(analysis, outputs=(output,)), quiet=True)
    assert lines == ["Output out: NSR 3.10 %, SQNR 15.1 dB; isolated errors not measured"]


def test_verdict_warns_where_rows_do_not_add_up(analysis: Analysis) -> None:
    """An additivity far from 1 is not left to the reader."""
    output = dataclasses.replace(analysis.outputs[0], additivity=3.0)
    (line,) = printed(dataclasses.replace(analysis, outputs=(output,)), quiet=True)
    assert line.endswith("additivity 3.00 (far from 1: they do not add up)")


def test_consoles_without_unicode_get_escapes(analysis: Analysis) -> None:
    """A pipe that takes ASCII only neither crashes nor loses a row."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", newline="\n")
    render_terminal(analysis, console=Console(file=stream), show_all=True)
    stream.flush()
    assert rb"/\u0637\u0628\u0642\u0629/Conv" in raw.getvalue()


def test_sentences_wrap_at_words_on_a_terminal(advised: Analysis) -> None:
    """Indented below their text, a number with its unit; what is to be copied stays whole."""
    command = "qanalyze " + "/path" * 30
    lines = [line.rstrip() for line in printed(advised, width=60, next_command=command)]
    assert lines[-1] == f"Next     {command}"
    start = next(i for i, line in enumerate(lines) if line.startswith("QA203"))
    sentence = [lines[start]]
    while lines[start + len(sentence)].startswith(" "):
        sentence.append(lines[start + len(sentence)])
    assert len(sentence) > 1
    assert all(line.startswith(" " * 9) for line in sentence[1:])
    assert max(map(cell_len, lines[:-1])) <= 60
    whole = next(line for line in printed(advised) if line.startswith("QA203"))
    assert " ".join(line.strip() for line in sentence).split() == whole.split()
    assert not any(line.strip().startswith("%") for line in lines)
