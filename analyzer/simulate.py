# SPDX-License-Identifier: Apache-2.0
"""The simulate stage: FP32 and fake-quantized branch side by side, compared inside the graph.

Three branches run through every segment: plain, quantized everywhere (its noise accumulates), and
local (every layer quantized, but fed with plain tensors).  Only sums leave a segment besides the
tensors that the next ones need, so memory does not grow with depth or samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from analyzer.graph.build import GraphBuilder, emit, is_float, slots_by_node
from analyzer.graph.segments import Segment, by_size
from analyzer.graph.session import Value, open_session, run, to_value
from analyzer.graph.view import GraphView
from analyzer.quant.metrics import ErrorSums
from analyzer.records import Model, Quantizer, QuantPlan, Samples

SEGMENT_BYTES = 48 << 20
_QUANTIZED = "q:"
_LOCAL = "l:"
_SUMS = "//sums"


@dataclass(slots=True)
class Simulation:
    """Errors found by running everything quantized.

    Attributes:
        graphwise: tensor -> accumulated error there.
        local: layer -> error it adds at its own first output, its inputs plain.
        layer_tensor: layer -> its first output tensor.
    """

    graphwise: dict[str, ErrorSums] = field(default_factory=dict)
    local: dict[str, ErrorSums] = field(default_factory=dict)
    layer_tensor: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Part:
    """One compiled segment.

    Attributes:
        writes: session output -> name under which later segments read it.
        measures: what stands in the result vector, four numbers each: (tensor or layer, local).
    """

    session: ort.InferenceSession
    reads: tuple[str, ...]
    writes: Mapping[str, str]
    measures: tuple[tuple[str, bool], ...]


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

    def one(index: int) -> list[npt.NDArray[np.float64]]:
        values: dict[str, Value] = {}
        for name, array in samples[index].items():
            values[name] = values[_QUANTIZED + name] = to_value(array)
        sums = []
        for position, part in enumerate(parts):
            wanted = [*part.writes, *([_SUMS] if part.measures else [])]
            made = run(part.session, wanted, {t: values[t] for t in part.reads})
            if part.measures:
                sums.append(made[_SUMS].numpy().astype(np.float64).reshape(-1, 4))
            values.update((name, made[output]) for output, name in part.writes.items())
            for tensor in [t for t in values if last.get(t, -1) <= position]:
                del values[tensor]
        return sums

    measures = [m for part in parts for m in part.measures]
    with ThreadPoolExecutor(workers) as pool:
        # results are added in the order of the samples, so that two runs agree to the bit
        for sums in pool.map(one, range(len(samples))):
            for (key, local), row in zip(measures, np.concatenate(sums), strict=True):
                table = result.local if local else result.graphwise
                table.setdefault(key, ErrorSums()).add(*map(float, row))
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
    measures: list[tuple[str, bool]] = []
    vectors: list[str] = []

    def compare(tensor: str, twin: str) -> None:
        difference = builder.add("Sub", [twin, plain[tensor]], f"{twin}//noise")
        vectors.extend(
            [
                builder.sum_squares(difference, tensor),
                builder.sum_squares(plain[tensor], tensor),
                builder.sum_squares(twin, tensor),
                builder.max_abs(difference),
            ]
        )

    for node in segment.nodes:
        outputs = [t for t in node.output if t and is_float(model, t)]
        for tensor in outputs:
            if tensor in view.outputs or (node.name in layers and tensor == outputs[0]):
                compare(tensor, noisy[tensor])
                measures.append((tensor, False))
        if outputs and node.name in layers and node.name in slots:
            own = emit(
                builder,
                [node],
                prefix=_LOCAL,
                outside=lambda t: plain.get(t) or plain_input(t),
                slots=slots,
            )
            compare(outputs[0], own[outputs[0]])
            measures.append((node.name, True))
    writes = {}
    for tensor in segment.live_out:
        for made, name in ((plain[tensor], tensor), (noisy[tensor], _QUANTIZED + tensor)):
            builder.output(made, tensor)
            writes[made] = name
    if vectors:
        builder.add("Concat", vectors, _SUMS, axis=0)
        builder.output(_SUMS)
    session = open_session(builder.serialize())
    return _Part(session, tuple(builder.inputs), writes, tuple(measures))
