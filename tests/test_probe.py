# SPDX-License-Identifier: Apache-2.0
"""Probing: means over the samples seen, and more samples only where the order is open."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from analyzer import probe as stage
from analyzer.calibrate import calibrate
from analyzer.graph.suffix import SuffixRuns, Unit
from analyzer.place import place
from analyzer.probe import MOST_SAMPLES, Isolated, parts_of, probe, units_for, units_of
from analyzer.records import Setting, Source
from analyzer.targets.espdl import ESP32P4


@pytest.fixture
def net(two_ends):
    graph, plan = place(two_ends, ESP32P4, Setting(observer="minmax"))
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


def test_a_source_that_is_a_row_is_probed_once(net):
    """Any other source is a unit of its own, with exactly its quantizers."""
    _, plan = net
    rows = units_of(plan, plan.layers)
    (first, *_), quantizers = rows, {q.key: q for q in plan.quantizers}
    keys = tuple(q.key for q in first.quantizers)
    rest = tuple(q.key for unit in rows[1:] for q in unit.quantizers)
    sources = [
        Source("whole", "layer", ("a",), keys[::-1]),
        Source("part", "layer", ("a",), keys[:1]),
        Source("a", "group", ("b", "c"), rest),
    ]
    units, names = units_for(plan, rows, sources)
    assert names == {"whole": first.name, "part": "source part", "a": "source a"}
    assert units == [
        *rows,
        Unit("source part", (quantizers[keys[0]],)),
        Unit("source a", tuple(quantizers[key] for key in rest)),
    ]


@pytest.fixture
def noises(monkeypatch):
    """Return a function: unit -> NSR at output y on every sample; probes are looked up there."""

    def pretend(noise):
        class Runs:
            outputs = ("y", "y[:4]")
            seconds = 1.0  # per sample: as a large model

            def __init__(self, model, units, *, samples):
                assert list(noise) == [unit.name for unit in units]

            def plain(self, sample, units=None):
                return sample

            def nsr(self, unit, plain):
                return {"y": noise[unit], "y[:4]": 10 * noise[unit]}

            def drop(self, unit):
                pass

        monkeypatch.setattr(stage, "SuffixRuns", Runs)
        monkeypatch.setattr(stage, "unsettled", lambda rows, top: set())
        model, units = SimpleNamespace(slices={"y[:4]": "y"}), [Unit(name, ()) for name in noise]
        told = []

        def run(**options):
            found = probe(model, units, range(9), every_sample=False, step=told.append, **options)
            assert sum(told) == sum(row.samples for row in found.values())
            return found

        return run

    return pretend


def seen(found, count):
    return [name for name, row in found.items() if row.samples == count]


def test_slices_are_measured_but_not_averaged(noises):
    """The mean over outputs is one over whole ones."""
    (found,) = noises({"a": 0.5})().values()
    assert found.by_output == {"y": 0.5, "y[:4]": 5.0}
    assert found.nsr == 0.5


def test_quiet_units_are_not_probed(noises):
    """Loudness halves from unit to unit: behind the first 32, less than 1 % can be left."""
    noise = {f"u{i}": 2.0**-i for i in range(100)}
    found = noises(noise)(ranked=[], loudness=noise)
    names = list(noise)
    # 1 + 1/2 + ... + 1/64 is 99.2 % of 2
    assert seen(found, 3) == names[:7]
    assert seen(found, 1) == names[7:32]
    assert seen(found, 0) == names[32:]
    assert all(found[name] == Isolated() for name in names[32:])


def test_ranked_units_are_probed_however_quiet(noises):
    """A row of the table that computes is never left out."""
    noise = {f"u{i}": 2.0**-i for i in range(100)}
    found = noises(noise)(ranked=["u99", "u50", "gone"], loudness=noise)
    assert {"u99", "u50"} <= set(seen(found, 3))
    assert len(seen(found, 0)) == 66


@pytest.mark.parametrize(("amplified", "quiet"), [(1, 68), (2, 36), (4, 4)])
def test_noise_that_is_amplified_keeps_the_probing_going(noises, amplified, quiet):
    """With a gain of a thousand in more than one of twenty: those to come may have it too.

    One of 32 is rare enough to stop; two are not, but two of 64 are, and four of 96.
    """
    loudness = {f"u{i}": 1.0 - i / 1000 for i in range(100)}
    loud = [f"u{i}" for i in range(amplified)]
    noise = {name: value * (1000 if name in loud else 1e-6) for name, value in loudness.items()}
    found = noises(noise)(ranked=[], loudness=loudness)
    assert seen(found, 3) == loud
    assert len(seen(found, 0)) == quiet


def test_silent_units_are_not_probed(noises):
    """Without local noise there is nothing that could reach an output."""
    found = noises({"a": 0.0, "b": 1.0, "c": 0.0})(ranked=[], loudness={"a": 0.0, "b": 1.0})
    assert {name: row.samples for name, row in found.items()} == {"a": 0, "b": 3, "c": 0}


def test_the_few_that_make_the_noise_are_looked_at_longer(noises):
    """90 + 9.5 of 100 are more than 99 %: the other two keep their one sample."""
    noise = {"c": 0.1, "a": 90.0, "d": 0.4, "b": 9.5}
    found = noises(noise)(ranked=[], loudness=noise)
    assert {name: row.samples for name, row in found.items()} == {"c": 1, "a": 3, "d": 1, "b": 3}


def test_only_what_is_booked_counts_as_noise(noises):
    """Rows that overlap with other units are not added up: a's 90 do not hide b and d."""
    noise = {"c": 0.1, "a": 90.0, "d": 0.4, "b": 9.5}
    found = noises(noise)(ranked=[], loudness=noise, within={"a": ["b"]})
    assert {name: row.samples for name, row in found.items()} == {"c": 1, "a": 1, "d": 3, "b": 3}


def test_a_part_of_what_is_quiet_is_not_probed(noises):
    """The row's quantizers belong to a source that makes no more than 1 of 100."""
    noise = {"c": 0.1, "a": 90.0, "d": 0.4, "b": 9.5}
    found = noises(noise)(ranked=[], loudness=noise, within={"a": ["c"]})
    assert found["a"].samples == 0


def test_parts_know_what_holds_their_quantizers(net):
    """A row that is no source by itself names the sources of its quantizers, each once."""
    _, plan = net
    a, r, b, *_ = units_of(plan, plan.layers)
    group = Unit("group", (*a.quantizers[-1:], *r.quantizers))
    rest = Unit("rest", a.quantizers[:-1])
    assert parts_of([a, r, b, group, rest], ["group", "rest", "b"]) == {
        "a": ["rest", "group"], "r": ["group"]
    }  # fmt: skip


def test_nothing_else_is_left_to_probe(noises):
    """All units are ranked, and none of them is loud."""
    found = noises({"a": 0.0, "b": 0.0})(ranked=["a", "b"], loudness={})
    assert seen(found, 3) == ["a", "b"]
