# SPDX-License-Identifier: Apache-2.0
"""What a tensor looks like, in words and numbers: a `TensorProfile` in, sentences out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import median_low

from analyzer.records import TensorProfile
from analyzer.report import tables

# Times the median: from there a channel is pointed at.  Of two channels the median is the lower.
WIDE, NOISY = 3.0, 10.0


def facts_of(profile: TensorProfile) -> Iterable[str]:
    """Say what a tensor holds, what its grid can hold, and what that does."""
    low, high = (plain(v) for v in profile.range)
    bottom, top = (plain(v) for v in profile.limits)
    step = f"{profile.bits} bits, step {plain(profile.step)}"
    if profile.scales > 1:
        step += f", the widest of {profile.scales:,} scales"
    yield f"values {low} .. {high}; grid {bottom} .. {top}, {step}"
    if profile.nsr is not None:
        text = f"noise of this grid alone {tables.percent(profile.nsr)} of the signal"
        if profile.arriving is not None:
            text += f", with everything quantized {tables.percent(profile.arriving)}"
        yield text
    if profile.not_finite > 0:
        yield f"{tables.percent(profile.not_finite)} of the values are NaN or infinite"


def told(profile: TensorProfile) -> str:
    """Say in a few words how the values fit into the grid."""
    if profile.range[0] == profile.range[1]:
        return f"all values are {plain(profile.range[0])}"
    if profile.clipped > 0:
        return f"{tables.percent(profile.clipped)} of the values are clipped"
    if (used := _used(profile)) < 0.5:
        return f"nothing is clipped; the values take up {tables.share(used)} of the grid"
    return "nothing is clipped"


def _used(profile: TensorProfile) -> float:
    """Return the share of a grid that values take up; 1 where each channel has its own."""
    span = profile.limits[1] - profile.limits[0]
    if profile.scales > 1 or not span > 0:
        return 1.0
    return (profile.range[1] - profile.range[0]) / span


def channels_in_words(profile: TensorProfile) -> str:
    """Hold the channels that reach farthest against the median one; empty where none does."""
    if profile.scales > 1 or len(profile.channels) < 2:
        return ""
    reach = reaches(profile)
    far = wide(profile)
    if not far:
        return ""
    middle = median_low(reach)
    first = number(profile, far[0])
    subject = f"channel {first} reaches" if first.isdecimal() else f"channels {first} reach"
    text = f"{subject} {plain(reach[far[0]])}, the median {plain(middle)}"
    if profile.step > 0:
        text += f" ({plain(middle / profile.step)} steps)"
    return text


def reaches(profile: TensorProfile) -> list[float]:
    """Return the largest absolute value of every channel."""
    return [max(abs(a), abs(b)) for a, b in profile.channels]


def wide(profile: TensorProfile) -> list[int]:
    """Return the entries that reach much farther than the median one, the farthest first."""
    reach = reaches(profile)
    if not reach:
        return []
    middle = median_low(reach)
    far = [k for k, r in enumerate(reach) if r > 0 and r >= WIDE * middle]
    return sorted(far, key=lambda k: -reach[k])


def noisy(profile: TensorProfile) -> list[int]:
    """Return the entries with much more noise for their signal than the median one."""
    known = [n for n in profile.noise if math.isfinite(n)]
    if not known:
        return []
    middle = median_low(known)
    found = [k for k, n in enumerate(profile.noise) if n > 0 and n >= NOISY * middle]
    return sorted(found, key=lambda k: -profile.noise[k])


def number(profile: TensorProfile, entry: int) -> str:
    """Call an entry of `channels` by the number, or the numbers, of its channels."""
    first = entry * profile.per
    last = min(first + profile.per, profile.count) - 1
    return f"{first}" if last <= first else f"{first}\N{EN DASH}{last}"


def plain(value: float) -> str:
    """Write a number with three digits; thousands are not an exponent yet.

    >>> [plain(x) for x in (0.01234, -254.0, 1016.0, 1234567.0)]
    ['0.0123', '-254', '1,016', '1.23e+06']
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e5 else tables.number(value)
