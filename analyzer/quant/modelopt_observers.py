# SPDX-License-Identifier: Apache-2.0
"""The entropy calibrator of onnxruntime as NVIDIA ModelOpt changed it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from analyzer.quant.observers import F32, MinMax, Range

ENTROPY_BINS = 128
_SMOOTHING = 0.0001
I64 = npt.NDArray[np.int64]


class ModelOptEntropy:
    """Thresholds with the smallest divergence; the first sample decides how wide a bin is.

    ModelOpt (`onnx/quantization/ort_patching.py`) merges the histograms of one sample after the
    other (`merge_histogram` of onnxruntime's `calibrate.py`): 128 bins over the first sample's
    values, then as many more of that width as a larger value needs.  Only where there are more
    does the search have candidates at all.
    """

    phases = 1

    def __init__(self, tensors: int = 1) -> None:
        """Start afresh.

        Args:
            tensors: how many arrays each sample shows, one after the other; they make one
                histogram, and are kept until the last of them is there.
        """
        self.tensors = tensors
        self.shown: list[F32] = []
        self.seen = MinMax()
        self.reach = np.float32(0)
        self.counts: I64 = np.zeros(0, np.int64)

    def update(self, x: F32, phase: int) -> None:
        """Take in one array; phases after the first are ignored.

        Raises:
            ValueError: if `x` holds NaN.
        """
        if phase:
            return
        self.shown.append(x.ravel())
        if len(self.shown) == self.tensors:
            self._merge(np.concatenate(self.shown) if self.tensors > 1 else self.shown[0])
            self.shown.clear()

    def result(self) -> Range:
        """Return the best thresholds, cut to what was seen; (0, 0) where nothing was."""
        seen = self.seen.result()
        if not self.counts.size:
            return replace(seen, lo=0.0, hi=0.0, kind="entropy")
        edges = np.linspace(-self.reach, self.reach, self.counts.size + 1, dtype=np.float32)
        start, end = entropy_bounds(self.counts, ENTROPY_BINS)
        lo, hi = max(float(edges[start]), seen.lo), min(float(edges[end]), seen.hi)
        return replace(seen, lo=lo, hi=hi, kind="entropy")

    def _merge(self, x: F32) -> None:
        sample = MinMax()
        sample.update(x, 0)
        self.seen.update(x, 0)
        found = sample.result()
        reach = np.float32(max(abs(float(found.lo)), abs(float(found.hi))))
        old, more = self.counts, 0
        if not old.size:
            old = np.zeros(ENTROPY_BINS, np.int64)
        if reach > self.reach > 0:
            # all in float32, as there
            width = np.float32(2 * self.reach / old.size)
            more = int((reach - self.reach) // width + 1)
            reach = np.float32(np.float32(more) * width + self.reach)
        self.reach = max(reach, self.reach)
        ends = (float(-self.reach), float(self.reach))
        counts, _ = np.histogram(x, old.size + 2 * more, range=ends)
        counts[more : more + old.size] += old
        self.counts = counts


def entropy_bounds(counts: I64, levels: int) -> tuple[int, int]:
    """Return the first and the last edge of the slice of a histogram that `levels` bins tell best.

    Slices lie around the middle and are at least `levels` bins wide; what lies outside counts
    into their outermost bins.  `get_entropy_threshold` of onnxruntime's `calibrate.py`, with its
    integer division.
    """
    middle = counts.size // 2
    best, least = (0, counts.size), np.float32(np.inf)
    for reach in range(levels // 2, middle + 1):
        bounds = middle - reach, min(middle + reach + 1, counts.size)
        divergence = _divergence(counts, *bounds, levels)
        if reach == levels // 2 or divergence < least:
            best, least = bounds, divergence
    return best


def _divergence(counts: I64, start: int, end: int, levels: int) -> np.float32:
    inside = counts[start:end]
    clipped = inside.copy()
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[end:].sum()
    width = inside.size // levels
    covered = levels * width
    sums = inside[:covered].reshape(levels, width).sum(axis=1)
    sums[-1] += inside[covered:].sum()
    filled = np.count_nonzero(clipped[:covered].reshape(levels, width), axis=1)
    spread = np.zeros_like(clipped)
    spread[:covered] = np.repeat(np.where(filled, sums / np.maximum(filled, 1), 0), width)
    p, q = _smoothed(clipped), _smoothed(spread)
    if p is None or q is None:
        return np.float32(np.inf)
    terms = p.astype(np.float64) * np.log(p.astype(np.float64) / q.astype(np.float64))
    return np.float32(terms.astype(np.float32).sum())


def _smoothed(counts: I64) -> F32 | None:
    """Return shares; empty bins get a little of what the others have (`smooth_distribution`)."""
    empty = counts == 0
    filled = counts.size - np.count_nonzero(empty)
    if not filled:
        return None
    less = -_SMOOTHING * np.count_nonzero(empty) / filled
    smooth = counts.astype(np.float32) + np.where(empty, _SMOOTHING, less).astype(np.float32)
    return np.asarray(smooth / smooth.sum())
