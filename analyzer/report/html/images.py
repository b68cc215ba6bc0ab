# SPDX-License-Identifier: Apache-2.0
"""The plots as the page shows them: an `Analysis` in; data URIs with caption and alt text out."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass

from analyzer.records import Analysis
from analyzer.report import advice, tables


@dataclass(frozen=True, slots=True)
class Image:
    """One plot.

    Attributes:
        svg: as a data URI.
        alt: what it shows, for those who do not see it.
        caption: how to read it.
    """

    svg: str
    alt: str
    caption: str = ""


def isolated(analysis: Analysis) -> Image | None:
    """Return the plot of the worst layers, None where there is nothing to draw."""
    from analyzer.report.plots import isolated_plot

    infinite = sum(layer.isolated_nsr == math.inf for layer in analysis.layers)
    missing = f" Not drawn: {tables.plural(infinite, 'layer')} with inf." if infinite else ""
    names = ", ".join(
        f"{tables.printable(layer.name)} {tables.percent(layer.isolated_nsr)}"
        for layer in tables.rank(analysis.layers)[:3]
    )
    return _image(
        isolated_plot(analysis),
        f"Bar chart of isolated errors, worst first: {names}. "
        "All values are in the table of layers.",
        f"Only this layer quantized, everything else in FP32. Whiskers: 95 % interval.{missing}",
    )


def graphwise(analysis: Analysis) -> Image | None:
    """Return the plot of the error along the network, None where there is nothing to draw."""
    from analyzer.report.plots import graphwise_plot

    return _image(
        graphwise_plot(analysis),
        "Line chart of the graphwise error in execution order, the local error of each layer as "
        f"dots. The worst output ends at {tables.percent(analysis.worst_output.nsr)}. "
        "All values are in the table of layers.",
        "Everything quantized. The line shows how noise builds up; a dot high above its "
        "neighbours is a layer that adds much of it.",
    )


def waterfall(analysis: Analysis) -> Image | None:
    """Return the plot of the steps along the graph, None where none were measured."""
    from analyzer.report.plots import steps_plot

    worst = analysis.worst_output
    return _image(
        steps_plot(analysis),
        f"Waterfall chart of the error at the output {tables.printable(worst.name)} while more "
        f"layers are quantized; it ends at {tables.percent(worst.nsr)}. The largest steps are "
        "listed below.",
    )


def pareto(analysis: Analysis) -> Image | None:
    """Return the plot of the plans, None where there are no two to compare."""
    from analyzer.report.plots import pareto_plot

    lines = "; ".join(
        f"{tables.printable(p.name)}{' (recommended)' if p.recommended else ''}: "
        f"{', '.join(advice.costs(p.costs))}, {tables.remainder(p.left)} left"
        for p in advice.front(analysis)
    )
    return _image(
        pareto_plot(analysis),
        f"Plot of the share of the output noise left against the cost. {lines}. "
        "All values are in the table of plans.",
    )


def _image(svg: str | None, alt: str, caption: str = "") -> Image | None:
    if svg is None:
        return None
    data = base64.b64encode(svg.encode("utf-8", "backslashreplace")).decode("ascii")
    return Image(f"data:image/svg+xml;base64,{data}", alt, caption)
