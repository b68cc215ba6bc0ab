# SPDX-License-Identifier: Apache-2.0
"""Factors for equalization: pairs of layers go in, one factor per channel in between comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analyzer.fixes.channels import WEIGHT, is_depthwise, is_mixing, output_axis, outputs_of, spans
from analyzer.fixes.ways import Way, way_of
from analyzer.graph.view import GraphView
from analyzer.records import Model

F64 = npt.NDArray[np.float64]
Factors = dict[str, F64]  # first layer of a pair -> factor per output channel

_MOST_PASSES = 200
_STILL = 1e-4  # largest relative change of a factor in a pass, at the end
_WIDEST = 0.5  # of the widest channel: no other is made wider by weights alone
_FARTHEST = 64.0  # times: how much more than another a channel is multiplied by
# fields of esp-ppq's equalization setting
_ESP_PASSES = 10
_ESP_CLAMP = 0.1, 10.0
_ESP_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Pair:
    """A layer, and the way its output channels take to the layers that read them."""

    first: str
    way: Way


def pairs_of(model: Model, view: GraphView | None = None) -> list[Pair]:
    """Return all pairs of a bound model, in execution order of their first layers."""
    view = view or GraphView(model.proto.graph)
    found = (pair_of(model, view, name) for name in view.nodes)
    return [pair for pair in found if pair is not None]


def pair_of(model: Model, view: GraphView, layer: str) -> Pair | None:
    """Return the pair of a layer, None where factors cannot pass behind it."""
    node = view.nodes[layer]
    if not is_mixing(model, view, node):
        return None
    way = way_of(model, view, node.output[0], output_axis(model, node))
    return None if way is None or way.channels != outputs_of(model, node) else Pair(layer, way)


def paper_factors(model: Model, pairs: Sequence[Pair]) -> Factors:
    """Let both weights of every pair reach equally far in every channel, none moving overall."""
    reach = _Reach(model, pairs)
    for _ in range(_MOST_PASSES):
        moved = 0.0
        for pair in pairs:
            up, down = reach.outputs(pair.first), reach.inputs(pair)
            live = (up > 0) & (down > 0)
            step = np.ones_like(up)
            step[live] = np.sqrt(down[live] / up[live])
            moved = max(moved, float(np.abs(np.log(step)).max(initial=0.0)))
            reach.multiply(pair, step)
        if moved < _STILL:
            break
    return reach.factors


def esp_ppq_factors(model: Model, pairs: Sequence[Pair]) -> Factors:
    """Return the factors that esp-ppq finds with its default setting."""
    reach = _Reach(model, pairs)
    for _ in range(_ESP_PASSES):
        for pair in pairs:
            up, down = reach.outputs(pair.first), reach.inputs(pair)
            with np.errstate(divide="ignore", invalid="ignore"):
                step = np.clip(1 / np.sqrt(up / down), *_ESP_CLAMP)
            reach.multiply(
                pair, np.where(up + down < _ESP_THRESHOLD, 1.0, np.nan_to_num(step, nan=1.0))
            )
    return reach.factors


def activation_factors(
    model: Model,
    pairs: Sequence[Pair],
    reached: Mapping[str, F64],
    *,
    by_channel: bool,
    strength: float = 0.5,
) -> Factors:
    """Let the channels between the layers of a pair reach equally far, as weights allow it.

    Args:
        model: bound.
        pairs: of it.
        reached: first layer -> largest magnitude of each channel on samples.
        by_channel: weights have a scale per output channel: the first layer's follows any factor,
            and so does that of a depthwise one behind.
        strength: a in max|W|^(1 - a) / max|X|^a: from 0, where only the weights behind count, to
            1, where they do not.
    """
    reach, view = _Reach(model, pairs), GraphView(model.proto.graph)
    for pair in pairs:
        seen = reached[pair.first]
        free = by_channel and before_depthwise(model, view, pair)
        live = seen > 0
        step = np.ones_like(seen)
        if not live.any():
            continue
        if free:
            step[live] = seen.max() / seen[live]
        else:
            up, down = seen / seen.max(), reach.inputs(pair)
            if not by_channel:
                weight = reach.outputs(pair.first)
                up = np.sqrt(up * weight / max(weight.max(), 1e-30))
            live &= (down > 0) & (up > 0)
            step[live] = down[live] ** (1 - strength) / up[live] ** strength
        if live.any():
            step[live] = np.clip(step[live] / step[live].min(), 1.0, _FARTHEST)
            # the widest channel stays as wide: other grids on the way are not moved
            step[live] *= seen[live].max() / (seen * step)[live].max()
        reach.multiply(pair, step)
    return reach.factors


def before_depthwise(model: Model, view: GraphView, pair: Pair) -> bool:
    """Tell whether nothing but depthwise layers read the channels."""
    return all(is_depthwise(model, view.nodes[r.node]) for r in pair.way.readers)


def capped(factors: Factors, reached: Mapping[str, F64]) -> Factors:
    """Let no channel become more than half as wide as the widest was, unless it was before.

    Args:
        factors: first layer -> factor per channel.
        reached: first layer -> largest magnitude of each channel on samples.
    """
    found = {}
    for layer, own in factors.items():
        seen = reached[layer]
        most = np.divide(_WIDEST * seen.max(), seen, out=np.ones_like(seen), where=seen > 0)
        found[layer] = np.where(seen > 0, np.minimum(own, np.maximum(most, _WIDEST)), 1.0)
    return found


class _Reach:
    """How far weights reach per channel while factors are found; factors are collected."""

    def __init__(self, model: Model, pairs: Sequence[Pair]) -> None:
        view = GraphView(model.proto.graph)
        names = dict.fromkeys(
            n for p in pairs for n in (p.first, *(r.node for r in p.way.readers))
        )
        nodes = [view.nodes[name] for name in names]
        self._spans = {n.name: spans(n, view.array(n.input[WEIGHT])) for n in nodes}
        self.factors: Factors = {p.first: np.ones(p.way.channels) for p in pairs}

    def outputs(self, layer: str) -> F64:
        """Return how far the weight of every output channel reaches."""
        return np.asarray(self._spans[layer].max(axis=2).ravel())

    def inputs(self, pair: Pair) -> F64:
        """Return how far the weights of every input channel reach, of all that read it."""
        found = [
            self._spans[r.node].max(axis=1).reshape(-1, r.repeat).max(axis=1)
            for r in pair.way.readers
        ]
        return np.asarray(np.max(found, axis=0))

    def multiply(self, pair: Pair, step: F64) -> None:
        """Multiply the channels of a pair."""
        own = self._spans[pair.first]
        own *= step.reshape(own.shape[0], -1, 1)
        for reader in pair.way.readers:
            other = self._spans[reader.node]
            other /= np.repeat(step, reader.repeat).reshape(other.shape[0], 1, -1)
        self.factors[pair.first] *= step
