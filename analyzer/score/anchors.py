# SPDX-License-Identifier: Apache-2.0
"""Cells of a detector's grids: their number tells the strides, the strides where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from analyzer.score.boxes import Floats

_STRIDES: Final = (4, 8, 16, 32, 64, 128)
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of all levels of a detector, in the order of its outputs.

    Attributes:
        corners: (A, 2) x and y of the cells, in cells.
        strides: (A, 1) pixels per cell.
    """

    corners: Floats
    strides: Floats

    @property
    def centres(self) -> Floats:
        """(A, 2) in pixels."""
        return (self.corners + np.float32(0.5)) * self.strides


def grid_of(size: Size, strides: Sequence[int], per_cell: int = 1) -> Grid:
    """Return the cells of a picture of (height, width), row by row, finest level first.

    Args:
        size: of the picture, (height, width).
        strides: pixels per cell, level by level.
        per_cell: boxes per cell; each level holds all its cells once per box.
    """
    corners, scales = [], []
    for stride in strides:
        height, width = size[0] // stride, size[1] // stride
        y, x = np.mgrid[:height, :width]
        level = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)
        corners += [level] * per_cell
        scales += [np.full((len(level), 1), stride, dtype=np.float32)] * per_cell
    return Grid(np.concatenate(corners), np.concatenate(scales))


def strides_of(size: Size, count: int) -> tuple[tuple[int, ...], int] | None:
    """Return the strides, each twice the last one, and boxes per cell that make `count` boxes.

    The coarsest stride divides the picture, as these detectors want it.

    >>> strides_of((640, 640), 8400), strides_of((640, 640), 25200), strides_of((64, 64), 81)
    (((8, 16, 32), 1), ((8, 16, 32), 3), None)
    """
    for per_cell, lengths in ((1, (3, 4, 2, 5, 1)), (3, (3, 4, 2))):
        for length in lengths:
            for start in range(len(_STRIDES) - length + 1):
                strides = _STRIDES[start : start + length]
                if size[0] % strides[-1] or size[1] % strides[-1]:
                    continue
                cells = sum((size[0] // s) * (size[1] // s) for s in strides)
                if cells * per_cell == count:
                    return strides, per_cell
    return None
