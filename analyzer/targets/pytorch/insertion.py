# SPDX-License-Identifier: Apache-2.0
"""Where FX puts observers: torch operators go in, taps on tensors come out.

`insert_observers_for_model` of `torch/ao/quantization/fx/prepare.py` (torch 2.13): the output of
a quantized operator is tapped for all readers; a float tensor is tapped before the quantized
operators that read it, once for each class of observer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from analyzer.records import Observer
from analyzer.targets.pytorch.operators import FIXED, Operator

FULL = "histogram_full"  # a HistogramObserver without reduce_range


@dataclass(eq=False, slots=True)
class Module:
    """One observer; several taps may hold it."""

    observer: Observer
    fixed: tuple[float, float] | None = None

    @property
    def kind(self) -> str:
        """Class of the observer, by which a second reader finds it."""
        return "fixed" if self.fixed else self.observer.removesuffix("_full")


@dataclass(eq=False, slots=True)
class Tap:
    """A place where a tensor goes through an observer.

    Attributes:
        places: (node, slot): the output it sits on, or the inputs that read from it.
    """

    tensor: str
    module: Module
    places: list[tuple[str, str]] = field(default_factory=list)


def insert(operators: Iterable[Operator], observer: Observer) -> list[Tap]:
    """Return the taps of `operators`, those of one tensor side by side.

    Args:
        operators: the quantized ones, in execution order.
        observer: of activations.
    """
    outputs: dict[str, Tap] = {}
    inputs: dict[str, list[Tap]] = {}
    for operator in operators:
        arrived = []
        for node, slot, tensor in operator.reads:
            tap = outputs.get(tensor)
            if tap is None:
                module = _module(operator, observer)
                taps = inputs.setdefault(tensor, [])
                tap = next((t for t in taps if t.module.kind == module.kind), None)
                if tap is None:
                    tap = Tap(tensor, module)
                    taps.append(tap)
                tap.places.append((node, slot))
            arrived.append(tap)
        made = Tap(operator.output, _module(operator, observer))
        made.places.append((operator.nodes[-1], "out0"))
        if operator.kind == "shared" and arrived:
            # taps are turned over one by one: what shared with them before keeps the old observer
            for tap in [*arrived[1:], made]:
                tap.module = arrived[0].module
        outputs[operator.output] = made
    return [*(tap for taps in inputs.values() for tap in taps), *outputs.values()]


def _module(operator: Operator, observer: Observer) -> Module:
    """Return a fresh observer as the qconfig of the operator makes it, for inputs too."""
    if operator.type in FIXED:
        return Module(observer, FIXED[operator.type])
    return Module(FULL if operator.type == "PRelu" else observer)
