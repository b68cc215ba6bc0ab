# SPDX-License-Identifier: Apache-2.0
"""What the tensors of the worst layers hold: a plan and a few samples in, histograms out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analyzer.dissect.axes import channel_axis
from analyzer.dissect.pairs import PairRuns, Place
from analyzer.dissect.tally import BINS, Tally
from analyzer.graph.build import is_float, quantized_constant
from analyzer.graph.session import release_unused
from analyzer.graph.view import GraphView, weight_output_axis
from analyzer.quant.metrics import nsr_of
from analyzer.records import Model, Quantizer, QuantPlan, Sample, TensorProfile

__all__ = ["BINS", "CHANNELS", "profiles"]

CHANNELS = 128  # entries of a profile at most
SAMPLES = 4  # at most: more of them do not look different
TENSORS = 6  # of a layer at most
BUNDLE_BYTES = 24 << 20  # of tensors that one session hands out
# Of a bias that is neither clipped nor noisy nothing is to be seen.
_QUIET = 1e-3
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class _Face:
    """A tensor at a slot of a layer, and the quantizer that makes what is seen there.

    Attributes:
        own: the quantizer is the layer's.
    """

    layer: str
    slot: str
    tensor: str
    quantizer: Quantizer
    own: bool
    tally: Tally

    @property
    def place(self) -> Place:
        return self.layer, self.slot


def profiles(
    model: Model,
    plan: QuantPlan,
    layers: Sequence[str],
    samples: Sequence[Sample],
    *,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
) -> tuple[TensorProfile, ...]:
    """Look into the tensors of some layers.

    Args:
        model: the graph that the plan belongs to.
        plan: calibrated.
        layers: the worst rows, the worst first; those without an active quantizer are left out.
        samples: a few representative ones; none: only constants are looked at.
        workers: threads that run side by side.
        step: told the number of runs finished since the last call.

    Returns:
        for every layer its tensors that are quantized there or arrive quantized, in the order of
        the slots: no integers, no single values, no bias that nothing happens to.
    """
    view = GraphView(model.proto.graph)
    few = samples[:SAMPLES]
    faces = {name: _faces(model, view, plan, name) for name in dict.fromkeys(layers)}
    moving = []
    for face in (face for found in faces.values() for face in found):
        if view.is_constant(face.tensor):
            values = view.array(face.tensor).astype(np.float32)
            made = quantized_constant(view, face.quantizer)
            face.tally.widen(values)
            face.tally.add(values, made.reshape(values.shape), alone=made.reshape(values.shape))
        else:
            moving.append(face)
    if few:
        _show(model, plan, moving, few, workers, step)
    found = [_several(view, faces[name], len(few)) for name in faces]
    return tuple(profile for of_layer in found for profile in of_layer)


def _faces(model: Model, view: GraphView, plan: QuantPlan, layer: str) -> list[_Face]:
    own = {q.slot: q for q in plan.quantizers if q.node == layer and q.active}
    if layer not in view.nodes or not own:
        return []
    node = view.nodes[layer]
    # what arrives is quantized where it is made
    behind = {q.tensor: q for q in plan.quantizers if q.active and q.slot.startswith("out")}
    slots = [(f"in{k}", tensor) for k, tensor in enumerate(node.input)]
    slots += [(f"out{k}", tensor) for k, tensor in enumerate(node.output)]
    found = []
    for slot, tensor in slots:
        quantizer = own.get(slot) or (behind.get(tensor) if slot.startswith("in") else None)
        if quantizer is None or not tensor or quantizer.scale is None:
            continue
        if not _is_worth_it(model, view, tensor):
            continue
        axis = _axis(model, view, layer, slot, tensor, quantizer)
        found.append(_Face(layer, slot, tensor, quantizer, slot in own, Tally(quantizer, axis)))
    return found


def _is_worth_it(model: Model, view: GraphView, tensor: str) -> bool:
    """Tell whether a tensor holds several float values."""
    if view.is_constant(tensor):
        array = view.array(tensor)
        return array.size > 1 and np.issubdtype(array.dtype, np.floating)
    return is_float(model, tensor) and math.prod(model.shapes[tensor]) > 1


def _axis(
    model: Model, view: GraphView, layer: str, slot: str, tensor: str, quantizer: Quantizer
) -> int | None:
    """Return the axis over channels: the quantizer's own, or what the makers know."""
    constant = view.is_constant(tensor)
    shape = view.initializers[tensor].dims if constant else model.shapes[tensor]
    rank = len(shape)
    axis: int | None
    if quantizer.axis is not None and quantizer.scale is not None and quantizer.scale.size > 1:
        axis = quantizer.axis
    elif constant:
        axis = weight_output_axis(view.nodes[layer], rank) if slot == "in1" else None
    elif slot.startswith("out"):
        axis = channel_axis(model, view, view.nodes[layer])
    elif tensor in view.producer:
        axis = channel_axis(model, view, view.nodes[view.producer[tensor]])
    else:
        axis = 1 if rank in (2, 4, 5) else rank - 1 if rank else None
    return axis if axis is not None and -rank <= axis < rank else None


