# SPDX-License-Identifier: Apache-2.0
"""Weight splits: a layer becomes the sum of two, with half of every large weight in each.

In goes a bound model and which layers above which weight; out comes one that computes the same.
The other way round: a measured plan goes in, the splits that may be worth trying come out.

What a split does to the noise: the grid of the weights becomes finer for all weights that stay
whole.  Those that are split gain nothing, as both halves are equal and so is their error.  So the
threshold is best as high as the finer grid allows, and a split pays where few weights need a wide
grid that most do not.  What it costs: the sum of two rounded outputs is noisier than one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analyzer.fixes.remedy import Remedy
from analyzer.fixes.situation import Situation
from analyzer.fixes.splitting import F32, SPLIT_TYPES, check_split, halves, split_layer
from analyzer.graph.edit import GraphEditor
from analyzer.graph.names import unique
from analyzer.graph.view import GraphView
from analyzer.quant.fake import fake_quantize
from analyzer.records import Edit, Model, Quantizer

MOST_REMEDIES = 6
_LAYERS = 4  # that are tried by themselves
_THRESHOLDS = 32  # that are looked at per layer
_LEAST_LESS = 0.1  # of its weights' noise must go for a layer to be worth a try
_LEAST_SHARE = 0.002  # of all noise that must be in the weights of a layer
_COARSE_WEIGHTS = frozenset({"QA104", "QA108"})  # findings of weights, and of other tensors


def split_weights(model: Model, edit: Edit) -> Model:
    """Split layers; the first part keeps name and bias, an Add makes the output.

    Args:
        model: bound; not changed.
        edit: of kind "weight_split" with method "balance" and a threshold: of every weight whose
            magnitude is above it, each part gets one half.

    Raises:
        ModelError: if a layer is not there, is of another kind, or its weight is not constant.
    """
    check_split(edit)
    editor = GraphEditor(model)
    for layer in edit.layers:
        taken = set(editor.view.nodes)
        part = unique(f"{layer}/split", taken)
        split_layer(editor, layer, edit, part=part, total=unique(f"{layer}/sum", taken))
    return editor.done()


def weight_split_remedies(situation: Situation) -> Sequence[Remedy]:
    """Return splits that may be worth trying, the most promising first.

    Candidates are the layers with most noise in their weights.  Their weights are quantized whole
    and in parts, by the target's own rules, with the thresholds at which some channel gets a
    finer grid; the one that leaves least error is taken.
    """
    found = [c for noisy in _noisy_layers(situation) if (c := _best_of(situation, noisy))]
    remedies = [_remedy((c.layer,), c.threshold, c.gain) for c in found]
    if len(found) > 1 and "weight_split" in situation.target.native_edits:
        # one setting of esp-ppq has one threshold
        remedies += _together(situation, *sorted(found, key=lambda c: -c.gain)[:2])
    remedies.sort(key=lambda remedy: -(remedy.expected or 0.0))
    return remedies[:MOST_REMEDIES]


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer whose weights carry noise.

    Attributes:
        name: in the plan.
        source: in the graph that the split is made in.
        share: of all noise that is in its weights.
        cost: share of all noise that a second rounding of its output may add.
    """

    name: str
    source: str
    weight: F32
    quantizer: Quantizer
    share: float
    cost: float


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A layer with the best threshold for it."""

    layer: _Layer
    threshold: float
    gain: float


def _noisy_layers(situation: Situation) -> list[_Layer]:
    """Return the layers that can be split, those with most noise in their weights first."""
    total = sum(s.nsr for s in situation.balance.sources if s.nsr)
    weights = {q.node: q for q in situation.plan.quantizers if q.slot == "in1"}
    found = []
    for row in situation.rows:
        quantizer = weights.get(row.name)
        if quantizer is None or not total:
            continue
        share = row.parts.get("weight", 0.0) * (row.isolated_nsr or 0.0) / total
        share = max(share, *_tried(situation, quantizer))
        if share < _LEAST_SHARE or not np.isfinite(share) or not _is_own(quantizer):
            continue
        source = _name_to_split(situation, row.name)
        if source is not None:
            array = situation.view.array(quantizer.tensor).astype(np.float32, copy=False)
            cost = _output_share(situation, row.name)
            found.append(_Layer(row.name, source, array, quantizer, share, cost))
    return sorted(found, key=lambda layer: -layer.share)[:_LAYERS]


def _tried(situation: Situation, quantizer: Quantizer) -> list[float]:
    """Return 0, and the shares of the noise that went when this weight's grid was made finer."""
    return [0.0] + [
        finding.gain
        for finding in situation.findings
        if finding.code in _COARSE_WEIGHTS
        and finding.layer == quantizer.node
        and finding.evidence.get("tensor") == quantizer.tensor
        and finding.gain is not None
    ]


def _is_own(quantizer: Quantizer) -> bool:
    """Tell whether the slot is a weight with a coarse grid of its own."""
    return (
        quantizer.active
        and quantizer.role == "weight"
        and quantizer.follows is None
        and quantizer.bits <= 8
        and quantizer.stored is None
    )


