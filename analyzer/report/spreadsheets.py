# SPDX-License-Identifier: Apache-2.0
"""The tables that other programs read: an `Analysis` in, CSV text out.

NSRs are plain ratios, and nothing stands where nothing was measured.  Names are written exactly as
they are.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence

from analyzer.records import Analysis, Change, LayerError, Proposal, Source
from analyzer.report import advice


def render_csv(analysis: Analysis) -> str:
    """Return the layers in execution order.

    `source_nodes` is a JSON list, `channels` one of pairs (channel, share of the local noise),
    `findings` are separated by spaces; each graph output has a column `isolated_nsr:NAME`, each
    part of a row's noise a column `part:NAME`.
    """
    outputs = [output.name for output in analysis.outputs]
    parts = sorted({part for layer in analysis.layers for part in layer.parts})
    columns = [
        "index", "name", "op_type", "precision", "computing", "macs",
        "graphwise_nsr", "graphwise_cosine", "graphwise_sqnr_db", "graphwise_max_abs", "local_nsr",
        "isolated_nsr", "isolated_low", "isolated_high", "isolated_samples",
        *(f"isolated_nsr:{output}" for output in outputs), *(f"part:{part}" for part in parts),
        "channels", "group", "status", "findings", "source_nodes",
    ]  # fmt: skip
    rows = (_layer(i, layer, outputs, parts) for i, layer in enumerate(analysis.layers))
    return _written(columns, rows)


def _layer(
    index: int, layer: LayerError, outputs: Sequence[str], parts: Sequence[str]
) -> list[object]:
    return [
        index, layer.name, layer.op_type, layer.precision, layer.computing, layer.macs,
        layer.graphwise_nsr, layer.graphwise_cosine, layer.graphwise_sqnr_db,
        layer.graphwise_max_abs, layer.local_nsr, layer.isolated_nsr,
        *(layer.isolated_ci or (None, None)), layer.isolated_samples,
        *(layer.isolated_by_output.get(output) for output in outputs),
        *(layer.parts.get(part) for part in parts),
        _json([list(pair) for pair in layer.channels]) if layer.channels else None,
        layer.group, layer.status, " ".join(layer.findings), _json(list(layer.source_nodes)),
    ]  # fmt: skip


def render_sources_csv(analysis: Analysis) -> str:
    """Return the sources of noise in execution order: every active quantizer is in one of them.

    `nsr:NAME` is what a source does to that output alone, comparable with the accumulated error
    there: down the column they add up to the output's isolated sum.  `layers` is a JSON list,
    `quantizers` one of pairs (layer, slot).
    """
    outputs = [output.name for output in analysis.outputs]
    columns = [
        "index", "name", "kind", "nsr", "low", "high", "samples",
        *(f"nsr:{output}" for output in outputs), "alignment_price", "status", "layers",
        "quantizers",
    ]  # fmt: skip
    found = analysis.balance.sources if analysis.balance else ()
    return _written(columns, (_source(i, source, outputs) for i, source in enumerate(found)))


def _source(index: int, source: Source, outputs: Sequence[str]) -> list[object]:
    return [
        index, source.name, source.kind, source.nsr, *(source.ci or (None, None)), source.samples,
        *(source.by_output.get(output) for output in outputs), source.alignment_price,
        source.status, _json(list(source.layers)), _json([list(key) for key in source.quantizers]),
    ]  # fmt: skip


def render_proposals_csv(analysis: Analysis) -> str:
    """Return the changes of all proposals, one per row, beside what the whole plan brings.

    Columns up to `why` are those of the plan: its costs as shares (`time` as a multiple), `left`
    and `predicted` as shares of the output noise, `nsr_before:NAME` and `nsr_after:NAME` per
    output, `task_before:NAME` and `task_after:NAME` per score.  The others are those of the
    change, `change_nsr` with it and the ones before it; `layers` is a JSON list.
    """
    plans = analysis.proposals
    outputs = _keys(p.outputs_after for p in plans)
    scores = _keys(p.task_after for p in plans)
    columns = [
        "proposal", "recommended", "front", "macs", "elements", "weight_bytes", "nodes", "time",
        "milliseconds", "predicted", "left", "samples",
        *(f"nsr_{when}:{name}" for name in outputs for when in ("before", "after")),
        *(f"task_{when}:{name}" for name in scores for when in ("before", "after")),
        "why", "change", "kind", "layers", "from", "to", "change_macs", "change_predicted_nsr",
        "change_nsr",
    ]  # fmt: skip
    rows = (
        [*_plan(plan, outputs, scores), *_change(number, change)]
        for plan in plans
        for number, change in enumerate(plan.changes or (None,), 1)
    )
    return _written(columns, rows)


def _plan(plan: Proposal, outputs: Sequence[str], scores: Sequence[str]) -> list[object]:
    costs = plan.costs
    return [
        plan.name, plan.recommended, plan.front, costs.macs, costs.elements, costs.weight_bytes,
        costs.nodes, costs.time, costs.milliseconds, plan.predicted, plan.left, plan.samples,
        *(of.get(name) for name in outputs for of in (plan.outputs_before, plan.outputs_after)),
        *(of.get(name) for name in scores for of in (plan.task_before, plan.task_after)),
        plan.why,
    ]  # fmt: skip


def _change(number: int, change: Change | None) -> list[object]:
    if change is None:
        return [None] * 8
    return [
        number, change.kind, _json(list(advice.layers_of(change))), change.before, change.after,
        change.cost, change.predicted_nsr, change.measured_nsr,
    ]  # fmt: skip


def _keys(found: Iterable[Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for names in found for name in names))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _written(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return stream.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(float(value)) if isinstance(value, float) else value
