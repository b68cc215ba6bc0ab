# SPDX-License-Identifier: Apache-2.0
"""What a quantizer does to an array: squared errors come out, rounding apart from clipping."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from analyzer.quant.fake import calibrated, fake_quantize
from analyzer.records import Quantizer

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_CHUNK = 1 << 15  # elements handled at once: temporaries stay in the second-level cache
_UNBOUNDED = 1 << 62  # no level lies beyond it


@dataclass(frozen=True, slots=True)
class QuantizationNoise:
    """Sums over an array, float64; infinite values and NaN are left out.

    Attributes:
        rounding: of squared errors of values that lie on the grid's range.
        clipping: of squared errors of those whose level lies outside of it.
        signal: of squared values.
    """

    rounding: float = 0.0
    clipping: float = 0.0
    signal: float = 0.0

    @property
    def noise(self) -> float:
        """Sum of all squared errors."""
        return self.rounding + self.clipping

    def __add__(self, other: QuantizationNoise) -> QuantizationNoise:
        """Return the sums over both arrays."""
        return QuantizationNoise(
            self.rounding + other.rounding,
            self.clipping + other.clipping,
            self.signal + other.signal,
        )


def quantization_noise(
    x: F32, quantizer: Quantizer, reference: F32 | None = None
) -> QuantizationNoise:
    """Measure the error of `x` under a calibrated quantizer (see `fake_quantize`).

    Args:
        x: float32 of any shape; not modified.
        quantizer: what it stored of a constant counts as its answer, where that is known.
        reference: what the answer should be, shaped as `x`; None: `x` itself.

    >>> q = Quantizer("c", "in1", "w", "weight", 8, scale=np.array([1.0]),
    ...               zero_point=np.array([0]))
    >>> quantization_noise(np.float32([0.25, 3.0, 130.0]), q)
    QuantizationNoise(rounding=0.0625, clipping=9.0, signal=16909.0625)
    """
    total = QuantizationNoise()
    wanted = x if reference is None else reference
    for part, wish, answer, own in _pieces(x, wanted, quantizer):
        total += _noise(part, wish, answer, own)
    return total


def noise_by_channel(y: F32, reference: F32, axis: int) -> F64:
    """Return the sum of squared differences of every channel, float64.

    Args:
        y: float32 of any shape.
        reference: float32, shaped as `y`.
        axis: of the channels.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        difference = y - reference
        np.square(difference, out=difference)
    others = tuple(k for k in range(y.ndim) if k != axis % y.ndim)
    return np.asarray(difference.sum(axis=others, dtype=np.float64))


_Piece = tuple[F32, F32, F32 | None, Quantizer]


def _pieces(x: F32, wanted: F32, quantizer: Quantizer) -> Iterator[_Piece]:
    """Cut all arrays alike, and the quantizer with them where it has a scale per channel."""
    scale, zero = calibrated(quantizer)
    answer = None if quantizer.stored is None else quantizer.stored.reshape(x.shape)
    own = replace(quantizer, stored=None)
    axis = quantizer.axis
    if scale.size == 1:
        flat, wish = x.reshape(-1), wanted.reshape(-1)
        kept = None if answer is None else answer.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            yield flat[part], wish[part], None if kept is None else kept[part], own
    elif axis is None or x.ndim == 0:
        yield x, wanted, answer, own
    else:
        count = max(1, _CHUNK * scale.size // max(x.size, 1))
        zeros = np.broadcast_to(zero, scale.shape)
        for start in range(0, scale.size, count):
            channels = slice(start, start + count)
            at = (*[slice(None)] * (axis % x.ndim), channels)
            grid = replace(own, scale=scale[channels], zero_point=zeros[channels])
            yield x[at], wanted[at], None if answer is None else answer[at], grid


def _noise(x: F32, wanted: F32, answer: F32 | None, quantizer: Quantizer) -> QuantizationNoise:
    free = replace(quantizer, qmin=-_UNBOUNDED, qmax=_UNBOUNDED)
    with np.errstate(over="ignore", invalid="ignore"):
        made = fake_quantize(x, quantizer)
        # the same level gives the same float: what differs was cut
        outside = made != fake_quantize(x, free)
        error = ((made if answer is None else answer) - wanted).astype(np.float64)
    error[~np.isfinite(error)] = 0.0
    np.square(error, out=error)
    noise = float(error.sum())
    clipping = float(error[outside].sum()) if outside.any() else 0.0
    signal = np.square(wanted, dtype=np.float64)
    return QuantizationNoise(
        max(noise - clipping, 0.0), clipping, float(signal[np.isfinite(signal)].sum())
    )