def _name_to_split(situation: Situation, layer: str) -> str | None:
    """Return what a layer is called where the split is made; None where it is not there.

    A target may have folded and renamed what it was given; then only the same weight counts.
    """
    node = situation.view.nodes[layer]
    if node.op_type not in SPLIT_TYPES or not situation.view.is_constant(node.input[1]):
        return None
    if "weight_split" in situation.target.native_edits:
        return layer
    weight = situation.view.array(node.input[1])
    view, given = GraphView(situation.source.proto.graph), situation.model.source_nodes
    for name, other in view.nodes.items():
        alike = other.op_type == node.op_type and (
            name == layer or set(situation.source.source_nodes[name]) & set(given[layer])
        )
        if alike and view.is_constant(other.input[1]):
            array = view.array(other.input[1])
            if array.shape == weight.shape and np.allclose(array, weight, rtol=1e-6, atol=0):
                return name
    return None


def _output_share(situation: Situation, layer: str) -> float:
    """Return the share of the noise that is made where the layer's output is quantized.

    That may be at the activation behind it, which leaves nothing to the layer itself.
    """
    output = situation.view.nodes[layer].output[0]
    own = [q for q in situation.plan.quantizers if q.node == layer and q.slot == "out0"]
    keys = {q.follows if q.follows and not q.active else q.key for q in own}
    for source in situation.balance.sources:
        if source.kind == "group" and keys & set(source.quantizers):
            return situation.shares.get(source.name, 0.0) / max(len(source.layers), 1)
    total = sum(s.nsr for s in situation.balance.sources if s.nsr) or 1.0
    names = {key[0] for key in keys} | {situation.view.producer.get(output, layer)}
    return max(
        (
            row.parts.get("output", 0.0) * (row.isolated_nsr or 0.0) / total
            for row in situation.rows
            if row.name in names
        ),
        default=0.0,
    )


def _best_of(situation: Situation, layer: _Layer) -> _Candidate | None:
    """Return the threshold that leaves least error in a layer's weights; None: none helps."""
    left = {t: _left(situation, layer, t) for t in _thresholds(layer)}
    if not left or min(left.values()) > 1 - _LEAST_LESS:
        return None
    best = max(t for t, value in left.items() if value <= min(left.values()) + 1e-3)
    return _Candidate(layer, best, layer.share * (1 - left[best]))


def _thresholds(layer: _Layer) -> list[float]:
    """Return thresholds at which some channel gets a grid of half the step.

    That is half of the channel's range; where steps are powers of two, the whole reach of the
    next finer one.
    """
    q = layer.quantizer
    axes = tuple(i for i in range(layer.weight.ndim) if i != q.axis)
    largest = np.abs(layer.weight).max(axis=None if q.axis is None else axes).reshape(-1)
    step = np.asarray(q.scale if q.scale is not None else 0.0, np.float64).reshape(-1)
    reach = (q.qmax - q.qmin) / 4 * step
    found = np.unique(np.float32(np.concatenate([largest / 2, reach])))
    found = found[(found > 0) & (found < largest.max())]
    if len(found) > _THRESHOLDS:
        found = found[np.linspace(0, len(found) - 1, _THRESHOLDS).round().astype(int)]
    return [float(t) for t in found]


def _left(situation: Situation, layer: _Layer, threshold: float) -> float:
    """Return the share of the power of a weight's error that is left after a split."""
    whole = _quantized(situation, layer.weight, layer.quantizer) - layer.weight
    parts = halves(layer.weight, threshold)
    split = sum(_quantized(situation, part, layer.quantizer) for part in parts) - layer.weight
    before = float(np.square(whole, dtype=np.float64).sum())
    return float(np.square(split, dtype=np.float64).sum()) / before if before else 1.0


def _quantized(situation: Situation, weight: F32, quantizer: Quantizer) -> F32:
    lo, hi = situation.target.constant_range(weight, quantizer)
    scale, zero = situation.target.scale(quantizer, lo, hi, quantizer.observer or "minmax")
    return fake_quantize(weight, replace(quantizer, scale=scale, zero_point=zero))


def _together(situation: Situation, first: _Candidate, second: _Candidate) -> Iterator[Remedy]:
    """Yield the split of two layers with the one threshold that is best for both."""
    pair = (first.layer, second.layer)
    gains = {
        t: sum(layer.share * (1 - _left(situation, layer, t)) for layer in pair)
        for t in (first.threshold, second.threshold)
    }
    threshold = max(gains, key=lambda t: gains[t])
    if gains[threshold] > max(first.gain, second.gain):
        yield _remedy(pair, threshold, gains[threshold])


def _remedy(layers: Sequence[_Layer], threshold: float, gain: float) -> Remedy:
    names = tuple(layer.source for layer in layers)
    return Remedy(
        kind="weight_split",
        layers=names,
        before="one layer",
        after=f"sum of two, weights above {threshold:.4g} in halves",
        edit=Edit("weight_split", names, method="balance", threshold=threshold),
        expected=gain - sum(layer.cost for layer in layers),
    )
