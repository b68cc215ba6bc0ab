# SPDX-License-Identifier: Apache-2.0
"""The bench against runs of whole models, and its shares by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from full_runs import FullRuns

from analyzer.calibrate import calibrate
from analyzer.graph.slices import with_slices
from analyzer.place import place_on, prepare
from analyzer.propose.bench import Bench, Effect, left, mixtures
from analyzer.records import Cost, Edit, Setting
from analyzer.targets.espdl import ESP32P4

NET = """g (float[1,8] x) => (float[1,8] y, float[1,8] z) {
    [a] p = MatMul(x, w0)  [b] q = MatMul(x, w1)  [sum] s = Add(p, q)
    [c] y = MatMul(s, w2)  [d] z = Tanh(p)
}"""
EDIT = Edit("equalization", ("a",))


class Realizer:
    """Plans by the target's own rules, calibrated on all samples; minmax, with 6 samples."""

    def __init__(self, model, samples):
        self.model, self.samples = model, samples
        self.graph = prepare(model, ESP32P4)
        self.expected = []

    def expect(self, settings):
        self.expected += settings

    def quick(self, setting):
        """An edit stands for another graph: a copy, on which nothing else is different."""
        graph = prepare(self.model, ESP32P4) if setting.edits else self.graph
        plan = place_on(graph, ESP32P4, replace(setting, observer="minmax", edits=()))
        return graph, calibrate(graph, plan, ESP32P4, self.samples)

    exact = quick


@pytest.fixture
def bench(bind):
    rng = np.random.default_rng(2)
    weights = {f"w{n}": rng.standard_normal((8, 8)).astype(np.float32) for n in range(3)}
    samples = [{"x": rng.standard_normal((1, 8)).astype(np.float32)} for _ in range(6)]
    realizer = Realizer(bind(NET, **weights), samples)
    return Bench(
        realizer.graph, realizer, samples, lambda graph, plan: Cost(macs=len(plan.layers))
    )


def moved(*layers, to="int16"):
    return Setting(table=dict.fromkeys(layers, to))


def by_sample(bench, setting):
    """Return output -> NSR per sample, of runs of the whole model."""
    graph, plan = bench.realizer.quick(setting)
    full = FullRuns(graph, bench.samples)
    found = {t: [] for t in full.outputs}
    for noisy, plain in zip(full.run(plan.quantizers), full.reference, strict=True):
        for t in full.outputs:
            reference = plain[t].astype(np.float64)
            noise = noisy[t].astype(np.float64) - reference
            found[t].append((noise**2).sum() / (reference**2).sum())
    return {t: np.array(rows) for t, rows in found.items()}


def test_variants_are_what_whole_runs_of_them_are(bench):
    """Share by the means, usual share by the samples' logarithms, and its standard error."""
    variants = {"set": moved("a", "b", "sum"), "last": moved("c"), "float": moved("c", to="fp32")}
    found = bench.around(Setting(), variants)
    before = by_sample(bench, Setting())
    assert set(found) == set(variants)
    for name, setting in variants.items():
        after = by_sample(bench, setting)
        share = np.mean([after[t].mean() / before[t].mean() for t in before])
        logs = np.log(np.mean([after[t] / before[t] for t in before], axis=0))
        assert found[name].share == pytest.approx(share, rel=1e-4)
        assert found[name].usual == pytest.approx(np.exp(logs.mean()), rel=1e-4)
        assert found[name].error == pytest.approx(logs.std(ddof=1) / np.sqrt(6), rel=1e-3)
        assert found[name].samples == 6
    assert found["set"].share < 0.8


def test_a_variant_on_top_of_a_variant(bench):
    """The base has a layer in 16 bits already."""
    base, both = moved("c"), moved("c", "a", "b", "sum")
    found = bench.around(base, {"both": both})["both"]
    before, after = by_sample(bench, base), by_sample(bench, both)
    share = np.mean([after[t].mean() / before[t].mean() for t in before])
    assert found.share == pytest.approx(share, rel=1e-4)


