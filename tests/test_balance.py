# SPDX-License-Identifier: Apache-2.0
"""The balance: what sources do together, held against whole-model runs and a hand calculation."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from full_runs import FullRuns

import analyzer.balance as stage
from analyzer.balance import balance, counted
from analyzer.calibrate import calibrate
from analyzer.graph.families import sources_of
from analyzer.graph.view import GraphView
from analyzer.place import place
from analyzer.records import Interaction, Quantizer, QuantPlan, Setting, Source, Step
from analyzer.targets.espdl import ESP32P4


@pytest.fixture
def net(two_ends):
    """A small net with two outputs, its plan, samples, and sources measured by full runs."""
    model, rng = two_ends, np.random.default_rng(1)
    samples = [{"x": rng.standard_normal((1, 8)).astype(np.float32)} for _ in range(2)]
    graph, plan = place(model, ESP32P4, Setting(observer="minmax"))
    plan = calibrate(graph, plan, ESP32P4, samples)
    full = FullRuns(graph, samples)
    sources = [
        replace(source, by_output=nsr, nsr=float(np.mean(list(nsr.values()))), samples=2)
        for source in sources_of(GraphView(graph.proto.graph), plan)
        for nsr in [full.nsr(held(plan, [source]))]
    ]
    return graph, plan, sources, samples, full


def held(plan, sources):
    keys = {key for source in sources for key in source.quantizers}
    return [q for q in plan.quantizers if q.active and q.key in keys]


@pytest.fixture
def strict(monkeypatch):
    """Nothing counts as adding up."""
    monkeypatch.setattr(stage, "CLOSED", 0.0)
    monkeypatch.setattr(stage, "ADDITIVE", (1.0, 1.0))


def test_peels_are_full_runs(net, strict):
    """At every output, the loudest first: with and without it, all else on."""
    graph, plan, sources, samples, full = net
    everything = full.nsr(held(plan, sources))
    found = balance(graph, plan, sources, everything, samples)
    for output in ("y", "z"):
        loudest = sorted(
            (s for s in sources if s.by_output[output] > 0), key=lambda s: -s.by_output[output]
        )
        rows = counted(found.interactions, output)
        assert len(rows) == min(5, len(loudest) - 1)
        for position, row in enumerate(rows):
            gone, first = loudest[:position], loudest[position]
            assert (row.first, row.without) == (first.name, tuple(s.name for s in gone))
            there = [s for s in sources if s not in gone]
            others = [s for s in there if s is not first]
            alone = (first.by_output[output], full.nsr(held(plan, others))[output])
            assert row.alone == pytest.approx(alone, rel=1e-5)
            assert row.together == pytest.approx(full.nsr(held(plan, there))[output], rel=1e-5)


def test_effects_close_the_balance_but_for_the_rest(net, strict):
    """Isolated sum and effects differ from the whole by what the rest does not add up to."""
    graph, plan, sources, samples, full = net
    everything = full.nsr(held(plan, sources))
    found = balance(graph, plan, sources, everything, samples)
    for output, whole in everything.items():
        rows = counted(found.interactions, output)
        rest = [s for s in sources if s.name not in {row.first for row in rows}]
        explained = sum(s.by_output[output] for s in sources) + sum(row.effect for row in rows)
        left = sum(s.by_output[output] for s in rest) - rows[-1].alone[1]
        assert explained - whole == pytest.approx(left, rel=1e-9, abs=1e-15)


def test_pairs_are_full_runs(net, strict):
    """Two of the four loudest of the worst output, nothing else on; they are not counted."""
    graph, plan, sources, samples, full = net
    everything = full.nsr(held(plan, sources))
    found = balance(graph, plan, sources, everything, samples)
    off = {
        t: abs(math.log(sum(s.by_output[t] for s in sources) / nsr))
        for t, nsr in everything.items()
    }
    worst = max(off, key=off.__getitem__)
    heard = [s for s in sources if s.by_output[worst] > 0]
    loudest = sorted(heard, key=lambda s: -s.by_output[worst])[:4]
    rows = [row for row in found.interactions if row.second]
    expected = [(worst, a.name, b.name) for a, b in itertools.combinations(loudest, 2)]
    assert [(row.output, row.first, row.second) for row in rows] == expected
    for row, pair in zip(rows, itertools.combinations(loudest, 2), strict=True):
        alone = tuple(source.by_output[worst] for source in pair)
        assert row.alone == pytest.approx(alone, rel=1e-5)
        assert row.together == pytest.approx(full.nsr(held(plan, pair))[worst], rel=1e-5)
        assert row not in counted(found.interactions, worst)


def test_few_samples_are_scaled_to_all(net, strict):
    """Accumulated errors twice those of the few samples: everything measured is twice as loud."""
    graph, plan, sources, samples, full = net
    few = full.nsr(held(plan, sources))
    twice = [replace(s, by_output={t: 2 * n for t, n in s.by_output.items()}) for s in sources]
    one = balance(graph, plan, sources, few, samples)
    two = balance(graph, plan, twice, {t: 2 * n for t, n in few.items()}, samples)
    for before, after in zip(one.interactions, two.interactions, strict=True):
        assert after.together == pytest.approx(2 * before.together, rel=1e-5)
        assert after.alone == pytest.approx([2 * n for n in before.alone], rel=1e-5)
    assert two.steps[-1].by_output == pytest.approx({t: 2 * n for t, n in few.items()})


def test_two_workers_give_the_same_bits_as_one(net, strict):
    """Whole records are equal, whatever thread was faster."""
    graph, plan, sources, samples, full = net
    everything = full.nsr(held(plan, sources))
    one, two = (
        balance(graph, plan, sources, everything, samples, workers=workers) for workers in (1, 2)
    )
    assert one == two
    assert one.interactions


def test_sources_that_add_up_need_no_runs(net, monkeypatch):
    """Inside 25 % nothing is peeled: the sources and the steps are all there is."""
    graph, plan, sources, samples, _ = net
    monkeypatch.setattr(stage, "run_trials", None)
    monkeypatch.setattr(stage, "TrialRuns", None)
    total = {t: sum(s.by_output[t] for s in sources) for t in ("y", "z")}
    found = balance(graph, plan, sources, {"y": total["y"] / 1.2, "z": total["z"] / 0.8}, samples)
    assert (found.sources, found.interactions) == (tuple(sources), ())


@pytest.mark.parametrize("broken", [0.0, math.inf, math.nan])
def test_outputs_that_cannot_be_compared_are_left_alone(net, strict, broken):
    """No accumulated noise, or one that is not finite: the other output is peeled all the same."""
    graph, plan, sources, samples, full = net
    everything = {**full.nsr(held(plan, sources)), "z": broken}
    found = balance(graph, plan, sources, everything, samples)
    assert {row.output for row in found.interactions} == {"y"}
    assert all(math.isfinite(n) for n in found.steps[-1].by_output.values())


@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_a_broken_source_is_not_peeled(net, strict, broken):
    """Where one of the isolated errors is not finite, nothing can be added up."""
    graph, plan, sources, samples, full = net
    everything = full.nsr(held(plan, sources))
    first = replace(sources[0], by_output={**sources[0].by_output, "y": broken})
    found = balance(graph, plan, [first, *sources[1:]], everything, samples)
    assert {row.output for row in found.interactions} == {"z"}


def test_sources_that_were_not_probed_stay_on(net, strict):
    """They are in no row of their own, and in every run of the others together."""
    graph, plan, sources, samples, full = net
    everything = full.nsr(held(plan, sources))
    loudest = max(sources, key=lambda s: s.by_output["y"])
    unknown = [replace(s, nsr=None, by_output={}) if s is loudest else s for s in sources]
    found = balance(graph, plan, unknown, everything, samples)
    assert loudest.name not in {row.first for row in found.interactions}
    row = counted(found.interactions, "y")[0]
    others = [s for s in sources if s.name != row.first]
    assert row.alone[1] == pytest.approx(full.nsr(held(plan, others))["y"], rel=1e-5)


def test_a_single_source_interacts_with_nothing(net, strict):
    """There is nothing to hold it against."""
    graph, plan, sources, samples, _ = net
    (only, *_) = sources
    lone = replace(plan, quantizers=tuple(held(plan, [only])))
    doubled = {t: 2 * n for t, n in only.by_output.items()}
    assert balance(graph, lone, [only], doubled, samples).interactions == ()


def test_slices_have_steps_and_no_peels(net, strict):
    """A slice is a part of an output that is peeled already."""
    graph, plan, sources, samples, full = net
    everything = full.nsr(held(plan, sources))
    found = balance(replace(graph, slices={"z": "y"}), plan, sources, everything, samples)
    assert {row.output for row in found.interactions} == {"y"}
    assert set(found.steps[-1].by_output) == {"y", "z"}


def test_without_samples_there_is_nothing_to_measure(net):
    """The sources are handed on."""
    graph, plan, sources, _, _ = net
    assert balance(graph, plan, sources, {"y": 1.0}, []) == stage.Balance(tuple(sources))


def test_errors_that_cancel(bind):
    """10.75 + 0.375 on a grid of ones: 0.25 too much and 0.375 too little leave 0.125.

    The power of the noise is 1/16 and 9/64 alone, and 1/64 together.
    """
    model = bind("g (float[1] x, float[1] c) => (float[1] y) { [add] y = Add(x, c) }")
    grid = {"bits": 8, "scale": np.array([1.0]), "zero_point": np.array([0])}
    plan = QuantPlan(
        "t", ("add",), frozenset(), {"add": "int8"},
        (Quantizer("add", "in0", "x", "activation", **grid),
         Quantizer("add", "in1", "c", "activation", **grid)),
    )  # fmt: skip
    power = 11.125**2
    up, down, both = 1 / 16 / power, 9 / 64 / power, 1 / 64 / power
    sources = (
        Source("up", "layer", ("add",), (("add", "in0"),), by_output={"y": up}),
        Source("down", "layer", ("add",), (("add", "in1"),), by_output={"y": down}),
    )
    sample = {"x": np.array([10.75], np.float32), "c": np.array([0.375], np.float32)}
    found = balance(model, plan, sources, {"y": both}, [sample])
    first, second = found.interactions
    near = {"rel": 1e-6}
    assert first == Interaction("y", "down", None, (), first.alone, first.together, 1)
    assert second == Interaction("y", "down", "up", (), second.alone, second.together, 1)
    for row in (first, second):
        assert row.alone == pytest.approx((down, up), **near)
        assert row.together == pytest.approx(both, **near)
        assert row.effect == pytest.approx((1 - 9 - 4) / 64 / power, **near)
    assert found.steps == (Step("add", 1, {"y": pytest.approx(both, **near)}),)
