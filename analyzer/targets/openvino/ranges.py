# SPDX-License-Identifier: Apache-2.0
"""Ranges into grids, as `quantization/fake_quantize.py` of NNCF 3.4 computes them.

A FakeQuantize is told by the ends of its range and a number of levels; 256 of them are an int8
grid, 255 one without -128.  A symmetric grid starts at zero where no negative value was seen.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from analyzer.quant.fake import broadcast
from analyzer.quant.observers import extremes

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_SMALLEST_SHARE = 0.01  # of the widest channel: dead channels get no finer grid
_SMALLEST_END = 8e-5
_SMALLEST_RANGE = 8e-4


def weight_grid(lo: F64, hi: F64, *, half: bool) -> tuple[F64, I64]:
    """Return the symmetric grid of weights per channel.

    Args:
        lo: smallest values.
        hi: largest values.
        half: only half of the levels are used, so that 16-bit sums of products do not overflow on
            CPUs without VNNI (`_calculate_scaled_parameters`).
    """
    reach = _filled(np.maximum(-lo, hi))
    # half: twice the range of 7 bits, spread over 255 levels
    scale = 4 * reach / 254 if half else reach / 127
    return scale, np.zeros(scale.shape, np.int64)


def half_range_weights(weights: F32, axis: int | None) -> F32:
    """Return weights on half a grid, rounded as OpenVINO's FakeQuantize does it in float32.

    `core/reference/include/openvino/reference/fake_quantize.hpp`; levels are counted from the
    lower end of the range.
    """
    lo, hi = extremes(weights, axis)
    reach = _filled(np.maximum(-lo, hi)).astype(np.float32)
    high = broadcast(2 * reach, axis, weights.ndim)
    width, steps = high + high, np.float32(254)
    levels = np.rint((weights + high) / width * steps)
    return np.asarray(levels / steps * width - high, np.float32)


def symmetric_grid(lo: F64, hi: F64) -> tuple[F64, I64]:
    """Return the grid of activations whose largest magnitude is `hi` (`symmetric_range`).

    One channel with a negative value makes all signed.
    """
    reach = _filled(hi)
    if np.any(lo < 0):
        return reach / 127, np.zeros(reach.shape, np.int64)
    return reach / 255, np.full(reach.shape, -128, np.int64)


def asymmetric_grid(lo: F64, hi: F64) -> tuple[F64, I64]:
    """Return the grid that covers `lo` to `hi` and has a level at zero (`tune_range`)."""
    narrow = hi - lo <= _SMALLEST_RANGE
    lo = np.minimum(np.where(narrow, lo - _SMALLEST_RANGE, lo), 0.0)
    hi = np.maximum(np.where(narrow, hi + _SMALLEST_RANGE, hi), 0.0)
    below = np.rint(-lo * 255 / (hi - lo))  # levels below zero
    with np.errstate(divide="ignore", invalid="ignore"):
        # one end moves outwards until zero is a level, the one that has less far to go
        lower = np.where(below < 255, below / (below - 255) * hi, lo)
        upper = np.where(below > 0, (below - 255) / below * lo, hi)
    move_lower = hi - lower > upper - lo
    lo, hi = np.where(move_lower, lower, lo), np.where(move_lower, hi, upper)
    scale = (hi - lo) / 255
    return scale, (-128 - np.rint(lo / scale)).astype(np.int64)


def _filled(reach: F64) -> F64:
    """Lift channels that hardly have a range (`fix_zero_filters_symmetric`)."""
    return np.maximum(reach, max(float(reach.max()) * _SMALLEST_SHARE, _SMALLEST_END))
