# SPDX-License-Identifier: Apache-2.0
"""Mean errors of layers in a quantized graph: a plan goes in, shifts per channel come out.

FP32 and the quantized graph run side by side, from one layer to the next, on all samples at once.
The mean error found at a layer is added to its quantized outputs before the next part runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper

from analyzer.fixes.channels import output_axis
from analyzer.graph.build import GraphBuilder, emit, slots_by_node
from analyzer.graph.segments import Segment, cut, depth_first_order
from analyzer.graph.session import Value, open_session, release_unused, run, to_value
from analyzer.graph.tensors import TensorRuns, twin
from analyzer.graph.view import GraphView
from analyzer.records import Model, Quantizer, QuantPlan, Sample

F64 = npt.NDArray[np.float64]
Slots = Mapping[str, Sequence[Quantizer]]

_RAW = "//raw"  # what a layer makes, before it is corrected and quantized
_SHIFT = "//shift"


def find_shifts(
    model: Model, plan: QuantPlan, layers: Iterable[str], samples: Sequence[Sample]
) -> dict[str, F64]:
    """Return layer -> what to add to each of its output channels.

    Args:
        model: the graph of the plan.
        plan: calibrated.
        layers: to be corrected; others are left as they are.
        samples: a few, at least one; what of them is alive between two layers is all held.
    """
    view, wanted = GraphView(model.proto.graph), set(layers)
    order = depth_first_order(view)
    ends = [i + 1 for i, node in enumerate(order) if node.name in wanted]
    slots = slots_by_node(plan.quantizers)
    segments = cut(view, order, [*ends, len(order)])[: len(ends)]
    states = [_State.of(sample) for sample in samples]
    shifts: dict[str, F64] = {}
    last: str | None = None
    with ThreadPoolExecutor(min(len(states), os.cpu_count() or 1)) as pool:
        for number, segment in enumerate(segments):
            later = {t for after in segments[number + 1 :] for t in after.live_in}
            part = _part(model, view, segment, later, slots, last, shifts)
            errors = np.array(list(pool.map(part.advance, states)))
            last = segment.nodes[-1].name
            shifts[last] = likely(errors)
    release_unused()
    return shifts


def local_shifts(
    model: Model, plan: QuantPlan, layers: Iterable[str], samples: Sequence[Sample]
) -> dict[str, F64]:
    """Return the same for layers each by itself: what comes in is as in FP32.

    Args:
        model: the graph of the plan.
        plan: calibrated.
        layers: to be corrected.
        samples: a few, at least one.
    """
    view, slots = GraphView(model.proto.graph), slots_by_node(plan.quantizers)
    nodes = [view.nodes[name] for name in layers]
    twins = {node.output[0]: _inputs(slots, node.name) for node in nodes}
    runs = TensorRuns(model, twins, twins=twins)
    errors: dict[str, list[F64]] = {node.name: [] for node in nodes}
    for sample in samples:
        values = runs.run(sample)
        for node in nodes:
            tensor, axis = node.output[0], output_axis(model, node)
            error = np.subtract(values[tensor], values[twin(tensor)], dtype=np.float32)
            errors[node.name].append(_mean(error, axis))
    return {name: likely(np.array(rows)) for name, rows in errors.items()}


def likely(errors: F64) -> F64:
    """Return mean errors, smaller the more they may be chance.

    A mean m over n samples that spread with variance v is taken as m^3 / (m^2 + v / n).

    Args:
        errors: (samples, channels).
    """
    mean, count = np.asarray(errors.mean(axis=0)), len(errors)
    if count < 2:
        return mean
    chance = errors.var(axis=0, ddof=1) / count
    square = mean**2
    keep = np.divide(square, square + chance, out=np.zeros_like(mean), where=square > 0)
    return np.asarray(mean * keep)


@dataclass(slots=True)
class _State:
    """One sample on its way: the tensors that are alive, in FP32 and quantized."""

    plain: dict[str, Value]
    noisy: dict[str, Value]

    @classmethod
    def of(cls, sample: Sample) -> _State:
        values = {name: to_value(array) for name, array in sample.items()}
        return cls(dict(values), dict(values))


@dataclass(frozen=True, slots=True)
class _Session:
    """A compiled part: what it reads, and what each of its outputs is called outside."""

    session: ort.InferenceSession
    reads: tuple[str, ...]
    writes: Mapping[str, str]

    def run(self, held: dict[str, Value]) -> None:
        made = run(self.session, list(self.writes), {t: held[t] for t in self.reads})
        held.update((self.writes[name], value) for name, value in made.items())


@dataclass(frozen=True, slots=True)
class _Part:
    """The nodes up to a layer, in FP32 and quantized.

    Attributes:
        tensor: that the layer makes.
        axis: of its channels.
        later: tensors that are read behind.
    """

    plain: _Session
    noisy: _Session
    tensor: str
    axis: int
    later: frozenset[str]

    def advance(self, state: _State) -> F64:
        """Run this part on one sample; return the mean error of each channel of the layer."""
        self.plain.run(state.plain)
        self.noisy.run(state.noisy)
        raw = self.tensor + _RAW
        error = state.plain[self.tensor].numpy() - state.noisy[raw].numpy()
        state.plain = {t: v for t, v in state.plain.items() if t in self.later}
        state.noisy = {t: v for t, v in state.noisy.items() if t in self.later or t == raw}
        return _mean(error, self.axis)


def _part(
    model: Model,
    view: GraphView,
    segment: Segment,
    later: set[str],
    slots: Slots,
    last: str | None,
    shifts: Mapping[str, F64],
) -> _Part:
    """Compile what lies between two layers.

    Args:
        model: the graph.
        view: of it.
        segment: that ends with a layer.
        later: tensors that are read behind.
        slots: active quantizers by node.
        last: layer before this part; only its output quantizers are still to come.
        shifts: of the layers before.
    """
    *inner, layer = segment.nodes
    tensor, axis = layer.output[0], output_axis(model, layer)
    plain = GraphBuilder(model, view)
    made = emit(plain, segment.nodes, prefix="", outside=lambda t: plain.input(t, t), slots={})
    kept = {t: t for t in made if t in later or t == tensor}
    nodes, own = list(inner), {n.name: slots[n.name] for n in inner if n.name in slots}
    noisy = GraphBuilder(model, view)
    if last is not None:
        before = view.nodes[last].output[0]
        rank = len(model.shapes[before])
        shape = [1] * rank
        shape[output_axis(model, view.nodes[last])] = -1
        noisy.constant(before + _SHIFT, shifts[last].astype(np.float32).reshape(shape))
        inputs = [before + _RAW, before + _SHIFT]
        nodes.insert(0, helper.make_node("Add", inputs, [before], name=last))
        own[last] = [q for q in slots.get(last, ()) if q.slot.startswith("out")]
    raw = onnx.NodeProto()
    raw.CopyFrom(layer)
    raw.output[0] = tensor + _RAW
    own[layer.name] = _inputs(slots, layer.name)

    def outside(name: str) -> str:
        if name in noisy.constants:
            return name
        return noisy.input(name, name.removesuffix(_RAW))

    found = emit(noisy, [*nodes, raw], prefix="", outside=outside, slots=own)
    names = {found[t]: t for t in found if t in later or t == tensor + _RAW}
    return _Part(
        _compiled(plain, {made[t]: t for t in kept}),
        _compiled(noisy, names),
        tensor,
        axis,
        frozenset(later),
    )


def _inputs(slots: Slots, layer: str) -> list[Quantizer]:
    return [q for q in slots.get(layer, ()) if q.slot.startswith("in")]


def _mean(error: npt.NDArray[Any], axis: int) -> F64:
    """Return the mean of every channel."""
    rows = np.moveaxis(error, axis, 0).reshape(error.shape[axis], -1)
    return np.asarray(rows.mean(axis=1, dtype=np.float64))


def _compiled(builder: GraphBuilder, writes: Mapping[str, str]) -> _Session:
    for name, tensor in writes.items():
        builder.output(name, tensor.removesuffix(_RAW))
    return _Session(open_session(builder.serialize()), tuple(builder.inputs), writes)
