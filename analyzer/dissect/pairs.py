# SPDX-License-Identifier: Apache-2.0
"""The FP32 and the quantized network side by side: places at layers in, pairs of tensors out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from analyzer.graph.build import GraphBuilder, emit, slots_by_node
from analyzer.graph.session import open_session, run, to_value
from analyzer.graph.view import GraphView, reads
from analyzer.records import Model, QuantPlan, Sample

Place = tuple[str, str]  # layer, slot
Pair = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]

_QUANTIZED = "q:"


class PairRuns:
    """Both networks compiled into one session, as far as some places need them.

    Args:
        model: bound.
        plan: calibrated; everything that it quantizes is quantized.
        places: inputs and outputs of nodes, float and not constant.
    """

    def __init__(self, model: Model, plan: QuantPlan, places: Sequence[Place]) -> None:
        view = GraphView(model.proto.graph)
        needed = _needed(view, places)
        nodes = [node for name, node in view.nodes.items() if name in needed]
        builder = GraphBuilder(model, view)
        slots = slots_by_node(plan.quantizers)

        def outside(tensor: str) -> str:
            return builder.input(tensor, tensor)

        plain = emit(builder, nodes, prefix="", outside=outside, slots={})
        noisy = emit(builder, nodes, prefix=_QUANTIZED, outside=outside, slots=slots)
        written = {node.name: node for node in builder.nodes}
        # place -> names of its two tensors in the session; a graph input is its own name
        self._names: dict[Place, tuple[str, str]] = {}
        for layer, slot in places:
            tensor = tensor_at(view, layer, slot)
            made = (
                written[_QUANTIZED + layer].input[int(slot[2:])]
                if slot.startswith("in")
                else noisy[tensor]
            )
            self._names[layer, slot] = plain.get(tensor, tensor), made
            for name in self._names[layer, slot]:
                if name not in builder.inputs and name not in view.inputs:
                    builder.output(name, tensor)
        self._inputs = tuple(builder.inputs)
        self._outputs = tuple(builder.outputs)
        self._session = open_session(builder.serialize()) if self._outputs else None

    def run(self, sample: Sample) -> dict[Place, Pair]:
        """Return place -> its FP32 and its quantized value; not to be written to."""
        values = {name: np.asarray(array) for name, array in sample.items()}
        if self._session is not None:
            feeds = {name: to_value(sample[name]) for name in self._inputs}
            found = run(self._session, self._outputs, feeds)
            values.update((name, value.numpy()) for name, value in found.items())
        return {place: (values[one], values[two]) for place, (one, two) in self._names.items()}


def tensor_at(view: GraphView, layer: str, slot: str) -> str:
    """Return the tensor at a slot of a node."""
    node = view.nodes[layer]
    side, number = (node.input, slot[2:]) if slot.startswith("in") else (node.output, slot[3:])
    return str(side[int(number)])


def _needed(view: GraphView, places: Sequence[Place]) -> set[str]:
    """Return the nodes of the places, and all that they depend on."""
    waiting = [layer for layer, _ in places]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [view.producer[t] for t in reads(view.nodes[name]) if t in view.producer]
    return seen
