# SPDX-License-Identifier: Apache-2.0
"""Proposals for reading: an `Analysis` in; plans to show, their changes and costs in words out.

What is cheaper, free or worst is decided here, so that all reports agree on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Literal

from analyzer.records import Analysis, Change, Cost, Proposal, loudness
from analyzer.report.tables import percent, plural, printable, remainder, shorten, signed

_NAME = 28  # characters of a layer's name in a line of changes
# Below this share of the noise, what a change brings is too small to be foretold as a ratio.
HEARD = 0.01
# Kinds of changes whose `after` says it all; of the others the kind is named too.
_TELLING = frozenset({"precision"})


def front(analysis: Analysis) -> list[Proposal]:
    """Return the plans that none is cheaper and better than, the cheapest first.

    The recommended one and the best at no cost are always among them.
    """
    wanted = {id(p) for p in (recommended(analysis), free(analysis)) if p is not None}
    every = not any(p.front for p in analysis.proposals)
    found = [p for p in analysis.proposals if every or p.front or id(p) in wanted]
    return sorted(found, key=lambda p: (price(analysis, p), -p.left))


def others(analysis: Analysis) -> list[Proposal]:
    """Return the plans that are not on the front, the least noise first."""
    shown = {id(p) for p in front(analysis)}
    return sorted((p for p in analysis.proposals if id(p) not in shown), key=lambda p: p.left)


def recommended(analysis: Analysis) -> Proposal | None:
    """Return the plan to write into the config, if there is one."""
    return next((p for p in analysis.proposals if p.recommended), None)


def free(analysis: Analysis) -> Proposal | None:
    """Return the plan that helps most at no cost, if any of them helps."""
    costless = [p for p in analysis.proposals if is_free(p.costs) and p.left < 1]
    return min(costless, key=lambda p: p.left, default=None)


def is_free(cost: Cost) -> bool:
    """Say whether a plan costs nothing at run time."""
    return cost.macs == 0 and cost.elements == 0 and cost.nodes == 0


def price(analysis: Analysis, plan: Proposal) -> float:
    """Return what a plan costs, in the unit of the budget: see `priced_in`."""
    return priced(analysis, plan.costs)


def priced(analysis: Analysis, costs: Cost) -> float:
    """Return costs in the unit of the budget: see `priced_in`."""
    if priced_in(analysis) == "milliseconds":
        return costs.milliseconds or 0.0
    return costs.macs


def priced_in(analysis: Analysis) -> Literal["milliseconds", "macs"]:
    """Return the field of `Cost` that the budget is about."""
    budget = analysis.provenance.config.get("budget")
    in_time = isinstance(budget, list | tuple) and "ms" in budget
    timed = all(p.costs.milliseconds is not None for p in analysis.proposals)
    return "milliseconds" if in_time and timed else "macs"


def worst(nsr: Mapping[str, float], analysis: Analysis) -> float | None:
    """Return the highest NSR at a whole output; None where none was measured."""
    slices = {output.name for output in analysis.outputs if output.slice_of is not None}
    found = [value for name, value in nsr.items() if name not in slices]
    return max(found, key=loudness, default=None)


def moved(before: float | None, after: float | None) -> str:
    """Write two NSRs with an arrow between."""
    return f"{percent(before)} → {percent(after)}"


def times(factor: float) -> str:
    """Write a multiple of a time.

    >>> times(1.0), times(1.034)
    ('1.00x', '1.03x')
    """
    return f"{factor:.2f}x"


def kind(change: Change) -> str:
    """Return what kind of change it is, in words."""
    return printable(change.kind.replace("_", " "))


def layers_of(change: Change) -> tuple[str, ...]:
    """Return the layers a change is about; none: all of them."""
    return change.layers or ((change.layer,) if change.layer else ())


def in_words(proposal: Proposal) -> str:
    """Say what a plan changes, changes of one kind together, in one line.

    >>> p = Proposal("p", True, (Change("calibration", "", "kl", "mse"),
    ...     Change("precision", "a", "int8", "int16", layers=("a", "b"))), 0.0, {}, {})
    >>> in_words(p)
    'calibration mse; int16 at a +1'
    """
    return "; ".join(steps(proposal)) or "nothing is changed"


def steps(proposal: Proposal) -> list[str]:
    """Say what a plan changes, one text for all changes of one kind."""
    alike: dict[str, list[str]] = {}
    for change in proposal.changes:
        places = layers_of(change)
        after = printable(change.after)
        if change.kind in _TELLING:
            what = after
        else:
            what = kind(change) if places else f"{kind(change)} {after}"
        alike.setdefault(what, []).extend(places)
    return [what + _at(places) for what, places in alike.items()]


def _at(places: Iterable[str]) -> str:
    found = list(dict.fromkeys(places))
    if not found:
        return ""
    more = f" +{len(found) - 1}" if len(found) > 1 else ""
    return f" at {shorten(printable(found[0]), _NAME)}{more}"


def costs(cost: Cost) -> list[str]:
    """Say what a plan costs, what it does not cost left out."""
    if is_free(cost) and cost.milliseconds is None:
        return ["no run-time cost"]
    found = {
        f"{percent(cost.macs)} of the MACs moved": cost.macs,
        f"{percent(cost.elements)} of the written elements moved": cost.elements,
        f"{signed(cost.weight_bytes)} weight bytes": cost.weight_bytes,
        f"{plural(cost.nodes, 'more node')}": cost.nodes,
        f"{times(cost.time)} the time": cost.time - 1,
    }
    words = [text for text, value in found.items() if abs(value) > 1e-9]
    if cost.milliseconds is not None:
        words.append(f"{cost.milliseconds:.3g} ms by your table")
    return words


def reason(proposal: Proposal) -> str:
    """Say in one line why a plan is recommended, and on how many samples it was measured."""
    count = f" ({plural(proposal.samples, 'sample')})" if proposal.samples else ""
    text = proposal.why.rstrip(".") or f"{remainder(proposal.left)} of the output noise is left"
    return printable(f"{proposal.name}: {text}{count}")


def brings(proposal: Proposal) -> str:
    """Say in one line what a plan changes and what is left of the noise with it."""
    return (
        f"{printable(proposal.name)}: {in_words(proposal)}; "
        f"{remainder(proposal.left)} of the output noise is left"
    )


def prediction_error(pairs: Iterable[tuple[float | None, float]]) -> tuple[float, int] | None:
    """Hold what was foretold to go of the noise against what went.

    Args:
        pairs: shares of the noise that are left: foretold (None: was not), and measured.

    Returns:
        the median of |foretold - measured| as a share of what went, and of how many; only where
        at least `HEARD` went or came.  None where there is nothing to hold.

    >>> prediction_error([(0.5, 0.6), (0.4, 0.5), (None, 0.1), (0.9, 0.999)])
    (0.225, 2)
    """
    errors = [
        abs(foretold - left) / abs(1 - left)
        for foretold, left in pairs
        if foretold is not None and math.isfinite(left) and abs(1 - left) >= HEARD
    ]
    return (round(median(errors), 12), len(errors)) if errors else None


def silence(analysis: Analysis) -> str:
    """Say why nothing is proposed; empty where something is, or an old file does not tell."""
    config = analysis.provenance.config
    if analysis.proposals:
        return ""
    if config.get("quantized"):
        return "Proposals are searched for a --target, not for a model that is quantized already."
    if analysis.attempts:
        tried = plural(len(analysis.attempts), "simulation")
        return f"Nothing is proposed: in {tried} nothing left clearly less noise."
    if "propose" not in config:
        return ""
    if not config["propose"]:
        return "Proposals were switched off with --no-propose."
    return "Nothing is proposed: there was nothing that is worth a try."
