# SPDX-License-Identifier: Apache-2.0
"""How each kind of quantization fault is planted: a model and a spot in, the fault's place out.

What the kinds are stands in `plant_faults.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from isolated_noise import (
    HERE,
    calibration,
    evaluation,
    power_of_two_scale,
    run,
    with_outputs,
)
from model_editor import Editor, end_with, node


@dataclass(frozen=True)
class Place:
    """Where a fault is: nodes, the one at fault first; the tensor it spoils; its channels there.

    A second model is the clean twin, where the model it was made from is not.
    """

    layers: list[str]
    tensor: str
    channels: list[int] = field(default_factory=list)
    twin: onnx.ModelProto | None = None


@dataclass(frozen=True)
class Spot:
    """One fault in one network.

    Attributes:
        model: clean network.
        producer: node that is changed.
        reader: node that reads it and takes the change out again.
        factor: K.
        concat: through which the reader reads it.
        options: of the run that shows the fault, by the names of the command line's flags.
    """

    model: str
    fault: str
    producer: str = ""
    reader: str = ""
    factor: float = 1
    concat: str | None = None
    options: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the stem of the files."""
        return f"{self.model}_{self.fault}"


Planter = Callable[[Editor, Spot], Place]


def data_of(name: str) -> np.ndarray:
    """Return all inputs of a network: calibration and held-out ones."""
    return np.concatenate([calibration(name), evaluation(name)])


def values(edit: Editor, spot: Spot, tensor: str) -> np.ndarray:
    """Return what a tensor is on all inputs, (samples, ...) without the batch axis."""
    return run(with_outputs(edit.model, [tensor]), data_of(spot.model), [tensor])[0][:, 0]


def around(edit: Editor, tensor: str, concat: str | None) -> list[str]:
    """Return the nodes whose outputs share the fate of a tensor: it, and what feeds it."""
    if concat is None:
        return edit.source(tensor)
    return [concat, *(name for branch in edit.feeding(concat) for name in branch)]


def spoiled(edit: Editor, spot: Spot) -> str:
    """Return the tensor whose quantizer the fault spoils: behind the Concat or the Relu."""
    return edit.output(spot.concat) if spot.concat else edit.activated(spot.producer)


def place(edit: Editor, spot: Spot, channels: np.ndarray) -> Place:
    """Return the place of a fault in the output of the producer or the Concat."""
    tensor = spoiled(edit, spot)
    return Place(around(edit, tensor, spot.concat), tensor, channels.tolist())


def branch(edit: Editor, spot: Spot) -> tuple[int, int]:
    """Return the producer's first channel and their number, counted where the reader reads."""
    if spot.concat is None:
        return 0, len(edit.read(spot.producer, 2))
    convs = [names[-1] for names in edit.feeding(spot.concat)]
    widths = [len(edit.read(conv, 2)) for conv in convs]
    first = convs.index(spot.producer)
    return sum(widths[:first]), widths[first]


def scale_channels(edit: Editor, spot: Spot, channels: np.ndarray, offset: int) -> None:
    """Multiply output channels of the producer and divide them out in the reader.

    Args:
        edit: the model, modified.
        spot: producer, reader and factor.
        channels: output channels of the producer.
        offset: where the producer's first channel enters the reader.
    """
    for slot in (1, 2):
        value = edit.read(spot.producer, slot)
        value[channels] *= spot.factor
        edit.write(spot.producer, slot, value)
    weight = edit.read(spot.reader, 1)
    if edit.depthwise(spot.reader):
        weight[offset + channels] /= spot.factor
    else:
        weight[:, offset + channels] /= spot.factor
    edit.write(spot.reader, 1, weight)


