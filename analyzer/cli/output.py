# SPDX-License-Identifier: Apache-2.0
"""What the command writes: results to stdout, the conversation to stderr."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analyzer.records import Analysis
    from analyzer.report.comparison import Comparison


class Format(StrEnum):
    """What stdout carries."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"


def say(*lines: str) -> None:
    """Write lines to stderr, empty ones left out."""
    for line in lines:
        if line:
            print(line, file=sys.stderr)  # noqa: T201


def show(
    analysis: Analysis,
    format_: Format,
    report: Path,
    export: Path | None = None,
    *,
    show_all: bool,
    quiet: bool,
) -> None:
    """Write one result to stdout.

    Args:
        analysis: the result.
        format_: of what is written.
        report: path of the HTML report.
        export: folder that a plan was exported into, None: none was.
        show_all: show every layer.
        quiet: show the verdict only.
    """
    from analyzer.report.markdown import render_markdown
    from analyzer.report.spreadsheets import render_csv
    from analyzer.store import to_json

    if format_ is Format.TABLE:
        text = _table(analysis, report, export, show_all=show_all, quiet=quiet)
    else:
        render = {Format.JSON: to_json, Format.CSV: render_csv, Format.MARKDOWN: render_markdown}
        text = render[format_](analysis)
        say(f"Report   {report}", f"Export   {export}" if export else "")
    _write(text)


def compare(
    comparison: Comparison, format_: Format, file: Path, *, show_all: bool, quiet: bool
) -> None:
    """Write the comparison of several results to stdout, and as CSV beside the reports."""
    from rich.console import Console

    from analyzer.report import comparison as side_by_side
    from analyzer.store import write_files

    write_files({file: side_by_side.render_comparison_csv(comparison)})
    if format_ is Format.TABLE:
        console = Console()
        with console.capture() as shown:
            side_by_side.render_comparison(
                comparison, console=console, show_all=show_all, quiet=quiet
            )
        text = shown.get()
    else:
        render = {
            Format.JSON: side_by_side.render_comparison_json,
            Format.CSV: side_by_side.render_comparison_csv,
            Format.MARKDOWN: side_by_side.render_comparison_markdown,
        }
        text = render[format_](comparison)
    _write(text)


def _write(text: str) -> None:
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # whoever read stdout (head, a pager) has gone: that is no failure of the analysis
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _table(
    analysis: Analysis, report: Path, export: Path | None, *, show_all: bool, quiet: bool
) -> str:
    from rich.console import Console

    from analyzer.report.terminal import render_terminal

    console = Console()
    with console.capture() as shown:  # rich would end the program when a pipe breaks
        render_terminal(
            analysis,
            console=console,
            show_all=show_all,
            quiet=quiet,
            report=report,
            export=export,
            next_command=_next(analysis, exported=export is not None),
        )
    return shown.get()


def _next(analysis: Analysis, *, exported: bool) -> str | None:
    """Return the command to suggest: export what is recommended, else read about a finding."""
    from analyzer.codes import CODES
    from analyzer.formats import own_format
    from analyzer.report.advice import recommended

    if recommended(analysis) is not None and not exported:
        provenance = analysis.provenance
        return f"{provenance.command} --export {own_format(provenance.target)}"
    first = next((f for f in analysis.findings if f.code in CODES), None)
    return f"qanalyze --explain {first.code}" if first else None
