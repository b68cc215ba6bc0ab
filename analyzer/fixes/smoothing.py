# SPDX-License-Identifier: Apache-2.0
"""Smoothing: channels with large activations hand their size to the weights that read them.

What a norm makes is divided by one number per channel, max|X|^a / max|W|^(1 - a), and the weights
that read it are multiplied by it (SmoothQuant, Xiao et al., arXiv 2211.10438).  The division goes
into the norm's own constants: those of a LayerNormalization, or of the product it is written out
with.  `Edit.values` holds what the channels are multiplied by: the reciprocals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from analyzer.errors import ModelError
from analyzer.fixes.channels import WEIGHT, Array, find, put, spans
from analyzer.fixes.guesses import F64, channel_reaches, guessed, rounded
from analyzer.fixes.remedy import Remedy
from analyzer.fixes.situation import Situation
from analyzer.fixes.ways import Way, checked, scale_way, way_of
from analyzer.graph.edit import GraphEditor
from analyzer.graph.view import GraphView
from analyzer.records import Edit, Model

STRENGTHS = (0.5, 0.7, 0.3)

# op type -> inputs with one number per channel of the output
_NORMS = {
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2, 3),
    "SkipSimplifiedLayerNormalization": (2,),
}
_SMALLEST = 1e-5  # of the largest: channels below count as this large


@dataclass(frozen=True, slots=True)
class Site:
    """A node that gives channels their size by constants, and the way to the layers behind it.

    Attributes:
        slots: inputs of the node to be multiplied.
    """

    node: str
    slots: tuple[int, ...]
    way: Way


def smooth(model: Model, edit: Edit) -> Model:
    """Multiply what norms make by the factors of `edit.values`, and undo it in the layers behind.

    Raises:
        ModelError: if a norm is not there, factors cannot pass behind it, or do not fit.
    """
    editor = GraphEditor(model)
    for layer in edit.layers:
        node = find(editor, layer, "smoothed")
        site = _site(model, editor.view, node)
        if site is None:
            raise ModelError(
                f"{layer!r} cannot be smoothed: expected a norm with a constant per channel, and "
                "nothing but layers with constant weights behind it.",
                "Leave it out.",
            )
        factors = checked(edit.values.get(layer, ()), site.way.channels, layer)
        for index in site.slots:
            put(editor, node, index, editor.view.array(node.input[index]) * factors)
        scale_way(editor, site.way, factors)
    return editor.done()


def sites_of(model: Model) -> list[Site]:
    """Return all places that can be smoothed; of several in a row, the last one."""
    view = GraphView(model.proto.graph)
    found = [site for node in view.nodes.values() if (site := _site(model, view, node))]
    inner = {name for site in found for name in site.way.through}
    starts = {site.node for site in found} & inner
    return [site for site in found if not starts.intersection(site.way.through)]


def _site(model: Model, view: GraphView, node: onnx.NodeProto) -> Site | None:
    slots = _slots(model, view, node)
    if not slots:
        return None
    tensor = node.output[0]
    way = way_of(model, view, tensor, len(model.shapes[tensor]) - 1)
    return Site(node.name, slots, way) if way else None


def _slots(model: Model, view: GraphView, node: onnx.NodeProto) -> tuple[int, ...]:
    """Return the inputs of `node` that hold one constant per channel of the last axis."""
    if node.op_type == "Mul":
        channels = model.shapes[node.output[0]][-1:]
        return tuple(
            i
            for i, name in enumerate(node.input)
            if view.is_constant(name)
            and model.dtypes.get(name) == "float32"
            and model.shapes[name][-1:] == channels
            and view.array(name).size == channels[0] > 1
        )
    slots = tuple(i for i in _NORMS.get(node.op_type, ()) if len(node.input) > i and node.input[i])
    return slots if all(view.is_constant(node.input[i]) for i in slots) else ()


def smoothing_factors(seen: Array, weight: Array, strength: float) -> F64:
    """Return what to multiply channels by: max|W|^(1 - a) / max|X|^a, the largest one 1.

    Args:
        seen: largest magnitude of each channel.
        weight: largest magnitude of the weights that read it.
        strength: a, from 0 to 1.
    """
    live = (seen > 0) & (weight > 0)
    factors = np.ones(seen.shape)
    if live.any():
        x = np.maximum(seen[live], _SMALLEST * seen.max())
        w = np.maximum(weight[live], _SMALLEST * weight.max())
        factors[live] = w ** (1 - strength) / x**strength
        # the widest channel stays as wide
        factors[live] *= seen.max() / (seen[live] * factors[live]).max()
    return factors


def smoothing_remedies(situation: Situation) -> Sequence[Remedy]:
    """Return all norms smoothed at once, by several strengths."""
    source = situation.source
    sites = sites_of(source)
    if not sites:
        return ()
    view = GraphView(source.proto.graph)
    places = {}
    for site in sites:
        tensor = _end(source, view, site)
        places[site.node] = tensor, len(source.shapes[tensor]) - 1
    seen = channel_reaches(source, places, situation.samples)
    weights = {site.node: _weights(view, site) for site in sites}
    layers = tuple(site.node for site in sites)
    touched = {*layers, *(r.node for s in sites for r in s.way.readers)}
    return [
        Remedy(
            "smoothing",
            layers,
            "activations as trained",
            f"activations smoothed, strength {strength:g}",
            edit=Edit(
                "smoothing",
                layers,
                f"{strength:g}",
                values={
                    name: rounded(smoothing_factors(seen[name], weights[name], strength))
                    for name in layers
                },
            ),
            expected=guessed(situation, touched, 0.1),
        )
        for strength in STRENGTHS
    ]


def _end(model: Model, view: GraphView, site: Site) -> str:
    """Return the tensor that the first layer behind the norm reads, if it has its channels."""
    start: str = view.nodes[site.node].output[0]
    end: str = view.nodes[site.way.readers[0].node].input[0]
    return end if model.shapes[end][-1:] == (site.way.channels,) else start


def _weights(view: GraphView, site: Site) -> F64:
    """Return how far the weights of every channel reach, of all layers that read it."""
    found = []
    for reader in site.way.readers:
        node = view.nodes[reader.node]
        most = spans(node, view.array(node.input[WEIGHT])).max(axis=1)
        found.append(most.reshape(-1, reader.repeat).max(axis=1))
    return np.asarray(np.max(found, axis=0))