def add_channels(edit: Editor, spot: Spot, biases: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Append constant channels to the producer, which must be the last branch of a Concat.

    Args:
        edit: the model, modified.
        spot: producer and reader.
        biases: value of each channel, before the Relu if there is one.
        read: the reader's weights for them, (out, new channels, *kernel).

    Returns:
        The new channels, counted where the reader reads.
    """
    first, count = branch(edit, spot)
    weight, bias = edit.read(spot.producer, 1), edit.read(spot.producer, 2)
    zeros = np.zeros((len(biases), *weight.shape[1:]))
    edit.write(spot.producer, 1, np.concatenate([weight, zeros]))
    edit.write(spot.producer, 2, np.append(bias, biases))
    edit.write(spot.reader, 1, np.concatenate([edit.read(spot.reader, 1), read], axis=1))
    return first + count + np.arange(len(biases))


def plant_outlier(edit: Editor, spot: Spot) -> Place:
    """Scale the channel with the largest weights relative to those that read it."""
    written = (edit.read(spot.producer, 1) ** 2).sum((1, 2, 3))
    kernel = edit.read(spot.reader, 1)
    read = (kernel**2).sum((1 if edit.depthwise(spot.reader) else 0, 2, 3))
    channels = np.array([np.argmax(written / read)])
    scale_channels(edit, spot, channels, 0)
    return place(edit, spot, channels)


def plant_concat(edit: Editor, spot: Spot) -> Place:
    """Scale the producer's whole branch."""
    first, count = branch(edit, spot)
    scale_channels(edit, spot, np.arange(count), first)
    return place(edit, spot, first + np.arange(count))


def plant_dead(edit: Editor, spot: Spot) -> Place:
    """Append a constant channel that nothing reads."""
    tensor = spoiled(edit, spot)
    samples = calibration(spot.model)
    largest = np.abs(run(with_outputs(edit.model, [tensor]), samples, [tensor])[0]).max()
    unread = np.zeros_like(edit.read(spot.reader, 1)[:, :1])
    return place(edit, spot, add_channels(edit, spot, np.array([spot.factor * largest]), unread))


def plant_spikes(edit: Editor, spot: Spot) -> Place:
    """Put one large value into each channel, at a place where it is zero on all inputs."""
    tensor = spoiled(edit, spot)
    seen = values(edit, spot, tensor)
    spikes, mask = np.zeros(seen.shape[1:]), np.ones(seen.shape[1:])
    for channel, off in enumerate((seen == 0).all(0)):
        if off.any() and not off.all():
            spots = np.argwhere(off)
            at = (channel, *spots[len(spots) // 2])
            spikes[at], mask[at] = spot.factor * seen.max(), 0
    add = node("Add", "/marks/Add", tensor, edit.constant("marks", spikes[None]))
    hide = node("Mul", "/marks/Mul", add.output[0], edit.constant("marks_mask", mask[None]))
    edit.insert(spot.reader, 0, add, hide)
    return Place([add.name, hide.name], add.output[0])


def plant_mask(edit: Editor, spot: Spot) -> Place:
    """Pad the keys and values of the attention by four, and mask those with -K."""
    key = edit.nodes[spot.producer].input[1]
    keys = node(
        "Concat", "/attn/pad_k/Concat", key, edit.constant("pad_k", np.zeros((1, 2, 8, 4))), axis=3
    )
    edit.insert(spot.producer, 1, keys)
    value = edit.nodes[spot.reader].input[0]
    more = edit.constant("pad_v", np.zeros((1, 2, 16, 4)))
    edit.insert(spot.reader, 0, node("Concat", "/attn/pad_v/Concat", value, more, axis=3))
    mask = np.zeros((1, 1, 1, 20))
    mask[..., 16:] = -spot.factor
    scores = edit.nodes["/attn/Softmax"].input[0]
    add = node("Add", "/attn/mask/Add", scores, edit.constant("mask", mask))
    edit.insert("/attn/Softmax", 0, add)
    return Place([add.name, "/attn/Softmax"], add.output[0])


def plant_off(edit: Editor, spot: Spot) -> Place:
    """Add minus K ahead of a Relu, in each channel at a place where it is off on all inputs."""
    relu = edit.source(spoiled(edit, spot))[0]
    seen = values(edit, spot, edit.output(relu))
    marks = np.zeros(seen.shape[1:])
    for channel, off in enumerate((seen == 0).all(0)):
        if off.any() and not off.all():
            spots = np.argwhere(off)
            marks[(channel, *spots[len(spots) // 2])] = -spot.factor
    add = node(
        "Add", "/marks/Add", edit.output(spot.producer), edit.constant("marks", marks[None])
    )
    edit.insert(relu, 0, add)
    return Place([add.name, relu], add.output[0])


def plant_long(edit: Editor, spot: Spot) -> Place:
    """Repeat the keys and values of the attention K times."""
    times = int(spot.factor)
    for reader, slot, name in ((spot.producer, 1, "keys"), (spot.reader, 0, "values")):
        tensor = edit.nodes[reader].input[slot]
        edit.insert(
            reader, slot, node("Concat", f"/attn/{name}/Concat", *[tensor] * times, axis=3)
        )
    return Place(["/attn/Softmax", "/attn/Transpose_1"], edit.output("/attn/Softmax"))


def repair(edit: Editor, spot: Spot, but: str = "") -> Place:
    """Zero depthwise weights that read zeros only: folding BatchNorm made them 300 times larger.

    Args:
        edit: the model, modified.
        spot: which says whose data count.
        but: a convolution to leave as it is.

    Returns:
        That convolution, its channels which read zeros, and the model with none left.
    """
    channels: list[int] = []
    convs = [name for name in edit.nodes if name.endswith("/conv/Conv") and edit.depthwise(name)]
    for conv in sorted(convs, key=lambda name: name == but):
        if conv == but:
            left = copy_of(edit.model)
        unread = (values(edit, spot, edit.nodes[conv].input[0]) == 0).all((0, 2, 3))
        weight = edit.read(conv, 1)
        weight[unread] = 0
        edit.write(conv, 1, weight)
        channels = np.flatnonzero(unread).tolist()
    healed = copy_of(edit.model)
    if but:
        edit.model.CopyFrom(left)
    return Place([but], edit.nodes[but].input[1] if but else "", channels, healed)


def plant_folded(edit: Editor, spot: Spot) -> Place:
    """Leave what folding BatchNorm did to channels that read zeros at the reader alone."""
    return repair(edit, spot, spot.reader)


def plant_weight(edit: Editor, spot: Spot) -> Place:
    """Let one row of the reader's weights be large, on a new channel that is always zero."""
    weight = edit.read(spot.reader, 1)
    read = np.zeros_like(weight[:, :1])
    read[0, 0] = spot.factor * np.abs(weight).max()
    add_channels(edit, spot, np.zeros(1), read)
    return Place([spot.reader], edit.nodes[spot.reader].input[1], [0])


def plant_shift(edit: Editor, spot: Spot) -> Place:
    """Add a constant to all that enters a convolution without padding, take it from its bias.

    The reader's weights are put on an 8-bit grid first, in the clean twin too: what rounding
    leaves of them would be multiplied by the constant.
    """
    weight = edit.read(spot.reader, 1)
    scale = power_of_two_scale(np.abs(weight).max((1, 2, 3), keepdims=True))
    edit.write(spot.reader, 1, np.clip(np.round(weight / scale), -128, 127) * scale)
    twin = copy_of(edit.model)
    tensor = spoiled(edit, spot)
    shift = float(2 ** np.ceil(np.log2(spot.factor * np.abs(values(edit, spot, tensor)).max())))
    convs = [names[-1] for names in edit.feeding(spot.concat)] if spot.concat else [spot.producer]
    for conv in convs:
        edit.write(conv, 2, edit.read(conv, 2) + shift)
    total = edit.read(spot.reader, 1).sum((1, 2, 3))
    edit.write(spot.reader, 2, edit.read(spot.reader, 2) - shift * total)
    found = place(edit, spot, np.arange(0))
    return Place(found.layers, found.tensor, twin=twin)


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def plant_bias(edit: Editor, spot: Spot) -> Place:
    """Append K constant channels as large as the others, read by weights as large as the others.

    Both are 127 times a power of two, the largest 8-bit number: K products of such are more than
    2**19 steps of the bias from K = 33 on.
    """
    healed = repair(edit, spot).twin
    largest = np.abs(values(edit, spot, spoiled(edit, spot))).max()
    weight = edit.read(spot.reader, 1)
    constant, read = (
        127 * 2 ** np.ceil(np.log2(x / 127)) for x in (largest, np.abs(weight).max())
    )
    count = int(spot.factor)
    columns = np.full((len(weight), count, *weight.shape[2:]), read)
    add_channels(edit, spot, np.full(count, constant), columns)
    edit.write(spot.reader, 2, edit.read(spot.reader, 2) - count * constant * read)
    bias = edit.nodes[spot.reader].input[2]
    return Place([spot.reader], bias, list(range(len(weight))), healed)


def plant_common(edit: Editor, spot: Spot) -> Place:
    """Mix the producer's channels so that each is mostly the sum of all, 1/K itself."""
    first, count = branch(edit, spot)
    seen = values(edit, spot, edit.output(spot.producer)).swapaxes(0, 1).reshape(count, -1)
    common = np.linalg.eigh(seen.astype(float) @ seen.T)[1][:, -1]  # what they have in common
    mix = np.outer(np.where(common < 0, -1, 1), common) + np.eye(count) / spot.factor
    weight = edit.read(spot.producer, 1)
    edit.write(spot.producer, 1, np.einsum("oi,i...->o...", mix, weight))
    edit.write(spot.producer, 2, mix @ edit.read(spot.producer, 2))
    weight, own = edit.read(spot.reader, 1), slice(first, first + count)
    weight[:, own] = np.einsum("oi...,ij->oj...", weight[:, own], np.linalg.inv(mix))
    edit.write(spot.reader, 1, weight)
    found = place(edit, spot, first + np.arange(count))
    return Place([*found.layers, spot.reader], found.tensor, found.channels)


def plant_shared(edit: Editor, spot: Spot) -> Place:
    """Concatenate K times the features and the probabilities to one output; or find that so."""
    if spot.concat:  # the network has it
        twin = Editor(HERE / f"{spot.model}.onnx")
        boxes = node("Concat", "/boxes/Concat", *twin.nodes[spot.concat].input[:2], axis=1)
        outputs = [boxes.output[0], twin.nodes[spot.concat].input[2]]
        twin.model.graph.node.remove(twin.nodes[spot.concat])
        twin.model.graph.node.append(boxes)
        twin.end_with(outputs)
        return Place([spot.concat], edit.output(spot.concat), list(range(4, 14)), twin.model)
    two = [
        node("Mul", "/pixels/Mul", edit.output("/Flatten"), edit.constant("K", spot.factor)),
        node("Softmax", "/scores/Softmax", edit.output("/classify/Gemm"), axis=1),
    ]
    edit.model.graph.node.extend(two)
    twin = copy_of(edit.model)
    one = node("Concat", "/Concat", *(item.output[0] for item in two), axis=1)
    edit.model.graph.node.append(one)
    edit.end_with([one.output[0]])
    end_with(twin, [item.output[0] for item in two])
    return Place([one.name], one.output[0], list(range(32, 42)), twin)


def leave(edit: Editor, spot: Spot) -> Place:
    """Change nothing: the fault is in the data."""
    return Place([], edit.model.graph.input[0].name)


ORT = {"target": "onnxruntime"}
MINMAX = {"target": "esp32p4", "calibration": "minmax"}
TENSOR = {**ORT, "granularity": "tensor"}

PLANTERS: dict[str, tuple[str, Planter]] = {
    "outlier_channel": ("QA101", plant_outlier),
    "concat_ranges": ("QA105", plant_concat),
    "dead_channel": ("QA107", plant_dead),
    "outlier_values": ("QA102", plant_spikes),
    "weight_channels": ("QA108", plant_weight),
    "shifted": ("QA109", plant_shift),
    "saturating_bias": ("QA112", plant_bias),
    "rounding": ("QA104", plant_common),
    "clipping": ("QA103", leave),
    "shared_output": ("QA106", plant_shared),
    "long_softmax": ("QA110", plant_long),
    "infinite_mask": ("QA113", plant_off),
    "many_values": ("QA102", plant_spikes),
    "masked_keys": ("QA102", plant_mask),
    "shifted_and_cut": ("QA109", plant_shift),
    "narrow_calibration": ("QA114", leave),
    "foreign_calibration": ("QA115", leave),
}
SPECIAL: dict[str, Planter] = {
    "digits_dw_weight_channels": plant_folded,
    "blobs_det_infinite_mask": plant_mask,
}
DATA: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "clipping": lambda images, factor: np.concatenate([images / factor, images[:2]]),
    "narrow_calibration": lambda images, factor: images / factor,
    "foreign_calibration": lambda images, factor: images * factor,
}
