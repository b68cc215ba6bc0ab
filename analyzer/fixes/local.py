# SPDX-License-Identifier: Apache-2.0
"""Local noise of grids: tensors and samples go in, what rounding to a grid does to them comes out.

Histograms of every sample stand for the values, so that dozens of grids cost no more runs than
one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analyzer.graph.tensors import TensorRuns
from analyzer.quant.fake import calibrated, fake_quantize
from analyzer.quant.metrics import power
from analyzer.records import Model, Quantizer, Sample

# Bins of one tensor and sample: 32 for each step of an 8-bit grid over the whole range, which
# puts a value off by at most a 64th of the step.
BINS = 1 << 13


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """What one sample has in a tensor.

    Attributes:
        values: float32, middles of the bins that are not empty.
        counts: float64, how many values each stands for.
        power: sum of the squares of all values.
    """

    values: npt.NDArray[np.float32]
    counts: npt.NDArray[np.float64]
    power: float

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest value; 0 and 0 where there is none."""
        if not self.values.size:
            return 0.0, 0.0
        return float(self.values[0]), float(self.values[-1])


def spreads_of(
    model: Model, tensors: Iterable[str], samples: Sequence[Sample]
) -> dict[str, tuple[Spread, ...]]:
    """Run the FP32 model and describe some of its tensors, sample by sample.

    Args:
        model: bound.
        tensors: float, not constant.
        samples: a few.
    """
    runs = TensorRuns(model, tensors)
    found: dict[str, list[Spread]] = {t: [] for t in runs.tensors}
    for sample in samples:
        for tensor, value in runs.run(sample).items():
            found[tensor].append(spread_of(np.asarray(value, np.float32)))
    return {t: tuple(parts) for t, parts in found.items()}


def spread_of(x: npt.NDArray[np.float32]) -> Spread:
    """Describe one array; what is not finite does not count."""
    flat = x.ravel()
    low, high = (float(end) for end in (flat.min(), flat.max())) if flat.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        return spread_of(flat[np.isfinite(flat)])
    width = (high - low) / BINS
    if not width:
        few = flat[:1]
        return Spread(few, np.full(few.size, float(flat.size)), power(flat))
    index = ((flat - np.float32(low)) * np.float32(1 / width)).astype(np.int32)
    counts = np.bincount(np.clip(index, 0, BINS - 1), minlength=BINS)
    middles = low + (np.arange(BINS) + 0.5) * width
    # the ends are known exactly, and so is zero, of which a Relu leaves many
    middles[0], middles[-1] = low, high
    if low <= 0 <= high:
        middles[min(int(-low / width), BINS - 1)] = 0.0
    full = counts > 0
    return Spread(middles[full].astype(np.float32), counts[full].astype(np.float64), power(flat))


@dataclass(frozen=True, slots=True)
class Noise:
    """NSR of rounding to a grid, and of what lies beyond its ends."""

    rounding: float
    clipping: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.rounding + self.clipping


def noise_of(
    quantizers: Mapping[str, Quantizer], spreads: Mapping[str, Sequence[Spread]]
) -> Noise:
    """Return what grids do to their tensors, mean over samples, summed over tensors.

    Args:
        quantizers: tensor -> its quantizer, calibrated, with one scale.
        spreads: of these tensors; a sample without any signal does not count.
    """
    rounding = clipping = 0.0
    for tensor, quantizer in quantizers.items():
        parts = [_noise(quantizer, s) for s in spreads[tensor] if s.power > 0]
        for rounded, clipped in parts:
            rounding += rounded / len(parts)
            clipping += clipped / len(parts)
    return Noise(rounding, clipping)


def _noise(quantizer: Quantizer, spread: Spread) -> tuple[float, float]:
    off = fake_quantize(spread.values, quantizer).astype(np.float64) - spread.values
    noise = spread.counts * off * off
    scale, zero = (float(values.flat[0]) for values in calibrated(quantizer))
    low = (quantizer.qmin - zero - 0.5) * scale
    high = (quantizer.qmax - zero + 0.5) * scale
    beyond = (spread.values < low) | (spread.values > high)
    clipped = float(noise[beyond].sum())
    return (float(noise.sum()) - clipped) / spread.power, clipped / spread.power
