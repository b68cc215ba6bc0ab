# SPDX-License-Identifier: Apache-2.0
"""Changes on a terminal: what differs beneath them, the worst changes first, the verdict last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analyzer.report import tables, wording
from analyzer.report.changes import Changes, LayerChange, OutputChange, Pair
from analyzer.report.changes import wording as words
from analyzer.report.columns import Column, print_labelled, print_line, print_rows, print_wrapped

if TYPE_CHECKING:
    from rich.console import Console

_FINDINGS = 4  # of each kind
_STYLES = {"gone": "green", "new": "red", "still there": "yellow"}


def render_changes(
    changes: Changes,
    *,
    console: Console,
    limit: int = 10,
    show_all: bool = False,
    quiet: bool = False,
    report: Path | None = None,
    export: Path | None = None,
    next_command: str | None = None,
) -> None:
    """Print what is compared, layers, outputs, findings, scores, verdict, what is next.

    Args:
        changes: what to show.
        console: where to print; decides about colour, width and plain rows.
        limit: how many layers to show, the worst changes first.
        show_all: show everything there is.
        quiet: print the verdicts and nothing else.
        report: path of the HTML report, printed after the verdicts.
        export: path of the folder that a plan was exported into, printed after that.
        next_command: command line to suggest, printed last.
    """
    from rich.text import Text

    if quiet:
        _print_verdicts(changes, console)
        return
    print_wrapped(console, Text(" · ".join(wording.headline(changes.new)), style="bold"))
    print_wrapped(console, Text(words.held_against(changes)))
    for remark in words.remarks(changes):
        print_labelled(console, "Note", remark, style="yellow")
    for what, line in words.differences(changes):
        print_labelled(console, "Differs", f"{what}: {line}")
    print_line(console, Text())
    _print_layers(changes, console, None if show_all else limit)
    if changes.outputs:
        print_rows(console, _output_columns(changes.outputs), changes.outputs)
    for line in words.other_outputs(changes):
        print_labelled(console, "Only", line)
    print_line(console, Text())
    _print_causes(changes, console, show_all=show_all)
    for score in changes.scores:
        print_labelled(console, "Answer", words.answer(score))
    _print_verdicts(changes, console)
    for label, value in (("Report", report), ("Export", export), ("Next", next_command)):
        if value is not None:
            print_labelled(console, label, tables.printable(str(value)), wrap=False)


def _print_verdicts(changes: Changes, console: Console) -> None:
    from rich.text import Text

    for line in words.verdicts(changes):
        print_wrapped(console, Text(line, style="bold"))


def _print_layers(changes: Changes, console: Console, limit: int | None) -> None:
    from rich.text import Text

    moved = [c for c in changes.layers if c.verdict not in ("unchanged", "not measured")]
    shown = changes.layers if limit is None else moved[: max(limit, 0)]
    if shown:
        print_rows(console, _layer_columns(shown), shown)
    if changes.layers:
        rest = len(changes.layers) - len(shown)
        more = f" · {rest:,} not shown, --all shows every layer" if rest else ""
        print_wrapped(console, Text(f"{words.counts(changes)}{more}", style="dim"))
    for line in words.matching(changes, None if limit is None else 3):
        print_wrapped(console, Text(line, style="dim"))
    print_line(console, Text())


def _layer_columns(changes: Sequence[LayerChange]) -> list[Column[LayerChange]]:
    """The columns that have something to say about these layers."""
    columns: list[Column[LayerChange]] = [
        Column("layer", lambda c: tables.printable(c.new.name), is_text=True),
        Column("in the baseline", lambda c: tables.printable(c.old.name), drop=1, is_text=True),
        Column("op", lambda c: tables.printable(c.new.op_type), drop=5, is_text=True),
        Column("precision", _precision, drop=4, is_text=True),
        Column("isolated", lambda c: words.moved(c.isolated), nsr=lambda c: _worse(c)),
        Column("change", words.layer_verdict, drop=6, is_text=True),
        Column("local", lambda c: words.moved(c.local), drop=2),
        Column("graphwise", lambda c: words.moved(c.graphwise), drop=3),
    ]
    empty = {
        "in the baseline": all(c.by == "name" for c in changes),
        "precision": all(c.old.precision == c.new.precision for c in changes),
    }
    return [column for column in columns if not empty.get(column.title, False)]


def _precision(change: LayerChange) -> str:
    return words.arrow(*(tables.printable(of.precision) for of in (change.old, change.new)))


def _worse(change: LayerChange) -> float | None:
    """The NSR that a colour warns of: only where it went up."""
    return change.new.isolated_nsr if change.verdict == "worse" else None


def _output_columns(outputs: Sequence[OutputChange]) -> list[Column[OutputChange]]:
    columns: list[Column[OutputChange]] = [
        Column("output", _output_name, is_text=True),
        Column("NSR", lambda c: words.moved(c.nsr),
               nsr=lambda c: c.new.nsr if c.verdict == "worse" else None),
        Column("change", lambda c: words.times(c.nsr), drop=4, is_text=True),
        Column("SQNR", lambda c: words.arrow(tables.decibel(c.old.sqnr_db),
                                        tables.decibel(c.new.sqnr_db)), drop=3),
        Column("cosine", lambda c: words.arrow(tables.cosine(c.old.cosine),
                                          tables.cosine(c.new.cosine)), drop=2),
        Column("additivity", lambda c: words.arrow(tables.ratio(c.old.additivity),
                                              tables.ratio(c.new.additivity)), drop=1),
    ]  # fmt: skip
    known = [Pair(c.old.additivity, c.new.additivity) for c in outputs]
    silent = all(pair.old is None and pair.new is None for pair in known)
    return [column for column in columns if column.title != "additivity" or not silent]


def _output_name(change: OutputChange) -> str:
    return ("  " if change.new.slice_of is not None else "") + words.named(change)


def _print_causes(changes: Changes, console: Console, *, show_all: bool) -> None:
    from rich.text import Text

    printed = False
    for state, found in words.states(changes.findings).items():
        shown = found if show_all or len(found) <= _FINDINGS + 1 else found[:_FINDINGS]
        label = "Still" if state == "still there" else state.capitalize()
        for change in shown:
            line = f"{tables.printable(change.finding.code)} {words.cause(change)}"
            print_labelled(console, label, line, style=_STYLES[state])
        if rest := len(found) - len(shown):
            more = f"… {tables.plural(rest, 'more finding')} · --all shows them"
            print_labelled(console, "", more, of_line="dim")
        printed = True
    sources = words.sources(changes)
    for state, line in sources if show_all else sources[:_FINDINGS]:
        print_labelled(console, state.capitalize(), f"source {line}", style=_STYLES[state])
        printed = True
    if printed:
        print_line(console, Text())
