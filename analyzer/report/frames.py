# SPDX-License-Identifier: Apache-2.0
"""An `Analysis` as pandas frames, for notebooks and scripts.

NSRs are plain ratios; NaN stands where nothing was measured.  Columns are called as in the CSV
files, where these have them; names are the index, and a column too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analyzer.records import Analysis, LayerError, Proposal
from analyzer.report import advice

if TYPE_CHECKING:
    import pandas as pd

    from analyzer.report.changes import Changes

_Row = Mapping[str, Any]  # Any: what a cell holds

# Columns of numbers; elsewhere a column of nothing but None would have no type.
_NUMBERS = frozenset(
    "isolated_nsr isolated_low isolated_high local_nsr graphwise_nsr graphwise_cosine "
    "graphwise_sqnr_db graphwise_max_abs nsr sqnr_db cosine max_abs isolated_sum additivity "
    "explained nsr_after value reference value_after gain low high alignment_price macs "
    "elements weight_bytes time milliseconds predicted measured left old new factor".split()
)


def layers_frame(analysis: Analysis) -> pd.DataFrame:
    """Return the layers in execution order, by name.

    `isolated_nsr:OUTPUT` is the isolated error at one output, `part:PART` a share of a layer's
    noise; `channels` holds pairs (channel, share of the local noise), `findings` codes.
    """
    outputs = [output.name for output in analysis.outputs]
    parts = sorted({part for layer in analysis.layers for part in layer.parts})
    rows = [_layer(i, layer, outputs, parts) for i, layer in enumerate(analysis.layers)]
    frame = _frame("layer", [layer.name for layer in analysis.layers], rows, _LAYER)
    return frame.astype({"macs": "Int64"})  # whole numbers, some missing


def _layer(
    number: int, layer: LayerError, outputs: Sequence[str], parts: Sequence[str]
) -> dict[str, Any]:  # Any: what a cell holds
    low, high = layer.isolated_ci or (None, None)
    return {
        "name": layer.name,
        "number": number,
        "op_type": layer.op_type,
        "precision": layer.precision,
        "isolated_nsr": layer.isolated_nsr,
        "isolated_low": low,
        "isolated_high": high,
        "local_nsr": layer.local_nsr,
        "graphwise_nsr": layer.graphwise_nsr,
        "graphwise_cosine": layer.graphwise_cosine,
        "graphwise_sqnr_db": layer.graphwise_sqnr_db,
        "graphwise_max_abs": layer.graphwise_max_abs,
        "isolated_samples": layer.isolated_samples,
        **{f"isolated_nsr:{name}": layer.isolated_by_output.get(name) for name in outputs},
        **{f"part:{name}": layer.parts.get(name) for name in parts},
        "computing": layer.computing,
        "macs": layer.macs,
        "channels": layer.channels,
        "group": layer.group,
        "status": layer.status,
        "findings": " ".join(layer.findings),
        "source_nodes": layer.source_nodes,
    }


_LAYER = tuple(_layer(0, LayerError("", ""), (), ()))


def outputs_frame(analysis: Analysis) -> pd.DataFrame:
    """Return the graph outputs and their slices, by name.

    `nsr_after` is the NSR with the recommended proposal, on the samples it was verified on.
    """
    best = advice.recommended(analysis)
    after: Mapping[str, float] = best.outputs_after if best else {}
    rows = [
        {
            "name": output.name,
            "nsr": output.nsr,
            "nsr_after": after.get(output.name),
            "sqnr_db": output.sqnr_db,
            "cosine": output.cosine,
            "max_abs": output.max_abs,
            "isolated_sum": output.isolated_sum,
            "additivity": output.additivity,
            "explained": output.explained,
            "slice_of": output.slice_of,
            "lost": output.lost,
        }
        for output in analysis.outputs
    ]
    return _frame("output", [output.name for output in analysis.outputs], rows)


def scores_frame(analysis: Analysis) -> pd.DataFrame:
    """Return how well the quantized model does the task, by score.

    `value_after` is the score with the recommended proposal, on the samples it was verified on.
    """
    best = advice.recommended(analysis)
    after: Mapping[str, float] = best.task_after if best else {}
    rows = [
        {
            "name": score.name,
            "value": score.value,
            "value_after": after.get(score.name),
            "reference": score.reference,
            "against": score.against,
            "samples": score.samples,
        }
        for score in analysis.task
    ]
    columns = ("name", "value", "value_after", "reference", "against", "samples")
    return _frame("score", [score.name for score in analysis.task], rows, columns)


def proposals_frame(analysis: Analysis) -> pd.DataFrame:
    """Return the proposals, by name.

    `left` and `predicted` are shares of the output noise; `macs`, `elements` and
    `weight_bytes` are shares, `time` is a multiple; `nsr_after:OUTPUT` and `task_after:SCORE` are
    what was measured with the proposal.
    """
    plans = analysis.proposals
    outputs = list(dict.fromkeys(name for plan in plans for name in plan.outputs_after))
    scores = list(dict.fromkeys(name for plan in plans for name in plan.task_after))
    rows = [_plan(plan, outputs, scores) for plan in plans]
    return _frame("proposal", [plan.name for plan in plans], rows, _PLAN)


def _plan(
    plan: Proposal, outputs: Sequence[str], scores: Sequence[str]
) -> dict[str, Any]:  # Any: what a cell holds
    costs = plan.costs
    return {
        "name": plan.name,
        "recommended": plan.recommended,
        "front": plan.front,
        "changes": advice.in_words(plan),
        "left": plan.left,
        "predicted": plan.predicted,
        "macs": costs.macs,
        "elements": costs.elements,
        "weight_bytes": costs.weight_bytes,
        "nodes": costs.nodes,
        "time": costs.time,
        "milliseconds": costs.milliseconds,
        "samples": plan.samples,
        **{f"nsr_after:{name}": plan.outputs_after.get(name) for name in outputs},
        **{f"task_after:{name}": plan.task_after.get(name) for name in scores},
        "why": plan.why,
    }


_PLAN = tuple(_plan(Proposal("", False, (), 0.0, {}, {}), (), ()))


def findings_frame(analysis: Analysis) -> pd.DataFrame:
    """Return what was found, the largest gain first as diagnosed; `evidence` is a dict."""
    from analyzer.report import wording

    rows = [
        {
            "code": finding.code,
            "layer": finding.layer,
            "title": wording.title(finding),
            "gain": finding.gain,
            "evidence": dict(finding.evidence),
            "advice": finding.advice,
        }
        for finding in analysis.findings
    ]
    columns = ("code", "layer", "title", "gain", "evidence", "advice")
    return _frame("finding", range(len(rows)), rows, columns)


def sources_frame(analysis: Analysis) -> pd.DataFrame:
    """Return the sources of noise in execution order: `nsr:OUTPUT` adds up to `isolated_sum`."""
    found = analysis.balance.sources if analysis.balance else ()
    outputs = [output.name for output in analysis.outputs]
    rows = [
        {
            "kind": source.kind,
            "nsr": source.nsr,
            "low": source.ci[0] if source.ci else None,
            "high": source.ci[1] if source.ci else None,
            "samples": source.samples,
            **{f"nsr:{name}": source.by_output.get(name) for name in outputs},
            "alignment_price": source.alignment_price,
            "status": source.status,
            "layers": source.layers,
            "quantizers": source.quantizers,
        }
        for source in found
    ]
    columns = ("kind", "nsr", "low", "high", "samples", "alignment_price", "status", "layers",
               "quantizers")  # fmt: skip
    return _frame("source", [source.name for source in found], rows, columns)


def attempts_frame(analysis: Analysis) -> pd.DataFrame:
    """Return what was tried on the way to the proposals: shares of the base's noise left."""
    rows = [
        {
            "base": attempt.base,
            "changes": "; ".join(attempt.changes),
            "predicted": attempt.predicted,
            "measured": attempt.measured,
            "verdict": attempt.verdict,
            "samples": attempt.samples,
        }
        for attempt in analysis.attempts
    ]
    columns = ("base", "changes", "predicted", "measured", "verdict", "samples")
    return _frame("attempt", [attempt.name for attempt in analysis.attempts], rows, columns)


