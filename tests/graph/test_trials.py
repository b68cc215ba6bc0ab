# SPDX-License-Identifier: Apache-2.0
"""Trials: means of whole-model runs, on an FP32 base and on a quantized one."""

from __future__ import annotations

import numpy as np
import pytest
from full_runs import FullRuns

from analyzer.calibrate import calibrate
from analyzer.graph import trials
from analyzer.graph.build import slots_by_node
from analyzer.graph.suffix import SuffixRuns, Unit, altered
from analyzer.graph.trials import TrialRuns, run_trials
from analyzer.place import place
from analyzer.records import Setting
from analyzer.targets.espdl import ESP32P4


@pytest.fixture
def net(two_ends):
    model, rng = two_ends, np.random.default_rng(1)
    samples = [{"x": rng.standard_normal((1, 8)).astype(np.float32)} for _ in range(3)]
    graph, plan = place(model, ESP32P4, Setting(observer="minmax"))
    plan = calibrate(graph, plan, ESP32P4, samples)
    return graph, [q for q in plan.quantizers if q.active], samples


def test_units_alone_are_means_of_full_runs(net):
    """On FP32: nothing in the base, and every layer as two whole-model runs have it."""
    graph, quantizers, samples = net
    units = [Unit(node, tuple(qs)) for node, qs in slots_by_node(quantizers).items()]
    found = run_trials(graph, units, samples)
    full = FullRuns(graph, samples)
    assert found.base == {"y": 0.0, "z": 0.0}
    for unit in units:
        assert found.units[unit.name] == pytest.approx(full.nsr(unit.quantizers), rel=1e-5)


def test_units_taken_out_are_means_of_full_runs(net):
    """On a quantized base: everything, and everything but one layer."""
    graph, quantizers, samples = net
    base = slots_by_node(quantizers)
    units = [altered(n, base, dict.fromkeys(q.key for q in qs)) for n, qs in base.items()]
    found = run_trials(graph, units, samples, base=quantizers)
    full = FullRuns(graph, samples)
    assert found.base == pytest.approx(full.nsr(quantizers), rel=1e-5)
    for unit in units:
        rest = [q for q in quantizers if q.node != unit.name]
        assert found.units[unit.name] == pytest.approx(full.nsr(rest), rel=1e-5)


@pytest.mark.parametrize("workers", [1, 2])
def test_asked_one_by_one_trials_are_the_same(net, workers):
    """Whole records are equal, whatever thread was faster and in whatever order they are asked."""
    graph, quantizers, samples = net
    base = slots_by_node(quantizers)
    units = [altered(n, base, dict.fromkeys(q.key for q in qs)) for n, qs in base.items()]
    expected = run_trials(graph, units, samples, base=quantizers, workers=2)
    runs = TrialRuns(graph, units, samples, base=quantizers, workers=workers)
    names = [unit.name for unit in reversed(units)]
    found = {**runs.means(names[:1]), **runs.means(names[1:])}
    assert (runs.base, found) == (expected.base, expected.units)


def test_a_trial_is_run_once(net, monkeypatch):
    """Asked for again, it costs nothing; one that is never asked for neither."""
    graph, quantizers, samples = net
    units = [Unit(node, tuple(qs)) for node, qs in slots_by_node(quantizers).items()]
    told, ran = [], []
    plain_nsr = SuffixRuns.nsr

    def nsr(self, unit, plain):
        ran.append(unit)
        return plain_nsr(self, unit, plain)

    monkeypatch.setattr(SuffixRuns, "nsr", nsr)
    runs = TrialRuns(graph, units, samples, step=told.append)
    first = runs.means(["a", "b"])
    assert runs.means(["b", "a", "a"]) == first
    assert sorted(ran) == ["a"] * 3 + ["b"] * 3
    assert sum(told) == 6


def test_a_small_model_is_tried_on_many_samples_and_a_large_one_on_two(net, monkeypatch):
    """Where runs cost next to nothing 16 samples stand for all, else two."""
    graph = net[0]
    assert trials.affordable(graph) == 16
    monkeypatch.setattr(trials, "node_seconds", lambda model, node: 1.0)
    assert trials.affordable(graph) == 2


def test_a_unit_that_does_not_promise_anything_sees_half_of_the_samples(net):
    """Asked once, with what base and unit showed on the first two of three samples."""
    graph, active, samples = net
    base = slots_by_node(active)
    units = [altered(name, base, {q.key: None}) for name, q in zip("vw", active, strict=False)]
    asked = []

    def promising(before, after):
        asked.append((list(before), list(after)))
        return len(asked) > 1

    found = run_trials(graph, units, samples, base=active, promising=promising)
    every = run_trials(graph, units, samples, base=active)
    assert [(len(before), len(after)) for before, after in asked] == [(2, 2), (2, 2)]
    assert found.by_sample == {"v": every.by_sample["v"][:2], "w": every.by_sample["w"]}
    assert found.base_by_sample == every.base_by_sample


def test_only_what_some_units_need_is_made(net):
    """The base run for one unit holds fewer tensors, and gives that unit's NSR to the bit."""
    graph, active, samples = net
    units = [Unit(q.node + q.slot, (q,)) for q in active]
    runs = SuffixRuns(graph, units, samples=1)
    last = units[-1].name
    every, few = runs.plain(samples[0]), runs.plain(samples[0], [last])
    assert set(few.values) < set(every.values)
    assert runs.nsr(last, few) == runs.nsr(last, every)
