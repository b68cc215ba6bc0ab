# SPDX-License-Identifier: Apache-2.0
"""What all plots of the report share: their look, their axes, and how a figure becomes SVG text.

matplotlib's object-oriented API only: `pyplot` costs half a second, keeps global state and may
look for a display.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Readable on white (4.5:1) and on black (4.6:1), so that one image serves both themes.
GREY = "#767676"
BLUE, ORANGE = "#3a8fd0", "#d9772b"  # distinguishable with every common colour blindness


@contextmanager
def style() -> Iterator[None]:
    """Draw in the report's look while this is entered; everything global is restored."""
    import matplotlib

    settings: Any = {  # Any: matplotlib types the keys, differently in each release
        "svg.hashsalt": "qanalyze",  # ids inside the file would be random without it
        "svg.fonttype": "none",  # text stays text: smaller, and searchable
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "font.size": 9,
        # Every text names all fonts of the list, 200 bytes each time; the reader's own will do.
        "font.sans-serif": ["DejaVu Sans"],
        "font.monospace": ["DejaVu Sans Mono"],
        "text.color": GREY,
        "axes.labelcolor": GREY,
        "axes.edgecolor": GREY,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # The reader's browser has the glyphs; that matplotlib's own font lacks them is no news.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def axes_of(*, height: float, left: float, width: float = 8.6) -> tuple[Figure, Axes]:
    """Return an empty plot; call it inside `style()`.

    Args:
        height: of the figure, in inches.
        left: share of the width for the labels at the left.
        width: of the figure, in inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    # Fixed margins: measuring every label twice (a layout engine) takes longer than drawing.
    axes = figure.add_axes((left, 0.46 / height, 0.98 - left, 1 - 0.76 / height))
    axes.grid(which="major", color=GREY, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def svg_of(figure: Figure) -> str:
    """Return a figure as SVG text without a date: equal figures give equal bytes."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = io.StringIO()
    with style():
        canvas: Any = FigureCanvasSVG(figure)  # Any: print_svg has no annotations
        canvas.print_svg(stream, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return _compact(text[text.index("<svg") :])


def _compact(svg: str) -> str:
    """Leave out what does not show: half of the bytes are indents, comments, ids and digits.

    Only tags are touched, so that numbers and spaces in names stay as they are.
    """
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda tag: _short(tag[0]), svg)
    svg = re.sub(r"(?<=>)\s+(?=<)", "", svg)
    svg = svg.replace("<g></g>", "").replace("xlink:href=", "href=")
    svg = svg.strip()
    return re.sub(r"<g>(<use [^>]*?)( style=\"[^\"]*\")/>((?:<use [^>]*\2/>)+)</g>", _alike, svg)


def _alike(found: re.Match[str]) -> str:
    """Write the style of many equal markers once."""
    first, style_, others = found.groups()
    return f"<g{style_}>{first}/>{others.replace(style_, '')}</g>"


def _short(tag: str) -> str:
    tag = re.sub(r"\s+", " ", tag)
    if tag.startswith("<g "):
        tag = re.sub(r' id="[^"]*"', "", tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)
    tag = re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", tag)
    return tag.replace(' "', '"')


def percent_ticks(axis: Axis, low: float, high: float) -> None:
    """Label a log axis with plain percentages: "0.01 %", not a power of ten to be decoded.

    Args:
        axis: of values in percent.
        low: lower end of the axis, above 0.
        high: upper end.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    decades = math.log10(high / low)
    steps = (1.0, 2.0, 5.0) if decades < 2 else (1.0, 3.0) if decades < 4 else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
