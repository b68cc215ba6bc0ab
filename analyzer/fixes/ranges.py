# SPDX-License-Identifier: Apache-2.0
"""Free remedies for grids of activations: other ranges, for one tensor or for several together.

What is tried is what the target's other observers find, steps half and twice as wide (powers of
two) or ends that are drawn in (other scales), and the range of least squared error on the FP32
values themselves, as analytical clipping has it (Banner et al., arXiv:1810.05723).  How much of a
source's noise may go with it is guessed from the noise that the old and the new grid make where
they stand, rounding and clipping apart.

Values that one grid has cut stay cut on the next: where a source of noise has several grids, they
are widened together, too; and all loud grids together each get the range that is best for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analyzer.fixes.grids import (
    Choice,
    Grid,
    close,
    covering,
    ends,
    giving,
    keeps_levels_free,
    loud_grids,
    observed,
    powers_of_two,
    scale_of,
    usable,
)
from analyzer.fixes.local import Noise, Spread, noise_of, spreads_of
from analyzer.fixes.remedy import Remedy
from analyzer.fixes.situation import Situation
from analyzer.quant.fake import calibrated
from analyzer.records import Quantizer
from analyzer.targets.base import Target

MOST = 24  # remedies
MOST_OF_ONE = 3  # remedies for one tensor, or for one source
MOST_SAMPLES = 3
DRAWN_IN = (0.9, 0.8, 0.7, 0.6, 0.5)
EXPONENTS = (-1, 1)  # half the step, twice the step
_SEARCHED = (-3, -2, -1, 0, 1, 2)
_FRACTIONS = tuple(round(0.04 * k, 2) for k in range(5, 26))
_ALL = 0.99  # more noise than this goes with nothing

Spreads = Mapping[str, Sequence[Spread]]


@dataclass(frozen=True, slots=True)
class _Trial:
    """A range that was tried on the values where its grid stands.

    Attributes:
        expected: share of the output noise that may go with it.
    """

    grid: Grid
    choice: Choice
    expected: float


def ranges_remedies(situation: Situation) -> Sequence[Remedy]:
    """Return other ranges of the loudest grids of activations, the most promising first."""
    grids = loud_grids(situation)
    samples = situation.samples[:MOST_SAMPLES]
    tensors = dict.fromkeys(t for grid in grids for t in grid.tensors)
    spreads = spreads_of(situation.model, tensors, samples)
    two = powers_of_two(situation)
    shares = _shares(grids, spreads)
    tried: list[list[_Trial]] = []
    for grid, share in zip(grids, shares, strict=True):
        choices = _choices(situation, grid, spreads, two=two)
        own = [_trial(grid, share, choice, spreads) for choice in choices]
        # what makes more than twice the noise where it stands helps nowhere
        own = [trial for trial in own if trial.expected > -share[0]]
        tried.append(sorted(own, key=lambda trial: -trial.expected))
    alone = [_alone(trial) for own in tried for trial in own[:MOST_OF_ONE]]
    together = _together(situation, grids, shares, tried, spreads)
    return _sorted([*alone, *together])[:MOST]


def _sorted(remedies: Sequence[Remedy]) -> list[Remedy]:
    """Return the most promising first, and of those that ask for the same only one."""
    different = {tuple(remedy.ranges.items()): remedy for remedy in remedies}
    return sorted(different.values(), key=lambda remedy: -(remedy.expected or 0.0))


def _shares(grids: Sequence[Grid], spreads: Spreads) -> list[tuple[float, float]]:
    """Return the share of all noise that each grid makes, and that of clipping there if known.

    What a source makes is shared out among its grids as the noise is that each makes by itself.
    """
    noise = [_noise(grid, grid.root, spreads).total for grid in grids]
    totals: dict[str, float] = {}
    for grid, own in zip(grids, noise, strict=True):
        for source in grid.shares:
            totals[source] = totals.get(source, 0.0) + own
    found = []
    for grid, own in zip(grids, noise, strict=True):
        parts = {name: own / totals[name] if totals[name] else 0.0 for name in grid.shares}
        most = max(parts.values(), default=1.0)
        share = sum(s * parts[name] for name, s in grid.shares.items())
        found.append((max(share, most * grid.gain), most * grid.cut))
    return found


def _choices(situation: Situation, grid: Grid, spreads: Spreads, *, two: bool) -> list[Choice]:
    """Return ranges that make other grids than the present one, each grid once."""
    found = [Choice((0.0, 0.0), grid.root, "")]
    least = 0.0
    if keeps_levels_free(situation.target, grid.root):
        whole = _seen(spreads.get(grid.root.tensor, ()), ends(grid.root))
        least = scale_of(covering(situation.target, grid.root, *whole))[0] * (1 - 1e-6)
    for choice in _all_choices(situation, grid, spreads, two=two):
        new = not any(close(choice.made, other.made) for other in found)
        if usable(choice.made) and new and scale_of(choice.made)[0] >= least:
            found.append(choice)
    return found[1:]


def _all_choices(
    situation: Situation, grid: Grid, spreads: Spreads, *, two: bool
) -> Iterator[Choice]:
    target, root = situation.target, grid.root
    for observer in target.observers:
        yield from _by_observer(situation, grid, observer)
    if root.tensor in spreads:
        tried = _by_exponents(root) if two else _by_ends(target, root, spreads)
        of_root = {root.tensor: spreads[root.tensor]}
        best = min(tried, key=lambda made: noise_of({root.tensor: made}, of_root).total)
        yield giving(target, best, "least squared error")
    if two:
        for step in EXPONENTS:
            made = replace(root, scale=calibrated(root)[0] * 2.0**step)
            yield giving(target, made, "twice the step" if step > 0 else "half the step")
    else:
        low, high = _seen(spreads.get(root.tensor, ()), ends(root))
        for part in DRAWN_IN:
            made = covering(target, root, low * part, high * part)
            yield giving(target, made, f"{part:g} of it")


def _by_observer(situation: Situation, grid: Grid, observer: str) -> Iterator[Choice]:
    found = situation.ranges.get((grid.root.tensor, observer))
    if found is not None:
        made = observed(situation.target, grid.root, found, observer)
        yield giving(situation.target, made, f"as by {observer}")


def _by_exponents(root: Quantizer) -> list[Quantizer]:
    return [replace(root, scale=calibrated(root)[0] * 2.0**step) for step in _SEARCHED]


def _by_ends(target: Target, root: Quantizer, spreads: Spreads) -> list[Quantizer]:
    """Return grids over parts of all values seen: first both ends drawn in alike, then each."""
    own = spreads[root.tensor]
    low, high = _seen(own, (-np.inf, np.inf))
    tried = [covering(target, root, low * f, high * f) for f in _FRACTIONS]
    if root.symmetric:
        return tried
    noise = [noise_of({root.tensor: made}, {root.tensor: own}).total for made in tried]
    best = _FRACTIONS[int(np.argmin(noise))]
    for f in _FRACTIONS:
        tried.append(covering(target, root, low * f, high * best))
        tried.append(covering(target, root, low * best, high * f))
    return tried


def _seen(spreads: Sequence[Spread], most: tuple[float, float]) -> tuple[float, float]:
    """Return the range of what was seen, zero included, within `most`; that if nothing was."""
    if not spreads:
        return most
    low, high = min(s.range[0] for s in spreads), max(s.range[1] for s in spreads)
    return max(most[0], min(low, 0.0)), min(most[1], max(high, 0.0))


def _together(
    situation: Situation,
    grids: Sequence[Grid],
    shares: Sequence[tuple[float, float]],
    tried: Sequence[Sequence[_Trial]],
    spreads: Spreads,
) -> Iterator[Remedy]:
    """Yield ranges of all grids of one source, and of all grids, that are changed at once."""
    best = [own[0] for own in tried if own and own[0].expected > 0]
    yield from _joint(best, "what is best for each")
    for source in dict.fromkeys(name for grid in grids for name in grid.shares):
        inside = [(g, s) for g, s in zip(grids, shares, strict=True) if source in g.shares]
        found = list(_joint([t for t in best if source in t.grid.shares], "what is best for each"))
        for observer in situation.target.observers:
            trials = [
                _trial(grid, share, choice, spreads)
                for grid, share in inside
                for choice in _by_observer(situation, grid, observer)
                if usable(choice.made) and not close(choice.made, grid.root)
            ]
            found += _joint(trials, f"as by {observer}")
        yield from _sorted(found)[:MOST_OF_ONE]


def _joint(trials: Sequence[_Trial], why: str) -> Iterator[Remedy]:
    """Yield the remedy that does all of it, if there is more than one thing to do."""
    expected = sum(trial.expected for trial in trials)
    if len(trials) > 1 and expected > 0:
        sources = {name: share for t in trials for name, share in t.grid.shares.items()}
        yield replace(
            _alone(trials[0]),
            layers=tuple(dict.fromkeys(trial.grid.root.node for trial in trials)),
            before=f"{len(trials)} ranges",
            after=f"others ({why})",
            ranges={t.grid.root.tensor: t.choice.range for t in trials},
            expected=min(expected, sum(sources.values()), _ALL),
        )


def _alone(trial: _Trial) -> Remedy:
    root, choice = trial.grid.root, trial.choice
    return Remedy(
        kind="range",
        layers=(root.node,),
        before=f"{root.tensor} {_text(root)}",
        after=f"{_text(choice.made)} ({choice.why})",
        ranges={root.tensor: choice.range},
        expected=min(trial.expected, _ALL),
    )


def _trial(grid: Grid, shares: tuple[float, float], choice: Choice, spreads: Spreads) -> _Trial:
    share, known = shares
    now, then = (_noise(grid, like, spreads) for like in (grid.root, choice.made))
    cut = max(known, share * (now.clipping / now.total if now.total else 0.0))
    rounded = max(share - cut, 0.0)
    left = rounded * _ratio(then.rounding, now.rounding) + cut * _ratio(
        then.clipping, now.clipping
    )
    if now.total and not now.clipping:
        # nothing was cut before: what is now, weighs as much as rounding did
        left += share * then.clipping / now.total
    return _Trial(grid, choice, rounded + cut - left)


def _noise(grid: Grid, like: Quantizer, spreads: Spreads) -> Noise:
    """Return the noise at all tensors on the grid, once its root has the scale of `like`."""
    users = {
        t: replace(grid.users[t], scale=like.scale, zero_point=like.zero_point)
        for t in grid.tensors
    }
    return noise_of(users, spreads)


def _ratio(then: float, now: float) -> float:
    return then / now if now else 1.0


def _text(quantizer: Quantizer) -> str:
    low, high = ends(quantizer)
    return f"[{low:.4g}, {high:.4g}]"
