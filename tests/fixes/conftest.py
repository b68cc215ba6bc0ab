# SPDX-License-Identifier: Apache-2.0
"""Situations: small ones that are told by hand, and real ones as a run measures them."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest

from analyzer.calibrate import observe_all, scaled, with_other_observers
from analyzer.config import resolve
from analyzer.fixes.situation import Situation
from analyzer.graph.view import GraphView
from analyzer.pipeline.explain import explain
from analyzer.pipeline.stages import Run
from analyzer.place import place
from analyzer.records import Balance, Setting, Source

FEW = 2  # samples that a real situation holds
MOVING = ("input", "activation")


@pytest.fixture
def told():
    """Return a function: bound model, target, samples -> situation without any run but FP32's.

    All noise is of one source with all quantizers of activations, unless sources are given.
    """

    def make(model, target, samples, setting=None, *, sources=None, findings=()):
        setting = setting or Setting()
        graph, placed = place(model, target, setting)
        plans = [placed, *with_other_observers(placed, target)]
        seen = observe_all(graph, [(plan, target) for plan in plans], samples)
        plan = scaled(GraphView(graph.proto.graph), placed, target, seen[0])
        moving = tuple(q.key for q in plan.quantizers if q.active and q.role in MOVING)
        found = sources or [Source("all", "group", plan.layers, moving, nsr=1.0)]
        watched = {watch: r for each in reversed(seen) for watch, r in each.items()}
        return Situation(
            model, graph, plan, target, setting, (), Balance(tuple(found)), findings, samples,
            ranges_of(watched),
        )  # fmt: skip

    return make


def ranges_of(watched):
    """Return (tensor, observer) -> range; of several tensors under the name of each."""
    return {
        (tensor, watch[1]): (float(found.lo), float(found.hi))
        for watch, found in watched.items()
        for tensor in watch[0]
        if watch[1] is not None and np.ndim(found.lo) == 0
    }


@pytest.fixture
def measured():
    """Return a function: model file, data, target, configuration -> situation of a run."""

    def make(path, data, target, **config):
        given = {"calib": str(data), "target": target, **config}
        with ExitStack() as stack:
            run = Run(path, resolve(given), None, "", stack)
            jobs = run.slice(run.calibrate(run.place(run.targets([target]))))
            ((job, simulation, scores),) = run.simulate(jobs)
            analysis, visits = explain(run, job, simulation, scores)
            samples = [run.samples(1)[i] for i in visits[:FEW]]
        return Situation(
            job.source, job.graph, job.plan, job.target, run.config.setting, analysis.layers,
            analysis.balance, analysis.findings, samples, ranges_of(job.ranges),
        )  # fmt: skip

    return make
