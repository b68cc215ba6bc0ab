# SPDX-License-Identifier: Apache-2.0
"""The plots of the report: an `Analysis` in, a figure out, or its SVG text for the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from analyzer.records import Analysis, LayerError, Proposal
from analyzer.report import advice, ledger
from analyzer.report.figures import BLUE, GREY, ORANGE, axes_of, percent_ticks, style, svg_of
from analyzer.report.tables import percent, printable, rank, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analyzer.report.ledger import Rise

_PRICES = {
    "milliseconds": "time of a run by your table, ms",
    "macs": "multiply-accumulates moved to more bits",
}
_NAME_LENGTH = 34  # in the 8 pt monospace font this fills the left margin
_MARKED = 60
_DOTS = 1000  # 60 bytes each; an image of them is smaller then
_DECADES = 8  # more than that below the largest value is float noise and would flatten the rest


def isolated_figure(analysis: Analysis, *, limit: int = 20) -> Figure | None:
    """Draw the isolated errors of the worst layers with their 95 % intervals.

    Returns:
        The figure, or None if no finite isolated error above zero was measured.
    """
    layers = [layer for layer in rank(analysis.layers) if _drawable(layer.isolated_nsr)][:limit]
    if not layers:
        return None
    values = [100 * (layer.isolated_nsr or 0) for layer in layers]
    intervals = [_interval(layer) for layer in layers]
    right = max(values + [high for _, high in intervals])
    left = max(min(values) / 3, right / 10**_DECADES)
    rows = range(len(layers))
    with style():
        figure, axes = axes_of(height=0.7 + 0.24 * len(layers), left=0.29)
        axes.set_xscale("log")
        axes.grid(visible=False, axis="y")
        widths = [max(value - left, 0) for value in values]
        axes.barh(rows, widths, left=left, height=0.66, color=BLUE)
        for row, (low, high) in enumerate(intervals):
            if high > low:
                ends = [max(low, left), max(high, left)]
                axes.plot(ends, [row, row], "|-", color=ORANGE, linewidth=1.4, markersize=6)
            axes.annotate(percent(layers[row].isolated_nsr), (max(high, left), row), (5, 0),
                          textcoords="offset points", va="center", fontsize=8)  # fmt: skip
        # Without parse_math=False a name with two dollar signs is a formula, and may not parse.
        axes.set_yticks(rows, [_label(layer.name) for layer in layers],
                        fontsize=8, family="monospace", parse_math=False)  # fmt: skip
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(layers) - 0.4, -0.6)
        # Room for the number behind the longest bar: a share of the axis, so of its decades.
        axes.set_xlim(left, right * (right / left) ** 0.16)
        percent_ticks(axes.xaxis, left, right)
        axes.set_xlabel("isolated error: NSR at the graph outputs, log scale")
        return figure


def graphwise_figure(analysis: Analysis) -> Figure | None:
    """Draw the accumulated error along the execution order, with what each layer adds as dots.

    Returns:
        The figure, or None if no finite error above zero was measured.
    """
    layers = analysis.layers
    graphwise = _percentages(layer.graphwise_nsr for layer in layers)
    local = _percentages(layer.local_nsr for layer in layers)
    values = [value for value in (*graphwise, *local) if math.isfinite(value)]
    if not values:
        return None
    from matplotlib.ticker import MaxNLocator

    with style():
        figure, axes = axes_of(height=3.2, left=0.12)
        axes.set_yscale("log")
        order = range(len(layers))
        # A marker each shows single layers between two gaps, where there is room to see it.
        axes.plot(order, graphwise, "-o" if len(layers) <= _MARKED else "-", color=BLUE,
                  linewidth=1.4, markersize=1.8,
                  label="graphwise: accumulated up to here")  # fmt: skip
        axes.plot(order, local, "o", color=ORANGE, markersize=3,
                  rasterized=len(layers) > _DOTS,
                  label="local: added by the layer itself")  # fmt: skip
        low, high = max(min(values), max(values) / 10**_DECADES) / 2, max(values) * 2
        axes.set_ylim(low, high)
        axes.set_xlim(-0.5, len(layers) - 0.5)
        percent_ticks(axes.yaxis, low, high)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layer, in execution order")
        axes.set_ylabel("NSR at the layer's output")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
        return figure


def steps_figure(analysis: Analysis) -> Figure | None:
    """Draw how the error of the worst output grows while more of the graph is quantized.

    Bars float: each leads from the error before a step to the one behind it.  The largest are
    numbered as `ledger.largest` orders them; the other outputs are thin lines.

    Returns:
        The figure, or None if no steps were measured there.
    """
    worst = analysis.worst_output.name
    rises = ledger.rises(analysis, worst)
    drawn = [r for r in rises if math.isfinite(r.before) and math.isfinite(r.now)]
    if not drawn or not any(rise.now > 0 for rise in drawn):
        return None
    with style():
        figure, axes = axes_of(height=3.2, left=0.09)
        for output in analysis.outputs:
            if output.slice_of is None and output.name != worst:
                _thin_line(axes, ledger.rises(analysis, output.name))
        for colour, label, rising in (
            (ORANGE, "noise comes", True),
            (BLUE, "noise is damped", False),
        ):
            some = [r for r in drawn if (r.change >= 0) == rising]
            axes.bar([r.start for r in some], [100 * r.change for r in some],
                     bottom=[100 * r.before for r in some], align="edge", color=colour,
                     width=[r.end - r.start for r in some], label=label,
                     # the edge is what shows of a step too small for a bar
                     edgecolor=colour, linewidth=0.8)  # fmt: skip
        _number(axes, ledger.largest(rises))
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])  # room for the numbers
        axes.set_xlim(0, rises[-1].end)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.set_xlabel("layers quantized, in execution order; everything behind is in FP32")
        axes.set_ylabel("NSR at the output")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
        return figure


def pareto_figure(analysis: Analysis) -> Figure | None:
    """Draw what the plans leave of the noise against what they cost.

    The front is a staircase from plan to plan with their names; what was measured and is not on
    it is grey, what was only tried on the way a cross, the recommended plan large.

    Returns:
        The figure, or None if there are not two plans with a finite share above zero.
    """
    plans = [p for p in advice.front(analysis) if _drawable(p.left)]
    rejected = [p for p in advice.others(analysis) if _drawable(p.left)]
    if len(plans) + len(rejected) < 2:
        return None
    unit = advice.priced_in(analysis)
    factor = 100 if unit == "macs" else 1

    def places(some: Sequence[Proposal]) -> tuple[list[float], list[float]]:
        prices = [factor * advice.price(analysis, p) for p in some]
        return prices, [100 * p.left for p in some]

    tried = [
        (factor * advice.priced(analysis, attempt.costs), 100 * attempt.measured)
        for attempt in analysis.attempts
        if attempt.costs is not None and _drawable(attempt.measured)
    ]
    values = [100 * p.left for p in (*plans, *rejected)] + [left for _, left in tried]
    low, high = min(values) / 1.5, max(*values, 100) * 1.4
    with style():
        figure, axes = axes_of(height=3.4, left=0.09)
        axes.set_yscale("log")
        axes.set_ylim(low, high)  # first: of values all alike matplotlib makes no range
        axes.axhline(100, color=GREY, linewidth=0.8, linestyle=":")
        if tried:
            axes.plot(*zip(*tried, strict=True), "x", color=GREY, markersize=4, alpha=0.5,
                      label="tried on the way")  # fmt: skip
        if rejected:
            axes.plot(*places(rejected), "o", color=GREY, markersize=4, alpha=0.6,
                      label="not on the front")  # fmt: skip
        axes.plot(*places(plans), "-o", color=BLUE, linewidth=1.2, markersize=5,
                  drawstyle="steps-post", label="front")  # fmt: skip
        axes.plot(*places([p for p in plans if p.recommended]), "o", color=ORANGE,
                  markersize=9, label="recommended")  # fmt: skip
        _name(axes, plans, *places(plans))
        axes.margins(x=0.08)
        percent_ticks(axes.yaxis, low, high)
        if factor == 100:
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.set_xlabel(_PRICES[unit])
        axes.set_ylabel("share of the noise left")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
        return figure


def isolated_plot(analysis: Analysis) -> str | None:
    """Return `isolated_figure` as SVG text."""
    return _svg(isolated_figure(analysis))


def graphwise_plot(analysis: Analysis) -> str | None:
    """Return `graphwise_figure` as SVG text."""
    return _svg(graphwise_figure(analysis))


def steps_plot(analysis: Analysis) -> str | None:
    """Return `steps_figure` as SVG text."""
    return _svg(steps_figure(analysis))


def pareto_plot(analysis: Analysis) -> str | None:
    """Return `pareto_figure` as SVG text."""
    return _svg(pareto_figure(analysis))


def _svg(figure: Figure | None) -> str | None:
    return None if figure is None else svg_of(figure)


def _name(
    axes: Axes, plans: Sequence[Proposal], prices: Sequence[float], left: Sequence[float]
) -> None:
    """Name points to their right; of several close to each other only the lowest."""
    span = (max(prices) - min(prices)) or 1.0
    for index, plan in enumerate(plans):
        near = [
            other
            for other in range(len(plans))
            if abs(prices[other] - prices[index]) < 0.12 * span
            and left[index] / 1.12 < left[other] < left[index] * 1.12
        ]
        chosen = min(near, key=lambda other: (not plans[other].recommended, left[other]))
        if chosen == index:
            axes.annotate(shorten(printable(plan.name), 20), (prices[index], left[index]), (7, 3),
                          textcoords="offset points", fontsize=8, parse_math=False)  # fmt: skip


def _thin_line(axes: Axes, rises: Sequence[Rise]) -> None:
    known = any(line.get_label() == "other outputs" for line in axes.lines)
    values = [100 * r.now if math.isfinite(r.now) else math.nan for r in rises]
    axes.plot([0, *(r.end for r in rises)], [0.0, *values], color=GREY, alpha=0.45,
              linewidth=0.8, label="_" if known else "other outputs")  # fmt: skip


def _number(axes: Axes, largest: Sequence[Rise]) -> None:
    """Number bars above their ends, the higher of two that are close a line above the other."""
    last = max((rise.end for rise in largest), default=1)
    placed: list[tuple[float, int]] = []
    for number, rise in sorted(enumerate(largest, 1), key=lambda item: item[1].place):
        middle = (rise.start + rise.end) / 2
        near = [row for x, row in placed if abs(x - middle) < 0.02 * last]
        row = next(i for i in range(len(placed) + 1) if i not in near)
        placed.append((middle, row))
        axes.annotate(str(number), (middle, 100 * rise.now), (0, 2 + 9 * row), ha="center",
                      textcoords="offset points", fontsize=8, fontweight="bold")  # fmt: skip


def _interval(layer: LayerError) -> tuple[float, float]:
    """The 95 % interval in percent; the value twice where there is none to draw."""
    value = 100 * (layer.isolated_nsr or 0)
    if layer.isolated_ci is None or not all(map(math.isfinite, layer.isolated_ci)):
        return value, value
    return 100 * layer.isolated_ci[0], max(100 * layer.isolated_ci[1], value)


def _percentages(values: Iterable[float | None]) -> list[float]:
    """NaN, a gap, for what a log axis cannot show: 0, inf and unmeasured are in the table."""
    return [100 * v if v is not None and _drawable(v) else math.nan for v in values]


def _drawable(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value > 0


def _label(name: str) -> str:
    return shorten(printable(name), _NAME_LENGTH) or "(unnamed)"
