# SPDX-License-Identifier: Apache-2.0
"""An `Analysis` in, Markdown out: for a pull request, an issue or a job summary."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analyzer.records import Analysis, LayerError, OutputError
from analyzer.report import advice, ledger, wording
from analyzer.report.tables import (
    cosine,
    decibel,
    interval,
    number,
    percent,
    plural,
    printable,
    rank,
    ratio,
    remainder,
    share,
    shorten,
)

LIMIT = 60_000  # characters: a comment on GitHub holds 65,536, and is not ours alone
_ROWS = 10  # layers, contributors and proposals before the rest is folded or counted
_LINES = 20  # outputs, findings and notes
MOST = 700  # rows of a fold; more do not fit
_REMARKS = 30
_SENTENCE = 60  # characters of the one that says so
_NAME, _LINE = 80, 300  # characters of a name and of a sentence in what has to fit


def render_markdown(analysis: Analysis, *, show_all: bool = False) -> str:
    """Return verdict, worst layers, findings and proposals; behind them, folded, the rest.

    Args:
        analysis: the result.
        show_all: every row and whole names; else the text fits a comment on GitHub.
    """
    answer = wording.answer(analysis.task)
    short = not show_all
    ranked = rank(analysis.layers)
    first = ranked[:_ROWS] if short else ranked
    blocks = [
        [f"**{escape(_cut(wording.verdict(analysis), short))}**"],
        [escape(_cut(" · ".join(wording.headline(analysis)), short))],
        [f"Answer: {escape(_cut(answer, short))}"] if answer else [],
        _advice(analysis, short=short),
        table(_LAYERS, _layers(first, short=short)),
        _findings(analysis, short=short),
        _proposals(analysis, short=short),
    ]
    rest, remarks = ranked[len(first) :], _remarks(analysis)
    folds = [
        Fold("Outputs", *_outputs(analysis, short=short)),
        Fold(*_contributors(analysis, short=short)),
        Fold("Interactions and notes", ["remark"],
             [[escape(_cut(line, short))] for line in (remarks[:_REMARKS] if short else remarks)],
             max(len(remarks) - _REMARKS, 0) if short else 0),
        Fold(
            plural(len(rest), "more layer"), _LAYERS, _layers(rest[:MOST], short=True),
            max(len(rest) - MOST, 0),
        ),
    ]  # fmt: skip
    return joined(blocks, folds, LIMIT if short else None)


@dataclass(frozen=True, slots=True)
class Fold:
    """A table that opens on a click.

    Attributes:
        more: rows that it has no room for.
    """

    summary: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    more: int = 0

    def text(self, room: int | None) -> str:
        """Return it in at most `room` characters, with as many rows as fit; None: all of it."""
        head = f"\n<details><summary>{html.escape(self.summary)}</summary>\n\n"
        first, rule, *rows = (f"{line}\n" for line in table(self.header, self.rows))
        head, end = head + first + rule, "\n</details>\n"
        whole = head + "".join(rows) + end
        if not rows or (not self.more and (room is None or len(whole) <= room)):
            return whole if rows else ""
        left = math.inf if room is None else room - len(head) - len(end) - _SENTENCE
        kept = 0
        while kept < len(rows) and len(rows[kept]) <= left:
            left -= len(rows[kept])
            kept += 1
        lost = plural(len(rows) - kept + self.more, "more line")
        note = f"\n… {lost} left out for its length\n"
        return head + "".join(rows[:kept]) + note + end if kept else ""


def joined(blocks: Iterable[list[str]], folds: Iterable[Fold], limit: int | None) -> str:
    """Put blocks of lines together, empty ones left out, and folds behind them.

    Args:
        blocks: that come first.
        folds: that come last.
        limit: of characters; None: none.
    """
    text = "\n\n".join("\n".join(block) for block in blocks if block) + "\n"
    if limit is not None and len(text) > limit:  # hundreds of outputs or scores
        text = f"{text[: text.rindex(chr(10), 0, limit)]}\n\n… cut off here\n"
    for fold in folds:
        text += fold.text(None if limit is None else limit - len(text))
    return text


def _outputs(analysis: Analysis, *, short: bool) -> tuple[list[str], list[list[str]]]:
    def row(output: OutputError) -> list[str]:
        name = code(output.name, short=short)
        if output.slice_of is not None:
            name = f"{name} of {code(output.slice_of, short=short)}"
        return [
            f"{name}, **{wording.LOST}**" if output.lost else name,
            percent(output.nsr), decibel(output.sqnr_db), cosine(output.cosine),
            number(output.max_abs), percent(output.isolated_sum), ratio(output.additivity),
            share(ledger.account(output).explained),
        ]  # fmt: skip

    header = ["output", "NSR", "SQNR", "cosine", "max abs", "isolated sum", "additivity",
              "explained"]  # fmt: skip
    return header, [row(output) for output in ledger.in_families(analysis.outputs)]


def _findings(analysis: Analysis, *, short: bool) -> list[str]:
    found = wording.findings(analysis.findings)
    # a line that says "1 more" would be as long as the one it hides
    shown = found[:_LINES] if short and len(found) > _LINES + 1 else found
    lines = [f"- {escape(code_)}: {escape(_cut(line, short))}" for code_, line in shown]
    rest = len(found) - len(shown)
    return [*lines, f"- … {plural(rest, 'more finding')}"] if rest else lines


def _proposals(analysis: Analysis, *, short: bool) -> list[str]:
    plans = advice.front(analysis)
    shown = wording.few(plans, _ROWS) if short else plans
    if not shown:
        return []
    scores = list(dict.fromkeys(name for p in shown for name in p.task_after))
    rows = [
        [
            f"**{code(p.name, short=short)}**" if p.recommended else code(p.name, short=short),
            escape(_cut(advice.in_words(p), short)), percent(p.costs.macs),
            advice.times(p.costs.time),
            advice.moved(*(advice.worst(nsr, analysis)
                           for nsr in (p.outputs_before, p.outputs_after))),
            remainder(p.predicted), remainder(p.left),
            *(" → ".join(wording.scored(name, of.get(name))
                         for of in (p.task_before, p.task_after)) for name in scores),
        ]
        for p in shown
    ]  # fmt: skip
    header = ["proposal", "changes", "MACs moved", "time", "worst NSR", "predicted",
              "noise left", *(escape(_cut(name, short)) for name in scores)]  # fmt: skip
    return table(header, rows)


def _advice(analysis: Analysis, *, short: bool) -> list[str]:
    best, free = advice.recommended(analysis), advice.free(analysis)
    lines = [f"- Advice: {escape(_cut(advice.reason(best), short))}"] if best else []
    if free is not None and free is not best:
        lines.append(f"- Free: {escape(_cut(advice.brings(free), short))}")
    return lines


def _contributors(analysis: Analysis, *, short: bool) -> tuple[str, list[str], list[list[str]]]:
    worst = analysis.worst_output
    found = [c for c in ledger.contributors(analysis, worst.name) if c.nsr]
    rows = [
        [code(c.title, short=short), share(c.share), percent(c.nsr),
         percent(c.source.alignment_price)]
        for c in found[: _ROWS if short else None]
    ]  # fmt: skip
    name = printable(worst.name)
    title = f"Where the noise of {shorten(name, _NAME) if short else name} comes from"
    return title, ["contributor", "share", "alone", "price of alignment"], rows


def _remarks(analysis: Analysis) -> list[str]:
    titles = ledger.titles(analysis)
    found = [
        f"At {printable(output.name)}: {wording.interaction(one, titles)}"
        for output in analysis.outputs
        for one in ledger.interactions(analysis, output.name)
    ]
    return [*found, *map(printable, analysis.warnings)]


_LAYERS = ["layer", "op", "precision", "isolated", "95 % interval", "local", "graphwise",
           "samples", "cause", "status"]  # fmt: skip


def _layers(layers: Sequence[LayerError], *, short: bool) -> list[list[str]]:
    return [
        [
            code(layer.name, short=short), code(layer.op_type, short=short),
            escape(layer.precision), percent(layer.isolated_nsr), interval(layer.isolated_ci),
            percent(layer.local_nsr), percent(layer.graphwise_nsr), f"{layer.isolated_samples}",
            escape(" ".join(layer.findings)), escape(_cut(layer.status, short)),
        ]
        for layer in layers
    ]  # fmt: skip


def _cut(text: str, short: bool) -> str:
    return shorten(text, _LINE) if short else text


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table, its columns of text to the left and its numbers to the right."""
    texts = {
        "layer",
        "remark",
        "contributor",
        "output",
        "op",
        "precision",
        "cause",
        "status",
        "proposal",
        "changes",
    }
    left = [title in texts for title in header]
    rule = [":---" if is_text else "---:" for is_text in left]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def code(text: str, *, short: bool = False) -> str:
    """A Markdown code span for a table cell: nothing in it is markup.

    Args:
        text: any.
        short: cut the middle out of a long one.
    """
    text = printable(text)
    text = (shorten(text, _NAME) if short else text).replace("|", "\\|") or "(unnamed)"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def escape(text: str) -> str:
    """Plain text for Markdown: neither markup nor HTML is left in it."""
    return re.sub(r"([\\`*_\[\]{}|~#!])", r"\\\1", html.escape(printable(text), quote=False))
