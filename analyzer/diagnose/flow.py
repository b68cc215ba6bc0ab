# SPDX-License-Identifier: Apache-2.0
"""The same values under other names: a tensor goes in, those that only rearrange it come out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from analyzer.diagnose.case import Case
from analyzer.graph.view import GraphView
from analyzer.records import Quantizer

# Op types whose output 0 holds the values of input 0, all of them, in another order or shape.
REARRANGING = frozenset(
    """
    Cast DepthToSpace Dropout Expand Flatten Identity Reshape SpaceToDepth Squeeze Tile Transpose
    Unsqueeze
    """.split()
)


def ahead(view: GraphView, tensor: str) -> list[str]:
    """Return `tensor` and what it is a rearrangement of, up to where its values are made."""
    found = [tensor]
    while (maker := view.producer.get(found[-1])) is not None:
        node = view.nodes[maker]
        if node.op_type not in REARRANGING:
            break
        found.append(node.input[0])
    return found


def behind(view: GraphView, tensor: str) -> list[str]:
    """Return `tensor` and all rearrangements of it, in execution order of each branch."""
    found = [tensor]
    for name in found:
        for reader in dict.fromkeys(view.consumers.get(name, ())):
            node = view.nodes[reader]
            if node.op_type in REARRANGING and node.input[0] == name:
                found.append(node.output[0])
    return found


def readers(view: GraphView, tensor: str) -> Iterator[str]:
    """Yield the nodes that compute with `tensor` or a rearrangement of it, each once."""
    names = dict.fromkeys(r for t in behind(view, tensor) for r in view.consumers.get(t, ()))
    return (name for name in names if view.nodes[name].op_type not in REARRANGING)


def quantizers_on(case: Case, tensors: Iterable[str]) -> list[Quantizer]:
    """Return the active quantizers on any of `tensors`, in the order of the plan."""
    names = frozenset(tensors)
    return [q for q in case.plan.quantizers if q.active and q.tensor in names]
