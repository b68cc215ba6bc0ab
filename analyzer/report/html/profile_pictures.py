# SPDX-License-Identifier: Apache-2.0
"""Small pictures of tensors: a `TensorProfile` in; paths, lines and labels of an inline SVG out.

These are written down here and not by matplotlib because a page holds dozens of them: 2 kB each
instead of 15, in the colours of the page's theme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low

from analyzer.records import TensorProfile
from analyzer.report.profile_wording import NOISY, WIDE, noisy, number, plain, reaches, wide

# Of every picture, in the units of its view box, which are about pixels.
WIDTH, HEIGHT = 360, 172
_LEFT, _RIGHT = 58.0, 352.0
_TOP, _BASE = 14.0, 106.0  # of the histogram
_UPPER, _LOWER = (14.0, 98.0), (118.0, 152.0)  # panels of the channels
_FLOOR = -6  # decade below which a share is not told apart
_ROOM = 1.5  # of the range, that limits may take up beside it
_LETTER, _LINE = 6.0, 11.0  # width and height of one, about
_NUMBERS = 4


@dataclass(frozen=True, slots=True)
class Label:
    """A text with its place; `anchor` as SVG calls it: start, middle or end."""

    x: str
    y: str
    text: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Span:
    """A horizontal strip, or an area that is shaded."""

    x: str
    width: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """Both histograms over one axis, with the range and the limits as strips below.

    Attributes:
        fp32: path of an area.
        made: path of a line.
        rules: heights of the grid lines.
        cuts: places of the limits that are on the axis.
        beyond: areas of clipped values.
        values, grid: range, and what the grid can hold of the axis.
    """

    fp32: str
    made: str
    rules: tuple[str, ...]
    cuts: tuple[str, ...]
    beyond: tuple[Span, ...]
    values: Span
    grid: Span
    labels: tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Channels:
    """Ranges of channels above, their noise below.

    Attributes:
        bars, noise: paths of upright strokes.
        stems: the same, from 0 to ranges that begin away from it.
        stroke: their width.
        zero: height of the value 0, None where it is not in the picture.
        cuts: heights of the limits.
        rules: heights of the grid lines of the noise.
    """

    bars: str
    stems: str
    noise: str
    stroke: str
    zero: str | None
    cuts: tuple[str, ...]
    rules: tuple[str, ...]
    labels: tuple[Label, ...]


def histogram(profile: TensorProfile) -> Histogram | None:
    """Draw a tensor's histograms; None where all values are alike or nothing was counted."""
    low, high = profile.low, profile.high
    ends = (low, high, *profile.range, *profile.limits)
    known = all(map(math.isfinite, ends)) and profile.range[0] < profile.range[1]
    if not profile.fp32 or not high > low or not known:
        return None
    across = _Scale(low, high, _LEFT, _RIGHT)
    shares = [s for s in (*profile.fp32, *profile.int8) if s > 0]
    bottom = max(math.floor(math.log10(min(shares))), _FLOOR) if shares else _FLOOR
    top = max(math.ceil(math.log10(max(shares)) - 0.05), bottom + 1) if shares else 0
    up = _Scale(bottom, top, _BASE, _TOP)
    edges = [across(low + (high - low) * k / len(profile.fp32)) for k in range(len(profile.fp32))]
    cuts = [limit for limit in profile.limits if low < limit < high]
    return Histogram(
        fp32=_steps(edges, profile.fp32, up, bottom) + f"V{_BASE:g}Z",
        made=_steps(edges, profile.int8, up, bottom) + f"V{_BASE:g}",
        rules=tuple(_n(up(decade)) for decade in _decades(bottom, top)),
        cuts=tuple(_n(across(limit)) for limit in cuts),
        beyond=tuple(
            _span(across, a, b)
            for a, b in ((low, min(profile.limits[0], high)), (max(profile.limits[1], low), high))
            if profile.clipped > 0 and a < b and _overlaps(a, b, profile.range)
        ),
        values=_span(across, *profile.range),
        grid=_span(across, max(profile.limits[0], low), min(profile.limits[1], high)),
        labels=(
            *(_beside(up(decade), _decade(decade)) for decade in _decades(bottom, top)),
            *_ends(across, profile.range),
        ),
    )


