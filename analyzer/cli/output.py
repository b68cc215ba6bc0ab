# SPDX-License-Identifier: Apache-2.0
"""What the command writes: results to stdout, the conversation to stderr."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from analyzer.cli.carried import carried

if TYPE_CHECKING:
    from analyzer.records import Analysis
    from analyzer.report.comparison import Comparison


class Format(StrEnum):
    """What stdout carries."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MARKDOWN = "markdown"


@dataclass(frozen=True, slots=True)
class Then:
    """What stands below a table: where to read more, and what to do next."""

    report: Path
    export: Path | None
    command: str | None


def say(*lines: str) -> None:
    """Write lines to stderr, empty ones left out."""
    for line in lines:
        if line:
            print(line, file=sys.stderr)  # noqa: T201


def say_timing(analysis: Analysis) -> None:
    """Write the time of every stage, and the peak of memory, to stderr."""
    for stage, seconds in analysis.timing.items():
        say(f"{stage:<12}{seconds:8.2f} s")
    say(f"{'peak memory':<12}{analysis.peak_rss_bytes / 1e6:8.0f} MB")


def show(
    analysis: Analysis,
    format_: Format,
    report: Path,
    export: Path | None,
    file: Path,
    baseline: Analysis | None = None,
    *,
    show_all: bool,
    quiet: bool,
) -> None:
    """Write one result to stdout, or what it changes.

    Args:
        analysis: the result.
        format_: of what is written.
        report: path of the HTML report.
        export: folder that a plan was exported into, None: none was.
        file: path of the analysis.
        baseline: what the result is held against; then the changes are shown.
        show_all: show every layer.
        quiet: show the verdict only.
    """
    if format_ is Format.TABLE:
        then = Then(report, export, _next(analysis, file, export))
        _write(_table(analysis, baseline, then, show_all=show_all, quiet=quiet))
        return
    say(f"Report   {report}", f"Export   {export}" if export else "")
    _write(
        _result(analysis, format_, show_all=show_all)
        if baseline is None
        else _changes(analysis, baseline, format_, show_all=show_all)
    )


def _result(analysis: Analysis, format_: Format, *, show_all: bool) -> str:
    if format_ is Format.MARKDOWN:
        from analyzer.report.markdown import render_markdown

        return render_markdown(analysis, show_all=show_all)
    if format_ is Format.CSV:
        from analyzer.report.spreadsheets import render_csv

        return render_csv(analysis)
    from analyzer.store import to_json

    return to_json(analysis)


def _changes(analysis: Analysis, baseline: Analysis, format_: Format, *, show_all: bool) -> str:
    from analyzer.report import changes as sides
    from analyzer.report.changes import files

    found = sides.compare(analysis, baseline)
    if format_ is Format.MARKDOWN:
        return files.render_changes_markdown(found, show_all=show_all)
    if format_ is Format.CSV:
        return files.render_changes_csv(found)
    return files.render_changes_json(found)


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
    analysis: Analysis, baseline: Analysis | None, then: Then, *, show_all: bool, quiet: bool
) -> str:
    from rich.console import Console

    console = Console()
    with console.capture() as text:  # rich would end the program when a pipe breaks
        if baseline is None:
            from analyzer.report.terminal import render_terminal

            render_terminal(
                analysis, console=console, show_all=show_all, quiet=quiet, report=then.report,
                export=then.export, next_command=then.command,
            )  # fmt: skip
        else:
            from analyzer.report.changes import compare
            from analyzer.report.changes.terminal import render_changes

            render_changes(
                compare(analysis, baseline), console=console, show_all=show_all, quiet=quiet,
                report=then.report, export=then.export, next_command=then.command,
            )  # fmt: skip
    return text.get()


def _next(analysis: Analysis, file: Path, export: Path | None) -> str | None:
    """Return the command to suggest: export what is recommended, else read about a finding.

    Where the analysis carries the files, its own file is enough to export them.
    """
    from analyzer.codes import CODES
    from analyzer.formats import own_format
    from analyzer.report.advice import recommended

    if recommended(analysis) is not None and export is None:
        provenance = analysis.provenance
        name = own_format(provenance.target)
        if carried(analysis, name):
            return shlex.join(["qanalyze", str(file), "--export", name])
        return f"{provenance.command} --export {name}"
    first = next((f for f in analysis.findings if f.code in CODES), None)
    return f"qanalyze --explain {first.code}" if first else None
