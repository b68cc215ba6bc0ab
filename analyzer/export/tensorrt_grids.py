# SPDX-License-Identifier: Apache-2.0
"""Grids that TensorRT can hold: quantizers of any plan go in, symmetric 8-bit ones come out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from analyzer.export.asked import several
from analyzer.export.flow import data_grid
from analyzer.graph.view import GraphView
from analyzer.quant.fake import calibrated
from analyzer.records import Model, Quantizer

F64 = npt.NDArray[np.float64]

_LARGEST = 127


@dataclass(slots=True)
class Fitted:
    """Quantizers for TensorRT.

    Attributes:
        quantizers: symmetric, int8, no biases.
        moved: tensors whose grid had to be changed: it was not symmetric.
        wide: tensors that stay in float, for they had more than 8 bits.
        floats: tensors of weights that stay in float, for what they are multiplied with does.
        biases: whether any was dropped.
    """

    quantizers: list[Quantizer] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    wide: list[str] = field(default_factory=list)
    floats: list[str] = field(default_factory=list)
    biases: bool = False
    half_up: bool = False

    def left_out(self) -> Iterator[str]:
        """Yield one sentence per thing that is not as it was measured."""
        if self.moved:
            yield (
                "Zero points: TensorRT has none. The grids of "
                f"{several(self.moved)} became symmetric ones over the same range, and are "
                "coarser than what was measured."
            )
        if self.wide:
            yield (
                f"16-bit integers: TensorRT has none. {several(self.wide)} stay in float; build "
                "with FP16, which has 11 bits of precision."
            )
        if self.floats:
            yield f"8-bit weights of layers whose data stay in float: {several(self.floats)}."
        if self.biases:
            yield "Quantized biases: TensorRT adds them in float."
        if self.half_up:
            yield "Rounding: TensorRT rounds halves to even; the plan was measured with half up."


def fitted(model: Model, quantizers: Iterable[Quantizer]) -> Fitted:
    """Fit quantizers to what TensorRT takes: int8, zero point 0, none on biases.

    Args:
        model: the graph they belong to.
        quantizers: calibrated.
    """
    view, found = GraphView(model.proto.graph), Fitted()
    weights: list[Quantizer] = []
    for quantizer in quantizers:
        if not quantizer.active:
            continue
        if quantizer.role == "bias":
            found.biases = True
        elif quantizer.bits > 8:
            found.wide.append(quantizer.tensor)
        else:
            found.half_up |= quantizer.rounding == "half_up"
            fit = _symmetric(view, quantizer)
            (weights if quantizer.role == "weight" else found.quantizers).append(fit)
            if not _same(quantizer, fit):
                found.moved.append(quantizer.tensor)
    placed = {q.key: q for q in found.quantizers}
    for quantizer in weights:
        other = 1 if quantizer.slot == "in0" else 0
        if data_grid(view, quantizer.node, other, placed):
            found.quantizers.append(quantizer)
        else:
            found.floats.append(quantizer.tensor)
    found.moved = list(dict.fromkeys(found.moved))
    kept = {q.tensor for q in found.quantizers}
    found.wide = [tensor for tensor in dict.fromkeys(found.wide) if tensor not in kept]
    return found


def amax(quantizer: Quantizer) -> F64:
    """Return the largest magnitude that lies on the grid, one value or one per channel."""
    scale, zero = calibrated(quantizer)
    low, high = (quantizer.qmin - zero) * scale, (quantizer.qmax - zero) * scale
    return np.asarray(np.maximum(np.abs(low), np.abs(high)), np.float64)


def symmetric_scale(quantizer: Quantizer) -> F64:
    """Return the scale of a symmetric int8 grid that covers what `quantizer` covers."""
    if _is_symmetric(quantizer):
        return calibrated(quantizer)[0]
    return amax(quantizer) / _LARGEST


def _symmetric(view: GraphView, quantizer: Quantizer) -> Quantizer:
    # a Relu that a quantizer stood in for is needed again: a symmetric grid goes below 0
    fit = replace(
        quantizer, signed=True, symmetric=True, qmin=-128, qmax=127, rounding="half_even",
        replaces_node=False,
    )  # fmt: skip
    if quantizer.rounding == "half_up" and view.is_constant(quantizer.tensor):
        fit = replace(fit, rounding="half_up")  # stored, so it can be as it was
    if _is_symmetric(quantizer):
        return fit
    scale = symmetric_scale(quantizer)
    return replace(fit, scale=scale, zero_point=np.zeros(scale.shape, np.int64), stored=None)


def _is_symmetric(quantizer: Quantizer) -> bool:
    return quantizer.qmin < 0 and not np.any(calibrated(quantizer)[1])


def _same(one: Quantizer, other: Quantizer) -> bool:
    return np.array_equal(calibrated(one)[0], calibrated(other)[0]) and _is_symmetric(one)
