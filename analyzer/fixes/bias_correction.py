# SPDX-License-Identifier: Apache-2.0
"""Bias correction: what quantizing shifts a layer's outputs by, per channel, goes into its bias.

"local": every layer by itself, with FP32 inputs: what rounding its own weights and inputs does.
"sequential": in execution order, each layer with what those before it make once they are
    corrected (Nagel et al., arXiv 1906.04721, section 4.2, with samples instead of statistics).
    What errors do on their way is corrected too; in deep networks whose errors are not alike all
    over a picture this may add up to more noise than there was.

A mean over few samples is itself uncertain, so a shift is made smaller the less it exceeds its
own spread from sample to sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx

from analyzer.errors import ModelError
from analyzer.fixes.channels import BIAS, MIXING, find, is_mixing, outputs_of, put
from analyzer.fixes.guesses import guessed, rounded
from analyzer.fixes.remedy import Remedy
from analyzer.fixes.shifts import find_shifts, local_shifts
from analyzer.fixes.situation import Situation
from analyzer.graph.edit import GraphEditor
from analyzer.graph.view import GraphView
from analyzer.records import Edit, Model

F64 = npt.NDArray[np.float64]

LOCAL, SEQUENTIAL = "local", "sequential"


def correct_biases(model: Model, edit: Edit) -> Model:
    """Add the shifts of `edit.values` to biases; a layer without one gets one.

    Raises:
        ModelError: if a layer is not there or has no place for a bias, or shifts do not fit.
    """
    editor = GraphEditor(model)
    for layer in edit.layers:
        node = find(editor, layer, "corrected")
        place = _place(model, editor.view, node)
        if place is None:
            raise ModelError(
                f"Layer {layer!r} has no bias that could be corrected: expected a Conv, "
                "ConvTranspose or Gemm, or a MatMul with a constant added behind it.",
                "Leave it out.",
            )
        shifts = np.asarray(edit.values.get(layer, ()), np.float64)
        channels = outputs_of(model, node)
        if shifts.shape != (channels,) or not np.isfinite(shifts).all():
            raise ModelError(
                f"Layer {layer!r} was given {shifts.size} shifts, expected {channels} numbers.",
                "Take them from an analysis of the same model.",
            )
        _shift(editor, *place, shifts)
    return editor.done()


def _place(
    model: Model, view: GraphView, node: onnx.NodeProto
) -> tuple[onnx.NodeProto, int] | None:
    """Return where the bias of a layer is, or can be: a node and the number of its input."""
    if not is_mixing(model, view, node):
        return None
    if node.op_type != "MatMul":
        return node, BIAS
    readers = view.consumers.get(node.output[0], ())
    add = view.nodes[readers[0]] if len(readers) == 1 else None
    if add is None or add.op_type != "Add" or node.output[0] in view.outputs:
        return None
    for index, name in enumerate(add.input):
        if view.is_constant(name) and view.array(name).size == outputs_of(model, node):
            return add, index
    return None


def _shift(editor: GraphEditor, node: onnx.NodeProto, index: int, shifts: F64) -> None:
    if len(node.input) > index and node.input[index]:
        old = editor.view.array(node.input[index]).astype(np.float64)
        put(editor, node, index, old + shifts)
        return
    name = editor.constant(f"{node.name}_bias", shifts.astype(np.float32))
    if len(node.input) == index:
        node.input.append(name)
    else:
        node.input[index] = name
    editor.touch()


def bias_correction_remedies(situation: Situation) -> Sequence[Remedy]:
    """Return the correction of all layers at once, by either method.

    Shifts belong to the plan they were found with: what is changed afterwards makes other errors.
    """
    if getattr(situation.target, "bias_correction", False) or any(
        edit.kind == "bias_correction" for edit in situation.setting.edits
    ):
        return ()
    layers = list(_layers(situation))
    if not layers or not situation.samples:
        return ()
    given = situation.model, situation.plan, layers, situation.samples
    found = {SEQUENTIAL: find_shifts(*given), LOCAL: local_shifts(*given)}
    remedies = (_remedy(situation, method, shifts) for method, shifts in found.items())
    return [remedy for remedy in remedies if remedy is not None]


def _remedy(situation: Situation, method: str, shifts: Mapping[str, F64]) -> Remedy | None:
    named = tuple(name for name, values in shifts.items() if np.any(values))
    if not named:
        return None
    values = {name: rounded(shifts[name]) for name in named}
    return Remedy(
        "bias_correction",
        named,
        "biases as trained",
        f"biases corrected, {method}",
        edit=Edit("bias_correction", named, method, values=values),
        expected=guessed(situation, situation.plan.layers, 0.3),
    )


def _layers(situation: Situation) -> Iterator[str]:
    """Yield the layers whose bias can be corrected, and that make the same in the plan's graph."""
    source, graph = situation.source, situation.model
    view = GraphView(source.proto.graph)
    for name, node in view.nodes.items():
        place, same = _place(source, view, node), situation.view.nodes.get(name)
        if place is None or same is None or same.op_type not in MIXING:
            continue
        # a bias may have been taken into the layer; what else was (a norm) changes the units
        alike = same.output[0] in (node.output[0], place[0].output[0])
        if alike and outputs_of(graph, same) == outputs_of(source, node):
            yield name
