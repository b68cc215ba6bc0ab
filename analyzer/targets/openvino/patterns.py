# SPDX-License-Identifier: Apache-2.0
"""Patterns of operations: which run as one kernel and which NNCF leaves in float.

After `openvino/hardware/fused_patterns.py`, `openvino/quantization/ignored_patterns.py` and the
matching of `common/graph/graph_matching.py` of NNCF 3.4.  Larger patterns come first, an operation
belongs to one match only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analyzer.targets.openvino.operations import Operation

LINEAR = frozenset(
    """
    Convolution GroupConvolution DepthwiseConvolution ConvolutionBackpropData
    GroupConvolutionBackpropData MatMul
    """.split()
)
ACTIVATION = frozenset(
    "Relu Clamp Elu PRelu Sigmoid HSigmoid HardSigmoid Swish HSwish Selu".split()
)
ARITHMETIC = frozenset(["Add", "Subtract", "Multiply", "Divide"])
ELEMENTWISE = ARITHMETIC | frozenset(
    """
    Less LessEqual Greater GreaterEqual Equal NotEqual FloorMod LogicalOr LogicalXor LogicalAnd
    Maximum Minimum
    """.split()
)
_ANY: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Pattern:
    """A small graph of operation kinds.

    Attributes:
        kinds: allowed kinds per place; empty: any, and such a place does not count as matched.
        edges: (from, to) places, as often as there are connections.
        left_out: places that must match but do not count as matched.
    """

    kinds: tuple[frozenset[str], ...]
    edges: tuple[tuple[int, int], ...]
    left_out: frozenset[int] = frozenset()

    @property
    def size(self) -> int:
        """Number of places with a kind."""
        return sum(bool(kinds) for kinds in self.kinds)


def chain(*kinds: str | frozenset[str]) -> Pattern:
    """Return the pattern of operations in a row; a string names one kind or several.

    >>> chain("Clamp", "Multiply").edges
    ((0, 1),)
    """
    places = tuple(frozenset(k.split()) if isinstance(k, str) else k for k in kinds)
    return Pattern(places, tuple((i, i + 1) for i in range(len(places) - 1)))


def _graph(kinds: str, *edges: tuple[int, int], left_out: Sequence[int] = ()) -> Pattern:
    named = {"LINEAR": LINEAR, "*": _ANY}
    places = tuple(
        named[word] if word in named else frozenset(word.split("|")) for word in kinds.split()
    )
    return Pattern(places, edges, frozenset(left_out))


_SHIFT, _SCALE = "Add Subtract", "Multiply Divide"
_INPUTS = (
    ("Parameter",),
    ("Parameter", "Transpose"),
    ("Parameter", "Convert", "Transpose"),
)
FUSED = (
    chain("Add", "Multiply", "Add", "Result"),
    chain(
        "Subtract", "Multiply", "Multiply", "Add", "Unsqueeze", "Concat", "Concat", "Reshape",
        "Convolution",
    ),
    chain("MVN", "Multiply", "Add"),
    chain("NormalizeL2", "Multiply"),
    chain(LINEAR, "Add"),
    chain("Multiply", "Add"),
    chain(_SHIFT, _SCALE),
    _graph("Exp ReduceSum Divide", (0, 1), (0, 2), (1, 2)),
    _graph(
        "LINEAR Add Add Clamp Multiply Multiply", (0, 1), (1, 2), (2, 3), (1, 4), (3, 4), (4, 5)
    ),
    _graph(
        "Add|Multiply|ReduceMean|Squeeze Add Clamp Multiply Multiply",
        (0, 1), (1, 2), (2, 3), (0, 4), (3, 4),
    ),
    _graph("LINEAR Add Add Clamp Multiply", (0, 1), (1, 2), (2, 3), (1, 4), (3, 4)),
    _graph("LINEAR Add HardSigmoid Multiply", (0, 1), (1, 2), (1, 3), (2, 3)),
    _graph("Exp ReduceSum Power Multiply", (0, 1), (1, 2), (0, 3), (2, 3)),
    *(chain(*start, "Add Multiply Subtract") for start in _INPUTS),
    *(chain(*start, "Multiply", "Add") for start in _INPUTS),
    *(chain(*start, "Split", "Concat", "Add") for start in _INPUTS),
    *(chain(*start, "Split", "Concat", "Multiply", "Add") for start in _INPUTS),
    chain("Parameter", _SHIFT, _SCALE),
    chain(ARITHMETIC, ACTIVATION),
    chain(ARITHMETIC, ACTIVATION, ARITHMETIC),
    chain(LINEAR, ACTIVATION),
    chain(LINEAR, ARITHMETIC),
    Pattern((LINEAR, ARITHMETIC), ((0, 1), (0, 1))),
    chain(LINEAR, ARITHMETIC, ACTIVATION),
    chain(LINEAR, _SHIFT, _SCALE),
    chain(LINEAR, ARITHMETIC, ACTIVATION, ARITHMETIC),
    chain(LINEAR, "Squeeze", ACTIVATION),
    chain(LINEAR, "Squeeze", ARITHMETIC, ACTIVATION),
    chain("MVN", "Multiply", "Add", ACTIVATION),
    chain(LINEAR, "Add", ACTIVATION, "Unsqueeze", "Multiply", "Add", "Squeeze"),
    chain("Clamp", "Multiply"),
    chain("Multiply", "Add", ACTIVATION),
    chain(LINEAR, "Multiply", "Add"),
    chain(LINEAR, "Add", "Multiply", "Add"),
    chain(LINEAR, ACTIVATION, "Multiply", "Add"),
    chain(LINEAR, "Add", ACTIVATION, "Multiply", "Add"),
    chain(LINEAR, ELEMENTWISE),
    chain(LINEAR, "Add", ELEMENTWISE),
    chain(LINEAR, ACTIVATION, ELEMENTWISE),
    chain(LINEAR, "Add", ACTIVATION, ELEMENTWISE),
)  # fmt: skip
IGNORED = (
    chain("Unsqueeze", "Multiply", "Add", "Squeeze"),
    chain("Equal", "LogicalNot"),
    _graph(
        "* ReduceMean LINEAR Add Relu|PRelu|Swish LINEAR Add Sigmoid|HSigmoid Multiply",
        (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (0, 8),
        left_out=(1, 8),
    ),
)  # fmt: skip


class Matcher:
    """Finds patterns in a list of operations."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = operations
        self.into: list[list[int]] = [[e.source for e in op.inputs] for op in operations]
        self.out: list[list[int]] = [[] for _ in operations]
        for index, sources in enumerate(self.into):
            for source in sources:
                self.out[source].append(index)

    def find(self, patterns: Sequence[Pattern], *, strict: bool) -> list[list[int]]:
        """Return disjoint matches, each in topological order.

        Args:
            patterns: to look for.
            strict: refuse matches whose inner tensors are read outside, or that read more than
                their first place does.
        """
        taken: set[int] = set()
        matches = []
        for pattern in sorted(patterns, key=lambda p: -p.size):
            for match in self._matches(pattern):
                if strict and not self._is_closed(pattern, match):
                    continue
                kept = [
                    index
                    for place, index in enumerate(match)
                    if pattern.kinds[place] and place not in pattern.left_out
                ]
                if taken.isdisjoint(kept):
                    taken.update(kept)
                    matches.append(sorted(kept))
        return matches

    def _matches(self, pattern: Pattern) -> Iterator[tuple[int, ...]]:
        """Yield the operations at the places of a pattern, by every way to lay it."""
        for start, operation in enumerate(self.operations):
            if not pattern.kinds[0] or operation.kind in pattern.kinds[0]:
                yield from self._extend(pattern, (start,))

    def _extend(self, pattern: Pattern, found: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        place = len(found)
        if place == len(pattern.kinds):
            yield found
            return
        source = next(a for a, b in pattern.edges if b == place)
        for candidate in dict.fromkeys(self.out[found[source]]):
            kinds = pattern.kinds[place]
            if kinds and self.operations[candidate].kind not in kinds:
                continue
            if candidate not in found and self._connects(pattern, (*found, candidate)):
                yield from self._extend(pattern, (*found, candidate))

    def _connects(self, pattern: Pattern, found: tuple[int, ...]) -> bool:
        """Tell whether the last place is connected to the others just as the pattern says."""
        last = len(found) - 1
        return all(
            self.out[found[a]].count(found[b]) == pattern.edges.count((a, b))
            for place in range(last)
            for a, b in ((place, last), (last, place))
        )

    def _is_closed(self, pattern: Pattern, match: tuple[int, ...]) -> bool:
        inside = set(match)
        for place, index in enumerate(match):
            if not pattern.kinds[place]:
                continue
            first = all(b != place for _, b in pattern.edges)
            last = all(a != place for a, _ in pattern.edges)
            if not last and not inside.issuperset(self.out[index]):
                return False
            if not first and not inside.issuperset(self.into[index]):
                return False
        return True
