# SPDX-License-Identifier: Apache-2.0
"""The simulate stage: FP32 and fake-quantized branch side by side, layer by layer.

Three branches run through every segment: plain, quantized everywhere (its noise accumulates), and
local (every layer quantized, but fed with plain tensors).  A segment's tensors are compared and
dropped before the next one runs, so memory does not grow with depth or samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import onnxruntime as ort

from analyzer.graph.build import GraphBuilder, emit, is_float, slots_by_node
from analyzer.graph.segments import Segment, by_size
from analyzer.graph.session import Value, open_session, run, to_value
from analyzer.graph.view import GraphView
from analyzer.quant.herding import representative_order
from analyzer.quant.metrics import Comparison, ErrorSums, compare, nsr_of
from analyzer.records import Model, Quantizer, QuantPlan, Samples

SEGMENT_BYTES = 24 << 20
_QUANTIZED = "q:"
_LOCAL = "l:"


@dataclass(slots=True)
class Simulation:
    """Errors found by running everything quantized.

    Attributes:
        graphwise: tensor -> accumulated error there.
        local: layer -> error it adds at its own first output, its inputs plain.
        local_by_sample: layer -> local NSR on every sample, in order.
        layer_tensor: layer -> its first output tensor.
    """

    graphwise: dict[str, ErrorSums] = field(default_factory=dict)
    local: dict[str, ErrorSums] = field(default_factory=dict)
    local_by_sample: dict[str, list[float]] = field(default_factory=dict)
    layer_tensor: dict[str, str] = field(default_factory=dict)

    def order(self, count: int) -> list[int]:
        """Return all samples, the `count` most representative ones by local error first."""
        rows = list(self.local_by_sample.values())
        return representative_order(np.array(rows), count) if rows else []


@dataclass(frozen=True, slots=True)
class _Measure:
    """One comparison: of which session outputs, and what it is called (a tensor, or a layer)."""

    key: str
    local: bool
    twin: str
    reference: str


@dataclass(frozen=True, slots=True)
class _Part:
    """One compiled segment.

    Attributes:
        writes: session output -> name under which later segments read it.
    """

    session: ort.InferenceSession
    reads: tuple[str, ...]
    outputs: tuple[str, ...]
    writes: Mapping[str, str]
    measures: tuple[_Measure, ...]


def simulate(
    model: Model,
    plan: QuantPlan,
    samples: Samples,
    *,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
) -> Simulation:
    """Measure the graphwise error of every layer and output and the local error of every layer.

    Args:
        model: the graph that `plan` belongs to.
        plan: calibrated.
        samples: one run each.
        workers: threads that run samples side by side.
        step: told the number of runs finished since the last call.

    Returns:
        sums over all samples; float tensors only.
    """
    view = GraphView(model.proto.graph)
    parts = _compile(model, view, plan)
    result = Simulation(
        layer_tensor={n: view.nodes[n].output[0] for n in plan.layers if n in view.nodes}
    )
    last = {t: p for p, part in enumerate(parts) for t in part.reads}

    def one(index: int) -> list[Comparison]:
        values: dict[str, Value] = {}
        for name, array in samples[index].items():
            values[name] = values[_QUANTIZED + name] = to_value(array)
        found = []
        for position, part in enumerate(parts):
            made = run(part.session, part.outputs, {t: values[t] for t in part.reads})
            found += [
                compare(made[m.twin].numpy(), made[m.reference].numpy()) for m in part.measures
            ]
            values.update((name, made[output]) for output, name in part.writes.items())
            for tensor in [t for t in values if last.get(t, -1) <= position]:
                del values[tensor]
        return found

    measures = [measure for part in parts for measure in part.measures]
    with ThreadPoolExecutor(workers) as pool:
        # results are added in the order of the samples, so that two runs agree to the bit
        for found in pool.map(one, range(len(samples))):
            for measure, comparison in zip(measures, found, strict=True):
                table = result.local if measure.local else result.graphwise
                table.setdefault(measure.key, ErrorSums()).add(comparison)
                if measure.local:
                    ratio = nsr_of(comparison.noise, comparison.signal)
                    result.local_by_sample.setdefault(measure.key, []).append(ratio)
            step(1)
    return result


def _compile(model: Model, view: GraphView, plan: QuantPlan) -> list[_Part]:
    slots = slots_by_node(plan.quantizers)
    layers = frozenset(plan.layers)
    return [
        _compile_segment(model, view, segment, slots, layers)
        for segment in by_size(model, view, max_bytes=SEGMENT_BYTES)
    ]


def _compile_segment(
    model: Model,
    view: GraphView,
    segment: Segment,
    slots: Mapping[str, Sequence[Quantizer]],
    layers: frozenset[str],
) -> _Part:
    builder = GraphBuilder(model, view)

    def plain_input(tensor: str) -> str:
        return builder.input(tensor, tensor)

    def noisy_input(tensor: str) -> str:
        return builder.input(_QUANTIZED + tensor, tensor)

    plain = emit(builder, segment.nodes, prefix="", outside=plain_input, slots={})
    noisy = emit(builder, segment.nodes, prefix=_QUANTIZED, outside=noisy_input, slots=slots)
    measures: list[_Measure] = []
    for node in segment.nodes:
        outputs = [t for t in node.output if t and is_float(model, t)]
        measures.extend(
            _Measure(tensor, False, noisy[tensor], plain[tensor])
            for tensor in outputs
            if tensor in view.outputs or (node.name in layers and tensor == outputs[0])
        )
        if outputs and node.name in layers and node.name in slots:
            own = emit(
                builder,
                [node],
                prefix=_LOCAL,
                outside=lambda t: plain.get(t) or plain_input(t),
                slots=slots,
            )
            measures.append(_Measure(node.name, True, own[outputs[0]], plain[outputs[0]]))
            builder.output(own[outputs[0]], outputs[0])
            builder.output(plain[outputs[0]], outputs[0])
    for measure in measures:
        if not measure.local:
            builder.output(measure.twin, measure.key)
            builder.output(measure.reference, measure.key)
    writes = {}
    for tensor in segment.live_out:
        for made, name in ((plain[tensor], tensor), (noisy[tensor], _QUANTIZED + tensor)):
            builder.output(made, tensor)
            writes[made] = name
    session = open_session(builder.serialize())
    return _Part(session, tuple(builder.inputs), tuple(builder.outputs), writes, tuple(measures))
