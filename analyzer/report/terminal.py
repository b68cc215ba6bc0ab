# SPDX-License-Identifier: Apache-2.0
"""An `Analysis` on a terminal: the worst layers first, the verdict last, then the next command.

Off a terminal every row is one line, however long, so that `grep` and `awk` work.  Names that come
from the model are `rich.text.Text` and never markup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from analyzer.records import Analysis, LayerError, OutputError
from analyzer.report import tables

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_GAP = "   "
_SHORTEST_NAME = 28  # below that, columns leave before the name is cut further
_ALIGNED = 60  # off a terminal, a longer name stands out of its column and stays whole
# From these NSRs on a number is coloured; the number itself always says the same.
_BAD, _POOR = 0.1, 0.01

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class _Column(Generic[Row]):
    """One column: how a row is written in it, and when it has to go.

    Attributes:
        drop: on a narrow terminal columns leave in this order; 0 stays.
        nsr: the value behind the text, where a bad one is coloured.
    """

    title: str
    text: Callable[[Row], str]
    drop: int = 0
    is_text: bool = False
    nsr: Callable[[Row], float | None] | None = None


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
        _print(console, verdict)
        return
    _print(console, Text(" · ".join(tables.headline(analysis)), style="bold"))
    _print(console, Text())
    _print_layers(analysis, console, len(analysis.layers) if show_all else max(limit, 0))
    _print_rows(console, _output_columns(), analysis.outputs)
    _print(console, Text())
    for warning in analysis.warnings:
        _print(console, Text.assemble(("Warning  ", "yellow"), tables.printable(warning)))
    _print(console, verdict)
    for label, value in (("Report", report), ("Next", next_command)):
        if value is not None:
            _print(console, Text(f"{label:<9}{tables.printable(str(value))}"))


def _print_layers(analysis: Analysis, console: Console, limit: int) -> None:
    from rich.text import Text

    ranked = tables.rank(analysis.layers)
    _print_rows(console, _layer_columns(ranked[:limit]), ranked[:limit])
    if len(ranked) > limit:
        rest = f"… {tables.plural(len(ranked) - limit, 'more layer')} · --all shows every layer"
        _print(console, Text(rest, style="dim"))
    _print(console, Text())


def _layer_columns(layers: Sequence[LayerError]) -> list[_Column[LayerError]]:
    """The columns that have something to say about these layers."""
    columns: list[_Column[LayerError]] = [
        _Column("layer", lambda row: tables.printable(row.name), is_text=True),
        _Column("op", lambda row: tables.printable(row.op_type), drop=6, is_text=True),
        _Column("isolated", lambda row: tables.percent(row.isolated_nsr),
                nsr=lambda row: row.isolated_nsr),
        _Column("95 % interval", lambda row: tables.interval(row.isolated_ci), drop=4),
        _Column("local", lambda row: tables.percent(row.local_nsr), drop=5,
                nsr=lambda row: row.local_nsr),
        _Column("graphwise", lambda row: tables.percent(row.graphwise_nsr),
                nsr=lambda row: row.graphwise_nsr),
        _Column("samples", lambda row: str(row.isolated_samples or tables.NOT_MEASURED), drop=1),
        _Column("cause", lambda row: tables.printable(" ".join(row.findings)), drop=3,
                is_text=True),
        _Column("status", lambda row: tables.printable(row.status), drop=2, is_text=True),
    ]  # fmt: skip
    empty = {
        "95 % interval": not any(row.isolated_ci for row in layers),
        "cause": not any(row.findings for row in layers),
        "status": all(row.status == "ok" for row in layers),
    }
    return [column for column in columns if not empty.get(column.title, False)]


def _output_columns() -> list[_Column[OutputError]]:
    return [
        _Column("output", lambda row: tables.printable(row.name), is_text=True),
        _Column("NSR", lambda row: tables.percent(row.nsr), nsr=lambda row: row.nsr),
        _Column("SQNR", lambda row: tables.decibel(row.sqnr_db)),
        _Column("cosine", lambda row: tables.cosine(row.cosine), drop=2),
        _Column("max abs", lambda row: tables.number(row.max_abs), drop=1),
    ]


def _print_rows(console: Console, columns: list[_Column[Row]], rows: Sequence[Row]) -> None:
    """Print a header and one line per row; only a terminal has a width to respect."""
    from rich.cells import cell_len
    from rich.text import Text

    columns, widths = _fit(columns, rows, console.width if console.is_terminal else None)
    cells = [[(column.title, "dim") for column in columns]]
    cells += [[(column.text(row), _style(column, row)) for column in columns] for row in rows]
    for line in cells:
        text = Text()
        for (content, style), column, width in zip(line, columns, widths, strict=True):
            content = tables.shorten(content, width) if console.is_terminal else content
            padding = " " * (width - cell_len(content))
            text.append(_GAP if len(text) else "")
            text.append(content + padding if column.is_text else padding + content, style)
        text.rstrip()
        _print(console, text)


def _fit(
    columns: list[_Column[Row]], rows: Sequence[Row], available: int | None
) -> tuple[list[_Column[Row]], list[int]]:
    """Choose columns and their widths: drop columns first, then shorten the name."""
    from rich.cells import cell_len

    columns = list(columns)
    widths = [
        max(cell_len(text) for text in (column.title, *map(column.text, rows)))
        for column in columns
    ]
    if available is None:
        widths[0] = min(widths[0], _ALIGNED)
        return columns, widths
    others = sum(widths[1:]) + len(_GAP) * (len(columns) - 1)
    while others + min(widths[0], _SHORTEST_NAME) > available and any(c.drop for c in columns):
        gone = min((c.drop, i) for i, c in enumerate(columns) if c.drop)[1]
        others -= widths.pop(gone) + len(_GAP)
        del columns[gone]
    widths[0] = min(widths[0], max(available - others, len(columns[0].title)))
    return columns, widths


def _style(column: _Column[Row], row: Row) -> str:
    value = column.nsr(row) if column.nsr else None
    if value is None or value < _POOR:
        return ""
    return "yellow" if value < _BAD else "red"


def _print(console: Console, text: Text) -> None:
    """Print one line as it is: not wrapped, not highlighted, and in the console's encoding."""
    from rich.text import Text

    try:
        text.plain.encode(console.encoding)
    except UnicodeEncodeError:
        safe = text.plain.encode(console.encoding, "backslashreplace").decode(console.encoding)
        text = Text(safe)
    console.print(text, soft_wrap=True)
