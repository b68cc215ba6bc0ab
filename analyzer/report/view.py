# SPDX-License-Identifier: Apache-2.0
"""What the page shows, ready to be written down: an `Analysis` in, records of texts out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analyzer.codes import CODES
from analyzer.records import Analysis, DataInfo, Finding, LayerError
from analyzer.report import ledger, tables, wording

_FLOOR, _CEILING = 1e-6, 1.0  # NSRs at the two ends of a logarithmic bar
_CONTRIBUTORS = 12
_CARDS = 6
_RISES = 5
_CHANNELS = 6


@dataclass(frozen=True, slots=True)
class Cell:
    """A measured value in the table of layers.

    Attributes:
        text: with its unit, or a dash.
        sort: what the script sorts by, empty if not measured.
        bar: width of the inline bar in percent, None for no bar.
    """

    text: str
    sort: str
    bar: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One layer of the table."""

    layer: LayerError
    order: int
    cells: tuple[Cell, ...]
    status: str
    by_output: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Card:
    """One finding.

    Attributes:
        gain: share of the noise that goes, in words; empty where it could not be tried.
        width: of the bar of the gain in percent, None for no bar.
        places: layers where it was found, one where it was tried out.
        evidence: (what, number or name).
    """

    code: str
    title: str
    why: str
    advice: str
    gain: str
    width: str | None
    places: tuple[str, ...]
    evidence: tuple[str, ...]


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
class Makeup:
    """What the noise of one of the worst rows is made of."""

    layer: LayerError
    origins: tuple[Piece, ...]
    kinds: tuple[Piece, ...]
    clipped: tuple[str, ...]
    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ledger:
    """The balance of one output.

    Attributes:
        shown: contributors with a bar: (contributor, width in percent).
        rest: one line on the others, empty where there are none.
        together: one line per interaction.
    """

    account: ledger.Account
    shown: tuple[tuple[ledger.Contributor, str], ...]
    rest: str
    together: tuple[str, ...]


def rows(analysis: Analysis) -> list[Row]:
    """Return the layers, the worst first."""
    order = {id(layer): index for index, layer in enumerate(analysis.layers)}
    return [_row(layer, order[id(layer)]) for layer in tables.rank(analysis.layers)]


def _row(layer: LayerError, order: int) -> Row:
    errors = (layer.isolated_nsr, layer.local_nsr, layer.graphwise_nsr)
    return Row(
        layer=layer,
        order=order,
        cells=(
            *(Cell(tables.percent(nsr), _sort_key(nsr), _bar(nsr)) for nsr in errors),
            Cell(tables.cosine(layer.graphwise_cosine), _sort_key(layer.graphwise_cosine)),
        ),
        status="" if layer.status == "ok" else layer.status,
        by_output=tuple((k, tables.percent(v)) for k, v in layer.isolated_by_output.items()),
    )


def _sort_key(value: float | None) -> str:
    """A number as JavaScript reads it; NaN counts as the worst value there is."""
    if value is None:
        return ""
    if math.isfinite(value):
        return repr(float(value))
    return "-Infinity" if value < 0 else "Infinity"


def _bar(nsr: float | None) -> str | None:
    if nsr is None or nsr <= 0:
        return None
    nsr = _CEILING if math.isnan(nsr) else min(max(nsr, _FLOOR), _CEILING)
    return f"{100 * math.log(nsr / _FLOOR) / math.log(_CEILING / _FLOOR):.0f}"


def cards(analysis: Analysis) -> tuple[list[Card], list[Card]]:
    """Return the findings, the largest gain first: those to show at once, and the others."""
    found = [_card(entry) for entry in wording.grouped(analysis.findings)]
    return found[:_CARDS], found[_CARDS:]


def _card(alike: Sequence[Finding]) -> Card:
    first = alike[0]
    known = CODES.get(first.code)
    gain = first.gain if first.gain is not None and math.isfinite(first.gain) else None
    return Card(
        code=first.code,
        title=known.title if known else "",
        why=known.why if known else "",
        advice=first.advice,
        gain=wording.gain(first),
        width=None if gain is None else f"{100 * min(max(gain, 0.0), 1.0):.0f}",
        places=tuple(dict.fromkeys(finding.layer for finding in alike if finding.layer)),
        evidence=tuple(wording.evidence(first.evidence)),
    )


