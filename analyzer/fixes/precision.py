# SPDX-License-Identifier: Apache-2.0
"""More bits, or float, for some layers: closed over those that write with one scale.

A layer whose output shares its scale with others (at an Add or a Concat) is moved together with
them: left behind, an 8-bit layer would write with the steps of a 16-bit one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from analyzer.fixes.remedy import Remedy
from analyzer.fixes.situation import Situation
from analyzer.graph.view import GraphView
from analyzer.records import QuantPlan
from analyzer.targets.base import Target

MOST = 160  # candidates: every one is simulated
_TOO_SLOW = 12.0  # times the default precision: float on a chip that has no float unit to speak of


def precision_remedies(situation: Situation) -> Sequence[Remedy]:
    """Return one remedy per set of layers and wider precision, the loudest layers first."""
    plan, target = situation.plan, situation.target
    loudness = _loudness(situation)
    together = classes(plan)
    found: dict[tuple[str, tuple[str, ...]], Remedy] = {}
    for precision in wider(target, plan.default_precision):
        for layers in _sets(situation, together):
            open_ = tuple(n for n in layers if plan.precision.get(n) == plan.default_precision)
            if not open_:
                continue
            found[precision, open_] = Remedy(
                kind="precision",
                layers=open_,
                before=plan.default_precision,
                after=precision,
                table=dict.fromkeys(open_, precision),
                expected=sum(loudness.get(name, 0.0) for name in open_),
            )
    ranked = sorted(found.values(), key=lambda r: -(r.expected or 0.0))
    return ranked[:MOST]


def wider(target: Target, default: str) -> tuple[str, ...]:
    """Return the precisions a layer may be moved to, the cheapest first; two at most."""
    own, bits = target.cost_factors.get(default, 1.0), bits_of(default)
    slower = {p: f / own for p, f in target.cost_factors.items() if p in target.precisions}
    fit = [p for p, factor in slower.items() if bits_of(p) > bits and factor < _TOO_SLOW]
    return tuple(sorted(fit, key=lambda p: (slower[p], bits_of(p)))[:2])


def bits_of(precision: str) -> int:
    """Return how wide a precision is by its name: its largest number ("w8a16": 16).

    >>> bits_of("w8a16"), bits_of("fp32")
    (16, 32)
    """
    return max((int(n) for n in re.findall(r"\d+", precision)), default=8)


def classes(plan: QuantPlan) -> dict[str, tuple[str, ...]]:
    """Return layer -> all layers whose outputs have one scale with its own, itself among them."""
    head: dict[str, str] = {}

    def find(name: str) -> str:
        while head.setdefault(name, name) != name:
            name = head[name]
        return name

    for quantizer in plan.quantizers:
        if quantizer.active and quantizer.slot.startswith("out") and quantizer.follows:
            head[find(quantizer.node)] = find(quantizer.follows[0])
    members: dict[str, list[str]] = {}
    for layer in plan.layers:
        members.setdefault(find(layer), []).append(layer)
    return {layer: tuple(members[find(layer)]) for layer in plan.layers}


def _sets(situation: Situation, together: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Yield sets of layers: closed ones, those with what stands behind them, and sources."""
    order = {name: position for position, name in enumerate(situation.plan.layers)}

    def closed(names: Iterable[str]) -> tuple[str, ...]:
        found = {other for name in names for other in together.get(name, ())}
        return tuple(sorted(found, key=order.__getitem__))

    for layer in situation.plan.layers:
        yield closed([layer])
    for layer in (n for n in situation.plan.layers if n in situation.plan.computing):
        behind = _only_reader(situation.view, layer)
        if behind in together:
            yield closed([layer, behind])
    for source in situation.balance.sources:
        if source.nsr and len(source.layers) > 1:
            yield closed(source.layers)


def _only_reader(view: GraphView, layer: str) -> str:
    """Return the only node that reads the first output of `layer`, "" if there are more."""
    node = view.nodes.get(layer)
    readers = set(view.consumers.get(node.output[0], ())) if node is not None else set()
    return readers.pop() if len(readers) == 1 else ""


def _loudness(situation: Situation) -> dict[str, float]:
    """Return layer -> its share of the noise: its rows' own, and of the sources it is part of."""
    total = sum(s.nsr or 0.0 for s in situation.balance.sources) or 1.0
    found: dict[str, float] = {}
    for source in situation.balance.sources:
        for layer in source.layers:
            found[layer] = found.get(layer, 0.0) + (source.nsr or 0.0) / total
    for row in situation.rows:
        own = (row.isolated_nsr or row.local_nsr or 0.0) / total
        found[row.name] = max(found.get(row.name, 0.0), own)
    return found
