# SPDX-License-Identifier: Apache-2.0
"""The range observer of ai-edge-quantizer."""

from __future__ import annotations

import numpy as np

from analyzer.quant.observers import MinMax, Range
from analyzer.targets.base import F32

_KEPT = np.float32(0.95)
_NEW = np.float32(1.0 - 0.95)


class MovingAverage:
    """Moving average of each run's smallest and largest value, 0.95 of it kept at every step.

    `moving_average_update` of `utils/qsv_utils.py`, in float32 as there.  The result depends on
    the order of the runs.
    """

    phases = 1
    in_order = True

    def __init__(self) -> None:
        self.ends: tuple[np.float32, np.float32] | None = None
        self.seen = MinMax()

    def update(self, x: F32, phase: int) -> None:
        """Take in one run's array.

        Raises:
            ValueError: if `x` holds NaN.
        """
        if phase or not x.size:
            return
        run = MinMax()
        run.update(x, phase)
        self.seen.update(x, phase)
        lo, hi = np.float32(run.result().lo), np.float32(run.result().hi)
        if self.ends is not None:
            lo, hi = _KEPT * self.ends[0] + _NEW * lo, _KEPT * self.ends[1] + _NEW * hi
        self.ends = (lo, hi)

    def result(self) -> Range:
        """Return the averaged range; (0, 0) where nothing was seen."""
        lo, hi = self.ends or (np.float32(0), np.float32(0))
        seen = self.seen.result()
        return Range(float(lo), float(hi), "moving_average", float(seen.lo), float(seen.hi))
