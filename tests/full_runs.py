# SPDX-License-Identifier: Apache-2.0
"""Whole-model runs to hold clever ones against: quantizers go in, NSRs by numpy come out.

Every set of quantizers is one session of the whole graph, without cuts and without tensors kept
from an earlier run; noise is summed in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from analyzer.graph.build import GraphBuilder, emit, slots_by_node
from analyzer.graph.session import open_session
from analyzer.graph.view import GraphView
from analyzer.records import Model, Quantizer, Sample

Outputs = dict[str, np.ndarray]


class FullRuns:
    """One model on some samples; the FP32 outputs are kept."""

    def __init__(self, model: Model, samples: Sequence[Sample]) -> None:
        self.model = model
        self.view = GraphView(model.proto.graph)
        self.outputs = [t for t in self.view.outputs if model.dtypes[t] == "float32"]
        self.samples = samples
        self.reference = self.run(())

    def run(self, quantizers: Iterable[Quantizer]) -> list[Outputs]:
        """Return the float outputs of every sample."""
        builder = GraphBuilder(self.model, self.view)
        made = emit(
            builder, self.model.proto.graph.node, prefix="",
            outside=lambda t: builder.input(t, t), slots=slots_by_node(quantizers),
        )  # fmt: skip
        for tensor in self.outputs:
            builder.output(made[tensor], tensor)
        session = open_session(builder.serialize())
        read = {i.name for i in session.get_inputs()}
        found = []
        for sample in self.samples:
            feeds = {name: value for name, value in sample.items() if name in read}
            values = session.run([made[t] for t in self.outputs], feeds)
            found.append(dict(zip(self.outputs, values, strict=True)))
        return found

    def nsr(self, quantizers: Iterable[Quantizer]) -> dict[str, float]:
        """Return the mean NSR over the samples at every float output."""
        rows = [_nsr(y, r) for y, r in zip(self.run(quantizers), self.reference, strict=True)]
        return {t: float(np.mean([row[t] for row in rows])) for t in self.outputs}


def _nsr(noisy: Mapping[str, np.ndarray], plain: Mapping[str, np.ndarray]) -> dict[str, float]:
    found = {}
    for tensor, reference in plain.items():
        noise = noisy[tensor].astype(np.float64) - reference
        power = np.sum(np.square(reference, dtype=np.float64))
        found[tensor] = float(np.sum(noise**2) / power) if noise.any() else 0.0
    return found
