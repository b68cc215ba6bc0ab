# SPDX-License-Identifier: Apache-2.0
"""Whole runs against onnxruntime's own runs of the FP32 model, and against the simulate stage."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from full_runs import FullRuns

from analyzer.calibrate import calibrate
from analyzer.graph.ends import EndRuns, run_ends
from analyzer.place import place
from analyzer.records import Setting
from analyzer.simulate import simulate_all
from analyzer.targets.espdl import ESP32P4
from analyzer.targets.onnxruntime import ONNXRUNTIME

MINMAX = Setting(observer="minmax")


@pytest.fixture
def samples():
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 8)).astype(np.float32)} for _ in range(3)]


@pytest.fixture
def made(two_ends, samples):
    """Return the graph and two plans for it, in 8 bits and with a layer in 16."""
    graph, plan = place(two_ends, ESP32P4, MINMAX)
    wide = place(two_ends, ESP32P4, Setting("minmax", table={"a": "int16"}))[1]
    return graph, [calibrate(graph, p, ESP32P4, samples) for p in (plan, wide)]


def plain_runs(model, samples):
    """Run a model by onnxruntime alone."""
    session = ort.InferenceSession(
        model.proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    return [dict(zip(names, session.run(names, sample), strict=True)) for sample in samples]


def test_fp32_is_what_onnxruntime_gives(two_ends, samples):
    """Without a quantizer: all outputs of all samples."""
    runs = EndRuns(two_ends)
    for sample, expected in zip(samples, plain_runs(two_ends, samples), strict=True):
        found = runs.outputs(sample)
        assert set(found) == {"y", "z"}
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("workers", [1, 3])
def test_plans_are_what_the_simulate_stage_says(made, samples, workers):
    """Two plans of one graph: the same NSR per sample, however many threads."""
    graph, plans = made
    found = run_ends(graph, [(graph, p) for p in plans], samples, workers=workers)
    expected = simulate_all(graph, plans, samples)
    for rows, simulation in zip(found, expected, strict=True):
        by_output = simulation.output_by_sample
        assert set(by_output) == {"y", "z"}
        for name, values in by_output.items():
            assert [row[name] for row in rows] == pytest.approx(list(values), rel=1e-5)


def test_plans_of_different_graphs(made, two_ends, samples):
    """One of another target, on a graph of its own: each as a whole run of its graph has it."""
    graph, (plan, _) = made
    other, foreign = place(two_ends, ONNXRUNTIME, MINMAX)
    foreign = calibrate(other, foreign, ONNXRUNTIME, samples)
    found = run_ends(two_ends, [(graph, plan), (other, foreign)], samples)
    for rows, own, quantizers in zip(
        found, (graph, other), (plan.quantizers, foreign.quantizers), strict=True
    ):
        mean = {t: np.mean([row[t] for row in rows]) for t in ("y", "z")}
        assert mean == pytest.approx(FullRuns(own, samples).nsr(quantizers), rel=1e-4)


def test_outputs_are_shown_in_order(made, two_ends, samples):
    """Every sample once, FP32 and all plans, on the calling thread; every run is told."""
    graph, plans = made
    seen, told = [], []
    run_ends(
        graph, [(graph, p) for p in plans], samples, workers=3, step=told.append,
        watch=lambda index, plain, noisy: seen.append((index, plain, list(noisy))),
    )  # fmt: skip
    assert [index for index, _, _ in seen] == [0, 1, 2]
    assert sum(told) == 6
    expected = plain_runs(two_ends, samples)
    full = [FullRuns(graph, samples).run(p.quantizers) for p in plans]
    for index, plain, noisy in seen:
        np.testing.assert_allclose(plain["y"], expected[index]["y"], rtol=1e-5, atol=1e-6)
        for found, outputs in zip(noisy, full, strict=True):
            np.testing.assert_allclose(found["z"], outputs[index]["z"], rtol=1e-5, atol=1e-6)


def test_no_plan_at_all(two_ends, samples):
    """Only FP32 runs then; it can be watched."""
    seen = []
    assert run_ends(two_ends, [], samples, watch=lambda *shown: seen.append(shown)) == []
    assert len(seen) == 3


def test_an_output_that_is_handed_on(bind):
    """An input that is an output, too: it is there, and has no noise."""
    model = bind("g (float[1,4] x) => (float[1,4] y, float[1,4] x) { [t] y = Tanh(x) }")
    samples = [{"x": np.float32([[1, 2, -3, 0.5]])}]
    graph, plan = place(model, ESP32P4, MINMAX)
    plan = calibrate(graph, plan, ESP32P4, samples)
    shown = []
    ((row,),) = run_ends(
        graph, [(graph, plan)], samples, watch=lambda _, plain, noisy: shown.append(noisy[0])
    )
    np.testing.assert_array_equal(shown[0]["x"], samples[0]["x"])
    (simulation,) = simulate_all(graph, [plan], samples)
    assert row["y"] == pytest.approx(simulation.output_by_sample["y"][0], rel=1e-5)
    assert row.get("x", 0.0) == 0.0


def test_silence_and_noise_on_it(bind):
    """No signal and no noise is 0; noise where there was no signal is infinite."""
    model = bind("g (float[1,4] x) => (float[1,4] y) { [n] h = Neg(x)  [a] y = Add(x, h) }")
    samples = [{"x": np.float32([[0, 0, 0, 0]])}]
    graph, plan = place(model, ONNXRUNTIME, MINMAX)
    plan = calibrate(graph, plan, ONNXRUNTIME, samples)
    ((row,),) = run_ends(graph, [(graph, plan)], samples)
    assert row == {"y": 0.0}
