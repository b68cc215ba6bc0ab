# SPDX-License-Identifier: Apache-2.0
"""Which row of one analysis is which of another: pairs (new, old) and what is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from analyzer.records import Analysis, Finding, LayerError, OutputError, Source, TaskScore
from analyzer.report.ledger import in_families

Row = TypeVar("Row")
Key = tuple[Callable[[Row], Hashable], Callable[[Row], Hashable]]  # of a new row, of an old one
Matched = tuple[list[tuple[Row, Row]], list[Row], list[Row]]  # pairs, only new, only old


def paired(new: Sequence[Row], old: Sequence[Row], keys: Iterable[Key[Row]]) -> Matched[Row]:
    """Match rows one to one by the first key that is equal; None is equal to nothing.

    Returns:
        matched rows (new, old) in the order of `new`; what is left of `new`, and of `old`.
    """
    found: dict[int, int] = {}
    for of_new, of_old in keys:
        free: dict[Hashable, list[int]] = {}
        for place in sorted(set(range(len(old))) - set(found.values()), reverse=True):
            free.setdefault(of_old(old[place]), []).append(place)
        for place, row in enumerate(new):
            key = of_new(row)
            if place not in found and key is not None and free.get(key):
                found[place] = free[key].pop()
    taken = set(found.values())
    return (
        [(new[place], old[found[place]]) for place in sorted(found)],
        [row for place, row in enumerate(new) if place not in found],
        [row for place, row in enumerate(old) if place not in taken],
    )


def match_outputs(new: Analysis, old: Analysis) -> Matched[OutputError]:
    """Match outputs by name; whole ones that are left by place, if both have as many of them.

    Slices follow the output that they are of.
    """
    found, fresh, gone = paired(
        new.outputs, old.outputs, [_same(lambda o: (o.name, o.slice_of is None))]
    )
    whole, lost = ([o for o in rest if o.slice_of is None] for rest in (fresh, gone))
    if len(whole) == len(lost):
        found += zip(whole, lost, strict=True)
        fresh = [o for o in fresh if o.slice_of is not None]
        gone = [o for o in gone if o.slice_of is not None]
    places = {(o.name, o.slice_of): place for place, o in enumerate(in_families(new.outputs))}
    return sorted(found, key=lambda pair: places[pair[0].name, pair[0].slice_of]), fresh, gone


def match_scores(new: Analysis, old: Analysis) -> Matched[TaskScore]:
    """Match scores by name and by what they were held against."""
    return paired(new.task, old.task, [_same(lambda s: (s.name, s.against))])


def match_layers(new: Analysis, old: Analysis) -> tuple[Matched[LayerError], set[str]]:
    """Match layers by name, others by most nodes in common, first those of the same op type.

    Returns:
        the match, and the new names of those that were matched by their nodes.
    """
    found, fresh, gone = paired(new.layers, old.layers, [_same(lambda layer: layer.name)])
    holders: dict[str, list[int]] = {}
    for place, layer in enumerate(gone):
        for node in _nodes(layer):
            holders.setdefault(node, []).append(place)
    taken: dict[int, LayerError] = {}
    for layer in fresh:
        shared = Counter(p for node in _nodes(layer) for p in holders.get(node, ()))
        free = [place for place in shared if place not in taken]
        if free:
            best = max(free, key=lambda p: (gone[p].op_type == layer.op_type, shared[p], -p))
            taken[best] = layer
    by_nodes = {layer.name for layer in taken.values()}
    found += [(layer, gone[place]) for place, layer in taken.items()]
    return (
        found,
        [layer for layer in fresh if layer.name not in by_nodes],
        [layer for place, layer in enumerate(gone) if place not in taken],
    ), by_nodes


def _nodes(layer: LayerError) -> Iterable[str]:
    """Return the nodes of the user's model that a layer stands for."""
    return dict.fromkeys((*layer.source_nodes, layer.name))


def match_findings(new: Analysis, old: Analysis, names: Mapping[str, str]) -> Matched[Finding]:
    """Match findings by code and layer, of several there by their slot first.

    `names` maps the old name of a layer to its new one.
    """

    def now(finding: Finding) -> str | None:
        return None if finding.layer is None else names.get(finding.layer, finding.layer)

    def slot(finding: Finding) -> str:
        return str(finding.evidence.get("slot") or finding.evidence.get("tensor") or "")

    return paired(
        new.findings,
        old.findings,
        [
            (lambda f: (f.code, f.layer, slot(f)), lambda f: (f.code, now(f), slot(f))),
            (lambda f: (f.code, f.layer), lambda f: (f.code, now(f))),
        ],
    )


def match_sources(new: Analysis, old: Analysis, names: Mapping[str, str]) -> Matched[Source]:
    """Match sources of noise by name, else by the layers that hold them; `names` as above."""

    def renamed(source: Source) -> tuple[str, str]:
        name, colon, slot = source.name.rpartition(":")
        if source.kind == "layer" or not colon:
            return source.kind, names.get(source.name, source.name)
        return source.kind, f"{names.get(name, name)}:{slot}"

    def moved(source: Source) -> tuple[str, frozenset[str]]:
        return source.kind, frozenset(names.get(layer, layer) for layer in source.layers)

    if new.balance is None or old.balance is None:
        return [], [], []  # an older release kept no balance: nothing is gone
    return paired(
        new.balance.sources,
        old.balance.sources,
        [
            (lambda s: (s.kind, s.name), renamed),
            (lambda s: (s.kind, frozenset(s.layers)), moved),
        ],
    )


def _same(of: Callable[[Row], Hashable]) -> Key[Row]:
    return of, of
