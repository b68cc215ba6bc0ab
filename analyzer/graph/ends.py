# SPDX-License-Identifier: Apache-2.0
"""Whole runs: models and their quantizers in one session each, only the graph outputs are kept.

The graphs may differ (a weight was split, say); their outputs are called the same, and are held
against those of one FP32 model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from analyzer.graph.build import GraphBuilder, emit, noisy_outputs, slots_by_node
from analyzer.graph.session import open_session, release_unused, run, to_value
from analyzer.graph.view import GraphView
from analyzer.quant.metrics import nsr_of, power
from analyzer.records import Model, Quantizer, QuantPlan, Sample, Samples

Nsr = dict[str, float]
Arrays = Mapping[str, npt.NDArray[Any]]  # graph output -> value; Any: whatever the model returns
Watch = Callable[[int, Arrays, Sequence[Arrays]], None]


class EndRuns:
    """Runs of one whole model.

    Args:
        model: bound.
        quantizers: that are on, calibrated; none: FP32.
    """

    def __init__(self, model: Model, quantizers: Iterable[Quantizer] = ()) -> None:
        view = GraphView(model.proto.graph)
        builder = GraphBuilder(model, view)
        made = emit(
            builder,
            list(view.nodes.values()),
            prefix="",
            outside=lambda t: builder.input(t, t),
            slots=slots_by_node(quantizers),
        )
        # an output may be an input that the model only hands on
        self._given = [t for t in view.outputs if t not in made]
        self._made = {t: made[t] for t in view.outputs if t in made}
        for tensor, name in self._made.items():
            builder.output(name, tensor)
        self._inputs = tuple(builder.inputs)
        self._session = open_session(builder.serialize())

    def outputs(self, sample: Sample) -> Arrays:
        """Return graph output -> value for one sample; several threads may ask at once."""
        feeds = {name: to_value(sample[name]) for name in self._inputs}
        values = run(self._session, list(dict.fromkeys(self._made.values())), feeds)
        found = {t: values[name].numpy() for t, name in self._made.items()}
        return {**found, **{t: np.asarray(sample[t]) for t in self._given}}


def run_ends(
    reference: Model,
    plans: Sequence[tuple[Model, QuantPlan]],
    samples: Samples,
    *,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
    watch: Watch | None = None,
) -> list[list[Nsr]]:
    """Run plans beside the FP32 model.

    Args:
        reference: FP32.
        plans: calibrated, each with the graph it belongs to.
        samples: one run each.
        workers: threads that run side by side.
        step: told the number of runs finished since the last call.
        watch: shown all graph outputs of every sample, in order, on the calling thread.

    Returns:
        per plan and sample, float graph output -> NSR.
    """
    ends = noisy_outputs(reference, GraphView(reference.proto.graph))
    found: list[list[Nsr]] = [[] for _ in plans]
    with ThreadPoolExecutor(workers) as pool:
        plain = pool.submit(EndRuns, reference)
        noisy = list(pool.map(lambda plan: EndRuns(plan[0], plan[1].quantizers), plans))
        runs = [plain.result(), *noisy]
        coming = [[pool.submit(r.outputs, sample) for r in runs] for sample in [samples[0]]]
        for index in range(len(samples)):
            if index + 1 < len(samples):  # one sample ahead, so that no worker waits
                coming.append([pool.submit(r.outputs, samples[index + 1]) for r in runs])
            truth, *answers = (job.result() for job in coming.pop(0))
            powers = {t: power(truth[t]) for t in ends}
            for rows, answer in zip(found, answers, strict=True):
                rows.append({t: nsr_of(power(answer[t] - truth[t]), powers[t]) for t in ends})
            if watch:
                watch(index, truth, answers)
            step(len(plans))
            release_unused()
    return found
