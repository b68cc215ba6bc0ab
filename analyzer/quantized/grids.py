# SPDX-License-Identifier: Apache-2.0
"""One grid as a quantized ONNX file tells it: scale, zero point and range of levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from analyzer.errors import ModelError

Array = npt.NDArray[Any]  # Any: integers and floats of all widths
F32 = npt.NDArray[np.float32]

# ONNX element type -> bits, signed
INTEGERS: dict[int, tuple[int, bool]] = {
    onnx.TensorProto.INT4: (4, True),
    onnx.TensorProto.UINT4: (4, False),
    onnx.TensorProto.INT8: (8, True),
    onnx.TensorProto.UINT8: (8, False),
    onnx.TensorProto.INT16: (16, True),
    onnx.TensorProto.UINT16: (16, False),
    onnx.TensorProto.INT32: (32, True),
}


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Levels `qmin` to `qmax`, of which level q stands for `(q - zero_point) * scale`.

    Attributes:
        scale: float64 that float32 holds exactly, shape (1,) or one per channel.
        zero_point: int64, shaped as `scale`.
        axis: of the channels, as the file counts it (from the end where negative); None for one
            scale.
    """

    bits: int
    signed: bool
    qmin: int
    qmax: int
    scale: npt.NDArray[np.float64]
    zero_point: npt.NDArray[np.int64]
    axis: int | None = None

    def same(self, other: Grid | None) -> bool:
        """Tell whether the two hold the same values."""
        return (
            other is not None
            and (self.bits, self.signed, self.qmin, self.qmax)
            == (other.bits, other.signed, other.qmin, other.qmax)
            and self.same_scale(other)
        )

    def same_scale(self, other: Grid) -> bool:
        """Tell whether a level stands for the same value on both."""
        return (
            self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Tell whether a tensor of `shape` has a channel for every scale."""
        if self.axis is None:
            return True
        return -len(shape) <= self.axis < len(shape) and shape[self.axis] == self.scale.size

    def dequantize(self, levels: Array) -> F32:
        """Return what integer `levels` stand for, as onnxruntime's DequantizeLinear does."""
        steps = levels.astype(np.int64) - self._spread(self.zero_point, levels.ndim)
        scale = self._spread(self.scale.astype(np.float32), levels.ndim)
        return np.asarray(steps.astype(np.float32) * scale, np.float32)

    def round(self, x: F32) -> F32:
        """Return the values of the grid nearest to `x`, ties to even levels."""
        scale = self._spread(self.scale.astype(np.float32), x.ndim)
        zero = self._spread(self.zero_point, x.ndim)
        levels = np.rint((x / scale).astype(np.float64)) + zero
        return self.dequantize(np.clip(levels, self.qmin, self.qmax))

    def steps(self, rank: int) -> npt.NDArray[np.float64]:
        """Return the scale, shaped to broadcast over an array of `rank` axes."""
        return np.asarray(self._spread(self.scale, rank))

    def narrowed(self, lowest: int | None, highest: int | None) -> Grid:
        """Return the grid without the levels beyond the given ones."""
        low = self.qmin if lowest is None else max(self.qmin, lowest)
        high = self.qmax if highest is None else min(self.qmax, highest)
        return replace(self, qmin=low, qmax=high)

    def moved(self, shape: tuple[int, ...], move: Callable[[Array], Array]) -> Grid | None:
        """Return the grid of a tensor of `shape` after `move` has rearranged it.

        None where the scales then run along no single axis.
        """
        if self.axis is None:
            return self
        channels = self._spread(np.arange(self.scale.size, dtype=np.float32), len(shape))
        owner = move(np.broadcast_to(channels, shape).copy()).astype(np.int64)
        for axis in range(owner.ndim):
            first = np.moveaxis(owner, axis, 0).reshape(owner.shape[axis], -1)
            if first.size and np.array_equal(first, np.broadcast_to(first[:, :1], first.shape)):
                order = first[:, 0]
                return replace(
                    self, axis=axis, scale=self.scale[order], zero_point=self.zero_point[order]
                )
        return None

    def _spread(self, values: Array, rank: int) -> Array:
        if self.axis is None or rank == 0:
            return values.reshape(())
        shape = [1] * rank
        shape[self.axis] = values.size
        return values.reshape(shape)


def make_grid(
    scale: Array, zero_point: Array | None, data_type: int, axis: int | None, where: str
) -> Grid:
    """Build the grid that a scale and a zero point of a file mean.

    Args:
        scale: of one value, or one per channel.
        zero_point: None for 0.
        data_type: ONNX element type of the integers.
        axis: of the channels; left out where there is one scale.
        where: the node, for messages.

    Raises:
        ModelError: if they mean none.
    """
    if data_type not in INTEGERS:
        name = onnx.TensorProto.DataType.Name(data_type)
        raise ModelError(
            f"Node '{where}' quantizes to {name}, expected an integer type of 4, 8 or 16 bits "
            "(or 32 for a bias).",
            "Quantize the model to integers.",
        )
    bits, signed = INTEGERS[data_type]
    scale = np.asarray(scale, np.float32).astype(np.float64).reshape(-1)
    zero = np.zeros(1) if zero_point is None else np.asarray(zero_point).reshape(-1)
    zero = np.broadcast_to(zero, scale.shape) if zero.size == 1 else zero
    if zero.shape != scale.shape or not scale.size:
        raise ModelError(
            f"Node '{where}' has {scale.size} scales and {zero.size} zero points, "
            "expected as many.",
            "Quantize the model again.",
        )
    if not np.all(np.isfinite(scale)) or np.any(scale <= 0):
        raise ModelError(
            f"Node '{where}' has the scale {scale[~(scale > 0)][:1]}, expected positive numbers.",
            "Quantize the model again, with calibration data that reaches this node.",
        )
    qmin, qmax = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return Grid(
        bits=bits,
        signed=signed,
        qmin=qmin,
        qmax=qmax,
        scale=scale,
        zero_point=zero.astype(np.int64),
        axis=axis if scale.size > 1 else None,
    )