def test_duplicates_and_what_changes_nothing_are_left_out(bench):
    """The base itself, a layer in the precision it has, and one plan by two names."""
    found = bench.around(
        Setting(),
        {"same": Setting(), "int8": moved("c", to="int8"), "one": moved("c"), "two": moved("c")},
    )
    assert set(found) == {"one"}


def test_what_the_target_refuses_is_left_out(bench):
    """A layer that is not there."""
    assert bench.around(Setting(), {"no": moved("nope")}) == {}
    assert bench.whole([moved("nope")]) == [None]


def test_an_8_bit_layer_with_the_steps_of_a_16_bit_one(bench):
    """Only the Add is moved: b, which it alone reads, writes with its steps, 8 bits of them."""
    setting = moved("sum")
    _, plan = bench.realizer.quick(setting)
    assert mixtures(plan) == {("b", "out0")}
    assert mixtures(bench.realizer.quick(moved("a", "b", "sum"))[1]) == set()
    assert bench.around(Setting(), {"mixed": setting}) == {}


def test_mixtures_that_the_base_has_are_no_reason(bench):
    """Who asked for them gets variants of them."""
    assert set(bench.around(moved("sum"), {"more": moved("sum", "c")})) == {"more"}


def test_another_graph_is_run_as_a_whole(bench):
    """An equal graph that is another object: the same effect."""
    setting = moved("c")
    found = bench.around(Setting(), {"own": setting, "other": replace(setting, edits=(EDIT,))})
    assert found["other"].share == pytest.approx(found["own"].share, rel=1e-4)
    assert found["other"].error == pytest.approx(found["own"].error, rel=1e-3)


def test_what_does_nothing_good_sees_half_of_the_samples(bench):
    """d makes only z, which does not count: after 3 of 6 samples it is given up."""
    only = replace(bench, weights={"y": 1.0, "z": 0.0})
    found = only.around(Setting(), {"d": moved("d"), "c": moved("c")})
    assert (found["d"].samples, found["d"].share) == (3, 1.0)
    assert found["c"].samples == 6


def test_fewer_samples_on_demand(bench):
    """The first two, the most representative ones."""
    found = bench.around(Setting(), {"c": moved("c")}, samples=2)["c"]
    before, after = by_sample(bench, Setting()), by_sample(bench, moved("c"))
    share = np.mean([after[t][:2].mean() / before[t][:2].mean() for t in before])
    assert found.samples == 2
    assert found.share == pytest.approx(share, rel=1e-4)


def test_whole_runs_and_their_costs(bench):
    """All samples, in the order asked for; the cost is what the bench's function says."""
    settings = [moved("c"), moved("nope"), Setting()]
    first, none, last = bench.whole(settings)
    assert none is None
    for found, setting in ((first, settings[0]), (last, settings[2])):
        expected = {t: rows.mean() for t, rows in by_sample(bench, setting).items()}
        assert found == pytest.approx(expected, rel=1e-4)
        assert bench.cost_of(setting) == Cost(macs=5)


def test_the_noise_of_just_what_would_change(bench):
    """c in 16 bits: its three 8-bit quantizers on, all others off, on the first sample."""
    graph, plan = bench.realizer.quick(Setting())
    found = bench.alone(Setting(), {"c": moved("c")})
    own = [q for q in plan.quantizers if q.node == "c" and q.active]
    assert found["c"] == pytest.approx(FullRuns(graph, bench.samples[:1]).nsr(own), rel=1e-4)
    assert found["c"]["z"] == 0


def test_all_settings_are_announced(bench):
    """The realizer learns of all variants before it is asked for one."""
    variants = {"one": moved("c"), "two": moved("d")}
    bench.around(Setting(), variants)
    assert bench.realizer.expected == list(variants.values())


