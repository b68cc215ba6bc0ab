# SPDX-License-Identifier: Apache-2.0
"""Observers: streams of arrays in, a range out.  Memory does not grow with the stream.

Every observer is fed with `update(x)` once per run and phase; `phases` says how many passes over
the data it needs.  `result()` gives a `Range`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from analyzer.records import Observer as ObserverName

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

CHUNK = 1 << 16  # elements handled at once: temporaries stay in the second-level cache
PERCENTILE = 0.9999
KL_FIRST_BINS = 0.002  # share of the bins nearest zero that the KL search ignores
MSE_BINS = 2048


@dataclass(frozen=True, slots=True)
class Range:
    """A range of real values to be covered by the grid.

    Attributes:
        lo, hi: bounds in the tensor's own units; one value each, or one per channel.
        kind: which observer found it; a target may turn a KL threshold into a scale by another
            rule than a range.
        seen_lo, seen_hi: smallest and largest value of the data.
    """

    lo: float | F64
    hi: float | F64
    kind: ObserverName
    seen_lo: float
    seen_hi: float


class Observer(Protocol):
    """Something that watches one tensor."""

    phases: int

    def update(self, x: F32, phase: int) -> None:
        """Take in one run's tensor (any shape)."""

    def result(self) -> Range:
        """Return the range after the last phase."""


class MinMax:
    """Smallest and largest value of all data."""

    phases = 1

    def __init__(self) -> None:
        self.lo = np.inf
        self.hi = -np.inf

    def update(self, x: F32, phase: int) -> None:
        """Take in one array; phases after the first are ignored.

        Infinite values (attention masks) do not count.

        Raises:
            ValueError: if `x` holds NaN.
        """
        found = None if phase else finite_ends(x)
        if found is None:
            return
        lo, hi = found
        self.lo, self.hi = min(self.lo, lo), max(self.hi, hi)

    def result(self) -> Range:
        """Return the range; (0, 0) where nothing was seen."""
        lo, hi = (self.lo, self.hi) if self.lo <= self.hi else (0.0, 0.0)
        return Range(lo, hi, "minmax", lo, hi)


class Percentile:
    """Mean over runs of two order statistics of each run.

    Element `int(n * (1 - p))` from below and `min(int(n * p), n - 1)` from above of the sorted
    values, p = 0.9999, averaged in float32 (esp-ppq: `quantization/observer/range.py`).
    """

    phases = 1

    def __init__(self, percentile: float = PERCENTILE) -> None:
        self.percentile = percentile
        self.los: list[float] = []
        self.his: list[float] = []
        self.seen = MinMax()

    def update(self, x: F32, phase: int) -> None:
        """Take in one array."""
        if phase or not x.size:
            return
        self.seen.update(x, phase)
        lo, hi = order_statistics(x, self.percentile)
        self.los.append(lo)
        self.his.append(hi)

    def result(self) -> Range:
        """Return the averaged range."""
        if not self.los:
            return Range(0.0, 0.0, "percentile", 0.0, 0.0)
        # sorted, so that the order in which threads deliver does not show
        lo = float(np.mean(np.sort(np.asarray(self.los, np.float32))))
        hi = float(np.mean(np.sort(np.asarray(self.his, np.float32))))
        return Range(lo, hi, "percentile", self.seen.lo, self.seen.hi)


class Histogram:
    """Counts of |x| on [0, largest |x|] in equal bins; base of the KL and MSE searches."""

    phases = 2

    def __init__(self, bins: int) -> None:
        self.bins = bins
        self.seen = MinMax()
        self.counts = np.zeros(bins, np.int64)

    @property
    def amax(self) -> np.float32:
        """Largest magnitude seen in the first phase."""
        seen = self.seen.result()
        return np.float32(max(abs(seen.seen_lo), abs(seen.seen_hi)))

    def update(self, x: F32, phase: int) -> None:
        """Take in one array: its range in phase 0, its counts in phase 1."""
        if phase == 0:
            self.seen.update(x, phase)
        elif self.amax > 0:
            self.counts += magnitude_counts(x, self.amax, self.bins)


class KL(Histogram):
    """Threshold with the smallest divergence between the clipped and the quantized histogram.

    After esp-ppq's `TorchHistObserver` (`quantization/observer/range.py`): 32 bins per level, the
    bins nearest zero dropped, candidates in steps of one bin per level.
    """

    def __init__(self, bits: int) -> None:
        self.levels = 2 ** (bits - 1)
        super().__init__(32 * self.levels)

    def result(self) -> Range:
        """Return (-t, t) for the best threshold t."""
        seen = self.seen.result()
        amax = float(self.amax)
        if amax == 0:
            return Range(0.0, 0.0, "kl", seen.seen_lo, seen.seen_hi)
        kept = kl_bins(self.counts, self.levels)
        threshold = amax * (kept / self.bins)
        return Range(-threshold, threshold, "kl", seen.seen_lo, seen.seen_hi)


