# SPDX-License-Identifier: Apache-2.0
"""The diagnose stage: measured rows go in, causes come out, each tried by removing it.

Rules look at numbers and propose causes; a cause is taken out of the fully quantized model
(exactly that: everything else stays as it is), the model is run again, and what share of the
noise at the outputs has gone is the finding's gain.  What brings nothing is not a cause.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from analyzer.codes import CODES
from analyzer.diagnose.candidate import Candidate
from analyzer.diagnose.case import Case
from analyzer.diagnose.choice import Tried, told
from analyzer.diagnose.rules import RULES
from analyzer.graph.build import slots_by_node
from analyzer.graph.suffix import altered
from analyzer.graph.trials import Nsr, mean_nsr, run_trials
from analyzer.records import Finding

LEAST_GAIN = 0.01
MOST_LOST = 0.25  # of what a cause's removal gains on some samples, on others
MOST_TRIALS = 20  # of causes with an expected gain


def diagnose(
    case: Case, *, workers: int = 1, step: Callable[[int], None] = lambda n: None
) -> tuple[Finding, ...]:
    """Return what is wrong, the largest gain first, then what cannot be tried.

    Args:
        case: one measured plan.
        workers: threads that run trials side by side.
        step: told the number of trials finished since the last call.
    """
    with ThreadPoolExecutor(workers) as pool:
        suspected = [c for found in pool.map(lambda rule: list(rule(case)), RULES) for c in found]
    candidates = _most_expected(suspected)
    tried = _tried(case, candidates, workers, step)
    return tuple(_finding(t.candidate, t.gain) for t in told(tried, least=LEAST_GAIN))


def _most_expected(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Leave out those of which least is expected, where there are too many to try."""
    order = sorted(
        (i for i, c in enumerate(candidates) if c.expected is not None),
        key=lambda i: -(candidates[i].expected or 0.0),
    )
    left_out = set(order[MOST_TRIALS:])
    return [c for i, c in enumerate(candidates) if i not in left_out]


def _tried(
    case: Case,
    candidates: Sequence[Candidate],
    workers: int,
    step: Callable[[int], None],
) -> list[Tried]:
    """Take every cause out and see what share of the output noise goes."""
    active = [q for q in case.plan.quantizers if q.active]
    base = slots_by_node(active)
    names = [str(number) if c.changes else "" for number, c in enumerate(candidates)]
    units = [
        altered(name, base, candidate.changes)
        for name, candidate in zip(names, candidates, strict=True)
        if name
    ]
    if not units:
        return [Tried(candidate, None) for candidate in candidates]
    trials = run_trials(
        case.model,
        units,
        case.samples,
        base=active,
        promising=_promising_so_far,
        workers=workers,
        step=step,
    )
    tried = []
    for name, candidate in zip(names, candidates, strict=True):
        after = trials.by_sample.get(name, [])
        before = trials.base_by_sample[: len(after)]
        parts = [_gain(*pair, trials.base) for pair in zip(before, after, strict=True)]
        steady = _steady([part for part in parts if part is not None])
        tried.append(Tried(candidate, _mean_gain(before, after), steady))
    return tried


def _promising_so_far(before: Sequence[Nsr], after: Sequence[Nsr]) -> bool:
    gain = _mean_gain(before, after)
    return gain is not None and gain >= LEAST_GAIN / 2


def _mean_gain(before: Sequence[Nsr], after: Sequence[Nsr]) -> float | None:
    if not after:
        return None
    whole = mean_nsr(before)
    return _gain(whole, mean_nsr(after), whole)


def _gain(
    before: Mapping[str, float], after: Mapping[str, float], whole: Mapping[str, float]
) -> float | None:
    """Return the noise that has gone as a share of `whole`, mean over the outputs that had any.

    Slices count as outputs beside the whole: what ruins a small part does not show in the power
    of the whole, and what ruins the whole must not be outvoted by its parts.  An output that was
    not a number and now is one is wholly mended.
    """
    shares = []
    for output, nsr in whole.items():
        if not np.isfinite(nsr):
            shares.append(float(np.isfinite(after[output])))
        elif nsr > 0:
            shares.append((before[output] - after[output]) / nsr)
    mean = float(np.mean(shares)) if shares else np.nan
    return mean if np.isfinite(mean) else None


def _steady(gains: Sequence[float]) -> bool:
    """Tell whether a mean gain is no chance: samples lose little of what others gain.

    Noise of some samples grows and of some shrinks with any change at all; no more than a quarter
    may be lost.  (A test of the mean would ask for normal values; here one sample may hold most of
    the noise.)
    """
    gained = sum(gain for gain in gains if gain > 0)
    lost = -sum(gain for gain in gains if gain < 0)
    return lost <= MOST_LOST * gained


def _finding(candidate: Candidate, gain: float | None) -> Finding:
    code = candidate.code
    return Finding(code, candidate.layer, candidate.evidence, CODES[code].remedy, gain)
