# SPDX-License-Identifier: Apache-2.0
"""NNCF's range statistics: means over runs of each run's smallest and largest value.

After `common/tensor_statistics/collectors.py` and `aggregator.py` of NNCF 3.4.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from analyzer.quant.observers import Range, extremes, finite_ends
from analyzer.records import Observer as ObserverName

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


class RunMeans:
    """Mean over runs of each run's minimum and maximum.

    Several tensors that share a scale are shown in turn; each has means of its own, and the range
    covers them all.  Sums are exact, so that the order of the runs does not show.
    """

    phases = 1

    def __init__(
        self, kind: ObserverName, tensors: int, *, mean: bool = True, magnitude: bool = True
    ) -> None:
        """Make one.

        Args:
            kind: name under which the range is handed on.
            tensors: how many are shown per run.
            mean: of the runs; else the extremes of all of them.
            magnitude: the upper end is that of |x|, as symmetric grids want it.
        """
        self.kind = kind
        self.mean = mean
        self.magnitude = magnitude

        self.shown = 0
        self.counts = [0] * tensors
        self.sums = [(Fraction(0), Fraction(0))] * tensors
        self.ends = [(np.inf, -np.inf)] * tensors
        self.seen = (np.inf, -np.inf)

    def update(self, x: F32, phase: int) -> None:
        """Take in one array of one run; phases after the first are ignored.

        Infinite values (attention masks) do not count.

        Raises:
            ValueError: if `x` holds NaN.
        """
        if phase:
            return
        turn = self.shown % len(self.counts)
        self.shown += 1
        found = finite_ends(x)
        if found is None:
            return
        lo, hi = found
        self.seen = min(self.seen[0], lo), max(self.seen[1], hi)
        if self.magnitude:
            hi = max(hi, -lo)
        self.counts[turn] += 1
        sums, ends = self.sums[turn], self.ends[turn]
        self.sums[turn] = sums[0] + Fraction(lo), sums[1] + Fraction(hi)
        self.ends[turn] = min(ends[0], lo), max(ends[1], hi)

    def result(self) -> Range:
        """Return the range; (0, 0) where nothing was seen."""
        filled = [turn for turn, count in enumerate(self.counts) if count]
        if not filled:
            return Range(0.0, 0.0, self.kind, 0.0, 0.0)
        if not self.mean:
            bounds = [self.ends[turn] for turn in filled]
        else:
            bounds = [
                (float(self.sums[t][0] / self.counts[t]), float(self.sums[t][1] / self.counts[t]))
                for t in filled
            ]
        lo, hi = min(b[0] for b in bounds), max(b[1] for b in bounds)
        return Range(lo, hi, self.kind, *self.seen)


class ChannelExtremes:
    """Smallest and largest value of all data per channel."""

    phases = 1

    def __init__(self, kind: ObserverName, axis: int, *, magnitude: bool = True) -> None:
        """Make one; see `RunMeans` for the arguments.

        Args:
            kind: name under which the range is handed on.
            axis: of the channels.
            magnitude: the upper end is that of |x|.
        """
        self.kind = kind
        self.axis = axis
        self.magnitude = magnitude
        self.lo: F64 = np.array([np.inf])
        self.hi: F64 = np.array([-np.inf])

    def update(self, x: F32, phase: int) -> None:
        """Take in one array; phases after the first are ignored.

        Raises:
            ValueError: if `x` holds NaN.
        """
        if phase or not x.size:
            return
        if np.isnan(x.max()):
            raise ValueError("NaN")
        lo, hi = extremes(x, self.axis)
        self.lo, self.hi = np.minimum(self.lo, lo), np.maximum(self.hi, hi)

    def result(self) -> Range:
        """Return one range per channel; (0, 0) where nothing was seen."""
        if not np.isfinite(self.lo).all():
            return Range(0.0, 0.0, self.kind, 0.0, 0.0)
        seen = float(self.lo.min()), float(self.hi.max())
        hi = np.maximum(self.hi, -self.lo) if self.magnitude else self.hi
        return Range(self.lo, hi, self.kind, *seen)
