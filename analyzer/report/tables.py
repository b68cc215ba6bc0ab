# SPDX-License-Identifier: Apache-2.0
"""Numbers and names as text, the order of the rows, and the CSV and Markdown tables.

Every report takes its numbers from here, so that the terminal, the page and a gate agree on what
is printed.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Iterable, Sequence

from analyzer.codes import CODES
from analyzer.records import Analysis, DataInfo, Finding, LayerError, OutputError

NOT_MEASURED = "\N{EN DASH}"
# Outside of this band the isolated errors of the layers cannot be read as shares of the total.
ADDITIVE = (0.5, 2.0)


def percent(nsr: float | None) -> str:
    """Write an NSR as a percentage of the signal power, with three significant digits.

    Below 0.01 % two digits are left: more would claim a precision that few samples do not give.

    >>> [percent(x) for x in (0.031, 0.000042, 12.3456, 0.0)]
    ['3.10 %', '0.0042 %', '1235 %', '0 %']
    """
    if nsr is None:
        return NOT_MEASURED
    if not math.isfinite(nsr):
        return f"{nsr}"
    value = 100 * nsr
    if value == 0:
        return "0 %"
    if 99.95 <= value < 1e6:
        return f"{value:.0f} %"
    return f"{value:#.3g} %" if value >= 0.01 else f"{value:#.2g} %"


def interval(bounds: tuple[float, float] | None) -> str:
    """Write the two ends of an interval of NSRs, the unit once.

    >>> interval((0.028, 0.034))
    '2.80 .. 3.40 %'
    """
    if bounds is None:
        return ""
    low, high = (percent(bound) for bound in bounds)
    return f"{low.removesuffix(' %')} .. {high}"


def decibel(value: float | None) -> str:
    """Write a ratio in dB with one decimal, "inf dB" for no noise at all."""
    return NOT_MEASURED if value is None else f"{value:.1f} dB"


def cosine(value: float | None) -> str:
    """Write a cosine similarity with six decimals: 0.999 and 0.99999 are far apart here."""
    return NOT_MEASURED if value is None else f"{value:.6f}"


def number(value: float | None) -> str:
    """Write a number in the unit of its tensor with three significant digits."""
    return NOT_MEASURED if value is None else f"{value:.3g}"


def ratio(value: float | None) -> str:
    """Write a plain ratio with two decimals."""
    return NOT_MEASURED if value is None else f"{value:.2f}"


def plural(count: int, unit: str) -> str:
    """Write a count with its unit.

    >>> plural(1, "sample"), plural(1234, "layer")
    ('1 sample', '1,234 layers')
    """
    return f"{count:,} {unit}" if count == 1 else f"{count:,} {unit}s"


def duration(seconds: float) -> str:
    """Write a time span.

    >>> duration(4.08), duration(125.0)
    ('4.1 s', '2 min 5 s')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def printable(text: str) -> str:
    r"""Show every character that a terminal or a browser would obey as an escape.

    Control codes, line breaks and direction overrides in a model's names could otherwise clear
    the screen or reorder the line.

    >>> printable("a\x1b[2Jb\n")
    'a\\x1b[2Jb\\n'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def shorten(text: str, width: int) -> str:
    """Cut the middle out of a name: both its path and its end tell layers apart.

    >>> shorten("/model.10/m/m.0/attn/MatMul", 15)
    '/model.…/MatMul'
    """
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    head, tail = text, text
    while cell_len(head) > (width - 1) // 2:
        head = head[:-1]
    while cell_len(tail) > width - 1 - cell_len(head):
        tail = tail[1:]
    return f"{head}…{tail}"


def rank(layers: Iterable[LayerError]) -> list[LayerError]:
    """Order layers by the damage they do, the worst first.

    By isolated error; layers where it was not measured follow, by graphwise and then by local
    error, because these are no measure of the same thing.  Ties keep execution order.
    """
    return sorted(layers, key=_damage, reverse=True)


def _damage(layer: LayerError) -> tuple[tuple[bool, float], ...]:
    return tuple(
        (value is not None, math.inf if value is None or math.isnan(value) else value)
        for value in (layer.isolated_nsr, layer.graphwise_nsr, layer.local_nsr)
    )


def headline(analysis: Analysis) -> list[str]:
    """Say what was analysed: model, layers, target, data."""
    provenance, plan = analysis.provenance, analysis.plan
    layers = plural(len(analysis.layers), "layer")
    if plan.computing:
        layers += f" ({len(plan.computing):,} computing)"
    return [
        printable(str(provenance.model.get("name", "model"))),
        layers,
        printable(provenance.target),
        samples(provenance.data),
    ]


def samples(data: Sequence[DataInfo]) -> str:
    """Say how many samples stand behind the numbers, once if all roles use the same ones."""
    if not data:
        return "no data"
    if len({(info.count, info.sha256) for info in data}) == 1:
        return plural(data[0].count, "sample")
    return " + ".join(f"{info.count:,} {printable(info.role)}" for info in data) + " samples"


def verdict(analysis: Analysis) -> str:
    """Say in one line how bad it is, and whether the rows add up to it."""
    worst = analysis.worst_output
    name = printable(worst.name)
    which = f"Worst output {name}" if len(analysis.outputs) > 1 else f"Output {name}"
    return f"{which}: NSR {percent(worst.nsr)}, SQNR {decibel(worst.sqnr_db)}; {balance(worst)}"


def findings(found: Sequence[Finding]) -> list[tuple[str, str]]:
    """Return code and one line for every code that was found: what it is, and where."""
    places: dict[str, list[str]] = {}
    for finding in found:
        places.setdefault(finding.code, []).extend([finding.layer] if finding.layer else [])
    advice = {finding.code: finding.advice for finding in found}
    lines = []
    for code, layers in places.items():
        title = CODES[code].title if code in CODES else advice[code].rstrip(".")
        first = f" at {layers[0]}" if layers else ""
        more = f" and {plural(len(layers) - 1, 'more layer')}" if len(layers) > 1 else ""
        lines.append((code, printable(f"{title}{first}{more}")))
    return lines


def balance(output: OutputError) -> str:
    """Hold the sum of the isolated errors against the accumulated error of an output."""
    if output.isolated_sum is None or output.additivity is None:
        return "isolated errors not measured"
    text = (
        f"isolated errors sum to {percent(output.isolated_sum)}, "
        f"additivity {ratio(output.additivity)}"
    )
    if ADDITIVE[0] <= output.additivity <= ADDITIVE[1]:
        return text
    return f"{text} (far from 1: rows do not add up)"


def render_csv(analysis: Analysis) -> str:
    """Return the layers in execution order as CSV; NSRs are plain ratios, empty: not measured.

    `source_nodes` is a JSON list, `findings` are separated by spaces, and each graph output has
    a column `isolated_nsr:NAME`.  Names are written exactly as they are.
    """
    outputs = [output.name for output in analysis.outputs]
    parts = sorted({part for layer in analysis.layers for part in layer.parts})
    columns = [
        "index", "name", "op_type", "precision", "computing", "macs",
        "graphwise_nsr", "graphwise_cosine", "graphwise_sqnr_db", "graphwise_max_abs", "local_nsr",
        "isolated_nsr", "isolated_low", "isolated_high", "isolated_samples",
        *(f"isolated_nsr:{output}" for output in outputs), *(f"part:{part}" for part in parts),
        "group", "status", "findings", "source_nodes",
    ]  # fmt: skip
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for index, layer in enumerate(analysis.layers):
        low, high = layer.isolated_ci or (None, None)
        row: list[object] = [
            index, layer.name, layer.op_type, layer.precision, layer.computing, layer.macs,
            layer.graphwise_nsr, layer.graphwise_cosine, layer.graphwise_sqnr_db,
            layer.graphwise_max_abs, layer.local_nsr, layer.isolated_nsr, low, high,
            layer.isolated_samples,
            *(layer.isolated_by_output.get(output) for output in outputs),
            *(layer.parts.get(part) for part in parts),
            layer.group, layer.status, " ".join(layer.findings),
            json.dumps(list(layer.source_nodes), ensure_ascii=False),
        ]  # fmt: skip
        writer.writerow(_csv_cell(value) for value in row)
    return stream.getvalue()


def _csv_cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(float(value)) if isinstance(value, float) else value


def render_markdown(analysis: Analysis) -> str:
    """Return head line, outputs, all layers (worst first) and verdict as Markdown."""
    lines = [
        f"**{escape(' · '.join(headline(analysis)))}**",
        "",
        *_markdown_table(
            ["output", "NSR", "SQNR", "cosine", "max abs", "isolated sum", "additivity"],
            [
                [
                    code(output.name), percent(output.nsr), decibel(output.sqnr_db),
                    cosine(output.cosine), number(output.max_abs), percent(output.isolated_sum),
                    ratio(output.additivity),
                ]
                for output in analysis.outputs
            ],
        ),
        "",
        *_markdown_table(
            [
                "layer", "op", "precision", "isolated", "95 % interval", "local", "graphwise",
                "samples", "status",
            ],
            [
                [
                    code(layer.name), code(layer.op_type), escape(layer.precision),
                    percent(layer.isolated_nsr), interval(layer.isolated_ci),
                    percent(layer.local_nsr), percent(layer.graphwise_nsr),
                    f"{layer.isolated_samples}", escape(layer.status),
                ]
                for layer in rank(analysis.layers)
            ],
        ),
        "",
        *(f"- Note: {escape(warning)}" for warning in analysis.warnings),
        *(f"- {escape(code)}: {escape(line)}" for code, line in findings(analysis.findings)),
        *([""] if analysis.warnings or analysis.findings else []),
        escape(verdict(analysis)),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    # Only the first column is text for sure; a number is easier to compare right-aligned.
    numeric = {"NSR", "SQNR", "cosine", "max abs", "isolated sum", "additivity", "isolated",
               "95 % interval", "local", "graphwise", "samples"}  # fmt: skip
    rule = ["---:" if title in numeric else ":---" for title in header]
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
