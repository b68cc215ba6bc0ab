# SPDX-License-Identifier: Apache-2.0
"""What reports draw: how the layers hang together, and what single tensors look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from analyzer.records.plan import Role


@dataclass(frozen=True, slots=True)
class Network:
    """How the layers hang together; nodes that are no layers are left out, their paths are not.

    Layers are numbered as in `Analysis.layers`.

    Attributes:
        edges: (from, to): a value of one layer reaches the other without passing a third.
        inputs: graph input -> layers that its values reach so.
        outputs: graph output -> layers whose values reach it so.
    """

    edges: tuple[tuple[int, int], ...] = ()
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TensorProfile:
    """What one tensor of one of the worst layers holds, in FP32 and quantized.

    Activations are those of a few samples; quantized means: with everything quantized, as in the
    graphwise error.  Values that are no finite numbers are left out of everything but
    `not_finite`.

    Attributes:
        layer: name of the row.
        slot: where the tensor enters or leaves it: "in0" ... or "out0" ...
        low, high: ends of the histogram.
        fp32: share of the values in each of equally wide bins between them.
        int8: share of the quantized values in the same bins; below and above are in the end bins.
        range: smallest and largest FP32 value.
        limits: smallest and largest value that the grid can hold; of several scales the widest.
        step: distance of two levels, the widest of several scales.
        clipped: share of FP32 values beyond the limits (each beyond those of its own channel) by
            more than half a step.
        axis: of `channels`, None where the tensor has no channel axis.
        channels: smallest and largest FP32 value of each channel, in order; where there are too
            many of them, of groups of neighbouring ones (see `per`).
        noise: NSR that the grid alone makes of the FP32 values of each channel, or group.
        per: how many channels an entry of `channels` and `noise` stands for (the last may stand
            for fewer).
        count: how many channels there are.
        samples: how many the values come from; 0 for constants.
        bits: of the grid.
        scales: how many it has, 1 for a whole tensor.
        holder: layer whose quantizer it is, where the values arrive quantized; else None.
        nsr: that the grid alone makes of the FP32 values, mean over samples.
        arriving: NSR at the tensor with everything quantized, mean over samples; None: constant.
        not_finite: share of FP32 values that are NaN or infinite.
    """

    layer: str
    slot: str
    tensor: str
    role: Role
    low: float
    high: float
    fp32: tuple[float, ...]
    int8: tuple[float, ...]
    range: tuple[float, float]
    limits: tuple[float, float]
    step: float
    clipped: float
    axis: int | None = None
    channels: tuple[tuple[float, float], ...] = ()
    noise: tuple[float, ...] = ()
    per: int = 1
    count: int = 0
    samples: int = 0
    bits: int = 8
    scales: int = 1
    holder: str | None = None
    nsr: float | None = None
    arriving: float | None = None
    not_finite: float = 0.0
