# SPDX-License-Identifier: Apache-2.0
"""What an `Analysis` says, in sentences and lines that every report shares."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from analyzer.codes import CODES
from analyzer.records import (
    Analysis,
    DataInfo,
    Finding,
    Interaction,
    LayerError,
    OutputError,
    Proposal,
    TaskScore,
)
from analyzer.report import advice, ledger
from analyzer.report.tables import (
    cosine,
    decibel,
    number,
    percent,
    plural,
    printable,
    ratio,
    share,
    shorten,
    signed,
)

LOST = "lost: always 0"
ORIGINS = ("weight", "input", "output", "bias")  # where the noise of a row comes from
KINDS = ("rounding", "clipping")  # what makes it
_MOST_EVIDENCE = 3  # entries in one line; the page has all of them
_LONGEST = 48  # characters of a name among the evidence
_SLOTS = frozenset({"slot", "tensor"})  # which of a layer's quantizers: not what is wrong there
# words in the names of shares and power ratios
_OF_POWER = frozenset({"share", "nsr", "price", "noise", "power", "mass"})
# What one line says of a finding, where that is not what its evidence begins with.
_TELLING = {
    "QA101": ("range_ratio", "channel", "kurtosis"),
    "QA102": ("range_ratio", "usual", "reach"),
    "QA103": ("clipped_share", "end", "reach"),
    "QA105": ("range_ratio", "price_of_alignment", "narrowest"),
    "QA106": ("ratio", "nsr_of_small_part", "step"),
    "QA107": ("range_ratio", "channel"),
    "QA108": ("range_ratio", "channel", "below_one_step"),
    "QA109": ("used_share", "low", "high"),
    "QA111": ("norm", "norms", "quantizers", "local_nsr"),
    "QA112": ("share", "largest_level", "last_level"),
    "QA114": ("share_outside", "clipped_power", "range_over_calibration"),
}


def headline(analysis: Analysis) -> list[str]:
    """Say what was analysed: model, layers, target, data."""
    provenance, plan = analysis.provenance, analysis.plan
    layers = plural(len(analysis.layers), "layer")
    if plan.computing:
        layers += f" ({len(plan.computing):,} computing)"
    return [
        printable(str(provenance.model.get("name", "model"))),
        layers,
        printable(provenance.target),
        samples(provenance.data),
    ]


def samples(data: Sequence[DataInfo]) -> str:
    """Say how many samples stand behind the numbers, once if all roles use the same ones."""
    if not data:
        return "no data"
    if len({(info.count, info.sha256) for info in data}) == 1:
        return plural(data[0].count, "sample")
    return " + ".join(f"{info.count:,} {printable(info.role)}" for info in data) + " samples"


def verdict(analysis: Analysis) -> str:
    """Say in one line how bad it is, and whether the sources add up to it."""
    worst = analysis.worst_output
    name = printable(worst.name)
    several = sum(output.slice_of is None for output in analysis.outputs) > 1
    which = f"Worst output {name}" if several else f"Output {name}"
    text = f"{which}: NSR {percent(worst.nsr)}, SQNR {decibel(worst.sqnr_db)}; {balance(worst)}"
    gone = [printable(output.name) for output in analysis.outputs if output.lost]
    return f"{text}; always 0: {', '.join(gone)}" if gone else text


def balance(output: OutputError) -> str:
    """Hold the sum of the isolated errors against the accumulated error of an output."""
    if output.isolated_sum is None or output.additivity is None:
        return "isolated errors not measured"
    text = (
        f"isolated errors sum to {percent(output.isolated_sum)}, "
        f"additivity {ratio(output.additivity)}"
    )
    if ledger.is_additive(output):
        return text
    found = ledger.account(output)
    if found.effects:
        return f"{text} (they interact: with that, {share(found.explained)} is explained)"
    return f"{text} (far from 1: they do not add up)"


def answer(scores: Sequence[TaskScore]) -> str:
    """Say in one line how well the quantized model does the task; empty where nothing tells.

    Scores are what the FP32 model's answers give, or the labels; with labels the FP32 model's own
    score stands beside it.
    """
    kinds: dict[tuple[str, int], list[TaskScore]] = {}
    for score in scores:
        kinds.setdefault((score.against, score.samples), []).append(score)
    lines = []
    for (against, count), alike in kinds.items():
        words, last = [], ""
        for score in alike:
            first, _, rest = score.name.partition(" ")
            name = rest if rest and first == last else score.name
            own = "" if score.reference is None else f" (FP32 {value(score, score.reference)})"
            words.append(f"{printable(name)} {value(score, score.value)}{own}")
            last = first
        held = "FP32" if against == "fp32" else "labels"
        lines.append(f"{', '.join(words)} against {held} ({plural(count, 'sample')})")
    return "; ".join(lines)


def value(score: TaskScore, found: float) -> str:
    """Write a score with three decimals, a cosine with six."""
    return scored(score.name, found)


def scored(name: str, found: float | None) -> str:
    """Write the value of the score of that name."""
    if found is None or "cosine" in name.lower():
        return cosine(found)
    return f"{found:.3f}"


def title(finding: Finding) -> str:
    """Say what was found: the title of its code, or its advice where the code is not known."""
    known = CODES.get(finding.code)
    return known.title if known else finding.advice.rstrip(".")


def gain(finding: Finding) -> str:
    """Say what removing the cause was measured to bring; empty where nothing could be removed."""
    brought = finding.gain
    if brought is None or not math.isfinite(brought):
        return ""
    if brought >= 0.005:
        return f"{share(brought)} of the output noise goes without it"
    if brought > -0.005:
        return "without it the output noise stays as it is"
    return f"without it the output noise grows by {share(-brought)}"


def grouped(found: Sequence[Finding]) -> list[list[Finding]]:
    """Put together what is one entry of a report, in the order of the diagnosis.

    That is the largest gain first.  What could not be tried out is one entry per code, however
    many layers it was found at.
    """
    entries: list[list[Finding]] = []
    untried: dict[str, list[Finding]] = {}
    for finding in found:
        if finding.gain is not None:
            entries.append([finding])
        elif finding.code in untried:
            untried[finding.code].append(finding)
        else:
            entries.append(untried.setdefault(finding.code, [finding]))
    return entries


def findings(found: Sequence[Finding]) -> list[tuple[str, str]]:
    """Return code and one line for every entry."""
    places = Counter((finding.code, finding.layer) for finding in found)
    return [
        (entry[0].code, _line(entry, with_tensor=places[entry[0].code, entry[0].layer] > 1))
        for entry in grouped(found)
    ]


def _line(alike: Sequence[Finding], *, with_tensor: bool) -> str:
    first = alike[0]
    where = f" at {first.layer}" if first.layer else ""
    if with_tensor and (tensor := first.evidence.get("tensor") or first.evidence.get("slot")):
        where += f" ({shorten(printable(str(tensor)), _LONGEST)})"
    more = f" and {plural(len(alike) - 1, 'more layer')}" if len(alike) > 1 else ""
    numbers = [] if more else _telling(first)
    text = f"{title(first)}{where}{more}" + (f": {', '.join(numbers)}" if numbers else "")
    return printable(f"{text}; {gain(first)}" if gain(first) else text)


def _telling(finding: Finding) -> list[str]:
    """Return the evidence that has a place in one line."""
    keys = _TELLING.get(finding.code, tuple(k for k in finding.evidence if k not in _SLOTS))
    known = [key for key in keys if key in finding.evidence][:_MOST_EVIDENCE]
    return evidence({key: finding.evidence[key] for key in known}, _MOST_EVIDENCE)


def evidence(found: Mapping[str, Any], limit: int | None = None) -> list[str]:  # Any: JSON
    """Write the numbers and names behind a finding, each with what it is.

    Args:
        found: as the finding has it.
        limit: entries of a list to show, and a sign to cut long names; None: all of everything.
    """
    return [
        _item(key, item, limit)
        if key == "what"
        else f"{key.replace('_', ' ')} {_item(key, item, limit)}"
        for key, item in found.items()
    ]


def _item(key: str, item: Any, limit: int | None) -> str:  # Any: as JSON holds it
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, int):
        return f"{item:,}"
    if isinstance(item, float):
        return number(item) if _OF_POWER.isdisjoint(key.split("_")) else percent(item)
    if isinstance(item, Mapping):
        item = [f"{k} {_item(key, v, limit)}" for k, v in item.items()]
    if isinstance(item, list | tuple):
        shown = [_item(key, entry, limit) for entry in item[:limit]]
        return ", ".join(shown) + (", …" if len(item) > len(shown) else "")
    text = "none" if item is None else printable(str(item))
    return text if limit is None else shorten(text, _LONGEST)


def interaction(found: Interaction, titles: Mapping[str, str]) -> str:
    """Say what two sets of sources do to an output together, and what that is beyond each."""
    second = "everything else"
    if found.second is not None:
        second = titles.get(found.second, found.second)
    off = [titles.get(name, name) for name in found.without]
    without = f", {off[0]} switched off" if off else ""
    if len(off) > 1:
        without = f", {len(off)} others switched off"
    one, other = (percent(nsr) for nsr in found.alone)
    return printable(
        f"{titles.get(found.first, found.first)} and {second}{without}: alone {one} + {other}, "
        f"together {percent(found.together)}: {signed(found.effect)}"
    )


def mostly(layer: LayerError) -> str:
    """Say which part of a row's noise is the largest, and whether it is clipped; or nothing.

    >>> mostly(LayerError("a", "Conv", parts={"weight": 0.2, "input": 0.8, "clipping": 0.9}))
    'input 80 %, clipping 90 %'
    """
    origins = {k: layer.parts[k] for k in ORIGINS if k in layer.parts}
    kinds = {k: layer.parts[k] for k in KINDS if k in layer.parts}
    largest = [max(of.items(), key=lambda item: item[1]) for of in (origins, kinds) if of]
    return ", ".join(f"{name} {share(part)}" for name, part in largest)


def few(front: Sequence[Proposal], count: int) -> Sequence[Proposal]:
    """Return a few of many plans: the recommended one, and those that leave the least noise."""
    if len(front) <= count:
        return front
    by_noise = sorted(
        front, key=lambda p: (not p.recommended, not advice.is_free(p.costs), p.left)
    )
    kept = {id(p) for p in by_noise[:count]}
    return [p for p in front if id(p) in kept]
