# SPDX-License-Identifier: Apache-2.0
"""The balance as rows: an `Analysis` in; outputs, contributors, interactions and steps out.

What is a share of what is decided here, so that all reports agree on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from analyzer.records import ADDITIVE, Analysis, Interaction, OutputError, Source, loudness


@dataclass(frozen=True, slots=True)
class Contributor:
    """What one source does to one output.

    Attributes:
        title: how the source is called in reports.
        nsr: at the output, with nothing else quantized; None: not probed.
        share: of the isolated sum of that output; None where there is none.
    """

    source: Source
    title: str
    nsr: float | None
    share: float | None


@dataclass(frozen=True, slots=True)
class Account:
    """The balance of one output.

    Attributes:
        effects: what the interactions measured there add, or below 0 take away.
        explained: share of the accumulated error that the isolated sum and they make up.
        rest: of the accumulated error, that nothing explains.
    """

    output: OutputError
    effects: float | None
    explained: float | None
    rest: float | None


@dataclass(frozen=True, slots=True)
class Rise:
    """What one step along the graph does to one output.

    Attributes:
        place: number of the step.
        start, end: layers quantized before and after it.
        after, layer: last layer before the step (None at the input), last layer in it.
        before, now: NSR there.
    """

    place: int
    start: int
    end: int
    after: str | None
    layer: str
    before: float
    now: float

    @property
    def change(self) -> float:
        """NSR that comes, or below 0 goes, with this step."""
        return self.now - self.before


def in_families(outputs: Iterable[OutputError]) -> list[OutputError]:
    """Order outputs so that the slices of one stand behind it."""
    found = list(outputs)
    whole = {output.name for output in found if output.slice_of is None}
    ordered: list[OutputError] = []
    for output in found:
        if output.slice_of not in whole:
            ordered += [output, *(o for o in found if o.slice_of == output.name != o.name)]
    return ordered


def is_additive(output: OutputError) -> bool:
    """Say whether isolated errors may be read as shares of the total (also where unknown)."""
    return output.additivity is None or ADDITIVE[0] <= output.additivity <= ADDITIVE[1]


def account(output: OutputError) -> Account:
    """Hold what was measured at an output against its accumulated error."""
    known, total = output.explained, output.isolated_sum
    if known is None or not (math.isfinite(known) and math.isfinite(output.nsr)):
        return Account(output, None, None, None)
    return Account(
        output,
        None if total is None else known - total,
        known / output.nsr if output.nsr > 0 else None,
        output.nsr - known,
    )


def contributors(analysis: Analysis, output: str) -> list[Contributor]:
    """Return the sources by what they do to one output alone, the largest first."""
    if analysis.balance is None:
        return []
    types = {layer.name: layer.op_type for layer in analysis.layers}
    rows = [
        (source, source.by_output.get(output) if source.nsr is not None else None)
        for source in analysis.balance.sources
    ]
    total = sum(nsr for _, nsr in rows if nsr is not None)
    shared = math.isfinite(total) and total > 0
    found = [
        Contributor(source, title(source, types), nsr, nsr / total if shared and nsr is not None
                    else None)
        for source, nsr in rows
    ]  # fmt: skip
    return sorted(found, key=lambda c: _amount(c.nsr), reverse=True)


def _amount(nsr: float | None) -> float:
    return -math.inf if nsr is None else loudness(nsr)


def title(source: Source, op_types: dict[str, str]) -> str:
    """Call a source by what it is: a group by the layer that makes it one, where there is one."""
    if source.kind == "layer":
        return source.name
    name = source.name.rpartition(":")[0]
    if name not in source.layers:
        name = source.name
    what = f"{op_types[name]} group" if name in op_types and name in source.layers else "group"
    count = len(source.layers)
    return f"{what} {name} ({count} {'layer' if count == 1 else 'layers'})"


def interactions(analysis: Analysis, output: str) -> list[Interaction]:
    """Return what was measured at one output, the largest effect first."""
    every = analysis.balance.interactions if analysis.balance else ()
    found = [i for i in every if i.output == output]
    return sorted(found, key=lambda i: -loudness(abs(i.effect)))


def titles(analysis: Analysis) -> dict[str, str]:
    """Return name of a source -> how it is called in reports."""
    types = {layer.name: layer.op_type for layer in analysis.layers}
    found = analysis.balance.sources if analysis.balance else ()
    return {source.name: title(source, types) for source in found}


def rises(analysis: Analysis, output: str) -> list[Rise]:
    """Return what happens to one output along the graph, in the order of a run."""
    found: list[Rise] = []
    after, start, before = None, 0, 0.0
    for place, step in enumerate(analysis.balance.steps if analysis.balance else ()):
        now = step.by_output.get(output, math.nan)
        found.append(Rise(place, start, step.layers, after, step.layer, before, now))
        after, start, before = step.layer, step.layers, now
    return found


def largest(found: Iterable[Rise], count: int = 5) -> list[Rise]:
    """Return the steps that add most, the largest first; only those that add at all."""
    up = [rise for rise in found if math.isfinite(rise.change) and rise.change > 0]
    return sorted(up, key=lambda rise: -rise.change)[:count]
