# SPDX-License-Identifier: Apache-2.0
"""Kernels: operations that run as one are merged, as NNCF sees the network."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from analyzer.targets.openvino.operations import Edge, Operation
from analyzer.targets.openvino.patterns import FUSED, IGNORED, Matcher
from analyzer.targets.openvino.traits import POST_PROCESSING, Trait, trait


@dataclass(slots=True)
class Kernel:
    """Operations between which no quantizer can stand.

    Attributes:
        members: indices of the operations, the first one gives the kernel its nature.
        inputs: activations of the first operation; `source` is the index of a kernel.
        readers: (kernel, position in its `inputs`) of everything that reads what it makes.
        ignored: left in float with all that belongs to it.
    """

    kind: str
    members: list[int]
    inputs: list[Edge] = field(default_factory=list)
    readers: list[tuple[int, int]] = field(default_factory=list)
    ignored: bool = False

    @property
    def trait(self) -> Trait:
        """How quantizers treat it."""
        return "float" if self.ignored else trait(self.kind)


def kernels(operations: list[Operation], left_out: Collection[str]) -> list[Kernel]:
    """Return the kernels in topological order.

    Args:
        operations: of the whole network.
        left_out: ONNX nodes that the user leaves in float.
    """
    matcher = Matcher(operations)
    ignored = {index for match in matcher.find(IGNORED, strict=False) for index in match}
    ignored |= {i for i, op in enumerate(operations) if op.node in left_out}
    owner: dict[int, list[int]] = {}
    for match in matcher.find(FUSED, strict=True):
        owner.update(dict.fromkeys(match, match))
    found: list[Kernel] = []
    made: dict[int, int] = {}
    groups = {tuple(owner.get(i, [i])) for i in range(len(operations))}
    for members in sorted(groups, key=lambda group: group[-1]):
        first = operations[members[0]]
        found.append(Kernel(first.kind, list(members), ignored=members[0] in ignored))
        made[members[-1]] = len(found) - 1
    for index, kernel in enumerate(found):
        for edge in operations[kernel.members[0]].inputs:
            source = made[edge.source]
            kernel.inputs.append(Edge(source, edge.port, edge.tensor, edge.slots, edge.integer))
            found[source].readers.append((index, len(kernel.inputs) - 1))
    _ignore_post_processing(found, operations)
    return found


def _ignore_post_processing(found: list[Kernel], operations: list[Operation]) -> None:
    """Leave everything in float that lies on a way from weights over a TopK or NMS to an output.

    After `PostprocessingNodeLocator` of `quantizer_propagation/solver.py`.
    """
    weighted = {i for i, k in enumerate(found) if any(operations[m].weights for m in k.members)}
    outputs = [i for i, k in enumerate(found) if k.kind == "Result"]
    stack: list[tuple[tuple[int, ...], bool]] = [((i,), False) for i in outputs]
    visited: set[int] = set()
    ignored: set[int] = set()
    while stack:
        path, marked = stack.pop()
        here = path[-1]
        visited.add(here)
        marked = marked or found[here].kind in POST_PROCESSING
        if here in weighted or found[here].kind == "Parameter":
            if marked:
                ignored.update(k for k in path if k not in weighted and found[k].kind != "Result")
            continue
        for source in dict.fromkeys(e.source for e in found[here].inputs):
            if source in visited and marked and source in ignored:
                ignored.update(k for k in path if k not in weighted and found[k].kind != "Result")
            elif source not in visited or marked or source in ignored:
                stack.append(((*path, source), marked))
    for index in ignored:
        found[index].ignored = True