def channels(profile: TensorProfile) -> Channels | None:
    """Draw a tensor's channels; None where there is but one, or where they are all alike."""
    ranges = profile.channels
    if len(ranges) < 2 or not differ(profile):
        return None
    low = min(0.0, *(a for a, _ in ranges))
    high = max(0.0, *(b for _, b in ranges))
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        return None
    cuts: list[float] = []
    if profile.scales == 1:
        room = _ROOM * (high - low)
        cuts = [c for c in profile.limits if low - room <= c <= high + room]
        # a limit that no channel is near of, on a side without values, says nothing
        cuts = [c for c in cuts if (c > 0 and high > 0) or (c < 0 and low < 0)]
        low, high = min(low, *cuts, low), max(high, *cuts, high)
    up = _Scale(low, high, _UPPER[1], _UPPER[0])
    width = (_RIGHT - _LEFT) / len(ranges)
    xs = [_LEFT + width * (k + 0.5) for k in range(len(ranges))]
    noise, rules, numbers = _noise(profile, xs)
    last = profile.count - 1
    return Channels(
        bars="".join(_bar(x, up(a), up(b)) for x, (a, b) in zip(xs, ranges, strict=True)),
        stems="".join(
            _bar(x, up(0.0), up(a if a > 0 else b))
            for x, (a, b) in zip(xs, ranges, strict=True)
            if (a > 0 or b < 0) and abs(up(a if a > 0 else b) - up(0.0)) > 1
        ),
        noise=noise,
        stroke=_n(max(width * 0.72, 0.8)),
        zero=_n(up(0.0)),
        cuts=tuple(_n(up(cut)) for cut in cuts),
        rules=tuple(rule for rule, _ in rules),
        labels=(
            *_levels(up, (low, high, 0.0, *cuts)),
            *(label for _, label in rules),
            Label(_n(_LEFT), _n(HEIGHT - 6), "channel 0", "start"),
            Label(_n((_LEFT + _RIGHT) / 2), _n(HEIGHT - 6), "range above, noise (NSR) below"),
            Label(_n(_RIGHT), _n(HEIGHT - 6), f"{last:,}", "end"),
            *_numbers(profile, xs, wide(profile), [up(b) - 3 for _, b in ranges], _UPPER[0] - 3),
            *numbers,
        ),
    )  # fmt: skip


def differ(profile: TensorProfile) -> bool:
    """Say whether channels need not look alike: by what they hold, or by their noise.

    With a scale for each channel what they hold does not matter.
    """
    reach = reaches(profile)
    noise = [n for n in profile.noise if math.isfinite(n)]
    middle = median_low(reach) if reach else 0.0
    # all but the widest hold nothing: the median says nothing either
    far = profile.scales == 1 and any(r >= WIDE * middle and r > 0 for r in reach)
    return far or bool(noise and max(noise) > NOISY * median_low(noise) > 0)


