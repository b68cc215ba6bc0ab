# SPDX-License-Identifier: Apache-2.0
"""Looking at tensors inside a model: names go in, their FP32 values for a sample come out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from analyzer.graph.build import GraphBuilder, emit
from analyzer.graph.session import open_session, run, to_value
from analyzer.graph.view import GraphView, reads
from analyzer.records import Model, Quantizer, Sample

_TWIN = "twin:"


def twin(tensor: str) -> str:
    """Return what a tensor is called where its layer is quantized and its inputs are not."""
    return _TWIN + tensor


class TensorRuns:
    """The FP32 model compiled with some of its tensors as outputs, as far as these need it.

    Args:
        model: bound.
        tensors: made by nodes, or graph inputs; not constants.
        twins: tensors made by nodes that are also wanted as their layers make them with these
            quantizers, their inputs in FP32 (see `twin`).
    """

    def __init__(
        self,
        model: Model,
        tensors: Iterable[str],
        *,
        twins: Mapping[str, Sequence[Quantizer]] | None = None,
    ) -> None:
        view = GraphView(model.proto.graph)
        twins = twins or {}
        self.tensors = tuple(dict.fromkeys(tensors))
        self._made = [t for t in self.tensors if t in view.producer]
        builder = GraphBuilder(model, view)
        makers = [view.nodes[view.producer[t]] for t in twins]
        needed = _ancestors(view, [*self._made, *(t for node in makers for t in reads(node))])
        names = emit(
            builder,
            [node for name, node in view.nodes.items() if name in needed],
            prefix="",
            outside=lambda t: builder.input(t, t),
            slots={},
        )
        for tensor in self._made:
            builder.output(tensor, tensor)
        self._fetched = dict(zip(self._made, self._made, strict=True))
        for tensor, node in zip(twins, makers, strict=True):
            own = emit(
                builder,
                [node],
                prefix=_TWIN,
                outside=lambda t: names[t] if t in names else builder.input(t, t),
                slots={node.name: twins[tensor]},
            )
            builder.output(own[tensor], tensor)
            self._fetched[twin(tensor)] = own[tensor]
        self._session = open_session(builder.serialize()) if self._fetched else None
        self._inputs = tuple(builder.inputs)

    def run(self, sample: Sample) -> dict[str, npt.NDArray[np.generic]]:
        """Return tensor -> its value for one sample, twins under their own names.

        The arrays are not to be written to.
        """
        found = {t: sample[t] for t in self.tensors if t not in self._fetched}
        if self._session is not None:
            values = {name: to_value(sample[name]) for name in self._inputs}
            made = run(self._session, list(self._fetched.values()), values)
            found.update((t, made[name].numpy()) for t, name in self._fetched.items())
        return found


def _ancestors(view: GraphView, tensors: Iterable[str]) -> set[str]:
    """Return the names of the nodes that `tensors` depend on."""
    seen: set[str] = set()
    waiting = [view.producer[t] for t in tensors if t in view.producer]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += view.parents(view.nodes[name])
    return seen
