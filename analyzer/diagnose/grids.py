# SPDX-License-Identifier: Apache-2.0
"""Grids as they would be without a cause of noise: a quantizer goes in, another one comes out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from analyzer.quant.fake import calibrated
from analyzer.records import Quantizer

F64 = npt.NDArray[np.float64]

FINER = 16
WIDE = 1 << 21  # levels on either side that float32 still counts exactly
_SLACK = 1.02  # a range that ends so little beyond a power of two keeps it


def is_power_of_two(quantizers: Iterable[Quantizer]) -> bool:
    """Tell whether all scales are powers of two; False where there are none."""
    scales = [q.scale for q in quantizers if q.scale is not None]
    return bool(scales) and all(np.all(np.frexp(s)[0] == 0.5) for s in scales)


def finer(quantizer: Quantizer) -> Quantizer:
    """Return the same range in steps of a sixteenth."""
    scale, zero = calibrated(quantizer)
    return replace(
        quantizer,
        scale=scale / FINER,
        zero_point=zero * FINER,
        qmin=quantizer.qmin * FINER,
        qmax=quantizer.qmax * FINER,
        stored=None,
    )


def wider(quantizer: Quantizer, low: float, high: float) -> Quantizer:
    """Return the same steps, as many as the values of a tensor need.

    Where noise has been added to a value before, it may lie beyond `low` and `high`: there is
    room for twice as much; but a quantizer that stands for a Relu or Clip goes on clipping there.
    """
    scale, zero = calibrated(quantizer)
    room = 1.0 if quantizer.replaces_node else 2.0
    bottom = np.floor(low * room / scale) + zero if low < 0 else np.array([quantizer.qmin])
    top = np.ceil(high * room / scale) + zero if high > 0 else np.array([quantizer.qmax])
    return replace(
        quantizer,
        qmin=int(max(-WIDE, min(quantizer.qmin, bottom.min()))),
        qmax=int(min(WIDE, max(quantizer.qmax, top.max()))),
        stored=None,
    )


def fitted(
    quantizer: Quantizer, low: F64, high: F64, *, power_of_two: bool
) -> tuple[F64, npt.NDArray[np.int64]]:
    """Return scales and zero points of as many levels over other ranges.

    Args:
        quantizer: symmetric ones stay so.
        low: one value, or one per channel.
        high: as `low`.
        power_of_two: the least power of two that covers the range.

    Returns:
        a scale of NaN where the range is empty.
    """
    levels = quantizer.qmax - quantizer.qmin
    if _centred(quantizer):
        scale = np.maximum(np.abs(low) / max(-quantizer.qmin, 1), np.abs(high) / quantizer.qmax)
    else:
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        scale = (high - low) / levels
    scale = np.where(scale > 0, scale, np.nan)
    if power_of_two:
        scale = 2.0 ** np.ceil(np.log2(scale / _SLACK))
    if _centred(quantizer):
        zero = np.broadcast_to(calibrated(quantizer)[1], scale.shape)
    else:
        steps = np.rint(quantizer.qmin - low / np.where(np.isnan(scale), 1.0, scale))
        zero = np.clip(steps, quantizer.qmin, quantizer.qmax)
    return scale, np.asarray(zero, np.int64)


def over(quantizer: Quantizer, low: float, high: float, *, power_of_two: bool) -> Quantizer:
    """Return as many levels between two values alone, whether zero is one of them or not."""
    levels = quantizer.qmax - quantizer.qmin
    step = (high - low) / levels
    if power_of_two:
        step = 2.0 ** float(np.ceil(np.log2(step / _SLACK)))
    first = int(np.rint(low / step))
    return replace(
        quantizer,
        scale=np.array([step]),
        zero_point=np.zeros(1, np.int64),
        qmin=first,
        qmax=first + levels,
        stored=None,
    )


def with_scales(
    quantizer: Quantizer, scale: F64, zero: npt.NDArray[np.int64], axis: int | None
) -> Quantizer:
    """Return the quantizer with other scales; its own where a scale is NaN.

    Args:
        quantizer: with one scale.
        scale: one value, or one per channel of `axis`.
        zero: shaped as `scale`.
        axis: None for one value.
    """
    own, own_zero = calibrated(quantizer)
    unknown = np.isnan(scale)
    return replace(
        quantizer,
        axis=axis if scale.size > 1 else None,
        scale=np.where(unknown, own, scale),
        zero_point=np.where(unknown, own_zero, zero).astype(np.int64),
        stored=None,
    )


def ends(quantizer: Quantizer) -> tuple[float, float]:
    """Return the lowest and the highest value of a grid with one scale."""
    scale, zero = (float(values.ravel()[0]) for values in calibrated(quantizer))
    return (quantizer.qmin - zero) * scale, (quantizer.qmax - zero) * scale


def _centred(quantizer: Quantizer) -> bool:
    """Tell whether the grid is the same on both sides of zero, or would be but for one level."""
    zero = calibrated(quantizer)[1]
    return quantizer.symmetric and bool(
        np.all(np.abs(quantizer.qmin + quantizer.qmax - 2 * zero) <= 1)
    )
