# SPDX-License-Identifier: Apache-2.0
"""Proposals of whole runs: of a sample model, and of small nets of which the answer is known."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from full_runs import FullRuns
from onnx import numpy_helper
from tiny_orders import write_net

from analyzer.config import resolve
from analyzer.pipeline import run_targets
from analyzer.pipeline.stages import Run
from analyzer.pipeline.variants import Variants
from analyzer.propose.choice import FEWEST, MOST
from analyzer.store import to_json

SAMPLES = Path(__file__).resolve().parents[1] / "sample_models"
TARGETS = ("esp32p4", "onnxruntime")
DIGITS = SAMPLES / "digits_dw.onnx"


def advised(path, data, *targets, **config):
    given = {"calib": str(data), "threads": 1, "samples": 4, **config}
    return run_targets(path, resolve(given), list(targets))


def timeless(analysis):
    """Return what two runs must share, as text."""
    return to_json(replace(analysis, timing={}, peak_rss_bytes=0))


@pytest.fixture(scope="module")
def analysis():
    """A run of the sample model."""
    return advised(DIGITS, SAMPLES / "digits_dw", "esp32p4").analyses[0]


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """Two runs of a small net for two targets, the second one on two threads."""
    path, data = write_net(tmp_path_factory.mktemp("net"))
    options = {"calibration": "minmax", "export": ["esp-ppq,onnxruntime"]}
    return [advised(path, data, *TARGETS, threads=n, **options) for n in (1, 2)]


def test_there_are_some_the_cheapest_first(analysis):
    """Five to eight, by price; names in that order; one is recommended and says why."""
    found = analysis.proposals
    assert FEWEST <= len(found) <= MOST
    assert [p.name for p in found] == [f"plan {n}" for n in range(1, len(found) + 1)]
    assert [p.cost for p in found] == sorted(p.cost for p in found)
    assert sum(p.recommended for p in found) == 1
    assert all(p.why and p.changes for p in found)


def test_the_front_by_its_definition(analysis):
    """Each pair of price and noise that no other proposal is as good in both and better in one."""
    pairs = {(p.cost, p.left) for p in analysis.proposals}
    expected = {
        one for one in pairs
        if not any(other[0] <= one[0] and other[1] <= one[1] for other in pairs - {one})
    }  # fmt: skip
    assert {(p.cost, p.left) for p in analysis.proposals if p.front} == expected


def test_the_recommended_one_keeps_the_budget_and_helps(analysis):
    """At most 5 % of the multiply-accumulates, and less than half of the noise."""
    (best,) = (p for p in analysis.proposals if p.recommended)
    assert best.cost <= 0.05
    assert best.left < 0.5
    assert analysis.provenance.config["budget"] == [0.05, "share"]


def test_what_is_left_is_what_whole_runs_leave(analysis):
    """The plan as asked and the recommended one, made anew on all data, by runs of the model."""
    (best,) = (p for p in analysis.proposals if p.recommended)
    given = {"calib": str(SAMPLES / "digits_dw"), "target": "esp32p4", "samples": 4, "threads": 1}
    with ExitStack() as stack:
        run = Run(DIGITS, resolve(given), None, "", stack)
        (job,) = run.calibrate(run.place(run.targets(["esp32p4"])))
        graph, plan = Variants(run, job).exact(best.setting)
        samples = [run.samples(1)[n] for n in range(4)]
        before = FullRuns(job.graph, samples).nsr(job.plan.quantizers)
        after = FullRuns(graph, samples).nsr(plan.quantizers)
    assert best.samples == 4
    assert best.outputs_before == pytest.approx(before, rel=1e-3)
    assert best.outputs_after == pytest.approx(after, rel=1e-3)
    assert best.left == pytest.approx(np.mean([after[t] / before[t] for t in after]), rel=1e-3)


def test_every_simulation_is_in_the_log(analysis):
    """Numbered; sets have both what was foretold and what was measured."""
    names = [a.name for a in analysis.attempts]
    assert names == [f"run {n}" for n in range(1, len(names) + 1)]
    sets = [a for a in analysis.attempts if len(a.changes) > 1]
    assert any(a.predicted is not None for a in sets)
    assert all(a.measured >= 0 and a.verdict and a.changes for a in analysis.attempts)


def test_whichever_is_recommended_was_measured_as_it_is_exported(tmp_path, monkeypatch):
    """Another finalist is chosen than the search's best one: it is calibrated on all data, too."""
    exact = []
    real = Variants.exact

    def spied(self, setting):
        exact.append(setting)
        return real(self, setting)

    wanted = []

    def chosen(start, checked, wish):
        wanted[:] = wanted or [c.point for c in checked if c.point.setting not in exact][:1]
        return next(c for c in checked if c.point is wanted[0]), "because"

    monkeypatch.setattr(Variants, "exact", spied)
    # the package shows the function of that name instead of the module
    monkeypatch.setattr(sys.modules["analyzer.pipeline.advise"], "choose", chosen)
    (analysis,) = advised(*write_net(tmp_path), "onnxruntime").analyses
    (best,) = (p for p in analysis.proposals if p.recommended)
    assert best.setting in exact


