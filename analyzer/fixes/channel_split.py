# SPDX-License-Identifier: Apache-2.0
"""Outlier channel splitting: channels with the largest weights are doubled, and halved once.

Where few channels set the range of a weight with one scale, each of them is put in twice
(Zhao et al., arXiv 1901.09504): the layer that makes it gets another output channel, depthwise
layers behind it another filter, and the layers that read it sum over both.  One of these halves
its weights for the two.  No node is added, but multiply-accumulates and weights are.

Methods: "outputs": the layer halves the weights that make a channel; "inputs": those that read it.
`Edit.values` holds channel numbers in the order in which they are split; the double of a channel
comes last, so that it may be split again under its new number.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx

from analyzer.errors import ModelError, nearest
from analyzer.fixes.channels import (
    BIAS,
    WEIGHT,
    Array,
    bias_of,
    find,
    from_blocks,
    groups_of,
    put,
    to_blocks,
)
from analyzer.fixes.copies import INPUTS, OUTPUTS, Copies, Halves, copies_of, halved
from analyzer.fixes.guesses import guessed
from analyzer.fixes.remedy import Remedy
from analyzer.fixes.situation import Situation
from analyzer.graph.edit import GraphEditor
from analyzer.graph.view import GraphView
from analyzer.quant.fake import calibrated
from analyzer.records import Edit, Model, Quantizer

_MOST = 0.1  # of a layer's channels are doubled
_LEAST_GAIN = 0.25  # of the range, or the split is not worth a try
_CANDIDATES = 6


def split_channels(model: Model, edit: Edit) -> Model:
    """Split the channels that `edit.values` names.

    Raises:
        ModelError: if a layer is not there, its channels cannot be doubled, or have other numbers.
    """
    for layer in edit.layers:
        model = _split(model, edit.method, layer, edit.values.get(layer, ()))
    return model


def _split(model: Model, method: str, layer: str, channels: Sequence[float]) -> Model:
    if method not in (OUTPUTS, INPUTS):
        raise ModelError(
            f"A channel split has no method {method!r}.", nearest(method, (OUTPUTS, INPUTS))
        )
    editor = GraphEditor(model)
    find(editor, layer, "split")
    view = editor.view
    every = ((c, halved(model, view, c, layer, method)) for c in copies_of(model, view))
    copies, halves = next((pair for pair in every if pair[1]), (None, None))
    if copies is None or halves is None:
        raise ModelError(
            f"The {method} of layer {layer!r} cannot be split: their channels do not come from "
            "one layer, or more than activations and pooling stands before the next layers.",
            "Leave it out.",
        )
    _double(editor, copies, _numbers(editor, copies, channels, layer), halves)
    return editor.done()


def _numbers(
    editor: GraphEditor, copies: Copies, channels: Sequence[float], layer: str
) -> list[int]:
    """Return checked channel numbers."""
    count = editor.shapes[editor.view.nodes[copies.first].output[0]][1]
    numbers = [int(channel) for channel in channels]
    for step, number in enumerate(numbers):
        if number != channels[step] or not 0 <= number < count + step:
            raise ModelError(
                f"Layer {layer!r} has no channel {channels[step]:g}, expected 0 to {count - 1}.",
                "Take the numbers from an analysis of the same model.",
            )
    return numbers


def _double(editor: GraphEditor, copies: Copies, numbers: Sequence[int], halves: Halves) -> None:
    first = editor.view.nodes[copies.first]
    source, parts = doubled(editor.shapes[first.output[0]][1], numbers)
    whole = np.ones_like(parts)
    for name in (copies.first, *copies.depthwise):
        node = editor.view.nodes[name]
        _double_outputs(
            editor,
            node,
            source,
            parts if name in halves.weights else whole,
            parts if name in halves.biases else whole,
        )
    for name in copies.readers:
        node = editor.view.nodes[name]
        weight = editor.view.array(node.input[WEIGHT])
        scale = parts if name in halves.weights else whole
        blocks = to_blocks(node, weight)[:, :, source] * scale[:, None]
        put(editor, node, WEIGHT, from_blocks(node, blocks, weight.shape[2:]))
    for tensor in copies.tensors:
        shape = editor.shapes[tensor]
        editor.shapes[tensor] = (shape[0], source.size, *shape[2:])


def doubled(
    channels: int, numbers: Sequence[int]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """Return, for every channel behind the split, which one it was and what part of it it is."""
    source, parts = list(range(channels)), [1.0] * channels
    for number in numbers:
        parts[number] /= 2
        parts.append(parts[number])
        source.append(source[number])
    return np.array(source), np.array(parts, np.float32)


def _double_outputs(
    editor: GraphEditor, node: onnx.NodeProto, source: Array, weights: Array, biases: Array
) -> None:
    depthwise = groups_of(node) > 1
    weight = editor.view.array(node.input[WEIGHT])
    blocks = to_blocks(node, weight)
    if depthwise:
        blocks = blocks[source] * weights[:, None, None, None]
    else:
        blocks = blocks[:, source] * weights[:, None, None]
    bias = bias_of(node)
    if bias is not None:
        old = editor.view.array(bias)
        wide = (
            old if old.ndim and old.shape[-1] > 1 else np.broadcast_to(old.ravel(), weights.shape)
        )
        put(editor, node, BIAS, wide[..., source] * biases)
    if depthwise:
        editor.set_attributes(node, group=source.size)
    put(editor, node, WEIGHT, from_blocks(node, blocks, weight.shape[2:]))


def channel_split_remedies(situation: Situation) -> Sequence[Remedy]:
    """Return layers whose weight has one scale that few channels set."""
    source = situation.source
    view = GraphView(source.proto.graph)
    places: dict[str, list[tuple[Copies, str]]] = {}
    for copies in copies_of(source, view):
        for method, layers in (
            (OUTPUTS, (copies.first, *copies.depthwise)),
            (INPUTS, copies.readers),
        ):
            for layer in layers:
                if halved(source, view, copies, layer, method):
                    places.setdefault(layer, []).append((copies, method))
    found = []
    for quantizer, share in _worst(situation, places):
        node = view.nodes[quantizer.node]
        chosen = [_chosen(situation, quantizer, node, method) for _, method in places[node.name]]
        best = max(chosen, key=lambda choice: choice.gain)
        if best.gain >= _LEAST_GAIN:
            found.append(_remedy([(node.name, best)], share * best.gain))
    found.sort(key=lambda remedy: -(remedy.expected or 0.0))
    found = found[:_CANDIDATES]
    together = [r for r in found if r.edit and r.edit.method == OUTPUTS]
    if len(together) > 1:
        found.insert(0, _together(together))
    return found


@dataclass(frozen=True, slots=True)
class _Choice:
    """Channels to be split, and the share of the rounding noise of the weight that goes."""

    method: str
    numbers: tuple[int, ...]
    gain: float


def _worst(situation: Situation, layers: Collection[str]) -> list[tuple[Quantizer, float]]:
    """Return weights with one scale, those with most of the noise first, and their shares."""
    rows = {row.name: row for row in situation.rows}
    found = []
    for quantizer in situation.plan.quantizers:
        name = quantizer.node
        if quantizer.role != "weight" or not quantizer.active or name not in layers:
            continue
        if calibrated(quantizer)[0].size > 1 or quantizer.slot != f"in{WEIGHT}":
            continue
        parts = rows[name].parts if name in rows else {}
        share = guessed(situation, (name,), 1.0)
        found.append((quantizer, (share or 0.0) * parts.get("weight", 0.3)))
    found.sort(key=lambda pair: -pair[1])
    return found[: 4 * _CANDIDATES]


def _chosen(
    situation: Situation, quantizer: Quantizer, node: onnx.NodeProto, method: str
) -> _Choice:
    """Choose as few channels as do nearly as much as the most that may be split."""
    weight = GraphView(situation.source.proto.graph).array(node.input[WEIGHT])
    blocks = to_blocks(node, weight)
    if method == INPUTS:
        lines = blocks.transpose(2, 0, 1, 3)
    else:
        lines = blocks.reshape(blocks.shape[0] * blocks.shape[1], 1, blocks.shape[2], -1)
    lines = lines.reshape(len(lines), -1)
    most = np.abs(lines).max(axis=1)
    target, ends = situation.target, []
    old = float(calibrated(quantizer)[0].item())
    numbers: list[int] = []
    reach, source = most.astype(np.float64), list(range(len(most)))
    for _ in range(max(1, round(_MOST * len(most)))):
        number = int(reach.argmax())
        reach[number] /= 2
        reach = np.append(reach, reach[number])
        source.append(source[number])
        numbers.append(number)
        parts = reach / np.maximum(most[source], 1e-30)
        array = (lines[source] * parts[:, None]).astype(np.float32)
        lo, hi = target.constant_range(array, replace(quantizer, axis=None))
        scale, _ = target.scale(quantizer, lo, hi, quantizer.observer or "minmax")
        ends.append(1 - (float(scale.item()) / old) ** 2)
    gain = max(ends)
    if not gain > 0:  # the scale is finer than the weight needs: edits before this one saw to that
        return _Choice(method, (), 0.0)
    few = next(i for i, end in enumerate(ends) if end >= 0.8 * gain) + 1
    return _Choice(method, tuple(numbers[:few]), ends[few - 1])


def _remedy(choices: Sequence[tuple[str, _Choice]], expected: float) -> Remedy:
    layers = tuple(name for name, _ in choices)
    count = sum(len(choice.numbers) for _, choice in choices)
    edit = Edit(
        "channel_split",
        layers,
        choices[0][1].method,
        values={name: tuple(map(float, choice.numbers)) for name, choice in choices},
    )
    what = f"{count} channel{'s'[: count > 1]} split by {edit.method}"
    return Remedy(
        "channel_split", layers, "channels as trained", what, edit=edit, expected=expected
    )


def _together(remedies: Sequence[Remedy]) -> Remedy:
    values = {k: v for r in remedies if r.edit for k, v in r.edit.values.items()}
    choices = [(k, _Choice(OUTPUTS, tuple(map(int, v)), 0.0)) for k, v in values.items()]
    return _remedy(choices, min(sum(r.expected or 0.0 for r in remedies), 1.0))
