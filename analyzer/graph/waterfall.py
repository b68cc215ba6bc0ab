# SPDX-License-Identifier: Apache-2.0
"""The noise along a graph: a calibrated plan goes in, the error at the outputs step by step out.

The graph is cut at narrow places of a depth-first order.  At every cut what lies before it is
quantized and what lies behind it is not: the quantized branch runs once per sample and hands its
live tensors to FP32 stretches, which are compiled once and shared by all cuts.  The difference of
two steps is what the layers between them add or damp, and all differences add up to the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort

from analyzer.graph.build import GraphBuilder, emit, noisy_outputs, slots_by_node
from analyzer.graph.segments import bytes_alive, cut, depth_first_order
from analyzer.graph.session import Value, open_session, release_unused, run, to_value
from analyzer.graph.view import GraphView
from analyzer.quant.metrics import nsr_of, power
from analyzer.records import Model, Quantizer, Sample, Step

MOST_STEPS = 14
_Nsr = dict[str, float]


def waterfall(
    model: Model,
    quantizers: Iterable[Quantizer],
    samples: Sequence[Sample],
    *,
    steps: int = MOST_STEPS,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
) -> tuple[Step, ...]:
    """Measure the error at every float output with ever more of the graph quantized.

    Args:
        model: bound; the graph that the quantizers belong to.
        quantizers: calibrated.
        samples: one run each; errors are means over them.
        steps: at most so many; every layer is one where there are fewer.
        workers: threads that run side by side.
        step: told the number of runs finished since the last call.

    Returns:
        in the order of a run; the last one is the fully quantized model.  None without samples
        or active quantizers.
    """
    slots = slots_by_node(quantizers)
    view = GraphView(model.proto.graph)
    order = depth_first_order(view)
    ends = _ends(model, view, order, slots, steps)
    if not ends or not samples:
        return ()
    runs = _Runs(model, view, order, ends, slots)
    rows: list[list[_Nsr]] = [[] for _ in ends]
    with ThreadPoolExecutor(workers) as pool:
        for sample in samples:
            for row, found in zip(rows, runs.errors(sample, pool, step), strict=True):
                row.append(found)
            release_unused()
    done, result = 0, []
    for stretch, row in zip(runs.stretches, rows, strict=True):
        done += len(stretch.layers)
        means = {t: float(np.mean([found[t] for found in row])) for t in runs.outputs}
        result.append(Step(stretch.layers[-1], done, means))
    return tuple(result)


def _ends(
    model: Model,
    view: GraphView,
    order: Sequence[onnx.NodeProto],
    slots: Mapping[str, Sequence[Quantizer]],
    steps: int,
) -> list[int]:
    """Return where stretches end: about as many quantized layers in each, cut at narrow places."""
    at = [i for i, node in enumerate(order) if node.name in slots]
    count = min(steps, len(at))
    alive = bytes_alive(model, view, order)
    ends: list[int] = []
    for number in range(1, count):
        last = number * len(at) // count  # layers up to the latest place
        first = max(last - len(at) // (2 * count), (number - 1) * len(at) // count + 1)
        places = range(at[first - 1], at[last])
        ends.append(1 + min(places, key=lambda i: (alive[i], -i)))
    return [*ends, len(order)] if count else []


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Nodes between two cuts, in FP32 and quantized.

    Attributes:
        reads: tensors from before.
        writes: tensors that are read behind, and graph outputs.
        layers: quantized ones, in order.
        keeps: tensors, made here or before, that are read behind.
    """

    plain: _Session
    noisy: _Session
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    layers: tuple[str, ...]
    keeps: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Session:
    """A compiled stretch, and its own name of every tensor it writes."""

    session: ort.InferenceSession
    names: tuple[str, ...]


class _Runs:
    """All stretches of one model, compiled."""

    def __init__(
        self,
        model: Model,
        view: GraphView,
        order: Sequence[onnx.NodeProto],
        ends: Sequence[int],
        slots: Mapping[str, Sequence[Quantizer]],
    ) -> None:
        self.outputs = noisy_outputs(model, view)
        self.stretches: list[_Stretch] = []
        later: frozenset[str] = frozenset()
        for segment in reversed(cut(view, order, ends)):
            compiled = [
                _compile(model, view, segment.nodes, segment.live_out, s) for s in ({}, slots)
            ]
            layers = tuple(node.name for node in segment.nodes if node.name in slots)
            self.stretches.append(
                _Stretch(
                    compiled[0], compiled[1], segment.live_in, segment.live_out, layers, later
                )
            )
            later |= frozenset(segment.live_in)
        self.stretches.reverse()

    def errors(
        self, sample: Sample, pool: ThreadPoolExecutor, step: Callable[[int], None]
    ) -> list[_Nsr]:
        """Return the NSR at every output, for every cut."""
        given = {name: to_value(array) for name, array in sample.items()}
        going = pool.submit(self._run, 0, given, noisy=False)
        states = self._run(0, given, noisy=True)
        ends = going.result()[-1]
        powers = {t: power(ends[t].numpy()) for t in self.outputs}

        def finish(number: int) -> _Nsr:
            held = states[number]
            if number + 1 < len(self.stretches):
                held = self._run(number + 1, held, noisy=False)[-1]
            states[number] = {}
            return {
                t: nsr_of(power(held[t].numpy() - ends[t].numpy()), powers[t])
                for t in self.outputs
            }

        found = []
        for errors in pool.map(finish, range(len(states))):
            found.append(errors)
            step(1)
        return found

    def _run(
        self, start: int, given: Mapping[str, Value], *, noisy: bool
    ) -> list[dict[str, Value]]:
        """Run from a stretch to the end; return what is alive behind each, with the outputs.

        In FP32 only the last state is kept.
        """
        held = dict(given)
        states: list[dict[str, Value]] = []
        for stretch in self.stretches[start:]:
            compiled = stretch.noisy if noisy else stretch.plain
            made = run(compiled.session, compiled.names, {t: held[t] for t in stretch.reads})
            held.update(
                (t, made[name]) for t, name in zip(stretch.writes, compiled.names, strict=True)
            )
            held = {t: v for t, v in held.items() if t in stretch.keeps or t in self.outputs}
            states = [*states, held] if noisy else [held]
        return states


def _compile(
    model: Model,
    view: GraphView,
    nodes: Sequence[onnx.NodeProto],
    writes: Sequence[str],
    slots: Mapping[str, Sequence[Quantizer]],
) -> _Session:
    builder = GraphBuilder(model, view)
    made = emit(builder, nodes, prefix="", outside=lambda t: builder.input(t, t), slots=slots)
    for tensor in writes:
        builder.output(made[tensor], tensor)
    return _Session(open_session(builder.serialize()), tuple(made[t] for t in writes))