class MSE(Histogram):
    """Range end with the smallest expected squared rounding error over a 2048-bin histogram.

    After esp-ppq's `TorchMSEObserver`; its level count is that of the whole signed range although
    the histogram holds magnitudes, and this is kept.
    """

    def __init__(self, bits: int) -> None:
        self.values = 2**bits
        super().__init__(MSE_BINS)

    def result(self) -> Range:
        """Return (-t, t) for the best range end t."""
        seen = self.seen.result()
        end = mse_end(self.counts, self.values) * float(self.amax) / MSE_BINS
        return Range(-end, end, "mse", seen.seen_lo, seen.seen_hi)


def make_observer(name: ObserverName, bits: int) -> Observer:
    """Return a fresh observer for a grid of `bits` bits: minmax, percentile, kl or mse.

    Raises:
        ValueError: for another name.
    """
    if name == "minmax":
        return MinMax()
    if name == "percentile":
        return Percentile()
    if name == "kl":
        return KL(bits)
    if name == "mse":
        return MSE(bits)
    raise ValueError(f"There is no observer {name!r}.")


def finite_ends(x: F32) -> tuple[float, float] | None:
    """Return the smallest and the largest finite value of `x`, None where there is none.

    Raises:
        ValueError: if `x` holds NaN.
    """
    if not x.size:
        return None
    lo, hi = float(x.min()), float(x.max())
    if np.isnan(lo) or np.isnan(hi):
        raise ValueError("NaN")
    if not (np.isfinite(lo) and np.isfinite(hi)):
        x = x[np.isfinite(x)]
        return (float(x.min()), float(x.max())) if x.size else None
    return lo, hi


def extremes(x: F32, axis: int | None) -> tuple[F64, F64]:
    """Return smallest and largest value, float64, of one value or one per channel of `axis`."""
    if axis is not None:
        rows = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
        return rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64)
    if not x.size:
        return np.zeros(1), np.zeros(1)
    return np.array([x.min()], np.float64), np.array([x.max()], np.float64)


def order_statistics(x: F32, percentile: float = PERCENTILE) -> tuple[float, float]:
    """Return the two order statistics that `Percentile` averages, for one array."""
    flat = x.ravel()
    low = int(flat.size * (1 - percentile))
    high = min(int(flat.size * percentile), flat.size - 1)
    ordered = np.partition(flat, sorted({low, high}))
    return float(ordered[low]), float(ordered[high])


def magnitude_counts(x: F32, amax: np.float32, bins: int) -> npt.NDArray[np.int64]:
    """Count |x| in `bins` equal bins on [0, amax].

    The bin is `trunc(|x| * bins / amax)` in float32; amax itself falls into the last bin, larger
    values and NaN are left out.
    """
    flat = x.ravel()
    # bins is a power of two, so that dividing by the width rounds as |x| * bins / amax does
    width = amax / np.float32(bins)
    # two extra bins: one for amax itself, one for all that is larger or NaN
    counts = np.zeros(bins + 2, np.int64)
    top = np.float32(bins + 1)
    for start in range(0, flat.size, CHUNK):
        index = np.abs(flat[start : start + CHUNK])
        with np.errstate(all="ignore"):  # what overflows is the largest value: the last bin
            index /= width
        np.fmin(index, top, out=index)
        counts += np.bincount(index.astype(np.intp), minlength=bins + 2)
    inside = int(np.count_nonzero(np.abs(flat) <= amax)) if counts[bins + 1] else flat.size
    counts[bins - 1] += counts[bins]
    # rounding may lift a value just below amax past the last edge: it still belongs inside
    counts[bins - 1] += inside - int(counts[:bins].sum())
    return counts[:bins]


def kl_bins(counts: npt.NDArray[np.int64], levels: int) -> int:
    """Return how many bins the KL search keeps, a multiple of `levels` up to `counts.size`."""
    hist = counts.astype(np.float32)
    zeroed = int(KL_FIRST_BINS * hist.size)
    hist[:zeroed] = 0
    hist[zeroed] = 1
    total = hist.sum(dtype=np.float32)
    best, best_divergence = hist.size, np.inf
    for kept in range(levels, hist.size + 1, levels):
        p = hist[:kept].copy()
        p[-1] += hist[kept:].sum(dtype=np.float32)
        p /= total
        groups = hist[:kept].reshape(levels, -1)
        filled = groups > 0
        sums = groups.sum(axis=1, dtype=np.float32)
        means = sums / np.maximum(filled.sum(axis=1), 1).astype(np.float32)
        q = (filled * means[:, None]).ravel()
        q /= q.sum(dtype=np.float32)
        p64, q64 = p.astype(np.float64), q.astype(np.float64)
        divergence = float(np.sum(p64 * (np.log10(p64 + 1e-30) - np.log10(q64 + 1e-30))))
        if divergence < best_divergence:
            best, best_divergence = kept, divergence
    return best


def mse_end(counts: npt.NDArray[np.int64], values: int) -> int:
    """Return the range end, in bins, with the smallest expected squared error."""
    hist = counts.astype(np.float64)
    index = np.arange(hist.size)
    widest = hist.size // values
    best, best_loss = hist.size, np.inf
    for step in [widest + 1, *range(1, widest + 1)]:
        end = values * step
        left = index % step
        right = step - left - 1
        inside = np.where(left == right, left + 0.25, np.minimum(left, right) + 0.5)
        error = np.where(index > end, index - end + 0.5, inside)
        loss = float(np.sum(hist * error**2))
        if loss < best_loss:
            best, best_loss = end, loss
    return best
