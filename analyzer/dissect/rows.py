# SPDX-License-Identifier: Apache-2.0
"""One row taken apart: its quantizers by origin, what each does to its tensor, and to channels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analyzer.dissect.axes import channel_axis
from analyzer.dissect.looks import ChannelLook, Look, NoiseLook
from analyzer.graph.build import is_float
from analyzer.graph.suffix import Unit
from analyzer.graph.view import GraphView
from analyzer.quant.rounding import F64, QuantizationNoise, quantization_noise
from analyzer.records import Model, Quantizer

PARTS = ("weight", "input", "output", "bias")
CHANNEL_SHARE = 0.8  # of the local noise that the channels named carry
MOST_CHANNELS = 8
# Op types that multiply their inputs: what counts of an error is its ratio to the signal.
_MULTIPLYING = frozenset(
    """
    Attention Conv ConvTranspose Div Einsum Gemm GRU LSTM MatMul Mul MultiHeadAttention RNN
    """.split()
)
Nsr = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """A layer that is taken apart.

    Attributes:
        parts: origin -> its quantizers; origins in the order of `PARTS`, none without any.
        fixed: (quantizer, what it does to its constant).
        moving: one per other quantizer.
        channels: None where the layer's output has no channels.
    """

    layer: str
    multiplies: bool
    parts: Mapping[str, tuple[Quantizer, ...]]
    fixed: tuple[tuple[Quantizer, QuantizationNoise], ...]
    moving: tuple[NoiseLook, ...]
    channels: ChannelLook | None

    @property
    def looks(self) -> list[Look]:
        """What has to be shown samples."""
        found: list[Look] = [*self.moving]
        return found if self.channels is None else [*found, self.channels]

    @property
    def units(self) -> dict[str, Unit]:
        """Part -> what has to be probed for it; nothing where there is only one."""
        if len(self.parts) < 2:
            return {}
        return {p: Unit(f"{p} of {self.layer}", owned) for p, owned in self.parts.items()}


def row_of(model: Model, view: GraphView, layer: str, quantizers: Sequence[Quantizer]) -> Row:
    """Return one row, ready to be shown samples.

    Args:
        model: bound.
        view: of its graph.
        layer: a node of that graph.
        quantizers: all active ones of the layer, calibrated, at least one.
    """
    node = view.nodes[layer]
    parts = {p: tuple(q for q in quantizers if part_of(q) == p) for p in PARTS}
    fixed = [q for q in quantizers if view.is_constant(q.tensor)]
    return Row(
        layer,
        node.op_type in _MULTIPLYING,
        {p: owned for p, owned in parts.items() if owned},
        tuple((q, _of_constant(view, q)) for q in fixed),
        tuple(
            NoiseLook(q, node.input[0] if q.replaces_node else q.tensor)
            for q in quantizers
            if q not in fixed
        ),
        _channel_look(model, view, layer, quantizers),
    )


def part_of(quantizer: Quantizer) -> str:
    """Return the origin that a quantizer's noise is booked under, one of `PARTS`."""
    if quantizer.role in ("weight", "constant"):
        return "weight"
    if quantizer.role == "bias":
        return "bias"
    return "input" if quantizer.slot.startswith("in") else "output"


def parts_of(row: Row, nsrs: Mapping[str, Nsr]) -> dict[str, float]:
    """Return the shares of a row that was shown samples, see `LayerError.parts`.

    Args:
        row: its looks have seen samples.
        nsrs: part -> whole graph output -> NSR with that part alone; empty for a single part.

    Returns:
        no shares by origin where the noise is 0 or nowhere finite.
    """
    shares = _shares(nsrs) if len(row.parts) > 1 else dict.fromkeys(row.parts, 1.0)
    clipped = _clipped(row)
    weights = {p: shares[p] for p in clipped if shares.get(p, 0.0) > 0}
    found = dict(shares)
    if weights:
        clipping = math.fsum(weights[p] * clipped[p] for p in weights) / math.fsum(
            weights.values()
        )
        found |= {"rounding": 1.0 - clipping, "clipping": clipping}
    return found | {f"{p}_clipping": share for p, share in clipped.items()}


def channels_of(row: Row) -> tuple[tuple[int, float], ...]:
    """Return the channels with most of the local noise, see `LayerError.channels`."""
    if row.channels is None or row.channels.noise is None:
        return ()
    return worst_channels(row.channels.noise)


def worst_channels(noise: F64) -> tuple[tuple[int, float], ...]:
    """Return (channel, share), falling: as few as carry 80 % together, at most 8.

    Args:
        noise: power per channel.

    Returns:
        nothing where the sum is 0 or not finite.

    >>> worst_channels(np.array([1.0, 6.0, 0.0, 3.0]))
    ((1, 0.6), (3, 0.3))
    """
    total = float(noise.sum())
    if not (math.isfinite(total) and total > 0):
        return ()
    order = np.argsort(-noise, kind="stable")
    reached = np.cumsum(noise[order]) / total
    count = int(np.searchsorted(reached, CHANNEL_SHARE)) + 1
    return tuple((int(c), float(noise[c] / total)) for c in order[: min(count, MOST_CHANNELS)])


def _of_constant(view: GraphView, quantizer: Quantizer) -> QuantizationNoise:
    return quantization_noise(view.array(quantizer.tensor).astype(np.float32), quantizer)


def _channel_look(
    model: Model, view: GraphView, layer: str, quantizers: Sequence[Quantizer]
) -> ChannelLook | None:
    node = view.nodes[layer]
    axis = channel_axis(model, view, node)
    if axis is None:
        return None
    tensor = next(t for t in node.output if t and is_float(model, t))
    return ChannelLook(tensor, axis, quantizers)


def _shares(nsrs: Mapping[str, Nsr]) -> dict[str, float]:
    """Return every part's share of the sum; outputs where one is not finite do not count."""
    outputs = list(next(iter(nsrs.values()), {}))
    known = [t for t in outputs if all(math.isfinite(nsr[t]) for nsr in nsrs.values())]
    sums = {p: math.fsum(nsr[t] for t in known) for p, nsr in nsrs.items()}
    total = math.fsum(sums.values())
    return {p: found / total for p, found in sums.items()} if total > 0 else {}


def _clipped(row: Row) -> dict[str, float]:
    """Return the share of clipping in the noise of every part that has any."""
    noises = [*row.fixed, *((look.quantizer, look.noise) for look in row.moving)]
    shares = {}
    for part in row.parts:
        own = [noise for quantizer, noise in noises if part_of(quantizer) == part]
        units = [n.signal if row.multiplies else 1.0 for n in own]
        total = math.fsum(n.noise / unit for n, unit in zip(own, units, strict=True) if unit > 0)
        if total > 0:
            clipping = math.fsum(n.clipping / u for n, u in zip(own, units, strict=True) if u > 0)
            shares[part] = clipping / total
    return shares
