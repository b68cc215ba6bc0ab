# SPDX-License-Identifier: Apache-2.0
"""The outputs of a graph, and what can be told of each without running it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from analyzer.graph.view import GraphView
from analyzer.records import Model

_REARRANGES: Final = frozenset(
    "Reshape Flatten Squeeze Unsqueeze Transpose Identity Cast QuantizeLinear DequantizeLinear"
    .split()
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class End:
    """One graph output.

    Attributes:
        operator: op type that made its values, behind what only rearranges them.
        parts: sizes of what its channels are joined from along their axis; empty: not joined.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    operator: str
    parts: tuple[int, ...] = ()

    @property
    def is_float(self) -> bool:
        """Tell whether it holds floating-point numbers."""
        return self.dtype.startswith(("float", "bfloat"))

    def mentions(self, *words: str) -> bool:
        """Tell whether one of these words stands in its name."""
        return any(re.search(word, self.name, re.IGNORECASE) for word in words)


def ends_of(model: Model) -> list[End]:
    """Return the outputs of a bound model, without slices of others and recurrent states.

    A state is an output shaped like one of several float inputs, behind the first of them.
    """
    view = GraphView(model.proto.graph)
    floats = [spec for spec in model.inputs if spec.dtype.startswith("float")]
    states = {model.shapes.get(spec.name) for spec in floats[1:]}
    found = []
    for spec in model.outputs:
        shape = model.shapes.get(spec.name)
        if shape is None or spec.name in model.slices or shape in states:
            continue
        if spec.name not in view.producer:  # nothing runs for it: a constant, or an input
            continue
        tensor = _made(view, spec.name)
        node = view.nodes.get(view.producer.get(tensor, ""))
        operator = node.op_type if node is not None else ""
        dtype = model.dtypes.get(spec.name, spec.dtype)
        found.append(End(spec.name, shape, dtype, operator, _parts(model, view, tensor)))
    return found


def picture_size(model: Model) -> tuple[int, int] | None:
    """Return (height, width) of the one picture a model takes; None if it takes none.

    1, 3 or 4 channels on axis 1, or else on axis 3, mean a picture.
    """
    pictures = [s for s in (model.shapes.get(i.name, ()) for i in model.inputs) if len(s) == 4]
    if len(pictures) != 1:
        return None
    shape = pictures[0]
    if shape[1] in (1, 3, 4):
        return shape[2], shape[3]
    return (shape[1], shape[2]) if shape[3] in (1, 3, 4) else None


def _made(view: GraphView, tensor: str) -> str:
    """Return the tensor that `tensor` is a rearrangement of."""
    while (name := view.producer.get(tensor)) is not None:
        node = view.nodes[name]
        if node.op_type not in _REARRANGES:
            break
        tensor = node.input[0]
    return tensor


def _parts(model: Model, view: GraphView, tensor: str) -> tuple[int, ...]:
    """Return the sizes of the innermost Concat's inputs: levels are joined behind channels."""
    sizes: tuple[int, ...] = ()
    while (name := view.producer.get(tensor)) is not None:
        node = view.nodes[name]
        if node.op_type != "Concat":
            break
        shapes = [model.shapes.get(i, ()) for i in node.input]
        axes = [k for k in range(len(shapes[0])) if len({s[k : k + 1] for s in shapes}) > 1]
        sizes = tuple(s[axes[0]] for s in shapes) if len(axes) == 1 else ()
        tensor = _made(view, node.input[0])
    return sizes