def makeups(analysis: Analysis) -> list[Makeup]:
    """Return the rows that were taken apart, the worst first."""
    return [_makeup(layer) for layer in tables.rank(analysis.layers) if layer.parts]


def _makeup(layer: LayerError) -> Makeup:
    clipped = [
        f"{tables.share(layer.parts[key])} of {origin}"
        for origin in wording.ORIGINS
        if layer.parts.get(key := f"{origin}_clipping", 0.0) >= 0.005
    ]
    channels = [f"{number} ({tables.share(share)})" for number, share in layer.channels]
    return Makeup(
        layer,
        _pieces(layer, wording.ORIGINS),
        _pieces(layer, wording.KINDS),
        tuple(clipped),
        tuple(channels[:_CHANNELS]),
    )


def _pieces(layer: LayerError, kinds: Iterable[str]) -> tuple[Piece, ...]:
    """Return the parts of a bar in the order of the legend; parts that nothing came from not."""
    shares = {kind: layer.parts.get(kind, 0.0) for kind in kinds}
    total = sum(share for share in shares.values() if share > 0)
    return tuple(
        Piece(kind, f"{100 * share / total:.2f}", tables.share(share))
        for kind, share in shares.items()
        if share > 0 and math.isfinite(total)
    )


def ledgers(analysis: Analysis) -> list[Ledger]:
    """Return the balance of every output, slices behind theirs; none where nothing was booked."""
    if analysis.balance is None:
        return []
    titles = ledger.titles(analysis)
    return [
        _ledger(analysis, ledger.account(output), titles)
        for output in ledger.in_families(analysis.outputs)
    ]


def _ledger(analysis: Analysis, account: ledger.Account, titles: dict[str, str]) -> Ledger:
    name = account.output.name
    found = ledger.contributors(analysis, name)
    heard = [row for row in found if row.nsr][:_CONTRIBUTORS]
    largest = max((row.share for row in heard if row.share is not None), default=0.0)
    others = len(found) - len(heard)
    left = sum(row.share or 0.0 for row in found if row not in heard)
    unprobed = sum(row.nsr is None for row in found)
    rest = f"{tables.plural(others, 'other source')}: {tables.share(left)}" if others else ""
    if rest and unprobed:
        rest += f" ({unprobed:,} not probed: their noise is expected to be small)"
    together = [wording.interaction(i, titles) for i in ledger.interactions(analysis, name)]
    widths = [100 * (row.share or 0.0) / largest if largest else 0.0 for row in heard]
    shown = tuple((row, f"{width:.1f}") for row, width in zip(heard, widths, strict=True))
    return Ledger(account, shown, rest, tuple(together))


def rises(analysis: Analysis) -> list[ledger.Rise]:
    """Return the largest steps of the worst output along the graph."""
    return ledger.largest(ledger.rises(analysis, analysis.worst_output.name), _RISES)


def notes(analysis: Analysis) -> list[str]:
    """Return what was done to the model and to the data."""
    found = analysis.provenance.model.get("notes", ())
    loading = [str(note) for note in found] if isinstance(found, list | tuple) else [str(found)]
    return [*loading, *analysis.plan.notes, *_skipped(analysis.provenance.data)]


def _skipped(data: Iterable[DataInfo]) -> list[str]:
    return [f"{info.role} data skipped: {entry}" for info in data for entry in info.skipped]


def value(item: object) -> str:
    """A configuration value for reading: text as it is, numbers grouped, the rest as JSON."""
    if isinstance(item, str):
        return tables.printable(item)
    if isinstance(item, int) and not isinstance(item, bool):
        return f"{item:,}"
    if isinstance(item, float):
        return f"{item:.4g}"
    return tables.printable(json.dumps(item, ensure_ascii=False, default=str))
