# SPDX-License-Identifier: Apache-2.0
"""What every exported file says first: what was measured, and what the format cannot say."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from analyzer.export.order import Order
from analyzer.formats import TOOLS
from analyzer.records import Change, Cost

_WIDTH = 99
_NOTABLE = 0.005  # of a time: less is not shown
_MOST_LAYERS = 12  # of one change; names.csv has all of them


def header(
    order: Order, comment: str = "#", left_out: Sequence[str] = (), *, tool: str = ""
) -> str:
    """Return comment lines, with a newline at the end.

    Args:
        order: what is exported.
        comment: starts every line.
        left_out: one sentence per thing the format cannot express.
        tool: name of the format (a key of `TOOLS`), which says whether the rules that were
            measured are this tool's.
    """
    inner = _WIDTH - len(comment) - 1
    pieces = [p for line in lines(order, left_out, tool=tool) for p in wrapped(line, inner)]
    return "".join(f"{comment} {piece}".rstrip() + "\n" for piece in pieces)


def lines(order: Order, left_out: Sequence[str] = (), *, tool: str = "") -> list[str]:
    """Return what `header` says, as lines without a comment sign (for JSON, say).

    Args:
        order: as `header` takes it.
        left_out: as `header` takes it.
        tool: as `header` takes it.
    """
    said = [*_provenance(order), *_measured(order), *_changes(order.proposal.changes)]
    if tool and order.target.name not in TOOLS[tool].targets:
        said.append(
            f"Measured with the rules of {order.target.name}, not with those of "
            f"{TOOLS[tool].title}: check the result there."
        )
    if left_out:
        said += ["Not expressed here:", *(f"  {plain(sentence)}" for sentence in left_out)]
    return said


def percent(nsr: float) -> str:
    """Write a power ratio as a percentage, as the reports do.

    >>> [percent(x) for x in (0.031, 0.000042, 12.3456, 0.0)]
    ['3.10 %', '0.0042 %', '1235 %', '0 %']
    """
    value = 100 * nsr
    if not math.isfinite(value):
        return f"{nsr}"
    if value == 0:
        return "0 %"
    if 99.95 <= value < 1e6:
        return f"{value:.0f} %"
    return f"{value:#.3g} %" if value >= 0.01 else f"{value:#.2g} %"


def plain(text: str) -> str:
    r"""Write a text of the user's model on one line: nothing in it may end a comment.

    >>> plain("conv" + chr(10) + "import os")
    'conv\\nimport os'
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii")
        for c in text
    )


def wrapped(line: str, width: int = _WIDTH) -> list[str]:
    """Break a line between words, but not before a digest; what follows is indented."""
    if ", sha256 " in line:
        return [line]
    margin = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(
        line,
        width,
        subsequent_indent=f"{margin}  ",
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]


def _provenance(order: Order) -> Iterator[str]:
    found = order.analysis.provenance
    name, sha = (str(found.model.get(key, "")) for key in ("name", "sha256"))
    yield f"qanalyze {found.tool_version}, {plain(order.proposal.name)}"
    yield f"model: {plain(name or order.source.name)}, sha256 {sha or order.source.sha256}"
    yield f"target: {found.target}"
    for data in found.data:
        count = f"{data.count} of {data.available}" if data.available else str(data.count)
        yield f"{plain(data.role)}: {count} samples, sha256 {data.sha256}"


def _measured(order: Order) -> Iterator[str]:
    proposal = order.proposal
    samples = "" if not proposal.samples else f" on {_count(proposal.samples, 'sample')}"
    yield f"measured{samples}, simulated with the target's rules, without the plan -> with it:"
    for name, before, after in _pairs(proposal.outputs_before, proposal.outputs_after):
        yield f"  noise (NSR) of output {plain(name)}: {_nsr(before)} -> {_nsr(after)}"
    for name, before, after in _pairs(proposal.task_before, proposal.task_after):
        yield f"  {plain(name)}: {_score(before)} -> {_score(after)}"
    yield f"cost: {_cost(proposal.costs, proposal.cost)}"


def _changes(changes: Sequence[Change]) -> Iterator[str]:
    yield "the plan changes:" if changes else "the plan changes nothing: the target's defaults."
    for change in changes:
        named = change.layers or ((change.layer,) if change.layer else ())
        more = len(named) - _MOST_LAYERS
        shown = [plain(name) for name in named[:_MOST_LAYERS]]
        where = ", ".join(shown) + (f" and {more} more (see names.csv)" if more > 0 else "")
        kind = change.kind.replace("_", " ")
        yield f"  {kind}, {where or 'everywhere'}: {plain(change.before)} -> {plain(change.after)}"


def _cost(costs: Cost, moved: float) -> str:
    said = [f"{percent(costs.macs or moved)} of all MACs in more than 8 bits or float"]
    if costs.weight_bytes:
        said.append(f"weights {100 * costs.weight_bytes:+.1f} %")
    if costs.nodes:
        said.append(f"{_count(costs.nodes, 'node')} added")
    if costs.milliseconds is not None:
        said.append(f"{costs.milliseconds:.3g} ms by your table")
    elif abs(costs.time - 1) >= _NOTABLE:
        said.append(f"time {costs.time:.2f} times of what it was, by rough factors")
    return ", ".join(said)


def _pairs(
    before: Mapping[str, float], after: Mapping[str, float]
) -> Iterator[tuple[str, float | None, float | None]]:
    for name in dict.fromkeys([*before, *after]):
        yield name, before.get(name), after.get(name)


def _nsr(value: float | None) -> str:
    return "not measured" if value is None else percent(value)


def _score(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
