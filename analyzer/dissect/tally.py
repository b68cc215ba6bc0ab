# SPDX-License-Identifier: Apache-2.0
"""What a tensor holds, counted: arrays go in one after the other, histograms and sums come out.

Memory does not depend on how many arrays are shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from analyzer.quant.fake import broadcast, calibrated, fake_quantize
from analyzer.quant.metrics import nsr_of
from analyzer.quant.rounding import F32, F64
from analyzer.records import Quantizer

BINS = 64  # at most
_ROOM = 1.5  # of the range, that the limits of the grid may take up on either side of it
_CHUNK = 1 << 17  # elements handled at once: temporaries stay in the cache


@dataclass(frozen=True, slots=True)
class Bins:
    """Equally wide bins.

    Attributes:
        low: lower end of the first.
        width: of each.
    """

    low: float
    width: float
    count: int

    @property
    def high(self) -> float:
        """Upper end of the last."""
        return self.low + self.count * self.width

    def counts(self, x: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
        """Count finite values of any shape; those beyond the ends are in the end bins."""
        places = np.floor((x.reshape(-1).astype(np.float64) - self.low) / self.width)
        at = np.clip(places, 0, self.count - 1).astype(np.intp)
        return np.bincount(at, minlength=self.count)


def bins_for(values: tuple[float, float], limits: tuple[float, float], step: float | None) -> Bins:
    """Choose bins that hold a range and, as far as there is room, the limits of a grid.

    A bin is a whole number of steps, or an odd part of one, and ends halfway between two levels:
    otherwise bins would hold now two, now three levels, and the picture a pattern that is not in
    the data.

    Args:
        values: smallest and largest value.
        limits: of the grid.
        step: of the grid, a multiple of which all its levels are; None: of several scales.

    >>> bins_for((0.0, 126.0), (-128.0, 127.0), 1.0)
    Bins(low=-128.5, width=4.0, count=64)
    """
    low, high = values
    room = _ROOM * (high - low) or max(abs(low), step or 0.0, *map(abs, limits)) or 1.0
    low, high = min(low, max(limits[0], low - room)), max(high, min(limits[1], high + room))
    span = (high - low) or 1.0
    if step is None:
        return Bins(low, span / BINS, BINS)
    fine = math.floor(BINS * step / (span + step))
    if fine >= 1:
        parts = fine if fine % 2 else fine - 1
        return _aligned(low, high, step / parts, 1)
    return _aligned(low, high, step, math.ceil(span / (step * BINS)))


def _aligned(low: float, high: float, unit: float, units: int) -> Bins:
    """Start half a unit below a level; one more unit per bin where they are too many."""
    start = (math.floor(low / unit + 0.5) - 0.5) * unit
    count = math.floor((high - start) / (unit * units)) + 1
    if count > BINS:
        return _aligned(low, high, unit, units + 1)
    return Bins(start, unit * units, count)


class Tally:
    """Counts of one tensor under one quantizer.

    Every array is shown to `widen` first, and to `add` once all were.

    Args:
        quantizer: calibrated.
        axis: of the channels, None for none.

    Attributes:
        fp32, made: counts of the values and of the quantized ones, once there are bins.
        clipped, elements, finite: numbers of values.
        low, high, noise, signal: per channel.
        nsrs, arriving: per sample: of the grid alone, and with everything quantized.
    """

    def __init__(self, quantizer: Quantizer, axis: int | None) -> None:
        scale, zero = calibrated(quantizer)
        self.quantizer = replace(quantizer, stored=None)
        self.axis = axis
        self.range = (math.inf, -math.inf)
        lows, highs = (quantizer.qmin - zero) * scale, (quantizer.qmax - zero) * scale
        self.limits = float(lows.min()), float(highs.max())
        self.step = float(scale.max())
        self.bins: Bins | None = None
        self.clipped = self.elements = self.finite = 0
        self.nsrs: list[float] = []
        self.arriving: list[float] = []
        self._cuts = (lows - scale / 2, highs + scale / 2)

    @property
    def empty(self) -> bool:
        """Whether nothing finite was shown yet."""
        return self.range[0] > self.range[1]

    def widen(self, x: F32) -> None:
        """Learn the range of an array."""
        if not x.size:
            return
        low, high = float(x.min()), float(x.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            kept = x[np.isfinite(x)]
            if not kept.size:
                return
            low, high = float(kept.min()), float(kept.max())
        self.range = min(self.range[0], low), max(self.range[1], high)

    def add(self, x: F32, made: F32, *, alone: F32 | None = None) -> None:
        """Count an array.

        Args:
            x: FP32 values.
            made: quantized ones, shaped as `x`.
            alone: what the grid alone makes of `x`; None: found here.
        """
        if self.empty:
            self.elements += x.size
            return
        if self.bins is None:
            self._start(x)
        assert self.bins is not None
        before, signal = float(self.noise.sum()), float(self.signal.sum())
        arriving = 0.0
        for place, own, part, other, answer in self._pieces(x, made, alone):
            arriving += self._count(place, own, part, other, answer)
        signal = float(self.signal.sum()) - signal
        self.nsrs.append(nsr_of(float(self.noise.sum()) - before, signal))
        self.arriving.append(nsr_of(arriving, signal))

    def _start(self, x: F32) -> None:
        several = self.quantizer.scale is not None and self.quantizer.scale.size > 1
        self.bins = bins_for(self.range, self.limits, None if several else self.step)
        self.fp32 = np.zeros(self.bins.count, np.int64)
        self.made = np.zeros(self.bins.count, np.int64)
        count = 1 if self.axis is None else x.shape[self.axis]
        self.low, self.high = np.full(count, math.inf), np.full(count, -math.inf)
        self.noise, self.signal = np.zeros(count), np.zeros(count)

    def _pieces(
        self, x: F32, made: F32, alone: F32 | None
    ) -> Iterator[tuple[slice, Quantizer, F32, F32, F32 | None]]:
        """Cut arrays along the channels, or anyhow where there are none."""
        scale, zero = calibrated(self.quantizer)
        if self.axis is None:
            x, made = x.reshape(-1), made.reshape(-1)
            alone = None if alone is None else alone.reshape(-1)
        axis = self.axis or 0
        length = x.shape[axis]
        rows = max(1, _CHUNK * length // max(x.size, 1))
        for start in range(0, length, rows):
            part = slice(start, start + rows)
            at = (*[slice(None)] * axis, part)
            own = self.quantizer
            if scale.size > 1:
                zeros = np.broadcast_to(zero, scale.shape)
                own = replace(own, scale=scale[part], zero_point=zeros[part])
            channels = slice(0, 1) if self.axis is None else part
            yield channels, own, x[at], made[at], None if alone is None else alone[at]

    def _count(self, place: slice, own: Quantizer, x: F32, made: F32, alone: F32 | None) -> float:
        """Count a piece; return the power of its noise with everything quantized."""
        assert self.bins is not None
        axis = None if self.axis is None else self.axis % x.ndim
        others = tuple(k for k in range(x.ndim) if k != axis)
        known = np.isfinite(x)
        whole = bool(known.all())
        kept = x if whole else x[known]
        self.elements += x.size
        self.finite += kept.size
        self.fp32 += self.bins.counts(kept)
        self.made += self.bins.counts(made if np.isfinite(made).all() else _finite(made))
        low, high = (
            broadcast(cut if cut.size == 1 else cut[place], axis, x.ndim) for cut in self._cuts
        )
        with np.errstate(invalid="ignore", over="ignore"):
            self.clipped += int(np.count_nonzero(((x < low) | (x > high)) & known))
            answer = fake_quantize(x, own) if alone is None else alone
            self.noise[place] += _power(answer - x, others)
            self.signal[place] += _power(x, others)
            arriving = float(_power(made - x, None))
        lows = x if whole else np.where(known, x, np.float32(math.inf))
        highs = x if whole else np.where(known, x, np.float32(-math.inf))
        self.low[place] = np.minimum(self.low[place], lows.min(axis=others))
        self.high[place] = np.maximum(self.high[place], highs.max(axis=others))
        return arriving


def _power(x: F32, axes: tuple[int, ...] | None) -> F64:
    """Sum squares along axes (None: all), float64; what is not finite does not count."""
    squares = np.square(x, dtype=np.float64)
    if not np.isfinite(squares).all():
        squares[~np.isfinite(squares)] = 0.0
    return np.asarray(squares.sum(axis=axes))


def _finite(x: F32) -> F32:
    return x[np.isfinite(x)]
