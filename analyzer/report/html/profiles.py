# SPDX-License-Identifier: Apache-2.0
"""What the worst layers look like: an `Analysis` in, a section per layer with plots out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from analyzer.records import Analysis, Change, LayerError, TensorProfile
from analyzer.report import advice, ledger, tables, wording
from analyzer.report.html.profile_pictures import (
    HEIGHT,
    WIDTH,
    Channels,
    Histogram,
    channels,
    histogram,
)
from analyzer.report.html.rows import Piece, clipped, noisiest, pieces
from analyzer.report.profile_wording import channels_in_words, facts_of, told

_OPEN = 6  # cards at most that are not folded
_LOUD = 0.05  # of the worst one's noise: below it a card is folded
_SOURCES = 3
_SHARED = "QA105"  # tensors of different ranges share one scale
_CUT = 1e-3  # share of clipped values, and noise of the grid, from which it is written in red
_ROLES = {"weight": "Weight", "bias": "Bias", "constant": "Constant"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a layer.

    Attributes:
        title: "Input", "Weight" ... with the slot where there are several of them.
        holder: (name, number of its row or None) of the layer that quantizes it, if another one.
        fit: how the values fit into the grid, in a few words.
        is_cut: more than a few of them do not.
        facts: sentences.
        alt, channels_alt: what the pictures show, with the numbers.
        spread: how far channels differ, in words; empty where they do not.
    """

    title: str
    tensor: str
    holder: tuple[str, int | None] | None
    fit: str
    is_cut: bool
    facts: tuple[str, ...]
    histogram: Histogram | None
    alt: str
    channels: Channels | None
    channels_alt: str
    spread: str


@dataclass(frozen=True, slots=True)
class Cause:
    """One finding at the layer.

    Attributes:
        elsewhere: (name, number of its row) of the layer it is at, where that is another one.
    """

    code: str
    title: str
    gain: str
    evidence: tuple[str, ...]
    advice: str
    elsewhere: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """One layer.

    Attributes:
        number: of its row.
        figures: (what, value, anchor of its definition).
        balance: what its sources are of the isolated sum of the worst output, in words.
        origins, kinds: what its noise comes from and what makes it.
        made_of: the rest of that, in words.
        planned: what the recommended plan does to it, in words; the first says which plan.
    """

    layer: LayerError
    number: int
    is_open: bool
    figures: tuple[tuple[str, str, str], ...]
    codes: tuple[str, ...]
    balance: tuple[str, ...]
    origins: tuple[Piece, ...]
    kinds: tuple[Piece, ...]
    made_of: tuple[str, ...]
    causes: tuple[Cause, ...]
    planned: tuple[str, ...]
    tensors: tuple[Tensor, ...]


def context(analysis: Analysis) -> dict[str, Any]:  # Any: what the template reads
    """Return what `templates/profiles.html.j2` reads."""
    places = {layer.name: order for order, layer in enumerate(analysis.layers)}
    looks: dict[str, list[TensorProfile]] = {}
    for profile in analysis.profiles:
        if profile.layer in places:
            looks.setdefault(profile.layer, []).append(profile)
    worst = [x for x in tables.rank(analysis.layers) if x.name in looks or x.parts]
    known = [x.isolated_nsr for x in worst if x.isolated_nsr is not None]
    least = _LOUD * max(filter(math.isfinite, known), default=0.0)
    sources = _shares(analysis)
    cards = [
        Card(
            layer=layer,
            number=places[layer.name],
            is_open=rank == 0 or (rank < _OPEN and _is_loud(layer, least)),
            figures=_figures(layer),
            codes=tuple(dict.fromkeys(f.code for f in analysis.findings if f.layer == layer.name)),
            balance=sources.get(layer.name, ())[:_SOURCES],
            origins=pieces(layer, wording.ORIGINS),
            kinds=pieces(layer, wording.KINDS),
            made_of=_made_of(layer),
            causes=tuple(_causes(analysis, layer.name, places)),
            planned=_planned(analysis, layer.name),
            tensors=tuple(_tensors(looks.get(layer.name, ()), places)),
        )
        for rank, layer in enumerate(worst)
    ]
    return {
        "profiled": {card.number for card in cards},
        "profile_cards": cards,
        "profile_size": (WIDTH, HEIGHT),
        "profile_samples": _samples(analysis.profiles),
        "profile_drawn": any(t.histogram or t.channels for c in cards for t in c.tensors),
    }


def _is_loud(layer: LayerError, least: float) -> bool:
    nsr = layer.isolated_nsr
    return nsr is not None and nsr > 0 and not nsr < least


def _samples(found: Iterable[TensorProfile]) -> str:
    count = max((profile.samples for profile in found), default=0)
    return tables.plural(count, "sample") if count else ""


