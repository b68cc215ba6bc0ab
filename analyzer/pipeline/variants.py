# SPDX-License-Identifier: Apache-2.0
"""Variants of a run: a setting goes in, the graph and the plan that come of it out.

Ranges that were found once are used again wherever a variant watches the same tensors: while the
search goes on, only graphs whose values are others are calibrated anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np

from analyzer.calibrate import observe_all, scaled, watched
from analyzer.calibrate.observe import Watch
from analyzer.errors import TargetError
from analyzer.graph.slices import with_slices
from analyzer.graph.view import GraphView
from analyzer.pipeline.stages import Job, Run
from analyzer.place import place_on, prepare
from analyzer.quant.observers import Range
from analyzer.records import Edit, Model, Quantizer, QuantPlan, Setting
from analyzer.targets.base import Target

# Edits that leave the values of all tensors with an own scale as they are, or nearly so.
_SAME_VALUES = frozenset({"weight_split", "bias_correction"})
_FEW = 8  # samples that other edits are calibrated on while the search goes on


class Variants:
    """Plans for one model and target.

    Args:
        run: what the stages have in common.
        job: the calibrated plan that is varied; its graph may have slices.

    Attributes:
        source: the bound model before the target prepares it.
    """

    def __init__(self, run: Run, job: Job) -> None:
        assert job.target is not None, "a file cannot be varied"
        assert job.source is not None, "a file cannot be varied"
        self._run = run
        self._job = job
        self.target: Target = job.target
        self.source: Model = job.source
        self._prepared: dict[str, Model] = {}
        self._looked_at: dict[int, tuple[Model, Model]] = {}
        self._views: dict[str, GraphView] = {}
        self._constants: dict[str, dict[Quantizer, Quantizer]] = {}
        self._seen: dict[Watch, Range] = dict(job.ranges)
        self._ranges: dict[str, dict[Watch, Range]] = {}

    def quick(self, setting: Setting) -> tuple[Model, QuantPlan]:
        """Return graph and plan with ranges that were found for the plan that is varied.

        What the target does on data when all scales are known is left as it is there.  Variants
        without edits all have one graph, the job's.

        Raises:
            TargetError: if the target cannot do what the setting asks for.
        """
        prepared = self._graph(setting.edits)
        plan = place_on(prepared, self.target, setting)
        plan = self._scaled(setting, plan, self._known(prepared, plan, setting.edits))
        if self.target.completes_on_data:
            graph = prepared if setting.edits else self._job.graph
            return self.sliced(graph), plan
        graph, plan = self.target.complete(prepared, plan, ())
        if graph is prepared and not setting.edits:
            return self._job.graph, plan
        return self.sliced(graph), plan

    def expect(self, settings: Iterable[Setting]) -> None:
        """Find the ranges that these settings will ask for and that are not known, all at once.

        A setting that the target refuses is left out: `quick` will refuse it again.
        """
        missing: dict[Watch, Quantizer] = {}
        for setting in settings:
            if any(edit.kind not in _SAME_VALUES for edit in setting.edits):
                continue
            with suppress(TargetError):
                plan = place_on(self._graph(setting.edits), self.target, setting)
                missing |= {
                    watch: quantizer
                    for watch, quantizer in watched(plan).items()
                    if alike(watch, self._seen) is None and self._has(watch)
                }
        if missing:
            self._seen.update(self._observed(self._graph(()), self._job.plan, missing))

    def exact(self, setting: Setting) -> tuple[Model, QuantPlan]:
        """Return graph and plan as the quantizer makes them, calibrated on all data.

        The graph has no slices, unless it is the job's.
        """
        prepared = self._graph(setting.edits)
        plan = place_on(prepared, self.target, setting)
        plan = self._scaled(setting, plan, self._observed(prepared, plan))
        graph, plan = self.target.complete(prepared, plan, self._run.samples(0))
        return graph, plan

    def _graph(self, edits: tuple[Edit, ...]) -> Model:
        key = repr(edits)
        if key not in self._prepared:
            self._prepared[key] = prepare(self.source, self.target, edits)
        return self._prepared[key]

    def _scaled(
        self, setting: Setting, plan: QuantPlan, ranges: Mapping[Watch, Range]
    ) -> QuantPlan:
        key = repr(setting.edits)
        if key not in self._views:
            self._views[key] = GraphView(self._graph(setting.edits).proto.graph)
        held = self._constants.setdefault(key, {})
        return scaled(self._views[key], plan, self.target, ranges, held)

    def sliced(self, graph: Model) -> Model:
        """Return a graph with the slices of outputs that are looked at."""
        if graph is self._job.graph or graph.slices:
            return graph
        if id(graph) not in self._looked_at:
            sample = self._run.samples(1)[0]
            made = with_slices(graph, self._run.config.slices, sample)
            self._looked_at[id(graph)] = graph, made
        return self._looked_at[id(graph)][1]

    def _has(self, watch: Watch) -> bool:
        return all(tensor in self._graph(()).shapes for tensor in watch[0])

    def _known(
        self, prepared: Model, plan: QuantPlan, edits: tuple[Edit, ...]
    ) -> Mapping[Watch, Range]:
        """Return the ranges a placed plan asks for, from what was seen before where possible."""
        anew = any(edit.kind not in _SAME_VALUES for edit in edits)
        seen = self._ranges.setdefault(repr(edits), {}) if anew else self._seen
        wanted = watched(plan)
        missing = {w: q for w, q in wanted.items() if alike(w, seen) is None}
        if missing:
            seen.update(self._observed(prepared, plan, missing, _FEW if anew else None))
        found = {watch: alike(watch, seen) for watch in wanted}
        return {watch: range_ for watch, range_ in found.items() if range_ is not None}

    def _observed(
        self,
        prepared: Model,
        plan: QuantPlan,
        only: Mapping[Watch, Quantizer] | None = None,
        few: int | None = None,
    ) -> dict[Watch, Range]:
        """Show the calibration data to what a plan watches, or to a part of it."""
        if only is not None:
            held = [q for q in plan.quantizers if q.role in ("weight", "constant")]
            looking = [replace(q, active=True) for q in only.values()]
            plan = replace(plan, quantizers=(*held, *looking))
        every = self._run.samples(0)
        samples = [every[i] for i in range(0, len(every), -(-len(every) // few))] if few else every
        (found,) = observe_all(prepared, [(plan, self.target)], samples, workers=self._run.workers)
        return found


def alike(watch: Watch, seen: Mapping[Watch, Range]) -> Range | None:
    """Return the range of what is watched, or one that differs by how many bits it was made for.

    Of several tensors the ranges are united; None where there is nothing to go by.
    """
    if watch in seen:
        return seen[watch]
    tensors, observer, *_ = watch
    for other, found in seen.items():
        if other[:2] == (tensors, observer):
            return found
    if len(tensors) < 2:
        return None
    parts = [alike(((tensor,), *watch[1:]), seen) for tensor in tensors]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return replace(
        known[0],
        lo=np.stack([np.asarray(part.lo) for part in known]).min(axis=0),
        hi=np.stack([np.asarray(part.hi) for part in known]).max(axis=0),
        seen_lo=min(part.seen_lo for part in known),
        seen_hi=max(part.seen_hi for part in known),
    )
