# SPDX-License-Identifier: Apache-2.0
"""onnxruntime's calibrators: streams of arrays in, the ranges of its `calibrate.py` out.

`quantize_static` hands all samples to a calibrator at once, which takes one histogram over all of
them (histograms are merged only with `CalibStridedMinMax`).  Here the data are read twice, first
for the ends of the histogram, then for its counts: the same numbers, without keeping the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from analyzer.quant.observers import F32, MinMax, Observer, Range, Sharing, Shown

PERCENTILE = 99.999
PERCENTILE_BINS = 2048


class OrtPercentile(Sharing):
    """Magnitude below which 99.999 % of all values lie, by a histogram of |x| with 2048 bins.

    `HistogramCollector.collect_absolute_value` and `compute_percentile`.  The histogram starts at
    the smallest magnitude; the threshold is the left edge of the bin, cut to the data's range.
    Where all magnitudes are so much alike that there are no 2048 float32 values between them,
    `quantize_static` fails; here the range is that of the data.
    """

    phases = 2

    def __init__(self) -> None:
        self.seen = MinMax()
        self.magnitudes = MinMax()
        self.counts = np.zeros(PERCENTILE_BINS, np.int64)
        self.edges: F32 | None = None

    def take(self, shown: Shown, phase: int) -> None:
        """Take in one array: its range in phase 0, its counts in phase 1."""
        x = shown.x
        if phase == 0:
            self.seen.take(shown, 0)
            self.magnitudes.update(np.abs(x), 0)
        elif phase == 1 and x.size:
            # float32 ends make float32 edges, as there
            ends = np.array([self.magnitudes.lo, self.magnitudes.hi], np.float32)
            try:
                found = np.histogram(np.abs(x).ravel(), PERCENTILE_BINS, (ends[0], ends[1]))
            except ValueError:  # too many bins for so narrow a range
                return
            self.counts += found[0]
            self.edges = found[1].astype(np.float32)

    def result(self) -> Range:
        """Return (-t, t), cut to what was seen; (0, 0) where nothing was."""
        if self.edges is None:
            return replace(self.seen.result(), kind="percentile")
        shares = np.cumsum(self.counts / self.counts.sum())
        threshold = float(self.edges[np.searchsorted(shares, PERCENTILE / 100.0)])
        lo, hi = self.seen.lo, self.seen.hi
        return Range(max(-threshold, lo), min(threshold, hi), "percentile", lo, hi)


class OrtEntropy(MinMax):
    """Smallest and largest value: what `EntropyCalibrater` comes to as `quantize_static` uses it.

    `get_entropy_threshold` searches slices of a histogram over (-t, t) for the largest magnitude
    t, from as many bins as there are quantized ones up to all.  Both are 128 and no option of
    `quantize_static` changes them, so that the only candidate is the whole histogram, which is
    then cut to the range of the data.
    """


def make_ort_observer(name: str) -> Observer:
    """Return a fresh observer: minmax, percentile or entropy.

    Raises:
        ValueError: for another name.
    """
    kinds: dict[str, Callable[[], Observer]] = {
        "minmax": MinMax,
        "percentile": OrtPercentile,
        "entropy": OrtEntropy,
    }
    if name not in kinds:
        raise ValueError(f"There is no observer {name!r}, expected one of {', '.join(kinds)}.")
    return kinds[name]()