def _figures(layer: LayerError) -> tuple[tuple[str, str, str], ...]:
    values = (
        ("Isolated", layer.isolated_nsr, "isolated"),
        ("Local", layer.local_nsr, "local"),
        ("Graphwise", layer.graphwise_nsr, "graphwise"),
    )
    return tuple((what, tables.percent(nsr), at) for what, nsr, at in values if nsr is not None)


def _shares(analysis: Analysis) -> dict[str, tuple[str, ...]]:
    """Return layer -> what its sources are of the isolated sum of the worst output."""
    worst = analysis.worst_output.name
    found: dict[str, list[str]] = {}
    for row in ledger.contributors(analysis, worst):
        if row.share is None or row.share < 0.005:
            continue
        for name in row.source.layers:
            alone = row.source.kind == "layer" or len(row.source.layers) == 1
            what = "its own quantizers" if alone else row.title
            found.setdefault(name, []).append(
                f"{tables.share(row.share)} {tables.printable(what)}"
            )
    return {name: tuple(lines) for name, lines in found.items()}


def _made_of(layer: LayerError) -> tuple[str, ...]:
    """Say where it is clipped, and in which output channels most of the local noise is."""
    several = sum(layer.parts.get(origin, 0.0) > 0 for origin in wording.ORIGINS) > 1
    cut = clipped(layer) if several else ""
    found = [f"clipped: {cut}"] if cut else []
    if layer.channels:
        found.append(f"most local noise in output channels {noisiest(layer)}")
    return tuple(found)


def _causes(analysis: Analysis, name: str, places: dict[str, int]) -> Iterable[Cause]:
    """Return the findings at a layer, and those at others whose scale it has to share."""
    sources = analysis.balance.sources if analysis.balance else ()
    sharing = {n for s in sources if s.kind == "group" and name in s.layers for n in s.layers}
    for finding in analysis.findings:
        shared = finding.code == _SHARED and finding.layer in sharing and finding.layer in places
        if finding.layer == name or shared:
            where = finding.layer if finding.layer != name else None
            yield Cause(
                finding.code,
                wording.title(finding),
                wording.gain(finding),
                tuple(wording.evidence(finding.evidence, limit=8)),
                finding.advice,
                None if where is None else (where, places[where]),
            )


def _planned(analysis: Analysis, name: str) -> tuple[str, ...]:
    """Say what the recommended plan does to a layer, and what the plan was measured to leave."""
    plan = advice.recommended(analysis)
    if plan is None:
        return ()
    called = tables.printable(plan.name)
    own = [change for change in plan.changes if name in advice.layers_of(change)]
    everywhere = [change for change in plan.changes if not advice.layers_of(change)]
    lines = [_change(change) for change in (*own, *everywhere)]
    return (
        f"{called}: {'; '.join(lines) or 'nothing is changed here'}",
        f"with all of it {tables.remainder(plan.left)} of the output noise is left",
    )


def _change(change: Change) -> str:
    """Say what one change does.

    >>> _change(Change("precision", "a", "int8", "int16", 0.0, None, 0.02, ("a", "b")))
    'precision int8 → int16, with 1 other layer (mean NSR after it 2.00 %)'
    """
    places = advice.layers_of(change)
    where = "" if places else " everywhere"
    if len(places) > 1:
        where = f", with {tables.plural(len(places) - 1, 'other layer')}"
    before, after = (tables.printable(text) for text in (change.before, change.after))
    text = f"{advice.kind(change)} {before} → {after}{where}"
    if change.measured_nsr is None:
        return text
    return f"{text} (mean NSR after it {tables.percent(change.measured_nsr)})"


def _tensors(found: Sequence[TensorProfile], places: dict[str, int]) -> Iterable[Tensor]:
    titles = [_title(profile) for profile in found]
    for profile, title in zip(found, titles, strict=True):
        several = titles.count(title) > 1
        name = f"{title} {profile.slot.lstrip('inout')}" if several else title
        fit, facts = told(profile), tuple(facts_of(profile))
        about = f"{name} {tables.printable(profile.tensor)}"
        spread = channels_in_words(profile)
        yield Tensor(
            title=name,
            tensor=profile.tensor,
            holder=None
            if profile.holder is None
            else (profile.holder, places.get(profile.holder)),
            fit=fit,
            is_cut=profile.clipped >= _CUT and (profile.nsr or 0.0) >= _CUT,
            facts=facts,
            histogram=histogram(profile),
            alt=f"Histogram of {about}, FP32 against quantized. {'. '.join((fit, *facts))}.",
            channels=channels(profile),
            channels_alt=f"Ranges and noise of {tables.plural(profile.count, 'channel')} "
            f"of {about}. {spread}",
            spread=spread,
        )


def _title(profile: TensorProfile) -> str:
    side = "Input" if profile.slot.startswith("in") else "Output"
    return _ROLES.get(profile.role, side)
