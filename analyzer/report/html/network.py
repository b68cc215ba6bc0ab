# SPDX-License-Identifier: Apache-2.0
"""The network drawn as a graph: an `Analysis` in, what its template reads out.

Every layer has a class of noise for its colour, two to a decade.  Where the boxes stand is found
in the reader's browser; what is here suffices without script: a strip with one cell for each layer
(or for each run of neighbours in large networks) in execution order.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from typing import Any

from analyzer.records import Analysis, LayerError, Network
from analyzer.report import advice, tables

SHADES = 9
# The brightest class never begins below the first: harmless noise shall not look like a fire.
_BRIGHTEST = (3e-3, 1.0)
# Above this a drawing cannot be read and takes seconds to lay out; the strip and the table can.
DRAWN = 2000
_CELLS = 400  # in the strip; of longer networks a cell stands for several layers
_NUMBERED = 10  # of the worst layers carry their rank
_LABEL = 22  # characters in a box
_ENDS = 20  # of the name of a graph input or output
_OP = 9  # of an op type
_UNKNOWN = -1  # class of what was not measured
_SOURCE_MAP = re.compile(r"//# sourceMappingURL=.*")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the strip.

    Attributes:
        layer: number of the layer it leads to: the worst of those it stands for.
        style: names of CSS classes.
        title: what it stands for, in words.
        rank: 1 for the worst layer of all ...; 0: not among the worst.
    """

    layer: int
    style: str
    title: str
    rank: int


def context(analysis: Analysis) -> dict[str, Any]:  # Any: what the template reads
    """Return what `templates/network.html.j2` reads."""
    if not analysis.layers:
        return {"network_cells": []}
    marks = _Marks.of(analysis)
    note = _note(analysis)
    drawn = not note
    return {
        "network_cells": _cells(analysis.layers, marks),
        "network_run": _run(len(analysis.layers)),
        "network_legend": _legend(marks.starts[0]),
        "network_unknown": any(nsr is None for x in analysis.layers for nsr in _errors(x)),
        "network_findings": any(layer.findings for layer in analysis.layers),
        "network_groups": bool(marks.groups),
        "network_changed": marks.plan,
        "network_note": note,
        "network_data": _json(_data(analysis, marks)) if drawn else None,
        "network_worker": _worker() if drawn else None,
    }


def bounds(values: Iterable[float | None]) -> tuple[float, ...]:
    """Return where classes begin but for the first: ones and threes of decades, to the worst NSR.

    >>> bounds([0.0476, 0.0001, None])
    (1e-05, 3e-05, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
    """
    worst = max((v for v in values if v is not None and math.isfinite(v)), default=0.0)
    least, most = _BRIGHTEST
    worst = min(max(worst, least), most)
    # Written as decimals and read back: powers of ten by multiplication are off in the last digit.
    steps = [float(f"{digit}e{power}") for power in range(-7, 1) for digit in (1, 3)]
    end = bisect_right(steps, worst)
    return tuple(steps[end - SHADES + 1 : end])


def shade(nsr: float | None, starts: Sequence[float]) -> int | None:
    """Return the class of an NSR, 0 for the least noise; NaN counts as the worst there is.

    >>> [shade(nsr, (0.01, 0.03)) for nsr in (0.0, 0.01, 0.02, float("inf"), None)]
    [0, 1, 1, 2, None]
    """
    if nsr is None:
        return None
    return len(starts) if math.isnan(nsr) else bisect_right(starts, nsr)


def labels(layers: Sequence[LayerError]) -> list[str]:
    """Return short names: without what all have in common, and without the op type at the end.

    >>> labels([LayerError("/m/a/conv/Conv", "Conv"), LayerError("/m/b/Concat_1", "Concat")])
    ['a', 'b/Concat_1']
    """
    paths = [layer.name.strip("/").split("/") for layer in layers]
    common = 0
    shortest = min(map(len, paths), default=0) - 1
    while common < shortest and len({path[common] for path in paths}) == 1:
        common += 1
    common = common if len(paths) > 1 else 0
    ops = {layer.op_type.lower() for layer in layers}
    return [tables.shorten(tables.printable(_short(path[common:], ops)), _LABEL) for path in paths]


