# SPDX-License-Identifier: Apache-2.0
"""The places where noise is made: the worst sources of a balance go in, grids with facts come out.

A site is one grid, and all quantizers of a source that put values onto it: quantizers on the same
tensor, on tensors with the same values, or on those that must share a scale.  What is wrong with
the grid is wrong at all of them, and can only be taken away at all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from analyzer.diagnose.facts import Facts, look
from analyzer.graph.build import is_float
from analyzer.graph.view import GraphView
from analyzer.quant.fake import calibrated
from analyzer.records import Balance, Model, Quantizer, QuantPlan, Sample, Source

MOST = 24  # sources that are looked into
LEAST_SHARE = 0.01  # of all isolated noise
MOST_VALUES = 1 << 26  # of all tensors looked at: 256 MB in a run


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """One grid of activations.

    Attributes:
        share: of the isolated noise of all sources that the site's has; an upper bound where the
            source has other quantizers.
        quantizers: with one scale, all on the same grid, in the order of the plan.
        tensors: that they sit on, in execution order.
        facts: of those tensors, and of what joins put together to make them.
        price: of alignment, see `Source.alignment_price`, as a share of the source's noise.
    """

    source: str
    share: float
    quantizers: tuple[Quantizer, ...]
    tensors: tuple[str, ...]
    facts: Mapping[str, Facts]
    price: float | None = None

    @property
    def scale(self) -> float:
        """The step that all quantizers share."""
        return float(calibrated(self.quantizers[0])[0].item())

    def on(self, tensor: str) -> Quantizer:
        """Return a quantizer on `tensor`."""
        return next(q for q in self.quantizers if q.tensor == tensor)

    def joins(self, view: GraphView) -> tuple[onnx.NodeProto, ...]:
        """Return the nodes that put several tensors onto this grid, in execution order."""
        makers = [view.nodes[view.producer[t]] for t in self.tensors if t in view.producer]
        grid = set(self.tensors)
        return tuple(
            node
            for node in makers
            if node.output[0] in grid
            and (node.op_type == "Concat" or len(grid.intersection(node.input)) > 1)
        )

    def layer(self, view: GraphView, layers: Collection[str], tensor: str | None = None) -> str:
        """Return the layer to look at.

        Args:
            view: of the graph.
            layers: of the plan.
            tensor: the one that is to blame; None: the grid as a whole, which is that of what
                joins several tensors, or else of what makes the first one.
        """
        joins = () if tensor else self.joins(view)
        name = joins[-1].output[0] if joins else tensor or self.tensors[0]
        maker = view.producer.get(name)
        return maker if maker is not None and maker in layers else self.on(name).node


def sites_of(
    model: Model,
    view: GraphView,
    plan: QuantPlan,
    balance: Balance,
    samples: Sequence[Sample],
) -> tuple[Site, ...]:
    """Return the sites of the worst sources, the worst first.

    Args:
        model: bound.
        view: of its graph.
        plan: calibrated.
        balance: its sources measured.
        samples: a few.
    """
    by_key = {q.key: q for q in plan.quantizers}
    order = {t: i for i, t in enumerate([*view.inputs, *view.producer])}
    found = []
    for source, share in worst(balance):
        grids: dict[tuple[object, ...], list[Quantizer]] = {}
        for quantizer in (by_key[key] for key in source.quantizers):
            scale, zero = calibrated(quantizer)
            moving = not view.is_constant(quantizer.tensor) and is_float(model, quantizer.tensor)
            if moving and scale.size == 1 and np.isfinite(scale.item()):
                grid = scale.item(), zero.item(), quantizer.qmin, quantizer.qmax
                grids.setdefault(grid, []).append(quantizer)
        for members in grids.values():
            tensors = sorted({q.tensor for q in members}, key=order.__getitem__)
            price = source.alignment_price
            found.append(
                Site(
                    source.name,
                    share,
                    tuple(members),
                    tuple(tensors),
                    {},
                    price / source.nsr if price is not None and source.nsr else None,
                )
            )
    return _looked_at(model, view, found, samples)


def worst(balance: Balance) -> list[tuple[Source, float]]:
    """Return the sources with most of the noise, and their shares of all of it."""
    measured = [s for s in balance.sources if s.nsr]
    total = sum(s.nsr or 0.0 for s in measured if np.isfinite(s.nsr or 0.0))
    shares = [(s, (s.nsr or 0.0) / total if total else 1.0) for s in measured]
    shares.sort(key=lambda pair: -pair[1])
    return [(s, min(share, 1.0)) for s, share in shares[:MOST] if share >= LEAST_SHARE]


def _looked_at(
    model: Model, view: GraphView, sites: Sequence[Site], samples: Sequence[Sample]
) -> tuple[Site, ...]:
    wanted: dict[str, None] = {}
    kept: list[tuple[Site, tuple[str, ...]]] = []
    values = 0
    for site in sites:
        own = dict.fromkeys([*site.tensors, *_joined(model, view, site.tensors)])
        new = [t for t in own if t not in wanted]
        values += sum(prod(model.shapes[t]) for t in new)
        if values > MOST_VALUES and kept:
            break
        wanted.update(dict.fromkeys(new))
        kept.append((site, tuple(own)))
    facts = look(model, view, wanted, samples)
    return tuple(
        Site(s.source, s.share, s.quantizers, s.tensors, {t: facts[t] for t in own}, s.price)
        for s, own in kept
    )


def _joined(model: Model, view: GraphView, tensors: Sequence[str]) -> list[str]:
    """Return what Concats put together to make any of `tensors`."""
    nodes = [view.nodes[view.producer[t]] for t in tensors if t in view.producer]
    parts = [t for node in nodes if node.op_type == "Concat" for t in node.input if t]
    return [t for t in parts if not view.is_constant(t) and is_float(model, t)]
