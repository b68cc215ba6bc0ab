# SPDX-License-Identifier: Apache-2.0
"""Changes as text: Markdown for a pull request, JSON and CSV for scripts."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence

from analyzer.records import Analysis
from analyzer.report import tables
from analyzer.report.changes import Changes, LayerChange, OutputChange
from analyzer.report.changes import wording as words
from analyzer.report.markdown import LIMIT, MOST, Fold, code, escape, joined, table

SCHEMA_VERSION = 1
_LAYERS = 10
_COUNTED = 20  # findings, outputs, differences


def render_changes_markdown(changes: Changes, *, show_all: bool = False) -> str:
    """Return verdict, what differs beneath it, outputs, scores, worst layers, causes; rest folded.

    Args:
        changes: of two analyses.
        show_all: every row and name; else the text fits a comment on GitHub.
    """
    most = None if show_all else _COUNTED
    moved = [c for c in changes.layers if c.verdict not in ("unchanged", "not measured")]
    first = changes.layers if show_all else moved[:_LAYERS]
    rest = changes.layers[len(first) :] if not show_all else ()
    verdicts = words.verdicts(changes)
    blocks = [
        [f"**{escape(line)}**  " for line in verdicts[:most]],
        [escape(words.held_against(changes))],
        [f"- {escape(remark)}" for remark in words.remarks(changes)]
        + [f"- Differs: {escape(w)}: {escape(line)}" for w, line in words.differences(changes)][
            :most
        ],
        _outputs(changes.outputs[:most], short=not show_all),
        [f"- {escape(words.answer(score))}" for score in changes.scores[:most]]
        + [f"- {escape(_cut(line, show_all))}" for line in words.other_outputs(changes)],
        _layers(first, short=not show_all),
        [escape(words.counts(changes))],
        [f"- {escape(line)}" for line in words.matching(changes, None if show_all else 10)],
        _causes(changes, most),
    ]
    fold = Fold(
        "All other layers", _HEADER, _rows(rest[:MOST], short=True), max(len(rest) - MOST, 0)
    )
    return joined(blocks, [fold], None if show_all else LIMIT)


_HEADER = ["layer", "op", "precision", "isolated", "change", "local", "graphwise"]


def _outputs(outputs: Sequence[OutputChange], *, short: bool) -> list[str]:
    rows = [
        [
            code(words.named(c), short=short), words.moved(c.nsr), words.times(c.nsr),
            words.arrow(tables.decibel(c.old.sqnr_db), tables.decibel(c.new.sqnr_db)),
            words.arrow(tables.cosine(c.old.cosine), tables.cosine(c.new.cosine)),
            words.arrow(tables.ratio(c.old.additivity), tables.ratio(c.new.additivity)),
        ]
        for c in outputs
    ]  # fmt: skip
    header = ["output", "NSR", "change", "SQNR", "cosine", "additivity"]
    return table(header, rows) if rows else []


def _layers(layers: Sequence[LayerChange], *, short: bool) -> list[str]:
    return table(_HEADER, _rows(layers, short=short)) if layers else []


def _rows(layers: Iterable[LayerChange], *, short: bool) -> list[list[str]]:
    return [
        [
            code(c.new.name, short=short)
            + (f" was {code(c.old.name, short=short)}" if c.new.name != c.old.name else ""),
            code(c.new.op_type, short=short),
            escape(_precision(c)),
            words.moved(c.isolated),
            words.layer_verdict(c),
            words.moved(c.local),
            words.moved(c.graphwise),
        ]
        for c in layers
    ]


def _precision(change: LayerChange) -> str:
    return words.arrow(change.old.precision, change.new.precision)


def _causes(changes: Changes, most: int | None) -> list[str]:
    lines = [
        f"- {change.state.capitalize()}: {escape(change.finding.code)} "
        f"{escape(_cut(words.cause(change), most is None))}"
        for change in changes.findings
    ]
    lines += [
        f"- {state.capitalize()}: source {escape(_cut(line, most is None))}"
        for state, line in words.sources(changes)
    ]
    return [*lines[:most], f"- … {len(lines) - most:,} more"] if most and lines[most:] else lines


def _cut(text: str, whole: bool) -> str:
    return text if whole else tables.shorten(text, 300)


def render_changes_csv(changes: Changes) -> str:
    """Return one line per output, score, layer and finding; NSRs are plain ratios."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["kind", "name", "old_name", "measure", "old", "new", "verdict"])
    for row in _measures(changes):
        writer.writerow(["" if cell is None else _plain(cell) for cell in row])
    return stream.getvalue()


_Cell = float | str | None


