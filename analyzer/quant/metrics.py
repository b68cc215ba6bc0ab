# SPDX-License-Identifier: Apache-2.0
"""Error measures between a tensor and its quantized twin, and sums that streams of them add to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from analyzer.records import sqnr_db

F32 = npt.NDArray[np.float32]

# few enough elements for a float32 sum to be exact, and to stay in cache
_CHUNK = 1 << 14


class Comparison(NamedTuple):
    """Sums over one tensor and its quantized twin.

    Attributes:
        noise: sum of (y_q - y)^2.
        signal: sum of y^2.
        quantized: sum of y_q^2.
        max_abs: largest |y_q - y|; NaN where any difference is.
    """

    noise: float
    signal: float
    quantized: float
    max_abs: float


def compare(twin: F32, reference: F32) -> Comparison:
    """Hold a quantized tensor against the plain one, in one pass over both.

    Args:
        twin: float32 of any shape.
        reference: float32, as many elements.
    """
    y_q, y = twin.ravel(), reference.ravel()
    noise = signal = quantized = max_abs = 0.0
    for start in range(0, y.size, _CHUNK):
        part_q, part = y_q[start : start + _CHUNK], y[start : start + _CHUNK]
        with np.errstate(over="ignore", invalid="ignore"):
            difference = part_q - part
            noise += float(np.dot(difference, difference))
            signal += float(np.dot(part, part))
            quantized += float(np.dot(part_q, part_q))
        # a NaN once found stays: no comparison with it is true
        top = float(max(-difference.min(), difference.max()))
        max_abs = top if math.isnan(top) or top > max_abs else max_abs
    if quantized == 0 and y_q.any():  # squares too small for float32 are not nothing
        quantized = float(np.sum(np.square(y_q, dtype=np.float64)))
    return Comparison(noise, signal, quantized, max_abs)


def nsr_of(noise: float, signal: float) -> float:
    """Return the noise-to-signal power ratio; 0 for no noise at all, inf for noise on silence."""
    if noise == 0:
        return 0.0
    return noise / signal if signal > 0 else math.inf


def nsr(y: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Return `sum((y - reference)^2) / sum(reference^2)`, summed in float64.

    >>> nsr([1.0, 2.2], [1.0, 2.0])  # doctest: +ELLIPSIS
    0.008000...
    """
    ref = np.asarray(reference, np.float64)
    noise = np.asarray(y, np.float64) - ref
    return nsr_of(float(np.sum(noise * noise)), float(np.sum(ref * ref)))


def power(x: F32) -> float:
    """Return the sum of squares of float32 `x`.

    Dot products of stretches run in float32 at the speed of memory; their sum is float64.  It is
    within 1e-7 of the exact one; 1e-5 where all elements are equal and rounding has a direction.
    """
    flat = x.ravel()
    parts = (flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK))
    return sum(float(np.dot(part, part)) for part in parts)


@dataclass(slots=True)
class ErrorSums:
    """Running error of one tensor over samples; NSR and cosine are means over samples."""

    count: int = 0
    nsr_sum: float = 0.0
    cosine_sum: float = 0.0
    max_abs: float = 0.0
    signal_sum: float = 0.0
    quantized_sum: float = 0.0

    def add(self, found: Comparison) -> None:
        """Take in one sample."""
        noise, signal, quantized, max_abs = found
        self.count += 1
        self.nsr_sum += nsr_of(noise, signal)
        self.signal_sum += signal
        self.quantized_sum += quantized
        # y . y_q follows from the three sums of squares
        norm = math.sqrt(signal) * math.sqrt(quantized)
        if norm == 0:
            self.cosine_sum += 1.0 if noise == 0 else 0.0
        else:
            cosine = (signal + quantized - noise) / (2 * norm)
            self.cosine_sum += min(1.0, max(-1.0, cosine)) if math.isfinite(cosine) else cosine
        self.max_abs = max_abs if math.isnan(max_abs) else max(self.max_abs, max_abs)

    @property
    def nsr(self) -> float:
        """Mean NSR over samples."""
        return self.nsr_sum / self.count

    @property
    def lost(self) -> bool:
        """Whether the quantized tensor is all zero and the plain one is not."""
        return self.quantized_sum == 0 and self.signal_sum > 0

    @property
    def cosine(self) -> float:
        """Mean cosine similarity over samples."""
        return self.cosine_sum / self.count

    @property
    def sqnr_db(self) -> float:
        """SQNR in dB of the mean NSR."""
        return sqnr_db(self.nsr)
