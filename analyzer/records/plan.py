# SPDX-License-Identifier: Apache-2.0
"""What is quantized, where and how, and what a user may ask a target for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Rounding = Literal["half_even", "half_up"]
Granularity = Literal["channel", "tensor"]
Role = Literal["input", "weight", "bias", "activation", "constant"]
Observer = str  # name of a range observer: "minmax", "percentile", "kl" ... (see Target.observers)


@dataclass(frozen=True, slots=True)
class Quantizer:
    """One fake-quantization at one node slot.

    Attributes:
        node: layer name as the target's own tool prints it.
        slot: `in0`, `in1` ... or `out0` ...
        tensor: name of the tensor in the canonical graph.
        axis: channel axis of a per-channel quantizer, else None.
        scale: float64, one value, or one per channel; None before calibration.
        zero_point: int64, shaped as `scale`.
        group: name of the set of quantizers that share one scale, None when alone.
        active: False where the target leaves this slot to another quantizer (or in float).
        observer: how the range of an own scale is found; None where the scale is taken from
            elsewhere.
        follows: `(node, slot)` whose scale this one uses; None for an own scale.
        fixed_range: range the target sets without looking at data (a Softmax output, say).
        observes: tensors whose ranges are united into this quantizer's one (inputs of a Concat
            with a shared scale, say); empty: `tensor` alone.  A bias that names its layer's input
            here has the weight widened by that tensor's own range, whatever scale it follows.
        range: smallest and largest value seen while calibrating; None where the scale does not
            stand on data.
        stored: float32, what the quantizer made of a constant, where that is known and need not
            be the rounded one (a weight out of a quantized file, say).
        replaces_node: the quantizer drops the node that this one stands behind (a Relu, whose
            clipping is left to the grid): its input 0 is quantized in its place.
    """

    node: str
    slot: str
    tensor: str
    role: Role
    bits: int
    signed: bool = True
    symmetric: bool = True
    axis: int | None = None
    scale: npt.NDArray[np.float64] | None = None
    zero_point: npt.NDArray[np.int64] | None = None
    qmin: int = -128
    qmax: int = 127
    rounding: Rounding = "half_even"
    group: str | None = None
    active: bool = True
    observer: Observer | None = None
    follows: tuple[str, str] | None = None
    fixed_range: tuple[float, float] | None = None
    observes: tuple[str, ...] = ()
    range: tuple[float, float] | None = None
    # as large as the weights themselves, so not part of a saved analysis
    stored: npt.NDArray[np.float32] | None = field(default=None, metadata={"saved": False})
    replaces_node: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """(node, slot): unique within a plan."""
        return self.node, self.slot


EditKind = Literal["weight_split", "channel_split", "equalization", "smoothing", "bias_correction"]


@dataclass(frozen=True, slots=True)
class Edit:
    """A rewrite of the FP32 graph before it is quantized; what it computes stays as it is.

    (But for a bias correction, which moves FP32 biases to where the quantized ones should be.)

    Attributes:
        layers: that are rewritten, in this order.
        method: of a weight split: "balance".
        threshold: of a weight split: the weights above it are split.
        values: layer or tensor -> one number per channel: factors, shifts, or the numbers of
            channels, as the kind needs.
    """

    kind: EditKind
    layers: tuple[str, ...]
    method: str = ""
    threshold: float | None = None
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Setting:
    """What the user asks a target for; None leaves the choice to the target.

    Attributes:
        observer: range observer of activations.
        precision: of every layer that `table` does not name.
        table: layer -> precision, by the names the target prints (a dispatch table).
        granularity: of weights, "channel" or "tensor".
        ranges: tensor -> smallest and largest value its grid shall cover, instead of what the
            observer finds.
        edits: of the graph, before the target sees it, in this order.
    """

    observer: Observer | None = None
    precision: str | None = None
    table: Mapping[str, str] = field(default_factory=dict)
    granularity: Granularity | None = None
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True, slots=True)
class QuantPlan:
    """All quantizers of a model for a target, and the layers they belong to.

    Attributes:
        layers: names of the nodes that the target quantizes, in execution order.
        computing: the subset of `layers` whose op type multiplies and accumulates.
        precision: layer -> "int8", "int16", "fp32" ...
        default_precision: of the layers that the dispatch table did not name.
    """

    target: str
    layers: tuple[str, ...]
    computing: frozenset[str]
    precision: Mapping[str, str]
    quantizers: tuple[Quantizer, ...]
    notes: tuple[str, ...] = ()
    default_precision: str = "int8"
