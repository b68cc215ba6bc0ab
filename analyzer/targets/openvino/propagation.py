# SPDX-License-Identifier: Apache-2.0
"""Where quantizers come to stand: they start at the inputs of operations and move up.

Imitates `common/quantization/quantizer_propagation/solver.py` and `graph.py` of NNCF 3.4 with the
rule "merge all in one".  A quantizer moves towards the producer of its tensor, through operations
that do not mind, and those of several readers become one where all of them can live with the same
grid.  Places are hooks: one before every input of a kernel, one behind every kernel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from analyzer.targets.openvino.kernels import Kernel
from analyzer.targets.openvino.patterns import ELEMENTWISE
from analyzer.targets.openvino.traits import ATTENTION, UNIFYING, Grid, grids, merged

# ("before", kernel, input) | ("behind", kernel, 0) | ("in", kernel, 0): the kernel itself
Place = tuple[Literal["before", "behind", "in"], int, int]
_Status = Literal["go", "stay", "wait", "merge"]


@dataclass(eq=False, slots=True)
class Moving:
    """A quantizer on its way.

    Attributes:
        place: the hook it is at.
        grids: it may still have, best first.
        sinks: kernels that it serves.
        steps: edges it has moved up by itself.
        group: number shared with quantizers that must have the same scale.
        embedding: kernel whose weights it stands behind, if it ended there.
        covers: places between it and its sinks.
    """

    place: Place
    grids: tuple[Grid, ...]
    sinks: set[int]
    steps: int = 0
    group: int | None = None
    embedding: int | None = None
    covers: set[Place] = field(default_factory=set)


def propagate(kernels: list[Kernel], *, symmetric: bool) -> list[Moving]:
    """Return the quantizers at their final places.

    Args:
        kernels: in topological order.
        symmetric: grids of activations.
    """
    solver = _Solver(kernels)
    solver.start(symmetric)
    while solver.queue:
        solver.step(solver.queue.popleft())
    solver.drop_lone_elementwise()
    solver.drop_repeated()
    return solver.finished


class _Solver:
    def __init__(self, kernels: list[Kernel]) -> None:
        self.kernels = kernels
        self.queue: deque[Moving] = deque()
        self.finished: list[Moving] = []
        self.at: dict[Place, Moving] = {}
        self.over: dict[Place, list[Moving]] = {}  # place -> quantizers that cover it
        self.waiting: dict[Place, list[Moving]] = {}
        self.groups = 0
        self.near_output = self._near_output()

    # -- the graph of places

    def below(self, place: Place) -> list[Place]:
        """Return the places right behind `place`."""
        where, kernel, _ = place
        if where == "before":
            return [("in", kernel, 0)]
        if where == "in":
            return [("behind", kernel, 0)]
        return [("before", *reader) for reader in self.kernels[kernel].readers]

    def above(self, place: Place) -> list[Place]:
        """Return the hooks right before the hook `place`; none behind a kernel left in float."""
        where, kernel, port = place
        if where == "before":
            return [("behind", self.kernels[kernel].inputs[port].source, 0)]
        if self.kernels[kernel].ignored:
            return []
        return [("before", kernel, i) for i in range(len(self.kernels[kernel].inputs))]

    def is_integer(self, place: Place) -> bool:
        """Tell whether integers flow at a hook; one integer reader makes them so for all."""
        where, kernel, port = place
        if where == "before":
            if self.kernels[kernel].inputs[port].integer:
                return True
            place = ("behind", self.kernels[kernel].inputs[port].source, 0)
        return any(self.kernels[k].inputs[i].integer for k, i in self.kernels[place[1]].readers)

    # -- the start

    def start(self, symmetric: bool) -> None:
        for index, kernel in enumerate(self.kernels):
            if kernel.trait != "quantizable":
                continue
            for port, edge in enumerate(kernel.inputs):
                if edge.integer or (kernel.kind == ATTENTION and edge.port > 1):
                    continue
                moving = Moving(
                    ("before", index, port), grids(kernel.kind, symmetric=symmetric), {index}
                )
                self._put(moving)
                self._cover(moving, ("in", index, 0))
                self.queue.append(moving)

    # -- one step

    def step(self, moving: Moving) -> None:
        blocking = next((p for p, all_ in self.waiting.items() if moving in all_), None)
        if blocking is not None:
            active = {m for m in self._first_below(blocking) if m in self.queue or m is moving}
            self.queue.append(moving)
            if active == set(self.waiting[blocking]):
                self._merge(blocking)
            return
        hooks = self.above(moving.place)
        if not hooks:
            self.finished.append(moving)
            return
        kernel = moving.place[1]
        unified = moving.place[0] == "behind" and self._unifies(kernel) and len(hooks) > 1
        movers = [moving, *(self._clone(moving) for _ in hooks[1:])]
        if unified:
            self._unite(movers)
        for mover, hook in zip(movers, hooks, strict=True):
            status = self._status(mover, hook, cloned=len(movers) > 1)
            if status == "go":
                self._move(mover, hook)
                self.queue.append(mover)
            elif status == "wait":
                self.waiting.setdefault(hook, []).append(mover)
                self.queue.append(mover)
            elif status == "merge":
                self._absorb(mover, self.over[hook])
            elif mover is moving:
                self.finished.append(mover)
            else:
                self._remove(mover)

    def _status(self, moving: Moving, hook: Place, *, cloned: bool) -> _Status:
        """Tell what `moving` may do on its way to `hook`, the one right before it."""
        if moving.place[0] == "behind":
            kernel = self.kernels[moving.place[1]]
            if kernel.trait == "weights_as_output":
                moving.embedding = moving.place[1]
                return "stay"
            if kernel.trait in ("float", "quantizable"):
                return "stay"
        if self.is_integer(hook) or self.is_integer(moving.place):
            return "stay"
        others = [m for m in self.over.get(hook, []) if m is not moving]
        if others and not cloned:
            return "merge" if others[0].grids == moving.grids else "stay"
        if len(self.below(hook)) > 1:
            return self._at_branch(moving, hook)
        return "go"

    def _at_branch(self, moving: Moving, hook: Place) -> _Status:
        """Tell whether a quantizer may pass a tensor that has other readers."""
        if hook in self.near_output:
            return "stay"
        served: set[Moving] = set()
        for kernel in self._consumers(hook):
            kind = self.kernels[kernel]
            if kind.kind == ATTENTION and not self._all_quantized(hook):
                return "stay"
            over = self.over.get(("in", kernel, 0), [])
            if not over:
                if kind.trait != "concat":
                    return "stay"
                over = [m for m in self._first_below(("in", kernel, 0)) if m in self.queue]
                if not over:
                    return "stay"
            served.update(over)
        return "wait" if served - {moving} else "go"

    def _merge(self, hook: Place) -> None:
        """Let one quantizer at `hook` take the place of those that wait for it."""
        waiting = self.waiting.pop(hook)
        common = merged([m.grids for m in waiting])
        if not common or any(self._at_branch(m, hook) == "stay" for m in waiting):
            for moving in waiting:
                self.queue.remove(moving)
                self.finished.append(moving)
            return
        moving = Moving(hook, common, set())
        for other in waiting:
            self.queue.remove(other)
        self._put(moving)
        if any(other.group is not None for other in waiting):
            self._unite([moving, *(other for other in waiting if other.group is not None)])
        for other in waiting:
            self._absorb(other, [moving])
        self.queue.append(moving)

    # -- helpers of a step

    def _put(self, moving: Moving) -> None:
        self.at[moving.place] = moving
        self._cover(moving, moving.place)

    def _cover(self, moving: Moving, place: Place) -> None:
        moving.covers.add(place)
        others = self.over.setdefault(place, [])
        if moving not in others:
            others.append(moving)

    def _move(self, moving: Moving, hook: Place) -> None:
        if self.at.get(moving.place) is moving:
            del self.at[moving.place]
        if moving.place[0] == "behind":
            self._cover(moving, ("in", moving.place[1], 0))
            moving.steps += 1
        moving.steps += 1
        moving.place = hook
        self._put(moving)

    def _clone(self, moving: Moving) -> Moving:
        twin = Moving(moving.place, moving.grids, set(moving.sinks), moving.steps, moving.group)
        for place in moving.covers:
            self._cover(twin, place)
        return twin

    def _absorb(self, moving: Moving, survivors: list[Moving]) -> None:
        """Hand everything that `moving` serves to the quantizers above it."""
        survivors = [s for s in survivors if s is not moving]
        if moving.group is not None:
            self._unite([moving, *survivors])
        for survivor in survivors:
            survivor.sinks |= moving.sinks
            for place in moving.covers:
                self._cover(survivor, place)
        self._remove(moving)

    def _remove(self, moving: Moving) -> None:
        for place in moving.covers:
            self.over[place].remove(moving)
        moving.covers = set()
        if self.at.get(moving.place) is moving:
            del self.at[moving.place]

    def _unite(self, together: list[Moving]) -> None:
        """Give quantizers, and those they already share a scale with, one group."""
        old = {m.group for m in together if m.group is not None}
        self.groups += 1
        for moving in {*self.queue, *self.finished, *self.at.values(), *together}:
            if moving in together or moving.group in old:
                moving.group = self.groups

    # -- questions about the graph

    def _consumers(self, hook: Place) -> Iterator[int]:
        """Yield the kernels that mind what they read, looking through those that do not."""
        for place in self.below(hook):
            kernel = place[1]
            if self.kernels[kernel].trait == "agnostic":
                yield from self._consumers(("behind", kernel, 0))
            else:
                yield kernel

    def _all_quantized(self, hook: Place) -> bool:
        """Tell whether every way from `hook` meets a quantizer before a kernel that minds."""
        stack = self.below(hook)
        while stack:
            place = stack.pop()
            if place[0] == "in" and self.kernels[place[1]].trait != "agnostic":
                return False
            if place not in self.at:
                stack.extend(self.below(place))
        return True

    def _first_below(self, place: Place) -> set[Moving]:
        """Return the quantizers met first on the ways down from `place`."""
        found: set[Moving] = set()
        seen = {place}
        stack = [place]
        while stack:
            here = stack.pop()
            if here in self.at:
                found.add(self.at[here])
                continue
            fresh = [p for p in self.below(here) if p not in seen]
            seen.update(fresh)
            stack.extend(fresh)
        return found

    def _unifies(self, kernel: int) -> bool:
        """Tell whether the inputs of a Concat share a scale: if a layer with weights follows."""
        if self.kernels[kernel].kind != "Concat":
            return False
        seen: set[int] = set()
        stack = [kernel]
        while stack:
            for reader, _ in self.kernels[stack.pop()].readers:
                if self.kernels[reader].kind in UNIFYING and not self.kernels[reader].ignored:
                    return True
                passes = self.kernels[reader].trait in ("agnostic", "concat")
                if passes and reader not in seen:
                    seen.add(reader)
                    stack.append(reader)
        return False

    def _near_output(self) -> set[Place]:
        """Return branching hooks from which only agnostic kernels lead to an output."""
        found: set[Place] = set()

        def climb(kernel: int) -> None:
            for edge in self.kernels[kernel].inputs:
                hook: Place = ("behind", edge.source, 0)
                if len(self.below(hook)) > 1:
                    found.add(hook)
                elif self.kernels[edge.source].trait in ("agnostic", "concat"):
                    climb(edge.source)

        for index, kernel in enumerate(self.kernels):
            if kernel.kind == "Result":
                climb(index)
        return found

    # -- the end

    def drop_lone_elementwise(self) -> None:
        """Drop quantizers of elementwise kernels with one activation that moved nowhere."""
        for moving in list(self.finished):
            (kernel, *more) = moving.sinks
            ports = range(len(self.kernels[kernel].inputs))
            covered = sum(bool(self.over.get(("before", kernel, i))) for i in ports)
            alone = not more and covered == len(self.over.get(("in", kernel, 0), [])) == 1
            if alone and moving.steps <= 1 and self.kernels[kernel].kind in ELEMENTWISE:
                self.finished.remove(moving)
                self._remove(moving)

    def drop_repeated(self) -> None:
        """Drop quantizers whose tensor comes from an equally fine one through agnostic kernels."""
        for upper in sorted(self.finished, key=lambda m: m.place[1]):
            if upper not in self.finished:
                continue
            stack = self.below(upper.place)
            seen: set[Place] = set()
            while stack:
                place = stack.pop()
                if place in seen:
                    continue
                seen.add(place)
                lower = self.at.get(place)
                if lower is not None:
                    if not _repeats(lower.grids[0], upper.grids[0]):
                        continue
                    self._absorb(lower, [upper])
                    self.finished.remove(lower)
                if place[0] == "in" and self.kernels[place[1]].trait != "agnostic":
                    continue
                if not (place[0] == "behind" and self.kernels[place[1]].ignored):
                    stack.extend(self.below(place))


def _repeats(lower: Grid, upper: Grid) -> bool:
    return (
        lower.bits == upper.bits
        and (lower.symmetric == upper.symmetric or upper.symmetric)
        and (lower.per_channel == upper.per_channel or lower.per_channel)
    )
