# SPDX-License-Identifier: Apache-2.0
"""Several analyses of one model side by side: one row per target, and its worst layers by target.

Layers are matched by the user's own nodes: every quantizer's tool has its own names for them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from analyzer.records import Analysis, Proposal
from analyzer.report import advice, markdown, tables, wording
from analyzer.report.columns import (
    Column,
    Row,
    print_labelled,
    print_line,
    print_rows,
    print_wrapped,
)

if TYPE_CHECKING:
    from rich.console import Console

WORST = 10


@dataclass(frozen=True, slots=True)
class Comparison:
    """What there is to compare.

    Attributes:
        analyses: of one model, one per target.
        refused: target -> one sentence why it was left out.
        reports: target -> path of its HTML report.
        exports: target -> folder that a plan was exported into.
    """

    analyses: tuple[Analysis, ...]
    refused: Mapping[str, str]
    reports: Mapping[str, Path]
    exports: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CommonLayer:
    """One layer of the user's model.

    Attributes:
        name: of its first node.
        isolated: target -> isolated NSR; targets that did not measure it are missing.
    """

    name: str
    op_type: str
    isolated: Mapping[str, float]

    @property
    def worst(self) -> float:
        """The largest of them."""
        return max(self.isolated.values())


def name_of(analysis: Analysis) -> str:
    """Return the target of an analysis."""
    return analysis.provenance.target


def active_quantizers(analysis: Analysis) -> int:
    """Return how many fake-quantizations the plan runs."""
    return sum(q.active for q in analysis.plan.quantizers)


def common_layers(analyses: Sequence[Analysis]) -> list[CommonLayer]:
    """Return the layers with an isolated error for any target, the worst first."""
    names: dict[str, tuple[str, str]] = {}  # user's node -> name and op type of its layer
    errors: dict[str, dict[str, float]] = {}
    for analysis in analyses:
        for row in analysis.layers:
            if row.isolated_nsr is None:
                continue
            nodes = row.source_nodes or (row.name,)
            known = next((names[node] for node in nodes if node in names), None)
            key = known or (nodes[0], row.op_type)
            for node in nodes:
                names.setdefault(node, key)  # two layers here may be one that another target fuses
            of_layer = errors.setdefault(key[0], {})
            target = name_of(analysis)
            # two rows of one target may stand for one node of the user's (a split layer)
            of_layer[target] = max(of_layer.get(target, 0.0), row.isolated_nsr)
    types = dict(names.values())
    layers = [CommonLayer(name, types[name], found) for name, found in errors.items()]
    return sorted(layers, key=lambda layer: layer.worst, reverse=True)


def render_comparison(
    comparison: Comparison, *, console: Console, show_all: bool = False, quiet: bool = False
) -> None:
    """Print both tables, the best target first, and where the reports are.

    With `quiet` it is one verdict per target and nothing else.
    """
    from rich.text import Text

    analyses = _best_first(comparison.analyses)
    if quiet:
        for analysis in analyses:
            line = f"{name_of(analysis)}: {wording.verdict(analysis)}"
            print_wrapped(console, Text(tables.printable(line), style="bold"))
        return
    if analyses:
        head = wording.headline(analyses[0])
        head[2] = tables.plural(len(analyses), "target")
        del head[1]
        print_wrapped(console, Text(" · ".join(head), style="bold"))
        print_line(console, Text())
        print_rows(console, _target_columns(analyses), analyses)
        print_line(console, Text())
        layers = common_layers(analyses)
        shown = layers if show_all else layers[:WORST]
        print_rows(console, _layer_columns(analyses), shown)
        if len(layers) > len(shown):
            rest = tables.plural(len(layers) - len(shown), "more layer")
            print_line(console, Text(f"… {rest} · --all shows every layer", style="dim"))
        print_line(console, Text())
    for target, reason in comparison.refused.items():
        print_labelled(
            console, "Left out ", tables.printable(f"{target}: {reason}"), style="yellow"
        )
    for analysis in analyses:
        for label, paths in (("Report", comparison.reports), ("Export", comparison.exports)):
            if (path := paths.get(name_of(analysis))) is not None:
                print_labelled(console, label, tables.printable(str(path)), wrap=False)


def render_comparison_markdown(comparison: Comparison) -> str:
    """Return both tables as Markdown; all layers."""
    analyses = _best_first(comparison.analyses)
    layers = common_layers(analyses)
    lines = [
        *_markdown(_target_columns(analyses), analyses),
        "",
        *_markdown(_layer_columns(analyses), layers),
        "",
        *(f"- Left out {markdown.escape(f'{t}: {why}')}" for t, why in comparison.refused.items()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _markdown(columns: Sequence[Column[Row]], rows: Sequence[Row]) -> list[str]:
    """Write rows as a Markdown table: texts to the left, numbers to the right."""
    rule = [":---" if column.is_text else "---:" for column in columns]
    cells = [
        [
            markdown.code(c.text(row)) if c is columns[0] else markdown.escape(c.text(row))
            for c in columns
        ]
        for row in rows
    ]
    titles = [markdown.escape(column.title) for column in columns]
    return [f"| {' | '.join(line)} |" for line in (titles, rule, *cells)]


def render_comparison_csv(comparison: Comparison) -> str:
    """Return one line per target and output; NSRs are plain ratios."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = ("nsr", "sqnr_db", "cosine", "max_abs", "isolated_sum", "additivity", "explained")
    writer.writerow(["target", "output", *columns])
    for analysis in _best_first(comparison.analyses):
        for output in analysis.outputs:
            values = (getattr(output, column) for column in columns)
            numbers = ("" if value is None else repr(float(value)) for value in values)
            writer.writerow([name_of(analysis), output.name, *numbers])
    return stream.getvalue()


