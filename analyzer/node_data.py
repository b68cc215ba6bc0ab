# SPDX-License-Identifier: Apache-2.0
"""Node data for Model Explorer: an `Analysis` in, JSON that colours the user's own model out.

What the viewer takes is one object per file: `results`, node id -> value, and `thresholds`, upper
bounds with colours (`node_data_builder.py` of ai-edge-model-explorer).  Without a graph id around
them they belong to the graph that is shown.  Node ids are those of its ONNX adapter
(model-explorer-onnx): the names of the nodes in the file, and `[value] NAME` for what stands for
a graph output.  Nodes without a name are numbered: `node`, `node_1` ...

Needs neither onnx nor onnxruntime.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from analyzer.codes import CODES
from analyzer.records import Analysis, LayerError, loudness

# Measure -> the field of a layer, and what the viewer calls it.
_MEASURES = {
    "isolated": ("isolated_nsr", "isolated error, % NSR at the outputs"),
    "local": ("local_nsr", "local error, % NSR at the layer"),
    "graphwise": ("graphwise_nsr", "graphwise error, % NSR at the layer"),
}
# Upper ends in percent, and colours of cividis, which keeps its order with any colour blindness.
# Decades: the same colour means the same in every model, and a folded group shows how many nodes
# of each colour it holds.
_STEPS = (
    (0.001, "#00224e"),
    (0.01, "#35456c"),
    (0.1, "#666970"),
    (1.0, "#948e77"),
    (10.0, "#c8b866"),
    (1e300, "#fee838"),  # the viewer paints nothing above the last bound
)
_LOUDEST = _STEPS[-1][1]
_UNNAMED = re.compile(r".*#(?P<index>\d+)", re.DOTALL)  # as `Model.source_nodes` has it
# What the viewer adds up has no meaning: nodes of one layer show the same noise again.
_NO_SUMS = {"hideAggregatedStats": ["sum"], "hideInChildrenStatsTable": True}


def node_data(analysis: Analysis, ids: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the files: `isolated.json`, `local.json`, `graphwise.json` and `findings.json`.

    A layer's value stands at every node of the file that the layer is made of; a node of several
    layers has the worst.  What was not measured is left out, and so is a file without values.

    Args:
        analysis: the result; no proposal is needed.
        ids: entry of `LayerError.source_nodes` -> node id, of those whose id is not their name;
            None: what can be told without the model.  Then nodes without a name are found only
            where no node of the model has one.

    Returns:
        path below the export folder -> JSON text.

    >>> from analyzer.records import OutputError, Provenance, QuantPlan
    >>> layer = LayerError("conv", "Conv", ("conv", "bn"), isolated_nsr=0.0123)
    >>> output = OutputError("y", 0.02, 17.0, 0.99, 0.1)
    >>> stands_on = Provenance("", "", {}, "esp32p4", (), 0, {}, {})
    >>> found = node_data(Analysis(stands_on, (output,), (layer,), QuantPlan("", (), {}, {}, ())))
    >>> [(path, json.loads(text)["results"]) for path, text in found.items()]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('model-explorer/isolated.json', {'conv': {'value': 1.23}, 'bn': {'value': 1.23}}),
     ('model-explorer/graphwise.json', {'[value] y': {'value': 2.0}})]
    """
    known = _Nodes(analysis, ids)
    found: dict[str, dict[str, Any]] = {}  # Any: a JSON object
    for measure, (field, title) in _MEASURES.items():
        worst = known.worst(field)
        if measure == "graphwise":
            worst |= {f"[value] {o.name}": o.nsr for o in analysis.outputs if o.slice_of is None}
        if worst:
            found[measure] = _coloured(title, {node: _entry(nsr) for node, nsr in worst.items()})
    causes = known.causes()
    if causes:
        entries = {
            node: {"value": text, "bgColor": _LOUDEST, "textColor": "#000000"}
            for node, text in causes.items()
        }
        found["findings"] = {
            "results": entries, "name": "findings",
            "hideInAggregatedStatsTable": True, "hideInChildrenStatsTable": True,
        }  # fmt: skip
    return {f"model-explorer/{name}.json": _text(content) for name, content in found.items()}


class _Nodes:
    """The nodes of the user's file behind every layer."""

    def __init__(self, analysis: Analysis, ids: Mapping[str, str] | None) -> None:
        self._layers = analysis.layers
        self._ids = _numbered(analysis) if ids is None else ids

    def worst(self, field: str) -> dict[str, float]:
        """Return node id -> the highest NSR of its layers, NaN counted as infinite."""
        found: dict[str, float] = {}
        for layer in self._layers:
            nsr: float | None = getattr(layer, field)
            if nsr is None:
                continue
            for node in self._of(layer):
                if node not in found or loudness(nsr) > loudness(found[node]):
                    found[node] = nsr
        return found

    def causes(self) -> dict[str, str]:
        """Return node id -> codes and titles of what was found there."""
        found: dict[str, dict[str, None]] = {}
        for layer in self._layers:
            for node in self._of(layer) if layer.findings else ():
                found.setdefault(node, {}).update(dict.fromkeys(layer.findings))
        return {node: ", ".join(map(_titled, codes)) for node, codes in found.items()}

    def _of(self, layer: LayerError) -> Iterator[str]:
        for source in layer.source_nodes:
            node = self._ids.get(source, source)
            if node:
                yield node


def _numbered(analysis: Analysis) -> dict[str, str]:
    """Return ids of nodes without a name; "" for those whose number cannot be told.

    The adapter counts unnamed nodes alone.  Where a model has nothing else, that is the place in
    the file, which `source_nodes` has; expanded functions have moved those.
    """
    sources = {source for layer in analysis.layers for source in layer.source_nodes}
    places = {source: match for source in sources if (match := _UNNAMED.fullmatch(source))}
    moved = any("functions were expanded" in warning for warning in analysis.warnings)
    if moved or len(places) < len(sources):
        return dict.fromkeys(places, "")
    indices = {source: int(match["index"]) for source, match in places.items()}
    return {source: f"node_{index}" if index else "node" for source, index in indices.items()}


def _entry(nsr: float) -> dict[str, Any]:  # Any: a JSON value
    percent = 100 * nsr
    if not math.isfinite(percent):  # JSON has no such numbers
        return {"value": str(percent), "bgColor": _LOUDEST, "textColor": "#000000"}
    return {"value": float(f"{percent:.4g}")}


def _coloured(title: str, results: Mapping[str, Any]) -> dict[str, Any]:  # Any: a JSON object
    return {
        "results": results,
        "name": title,
        "thresholds": [{"value": bound, "bgColor": colour} for bound, colour in _STEPS],
        **_NO_SUMS,
    }


def _titled(code: str) -> str:
    known = CODES.get(code)
    return f"{code} {known.title}" if known else code


def _text(content: Mapping[str, Any]) -> str:  # Any: a JSON object
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
