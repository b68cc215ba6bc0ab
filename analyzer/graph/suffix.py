# SPDX-License-Identifier: Apache-2.0
"""Suffix runs: what a graph's outputs become when only a few layers are quantized.

The plain tensors of one sample are kept; a unit (a set of layers with their quantizers) is then
run from its own inputs, and behind it only what depends on it, segment by segment.  Segments are
compiled once and shared by all units; a unit owns only the short session from its layers to the
end of their segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from analyzer.graph.build import GraphBuilder, emit, is_float, slots_by_node
from analyzer.graph.segments import Segment, for_probes, node_seconds
from analyzer.graph.session import Value, open_session, run, to_value
from analyzer.graph.view import GraphView, reads
from analyzer.quant.metrics import nsr_of, power
from analyzer.records import Model, Quantizer

_REFERENCE = "ref:"


@dataclass(frozen=True, slots=True)
class Unit:
    """Quantizers that are switched on together, all others off."""

    name: str
    quantizers: tuple[Quantizer, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """The layers perturbed, each once."""
        return tuple(dict.fromkeys(q.node for q in self.quantizers))


@dataclass(frozen=True, slots=True)
class PlainRun:
    """The FP32 tensors of one sample that suffix runs start from.

    Attributes:
        values: tensor -> value.
        power: graph output -> sum of squares, in float64.
    """

    values: Mapping[str, Value]
    power: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Runner:
    """A compiled part of one segment.

    Attributes:
        inputs: tensors read, noisy where the unit reaches them, else plain.
        writes: tensors made here that later segments read -> their name in the session.
        noise: graph output -> session output with its difference from the plain run.
        seconds: estimated time of one run on one core.
    """

    session: ort.InferenceSession
    inputs: tuple[str, ...]
    writes: Mapping[str, str]
    noise: Mapping[str, str]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Step:
    """One runner on the way of a unit.

    Attributes:
        noisy: the runner's inputs that the unit has perturbed.
        keeps: the runner's writes that the unit perturbs and a later step reads.
        outputs: the runner's graph outputs that the unit perturbs.
        drops: noisy tensors that no later step reads.
    """

    runner: _Runner
    noisy: frozenset[str]
    keeps: tuple[str, ...]
    outputs: tuple[str, ...]
    drops: tuple[str, ...] = ()


class SuffixRuns:
    """Compiled suffixes of one model for a fixed list of units.

    Args:
        model: bound.
        units: their quantizers calibrated.
        samples: how many samples will be run, a hint for where to cut.
    """

    def __init__(self, model: Model, units: Sequence[Unit], *, samples: int) -> None:
        self.model = model
        self.view = GraphView(model.proto.graph)
        self.outputs = tuple(t for t in self.view.outputs if is_float(model, t))
        self.segments = for_probes(model, self.view, [u.nodes for u in units], samples=samples)
        self._whole: dict[int, _Runner] = {}
        self._routes = {unit.name: self._route(unit) for unit in units}
        self._plain = self._compile_plain()

    @property
    def seconds(self) -> float:
        """Estimated time of all units on one sample and one core."""
        return sum(step.runner.seconds for route in self._routes.values() for step in route)

    def plain(self, sample: Mapping[str, npt.NDArray[np.generic]]) -> PlainRun:
        """Run one sample in FP32 and keep what suffix runs need."""
        values = {name: to_value(array) for name, array in sample.items()}
        wanted = [o.name for o in self._plain.get_outputs()]
        read = [i.name for i in self._plain.get_inputs()]
        values.update(run(self._plain, wanted, {t: values[t] for t in read}))
        return PlainRun(values, {t: power(values[t].numpy()) for t in self.outputs})

    def nsr(self, unit: str, plain: PlainRun) -> dict[str, float]:
        """Return the NSR at every float graph output with only `unit` quantized.

        Outputs that do not depend on the unit have an NSR of exactly 0.
        """
        noise = dict.fromkeys(self.outputs, 0.0)
        noisy: dict[str, Value] = {}
        for step in self._routes[unit]:
            runner = step.runner
            feeds = {t: noisy[t] if t in step.noisy else plain.values[t] for t in runner.inputs}
            feeds.update((_REFERENCE + t, plain.values[t]) for t in runner.noise)
            wanted = [runner.writes[t] for t in step.keeps]
            made = run(runner.session, [*wanted, *(runner.noise[t] for t in step.outputs)], feeds)
            for output in step.outputs:
                noise[output] = power(made[runner.noise[output]].numpy())
            noisy.update((t, made[runner.writes[t]]) for t in step.keeps)
            for tensor in step.drops:
                del noisy[tensor]
        return {t: nsr_of(noise[t], plain.power[t]) for t in self.outputs}

    def _route(self, unit: Unit) -> tuple[_Step, ...]:
        """Compile the unit's own part and list what has to be run behind it."""
        slots = slots_by_node(unit.quantizers)
        perturbed: set[str] = set()
        steps: list[_Step] = []
        for segment in self.segments:
            touched = self._touched(segment, slots, perturbed)
            if not touched:
                continue
            if any(node.name in slots for node in touched):
                runner = self._compile(segment, touched, slots)
            else:
                runner = self._whole_segment(segment)
            noisy = frozenset(t for t in runner.inputs if t in perturbed)
            reached = {t for node in touched for t in node.output if t}
            perturbed |= reached
            steps.append(
                _Step(
                    runner,
                    noisy,
                    tuple(t for t in runner.writes if t in reached),
                    tuple(t for t in runner.noise if t in reached),
                )
            )
        return _with_lifetimes(steps)

    def _touched(
        self, segment: Segment, slots: Mapping[str, Sequence[Quantizer]], perturbed: set[str]
    ) -> list[onnx.NodeProto]:
        """Return the nodes of `segment` whose outputs the unit changes."""
        changed = set(perturbed)
        touched = []
        for node in segment.nodes:
            if node.name in slots or not changed.isdisjoint(reads(node)):
                touched.append(node)
                changed.update(t for t in node.output if t)
        return touched

    def _whole_segment(self, segment: Segment) -> _Runner:
        if segment.index not in self._whole:
            self._whole[segment.index] = self._compile(segment, segment.nodes, {})
        return self._whole[segment.index]

    def _compile(
        self,
        segment: Segment,
        nodes: Sequence[onnx.NodeProto],
        slots: Mapping[str, Sequence[Quantizer]],
    ) -> _Runner:
        builder = GraphBuilder(self.model, self.view)
        made = emit(builder, nodes, prefix="", outside=lambda t: builder.input(t, t), slots=slots)
        inputs = tuple(builder.inputs)
        writes = {
            t: made[t] for t in segment.live_out if t in made and self._read_later(t, segment)
        }
        for tensor, name in writes.items():
            builder.output(name, tensor)
        noise = {}
        for tensor in self.outputs:
            if tensor in made:
                reference = builder.input(_REFERENCE + tensor, tensor)
                noise[tensor] = builder.add("Sub", [made[tensor], reference], f"{tensor}//noise")
                builder.output(noise[tensor], tensor)
        session = open_session(builder.serialize())
        seconds = sum(node_seconds(self.model, node) for node in nodes)
        return _Runner(session, inputs, writes, noise, seconds)

    def _read_later(self, tensor: str, segment: Segment) -> bool:
        inside = {node.name for node in segment.nodes}
        return any(c not in inside for c in self.view.consumers.get(tensor, ()))

    def _compile_plain(self) -> ort.InferenceSession:
        """Compile the FP32 model with every tensor as output that some step reads unperturbed."""
        wanted = set(self.outputs)
        for route in self._routes.values():
            for step in route:
                wanted.update(t for t in step.runner.inputs if t not in step.noisy)
        builder = GraphBuilder(self.model, self.view)
        nodes = [node for segment in self.segments for node in segment.nodes]
        emit(builder, nodes, prefix="", outside=lambda t: builder.input(t, t), slots={})
        for tensor in sorted(wanted - set(self.view.inputs)):
            builder.output(tensor, tensor)
        return open_session(builder.serialize())


def _with_lifetimes(steps: Sequence[_Step]) -> tuple[_Step, ...]:
    """Keep only what a later step reads, and drop it behind the last one."""
    later: set[str] = set()
    result = []
    for step in reversed(steps):
        keeps = tuple(t for t in step.keeps if t in later)
        drops = tuple(sorted(step.noisy - later))
        later |= step.noisy
        result.append(replace(step, keeps=keeps, drops=drops))
    return tuple(reversed(result))