def _short(path: Sequence[str], ops: Iterable[str]) -> str:
    end = len(path)
    while end > 1 and path[end - 1].lower() in ops:
        end -= 1
    return "/".join(path[:end])


@dataclass(frozen=True, slots=True)
class _Marks:
    """What is said of layers beside their noise.

    Attributes:
        ranks: layer number -> 1 for the worst ...; only where the isolated error was measured.
        groups: name of a group with a common scale -> its number, from 1, in execution order;
            only of those with several layers.
        changes: layer name -> what the recommended plan changes.
        plan: name of that plan, empty where it changes no single layers.
        starts: where the classes of each number begin.
    """

    ranks: Mapping[int, int]
    groups: Mapping[str, int]
    changes: Mapping[str, str]
    plan: str
    starts: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, analysis: Analysis) -> _Marks:
        numbers = {id(layer): number for number, layer in enumerate(analysis.layers)}
        measured = [x for x in tables.rank(analysis.layers) if x.isolated_nsr is not None]
        held = Counter(x.group for x in analysis.layers if x.group is not None)
        groups = [name for name, count in held.items() if count > 1]
        best = advice.recommended(analysis)
        changes: dict[str, list[str]] = {}
        for change in best.changes if best is not None else ():
            text = f"{advice.kind(change)} {change.before} → {change.after}"
            for name in advice.layers_of(change):
                changes.setdefault(name, []).append(text)
        known = {layer.name for layer in analysis.layers}
        return cls(
            {numbers[id(layer)]: rank for rank, layer in enumerate(measured, 1)},
            {name: number for number, name in enumerate(groups, 1)},
            {name: tables.printable("; ".join(texts)) for name, texts in changes.items()},
            tables.printable(best.name) if best is not None and known & changes.keys() else "",
            tuple(bounds(values) for values in zip(*map(_errors, analysis.layers), strict=True)),
        )

    def group(self, layer: LayerError) -> int:
        """Return the number of a layer's group, 0 for none."""
        return 0 if layer.group is None else self.groups.get(layer.group, 0)


def _note(analysis: Analysis) -> str:
    """Say why there is no drawing; empty where there is one."""
    count = len(analysis.layers)
    if analysis.network is None:
        return "Not drawn as a graph: this file does not say how the layers hang together."
    if count > DRAWN:
        return f"Not drawn as a graph: {count:,} layers are more than can be read in one."
    if count > 1 and not analysis.network.edges:
        return "Not drawn as a graph: no layer hands a value to another."
    return ""


def _run(count: int) -> int:
    """Return how many layers a cell of the strip stands for."""
    return max(1, math.ceil(count / _CELLS))


def _cells(layers: Sequence[LayerError], marks: _Marks) -> list[Cell]:
    size = _run(len(layers))
    return [
        _cell(layers, range(start, min(start + size, len(layers))), marks)
        for start in range(0, len(layers), size)
    ]


def _cell(layers: Sequence[LayerError], run: range, marks: _Marks) -> Cell:
    worst = min(run, key=lambda number: marks.ranks.get(number, math.inf))
    rank = marks.ranks.get(worst, 0)
    styles = [_style(layers[worst].isolated_nsr, marks.starts[0])]
    if any(layers[number].findings for number in run):
        styles.append("found")
    several = f"{run[0]} to {run[-1]}, the worst: " if len(run) > 1 else ""
    return Cell(
        worst,
        " ".join(styles),
        several + _words(worst, layers[worst], marks),
        rank if rank <= _NUMBERED else 0,
    )


