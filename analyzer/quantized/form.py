# SPDX-License-Identifier: Apache-2.0
"""What reading a quantized file gives: its own float form, and the grids on its edges."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from analyzer.quantized.grids import Grid

Edge = tuple[str, int]  # name of the reading node, position of its input


@dataclass(slots=True)
class FloatForm:
    """A quantized file with its quantizers taken out and remembered.

    Attributes:
        proto: the float network; node names are those of the file.
        sha256: of the file.
        edges: (reader, input) -> grids that its value passes, in order.
        outputs: graph output -> grids that its value passes.
        grids: how many quantizations of activations and of constants the file tells.
        stored: constants that the file holds as integers.
        restored: node -> the Relu put behind it, which its quantizer had taken over.
    """

    proto: onnx.ModelProto
    path: Path
    sha256: str
    edges: dict[Edge, tuple[Grid, ...]] = field(default_factory=dict)
    outputs: dict[str, tuple[Grid, ...]] = field(default_factory=dict)
    grids: Counter[str] = field(default_factory=Counter)
    stored: set[str] = field(default_factory=set)
    restored: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Value:
    """What a tensor of the file is in the own float form.

    Attributes:
        tensor: its float tensor.
        grids: that a reader's value has passed, in order.
        integral: whether the file holds it as integers.
        levels: what the integers stand for; None for a graph input until somebody tells.
    """

    tensor: str
    grids: tuple[Grid, ...] = ()
    integral: bool = False
    levels: Grid | None = None

    def through(self, grid: Grid) -> tuple[Grid, ...]:
        """Return the grids passed after one more; the same again changes nothing."""
        return self.grids if self.grids and self.grids[-1].same(grid) else (*self.grids, grid)
