# SPDX-License-Identifier: Apache-2.0
"""Variants of a plan: quickly made ones are the exact ones, and data are read only once."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer.config import resolve
from analyzer.errors import TargetError
from analyzer.pipeline import variants as module
from analyzer.pipeline.stages import Run
from analyzer.pipeline.variants import Variants, alike
from analyzer.quant.observers import Range
from analyzer.records import Edit, Setting

NET = """<ir_version: 8, opset_import: ["": 13]>
net (float[1,3,6,6] x) => (float[1,4,6,6] y) {
    [stem] h = Conv<pads = [1,1,1,1]>(x, w0, b0)  [act] a = Relu(h)
    [head] u = Conv(a, w1, b1)  [end] y = Tanh(u)
}"""
COUNT = 20
EQUALIZED = Edit("equalization", ("stem",), values={"stem": (0.5, 2.0, 1.0, 4.0)})
CORRECTED = Edit("bias_correction", ("stem",), values={"stem": (1e-3, 0.0, 0.0, 1e-3)})


@pytest.fixture
def made(tmp_path):
    """Return a function: target, configuration -> run, calibrated job, its variants."""
    rng = np.random.default_rng(3)
    proto = onnx.parser.parse_model(NET)
    shapes = {"w0": (4, 3, 3, 3), "b0": (4,), "w1": (4, 4, 1, 1), "b1": (4,)}
    proto.graph.initializer.extend(
        numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), name)
        for name, s in shapes.items()
    )
    onnx.save(proto, tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", x=rng.standard_normal((COUNT, 3, 6, 6)).astype(np.float32))
    with ExitStack() as stack:

        def make(target, **config):
            given = {"calib": str(tmp_path / "x.npz"), "target": target, "threads": 1, **config}
            run = Run(tmp_path / "net.onnx", resolve(given), None, "", stack)
            (job,) = run.slice(run.calibrate(run.place(run.targets([target]))))
            return run, job, Variants(run, job)

        yield make


@pytest.fixture
def shows(monkeypatch):
    """What the data were shown to: (graph, number of samples) of every call."""
    calls = []
    real = module.observe_all

    def counted(model, jobs, samples, **options):
        calls.append((model, len(samples)))
        return real(model, jobs, samples, **options)

    monkeypatch.setattr(module, "observe_all", counted)
    return calls


def grids(plan):
    """Return everything that rounds, as text that can be compared."""
    return {
        q.key: (q.bits, q.qmin, q.qmax, q.active, q.axis, q.scale.tolist(), q.zero_point.tolist())
        for q in plan.quantizers
    }


def assert_quick_is_exact(variants, setting):
    quick, exact = variants.quick(setting)[1], variants.exact(setting)[1]
    assert grids(quick) == grids(exact)
    assert quick.precision == exact.precision


@pytest.mark.parametrize("target", ["esp32p4", "onnxruntime", "tflite", "pytorch"])
def test_the_start_is_the_job(made, target, shows):
    """No data are read; its graph with the slices is the job's own."""
    _, job, variants = made(target, slices=["part=y[:, :2]"])
    graph, plan = variants.quick(Setting())
    assert graph is job.graph
    assert "part" in graph.slices
    assert grids(plan) == grids(job.plan)
    assert shows == []
    exact, plan = variants.exact(Setting())
    assert exact.slices == {}
    assert grids(plan) == grids(job.plan)


@pytest.mark.parametrize(
    "setting",
    [
        Setting("percentile"),
        Setting("minmax", table={"stem": "fp32"}),
        Setting("minmax", table={"head": "s16s8"}),
        Setting("minmax", ranges={"a": (0.0, 2.5)}),
        Setting(granularity="tensor"),
        Setting("percentile", table={"stem": "fp32"}, ranges={"y": (-0.5, 0.5)}),
    ],
    ids=lambda s: f"{s.observer}-{len(s.table)}-{len(s.ranges)}",
)
def test_quick_is_exact_where_the_ranges_are_the_same(made, setting, shows):
    """onnxruntime finds ranges in the FP32 network, whatever is quantized how."""
    _, job, variants = made("onnxruntime")
    variants.quick(setting)
    assert shows == []
    assert_quick_is_exact(variants, setting)
    assert grids(variants.quick(setting)[1]) != grids(job.plan)


@pytest.mark.parametrize("observer", ["kl", "minmax", "percentile", "mse"])
def test_every_observer_of_a_target_is_known(made, observer, shows):
    """They were all found while the plan was calibrated."""
    _, _, variants = made("esp32p4")
    variants.quick(Setting(observer))
    assert shows == []
    assert_quick_is_exact(variants, Setting(observer))


