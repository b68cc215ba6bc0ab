# SPDX-License-Identifier: Apache-2.0
"""An `Analysis` on a terminal: the worst layers first, the verdict last, then the next command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analyzer.records import Analysis, LayerError, OutputError
from analyzer.report import tables
from analyzer.report.columns import Column, print_line, print_rows

if TYPE_CHECKING:
    from rich.console import Console


def render_terminal(
    analysis: Analysis,
    *,
    console: Console,
    limit: int = 10,
    show_all: bool = False,
    quiet: bool = False,
    report: Path | None = None,
    next_command: str | None = None,
) -> None:
    """Print head line, worst layers, outputs, warnings, verdict and what to do next.

    Args:
        analysis: what to show.
        console: where to print; decides about colour, width and plain rows.
        limit: how many layers to show, the worst first.
        show_all: show every layer.
        quiet: print the verdict and nothing else.
        report: path of the HTML report, printed after the verdict.
        next_command: command line to suggest, printed last.
    """
    from rich.text import Text

    verdict = Text(tables.verdict(analysis), style="bold")
    if quiet:
        print_line(console, verdict)
        return
    print_line(console, Text(" · ".join(tables.headline(analysis)), style="bold"))
    print_line(console, Text())
    _print_layers(analysis, console, len(analysis.layers) if show_all else max(limit, 0))
    print_rows(console, _output_columns(), analysis.outputs)
    print_line(console, Text())
    for warning in analysis.warnings:
        print_line(console, Text.assemble(("Note     ", "yellow"), tables.printable(warning)))
    for code, line in tables.findings(analysis.findings):
        print_line(console, Text.assemble((f"{tables.printable(code):<9}", "yellow"), line))
    print_line(console, verdict)
    for label, value in (("Report", report), ("Next", next_command)):
        if value is not None:
            print_line(console, Text(f"{label:<9}{tables.printable(str(value))}"))


def _print_layers(analysis: Analysis, console: Console, limit: int) -> None:
    from rich.text import Text

    ranked = tables.rank(analysis.layers)
    print_rows(console, _layer_columns(ranked[:limit]), ranked[:limit])
    if len(ranked) > limit:
        rest = f"… {tables.plural(len(ranked) - limit, 'more layer')} · --all shows every layer"
        print_line(console, Text(rest, style="dim"))
    print_line(console, Text())


def _layer_columns(layers: Sequence[LayerError]) -> list[Column[LayerError]]:
    """The columns that have something to say about these layers."""
    columns: list[Column[LayerError]] = [
        Column("layer", lambda row: tables.printable(row.name), is_text=True),
        Column("op", lambda row: tables.printable(row.op_type), drop=6, is_text=True),
        Column("isolated", lambda row: tables.percent(row.isolated_nsr),
                nsr=lambda row: row.isolated_nsr),
        Column("95 % interval", lambda row: tables.interval(row.isolated_ci), drop=4),
        Column("local", lambda row: tables.percent(row.local_nsr), drop=5,
                nsr=lambda row: row.local_nsr),
        Column("graphwise", lambda row: tables.percent(row.graphwise_nsr),
                nsr=lambda row: row.graphwise_nsr),
        Column("samples", lambda row: str(row.isolated_samples or tables.NOT_MEASURED), drop=1),
        Column("cause", lambda row: tables.printable(" ".join(row.findings)), drop=3,
                is_text=True),
        Column("status", lambda row: tables.printable(row.status), drop=2, is_text=True),
    ]  # fmt: skip
    empty = {
        "95 % interval": not any(row.isolated_ci for row in layers),
        "cause": not any(row.findings for row in layers),
        "status": all(row.status == "ok" for row in layers),
    }
    return [column for column in columns if not empty.get(column.title, False)]


def _output_columns() -> list[Column[OutputError]]:
    return [
        Column("output", lambda row: tables.printable(row.name), is_text=True),
        Column("NSR", lambda row: tables.percent(row.nsr), nsr=lambda row: row.nsr),
        Column("SQNR", lambda row: tables.decibel(row.sqnr_db)),
        Column("cosine", lambda row: tables.cosine(row.cosine), drop=2),
        Column("max abs", lambda row: tables.number(row.max_abs), drop=1),
    ]
