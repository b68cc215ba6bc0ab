# SPDX-License-Identifier: Apache-2.0
"""Which grid the data of a layer lie on when it reads them, where a plan says so further up."""

from __future__ import annotations

from collections.abc import Mapping

from analyzer.graph.view import GraphView
from analyzer.records import Quantizer

# behind these, values still lie on the grid they were on
_MOVING = frozenset(
    """
    Reshape Transpose Squeeze Unsqueeze Flatten Slice Split MaxPool Identity Relu Clip Pad Resize
    DepthToSpace SpaceToDepth
    """.split()
)


def data_grid(
    view: GraphView, name: str, index: int, placed: Mapping[tuple[str, str], Quantizer]
) -> Quantizer | None:
    """Return the quantizer whose grid input `index` of a node lies on; None: it is in float.

    Args:
        view: the graph.
        name: of the node.
        index: of its input.
        placed: (node, slot) -> quantizer.
    """
    node = view.nodes[name]
    while True:
        if found := placed.get((node.name, f"in{index}")):
            return found
        tensor = node.input[index]
        maker = view.producer.get(tensor)
        if maker is None:
            return None
        node = view.nodes[maker]
        if found := placed.get((maker, f"out{list(node.output).index(tensor)}")):
            return found
        if node.op_type not in _MOVING:
            return None
        index = 0
