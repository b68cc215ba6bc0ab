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
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from analyzer.graph.build import GraphBuilder, emit, is_float, slots_by_node, total
from analyzer.graph.segments import Segment, by_size
from analyzer.graph.session import Value, open_session, run, to_value
from analyzer.graph.view import GraphView
from analyzer.quant.metrics import ErrorSums
from analyzer.records import Model, Quantizer, QuantPlan, Samples

SEGMENT_BYTES = 48 << 20
_QUANTIZED = "q:"
_LOCAL = "l:"


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
class _Measure:
    """One comparison: where in a segment's outputs its sums stand.

    Attributes:
        key: tensor (graphwise) or layer (local).
        power: output with the partial sums of squares of the quantized branch, graphwise only.
        extremes: outputs with the smallest and largest difference, graphwise only.
    """

    key: str
    local: bool
    noise: str
    signal: str
    power: str = ""
    extremes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Part:
    """One compiled segment.

    Attributes:
        writes: session output -> name under which later segments read it.
    """

    session: ort.InferenceSession
    reads: tuple[str, ...]
    writes: Mapping[str, str]
    measures: tuple[_Measure, ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """All session outputs, each once."""
        sums = (n for m in self.measures for n in (m.noise, m.signal, m.power, *m.extremes) if n)
        return tuple(dict.fromkeys([*self.writes, *sums]))


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

    def one(index: int) -> list[dict[str, Any]]:
        values: dict[str, Value] = {}
        for name, array in samples[index].items():
            values[name] = values[_QUANTIZED + name] = to_value(array)
        sums = []
        for position, part in enumerate(parts):
            made = run(part.session, part.outputs, {t: values[t] for t in part.reads})
            values.update((name, made.pop(output)) for output, name in part.writes.items())
            sums.append({name: value.numpy() for name, value in made.items()})
            for tensor in [t for t in values if last.get(t, -1) <= position]:
                del values[tensor]
        return sums

    with ThreadPoolExecutor(workers) as pool:
        # results are added in the order of the samples, so that two runs agree to the bit
        for found in pool.map(one, range(len(samples))):
            for part, sums in zip(parts, found, strict=True):
                for measure in part.measures:
                    _add(result, measure, sums)
            step(1)
    return result


def _add(
    result: Simulation, measure: _Measure, sums: Mapping[str, npt.NDArray[np.float32]]
) -> None:
    noise, signal = total(sums[measure.noise]), total(sums[measure.signal])
    if measure.local:
        result.local.setdefault(measure.key, ErrorSums()).add(noise, signal)
    else:
        result.graphwise.setdefault(measure.key, ErrorSums()).add(
            noise,
            signal,
            total(sums[measure.power]),
            float(np.max(np.abs([sums[name] for name in measure.extremes]))),
        )


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

    def compare(key: str, tensor: str, twin: str, *, local: bool) -> None:
        difference = builder.add("Sub", [twin, plain[tensor]], f"{twin}//noise")
        noise = builder.sum_squares(difference, tensor)
        signal = builder.sum_squares(plain[tensor], tensor)
        if local:
            measures.append(_Measure(key, True, noise, signal))
        else:
            power = builder.sum_squares(twin, tensor)
            extremes = builder.extremes(difference)
            measures.append(_Measure(key, False, noise, signal, power, extremes))

    for node in segment.nodes:
        outputs = [t for t in node.output if t and is_float(model, t)]
        for tensor in outputs:
            if tensor in view.outputs or (node.name in layers and tensor == outputs[0]):
                compare(tensor, tensor, noisy[tensor], local=False)
        if outputs and node.name in layers and node.name in slots:
            own = emit(
                builder,
                [node],
                prefix=_LOCAL,
                outside=lambda t: plain.get(t) or plain_input(t),
                slots=slots,
            )
            compare(node.name, outputs[0], own[outputs[0]], local=True)
    writes = {}
    for tensor in segment.live_out:
        for made, name in ((plain[tensor], tensor), (noisy[tensor], _QUANTIZED + tensor)):
            builder.output(made, tensor)
            writes[made] = name
    session = open_session(builder.serialize())
    return _Part(session, tuple(builder.inputs), writes, tuple(measures))
