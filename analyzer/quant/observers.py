# SPDX-License-Identifier: Apache-2.0
"""Observers: streams of arrays in, a range out.  Memory does not grow with the stream.

Every observer is fed with `update(x)` once per run and phase; `phases` says how many passes over
the data it needs.  `result()` gives a `Range`.  Where several look at one array, `show` lets them
share what they have in common.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from analyzer.quant.searches import kl_bins, mse_end
from analyzer.records import Observer as ObserverName

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

CHUNK = 1 << 16  # elements handled at once: temporaries stay in the second-level cache
PERCENTILE = 0.9999
MSE_BINS = 2048
_SHARED_BINS = 4096  # magnitudes are counted at least so finely: that serves KL of 8 bits and MSE
_SAMPLED = 16  # one element of so many tells roughly where the order statistics lie
_TINY = np.finfo(np.float32).tiny


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


class Shown:
    """One array, and what several observers want to know of it, each worked out once.

    One thread at a time may use it.
    """

    def __init__(self, x: F32) -> None:
        self.x = x
        self._raw: dict[tuple[float, int], I64] = {}

    @cached_property
    def ends(self) -> tuple[float, float] | None:
        """Smallest and largest finite value, see `finite_ends`."""
        return finite_ends(self.x)

    def magnitude_counts(self, amax: np.float32, bins: int) -> I64:
        """Count |x| in equal bins, see the function of this name; `bins` is a power of two.

        A bin is as wide as several of a finer histogram, exactly, unless widths are subnormal.
        What is larger than amax or NaN would need care, so it is counted by itself.
        """
        fine = max([_SHARED_BINS, bins, *(n for end, n in self._raw if end == amax)])
        if amax / np.float32(fine) < _TINY:
            return magnitude_counts(self.x, amax, bins)
        key = float(amax), fine
        if key not in self._raw:
            self._raw[key] = _raw_counts(self.x, amax, fine)
        raw = self._raw[key]
        if raw[-1]:
            return magnitude_counts(self.x, amax, bins)
        counts = raw[:fine].reshape(bins, -1).sum(axis=1)
        counts[-1] += raw[fine]
        return np.asarray(counts)


class Sharing(ABC):
    """An observer that can share its work on an array with others that look at it."""

    def update(self, x: F32, phase: int) -> None:
        """Take in one run's tensor (any shape), see `take`."""
        self.take(Shown(x), phase)

    @abstractmethod
    def take(self, shown: Shown, phase: int) -> None:
        """Take in one run's tensor.

        Raises:
            ValueError: if it holds NaN.
        """


def show(observer: Observer, shown: Shown, phase: int) -> None:
    """Show an array to one of the observers that look at it."""
    if isinstance(observer, Sharing):
        observer.take(shown, phase)
    else:
        observer.update(shown.x, phase)


class MinMax(Sharing):
    """Smallest and largest value of all data."""

    phases = 1

    def __init__(self) -> None:
        self.lo = np.inf
        self.hi = -np.inf

    def take(self, shown: Shown, phase: int) -> None:
        """Take in one array; phases after the first are ignored.

        Infinite values (attention masks) do not count.

        Raises:
            ValueError: if the array holds NaN.
        """
        found = None if phase else shown.ends
        if found is None:
            return
        lo, hi = found
        self.lo, self.hi = min(self.lo, lo), max(self.hi, hi)

    def result(self) -> Range:
        """Return the range; (0, 0) where nothing was seen."""
        lo, hi = (self.lo, self.hi) if self.lo <= self.hi else (0.0, 0.0)
        return Range(lo, hi, "minmax", lo, hi)


class Percentile(Sharing):
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

    def take(self, shown: Shown, phase: int) -> None:
        """Take in one array."""
        if phase or not shown.x.size:
            return
        self.seen.take(shown, phase)
        lo, hi = order_statistics(shown.x, self.percentile)
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


class Histogram(Sharing):
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

    def take(self, shown: Shown, phase: int) -> None:
        """Take in one array: its range in phase 0, its counts in phase 1."""
        if phase == 0:
            self.seen.take(shown, phase)
        elif self.amax > 0:
            self.counts += shown.magnitude_counts(self.amax, self.bins)


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
    smallest, largest = low + 1, flat.size - high  # ranks from either end
    if flat.size > CHUNK and max(smallest, largest) < flat.size // 8:
        lo, hi = _nth_from_ends(flat, smallest, largest)
        if lo is not None and hi is not None:
            return lo, hi
    ordered = np.partition(flat, sorted({low, high}))
    return float(ordered[low]), float(ordered[high])


def _nth_from_ends(flat: F32, smallest: int, largest: int) -> tuple[float | None, float | None]:
    """Return the n-th smallest and the n-th largest value, None where that takes a look at all.

    A part of the values tells bounds which, most likely, a few more than n lie beyond.
    """
    some = flat[::_SAMPLED]
    low = 2 * (smallest // _SAMPLED) + 4
    high = some.size - 1 - (2 * (largest // _SAMPLED) + 4)
    some = np.partition(some, [low, high])
    if np.isnan(flat.max()):
        return None, None
    below, above = flat[flat < some[low]], flat[flat > some[high]]
    lo = hi = None
    if below.size >= smallest:
        lo = float(np.partition(below, smallest - 1)[smallest - 1])
    elif np.count_nonzero(flat <= some[low]) >= smallest:
        lo = float(some[low])  # many are equal, such as the zeros of a Relu
    if above.size >= largest:
        hi = float(np.partition(above, above.size - largest)[above.size - largest])
    elif np.count_nonzero(flat >= some[high]) >= largest:
        hi = float(some[high])
    return lo, hi


def magnitude_counts(x: F32, amax: np.float32, bins: int) -> I64:
    """Count |x| in `bins` equal bins on [0, amax].

    The bin is `trunc(|x| * bins / amax)` in float32; amax itself falls into the last bin, larger
    values and NaN are left out.
    """
    counts = _raw_counts(x, amax, bins)
    inside = int(np.count_nonzero(np.abs(x) <= amax)) if counts[bins + 1] else x.size
    counts[bins - 1] += counts[bins]
    # rounding may lift a value just below amax past the last edge: it still belongs inside
    counts[bins - 1] += inside - int(counts[:bins].sum())
    return counts[:bins]


def _raw_counts(x: F32, amax: np.float32, bins: int) -> I64:
    """Count |x| in `bins` bins and two more: for amax itself, and for all larger ones and NaN."""
    flat = x.ravel()
    # bins is a power of two, so that dividing by the width rounds as |x| * bins / amax does
    width = amax / np.float32(bins)
    counts = np.zeros(bins + 2, np.int64)
    top = np.float32(bins + 1)
    size = max(CHUNK, bins)  # counting starts from as many zeros as there are bins
    for start in range(0, flat.size, size):
        index = np.abs(flat[start : start + size])
        with np.errstate(all="ignore"):  # what overflows is the largest value: the last bin
            index /= width
        np.fmin(index, top, out=index)
        # by way of 32 bits: processors convert several at once to those only
        counts += np.bincount(index.astype(np.int32), minlength=bins + 2)
    return counts
