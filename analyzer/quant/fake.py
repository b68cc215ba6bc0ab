# SPDX-License-Identifier: Apache-2.0
"""Fake-quantization of arrays: float32 in, float32 on the quantizer's grid out."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from analyzer.records import Quantizer

F32 = npt.NDArray[np.float32]


def calibrated(
    quantizer: Quantizer,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return scale and zero point of a calibrated quantizer.

    Raises:
        ValueError: if it has none yet.
    """
    if quantizer.scale is None or quantizer.zero_point is None:
        raise ValueError(f"Quantizer {quantizer.key} has no scale yet.")
    return quantizer.scale, quantizer.zero_point


def broadcast(values: npt.NDArray[Any], axis: int | None, rank: int) -> npt.NDArray[Any]:
    """Shape per-channel `values` so that they broadcast along `axis` of a rank-`rank` array.

    A scalar (a Gemm bias may be one) takes on one value per channel.
    """
    if values.size == 1:
        return values.reshape(())
    if axis is None or rank == 0:
        return values.reshape(-1)
    shape = [1] * rank
    shape[axis] = values.size
    return values.reshape(shape)


def fake_quantize(x: F32, quantizer: Quantizer) -> F32:
    """Round `x` to the quantizer's grid: `(clip(round(x / scale) + zp, qmin, qmax) - zp) * scale`.

    Args:
        x: float32 of any shape; not modified.
        quantizer: calibrated; per-channel scales run along its `axis`.

    The division and the final product are float32, as in onnxruntime's QuantizeLinear and in
    esp-ppq (`quantization/qfunction/linear.py`); 32-bit biases are divided in float64, as
    `quantize_bias_static_impl` of onnxruntime does.  NaN stays NaN.  Half-up rounding is
    `floor(x / scale + 0.5)` with the addition in float32.

    >>> q = Quantizer("c", "in1", "w", "weight", 8, scale=np.array([0.5]),
    ...               zero_point=np.array([0]))
    >>> fake_quantize(np.float32([0.25, 0.75, 100.0]), q).tolist()
    [0.0, 1.0, 63.5]
    """
    step, zero_point = calibrated(quantizer)
    scale = broadcast(step.astype(np.float32), quantizer.axis, x.ndim)
    zero = broadcast(zero_point.astype(np.float32), quantizer.axis, x.ndim)
    wide = quantizer.bits > 16
    if quantizer.rounding == "half_up":
        steps = np.floor(x / scale + np.float32(0.5))
    else:
        # biases are divided in float64 by all who round them half to even
        steps = np.rint(np.divide(x, scale, dtype=np.float64 if wide else np.float32))
    if wide:
        # a float32 holds no 32-bit grid: clip in float64 so that the bounds are exact
        levels = np.clip(steps.astype(np.float64), quantizer.qmin, quantizer.qmax)
        return np.asarray(levels.astype(np.float32) * scale, dtype=np.float32)
    levels = np.clip(steps + zero, np.float32(quantizer.qmin), np.float32(quantizer.qmax))
    return np.asarray((levels - zero) * scale, dtype=np.float32)
