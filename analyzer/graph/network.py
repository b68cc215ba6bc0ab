# SPDX-License-Identifier: Apache-2.0
"""How layers hang together: a graph and the layers of a plan in, a `Network` out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from analyzer.graph.view import GraphView, reads
from analyzer.records import Network


def network_of(view: GraphView, layers: Sequence[str], hidden: Iterable[str] = ()) -> Network:
    """Leave out all nodes but layers, and keep the paths between those.

    Args:
        view: of the graph.
        layers: node names in the order of the result's numbers; all are in the graph.
        hidden: graph outputs that are not part of the user's model (slices).
    """
    numbers = {name: number for number, name in enumerate(layers)}
    # tensor -> layers (or -1 - number of a graph input) whose values it carries
    carried: dict[str, dict[int, None]] = {
        name: {-1 - number: None} for number, name in enumerate(view.inputs)
    }
    edges: dict[tuple[int, int], None] = {}
    for name, node in view.nodes.items():
        sources: dict[int, None] = {}
        for tensor in reads(node):
            sources.update(carried.get(tensor, {}))
        if name in numbers:
            edges.update(dict.fromkeys((source, numbers[name]) for source in sources))
            sources = {numbers[name]: None}
        carried.update(dict.fromkeys(node.output, sources))
    left_out = set(hidden)
    return Network(
        tuple(sorted(edge for edge in edges if edge[0] >= 0)),
        {
            name: tuple(sorted(to for source, to in edges if source == -1 - number))
            for number, name in enumerate(view.inputs)
        },
        {
            name: tuple(sorted(n for n in carried.get(name, {}) if n >= 0))
            for name in view.outputs
            if name not in left_out
        },
    )