def _show(
    model: Model,
    plan: QuantPlan,
    faces: Sequence[_Face],
    samples: Sequence[Sample],
    workers: int,
    step: Callable[[int], None],
) -> None:
    """Show all faces their tensors: first for the range, then for the counts."""

    def one(bundle: Sequence[_Face]) -> int:
        runs = PairRuns(model, plan, [face.place for face in bundle])
        # a single sample need not be run again
        passes: list[tuple[bool, bool]] = [(True, False), (False, True)]
        if len(samples) == 1:
            passes = [(True, True)]
        for widening, counting in passes:
            for sample in samples:
                values = runs.run(sample)
                for face in bundle:
                    plain, made = values[face.place]
                    if widening:
                        face.tally.widen(plain)
                    if counting:
                        face.tally.add(plain, made)
                del values
        return len(passes) * len(samples)

    with ThreadPoolExecutor(workers) as pool:
        for count in pool.map(one, _bundles(model, faces)):
            step(count)
    release_unused()


def _bundles(model: Model, faces: Iterable[_Face]) -> list[list[_Face]]:
    """Put neighbours together whose pairs hold few bytes in all."""
    order = {node.name: place for place, node in enumerate(model.proto.graph.node)}
    bundles: list[list[_Face]] = []
    held = 0
    for face in sorted(faces, key=lambda f: order[f.layer]):
        wanted = 8 * math.prod(model.shapes[face.tensor])
        if not bundles or held + wanted > BUNDLE_BYTES:
            bundles.append([])
            held = 0
        bundles[-1].append(face)
        held += wanted
    return bundles


def _several(view: GraphView, faces: Sequence[_Face], samples: int) -> list[TensorProfile]:
    """Return the profiles of one layer; of a layer that hands values on, one."""
    found: list[TensorProfile] = []
    for face in faces:
        if face.tally.empty or face.tally.bins is None:
            continue
        profile = _profile(face, 0 if view.is_constant(face.tensor) else samples)
        quiet = face.quantizer.role == "bias" and profile.clipped == 0
        if quiet and (profile.nsr or 0.0) < _QUIET:
            continue
        if any(_same(profile, other) for other in found):
            continue
        found.append(profile)
    if len(found) <= TENSORS:
        return found
    loudest = sorted(found, key=lambda p: (p.slot != "out0", -(p.nsr or 0.0)))[:TENSORS]
    return [profile for profile in found if profile in loudest]


def _same(one: TensorProfile, other: TensorProfile) -> bool:
    """Tell whether two tensors hold the same values on the same grid."""
    return (one.fp32, one.int8, one.range, one.limits, one.step) == (
        other.fp32, other.int8, other.range, other.limits, other.step
    )  # fmt: skip


def _profile(face: _Face, samples: int) -> TensorProfile:
    tally, bins = face.tally, face.tally.bins
    assert bins is not None
    channels = () if tally.axis is None else _channels(tally.low, tally.high, _per(tally.low))
    return TensorProfile(
        layer=face.layer,
        slot=face.slot,
        tensor=face.tensor,
        role=face.quantizer.role,
        low=_short(bins.low),
        high=_short(bins.high),
        fp32=_shares(tally.fp32),
        int8=_shares(tally.made),
        range=(_short(tally.range[0]), _short(tally.range[1])),
        limits=(_short(tally.limits[0]), _short(tally.limits[1])),
        step=_short(tally.step),
        clipped=_short(tally.clipped / tally.finite),
        axis=tally.axis,
        channels=channels,
        noise=() if tally.axis is None else _noise(tally.noise, tally.signal),
        per=_per(tally.low) if channels else 1,
        count=tally.low.size if channels else 0,
        samples=samples,
        bits=face.quantizer.bits,
        scales=1 if face.quantizer.scale is None else int(face.quantizer.scale.size),
        holder=None if face.own else face.quantizer.node,
        nsr=_short(_mean(tally.nsrs)),
        arriving=_short(_mean(tally.arriving)) if samples else None,
        not_finite=_short(1 - tally.finite / tally.elements),
    )


def _per(channels: npt.NDArray[np.float64]) -> int:
    return -(-channels.size // CHANNELS)


def _channels(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], per: int
) -> tuple[tuple[float, float], ...]:
    starts = np.arange(0, low.size, per)
    pairs = zip(np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts), strict=True)
    # a channel of which nothing is finite
    return tuple((_short(a), _short(b)) if a <= b else (0.0, 0.0) for a, b in pairs)


def _noise(noise: npt.NDArray[Any], signal: npt.NDArray[Any]) -> tuple[float, ...]:
    starts = np.arange(0, noise.size, _per(noise))
    sums = zip(np.add.reduceat(noise, starts), np.add.reduceat(signal, starts), strict=True)
    return tuple(_short(nsr_of(float(n), float(s))) for n, s in sums)


def _shares(counts: npt.NDArray[np.int64]) -> tuple[float, ...]:
    total = max(int(counts.sum()), 1)
    return tuple(_short(count / total) for count in counts.tolist())


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _short(value: float) -> float:
    """Keep as many digits as a picture can show."""
    return float(f"{value:.{_DIGITS}g}")