def test_workers_and_steps_do_not_matter(bench):
    """Whole records are equal on three threads; every run is told."""
    told = []
    many = replace(bench, workers=3, step=told.append)
    variants = {"one": moved("c"), "two": moved("a", "b", "sum")}
    assert many.around(Setting(), variants) == bench.around(Setting(), variants)
    assert sum(told) == 2 * 6


def test_slices_count_beside_outputs(bench):
    """A bench whose reference has a slice: its NSR is among those of whole runs."""
    cut = with_slices(bench.reference, {"head": "y[:, :2]"}, {})
    realizer = bench.realizer
    realizer.graph = cut
    (found,) = replace(bench, reference=cut).whole([Setting()])
    assert set(found) == {"y", "z", "head"}


BEFORE = {"y": 0.4, "z": 0.1}


@pytest.mark.parametrize(
    ("after", "before", "weights", "share"),
    [
        ({"y": 0.2, "z": 0.1}, BEFORE, None, 0.75),  # (1/2 + 1) / 2
        ({"y": 0.2, "z": 0.1}, BEFORE, {"y": 3.0, "z": 1.0}, 0.625),  # (3/2 + 1) / 4
        ({"y": 0.2, "z": 9.0}, BEFORE, {"y": 1.0}, 0.5),  # who is not weighed counts nothing
        ({"y": 0.2, "z": 0.0}, {"y": 0.4, "z": 0.0}, None, 0.5),  # no noise before or now
        ({"y": 0.2, "z": 1e-9}, {"y": 0.4, "z": 0.0}, None, math.inf),
        ({"y": math.nan, "z": 0.0}, BEFORE, None, math.inf),
        ({"y": math.inf, "z": 0.1}, BEFORE, None, math.inf),
        ({"y": 0.2, "z": 0.1}, {"y": math.inf, "z": 0.2}, None, 0.5),
        ({"y": 0.0}, {"y": 0.0}, None, 1.0),
        ({"y": 0.0, "z": 0.0}, BEFORE, None, 0.0),
        ({"y": 0.2, "z": 0.1}, BEFORE, {}, 1.0),
    ],
)
def test_what_is_left_by_hand(after, before, weights, share):
    """Mean over the outputs of noise now over noise before."""
    assert left(after, before, weights) == pytest.approx(share)


@pytest.mark.parametrize(
    ("effect", "sure"),
    [
        (Effect(0.8, 0.8, 0.0, 4), 0.8),
        (Effect(0.8, 0.8, math.log(1.1), 4), 0.88),
        (Effect(0.8, 0.8, math.log(2), 4), 1.0),  # may be chance
        (Effect(1.1, 0.8, 0.0, 4), 1.0),  # the means say otherwise
        (Effect(1.5, 1.5, math.log(1.2), 4), 1.25),
        (Effect(1.5, 1.5, math.log(2), 4), 1.0),
        (Effect(0.9, 1.5, 0.0, 4), 1.0),
        (Effect(math.inf, math.inf, 0.0, 4), math.inf),
        (Effect(0.0, 1e-6, 0.0, 4), 1e-6),
    ],
)
def test_how_sure_an_effect_is_by_hand(effect, sure):
    """Nearer to 1 by one standard error of the logarithm, and never beyond."""
    assert effect.sure == pytest.approx(sure)


def test_what_is_believed_lies_between():
    """Seen as expected: that.  Seen for sure: what was seen.  Seen by chance: the expected."""
    assert Effect(0.6, 0.6, 0.1, 8).believed(0.4) == pytest.approx(0.6)
    assert Effect(0.5, 0.5, 0.0, 8).believed(0.1) == pytest.approx(0.5, abs=0.01)
    assert Effect(0.5, 0.5, 50.0, 8).believed(0.1) == pytest.approx(0.9, abs=0.01)
    assert 0.5 < Effect(0.5, 0.5, 0.05, 8).believed(0.1) < 0.9
