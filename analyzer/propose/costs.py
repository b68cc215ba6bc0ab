# SPDX-License-Identifier: Apache-2.0
"""What a plan costs: two plans with their graphs go in, shares and a time come out.

A layer is *moved* where it runs wider than in the plan it is held against: in more bits, or in
float.  How wide it runs is the largest number in the name of its precision ("w8a16": 16), once
that is known to be true: a layer that the plan leaves out, that touches no active quantizer or
whose weights have none is float, whatever it is called.

Shares are of the FP32 graph before any edit.  What an edit adds counts as moved, too: the second
half of a split weight, the channels that were doubled, a node that was not there.

Without measurements, the time of a layer is

    multiply-accumulates * factor of its precision + elements written * bytes of each * BYTE

in multiples of one multiply-accumulate at the target's default precision.  The factors are the
target's (`Target.cost_factors`); a precision without one takes as many times as long as it has
bytes.  All of it is rough: kernels of one precision differ by more between shapes of a layer than
precisions do.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import onnx

from analyzer.errors import ConfigError, nearest
from analyzer.graph.latest import Latest
from analyzer.graph.view import GraphView, view_of
from analyzer.records import Cost, Model, QuantPlan
from analyzer.targets.base import Target

Latency = Mapping[tuple[str, str], float]  # (layer, precision) -> milliseconds

# Time of writing one byte, in multiply-accumulates.  Espressif's table of esp-nn 1.4.2 for the
# ESP32-P4 has 55 ticks per element of an addition and 1.4 per multiply-accumulate of a pointwise
# convolution, but requantizes by a multiplication; with shifts or vectors it is less.
BYTE = 16.0
_COLUMNS = ("layer", "precision", "milliseconds")
_FLOAT_BITS = 32


def cost_of(
    before: tuple[Model, QuantPlan],
    after: tuple[Model, QuantPlan],
    target: Target,
    latency: Latency | None = None,
) -> Cost:
    """Return what a plan costs beyond another one.

    Args:
        before: the graph without edits and the plan it is held against.
        after: the graph and the plan that are asked about, both of `target`.
        target: its factors weigh the multiply-accumulates.
        latency: the user's own measurements (see `read_latency`).  `milliseconds` then is the
            time of a whole run of `after`, and `time` that over the same of `before`.  A layer
            without a row for its precision takes its row for the other plan's precision times
            the ratio of their factors; one without any row is estimated at the rate of those
            that have one.
    """
    old = _befores.of((*before, target), lambda: _Seen(*before, target))
    new = _Seen(*after, target)
    milliseconds = None
    spent = [_estimate(old, latency is None), _estimate(new, latency is None)]
    if latency is not None:
        clock = _Clock(old, latency)
        spent = [clock.milliseconds(old), clock.milliseconds(new)]
        milliseconds = spent[1]
    return Cost(
        macs=_share(old, new, "macs"),
        elements=_share(old, new, "elements"),
        weight_bytes=_over(new.weight_bytes - old.weight_bytes, old.weight_bytes),
        nodes=max(len(new.nodes) - len(old.nodes), 0),
        time=spent[1] / spent[0] if spent[0] else 1.0,
        milliseconds=milliseconds,
    )


def read_latency(
    path: Path, known: Mapping[str, str], precisions: Collection[str] = ()
) -> Latency:
    """Read the user's own measurements.

    Args:
        path: of a CSV file with the columns layer, precision and milliseconds; others are
            ignored.
        known: layer -> its precision: the layers that may be named.
        precisions: that may be named; empty: any.

    Raises:
        ConfigError: if the file cannot be read, names something unknown or twice, or holds a
            time that is none.
    """
    found: dict[tuple[str, str], float] = {}
    for line, row in _rows(path):
        layer, precision, text = ((row[column] or "").strip() for column in _COLUMNS)
        place = f"{path.name}, line {line}:"
        if layer not in known:
            raise ConfigError(f"{place} there is no layer {layer!r}.", nearest(layer, known))
        if precisions and precision not in precisions:
            raise ConfigError(
                f"{place} there is no precision {precision!r}.", nearest(precision, precisions)
            )
        if (layer, precision) in found:
            raise ConfigError(
                f"{place} layer {layer!r} at {precision!r} was given before.",
                "Keep one of the two rows.",
            )
        found[layer, precision] = _time(text, place)
    if not found:
        raise ConfigError(f"{path.name} holds no measurement.", "Give at least one row.")
    return found


@dataclass(frozen=True)
class _Sizes:
    """What a graph has by itself, whatever the plan."""

    model: Model

    @cached_property
    def view(self) -> GraphView:
        return view_of(self.model.proto)

    @cached_property
    def nodes(self) -> dict[str, onnx.NodeProto]:
        """Name -> node, but for those that only cut slices out of outputs, to be looked at."""
        view = self.view
        needed: set[str] = set()
        waiting = [view.producer.get(t, "") for t in view.outputs if t not in self.model.slices]
        while waiting:
            name = waiting.pop()
            if name and name not in needed:
                needed.add(name)
                waiting += view.parents(view.nodes[name])
        return {name: node for name, node in view.nodes.items() if name in needed}

    @cached_property
    def macs(self) -> dict[str, int]:
        return {name: self.model.macs.get(name, 0) for name in self.nodes}

    @cached_property
    def elements(self) -> dict[str, int]:
        """Node -> floats that it writes."""
        kinds, shapes = self.model.dtypes, self.model.shapes
        return {
            name: sum(
                math.prod(shapes[t])
                for t in node.output
                if t and t in shapes and kinds.get(t, "").startswith("float")
            )
            for name, node in self.nodes.items()
        }


_graphs: Latest[_Sizes] = Latest(4)


@dataclass(frozen=True)
class _Seen:
    """One plan, and how its layers run.

    Attributes:
        model: the graph that the plan belongs to.
    """

    model: Model
    plan: QuantPlan
    target: Target

    @property
    def view(self) -> GraphView:
        return self._sizes.view

    @property
    def nodes(self) -> dict[str, onnx.NodeProto]:
        """Name -> node, see `_Sizes`."""
        return self._sizes.nodes

    @property
    def macs(self) -> dict[str, int]:
        return self._sizes.macs

    @property
    def elements(self) -> dict[str, int]:
        """Node -> floats that it writes."""
        return self._sizes.elements

    @cached_property
    def _sizes(self) -> _Sizes:
        return _graphs.of((self.model,), lambda: _Sizes(self.model))

    @cached_property
    def stored(self) -> dict[str, int]:
        """Tensor with an active quantizer -> the bits it is held in."""
        found: dict[str, int] = {}
        for quantizer in self.plan.quantizers:
            if quantizer.active:
                found[quantizer.tensor] = max(found.get(quantizer.tensor, 0), quantizer.bits)
        return found

    @cached_property
    def precision(self) -> dict[str, str]:
        """Node -> the precision it really runs in."""
        return {name: self._precision(node) for name, node in self.nodes.items()}

    @cached_property
    def weight_bytes(self) -> float:
        """Size of all float constants as they are stored."""
        return math.fsum(
            math.prod(tensor.dims) * _storage(self.stored.get(name, _FLOAT_BITS)) / 8
            for name, tensor in self.view.initializers.items()
            if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
        )

    @cached_property
    def layers(self) -> frozenset[str]:
        return frozenset(self.plan.layers)

    def bits(self, name: str) -> int:
        """Return how wide a node runs."""
        named = _bits(self.precision[name])
        if named:
            return named
        held = [q.bits for q in self.plan.quantizers if q.node == name and q.role != "bias"]
        return max(held, default=_FLOAT_BITS)

    def factor(self, name: str, precision: str | None = None) -> float:
        """Return the time of a multiply-accumulate at a node, or of it in another precision."""
        asked = precision or self.precision[name]
        known = self.target.cost_factors.get(asked)
        if known is not None:
            return known
        return (_bits(asked) or self.bits(name)) / 8

    def units(self, name: str) -> float:
        """Return the time of a node, see the top of this file."""
        written = self.elements[name] * _storage(self.bits(name)) / 8
        return self.macs[name] * self.factor(name) + BYTE * written

    def _precision(self, node: onnx.NodeProto) -> str:
        named = self.plan.precision.get(node.name)
        if named is not None and (_is_float(named) or self._quantized(node)):
            return named
        # of what is left out, nothing more is known than what the target has for it
        floats = [p for p in self.target.precisions if _is_float(p)]
        return floats[0] if floats else f"fp{_FLOAT_BITS}"

    def _quantized(self, node: onnx.NodeProto) -> bool:
        """Tell whether a node touches an active quantizer, and has one for its weights, if any."""
        weights = [t for t in node.input if self._is_weight(t)] if self.macs[node.name] else []
        if weights:
            return any(t in self.stored for t in weights)
        return any(t in self.stored for t in (*node.input, *node.output))

    def _is_weight(self, tensor: str) -> bool:
        """Tell a weight from a bias, and from what is no number to be multiplied with."""
        proto = self.view.initializers.get(tensor)
        return proto is not None and len(proto.dims) > 1


_befores: Latest[_Seen] = Latest(2)


class _Clock:
    """Times by the user's own measurements.

    Args:
        base: the plan without changes: what has no row runs at the rate of its layers that do.
    """

    def __init__(self, base: _Seen, latency: Latency) -> None:
        self._base = base
        self._rows: dict[str, dict[str, float]] = {}
        for (layer, precision), value in sorted(latency.items()):
            self._rows.setdefault(layer, {})[precision] = value
        measured = [name for name in self._rows if name in base.nodes]
        units = sum(base.units(name) for name in measured)
        self._rate = sum(self._measured(base, n) for n in measured) / units if units else 0.0

    def milliseconds(self, seen: _Seen) -> float:
        """Return the time of a run: of all layers, and of what an edit added."""
        counted = [
            name
            for name in seen.nodes
            if name in self._rows
            or name in self._base.layers
            or name in seen.layers
            or name not in self._base.nodes
        ]
        return math.fsum(
            self._measured(seen, name) if name in self._rows else self._rate * seen.units(name)
            for name in counted
        )

    def _measured(self, seen: _Seen, name: str) -> float:
        rows, asked = self._rows[name], seen.precision[name]
        usual = self._base.precision.get(name, asked)
        like = next((p for p in (asked, usual) if p in rows), next(iter(rows)))
        own, other = seen.macs[name], self._base.macs.get(name, 0)
        grown = own / other if own and other else 1.0
        return rows[like] * grown * seen.factor(name, asked) / seen.factor(name, like)


def _estimate(seen: _Seen, wanted: bool) -> float:
    return math.fsum(seen.units(name) for name in seen.nodes) if wanted else 0.0


def _share(old: _Seen, new: _Seen, what: str) -> float:
    """Return how much runs wider or was added, of all that there was.

    Of elements, those of the layers that either plan quantizes count.
    """
    before: dict[str, int] = getattr(old, what)
    after: dict[str, int] = getattr(new, what)
    if what == "elements":
        before = {name: n for name, n in before.items() if name in old.layers}
        after = {
            name: n
            for name, n in after.items()
            if name in old.layers or name in new.layers or name not in old.nodes
        }
    moved = sum(
        count
        if name in old.nodes and new.bits(name) > old.bits(name)
        else max(count - before.get(name, 0), 0)
        for name, count in after.items()
    )
    return _over(moved, sum(before.values()))


def _over(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


@cache
def _bits(precision: str) -> int:
    """Return the largest number in the name of a precision; 0 where there is none."""
    return max(map(int, re.findall(r"\d+", precision)), default=0)


def _is_float(precision: str) -> bool:
    return precision.startswith(("fp", "bf", "float"))


def _storage(bits: int) -> int:
    """Return the width of the type that holds so many bits: 20 are kept in 32, 40 in 64."""
    return next((width for width in (8, 16, 32, 64) if bits <= width), bits)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and fields of every row that is not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The table of latencies {str(path)!r} cannot be read: {error}.",
            "Give a CSV file in UTF-8.",
        ) from error
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    header = [(name or "").strip().lower() for name in reader.fieldnames or ()]
    missing = [column for column in _COLUMNS if column not in header]
    if missing:
        raise ConfigError(
            f"{path.name} has no column {missing[0]!r}.",
            f"Its first line must be {','.join(_COLUMNS)}.",
        )
    reader.fieldnames = header
    for row in reader:
        if any(row.get(column) for column in _COLUMNS):
            yield reader.line_num, row


def _time(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ConfigError(
            f"{place} {text!r} is no time in milliseconds.", "Expected a number from 0 up."
        )
    return value
