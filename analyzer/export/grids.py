# SPDX-License-Identifier: Apache-2.0
"""Grids as integers of a type: which type holds one, and which levels its values stand on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from analyzer.quant.fake import calibrated
from analyzer.records import Quantizer

_ULPS = 3e-7  # relative: float32 products of the same numbers may differ by as much
_OFF_GRID = 1e-3  # of a step: some quantizers compute the values of their levels another way

# what a whole integer type covers
TYPES: dict[str, tuple[int, int]] = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
}


def container(quantizer: Quantizer) -> str | None:
    """Return the numpy name of the smallest integer type that holds all levels; None: none does.

    >>> q = Quantizer("n", "out0", "t", "activation", 7, signed=False, qmin=0, qmax=127)
    >>> container(q)
    'uint8'
    """
    signed = quantizer.signed or quantizer.qmin < 0
    for name in ("int8", "int16") if signed else ("uint8", "uint16"):
        low, high = TYPES[name]
        if low <= quantizer.qmin and quantizer.qmax <= high:
            return name
    return None


def levels_of(
    value: npt.NDArray[np.float32], quantizer: Quantizer
) -> npt.NDArray[np.int64] | None:
    """Return the levels that `value`, which lies on the grid, stands on; None: it does not."""
    scale, zero = calibrated(quantizer)
    shape = [1] * value.ndim
    if quantizer.axis is not None and scale.size > 1:
        shape[quantizer.axis] = scale.size
    step = scale.astype(np.float32).reshape(shape if scale.size > 1 else ())
    middle = zero.reshape(shape if zero.size > 1 else ())
    ratio = value.astype(np.float64) / step
    levels = np.rint(ratio) + middle
    inside = (quantizer.qmin <= levels) & (levels <= quantizer.qmax)
    # of 32-bit grids, float32 does not tell neighbours apart
    slack = np.maximum(_ULPS * np.abs(ratio) if quantizer.bits > 16 else 0.0, _OFF_GRID)
    near = np.abs(ratio - np.rint(ratio)) <= np.minimum(slack, 0.5)
    same = np.all(inside & near)
    return levels.astype(np.int64) if same else None


def grid_key(quantizer: Quantizer) -> bytes:
    """Return what two quantizers have in common that make the same of every value."""
    scale, zero = calibrated(quantizer)
    told = (quantizer.qmin, quantizer.qmax, quantizer.axis, container(quantizer))
    return repr(told).encode() + scale.astype(np.float32).tobytes() + zero.tobytes()