def test_what_is_missing_is_shown_once(made, shows):
    """Nothing but the plan's own ranges is known; three settings with others: one look at all."""
    _, _, variants = made("esp32p4", propose=False, calibration="minmax")
    settings = [Setting(o, table=t) for o in ("kl", "mse") for t in ({}, {"stem": "int16"})]
    variants.expect([*settings, Setting("kl", table={"nope": "int16"})])
    assert [count for _, count in shows] == [COUNT]
    for setting in settings:
        variants.quick(setting)
    variants.expect(settings)
    assert len(shows) == 1


def test_what_was_not_expected_is_shown_when_it_is_asked_for(made, shows):
    """And not again."""
    _, _, variants = made("onnxruntime", propose=False, calibration="minmax")
    for _ in range(2):
        assert_quick_is_exact(variants, Setting("percentile"))
    assert len(shows) == 1 + 2  # once for quick, and for both exact ones


def test_edits_that_change_values_are_calibrated_anew(made, shows):
    """On a few of the samples, once per edit; another setting with the same edit needs nothing."""
    _, job, variants = made("onnxruntime", calibration="minmax")
    setting = Setting("minmax", edits=(EQUALIZED,))
    graph, plan = variants.quick(setting)
    assert graph is not job.graph
    assert len(shows) == 1
    assert shows[0][1] < COUNT
    assert shows[0][0] is not job.graph
    variants.expect([setting])
    variants.quick(setting)
    variants.quick(replace(setting, table={"head": "fp32"}))
    assert len(shows) == 1
    (scale,) = next(q.scale for q in plan.quantizers if q.tensor == "a" and q.follows is None)
    (old,) = next(q.scale for q in job.plan.quantizers if q.tensor == "a" and q.follows is None)
    assert scale != old


def test_few_samples_that_are_all(made):
    """With no more samples than the quick ones, quick is exact after an edit as well."""
    _, _, variants = made("onnxruntime", calibration="minmax", calib_samples=5)
    assert_quick_is_exact(variants, Setting("minmax", edits=(EQUALIZED,)))


def test_edits_that_leave_values_alone_are_not(made, shows):
    """A small shift of biases: the ranges are those that were found before."""
    _, job, variants = made("onnxruntime", calibration="minmax")
    graph, plan = variants.quick(Setting("minmax", edits=(CORRECTED,)))
    assert shows == []
    assert graph is not job.graph
    moving = [q.key for q in job.plan.quantizers if q.role in ("input", "activation")]
    old, new = grids(job.plan), grids(plan)
    assert [new[key] for key in moving] == [old[key] for key in moving]


def test_graphs_of_edits_are_made_once_and_have_the_slices(made):
    """The same object again, with the parts of outputs that the job's graph has."""
    _, job, variants = made("onnxruntime", slices=["part=y[:, :2]"])
    setting = Setting(edits=(CORRECTED,))
    graph = variants.quick(setting)[0]
    assert variants.quick(setting)[0] is graph
    assert graph.slices == job.graph.slices == {"part": "y"}


def test_what_is_done_on_data_is_left(made):
    """OpenVINO corrects biases on data: quick variants stay on the graph that was corrected."""
    _, job, variants = made("openvino")
    graph, plan = variants.quick(Setting(table={"head": "fp32"}))
    assert graph is job.graph
    assert "head" not in {q.node for q in plan.quantizers if q.active and q.role == "weight"}


def test_a_refusal_is_handed_on(made):
    """A layer that is not there."""
    _, _, variants = made("esp32p4")
    with pytest.raises(TargetError, match="nope"):
        variants.quick(Setting(table={"nope": "int16"}))


def range_of(lo, hi):
    return Range(np.float64(lo), np.float64(hi), "minmax", lo, hi)


A8 = (("a",), "minmax", 8, True)
B8 = (("b",), "minmax", 8, True)


def test_ranges_that_can_stand_for_others():
    """Exactly the same; of other bits; of another observer or tensor not; united of several."""
    seen = {A8: range_of(-1, 2), B8: range_of(-3, 1)}
    assert alike(A8, seen) is seen[A8]
    assert alike((("a",), "minmax", 16, False), seen) is seen[A8]
    assert alike((("a",), "kl", 8, True), seen) is None
    assert alike((("c",), "minmax", 8, True), seen) is None
    both = alike((("a", "b"), "minmax", 8, True), seen)
    assert (both.lo, both.hi, both.seen_lo, both.seen_hi) == (-3, 2, -3, 2)
    assert alike((("a", "c"), "minmax", 8, True), seen) is None
