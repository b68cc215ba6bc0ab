# SPDX-License-Identifier: Apache-2.0
"""Suffix runs: what a graph's outputs become when only a few layers are treated otherwise.

The tensors of one sample are kept as the base run makes them: in FP32, or with quantizers of its
own.  A unit (a set of layers with the quantizers they have instead) is then run from its own
inputs, and behind it only what depends on it, segment by segment.  Segments are compiled once and
shared by all units; a unit owns only the short sessions from its layers to the ends of their
segments, which are compiled when it is first run and can be dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from analyzer.graph.build import GraphBuilder, emit, noisy_outputs, slots_by_node
from analyzer.graph.segments import Segment, for_probes, node_seconds
from analyzer.graph.session import Value, open_session, run, to_value
from analyzer.graph.view import GraphView, reads
from analyzer.quant.fake import calibrated
from analyzer.quant.metrics import nsr_of, power
from analyzer.records import Model, Quantizer

_REFERENCE = "ref:"


@dataclass(frozen=True, slots=True)
class Unit:
    """Layers, and the quantizers they have instead of those of the base run.

    Attributes:
        quantizers: all that are active at the unit's layers.
        bare: layers without any.
    """

    name: str
    quantizers: tuple[Quantizer, ...]
    bare: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """The layers treated otherwise, each once."""
        return tuple(dict.fromkeys((*(q.node for q in self.quantizers), *self.bare)))


def altered(
    name: str,
    base: Mapping[str, Sequence[Quantizer]],
    changes: Mapping[tuple[str, str], Quantizer | None],
) -> Unit:
    """Return the unit whose layers have the quantizers of `base` but for some changes.

    Args:
        name: of the unit.
        base: active quantizers by layer, see `slots_by_node`.
        changes: (node, slot) -> the quantizer it has instead, None for none.
    """
    nodes = dict.fromkeys(node for node, _ in changes)
    kept = [q for node in nodes for q in base.get(node, ()) if q.key not in changes]
    made = [q for q in changes.values() if q is not None]
    bare = tuple(node for node in nodes if all(q.node != node for q in (*kept, *made)))
    return Unit(name, (*kept, *made), bare)


def difference(name: str, base: Iterable[Quantizer], other: Iterable[Quantizer]) -> Unit:
    """Return the unit that makes one plan of another one for the same graph.

    Args:
        name: of the unit.
        base: all quantizers of the base run, calibrated.
        other: all quantizers of the plan it shall become.
    """
    before = {q.key: q for q in base if q.active}
    after = slots_by_node(other)
    grids = {q.key: grid_of(q) for quantizers in after.values() for q in quantizers}
    keys = dict.fromkeys((*before, *grids))
    nodes = dict.fromkeys(
        key[0]
        for key in keys
        if (grid_of(before[key]) if key in before else None) != grids.get(key)
    )
    made = tuple(q for node in nodes for q in after.get(node, ()))
    return Unit(name, made, tuple(node for node in nodes if node not in after))


def grid_of(quantizer: Quantizer) -> tuple[object, ...]:
    """Return what makes two quantizers at one slot round alike."""
    scale, zero = calibrated(quantizer)
    held = None if quantizer.stored is None else quantizer.stored.tobytes()
    return (
        quantizer.qmin, quantizer.qmax, quantizer.axis, quantizer.rounding,
        quantizer.replaces_node, quantizer.tensor, held, scale.tobytes(), zero.tobytes(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlainRun:
    """The tensors of one sample that suffix runs start from.

    Attributes:
        values: tensor -> value in the base run.
        reference: float graph output -> value in FP32.
        power: float graph output -> sum of squares in FP32, in float64.
        nsr: float graph output -> NSR of the base run.
    """

    values: Mapping[str, Value]
    reference: Mapping[str, Value]
    power: Mapping[str, float]
    nsr: Mapping[str, float]


@dataclass(slots=True, eq=False)
class _Part:
    """Nodes of one segment that run together; compiled when first needed.

    Attributes:
        slots: active quantizers by node.
        inputs: tensors read from outside, noisy where the unit reaches them, else as in the base.
        writes: tensors made here that later segments read.
        outputs: float graph outputs made here.
        seconds: estimated time of one run on one core.
    """

    nodes: tuple[onnx.NodeProto, ...]
    slots: Mapping[str, Sequence[Quantizer]]
    inputs: tuple[str, ...]
    writes: tuple[str, ...]
    outputs: tuple[str, ...]
    seconds: float
    compiled: _Compiled | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class _Compiled:
    """The session of a part, and what its tensors and the noise at graph outputs are called."""

    session: ort.InferenceSession
    made: Mapping[str, str]
    noise: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Step:
    """One part on the way of a unit.

    Attributes:
        own: no other unit uses the part.
        noisy: the part's inputs that the unit has changed.
        keeps: the part's writes that the unit changes and a later step reads.
        outputs: the part's graph outputs that the unit changes.
        drops: changed tensors that no later step reads.
    """

    part: _Part
    own: bool
    noisy: frozenset[str]
    keeps: tuple[str, ...]
    outputs: tuple[str, ...]
    drops: tuple[str, ...] = ()


class SuffixRuns:
    """Compiled suffixes of one model for units that are known from the beginning.

    Args:
        model: bound.
        units: their quantizers calibrated.
        samples: how many samples will be run, a hint for where to cut.
        base: quantizers of the base run; none: it is FP32.
    """

    def __init__(
        self,
        model: Model,
        units: Sequence[Unit],
        *,
        samples: int,
        base: Iterable[Quantizer] = (),
    ) -> None:
        self.model = model
        self.view = GraphView(model.proto.graph)
        self.outputs = noisy_outputs(model, self.view)
        self.segments = for_probes(model, self.view, [u.nodes for u in units], samples=samples)
        self._base = slots_by_node(base)
        self._whole: dict[int, _Part] = {}
        self._routes = {unit.name: self._route(unit) for unit in units}
        self._values = self._compile_values()
        self._reference = self._compile_reference() if self._base else None

    @property
    def seconds(self) -> float:
        """Estimated time of all units on one sample and one core."""
        return sum(step.part.seconds for route in self._routes.values() for step in route)

    def plain(
        self, sample: Mapping[str, npt.NDArray[np.generic]], units: Iterable[str] | None = None
    ) -> PlainRun:
        """Run one sample as the base does and keep what suffix runs need.

        Args:
            sample: graph input -> array.
            units: that will be run on it; None: any.
        """
        given = {name: to_value(array) for name, array in sample.items()}
        needed = {*self.outputs, *self._needed(self._routes if units is None else units)}
        values = given | _run_all(self._values, given, needed)
        reference = (
            given | _run_all(self._reference, given, self.outputs) if self._reference else values
        )
        powers = {t: power(reference[t].numpy()) for t in self.outputs}
        if self._reference is None:
            return PlainRun(values, values, powers, dict.fromkeys(self.outputs, 0.0))
        errors = {}
        for t in self.outputs:
            noise = power(values[t].numpy() - reference[t].numpy())
            errors[t] = nsr_of(noise, powers[t])
        return PlainRun(values, reference, powers, errors)

    def nsr(self, unit: str, plain: PlainRun) -> dict[str, float]:
        """Return the NSR at every float graph output with `unit` treated otherwise.

        Outputs that do not depend on the unit have exactly the NSR of the base run.
        """
        found = dict(plain.nsr)
        noisy: dict[str, Value] = {}
        for step in self._routes[unit]:
            part, compiled = step.part, self._compiled(step.part)
            feeds = {t: noisy[t] if t in step.noisy else plain.values[t] for t in part.inputs}
            feeds.update((_REFERENCE + t, plain.reference[t]) for t in part.outputs)
            wanted = [compiled.made[t] for t in step.keeps]
            noise = [compiled.noise[t] for t in step.outputs]
            made = run(compiled.session, [*wanted, *noise], feeds)
            for output in step.outputs:
                error = power(made[compiled.noise[output]].numpy())
                found[output] = nsr_of(error, plain.power[output])
            noisy.update((t, made[compiled.made[t]]) for t in step.keeps)
            for tensor in step.drops:
                del noisy[tensor]
        return found

    def drop(self, unit: str) -> None:
        """Give back the sessions that only `unit` uses; it can still be run again."""
        for step in self._routes[unit]:
            if step.own:
                step.part.compiled = None

    def _route(self, unit: Unit) -> tuple[_Step, ...]:
        """List what has to be run for a unit: its own parts, and whole segments behind it."""
        changed = set(unit.nodes)
        slots = {**self._base, **dict.fromkeys(unit.bare, ()), **slots_by_node(unit.quantizers)}
        perturbed: set[str] = set()
        steps: list[_Step] = []
        for segment in self.segments:
            touched = self._touched(segment, changed, perturbed)
            if not touched:
                continue
            own = any(node.name in changed for node in touched)
            part = self._part(segment, touched, slots) if own else self._whole_segment(segment)
            noisy = frozenset(t for t in part.inputs if t in perturbed)
            reached = {t for node in touched for t in node.output if t}
            perturbed |= reached
            keeps = tuple(t for t in part.writes if t in reached)
            outputs = tuple(t for t in part.outputs if t in reached)
            steps.append(_Step(part, own, noisy, keeps, outputs))
        return _with_lifetimes(steps)

    def _touched(
        self, segment: Segment, changed: set[str], perturbed: set[str]
    ) -> list[onnx.NodeProto]:
        """Return the nodes of `segment` whose outputs the unit changes."""
        noisy = set(perturbed)
        touched = []
        for node in segment.nodes:
            if node.name in changed or not noisy.isdisjoint(reads(node)):
                touched.append(node)
                noisy.update(t for t in node.output if t)
        return touched

    def _whole_segment(self, segment: Segment) -> _Part:
        if segment.index not in self._whole:
            self._whole[segment.index] = self._part(segment, segment.nodes, self._base)
        return self._whole[segment.index]

    def _part(
        self,
        segment: Segment,
        nodes: Sequence[onnx.NodeProto],
        slots: Mapping[str, Sequence[Quantizer]],
    ) -> _Part:
        made = {t for node in nodes for t in node.output if t}
        inputs = dict.fromkeys(
            t for n in nodes for t in reads(n) if t not in made and not self.view.is_constant(t)
        )
        inside = {node.name for node in segment.nodes}
        return _Part(
            tuple(nodes),
            {node.name: slots[node.name] for node in nodes if node.name in slots},
            tuple(inputs),
            tuple(
                t
                for t in segment.live_out
                if t in made and any(c not in inside for c in self.view.consumers.get(t, ()))
            ),
            tuple(t for t in self.outputs if t in made),
            sum(node_seconds(self.model, node) for node in nodes),
        )

    def _compiled(self, part: _Part) -> _Compiled:
        with part.lock:
            if part.compiled is None:
                part.compiled = self._compile(part)
            return part.compiled

    def _compile(self, part: _Part) -> _Compiled:
        builder = GraphBuilder(self.model, self.view)
        made = self._emit(builder, part.nodes, part.slots)
        for tensor in part.writes:
            builder.output(made[tensor], tensor)
        noise = {}
        for tensor in part.outputs:
            reference = builder.input(_REFERENCE + tensor, tensor)
            noise[tensor] = builder.add("Sub", [made[tensor], reference], f"{tensor}//noise")
            builder.output(noise[tensor], tensor)
        return _Compiled(open_session(builder.serialize()), made, noise)

    def _compile_values(self) -> _Whole:
        """Compile the base with every tensor as output that some step reads unchanged."""
        wanted = {*self.outputs, *self._needed(self._routes)}
        return self._compile_whole(wanted - set(self.view.inputs), self._base)

    def _needed(self, units: Iterable[str]) -> set[str]:
        """Return the tensors of the base run that some steps of these units read unchanged."""
        steps = (step for unit in units for step in self._routes[unit])
        return {t for step in steps for t in step.part.inputs if t not in step.noisy}

    def _compile_reference(self) -> _Whole:
        return self._compile_whole(set(self.outputs) - set(self.view.inputs), {})

    def _compile_whole(
        self, wanted: Iterable[str], slots: Mapping[str, Sequence[Quantizer]]
    ) -> _Whole:
        builder = GraphBuilder(self.model, self.view)
        nodes = [node for segment in self.segments for node in segment.nodes]
        made = self._emit(builder, nodes, slots)
        names = {tensor: made[tensor] for tensor in sorted(wanted)}
        for tensor, name in names.items():
            builder.output(name, tensor)
        return _Whole(open_session(builder.serialize()), tuple(builder.inputs), names)

    def _emit(
        self,
        builder: GraphBuilder,
        nodes: Sequence[onnx.NodeProto],
        slots: Mapping[str, Sequence[Quantizer]],
    ) -> dict[str, str]:
        return emit(builder, nodes, prefix="", outside=lambda t: builder.input(t, t), slots=slots)


@dataclass(frozen=True, slots=True)
class _Whole:
    """The whole model in one session: what it reads, and tensor -> session output."""

    session: ort.InferenceSession
    inputs: tuple[str, ...]
    outputs: Mapping[str, str]


def _run_all(
    whole: _Whole, given: Mapping[str, Value], needed: Container[str]
) -> dict[str, Value]:
    names = {tensor: name for tensor, name in whole.outputs.items() if tensor in needed}
    made = run(whole.session, list(names.values()), {t: given[t] for t in whole.inputs})
    return {tensor: made[name] for tensor, name in names.items()}


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
