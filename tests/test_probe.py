# SPDX-License-Identifier: Apache-2.0
"""Probing: means over the samples seen, and more samples only where the order is open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer import probe as stage
from analyzer.calibrate import calibrate
from analyzer.graph.suffix import SuffixRuns, Unit
from analyzer.place import place
from analyzer.probe import MOST_SAMPLES, probe, units_of
from analyzer.records import Setting
from analyzer.targets.espdl import ESP32P4


@pytest.fixture
def net(bind):
    rng = np.random.default_rng(0)
    model = bind(
        """g (float[1,8] x) => (float[1,8] y, float[1,8] z) {
            [a] h = Gemm(x, w0)  [r] k = Relu(h)  [b] y = Gemm(k, w1)  [c] z = MatMul(h, w1)
        }""",
        w0=rng.standard_normal((8, 8)).astype(np.float32),
        w1=rng.standard_normal((8, 8)).astype(np.float32),
    )
    graph, plan = place(model, ESP32P4, Setting(observer="minmax"))
    return graph, calibrate(graph, plan, ESP32P4, samples_of(4))


def samples_of(count):
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 8)).astype(np.float32)} for _ in range(count)]


def test_units_are_layers_with_their_active_quantizers(net):
    """Inactive slots are left out, and layers that have none active."""
    _, plan = net
    off = tuple(replace(q, active=q.node != "r" and q.slot != "in0") for q in plan.quantizers)
    plan = replace(plan, quantizers=off)
    assert units_of(plan, plan.layers) == [
        Unit(name, tuple(q for q in off if q.node == name and q.active)) for name in "abc"
    ]


def test_errors_are_means_over_samples_and_outputs(net):
    """Every layer on every sample: the mean of what suffix runs give one by one."""
    graph, plan = net
    units, samples = units_of(plan, plan.layers), samples_of(5)
    runs = SuffixRuns(graph, units, samples=1)
    found = probe(graph, units, samples, every_sample=True)
    assert list(found) == [unit.name for unit in units]
    for unit in units:
        rows = [runs.nsr(unit.name, runs.plain(sample)) for sample in samples]
        mean = {t: np.mean([row[t] for row in rows]) for t in ("y", "z")}
        result = found[unit.name]
        assert result.by_output == pytest.approx(mean, rel=1e-5)
        assert result.nsr == pytest.approx((mean["y"] + mean["z"]) / 2, rel=1e-5)
        assert result.samples == 5
        assert result.interval[0] < result.nsr < result.interval[1]


@pytest.mark.parametrize("every_sample", [True, False])
def test_two_workers_give_the_same_bits_as_one(net, every_sample):
    """Whole records are equal, whatever thread was faster."""
    graph, plan = net
    units, samples = units_of(plan, plan.layers), samples_of(9)
    one, two = (probe(graph, units, samples, every_sample=every_sample, workers=k) for k in (1, 2))
    assert one == two


def test_only_open_places_get_more_samples(net, monkeypatch):
    """Two of the layers stay open: they see all samples, the others the first three."""
    graph, plan = net
    monkeypatch.setattr(stage, "FIRST_SECONDS", 0.0)  # as for a large model
    monkeypatch.setattr(stage, "unsettled", lambda rows, top: {"a", "b"})
    told = []
    found = probe(
        graph, units_of(plan, "abc"), samples_of(20), every_sample=False, step=told.append
    )
    assert {name: row.samples for name, row in found.items()} == {
        "a": MOST_SAMPLES, "b": MOST_SAMPLES, "c": 3
    }  # fmt: skip
    assert sum(told) == 2 * MOST_SAMPLES + 3


def test_a_small_model_sees_all_samples(net):
    """Where samples cost next to nothing, no layer is left with few."""
    graph, plan = net
    found = probe(graph, units_of(plan, "abc"), samples_of(20), every_sample=False)
    assert {row.samples for row in found.values()} == {20}


def test_a_layer_that_opens_late_catches_up(net, monkeypatch):
    """Its mean is over the same first samples as that of the others, none left out."""
    graph, plan = net
    monkeypatch.setattr(stage, "FIRST_SECONDS", 0.0)  # as for a large model
    answers = iter([{"a"}, {"a", "b"}, set()])
    monkeypatch.setattr(stage, "unsettled", lambda rows, top: next(answers))
    units, samples = units_of(plan, "abc"), samples_of(20)
    found = probe(graph, units, samples, every_sample=False)
    exact = probe(graph, units, samples[:12], every_sample=True)
    assert {name: row.samples for name, row in found.items()} == {"a": 12, "b": 12, "c": 3}
    for name in "ab":
        assert found[name].by_output == exact[name].by_output


def test_samples_are_visited_in_the_given_order(net, monkeypatch):
    """The first three of the order are what every layer of a large model sees."""
    graph, plan = net
    monkeypatch.setattr(stage, "FIRST_SECONDS", 0.0)  # as for a large model
    monkeypatch.setattr(stage, "unsettled", lambda rows, top: set())
    units, samples = units_of(plan, "abc"), samples_of(6)
    found = probe(graph, units, samples, every_sample=False, order=[4, 0, 5, 1, 2, 3])
    chosen = [samples[i] for i in (4, 0, 5)]
    assert found == probe(graph, units, chosen, every_sample=True)


def test_one_sample_has_no_interval(net):
    """Nothing is known about spread then."""
    graph, plan = net
    found = probe(graph, units_of(plan, "a"), samples_of(1), every_sample=False)
    assert (found["a"].samples, found["a"].interval) == (1, None)


def test_no_unit_no_run(net):
    """A plan without computing layers is no error."""
    graph, _ = net
    assert probe(graph, [], samples_of(1), every_sample=True) == {}