def changes_frame(changes: Changes) -> pd.DataFrame:
    """Return outputs and layers side by side, by name.

    `what` says which it is; `old` and `new` are the NSR of an output, the isolated error of a
    layer; `factor` is the new one as a multiple.  What only one of them has stands at the end.
    """
    rows: list[tuple[str, _Row]] = [
        (output.new.name, _pair("output", output.nsr.old, output.nsr.new, output.verdict))
        for output in changes.outputs
    ]
    rows += [
        (layer.new.name, _pair("layer", layer.isolated.old, layer.isolated.new, layer.verdict))
        for layer in changes.layers
    ]
    for what, names, of in (
        ("output", (changes.outputs_gone, changes.outputs_new), _output_nsrs),
        ("layer", (changes.layers_gone, changes.layers_new), _layer_nsrs),
    ):
        gone, new = of(changes.old), of(changes.new)
        rows += [(n, _pair(what, gone.get(n), None, "only in the old one")) for n in names[0]]
        rows += [(n, _pair(what, None, new.get(n), "only in the new one")) for n in names[1]]
    columns = ("what", "old", "new", "factor", "verdict")
    return _frame("name", [name for name, _ in rows], [row for _, row in rows], columns)


def _output_nsrs(analysis: Analysis) -> dict[str, float | None]:
    return {output.name: output.nsr for output in analysis.outputs}


def _layer_nsrs(analysis: Analysis) -> dict[str, float | None]:
    return {layer.name: layer.isolated_nsr for layer in analysis.layers}


def _pair(what: str, old: float | None, new: float | None, verdict: str) -> _Row:
    factor = new / old if new is not None and old else None
    return {"what": what, "old": old, "new": new, "factor": factor, "verdict": verdict}


def _frame(
    title: str, index: Iterable[object], rows: Sequence[_Row], columns: Sequence[str] = ()
) -> pd.DataFrame:
    """Return rows as a frame; `columns` are those of a frame without rows."""
    import pandas as pd

    names = list(rows[0]) if rows else list(columns)
    frame = pd.DataFrame(
        {name: pd.Series([row[name] for row in rows], dtype=_type(name)) for name in names}
    )
    frame.index = pd.Index(list(index), name=title)
    return frame


def _type(column: str) -> str | None:
    return "float64" if column in _NUMBERS or ":" in column else None
