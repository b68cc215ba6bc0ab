# SPDX-License-Identifier: Apache-2.0
"""PyTorch's `HistogramObserver`: arrays in, the range with the smallest expected error out.

Imitates `torch/ao/quantization/observer.py` of torch 2.13 in its float32 arithmetic.  One
histogram is kept; when an array widens the range, the old counts are spread over the new bins,
so the result depends on the order of the arrays.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from functools import cache, reduce

import numpy as np
import numpy.typing as npt

from analyzer.quant.observers import CHUNK, Range
from analyzer.records import Observer as ObserverName

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

BINS = 2048
LEVELS = 256  # of the search, whatever the grid: `reduce_range` does not show in it
UPSAMPLING = 16
QUANTILE_STEP = 1e-5


class TorchHistogram:
    """Running histogram of 2048 bins, searched for the range with the least squared error."""

    phases = 1

    def __init__(self, kind: ObserverName = "histogram") -> None:
        self.kind = kind
        self.lo = np.float32(np.inf)
        self.hi = np.float32(-np.inf)
        self.counts = np.zeros(BINS, np.float32)

    def update(self, x: F32, phase: int) -> None:
        """Take in one array; phases after the first are ignored, and so are infinite values.

        Raises:
            ValueError: if `x` holds NaN.
        """
        if phase or not x.size:
            return
        flat = np.ascontiguousarray(x, np.float32).ravel()
        lo, hi = flat.min(), flat.max()
        if not (np.isfinite(lo) and np.isfinite(hi)):
            if np.isnan(lo) or np.isnan(hi):
                raise ValueError("NaN")
            flat = flat[np.isfinite(flat)]
            if not flat.size:
                return
            lo, hi = flat.min(), flat.max()
        if self.lo > self.hi:
            self.lo, self.hi, self.counts = lo, hi, bin_counts(flat, lo, hi)
            return
        lo, hi = min(lo, self.lo), max(hi, self.hi)
        counts = bin_counts(flat, lo, hi)
        self.counts = counts + spread(self.counts, (self.lo, self.hi), (lo, hi))
        self.lo, self.hi = lo, hi

    def result(self) -> Range:
        """Return the range found; (0, 0) where nothing was seen."""
        if self.lo > self.hi:
            return Range(0.0, 0.0, self.kind, 0.0, 0.0)
        first, last = best_bins(self.counts, self.lo, self.hi)
        width = (self.hi - self.lo) / np.float32(BINS)
        lo = float(self.lo + width * np.float32(first))
        hi = float(self.lo + width * np.float32(last + 1))
        # rounding may put `hi` a little above the largest value: nothing cuts it there
        return Range(lo, hi, self.kind, float(self.lo), max(hi, float(self.hi)))


def bin_counts(flat: F32, lo: np.float32, hi: np.float32) -> F32:
    """Count `flat`, all within [lo, hi], in equal bins, as `torch.histc` does.

    A range of no width is taken as one step up and down.
    """
    if lo == hi:
        lo, hi = lo - np.float32(1), hi + np.float32(1)
    counts = np.zeros(BINS + 1, np.int64)
    width = hi - lo
    for start in range(0, flat.size, CHUNK):
        position = (flat[start : start + CHUNK] - lo) * np.float32(BINS)
        position /= width
        counts += np.bincount(position.astype(np.intp), minlength=BINS + 1)
    counts[BINS - 1] += counts[BINS]
    return counts[:BINS].astype(np.float32)


def spread(
    counts: F32, old: tuple[np.float32, np.float32], new: tuple[np.float32, np.float32]
) -> F32:
    """Move counts over the range `old` into the bins of the wider range `new`.

    Every bin is cut into 16, each of which goes whole where its middle lies.
    """
    if old == new:
        return counts
    if old[0] == old[1]:
        return bin_counts(np.array(old[:1]), *new) * np.float32(total(counts))
    fine = np.repeat(counts, UPSAMPLING) / np.float32(UPSAMPLING)
    half = np.float32(0.5) * ((old[1] - old[0]) / np.float32(fine.size))
    middles = _steps(*old, fine.size)[:-1] + half
    places = np.searchsorted(_steps(*new, BINS), middles, side="right") - 1
    moved = np.zeros(BINS, np.float32)
    np.add.at(moved, np.clip(places, 0, BINS - 1), fine)  # one by one, rounded each time
    return moved


def best_bins(counts: F32, lo: np.float32, hi: np.float32) -> tuple[int, int]:
    """Return the first and the last bin of the range to keep.

    `_non_linear_param_search`: quantiles are given up in steps of 1e-5 at the end where that
    frees more bins, until the expected error grows.  Steps that free none are jumped over.
    """
    if lo == hi:
        return 0, BINS - 1
    everything = total(counts)
    sums = np.cumsum(counts, dtype=np.float64).astype(np.float32).tolist()
    alphas, betas = _quantiles()
    low, high = ((quantiles * everything).astype(np.float32) for quantiles in (alphas, betas))
    falling = -high
    error_of = _ErrorOfRange(counts, lo, hi)
    first, last, least = 0, BINS - 1, np.inf
    i = j = 0
    while alphas[i] < betas[j]:
        left = min(max(bisect_left(sums, low[i + 1]), first), last)
        right = max(min(bisect_right(sums, high[j + 1]) - 1, last), first)
        if left - first > last - right:
            next_first, next_last, i = left, last, i + 1
        else:
            next_first, next_last, j = first, right, j + 1
        if (next_first, next_last) == (first, last):
            # only beta moves until the last bin can be given up
            j = max(j, int(np.searchsorted(falling, -sums[last], side="right")) - 1)
            if j + 1 >= betas.size:
                break
            continue
        error = error_of(next_first, next_last)
        if error > least:
            break
        first, last, least = next_first, next_last, error
    return first, last


class _ErrorOfRange:
    """Expected squared error of 256 levels over bins `first` to `last` (`_get_norm`, L2)."""

    def __init__(self, counts: F32, lo: np.float32, hi: np.float32) -> None:
        self.width = (float(hi) - float(lo)) / BINS
        self.density = counts / np.float32(self.width)
        self.index = np.arange(BINS)

    def __call__(self, first: int, last: int) -> float:
        step = self.width * (last - first + 1) / LEVELS
        if step == 0.0:
            return 0.0
        begin = (self.index - first).astype(np.float32) * np.float32(self.width)
        end = begin + np.float32(self.width)
        wide, half = np.float32(step), np.float32(step / 2)
        level_of_begin = np.clip(np.floor_divide(begin, wide), 0, LEVELS - 1)
        level_of_end = np.clip(np.floor_divide(end, wide), 0, LEVELS - 1)
        from_begin = begin - (level_of_begin + np.float32(0.5)) * wide
        from_end = end - (level_of_end * wide + half)
        whole = level_of_end - level_of_begin - np.float32(1)
        error = self._cubes(from_begin, np.full(1, half))
        error += whole * self._cubes(np.full(1, -half), np.full(1, half))
        error += self._cubes(np.full(1, -half), from_end)
        return total(error)

    def _cubes(self, begin: F32, end: F32) -> F32:
        cubes = (end * end * end - begin * begin * begin) / np.float32(3)
        return np.asarray(self.density * cubes, np.float32)


def total(values: F32) -> float:
    """Sum 2048 values in the order of `torch.sum` (`cascade_sum`, 4 rows of 8 lanes).

    Where giving up a bin hardly changes the error, the rounding of this sum decides.
    """
    steps = values.reshape(-1, 16, 4, 8)
    sixteens = _one_by_one(steps[:, k] for k in range(16))
    return float(_one_by_one(_one_by_one(_one_by_one(sixteens))))


def _one_by_one(parts: Iterable[F32]) -> F32:
    return reduce(lambda a, b: a + b, parts)


@cache
def _quantiles() -> tuple[F64, F64]:
    """Return the lower and the upper bound after every number of steps."""
    steps = np.full(round(1 / QUANTILE_STEP) + 2, QUANTILE_STEP)
    return (
        np.add.accumulate(np.concatenate([[0.0], steps])),
        np.subtract.accumulate(np.concatenate([[1.0], steps])),
    )


def _steps(lo: np.float32, hi: np.float32, count: int) -> F32:
    """Return `torch.linspace(lo, hi, count + 1)`: counted from the nearer end, rounded once."""
    step = np.float64((hi - lo) / np.float32(count))
    index = np.arange(count + 1)
    rising = np.float64(lo) + step * index
    falling = np.float64(hi) - step * (count - index)
    return np.where(index < (count + 1) // 2, rising, falling).astype(np.float32)
