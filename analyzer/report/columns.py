# SPDX-License-Identifier: Apache-2.0
"""Rows in columns on a terminal: a narrow one drops columns, a pipe gets every row whole.

Off a terminal every row is one line, however long, so that `grep` and `awk` work.  Names that come
from the model are `rich.text.Text` and never markup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from analyzer.report import tables

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_GAP = "   "
_SHORTEST_NAME = 36  # below that, columns leave before the name is cut further
_SHORTEST_TEXT = 36  # of a column that fills the line
_ALIGNED = 60  # off a terminal, a longer name stands out of its column and stays whole
# From these NSRs on a number is coloured; the number itself always says the same.
_BAD, _POOR = 0.1, 0.01
_LABEL = 9  # columns of the word before a line
_UNITS, _GLUE = ("%", "dB"), "\ue000"  # glue: of no script, so it is in no name
_NARROW = 40  # terminals below that get lines as they are

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One column: how a row is written in it, and when it has to go.

    Attributes:
        drop: on a narrow terminal columns leave in this order; 0 stays.
        nsr: the value behind the text, where a bad one is coloured.
        fills: takes what is left of a terminal's width, and leaves where that is too little.
    """

    title: str
    text: Callable[[Row], str]
    drop: int = 0
    is_text: bool = False
    nsr: Callable[[Row], float | None] | None = None
    fills: bool = False


def print_rows(console: Console, columns: list[Column[Row]], rows: Sequence[Row]) -> None:
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
        print_line(console, text)


def _fit(
    columns: list[Column[Row]], rows: Sequence[Row], available: int | None
) -> tuple[list[Column[Row]], list[int]]:
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
    last, filled = columns[-1], widths[-1]
    if last.fills:
        widths[-1] = min(filled, _SHORTEST_TEXT)
    others = sum(widths[1:]) + len(_GAP) * (len(columns) - 1)
    while others + min(widths[0], _SHORTEST_NAME) > available and any(c.drop for c in columns):
        gone = min((c.drop, i) for i, c in enumerate(columns) if c.drop)[1]
        others -= widths.pop(gone) + len(_GAP)
        del columns[gone]
    widths[0] = min(widths[0], max(available - others, len(columns[0].title)))
    if last.fills and columns[-1] is last:
        widths[-1] = min(filled, widths[-1] + max(available - others - widths[0], 0))
    return columns, widths


def _style(column: Column[Row], row: Row) -> str:
    value = column.nsr(row) if column.nsr else None
    if value is None or value < _POOR:
        return ""
    return "yellow" if value < _BAD else "red"


def print_line(console: Console, text: Text) -> None:
    """Print one line as it is: not wrapped, not highlighted, and in the console's encoding."""
    from rich.text import Text

    try:
        text.plain.encode(console.encoding)
    except UnicodeEncodeError:
        safe = text.plain.encode(console.encoding, "backslashreplace").decode(console.encoding)
        text = Text(safe)
    console.print(text, soft_wrap=True)


def print_wrapped(console: Console, text: Text, indent: int = 0) -> None:
    """Print a line; a terminal breaks it at words, what follows indented."""
    if not console.is_terminal or console.width < _NARROW or text.cell_len <= console.width:
        print_line(console, text)
        return
    text = text.copy()
    for unit in _UNITS:  # a number and its unit are one word
        text.plain = text.plain.replace(f" {unit}", f"{_GLUE}{unit}")
    head = text[:indent]
    for place, line in enumerate(text[indent:].wrap(console, console.width - indent)):
        line.plain = line.plain.replace(_GLUE, " ")
        line.rstrip()
        print_line(console, (head if place == 0 else _blank(indent)) + line)


def _blank(width: int) -> Text:
    from rich.text import Text

    return Text(" " * width)


def print_labelled(
    console: Console,
    label: str,
    line: str,
    *,
    style: str = "",
    of_line: str = "",
    wrap: bool = True,
) -> None:
    """Print a word and what it is about.

    Args:
        console: where to print.
        label: the word, padded to one width.
        line: the text.
        style: of the word.
        of_line: style of the text.
        wrap: break it at words on a terminal; False: it is to be copied as a whole.
    """
    from rich.text import Text

    text = Text.assemble((f"{label:<{_LABEL}}", style), (line, of_line))
    if wrap:
        print_wrapped(console, text, _LABEL)
    else:
        print_line(console, text)
