# SPDX-License-Identifier: Apache-2.0
"""The table of layers, ready to be written down: an `Analysis` in, its rows out.

A page of thousands of layers has to open, too, so a row says nothing twice: numbers are sorted by
their text, bars are drawn by the cell itself, and only what is special about a layer is folded
into it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from analyzer.records import Analysis, LayerError
from analyzer.report import tables, wording

_FLOOR, _CEILING = 1e-6, 1.0  # NSRs at the two ends of a logarithmic bar
_CHANNELS = 6
# Alone this share of the accumulated error makes a layer a problem.
PROBLEM = 0.01
# From so many layers on the table opens with its problems only.
LARGE = 100
_FOLDABLE = 1000  # beyond, only problems have something to unfold: 5,000 folds are slow to lay out


@dataclass(frozen=True, slots=True)
class Cell:
    """A measured value in the table of layers.

    Attributes:
        text: with its unit, or a dash.
        bar: width of the inline bar in percent, empty for no bar.
        interval: the 95 % interval, empty where there is none.
    """

    text: str
    bar: str = ""
    interval: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of a stacked bar.

    Attributes:
        kind: name of the part, and of its colour.
        width: in percent.
        text: the share.
    """

    kind: str
    width: str
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One layer of the table.

    Attributes:
        number: in execution order.
        status: empty where everything was measured.
        origins, kinds: the pieces that its noise consists of; empty but for the worst rows.
        facts: (what, text) to unfold.
        hurts: whether it is one of the problems.
    """

    number: int
    name: str
    op_type: str
    precision: str
    cells: tuple[Cell, ...]
    status: str
    codes: tuple[str, ...]
    origins: tuple[Piece, ...]
    kinds: tuple[Piece, ...]
    facts: tuple[tuple[str, str], ...]
    hurts: bool


def rows(analysis: Analysis) -> list[Row]:
    """Return the layers, the worst first."""
    numbers = {id(layer): number for number, layer in enumerate(analysis.layers)}
    least = PROBLEM * _accumulated(analysis)
    found = []
    for layer in tables.rank(analysis.layers):
        number = numbers[id(layer)]
        hurts = _hurts(layer, least)
        folded = hurts or len(analysis.layers) <= _FOLDABLE
        found.append(_row(layer, number, hurts=hurts, folded=folded))
    return found


def _accumulated(analysis: Analysis) -> float:
    """The accumulated error, mean over the outputs as isolated errors are."""
    found = [o.nsr for o in analysis.outputs if o.slice_of is None and math.isfinite(o.nsr)]
    return fmean(found) if found else math.inf


def _hurts(layer: LayerError, least: float) -> bool:
    nsr = layer.isolated_nsr
    if layer.findings or (nsr is not None and not math.isfinite(nsr)):
        return True
    return nsr is not None and nsr > 0 and nsr >= least


def _row(layer: LayerError, number: int, *, hurts: bool, folded: bool) -> Row:
    interval = tables.interval(layer.isolated_ci)
    return Row(
        number=number,
        name=tables.printable(layer.name),
        op_type=tables.printable(layer.op_type),
        precision=tables.printable(layer.precision),
        cells=(
            Cell(tables.percent(layer.isolated_nsr), bar(layer.isolated_nsr), interval),
            Cell(tables.percent(layer.local_nsr), bar(layer.local_nsr)),
            Cell(tables.percent(layer.graphwise_nsr), bar(layer.graphwise_nsr)),
            Cell(tables.cosine(layer.graphwise_cosine)),
        ),
        status="" if layer.status == "ok" else tables.printable(layer.status),
        codes=tuple(tables.printable(code) for code in layer.findings),
        origins=pieces(layer, wording.ORIGINS),
        kinds=pieces(layer, wording.KINDS),
        facts=tuple(_facts(layer, hurts=hurts)) if folded else (),
        hurts=hurts,
    )


def bar(nsr: float | None, digits: int = 0) -> str:
    """Return the width of a logarithmic bar in percent; empty where there is nothing to draw."""
    if nsr is None or nsr <= 0:
        return ""
    nsr = _CEILING if math.isnan(nsr) else min(max(nsr, _FLOOR), _CEILING)
    return f"{100 * math.log(nsr / _FLOOR) / math.log(_CEILING / _FLOOR):.{digits}f}"


def pieces(layer: LayerError, kinds: Iterable[str]) -> tuple[Piece, ...]:
    """Return the parts of a bar in the order of the legend; parts that nothing came from not."""
    shares = {kind: layer.parts.get(kind, 0.0) for kind in kinds}
    total = sum(share for share in shares.values() if share > 0)
    return tuple(
        Piece(kind, f"{100 * share / total:.2f}", tables.share(share))
        for kind, share in shares.items()
        if share > 0 and math.isfinite(total)
    )


def _facts(layer: LayerError, *, hurts: bool) -> Iterable[tuple[str, str]]:
    """What no column says: of every layer what is unusual, of a problem all there is."""
    nodes = [tables.printable(node) for node in layer.source_nodes]
    if nodes and layer.source_nodes != (layer.name,):
        yield "Nodes in the file", ", ".join(nodes)
    if layer.group is not None:
        yield "Shares a scale in", tables.printable(layer.group)
    if not hurts:
        return
    if cut := clipped(layer):
        yield "Clipped", cut
    if layer.channels:
        yield "Channels with most of the local noise", noisiest(layer)
    if layer.macs is not None:
        yield "MACs", f"{layer.macs:,}"
    if layer.graphwise_sqnr_db is not None:
        yield "SQNR (graphwise)", tables.decibel(layer.graphwise_sqnr_db)
    if layer.graphwise_max_abs is not None:
        yield "Max abs (graphwise)", tables.number(layer.graphwise_max_abs)
    if layer.isolated_samples:
        yield "Samples (isolated)", f"{layer.isolated_samples:,}"
    for output, nsr in layer.isolated_by_output.items():
        yield f"Isolated at {tables.printable(output)}", tables.percent(nsr)


def clipped(layer: LayerError) -> str:
    """Say how much of the noise of each origin is made by clipping; empty where little is."""
    return ", ".join(
        f"{tables.share(layer.parts[key])} of {origin}"
        for origin in wording.ORIGINS
        if layer.parts.get(key := f"{origin}_clipping", 0.0) >= 0.005
    )


def noisiest(layer: LayerError) -> str:
    """Name the output channels with most of the local noise, and their shares of it."""
    found = (f"{number} ({tables.share(share)})" for number, share in layer.channels[:_CHANNELS])
    return ", ".join(found)
