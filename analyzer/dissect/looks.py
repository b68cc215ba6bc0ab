# SPDX-License-Identifier: Apache-2.0
"""Showing FP32 tensors to whoever wants to see them: a few runs serve all, memory is bounded.

Looks are bundled until their tensors of one sample reach a number of bytes; every bundle is a
session of its own that runs the model only as far as it has to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from analyzer.graph.session import release_unused
from analyzer.graph.tensors import TensorRuns, twin
from analyzer.graph.view import GraphView
from analyzer.quant.observers import Observer
from analyzer.quant.rounding import (
    F64,
    QuantizationNoise,
    noise_by_channel,
    quantization_noise,
)
from analyzer.records import Model, Quantizer, Sample

BUNDLE_BYTES = 48 << 20
# Any: an observed tensor may be of whatever type the model gives it
Values = Mapping[str, npt.NDArray[Any]]


class Look(Protocol):
    """Somebody who wants to see tensors.

    Attributes:
        tensors: not constants.
        twins: tensor -> quantizers of its layer, see `TensorRuns`.
        phases: how often all samples have to be shown.
    """

    tensors: tuple[str, ...]
    twins: Mapping[str, Sequence[Quantizer]]
    phases: int

    def see(self, values: Values, phase: int) -> None:
        """Take in one sample."""


class NoiseLook:
    """Adds up what a quantizer does to the FP32 values of its tensor.

    Args:
        quantizer: calibrated.
        source: tensor that it rounds, where that is not its own: it replaces a node.

    Attributes:
        noise: over all samples shown.
    """

    def __init__(self, quantizer: Quantizer, source: str) -> None:
        self.quantizer = quantizer
        self.source = source
        self.noise = QuantizationNoise()
        self.tensors = tuple(dict.fromkeys((source, quantizer.tensor)))
        self.twins: Mapping[str, Sequence[Quantizer]] = {}
        self.phases = 1

    def see(self, values: Values, phase: int) -> None:
        """Take in one sample."""
        wanted = values[self.quantizer.tensor]
        self.noise += quantization_noise(values[self.source], self.quantizer, wanted)


class ChannelLook:
    """Adds up the local noise of one layer by channels of the tensor it makes.

    Args:
        tensor: an output of the layer.
        axis: of its channels.
        quantizers: of the layer.

    Attributes:
        noise: sum of squared errors per channel; None before the first sample.
    """

    def __init__(self, tensor: str, axis: int, quantizers: Sequence[Quantizer]) -> None:
        self.tensor = tensor
        self.axis = axis
        self.noise: F64 | None = None
        self.tensors: tuple[str, ...] = (tensor,)
        self.twins: Mapping[str, Sequence[Quantizer]] = {tensor: quantizers}
        self.phases = 1

    def see(self, values: Values, phase: int) -> None:
        """Take in one sample."""
        found = noise_by_channel(values[twin(self.tensor)], values[self.tensor], self.axis)
        self.noise = found if self.noise is None else self.noise + found


class RangeLook:
    """Shows tensors to an observer.

    Args:
        shown: tensors in the order in which the observer is to see them in every run.
        constants: the values of those that are constant.
        observer: takes them in.

    Attributes:
        failed: one of them turned NaN: there is no range.
    """

    def __init__(self, shown: Sequence[str], constants: Values, observer: Observer) -> None:
        self.shown = shown
        self.constants = constants
        self.observer = observer
        self.failed = False
        self.tensors = tuple(t for t in shown if t not in constants)
        self.twins: Mapping[str, Sequence[Quantizer]] = {}
        self.phases = observer.phases

    def see(self, values: Values, phase: int) -> None:
        """Take in one sample."""
        for tensor in self.shown:
            x = self.constants[tensor] if tensor in self.constants else values[tensor]
            try:
                if not self.failed:
                    self.observer.update(x, phase)
            except ValueError:
                self.failed = True


def show(
    model: Model,
    looks: Sequence[Look],
    samples: Sequence[Sample],
    *,
    workers: int = 1,
    step: Callable[[int], None] = lambda n: None,
) -> None:
    """Show every look its tensors on every sample, in order, once per phase.

    Args:
        model: bound.
        looks: changed in place.
        samples: one run each.
        workers: threads that run bundles side by side.
        step: told the number of runs finished since the last call.
    """
    bundles = _bundles(model, looks)

    def one(bundle: Sequence[Look]) -> int:
        phases = max(look.phases for look in bundle)
        runs = TensorRuns(
            model,
            (t for look in bundle for t in look.tensors),
            twins={t: quantizers for look in bundle for t, quantizers in look.twins.items()},
        )
        for phase in range(phases):
            for sample in samples:
                values = runs.run(sample)
                for look in bundle:
                    if phase < look.phases:
                        look.see(values, phase)
                del values
        return phases * len(samples)

    with ThreadPoolExecutor(workers) as pool:
        for count in pool.map(one, bundles):
            step(count)
    release_unused()


def _bundles(model: Model, looks: Iterable[Look]) -> list[list[Look]]:
    """Put looks together that want few bytes in all, neighbours and equally many phases."""
    view = GraphView(model.proto.graph)
    places = {name: place for place, name in enumerate(view.nodes)}

    def place(look: Look) -> tuple[int, int]:
        makers = [places[view.producer[t]] for t in look.tensors if t in view.producer]
        return look.phases, max(makers, default=-1)

    bundles: list[list[Look]] = []
    held: set[str] = set()
    for look in sorted(looks, key=place):
        wanted = {*look.tensors, *map(twin, look.twins)}
        if (
            not bundles
            or bundles[-1][0].phases != look.phases
            or sum(_bytes(model, t) for t in held | wanted) > BUNDLE_BYTES
        ):
            bundles.append([])
            held = set()
        bundles[-1].append(look)
        held |= wanted
    return bundles


def _bytes(model: Model, tensor: str) -> int:
    tensor = tensor.removeprefix(twin(""))
    shape, dtype = model.shapes.get(tensor, ()), model.dtypes.get(tensor, "float32")
    return prod(shape) * np.dtype(dtype).itemsize
