# SPDX-License-Identifier: Apache-2.0
"""Cross-layer equalization: channels between two layers are scaled so that their ranges are alike.

What a layer makes is multiplied by one factor per channel, and the layers that read it divide
their weights by it (Nagel et al., arXiv 1906.04721): ReLU and pooling in between let factors pass.
Ways to find the factors:

"weights": the paper's: both weights reach equally far in every channel, all pairs in turn until
    nothing moves any more.  Biases are not looked at there, and may become huge: a factor stops
    where a channel that was not the widest would be more than half as wide.
"activations A": what is in between counts instead of the first weight, whose scales per channel
    follow: factors are max|W|^(1 - A) / max|X|^A.  A depthwise layer with scales per channel
    follows too: all channels in front of it become equally wide.
"depthwise": that, and only in front of depthwise layers.
"esp-ppq": as `optim/equalization.py` of esp-ppq does it, ten times over all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analyzer.errors import ModelError
from analyzer.fixes.channels import find, output_axis, scale_outputs
from analyzer.fixes.factors import (
    Factors,
    Pair,
    activation_factors,
    before_depthwise,
    capped,
    esp_ppq_factors,
    pair_of,
    pairs_of,
    paper_factors,
)
from analyzer.fixes.guesses import channel_reaches, guessed, rounded, weights_by_channel
from analyzer.fixes.remedy import Remedy
from analyzer.fixes.situation import Situation
from analyzer.fixes.ways import checked, scale_way
from analyzer.graph.edit import GraphEditor
from analyzer.graph.view import GraphView
from analyzer.records import Edit, Model

PAPER, ACTIVATIONS, DEPTHWISE, ESP_PPQ = "weights", "activations", "depthwise", "esp-ppq"
STRENGTHS = (0.7, 0.3)

_LEAST = 1.05  # times: a factor below is not worth a word


def equalize(model: Model, edit: Edit) -> Model:
    """Multiply output channels of layers by the factors of `edit.values`, and undo it behind.

    Raises:
        ModelError: if a layer is not there, factors cannot pass behind it, or do not fit.
    """
    editor = GraphEditor(model)
    for layer in edit.layers:
        node = find(editor, layer, "equalized")
        pair = pair_of(model, editor.view, layer)
        if pair is None:
            raise ModelError(
                f"Layer {layer!r} cannot be equalized: behind it, more than ReLU, pooling and the "
                "like stands before the next layers.",
                "Leave it out.",
            )
        factors = checked(edit.values.get(layer, ()), pair.way.channels, layer)
        scale_outputs(editor, node, factors)
        scale_way(editor, pair.way, factors)
    return editor.done()


def equalization_remedies(situation: Situation) -> Sequence[Remedy]:
    """Return what may be worth trying, the most promising first."""
    source = situation.source
    view = GraphView(source.proto.graph)
    pairs = pairs_of(source, view)
    if not pairs:
        return ()
    if "equalization" in situation.target.native_edits:
        found = {ESP_PPQ: esp_ppq_factors(source, pairs)}  # the quantizer knows no other
    else:
        found = _all_factors(situation, view, pairs)
    remedies = (_remedy(situation, pairs, method, factors) for method, factors in found.items())
    return [remedy for remedy in remedies if remedy is not None]


def _all_factors(
    situation: Situation, view: GraphView, pairs: Sequence[Pair]
) -> dict[str, Factors]:
    source, target = situation.source, situation.target
    reached = channel_reaches(source, _places(source, view, pairs), situation.samples)
    by_channel = weights_by_channel(situation.plan)
    found = {
        f"{ACTIVATIONS} {strength:g}": activation_factors(
            source, pairs, reached, by_channel=by_channel, strength=strength
        )
        for strength in STRENGTHS
    }
    found[PAPER] = capped(paper_factors(source, pairs), reached)
    free = [pair for pair in pairs if by_channel and before_depthwise(source, view, pair)]
    if free and len(free) < len(pairs):
        ones = {pair.first: np.ones(pair.way.channels) for pair in pairs}
        some = activation_factors(source, free, reached, by_channel=True)
        found[DEPTHWISE] = {**ones, **some}
    if target.name.startswith("esp"):
        found[ESP_PPQ] = esp_ppq_factors(source, pairs)
    return found


def _remedy(
    situation: Situation, pairs: Sequence[Pair], method: str, factors: Factors
) -> Remedy | None:
    moved = [p for p in pairs if np.abs(np.log(factors[p.first])).max() > np.log(_LEAST)]
    if not moved:
        return None
    layers = tuple(pair.first for pair in moved)
    touched = {*layers, *(r.node for p in moved for r in p.way.readers)}
    edit = Edit("equalization", layers, method, values={n: rounded(factors[n]) for n in layers})
    return Remedy(
        "equalization",
        layers,
        "ranges of channels as trained",
        f"ranges of channels equalized by {method}",
        edit=edit,
        expected=guessed(situation, touched, 0.3),
    )


def _places(model: Model, view: GraphView, pairs: Sequence[Pair]) -> dict[str, tuple[str, int]]:
    """Return where to look at the channels of a pair: behind the ReLU that follows directly."""
    found = {}
    for pair in pairs:
        node = view.nodes[pair.first]
        tensor, axis = node.output[0], output_axis(model, node)
        names = view.consumers[tensor]
        after = view.nodes[names[0]]
        if len(names) == 1 and after.op_type in ("Relu", "LeakyRelu", "PRelu", "Clip"):
            tensor = after.output[0]
        found[pair.first] = (tensor, axis)
    return found