@dataclass(frozen=True, slots=True)
class _Scale:
    """Values to places: `low` is drawn at `start`, `high` at `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)


def _steps(edges: Sequence[float], shares: Sequence[float], up: _Scale, bottom: float) -> str:
    """Return a path of one step per bin, equal neighbours as one; an empty bin is on the floor."""
    heights = [_n(up(math.log10(s)) if s > 10**bottom else up.start) for s in shares]
    path = f"M{_LEFT:g},{_BASE:g}V{heights[0]}"
    for (one, two), edge in zip(pairwise(heights), edges[1:], strict=True):
        if one != two:
            path += f"H{_n(edge)}V{two}"
    return f"{path}H{_RIGHT:g}"


def _bar(x: float, one: float, two: float) -> str:
    """Return an upright stroke of one unit at least."""
    top, bottom = min(one, two), max(one, two)
    if bottom - top < 1:
        top, bottom = (top + bottom - 1) / 2, (top + bottom + 1) / 2
    return f"M{_n(x)},{_n(bottom)}V{_n(top)}"


def _noise(
    profile: TensorProfile, xs: Sequence[float]
) -> tuple[str, list[tuple[str, Label]], list[Label]]:
    """Return the bars of the lower panel, its grid lines with their labels, and its numbers."""
    known = [n for n in profile.noise if math.isfinite(n) and n > 0]
    if not known:
        return "", [], []
    bottom = max(math.floor(math.log10(min(known))), math.floor(math.log10(max(known))) - 6)
    top = max(math.ceil(math.log10(max(known))), bottom + 1)
    up = _Scale(bottom, top, _LOWER[1], _LOWER[0])
    tops = [
        up(top if not math.isfinite(n) else math.log10(n) if n > 0 else bottom)
        for n in profile.noise
    ]
    path = "".join(
        _bar(x, _LOWER[1], y) for x, y, n in zip(xs, tops, profile.noise, strict=True) if n != 0
    )
    rules = [(_n(up(d)), _beside(up(d), _decade(d))) for d in (bottom, top)]
    ys = [y - 2 for y in tops]
    return path, rules, _numbers(profile, xs, noisy(profile), ys, _LOWER[0] - 2)


def _numbers(
    profile: TensorProfile,
    xs: Sequence[float],
    entries: Sequence[int],
    ys: Sequence[float],
    highest: float,
) -> list[Label]:
    """Number entries above their bars, the first ones that have room."""
    placed: dict[int, tuple[float, str]] = {}
    for entry in entries:
        text = number(profile, entry)
        half = _LETTER * len(text) / 2
        x = min(max(xs[entry], _LEFT + half), _RIGHT - half)
        room = all(abs(x - at) >= half + _LETTER * (len(t) / 2 + 1) for at, t in placed.values())
        if len(placed) < _NUMBERS and room:
            placed[entry] = (x, text)
    return [
        Label(_n(x), _n(max(ys[entry], highest)), text)
        for entry, (x, text) in sorted(placed.items())
    ]


def _ends(across: _Scale, values: tuple[float, float]) -> list[Label]:
    """Write the two ends of a range below its strip, as far apart as their texts are long."""
    y = _n(HEIGHT - 6)
    low, high = (plain(v) for v in values)
    left, right = across(values[0]), across(values[1])
    if right - left >= 7 * (len(low) + len(high)) / 2 + 8:
        a = "start" if left - 3.5 * len(low) < _LEFT else "middle"
        b = "end" if right + 3.5 * len(high) > _RIGHT else "middle"
        return [Label(_n(left), y, low, a), Label(_n(right), y, high, b)]
    middle = (left + right) / 2
    half = 3.5 * (len(low) + len(high) + 4)
    at = min(max(middle, _LEFT + half), _RIGHT - half)
    return [Label(_n(at), y, f"{low} .. {high}")]


def _levels(up: _Scale, values: Sequence[float]) -> list[Label]:
    """Write levels of the upper panel, the first ones that have room."""
    placed: list[float] = []
    for value in values:
        if all(abs(up(value) - up(other)) >= _LINE for other in placed):
            placed.append(value)
    return [_beside(up(value), plain(value)) for value in placed]


def _beside(y: float, text: str) -> Label:
    """Write a text to the left of the axis."""
    return Label(_n(_LEFT - 5), _n(y + 4), text, "end")


def _overlaps(low: float, high: float, values: tuple[float, float]) -> bool:
    return values[0] < high and values[1] > low


def _span(across: _Scale, low: float, high: float) -> Span:
    start, end = across(low), across(max(high, low))
    return Span(_n(start), _n(max(end - start, 1.0)))


def _decades(bottom: int, top: int) -> list[int]:
    """Return the ends of a logarithmic axis, and its middle where there is room."""
    return [bottom, (bottom + top) // 2, top] if top - bottom > 2 else [bottom, top]


def _decade(power: int) -> str:
    """Write a power of ten as a percentage.

    >>> [_decade(k) for k in (0, -3, -6)]
    ['100 %', '0.1 %', '0.0001 %']
    """
    places = max(-power - 2, 0)
    return f"{10.0 ** (power + 2):.{places}f} %"


def _n(value: float) -> str:
    """Write a place with one decimal at most."""
    return f"{value:.1f}".removesuffix(".0")