def _words(number: int, layer: LayerError, marks: _Marks) -> str:
    """Say all there is to say of a layer in one line."""
    rank = marks.ranks.get(number)
    isolated = f"isolated {tables.percent(layer.isolated_nsr)}"
    group = marks.group(layer)
    change = marks.changes.get(layer.name)
    parts = [
        # Isolates keep names written from right to left from turning the line around.
        f"{number} \u2066{tables.printable(layer.name)}\u2069",
        tables.printable(layer.op_type),
        f"{isolated} (rank {rank})" if rank else isolated,
        f"local {tables.percent(layer.local_nsr)}",
        f"graphwise {tables.percent(layer.graphwise_nsr)}",
        tables.printable(" ".join(layer.findings)),
        f"shares scale s{group}" if group else "",
        f"{marks.plan}: {change}" if change else "",
    ]
    return " \N{MIDDLE DOT} ".join(part for part in parts if part)


def _style(nsr: float | None, starts: Sequence[float]) -> str:
    found = shade(nsr, starts)
    return "none" if found is None else f"shade{found}"


def _legend(starts: Sequence[float]) -> list[str]:
    """Say of each class which NSRs it is for, the unit at its end."""
    texts = [f"{100 * start:g}" for start in starts]
    between = [f"{low} to {high} %" for low, high in pairwise(texts)]
    return [f"below {texts[0]} %", *between, f"{texts[-1]} % and more"]


def _data(analysis: Analysis, marks: _Marks) -> dict[str, Any]:  # Any: JSON for the script
    """Return layers and edges as the script reads them, fields without names: bytes."""
    assert analysis.network is not None
    names = labels(analysis.layers)
    worst = sorted(marks.ranks, key=lambda number: marks.ranks[number])
    # What a cell of the strip says of its layer is not said again.
    told = _run(len(names)) == 1
    return {
        "layers": [
            [
                tables.shorten(tables.printable(layer.op_type), _OP),
                names[number],
                marks.group(layer),
                int(bool(layer.findings)),
                int(layer.name in marks.changes),
                [
                    _UNKNOWN if nsr is None else shade(nsr, starts)
                    for nsr, starts in zip(_errors(layer), marks.starts, strict=True)
                ],
                [tables.percent(nsr) for nsr in _errors(layer)],
                *([] if told else [_words(number, layer, marks)]),
            ]
            for number, layer in enumerate(analysis.layers)
        ],
        "worst": worst[:_NUMBERED],
        "legends": [_legend(starts) for starts in marks.starts],
        **_ends(analysis.network, len(analysis.layers)),
    }


def _errors(layer: LayerError) -> tuple[float | None, ...]:
    return layer.isolated_nsr, layer.local_nsr, layer.graphwise_nsr


def _ends(network: Network, count: int) -> dict[str, Any]:
    """Return edges as one flat list, graph inputs and outputs as [name, layers].

    A layer only reads from earlier ones; edges of damaged files that say otherwise are left out.
    """
    edges = [end for a, b in network.edges if 0 <= a < b < count for end in (a, b)]

    def named(ends: Mapping[str, tuple[int, ...]]) -> list[list[Any]]:
        return [
            [
                tables.printable(name),
                tables.shorten(tables.printable(name), _ENDS),
                [number for number in numbers if 0 <= number < count],
            ]
            for name, numbers in ends.items()
        ]

    return {"edges": edges, "inputs": named(network.inputs), "outputs": named(network.outputs)}


def _json(data: object) -> Any:  # Any: Markup of a package imported only where it is used
    from jinja2.utils import htmlsafe_json_dumps

    return htmlsafe_json_dumps(
        data, dumps=json.dumps, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )


def _worker() -> Any:  # Any: Markup of a package imported only where it is used
    """Return the text of the worker: the layout library with its licence, and our part."""
    from markupsafe import Markup

    here = resources.files("analyzer.report.html")
    vendored = here.joinpath("vendor")
    licence = vendored.joinpath("dagre.LICENSE.txt").read_text("utf-8").strip()
    library = vendored.joinpath("dagre.min.js").read_text("utf-8")
    layout = here.joinpath("assets", "layout.js").read_text("utf-8")
    # A source map that is not there would be asked for by the browser's tools for developers.
    library = _SOURCE_MAP.sub("", library).strip()
    # Markup: these files are ours or vendored, and escaping would break them.
    return Markup(f"/* dagre\n{licence}\n*/\n{library}\n{layout}")  # noqa: S704
