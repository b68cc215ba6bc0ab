# SPDX-License-Identifier: Apache-2.0
"""The top of the page: an `Analysis` in; what hurts, why, what to change, before and after out."""

from __future__ import annotations

from dataclasses import dataclass

from analyzer.records import Analysis, Finding, Proposal, sqnr_db
from analyzer.report import advice, ledger, tables, wording

_MOST = 3  # layers to name
_HEARD = 0.05  # share of the noise from which a second or third one is named
_MAJOR = 0.25  # share of the noise from which a cause is a large one
_GONE = 0.005  # share of the noise whose going is worth a sentence
_SCORES = 3


@dataclass(frozen=True, slots=True)
class Culprit:
    """One of the things that hurt most.

    Attributes:
        title: of the source of noise, or the name of the layer.
        place: number of the row it is named after; None: of no row.
        others: numbers of the further rows that share it.
        amount: its share of the noise, or its own error where no share is known.
        width: of its bar in percent, None for no bar.
    """

    title: str
    place: int | None
    others: tuple[int, ...]
    amount: str
    width: str | None


@dataclass(frozen=True, slots=True)
class Cause:
    """The cause whose removal was measured to bring most.

    Attributes:
        place: number of the row where it was found; None: not in one layer.
        gain: in words; empty where it could not be tried out.
        is_minor: most of the noise stays without it.
        others: how many further findings there are.
    """

    code: str
    title: str
    layer: str
    place: int | None
    gain: str
    is_minor: bool
    others: int


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the large numbers.

    Attributes:
        href: of its definition.
        now: as it is.
        then: with the recommended plan; empty where there is none.
        note: what stands below it in small print.
    """

    title: str
    href: str
    now: str
    then: str = ""
    note: str = ""


def culprits(analysis: Analysis) -> list[Culprit]:
    """Return the one to three sources that make most of the noise at the worst output."""
    places = {layer.name: number for number, layer in enumerate(analysis.layers)}
    found = [
        row
        for row in ledger.contributors(analysis, analysis.worst_output.name)
        if row.share is not None and row.share > 0
    ]
    if not found:
        return _by_layer(analysis, places)
    loud = [row for row in found[:_MOST] if row is found[0] or (row.share or 0) >= _HEARD]
    return [_culprit(row, places) for row in loud]


def _culprit(row: ledger.Contributor, places: dict[str, int]) -> Culprit:
    found = [places[name] for name in row.source.layers if name in places]
    # a group is called by the slot of the layer that makes it one
    place = places.get(row.source.name.rpartition(":")[0], found[0] if found else None)
    return Culprit(
        row.title,
        place,
        tuple(number for number in found if number != place),
        tables.share(row.share),
        f"{100 * min(row.share or 0, 1):.1f}",
    )


def _by_layer(analysis: Analysis, places: dict[str, int]) -> list[Culprit]:
    """The worst rows, where no balance was made."""
    ranked = [layer for layer in tables.rank(analysis.layers) if layer.isolated_nsr]
    return [
        Culprit(layer.name, places[layer.name], (), tables.percent(layer.isolated_nsr), None)
        for layer in ranked[:_MOST]
    ]


def cause(analysis: Analysis) -> Cause | None:
    """Return the finding with the largest gain; else the first one; None without findings."""
    if not analysis.findings:
        return None
    first = max(analysis.findings, key=_gain)
    places = {layer.name: number for number, layer in enumerate(analysis.layers)}
    layer = first.layer or ""
    return Cause(
        code=first.code,
        title=wording.title(first),
        layer=layer,
        place=places.get(layer),
        gain=wording.gain(first) if _gain(first) >= _GONE else "",
        is_minor=_gain(first) < _MAJOR,
        others=len(analysis.findings) - 1,
    )


def _gain(finding: Finding) -> float:
    gain = finding.gain
    return gain if gain is not None and gain == gain else -1.0  # NaN is no gain


def figures(analysis: Analysis) -> list[Figure]:
    """Return what the worst output and the task have now, and with the recommended plan."""
    plan, worst = advice.recommended(analysis), analysis.worst_output
    whole = sum(output.slice_of is None for output in analysis.outputs)
    where = "worst output" if whole > 1 else "output"
    now, then = worst.nsr, None if plan is None else advice.worst(plan.outputs_after, analysis)
    if plan is not None:
        # Measured on the samples of the plan, so that both numbers stand on the same ones.
        before = advice.worst(plan.outputs_before, analysis)
        now = worst.nsr if before is None else before
    found = [
        Figure(f"NSR at the {where}", "nsr", tables.percent(now), _then(then)),
        Figure("SQNR", "sqnr", tables.decibel(_decibel(now)),
               "" if then is None else tables.decibel(_decibel(then))),
    ]  # fmt: skip
    if plan is None:
        found.append(Figure("Cosine", "cosine", tables.cosine(worst.cosine)))
    return [*found, *_scores(analysis, plan), _additivity(analysis)]


def _then(nsr: float | None) -> str:
    return "" if nsr is None else tables.percent(nsr)


def _decibel(nsr: float) -> float:
    return nsr if nsr != nsr else sqnr_db(nsr)  # NaN stays NaN


def _scores(analysis: Analysis, plan: Proposal | None) -> list[Figure]:
    found = []
    for score in analysis.task[:_SCORES]:
        now, then = score.value, None
        if plan is not None and score.name in plan.task_after:
            now, then = plan.task_before.get(score.name, now), plan.task_after[score.name]
        found.append(
            Figure(
                tables.printable(score.name),
                "agreement",
                wording.value(score, now),
                "" if then is None else wording.value(score, then),
                f"against {'the FP32 model' if score.against == 'fp32' else 'labels'}",
            )
        )
    return found


def _additivity(analysis: Analysis) -> Figure:
    worst = analysis.worst_output
    note = "" if ledger.is_additive(worst) else "far from 1: shares overlap"
    if worst.additivity is not None and not note:
        note = "near 1: shares add up"
    return Figure("Additivity", "additivity", tables.ratio(worst.additivity), "", note)


def basis(analysis: Analysis) -> str:
    """Say on which samples before and after were measured, where these are not all of them."""
    plan = advice.recommended(analysis)
    counts = [info.count for info in analysis.provenance.data if info.role == "analysis"]
    if plan is None or not plan.samples or not counts or counts[0] == plan.samples:
        return ""
    worst = analysis.worst_output
    return (
        f"Before and after were measured on the same {tables.plural(plan.samples, 'sample')}; on "
        f"all {counts[0]:,} the NSR is {tables.percent(worst.nsr)} now."
    )