def _measures(changes: Changes) -> Iterable[tuple[_Cell, ...]]:
    for c in changes.outputs:
        kind = "output" if c.new.slice_of is None else "slice"
        yield (kind, c.new.name, c.old.name, "nsr", c.old.nsr, c.new.nsr, c.verdict)
        yield (kind, c.new.name, c.old.name, "sqnr_db", c.old.sqnr_db, c.new.sqnr_db, None)
        yield (kind, c.new.name, c.old.name, "cosine", c.old.cosine, c.new.cosine, None)
        yield (
            kind,
            c.new.name,
            c.old.name,
            "additivity",
            c.old.additivity,
            c.new.additivity,
            None,
        )
    for s in changes.scores:
        yield ("score", s.new.name, s.old.name, s.new.against, s.old.value, s.new.value, None)
    for x in changes.layers:
        names = ("layer", x.new.name, x.old.name)
        yield (*names, "isolated_nsr", x.isolated.old, x.isolated.new, x.verdict)
        yield (*names, "local_nsr", x.local.old, x.local.new, None)
        yield (*names, "graphwise_nsr", x.graphwise.old, x.graphwise.new, None)
        yield (*names, "precision", x.old.precision, x.new.precision, None)
    for f in changes.findings:
        old, new = (None if of is None else of.gain for of in (f.old, f.new))
        yield ("finding", f.finding.layer, None, f.finding.code, old, new, f.state)
    for kind, state, found in _alone(changes):
        for name in found:
            old_name, new_name = (name, None) if state == "gone" else (None, name)
            yield (kind, new_name, old_name, None, None, None, state)


def _alone(changes: Changes) -> Iterable[tuple[str, str, tuple[str, ...]]]:
    yield "output", "gone", changes.outputs_gone
    yield "output", "new", changes.outputs_new
    yield "score", "gone", changes.scores_gone
    yield "score", "new", changes.scores_new
    yield "layer", "gone", changes.layers_gone
    yield "layer", "new", changes.layers_new
    yield "source", "gone", tuple(source.name for source in changes.sources_gone)
    yield "source", "new", tuple(source.name for source in changes.sources_new)


def _plain(cell: float | str) -> str:
    if isinstance(cell, str):  # lone surrogates in a path have no UTF-8 form
        return cell.encode("utf-8", "backslashreplace").decode("utf-8")
    return repr(float(cell))


def render_changes_json(changes: Changes) -> str:
    """Return all of it as JSON with a schema version; "inf" and "nan" are texts."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "kind": "changes",
        "new": _side(changes.new),
        "old": _side(changes.old),
        "same_data": changes.same_data,
        "differences": [
            {"topic": d.topic, "what": d.what, "old": d.old, "new": d.new}
            for d in changes.differences
        ],
        "outputs": [
            {"name": c.new.name, "old_name": c.old.name, "slice_of": c.new.slice_of,
             "verdict": c.verdict, "nsr": _pair(c.old.nsr, c.new.nsr),
             "sqnr_db": _pair(c.old.sqnr_db, c.new.sqnr_db),
             "cosine": _pair(c.old.cosine, c.new.cosine),
             "additivity": _pair(c.old.additivity, c.new.additivity)}
            for c in changes.outputs
        ],
        "scores": [
            {"name": c.new.name, "against": c.new.against,
             "value": _pair(c.old.value, c.new.value)}
            for c in changes.scores
        ],
        "layers": [
            {"name": c.new.name, "old_name": c.old.name, "op_type": c.new.op_type,
             "matched_by": c.by, "verdict": c.verdict,
             "precision": [c.old.precision, c.new.precision],
             "isolated_nsr": _pair(c.isolated.old, c.isolated.new),
             "local_nsr": _pair(c.local.old, c.local.new),
             "graphwise_nsr": _pair(c.graphwise.old, c.graphwise.new)}
            for c in changes.layers
        ],
        "findings": [
            {"code": c.finding.code, "layer": c.finding.layer, "state": c.state,
             "gain": [None if of is None else _number(of.gain) for of in (c.old, c.new)]}
            for c in changes.findings
        ],
        "unmatched": {
            kind: {state: list(names) for k, state, names in _alone(changes) if k == kind}
            for kind in ("output", "score", "layer", "source")
        },
        "verdicts": words.verdicts(changes),
    }  # fmt: skip
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # A lone surrogate (an undecodable byte in a path) has no UTF-8 form; its JSON escape has.
    return re.sub("[\ud800-\udfff]", lambda m: f"\\u{ord(m[0]):04x}", text)


def _side(analysis: Analysis) -> dict[str, object]:
    provenance = analysis.provenance
    return {
        "model": provenance.model.get("name"),
        "sha256": provenance.model.get("sha256"),
        "target": provenance.target,
        "command": provenance.command,
        "tool_version": provenance.tool_version,
    }


def _pair(old: float | None, new: float | None) -> list[float | str | None]:
    return [_number(old), _number(new)]


def _number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)
