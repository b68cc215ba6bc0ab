# SPDX-License-Identifier: Apache-2.0
"""Changes as the page shows them: `Changes` in, texts for `changes.html.j2` out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analyzer.records import Analysis
from analyzer.report import tables, wording
from analyzer.report.changes import (
    Changes,
    FindingChange,
    LayerChange,
    OutputChange,
    Pair,
    compare,
)
from analyzer.report.changes import wording as words
from analyzer.report.html.rows import bar

_SHOWN, _FOLDED = 15, 185  # layers: the page stays small, the files have all of them


def context(analysis: Analysis, baseline: Analysis | None) -> dict[str, Any]:  # Any: for Jinja2
    """Return what `templates/changes.html.j2` reads; `changes` is None without a baseline."""
    return {"changes": None if baseline is None else page(compare(analysis, baseline))}


def page(changes: Changes) -> dict[str, Any]:  # Any: what the template reads
    """Return everything that the section shows."""
    places = {layer.name: place for place, layer in enumerate(changes.new.layers)}
    shown = [c for c in changes.layers if c.verdict not in ("unchanged", "not measured")]
    shown = shown[:_SHOWN]
    rest = changes.layers[len(shown) :]
    outputs, whole = changes.outputs, {o.name for o in changes.new.outputs if o.slice_of is None}
    return {
        "baseline": wording.headline(changes.old),
        "verdicts": words.verdicts(changes),
        "remarks": words.remarks(changes),
        "differences": [
            (tables.printable(d.what), tables.printable(d.old), tables.printable(d.new))
            for d in changes.differences
        ],
        "outputs": [_output(c, is_slice=c.new.name not in whole) for c in outputs],
        "others": words.other_outputs(changes),
        "scores": [words.answer(score) for score in changes.scores],
        "counts": words.counts(changes),
        "by_chance": any(c.verdict == "within chance" for c in changes.layers),
        "renamed": any(c.by == "nodes" for c in changes.layers),
        "layers": [_layer(c, places) for c in shown],
        "more_layers": [_layer(c, places) for c in rest[:_FOLDED]],
        "more": tables.plural(len(rest), "other layer"),
        "left_out": _left_out(len(rest) - _FOLDED),
        "two_networks": "" if changes.same_network else words.OTHER_MODEL,
        "unmatched": [
            (where, [tables.printable(name) for name in names[:_FOLDED]], _more(names))
            for where, names in (
                ("only in this analysis", changes.layers_new),
                ("only in the baseline", changes.layers_gone),
            )
            if names
        ],
        "findings": [
            (state, [_finding(c, places) for c in found])
            for state, found in words.states(changes.findings).items()
        ],
        "sources": words.sources(changes),
    }


def _output(change: OutputChange, *, is_slice: bool) -> dict[str, Any]:
    return {
        "name": words.named(change),
        "is_slice": is_slice,
        "nsr": _pair(change.nsr),
        "change": words.times(change.nsr),
        "verdict": change.verdict,
        "sqnr": words.arrow(*(tables.decibel(o.sqnr_db) for o in (change.old, change.new))),
        "cosine": words.arrow(*(tables.cosine(o.cosine) for o in (change.old, change.new))),
        "additivity": words.arrow(*(tables.ratio(o.additivity) for o in (change.old, change.new))),
    }


def _layer(change: LayerChange, places: Mapping[str, int]) -> dict[str, Any]:
    old, new = change.old, change.new
    return {
        "place": places[new.name],
        "name": tables.printable(new.name),
        "was": tables.printable(old.name) if old.name != new.name else "",
        "op": tables.printable(new.op_type),
        "precision": words.arrow(*(tables.printable(x.precision) for x in (old, new))),
        "isolated": _pair(change.isolated),
        "change": words.layer_verdict(change),
        "verdict": change.verdict,
        "local": words.moved(change.local),
        "graphwise": words.moved(change.graphwise),
    }


def _pair(pair: Pair) -> dict[str, str]:
    return {"text": words.moved(pair), "old": bar(pair.old, 1), "new": bar(pair.new, 1)}


def _finding(change: FindingChange, places: Mapping[str, int]) -> dict[str, Any]:
    found = change.finding
    return {
        "code": tables.printable(found.code),
        "text": words.cause(change),
        "place": places.get(found.layer) if found.layer and change.new else None,
    }


def _left_out(count: int) -> str:
    if count <= 0:
        return ""
    return f"{tables.plural(count, 'more layer')}: see --format csv with the same --baseline."


def _more(names: tuple[str, ...]) -> str:
    rest = len(names) - _FOLDED
    return f"and {rest:,} more" if rest > 0 else ""
