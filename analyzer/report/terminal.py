# SPDX-License-Identifier: Apache-2.0
"""An `Analysis` on a terminal: the worst layers first, the verdict last, then the next command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analyzer.records import Analysis, LayerError, OutputError, Proposal
from analyzer.report import advice, ledger, tables, wording
from analyzer.report.columns import Column, print_labelled, print_line, print_rows, print_wrapped

if TYPE_CHECKING:
    from rich.console import Console

_CONTRIBUTORS = 5
_FINDINGS = 8
_INTERACTIONS = 2
_OUTPUT = 24  # columns of an output's name in a title
_PROPOSALS = 8


def render_terminal(
    analysis: Analysis,
    *,
    console: Console,
    limit: int = 10,
    show_all: bool = False,
    quiet: bool = False,
    report: Path | None = None,
    export: Path | None = None,
    next_command: str | None = None,
) -> None:
    """Print head line, layers, outputs, contributors, findings, proposals, verdict, what is next.

    Args:
        analysis: what to show.
        console: where to print; decides about colour, width and plain rows.
        limit: how many layers to show, the worst first.
        show_all: show everything there is.
        quiet: print the verdict and nothing else.
        report: path of the HTML report, printed after the verdict.
        export: path of the folder that a plan was exported into, printed after that.
        next_command: command line to suggest, printed last.
    """
    from rich.text import Text

    verdict = Text(wording.verdict(analysis), style="bold")
    if quiet:
        print_wrapped(console, verdict)
        return
    print_wrapped(console, Text(" · ".join(wording.headline(analysis)), style="bold"))
    print_line(console, Text())
    _print_layers(analysis, console, len(analysis.layers) if show_all else max(limit, 0))
    outputs = ledger.in_families(analysis.outputs)
    print_rows(console, _output_columns(outputs), outputs)
    print_line(console, Text())
    _print_contributors(analysis, console, show_all=show_all)
    for warning in analysis.warnings:
        print_labelled(console, "Note", tables.printable(warning), style="yellow")
    _print_findings(analysis, console, show_all=show_all)
    _print_proposals(analysis, console, show_all=show_all)
    if answer := wording.answer(analysis.task):
        print_labelled(console, "Answer", answer)
    print_wrapped(console, verdict)
    for label, value in (("Report", report), ("Export", export), ("Next", next_command)):
        if value is not None:
            print_labelled(console, label, tables.printable(str(value)), wrap=False)


def _print_layers(analysis: Analysis, console: Console, limit: int) -> None:
    from rich.text import Text

    ranked = tables.rank(analysis.layers)
    every = limit >= len(ranked)
    print_rows(console, _layer_columns(ranked[:limit], every=every), ranked[:limit])
    if not every:
        rest = f"… {tables.plural(len(ranked) - limit, 'more layer')} · --all shows every layer"
        print_line(console, Text(rest, style="dim"))
    print_line(console, Text())


def _layer_columns(layers: Sequence[LayerError], *, every: bool) -> list[Column[LayerError]]:
    """The columns that have something to say about these layers."""
    columns: list[Column[LayerError]] = [
        Column("layer", lambda row: tables.printable(row.name), is_text=True),
        Column("op", lambda row: tables.printable(row.op_type), drop=7, is_text=True),
        Column("isolated", lambda row: tables.percent(row.isolated_nsr),
                nsr=lambda row: row.isolated_nsr),
        Column("95 % interval", lambda row: tables.interval(row.isolated_ci), drop=5),
        Column("local", lambda row: tables.percent(row.local_nsr), drop=6,
                nsr=lambda row: row.local_nsr),
        Column("graphwise", lambda row: tables.percent(row.graphwise_nsr),
                nsr=lambda row: row.graphwise_nsr),
        Column("samples", lambda row: str(row.isolated_samples or tables.NOT_MEASURED), drop=2),
        Column("cause", lambda row: tables.printable(" ".join(row.findings)), drop=4,
                is_text=True),
        Column("mostly", wording.mostly, drop=1, is_text=True),
        Column("status", lambda row: tables.printable(row.status), drop=3, is_text=True),
    ]  # fmt: skip
    empty = {
        "95 % interval": not any(row.isolated_ci for row in layers),
        "cause": not any(row.findings for row in layers),
        "mostly": not every or not any(row.parts for row in layers),
        "status": all(row.status == "ok" for row in layers),
    }
    return [column for column in columns if not empty.get(column.title, False)]


def _output_columns(outputs: Sequence[OutputError]) -> list[Column[OutputError]]:
    """The columns that have something to say about these outputs."""
    columns: list[Column[OutputError]] = [
        Column("output", _output_name, is_text=True),
        Column("NSR", lambda row: tables.percent(row.nsr), nsr=lambda row: row.nsr),
        Column("SQNR", lambda row: tables.decibel(row.sqnr_db), drop=6),
        Column("cosine", lambda row: tables.cosine(row.cosine), drop=3),
        Column("max abs", lambda row: tables.number(row.max_abs), drop=1),
        Column("isolated sum", lambda row: tables.percent(row.isolated_sum), drop=2),
        Column("additivity", lambda row: tables.ratio(row.additivity), drop=4),
        Column("explained", lambda row: tables.share(ledger.account(row).explained), drop=5),
        Column("status", lambda row: wording.LOST if row.lost else "", is_text=True,
               nsr=lambda row: 1.0 if row.lost else None),
    ]  # fmt: skip
    empty = {
        "isolated sum": all(row.isolated_sum is None for row in outputs),
        "additivity": all(row.additivity is None for row in outputs),
        "explained": all(ledger.account(row).explained is None for row in outputs),
        "status": not any(row.lost for row in outputs),
    }
    return [column for column in columns if not empty.get(column.title, False)]


def _output_name(output: OutputError) -> str:
    indent = "  " if output.slice_of is not None else ""
    return indent + tables.printable(output.name)


def _print_contributors(analysis: Analysis, console: Console, *, show_all: bool) -> None:
    """Print who the error of the worst output comes from, and what they do together."""
    from rich.text import Text

    worst = analysis.worst_output
    found = ledger.contributors(analysis, worst.name)
    heard = [row for row in found if row.nsr]
    shown = found if show_all else heard[:_CONTRIBUTORS]
    if not heard:
        return
    print_rows(console, _contributor_columns(worst.name, shown), shown)
    if len(found) > len(shown):
        rest = sum(row.share or 0.0 for row in found[len(shown) :])
        more = tables.plural(len(found) - len(shown), "more source")
        print_line(console, Text(f"… {more}: {tables.share(rest)}", style="dim"))
    print_line(console, Text())
    names = [o.name for o in analysis.outputs] if show_all else [worst.name]
    if show_all or not ledger.is_additive(worst):
        _print_interactions(analysis, console, names, None if show_all else _INTERACTIONS)


def _contributor_columns(
    output: str, rows: Sequence[ledger.Contributor]
) -> list[Column[ledger.Contributor]]:
    name = f"contributor to {tables.shorten(tables.printable(output), _OUTPUT)}"
    columns: list[Column[ledger.Contributor]] = [
        Column(name, lambda row: tables.printable(row.title), is_text=True),
        Column("share", lambda row: tables.share(row.share)),
        Column("alone", lambda row: tables.percent(row.nsr), drop=2, nsr=lambda row: row.nsr),
        Column("price of alignment", lambda row: _price(row.source.alignment_price), drop=1),
        Column("status", lambda row: tables.printable(row.source.status), drop=1, is_text=True),
    ]
    empty = {
        "price of alignment": all(row.source.alignment_price is None for row in rows),
        "status": all(row.source.status == "ok" for row in rows),
    }
    return [column for column in columns if not empty.get(column.title, False)]


def _price(price: float | None) -> str:
    return "" if price is None else tables.signed(price)


def _print_interactions(
    analysis: Analysis, console: Console, outputs: Iterable[str], limit: int | None
) -> None:
    from rich.text import Text

    titles = ledger.titles(analysis)
    printed = False
    for output in outputs:
        for found in ledger.interactions(analysis, output)[:limit]:
            where = "" if limit else f"{tables.printable(output)}: "
            print_labelled(console, "Together", where + wording.interaction(found, titles))
            printed = True
    if printed:
        print_line(console, Text())


def _print_findings(analysis: Analysis, console: Console, *, show_all: bool) -> None:
    lines = wording.findings(analysis.findings)
    # one line that says "1 more" would be as long as the line it hides
    shown = lines if show_all or len(lines) <= _FINDINGS + 1 else lines[:_FINDINGS]
    for code, line in shown:
        print_labelled(console, tables.printable(code), line, style="yellow")
    if rest := lines[len(shown) :]:
        codes = ", ".join(dict.fromkeys(tables.printable(code) for code, _ in rest))
        more = f"… {tables.plural(len(rest), 'more finding')} ({codes}) · --all shows them"
        print_labelled(console, "", more, style="dim", of_line="dim")


def _print_proposals(analysis: Analysis, console: Console, *, show_all: bool) -> None:
    """Print the plans that are worth a choice, then the recommended one and the best free one."""
    from rich.text import Text

    front = advice.front(analysis)
    every = [*front, *advice.others(analysis)]
    shown = every if show_all else wording.few(front, _PROPOSALS)
    if shown:
        print_line(console, Text())
        print_rows(console, _proposal_columns(analysis, shown), shown)
        if len(every) > len(shown):
            rest = (
                f"… {tables.plural(len(every) - len(shown), 'more proposal')} · --all shows them"
            )
            print_line(console, Text(rest, style="dim"))
        print_line(console, Text())
    best, free = advice.recommended(analysis), advice.free(analysis)
    if best is not None:
        print_labelled(console, "Advice", advice.reason(best), style="green")
        print_labelled(console, "Change", advice.in_words(best), style="green")
    elif analysis.attempts and (line := advice.silence(analysis)):
        print_labelled(console, "Advice", line)
    if free is not None and free is not best:
        print_labelled(console, "Free", advice.brings(free), style="green")


def _proposal_columns(analysis: Analysis, plans: Sequence[Proposal]) -> list[Column[Proposal]]:
    """The columns that have something to say about these plans."""
    score = next((name for p in plans for name in p.task_after), "")
    title = tables.shorten(tables.printable(score), _OUTPUT)
    columns: list[Column[Proposal]] = [
        Column("proposal", _proposal_name, is_text=True),
        Column("MACs moved", lambda p: tables.percent(p.costs.macs), drop=7),
        Column("time", lambda p: advice.times(p.costs.time), drop=3),
        Column("ms", lambda p: tables.number(p.costs.milliseconds), drop=4),
        Column("worst NSR", lambda p: _moved(analysis, p), drop=6,
               nsr=lambda p: advice.worst(p.outputs_after, analysis)),
        Column("predicted", lambda p: tables.remainder(p.predicted), drop=2),
        Column("noise left", lambda p: tables.remainder(p.left)),
        Column(title, lambda p: _scored(score, p),
               drop=5),
        Column("changes", advice.in_words, drop=1, is_text=True, fills=True),
    ]  # fmt: skip
    empty = {
        "time": all(p.costs.time == 1 for p in plans),
        "ms": all(p.costs.milliseconds is None for p in plans),
        "predicted": all(p.predicted is None for p in plans),
        title: not score,
    }
    return [column for column in columns if not empty.get(column.title, False)]


def _proposal_name(proposal: Proposal) -> str:
    mark = "*" if proposal.recommended else " "
    return f"{mark} {tables.printable(proposal.name)}"


def _scored(name: str, proposal: Proposal) -> str:
    scores = (proposal.task_before.get(name), proposal.task_after.get(name))
    return " → ".join(wording.scored(name, value) for value in scores)


def _moved(analysis: Analysis, proposal: Proposal) -> str:
    before, after = proposal.outputs_before, proposal.outputs_after
    return advice.moved(advice.worst(before, analysis), advice.worst(after, analysis))
