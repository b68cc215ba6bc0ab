# SPDX-License-Identifier: Apache-2.0
"""What makes a grid of activations coarse: channels, single values, an end that nothing reaches.

All of it is read off the FP32 values that the grid is for; how much it costs is tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from analyzer.diagnose.candidate import Candidate, Changes
from analyzer.diagnose.case import Case
from analyzer.diagnose.facts import Facts
from analyzer.diagnose.grids import ends, fitted, over, wider, with_scales
from analyzer.diagnose.sites import Site
from analyzer.quant.fake import calibrated

F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

FAR = 8.0  # times the usual range: three of eight bits are lost to everything else
NEAR = 4.0  # times the usual range: belongs to those that lie out
FEW = 8  # at most one channel in so many lies out
LEAST_CHANNELS = 4
MANY = 0.05  # of a channel's values: what must lie out for the channel to do so
CONSTANT = 1e-3  # of its magnitude: what a constant channel may vary by
LEAST_SEEN = 32  # values of a channel that must agree for it to be constant
FLAT = 0.5  # of the far end of a range: where its near end lies beyond that, zero is far off
UNUSED = 0.45  # of the grid, at one end
MUCH = 0.75  # of the step, at most, must be enough for the part that is used
APART = 0.03  # of the values, at most, lie beyond a gap
_NAMED = 4  # channels that a finding lists


def outlier_channels(case: Case) -> Iterator[Candidate]:
    """QA101: a few channels that reach much farther than all others, and do so throughout."""
    for site in case.sites:
        for tensor in site.tensors:
            facts = site.facts[tensor]
            out = lying_out(facts.spans)
            if out is None or not _throughout(facts, out):
                continue
            rest = float(np.median(facts.spans[facts.spans > 0]))
            evidence = {
                **_channels(facts.spans, out),
                "range_ratio": facts.reach / rest,
                "kurtosis": facts.kurtosis,
            }
            changes = _apart(case, site, NEAR * rest)
            yield _candidate(case, "QA101", site, tensor, evidence, changes)
            break


def constant_channels(case: Case) -> Iterator[Candidate]:
    """QA107: channels that always hold the same value, beyond the range of all that vary."""
    for site in case.sites:
        for tensor in site.tensors:
            facts = site.facts[tensor]
            still = _constant(facts)
            moving = float(facts.spans[~still].max()) if not still.all() else 0.0
            out = still & (facts.spans > NEAR * moving)
            if not moving or not out.any():
                continue
            evidence = {**_channels(facts.spans, out), "range_ratio": facts.reach / moving}
            # what varies has one scale, and it is that of its own range
            changes = _apart(case, site, 1.001 * moving)
            yield _candidate(case, "QA107", site, tensor, evidence, changes)
            break


def outlier_values(case: Case) -> Iterator[Candidate]:
    """QA102: a few values, not of certain channels, that reach much farther than all others."""
    for site in case.sites:
        tensor = max(site.tensors, key=lambda t: site.facts[t].reach)
        facts = site.facts[tensor]
        end = min(facts.reach, max(map(abs, ends(site.on(tensor)))))
        usual, out = _usual(facts), lying_out(facts.spans)
        if not usual or end < FAR * usual or (out is not None and _throughout(facts, out)):
            continue
        evidence = {
            "range_ratio": end / usual,
            "reach": facts.reach,
            "usual": usual,
            "share": float(np.mean(np.abs(facts.seen) > usual)),
            "kurtosis": facts.kurtosis,
        }
        changes = _in_usual_steps(case, site, usual)
        yield _candidate(case, "QA102", site, tensor, evidence, changes)


def shifted(case: Case) -> Iterator[Candidate]:
    """QA109: values that keep to one end of their grid, whose other half is never used."""
    for site in case.sites:
        quantizer = site.quantizers[0]
        below, above = ends(quantizer)
        low, high = _reach(site.facts[t] for t in site.tensors)
        if not (low > FLAT * high > 0 or high < FLAT * low < 0):
            # what is cut of them stays cut; values far from zero may all lie beyond the end
            low, high = max(low, below), min(high, above)
        near, far = sorted(max(0.0, end / (above - below)) for end in (low - below, above - high))
        if low >= high or far < UNUSED or near > far / 2:
            continue
        evidence = {
            "low": low,
            "high": high,
            "used_share": (high - low) / (above - below),
            "step": site.scale,
        }
        two = case.power_of_two
        changes: Changes = {q.key: over(q, low, high, power_of_two=two) for q in site.quantizers}
        if calibrated(over(quantizer, low, high, power_of_two=two))[0].item() < MUCH * site.scale:
            yield _candidate(case, "QA109", site, None, evidence, changes)


def lying_out(spans: F64) -> Mask | None:
    """Return which channels reach much farther than most, None where there are none or many."""
    live = spans[spans > 0]
    if live.size < LEAST_CHANNELS or not np.isfinite(live).all():
        return None
    usual = np.median(live)
    out: Mask = spans > NEAR * usual
    if spans.max() < FAR * usual or out.sum() > max(1, spans.size // FEW):
        return None
    return out


def _candidate(
    case: Case,
    code: str,
    site: Site,
    tensor: str | None,
    evidence: Mapping[str, Any],
    changes: Changes,
) -> Candidate:
    layer = site.layer(case.view, case.plan.layers, tensor)
    named = {"tensor": tensor or site.tensors[-1], **evidence}
    return Candidate(code, layer, named, changes, expected=site.share)


def _throughout(facts: Facts, out: Mask) -> bool:
    """Tell whether channels lie out with many of their values, not with single ones."""
    beyond = np.abs(facts.seen) > facts.spans[~out].max()
    own = out[facts.channel]
    return float(beyond[own].mean()) >= MANY if own.any() else True


def _constant(facts: Facts) -> Mask:
    if facts.counts < LEAST_SEEN:
        return np.zeros(facts.low.size, bool)
    return np.asarray(facts.high - facts.low <= CONSTANT * facts.spans)


def _channels(spans: F64, out: Mask) -> dict[str, Any]:
    order = [int(c) for c in np.argsort(-spans, kind="stable") if out[c]]
    return {
        "channel": order[0],
        "channels": order[:_NAMED],
        "channels_out": len(order),
        "of": spans.size,
        "reach": float(spans.max()),
    }


def _apart(case: Case, site: Site, border: float) -> Changes:
    """Give channels that reach beyond `border` scales of their own, all others one together."""
    rest = [
        facts.range if not (beyond := facts.spans > border).any() else _range(facts, ~beyond)
        for facts in (site.facts[t] for t in site.tensors)
    ]
    low, high = min(r[0] for r in rest), max(r[1] for r in rest)
    changes: Changes = {}
    for quantizer in site.quantizers:
        facts = site.facts[quantizer.tensor]
        beyond = facts.spans > border
        lows, highs = np.where(beyond, facts.low, low), np.where(beyond, facts.high, high)
        scale, zero = fitted(quantizer, lows, highs, power_of_two=case.power_of_two)
        keep = ~beyond & (scale > site.scale)
        scale = np.where(keep, np.nan, scale)
        changes[quantizer.key] = with_scales(quantizer, scale, zero, facts.axis)
    return changes


def _range(facts: Facts, which: Mask) -> tuple[float, float]:
    if not which.any():
        return 0.0, 0.0
    return float(facts.low[which].min()), float(facts.high[which].max())


def _usual(facts: Facts) -> float:
    """Return how far from zero all values lie but for a few.

    These are a thousandth, or somewhat more where a gap sets them apart (a small tensor has few
    values: a handful is more than a thousandth).
    """
    sizes = np.sort(np.abs(facts.seen))
    tail = sizes[int(sizes.size * (1 - APART)) :]
    if tail.size > 1 and tail[0] > 0:
        at = int(np.argmax(tail[1:] / tail[:-1]))
        if tail[at + 1] > NEAR * tail[at]:
            return float(tail[at])
    return facts.usual


def _in_usual_steps(case: Case, site: Site, usual: float) -> Changes:
    """Give the site the step of the usual range, and as many steps as the whole range has."""
    changes: Changes = {}
    low, high = _reach(site.facts[t] for t in site.tensors)
    for quantizer in site.quantizers:
        ends_ = np.array([max(low, -usual)]), np.array([min(high, usual)])
        scale, zero = fitted(quantizer, *ends_, power_of_two=case.power_of_two)
        changes[quantizer.key] = wider(with_scales(quantizer, scale, zero, None), low, high)
    return changes


def _reach(facts: Iterable[Facts]) -> tuple[float, float]:
    ranges = [f.range for f in facts]
    return min(r[0] for r in ranges), max(r[1] for r in ranges)
