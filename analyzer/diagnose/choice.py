# SPDX-License-Identifier: Apache-2.0
"""Which of the causes that were tried are told: one for the same quantizers, the best named one.

Several hypotheses may take the noise of one grid away: with finer steps all of them go.  What is
told is the one that says most about why, as long as it explains about as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analyzer.diagnose.candidate import Candidate

MOST = 10  # findings that were tried; facts come on top
# What a code says about the cause, the most first; codes that are not here say as much as QA101.
_SPEAKING = (
    "QA113", "QA114", "QA112", "QA106", "QA110", "QA111", "QA107", "QA105", "QA108", "QA101",
    "QA102", "QA109", "QA103", "QA104",
)  # fmt: skip
_GENERIC = frozenset({"QA103", "QA104"})
HALF = 0.5  # of what generic causes take away must go with a specific one
MOSTLY = 0.8  # ... and of what a specific one takes away with one that says more


@dataclass(frozen=True, slots=True)
class Tried:
    """A cause that was taken out.

    Attributes:
        gain: share of the output noise that went with it; None: it could not be tried.
        steady: the samples agree that it did some good.
    """

    candidate: Candidate
    gain: float | None
    steady: bool = True

    @property
    def generic(self) -> bool:
        """Whether it says only what happens to values, not why."""
        return self.candidate.code in _GENERIC


def told(tried: Sequence[Tried], *, least: float) -> list[Tried]:
    """Return what is to be told, the largest gain first, then what was not tried.

    Facts (`Candidate.certain`) are always told.  Those that name a cause stand for it; quirks of
    a target stand behind a cause of the same quantizers, if that explains half of what goes with
    the whole layer.

    Args:
        tried: in the order of the rules.
        least: gain from which a cause is one.
    """
    facts = [t for t in tried if t.candidate.certain]
    guesses = [t for t in tried if not t.candidate.certain and t.steady and _gain(t) >= least]
    causes = _causes([g for g in guesses if not any(_stands_for(f, g) for f in facts)])
    ranked = [(*_place(fact, causes), fact) for fact in facts]
    ranked += [(-_gain(cause), 0, cause) for cause in causes]
    ranked.sort(key=lambda row: row[:2])
    return [row[2] for row in ranked]


def _causes(guesses: Iterable[Tried]) -> list[Tried]:
    """Return the best named cause for every set of quantizers, the largest gain first."""
    left = sorted(guesses, key=_most_gain_first)
    found: list[Tried] = []
    while left:
        rivals = [t for t in left if _overlap(t, left[0])]
        best = min((t for t in rivals if _stands(t, left[0], left)), key=_speaks)
        found.append(best)
        left = [t for t in left if not _overlap(t, best)]
    return sorted(found, key=_most_gain_first)[:MOST]


def _stands(cause: Tried, strongest: Tried, left: Iterable[Tried]) -> bool:
    """Tell whether a cause explains enough of what the strongest one at its quantizers does.

    One that is removed at many places has to make up for the generic ones at all of them.
    """
    if cause is strongest:
        return True
    if cause.generic or not strongest.generic:
        return _gain(cause) >= MOSTLY * _gain(strongest)
    replaced: list[Tried] = []
    for other in left:
        counted = any(_overlap(other, one) for one in replaced)
        if other.generic and _overlap(other, cause) and not counted:
            replaced.append(other)
    return _gain(cause) >= HALF * min(1.0, sum(map(_gain, replaced)))


def _stands_for(fact: Tried, cause: Tried) -> bool:
    """Tell whether a fact says more than a cause at the same quantizers, and does most of it."""
    code = fact.candidate.code
    says_more = code in _SPEAKING and _rank(code) < _rank(cause.candidate.code)
    share = HALF if cause.generic else MOSTLY
    return says_more and _overlap(fact, cause) and _gain(fact) >= share * _gain(cause)


def _place(fact: Tried, causes: Sequence[Tried]) -> tuple[float, int]:
    """Return where a fact comes: by its gain; a quirk behind a cause that does half of that."""
    if fact.gain is None:
        return float("inf"), 1
    for cause in causes if fact.candidate.code not in _SPEAKING else ():
        if _overlap(fact, cause) and _gain(cause) >= HALF * fact.gain:
            return max(-fact.gain, -_gain(cause)), 1
    return -fact.gain, 0


def _overlap(one: Tried, other: Tried) -> bool:
    return not set(one.candidate.changes).isdisjoint(other.candidate.changes)


def _most_gain_first(tried: Tried) -> tuple[float, int]:
    return -_gain(tried), _rank(tried.candidate.code)


def _speaks(tried: Tried) -> tuple[int, bool, float]:
    """Order causes by how much they say: the code, then a layer rather than all, then the gain."""
    candidate = tried.candidate
    return _rank(candidate.code), candidate.layer is None, -_gain(tried)


def _rank(code: str) -> int:
    return _SPEAKING.index(code if code in _SPEAKING else "QA101")


def _gain(tried: Tried) -> float:
    return float("-inf") if tried.gain is None else tried.gain
