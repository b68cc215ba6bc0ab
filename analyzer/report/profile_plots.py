# SPDX-License-Identifier: Apache-2.0
"""The tensors of a layer as matplotlib figures, for notebooks: an `Analysis` and a layer in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from analyzer.records import Analysis, TensorProfile
from analyzer.report.figures import BLUE, GREY, ORANGE, style
from analyzer.report.profile_wording import noisy, number, wide
from analyzer.report.tables import printable, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHADE = "#c2453a"
_NAME = 60  # characters of a title
_NUMBERS = 4


def histogram_figure(analysis: Analysis, layer: str) -> Figure | None:
    """Draw what the tensors of a layer hold, FP32 and quantized, one below the other.

    Returns:
        None where no tensor of that layer was looked into.
    """
    found = [p for p in _of(analysis, layer) if p.high > p.low and p.fp32]
    return _stacked(found, _histogram) if found else None


def channels_figure(analysis: Analysis, layer: str) -> Figure | None:
    """Draw the ranges of the channels of a layer's tensors, and the noise of each.

    Returns:
        None where no tensor of that layer with several channels was looked into.
    """
    found = [p for p in _of(analysis, layer) if len(p.channels) > 1]
    return _stacked(found, _channels, panels=2) if found else None


def _of(analysis: Analysis, layer: str) -> list[TensorProfile]:
    return [profile for profile in analysis.profiles if profile.layer == layer]


def _stacked(
    found: Sequence[TensorProfile],
    draw: Callable[[Sequence[Axes], TensorProfile], None],
    *,
    panels: int = 1,
) -> Figure:
    """Return a figure of one tensor below the other, each of so many panels."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(8.6, (2.1 + 0.9 * panels) * len(found)), layout="constrained")
        grid = list(figure.subplots(len(found) * panels, 1, squeeze=False)[:, 0])
        for place, profile in enumerate(found):
            some = grid[place * panels : (place + 1) * panels]
            for axes in some:
                axes.grid(which="major", color=GREY, alpha=0.25, linewidth=0.6)
                axes.set_axisbelow(True)
            # Without parse_math=False a name with two dollar signs is a formula.
            title = f"{profile.slot} {shorten(printable(profile.tensor), _NAME)}"
            some[0].set_title(title, loc="left", fontsize=9, parse_math=False)
            draw(some, profile)
    return figure


def _histogram(panels: Sequence[Axes], profile: TensorProfile) -> None:
    axes = panels[0]
    width = (profile.high - profile.low) / len(profile.fp32)
    edges = [profile.low + width * k for k in range(len(profile.fp32) + 1)]
    drawn = [s for s in (*profile.fp32, *profile.int8) if s > 0]
    floor = 100 * min(drawn, default=1.0) / 2
    for shares, colour, label, fill in (
        (profile.fp32, BLUE, "FP32", True),
        (profile.int8, ORANGE, "quantized, with everything else", False),
    ):
        axes.stairs([max(100 * s, floor) for s in shares], edges, baseline=floor, fill=fill,
                    color=colour, alpha=0.5 if fill else 1.0, label=label)  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(bottom=floor)
    axes.set_xlim(profile.low, profile.high)
    label = "end of the grid"
    for limit, end in zip(profile.limits, (profile.low, profile.high), strict=True):
        if profile.low < limit < profile.high:
            axes.axvline(limit, color=GREY, linestyle="--", linewidth=1, label=label)
            axes.axvspan(limit, end, color=_SHADE, alpha=0.12, linewidth=0)
            label = "_"
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.set_ylabel("share of the values")
    axes.legend(loc="best", frameon=False)


def _channels(panels: Sequence[Axes], profile: TensorProfile) -> None:
    above, below = panels
    middles = [_middle(profile, k) for k in range(len(profile.channels))]
    width = 0.8 * profile.per
    lows, highs = zip(*profile.channels, strict=True)
    spans = [high - low for low, high in profile.channels]
    above.bar(middles, spans, width, lows, color=BLUE, edgecolor=BLUE)
    if profile.scales == 1:
        reach = max(map(abs, (*lows, *highs)), default=0.0)
        for limit in profile.limits:
            if abs(limit) <= 2.5 * reach:
                above.axhline(limit, color=GREY, linestyle="--", linewidth=1)
    above.set_ylabel("range")
    _numbers(above, profile, wide(profile), highs)
    noise = [100 * n if math.isfinite(n) and n > 0 else math.nan for n in profile.noise]
    below.set_xlim(above.get_xlim())
    below.set_xlabel("channel")
    below.set_ylabel("noise (NSR)")
    if any(map(math.isfinite, noise)):
        below.bar(middles, noise, width, color=ORANGE)
        below.set_yscale("log")
        below.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        _numbers(below, profile, noisy(profile), noise)


def _numbers(
    axes: Axes, profile: TensorProfile, entries: Sequence[int], tops: Sequence[float]
) -> None:
    for entry in entries[:_NUMBERS]:
        if math.isfinite(tops[entry]):
            place = (_middle(profile, entry), tops[entry])
            axes.annotate(number(profile, entry), place, (0, 2), ha="center", fontsize=8,
                          textcoords="offset points")  # fmt: skip


def _middle(profile: TensorProfile, entry: int) -> float:
    """Return the place of an entry on an axis of channels."""
    return profile.per * entry + (profile.per - 1) / 2