def render_comparison_json(comparison: Comparison) -> str:
    """Return targets, outputs and common layers as JSON; "inf" and "nan" are texts."""
    document = {
        "targets": [
            {
                "target": name_of(analysis),
                "report": str(comparison.reports.get(name_of(analysis), "")),
                "quantizers": active_quantizers(analysis),
                "outputs": [
                    {"name": o.name, "nsr": _number(o.nsr), "sqnr_db": _number(o.sqnr_db),
                     "cosine": _number(o.cosine), "additivity": _number(o.additivity),
                     "explained": _number(o.explained), "slice_of": o.slice_of, "lost": o.lost}
                    for o in analysis.outputs
                ],
                "task": [
                    {"name": s.name, "value": _number(s.value), "against": s.against,
                     "reference": _number(s.reference), "samples": s.samples}
                    for s in analysis.task
                ],
                "findings": [
                    {"code": f.code, "layer": f.layer, "gain": _number(f.gain)}
                    for f in analysis.findings
                ],
                "proposals": [
                    {"name": p.name, "recommended": p.recommended, "macs": _number(p.costs.macs),
                     "time": _number(p.costs.time), "predicted": _number(p.predicted),
                     "left": _number(p.left)}
                    for p in advice.front(analysis)
                ],
            }
            for analysis in _best_first(comparison.analyses)
        ],
        "layers": [
            {"name": layer.name, "op_type": layer.op_type,
             "isolated_nsr": {t: _number(v) for t, v in layer.isolated.items()}}
            for layer in common_layers(comparison.analyses)
        ],
        "refused": dict(comparison.refused),
    }  # fmt: skip
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _number(value: float | None) -> float | str | None:
    finite = value is None or value - value == 0
    return value if finite else str(value)


def _best_first(analyses: Sequence[Analysis]) -> list[Analysis]:
    def noise(analysis: Analysis) -> tuple[bool, float]:
        nsr = analysis.worst_output.nsr
        return nsr != nsr, nsr  # NaN last

    return sorted(analyses, key=noise)


def answer(analysis: Analysis) -> str:
    """Return the first score of the task, with its name; empty where the task is not known."""
    if not analysis.task:
        return ""
    score = analysis.task[0]
    return f"{tables.printable(score.name)} {wording.value(score, score.value)}"


def top_cause(analysis: Analysis) -> str:
    """Return code, gain and place of the cause whose removal brought most, if any did."""
    for finding in analysis.findings:
        if finding.gain is None or finding.gain < 0.005:
            continue
        place = f" {finding.layer}" if finding.layer else ""
        return tables.printable(f"{finding.code} {tables.share(finding.gain)}{place}")
    return ""


def left_with(plan: Proposal | None) -> str:
    """Return the share of the output noise that is left with a plan; empty without one."""
    return "" if plan is None else f"{tables.remainder(plan.left)} left"


def _target_columns(analyses: Sequence[Analysis]) -> list[Column[Analysis]]:
    def worst_layer(analysis: Analysis) -> str:
        first = tables.rank(analysis.layers)[0]
        if first.isolated_nsr is None:
            return tables.NOT_MEASURED
        return f"{tables.printable(first.name)} {tables.percent(first.isolated_nsr)}"

    columns = [
        Column("target", name_of, is_text=True),
        Column("worst output", lambda a: tables.printable(a.worst_output.name), drop=6,
               is_text=True),
        Column("NSR", lambda a: tables.percent(a.worst_output.nsr),
               nsr=lambda a: a.worst_output.nsr),
        Column("SQNR", lambda a: tables.decibel(a.worst_output.sqnr_db)),
        Column("answer", answer, drop=7, is_text=True),
        Column("cosine", lambda a: tables.cosine(a.worst_output.cosine), drop=4),
        Column("additivity", lambda a: tables.ratio(a.worst_output.additivity), drop=3),
        Column("quantizers", lambda a: f"{active_quantizers(a):,}", drop=2),
        Column("findings", lambda a: f"{len(a.findings):,}", drop=3),
        Column("top cause", top_cause, drop=5, is_text=True),
        Column("best free", lambda a: left_with(advice.free(a)), drop=7),
        Column("recommended", lambda a: left_with(advice.recommended(a)), drop=8),
        Column("worst layer", worst_layer, drop=1, is_text=True),
    ]  # fmt: skip
    empty = {
        "answer": not any(analysis.task for analysis in analyses),
        "findings": not any(analysis.findings for analysis in analyses),
        "top cause": not any(map(top_cause, analyses)),
        "best free": not any(map(advice.free, analyses)),
        "recommended": not any(map(advice.recommended, analyses)),
    }
    return [column for column in columns if not empty.get(column.title, False)]


def _layer_columns(analyses: Sequence[Analysis]) -> list[Column[CommonLayer]]:
    columns: list[Column[CommonLayer]] = [
        Column("layer", lambda row: tables.printable(row.name), is_text=True),
        Column("op", lambda row: tables.printable(row.op_type), drop=1, is_text=True),
    ]
    for place, analysis in enumerate(analyses):
        target = name_of(analysis)
        columns.append(
            Column(
                target,
                lambda row, t=target: tables.percent(row.isolated.get(t)),  # type: ignore[misc]
                drop=0 if place == 0 else 1 + len(analyses) - place,
                nsr=lambda row, t=target: row.isolated.get(t),  # type: ignore[misc]
            )
        )
    return columns
