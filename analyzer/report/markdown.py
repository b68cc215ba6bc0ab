# SPDX-License-Identifier: Apache-2.0
"""An `Analysis` in, Markdown out: for a pull request, an issue or a job summary."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from analyzer.records import Analysis, LayerError, OutputError
from analyzer.report import advice, ledger, wording
from analyzer.report.tables import (
    cosine,
    decibel,
    interval,
    number,
    percent,
    printable,
    rank,
    ratio,
    remainder,
    share,
)

_CONTRIBUTORS = 10


def render_markdown(analysis: Analysis) -> str:
    """Return head line, outputs, findings, proposals, balance, all layers, and the verdict."""
    answer = wording.answer(analysis.task)
    blocks = [
        [f"**{escape(' · '.join(wording.headline(analysis)))}**"],
        _outputs(analysis),
        [f"Answer: {escape(answer)}"] if answer else [],
        _findings(analysis),
        _proposals(analysis),
        _advice(analysis),
        _contributors(analysis),
        _interactions(analysis),
        _layers(analysis.layers),
        [f"- Note: {escape(warning)}" for warning in analysis.warnings],
        [escape(wording.verdict(analysis))],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _outputs(analysis: Analysis) -> list[str]:
    def row(output: OutputError) -> list[str]:
        name = code(output.name)
        if output.slice_of is not None:
            name = f"{name} of {code(output.slice_of)}"
        return [
            f"{name}, **{wording.LOST}**" if output.lost else name,
            percent(output.nsr), decibel(output.sqnr_db), cosine(output.cosine),
            number(output.max_abs), percent(output.isolated_sum), ratio(output.additivity),
            share(ledger.account(output).explained),
        ]  # fmt: skip

    header = ["output", "NSR", "SQNR", "cosine", "max abs", "isolated sum", "additivity",
              "explained"]  # fmt: skip
    return table(header, [row(output) for output in ledger.in_families(analysis.outputs)])


def _findings(analysis: Analysis) -> list[str]:
    lines = wording.findings(analysis.findings)
    return [f"- {escape(found)}: {escape(line)}" for found, line in lines]


def _proposals(analysis: Analysis) -> list[str]:
    plans = advice.front(analysis)
    if not plans:
        return []
    scores = list(dict.fromkeys(name for p in plans for name in p.task_after))
    rows = [
        [
            f"**{code(p.name)}**" if p.recommended else code(p.name),
            escape(advice.in_words(p)), percent(p.costs.macs), advice.times(p.costs.time),
            advice.moved(*(advice.worst(nsr, analysis)
                           for nsr in (p.outputs_before, p.outputs_after))),
            remainder(p.predicted), remainder(p.left),
            *(" → ".join(wording.scored(name, of.get(name))
                         for of in (p.task_before, p.task_after)) for name in scores),
        ]
        for p in plans
    ]  # fmt: skip
    header = ["proposal", "changes", "MACs moved", "time", "worst NSR", "predicted",
              "noise left", *map(escape, scores)]  # fmt: skip
    return table(header, rows)


def _advice(analysis: Analysis) -> list[str]:
    best, free = advice.recommended(analysis), advice.free(analysis)
    lines = [f"- Advice: {escape(advice.reason(best))}"] if best else []
    if free is not None and free is not best:
        lines.append(f"- Free: {escape(advice.brings(free))}")
    return lines


def _contributors(analysis: Analysis) -> list[str]:
    worst = analysis.worst_output
    found = [c for c in ledger.contributors(analysis, worst.name) if c.nsr]
    if not found:
        return []
    rows = [
        [code(c.title), share(c.share), percent(c.nsr), percent(c.source.alignment_price)]
        for c in found[:_CONTRIBUTORS]
    ]
    title = f"contributor to {code(worst.name)}"
    return table([title, "share", "alone", "price of alignment"], rows)


def _interactions(analysis: Analysis) -> list[str]:
    titles = ledger.titles(analysis)
    return [
        f"- At {code(output.name)}: {escape(wording.interaction(found, titles))}"
        for output in analysis.outputs
        for found in ledger.interactions(analysis, output.name)
    ]


def _layers(layers: Sequence[LayerError]) -> list[str]:
    rows = [
        [
            code(layer.name), code(layer.op_type), escape(layer.precision),
            percent(layer.isolated_nsr), interval(layer.isolated_ci), percent(layer.local_nsr),
            percent(layer.graphwise_nsr), f"{layer.isolated_samples}",
            escape(" ".join(layer.findings)), escape(layer.status),
        ]
        for layer in rank(layers)
    ]  # fmt: skip
    header = ["layer", "op", "precision", "isolated", "95 % interval", "local", "graphwise",
              "samples", "cause", "status"]  # fmt: skip
    return table(header, rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table, its columns of text to the left and its numbers to the right."""
    texts = {"layer", "output", "op", "precision", "cause", "status", "proposal", "changes"}
    left = [title in texts or title.startswith("contributor") for title in header]
    rule = [":---" if is_text else "---:" for is_text in left]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def code(text: str) -> str:
    """A Markdown code span for a table cell: nothing in it is markup."""
    text = printable(text).replace("|", "\\|") or "(unnamed)"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def escape(text: str) -> str:
    """Plain text for Markdown: neither markup nor HTML is left in it."""
    return re.sub(r"([\\`*_\[\]{}|~#!])", r"\\\1", html.escape(printable(text), quote=False))
