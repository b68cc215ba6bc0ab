# SPDX-License-Identifier: Apache-2.0
"""The simulate stage: FP32 and fake-quantized branch side by side, layer by layer.

Three branches run through every segment: plain, quantized everywhere (its noise accumulates), and
local (every layer quantized, but fed with plain tensors).  Several plans for one graph share the
plain branch.  A segment's tensors are compared and dropped before the next one runs, so memory
does not grow with depth or samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from analyzer.graph.build import GraphBuilder, emit, is_float, slots_by_node
from analyzer.graph.segments import Segment, by_size
from analyzer.graph.session import Value, open_session, run, to_value
from analyzer.graph.view import GraphView
from analyzer.quant.herding import representative_order
from analyzer.quant.metrics import Comparison, ErrorSums, compare, nsr_of
from analyzer.records import Model, Quantizer, QuantPlan, Sample, Samples

SEGMENT_BYTES = 24 << 20
_QUANTIZED = "q:"
Arrays = Mapping[str, npt.NDArray[Any]]  # graph output -> value; Any: whatever the model returns
# Told the number of a sample, its FP32 outputs, and those of every plan.
Watch = Callable[[int, Arrays, Sequence[Arrays]], None]
_LOCAL = "l:"


@dataclass(slots=True)
class Simulation:
    """Errors found by running everything quantized.

    Attributes:
        graphwise: tensor -> accumulated error there.
        local: layer -> error it adds at its own first output, its inputs plain.
        local_by_sample: layer -> local NSR on every sample, in order.
        layer_tensor: layer -> its first output tensor.
        output_by_sample: float graph output -> accumulated NSR on every sample, in order.
    """

    graphwise: dict[str, ErrorSums] = field(default_factory=dict)
    local: dict[str, ErrorSums] = field(default_factory=dict)
    local_by_sample: dict[str, list[float]] = field(default_factory=dict)
    layer_tensor: dict[str, str] = field(default_factory=dict)
    output_by_sample: dict[str, list[float]] = field(default_factory=dict)

    def order(self, count: int) -> list[int]:
        """Return all samples, the `count` most representative ones by local error first."""
        rows = list(self.local_by_sample.values())
        return representative_order(np.array(rows), count) if rows else []


@dataclass(frozen=True, slots=True)
class _Measure:
    """One comparison of a twin's output `made` with a plain tensor.

    Attributes:
        key: what it is called: a tensor, or a layer where `local`.
    """

    key: str
    local: bool
    made: str
    plain: str


@dataclass(frozen=True, slots=True)
class _Twin:
    """The quantized and the local branch of one plan through one segment.

    Attributes:
        reads: session inputs; those without a prefix are plain tensors.
        writes: session output -> name under which later segments of this plan read it.
    """

    session: ort.InferenceSession
    reads: tuple[str, ...]
    outputs: tuple[str, ...]
    writes: Mapping[str, str]
    measures: tuple[_Measure, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """One segment: its plain branch, and a twin for every plan that is held against it."""

    session: ort.InferenceSession
    reads: tuple[str, ...]
    outputs: tuple[str, ...]
    twins: tuple[_Twin, ...]


def simulate(
    model: Model,
    plan: QuantPlan,
    samples: Samples,
    *,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
) -> Simulation:
    """Measure the errors of one plan, see `simulate_all`."""
    (result,) = simulate_all(model, [plan], samples, workers=workers, step=step)
    return result


def simulate_all(
    model: Model,
    plans: Sequence[QuantPlan],
    samples: Samples,
    *,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
    watch: Watch | None = None,
) -> list[Simulation]:
    """Measure the graphwise error of every layer and output and the local error of every layer.

    Args:
        model: the graph that all plans belong to; it runs once in FP32 for all of them.
        plans: calibrated.
        samples: one run each.
        workers: threads that run samples side by side.
        step: told the number of runs finished since the last call.
        watch: shown the graph outputs of every sample, in order, on the calling thread.

    Returns:
        per plan, sums over all samples; float tensors only.
    """
    view = GraphView(model.proto.graph)
    parts = _compile(model, view, plans)
    results = [
        Simulation(
            layer_tensor={n: view.nodes[n].output[0] for n in plan.layers if n in view.nodes}
        )
        for plan in plans
    ]

    def one(index: int) -> _SampleRun:
        kept = view.outputs if watch else ()
        return _run_sample(parts, samples[index], len(plans), kept)

    with ThreadPoolExecutor(workers) as pool:
        # results are added in the order of the samples, so that two runs agree to the bit
        for index, found in enumerate(pool.map(one, range(len(samples)))):
            for number, result in enumerate(results):
                measures = [m for part in parts for m in part.twins[number].measures]
                for measure, comparison in zip(measures, found.comparisons[number], strict=True):
                    _add(result, measure, comparison, view.outputs)
            if watch:
                watch(index, found.plain, found.noisy)
            step(1)
    return results


@dataclass(frozen=True, slots=True)
class _SampleRun:
    """What one sample showed: comparisons of every plan in the order of its measures, outputs."""

    comparisons: list[list[Comparison]]
    plain: Arrays
    noisy: list[dict[str, npt.NDArray[Any]]]


def _run_sample(
    parts: Sequence[_Part], sample: Sample, plans: int, kept: Sequence[str]
) -> _SampleRun:
    """Run all branches on one sample; the graph outputs `kept` are handed back."""
    plain: dict[str, Value] = {name: to_value(array) for name, array in sample.items()}
    noisy = [{_QUANTIZED + name: value for name, value in plain.items()} for _ in range(plans)]
    outputs = {t: plain[t].numpy() for t in kept if t in plain}
    result = _SampleRun([[] for _ in range(plans)], outputs, [dict(outputs) for _ in noisy])
    wanted = [{*part.reads, *(t for twin in part.twins for t in twin.reads)} for part in parts]
    last = {tensor: position for position, reads in enumerate(wanted) for tensor in reads}
    for position, part in enumerate(parts):
        plain.update(run(part.session, part.outputs, {t: plain[t] for t in part.reads}))
        for twin, values, comparisons, ends in zip(
            part.twins, noisy, result.comparisons, result.noisy, strict=True
        ):
            feeds = {t: values[t] if t in values else plain[t] for t in twin.reads}
            made = run(twin.session, twin.outputs, feeds)
            comparisons += [
                compare(made[m.made].numpy(), plain[m.plain].numpy()) for m in twin.measures
            ]
            values.update((name, made[output]) for output, name in twin.writes.items())
            ends.update((t, values[_QUANTIZED + t].numpy()) for t in kept if t in part.outputs)
            del made, feeds
        outputs.update((t, plain[t].numpy()) for t in kept if t in part.outputs)
        for held in (plain, *noisy):
            for tensor in [t for t in held if last.get(t, -1) <= position]:
                del held[tensor]
    return result


def _add(
    result: Simulation, measure: _Measure, comparison: Comparison, outputs: Sequence[str]
) -> None:
    ratio = nsr_of(comparison.noise, comparison.signal)
    if measure.local:
        result.local.setdefault(measure.key, ErrorSums()).add(comparison)
        result.local_by_sample.setdefault(measure.key, []).append(ratio)
        return
    result.graphwise.setdefault(measure.key, ErrorSums()).add(comparison)
    if measure.key in outputs:
        result.output_by_sample.setdefault(measure.key, []).append(ratio)


def _compile(model: Model, view: GraphView, plans: Sequence[QuantPlan]) -> list[_Part]:
    slots = [slots_by_node(plan.quantizers) for plan in plans]
    parts = []
    for segment in by_size(model, view, max_bytes=SEGMENT_BYTES):
        twins = tuple(
            _twin(model, view, segment, of_plan, frozenset(plan.layers))
            for of_plan, plan in zip(slots, plans, strict=True)
        )
        parts.append(_plain(model, view, segment, twins))
    return parts


def _plain(model: Model, view: GraphView, segment: Segment, twins: tuple[_Twin, ...]) -> _Part:
    builder = GraphBuilder(model, view)
    emit(builder, segment.nodes, prefix="", outside=lambda t: builder.input(t, t), slots={})
    made = {t for node in segment.nodes for t in node.output}
    needed = [t for twin in twins for t in (*twin.reads, *(m.plain for m in twin.measures))]
    for tensor in (*segment.live_out, *(t for t in needed if t in made)):
        builder.output(tensor, tensor)
    session = open_session(builder.serialize())
    return _Part(session, tuple(builder.inputs), tuple(builder.outputs), twins)


def _twin(
    model: Model,
    view: GraphView,
    segment: Segment,
    slots: Mapping[str, Sequence[Quantizer]],
    layers: frozenset[str],
) -> _Twin:
    builder = GraphBuilder(model, view)
    noisy = emit(
        builder,
        segment.nodes,
        prefix=_QUANTIZED,
        outside=lambda t: builder.input(_QUANTIZED + t, t),
        slots=slots,
    )
    measures: list[_Measure] = []
    for node in segment.nodes:
        outputs = [t for t in node.output if t and is_float(model, t)]
        measures.extend(
            _Measure(tensor, False, noisy[tensor], tensor)
            for tensor in outputs
            if tensor in view.outputs or (node.name in layers and tensor == outputs[0])
        )
        if outputs and node.name in layers and node.name in slots:
            own = emit(
                builder,
                [node],
                prefix=_LOCAL,
                outside=lambda t: builder.input(t, t),
                slots=slots,
            )
            measures.append(_Measure(node.name, True, own[outputs[0]], outputs[0]))
    for measure in measures:
        builder.output(measure.made, measure.plain)
    for tensor in segment.live_out:
        builder.output(noisy[tensor], tensor)
    return _Twin(
        open_session(builder.serialize()),
        tuple(builder.inputs),
        tuple(builder.outputs),
        {noisy[tensor]: _QUANTIZED + tensor for tensor in segment.live_out},
        tuple(measures),
    )