def test_two_runs_are_the_same_bytes(twice):
    """Analyses and exported files, on one thread and on two, but for the number of threads."""
    one, other = twice
    for number in range(len(TARGETS)):
        texts = [timeless(outcome.analyses[number]) for outcome in twice]
        assert texts[0].replace('"threads": 1', '"threads": 2') == texts[1]
    assert one.exports == other.exports


def test_no_time_at_all(tmp_path):
    """The analysis is there, with nothing found and nothing recommended."""
    outcome = advised(*write_net(tmp_path), "onnxruntime", time_limit="0.000001")
    (analysis,) = outcome.analyses
    assert analysis.layers
    assert not any(p.recommended for p in analysis.proposals)
    assert analysis.attempts == ()


@pytest.fixture
def exact(tmp_path):
    """A model and data that 8 bits hold exactly: powers of two, and -1 and 127/128 at the ends."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 13]>
        exact (float[1,4] x) => (float[1,4] y) { [a] y = Relu(x) }"""
    )
    path, data = tmp_path / "exact.onnx", tmp_path / "x.npz"
    onnx.save(proto, path)
    steps = np.random.default_rng(0).integers(-127, 128, (6, 1, 4))
    steps[:, 0, 0], steps[:, 0, 1] = 127, -127
    np.savez(data, x=(steps[:, 0] / 128).astype(np.float32))
    return path, data


def test_a_plan_that_cannot_be_improved(exact):
    """Without noise there is nothing to gain: nothing is recommended, the plan is exported."""
    outcome = advised(*exact, "esp32p4", calibration="minmax", export=["onnxruntime"])
    (analysis,) = outcome.analyses
    assert analysis.outputs[0].nsr == 0
    assert not any(p.recommended for p in analysis.proposals)
    assert outcome.exports["esp32p4"]


def test_each_target_has_its_own_files(twice):
    """Two targets: proposals of each, exports by name."""
    outcome = twice[0]
    assert [a.provenance.target for a in outcome.analyses] == [*TARGETS]
    assert set(outcome.exports) == {*TARGETS}
    for files in outcome.exports.values():
        assert {"README.txt", "names.csv"} < set(files)
    for analysis in outcome.analyses:
        assert sum(p.recommended for p in analysis.proposals) <= 1
        known = {row.name for row in analysis.layers}
        assert all(set(p.setting.table) <= known for p in analysis.proposals)


@pytest.mark.parametrize("config", [{"propose": False}, {"export": []}])
def test_nothing_is_written_that_was_not_asked_for(tmp_path, config):
    """Without proposals, or without a format: no files."""
    outcome = advised(*write_net(tmp_path), "onnxruntime", **config)
    assert not outcome.exports["onnxruntime"]
    assert bool(outcome.analyses[0].attempts) == ("export" in config)


def test_a_goal_is_reached_by_the_cheapest(tmp_path):
    """Twice the lowest NSR of any: the cheapest proposal below that."""
    path, data = write_net(tmp_path)
    free = advised(path, data, "onnxruntime", budget="100%").analyses[0]
    best = min(max(p.outputs_after.values()) for p in free.proposals)
    goal = f"nsr={best * 2:.12f}"
    found = advised(path, data, "onnxruntime", budget="100%", goal=goal).analyses[0].proposals
    good = [p for p in found if max(p.outputs_after.values()) <= best * 2]
    (recommended,) = (p for p in found if p.recommended)
    assert recommended.cost == min(p.cost for p in good)
    assert recommended.why == "the cheapest plan that reaches the goal"


def test_nothing_may_cost_anything(tmp_path):
    """A budget of 0: what is recommended moves nothing."""
    (analysis,) = advised(*write_net(tmp_path), "onnxruntime", budget="0").analyses
    assert all(p.cost == 0 for p in analysis.proposals if p.recommended)


def test_an_output_that_is_quiet_and_one_that_is_loud(tmp_path):
    """Two outputs of one tensor's kind: proposals speak of both."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 13]>
        ends (float[1,8] x) => (float[1,8] y, float[1,8] z) {
            [a] h = MatMul(x, v)  [r] k = Relu(h)  [b] y = MatMul(k, w)  [c] z = MatMul(h, w)
        }"""
    )
    rng = np.random.default_rng(0)
    proto.graph.initializer.extend(
        numpy_helper.from_array(rng.standard_normal((8, 8)).astype(np.float32), n) for n in "vw"
    )
    onnx.save(proto, tmp_path / "ends.onnx")
    np.savez(tmp_path / "x.npz", x=rng.standard_normal((6, 8)).astype(np.float32))
    (analysis,) = advised(tmp_path / "ends.onnx", tmp_path / "x.npz", "onnxruntime").analyses
    assert analysis.proposals
    for p in analysis.proposals:
        assert set(p.outputs_before) == set(p.outputs_after) == {"y", "z"}
