# SPDX-License-Identifier: Apache-2.0
"""The whole flow as a function: what an `Analysis` of a small model holds."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from analyzer import pipeline
from analyzer.config import Config
from analyzer.errors import ConfigError, QAnalyzeError, TargetError
from analyzer.pipeline import run, run_targets
from analyzer.samples import ANALYSIS_SAMPLES
from analyzer.targets import target_names

DENSE = """<ir_version: 8, opset_import: ["": 13]>
dense (float[N, 16] x) => (float[N, 8] y) { y = MatMul(x, w) }"""
DEEP = """<ir_version: 8, opset_import: ["": 13]>
deep (float[N, 16] x) => (float[N, 8] y, float[N, 8] z) {
    h = MatMul(x, v) r = Relu(h) y = MatMul(r, w) z = Sigmoid(y)
}"""
TARGETS = ("esp32p4", "onnxruntime")
RNG = np.random.default_rng(5)
WEIGHTS = {
    "v": RNG.standard_normal((16, 16)).astype(np.float32),
    "w": RNG.standard_normal((16, 8)).astype(np.float32),
    "c": RNG.uniform(0, 160, (4, 8, 1, 1)).astype(np.float32),
    "d": RNG.uniform(0, 0.3, (4, 8, 1, 1)).astype(np.float32),
}
HEADS = """<ir_version: 8, opset_import: ["": 13]>
heads (float[N, 8, 5, 5] x) => (float[N, 8, 5, 5] y) {
    a = Conv(x, c) b = Conv(x, d) s = Sigmoid(b) y = Concat <axis = 1> (a, s)
}"""
DATA = RNG.standard_normal((40, 16)).astype(np.float32)


@pytest.fixture
def model(tmp_path):
    """Write a model of ONNX text with the weights it names."""

    def write(text: str) -> Path:
        proto = onnx.parser.parse_model(text)
        used = {name for node in proto.graph.node for name in node.input}
        for name in used & WEIGHTS.keys():
            proto.graph.initializer.append(numpy_helper.from_array(WEIGHTS[name], name))
        path = tmp_path / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        return path

    return write


@pytest.fixture
def config(tmp_path) -> Config:
    np.save(tmp_path / "data.npy", DATA)
    return Config(calib=str(tmp_path / "data.npy"), threads=1, propose=False)


def fake_quantize(values: np.ndarray, quantizer) -> np.ndarray:
    """Round to a quantizer's grid in float64, by the definition."""
    shape = [1] * values.ndim
    if quantizer.axis is not None:
        shape[quantizer.axis] = -1
    scale = np.asarray(quantizer.scale, np.float64).reshape(shape)
    zero = np.asarray(quantizer.zero_point, np.float64).reshape(shape)
    steps = np.clip(np.rint(values / scale) + zero, quantizer.qmin, quantizer.qmax)
    return (steps - zero) * scale


@pytest.mark.parametrize("target", TARGETS)
def test_one_layer_by_hand(model, config, target):
    """The NSR of a single MatMul is what numpy finds with the plan's scales."""
    analysis = run(model(DENSE), replace(config, target=target, samples=40))
    grids = {q.slot: q for q in analysis.plan.quantizers if q.active}
    x, w = DATA.astype(np.float64), WEIGHTS["w"].astype(np.float64)
    plain = x @ w
    # a slot without a quantizer of its own stays as it is
    quantized = [fake_quantize(v, grids[s]) if s in grids else v
                 for s, v in (("in0", x), ("in1", w))]  # fmt: skip
    y = quantized[0] @ quantized[1]
    y = fake_quantize(y, grids["out0"]) if "out0" in grids else y
    expected = np.mean(((y - plain) ** 2).sum(1) / (plain**2).sum(1))
    assert analysis.outputs[0].nsr == pytest.approx(expected, rel=1e-3)
    assert analysis.outputs[0].sqnr_db == pytest.approx(-10 * np.log10(expected), abs=0.01)


@pytest.mark.parametrize("target", TARGETS)
def test_one_layer_adds_up(model, config, target):
    """With one layer all three errors are the same number, and additivity is 1."""
    analysis = run(model(DENSE), replace(config, target=target, samples=40))
    (layer,) = analysis.layers
    (output,) = analysis.outputs
    assert layer.isolated_nsr == pytest.approx(output.nsr, rel=1e-5)
    assert layer.graphwise_nsr == pytest.approx(output.nsr, rel=1e-5)
    assert layer.local_nsr == pytest.approx(output.nsr, rel=1e-5)
    assert output.additivity == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_sums_of_the_balance(model, config, target):
    """Every active quantizer is in one source; what the sources do is booked at each output."""
    analysis = run(model(DEEP), replace(config, target=target, samples=40))
    assert [output.name for output in analysis.outputs] == ["y", "z"]
    for row in analysis.layers:
        if row.isolated_nsr is not None:
            assert row.isolated_nsr == pytest.approx(
                np.mean(list(row.isolated_by_output.values()))
            )
    found = analysis.balance.sources
    booked = sorted(key for source in found for key in source.quantizers)
    assert booked == sorted(q.key for q in analysis.plan.quantizers if q.active)
    for source in found:  # all samples were seen, so that nothing is scaled
        assert source.nsr == pytest.approx(np.mean(list(source.by_output.values())))
    for output in analysis.outputs:
        total = sum(source.by_output[output.name] for source in found)
        assert output.isolated_sum == pytest.approx(total)
        assert output.additivity == pytest.approx(total / output.nsr)
        assert output.explained == pytest.approx(output.nsr, rel=0.25)


def test_noise_below_an_output_does_not_count_there(model, config):
    """The Sigmoid after output y adds nothing to y."""
    analysis = run(model(DEEP), replace(config, target="onnxruntime"))
    (sigmoid,) = (row for row in analysis.layers if row.op_type == "Sigmoid")
    assert sigmoid.isolated_by_output["y"] == 0
    assert sigmoid.isolated_by_output["z"] > 0


def test_provenance(model, config):
    """Model, data, configuration and versions are all on record."""
    path = model(DEEP)
    asked = replace(config, samples=8, goal=("nsr", 0.01), shapes={"x": (1, 16)})
    found = run(path, asked, command="qanalyze model.onnx").provenance
    assert found.command == "qanalyze model.onnx"
    assert found.target == "esp32p4"
    assert found.model["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.model["parameters"], found.model["macs"]) == (16 * 16 + 16 * 8,) * 2
    assert [(d.role, d.count, d.available) for d in found.data] == [
        ("calibration", 40, 40),
        ("analysis", 8, 40),
    ]
    assert found.config["samples"] == 8
    assert found.config["goal"] == ["nsr", 0.01]
    assert json.loads(json.dumps(found.config)) == found.config
    assert found.versions["onnxruntime"] == onnxruntime.__version__


def test_how_many_samples_are_analysed(model, config):
    """Left open, 32 of 40 samples are analysed, spread evenly; asked for more, all of them."""
    path = model(DENSE)
    counts = {}
    for samples in (None, 100):
        info = run(path, replace(config, samples=samples)).provenance.data[1]
        counts[samples] = (info.count, "evenly" in info.selection)
    assert counts == {None: (ANALYSIS_SAMPLES, True), 100: (40, False)}


def test_left_open_every_layer_sees_two_samples_or_more(model, config):
    """Few samples where the order is clear, never more than are analysed; an interval each."""
    rows = [row for row in run(model(DEEP), config).layers if row.isolated_nsr is not None]
    assert all(2 <= row.isolated_samples <= ANALYSIS_SAMPLES for row in rows)
    assert all(row.isolated_ci[0] <= row.isolated_nsr <= row.isolated_ci[1] for row in rows)


def test_threads_change_nothing(model, config):
    """One thread and two give the same numbers."""
    path = model(DEEP)
    with_plans = replace(config, propose=True)
    one, two = (run(path, replace(with_plans, threads=threads)) for threads in (1, 2))
    assert one.layers == two.layers
    assert one.outputs == two.outputs
    assert one.proposals == two.proposals


def test_every_layer_with_a_quantizer_is_measured(model, config):
    """Those that compute and those that do not; a row says on how many samples."""
    analysis = run(model(DEEP), config)
    carrying = {q.node for q in analysis.plan.quantizers if q.active}
    assert {row.name for row in analysis.layers if row.isolated_samples} == carrying
    assert "Sigmoid" in {row.op_type for row in analysis.layers if row.status == "ok"}


STAGES = ["load", "calibrate", "simulate", "probe", "balance", "dissect", "diagnose"]
ADVICE = ["propose", "verify"]


def test_stages_are_shown_in_order(model, config):
    """Progress and timing know the same stages, and what is done in them."""
    seen: list[tuple[str, int]] = []

    class Watch:
        @contextmanager
        def stage(self, name: str, total: int, unit: str = "sample"):
            done = 0

            def step(n: int) -> None:
                nonlocal done
                done += n

            yield step
            seen.append((name, done))

    analysis = run(model(DEEP), replace(config, samples=3, propose=True), progress=Watch())
    assert [name for name, _ in seen] == [*STAGES, *ADVICE]
    assert list(analysis.timing) == [*STAGES, *ADVICE]
    assert dict(seen)["simulate"] == 3
    rows = [row.name for row in analysis.layers if row.isolated_samples]
    own = {n: {q.key for q in analysis.plan.quantizers if q.node == n and q.active} for n in rows}
    others = [s for s in analysis.balance.sources if set(s.quantizers) not in own.values()]
    assert dict(seen)["probe"] == 3 * (len(rows) + len(others))
    assert analysis.peak_rss_bytes > 1_000_000


def test_every_problem_of_the_user_is_one_kind_of_error(model, config, tmp_path):
    """A missing model, missing data and an unknown target raise the same base class."""
    path = model(DENSE)
    for wrong in (
        lambda: run(tmp_path / "none.onnx", config),
        lambda: run(path, replace(config, calib=str(tmp_path / "none.npy"))),
        lambda: run(path, replace(config, target="none")),
    ):
        with pytest.raises(QAnalyzeError) as caught:
            wrong()
        assert caught.value.message
        assert caught.value.remedy


def test_several_targets_give_what_each_gives_alone(model, config):
    """Sharing runs changes no number: outputs, rows and plans are equal to the bit."""
    path = model(DEEP)
    names = [name for name in target_names() if name != "tensorrt"]
    together = run_targets(path, config, names)
    assert [a.provenance.target for a in together.analyses] == names
    for one in together.analyses:
        alone = run(path, replace(config, target=one.provenance.target))
        assert one.outputs == alone.outputs
        assert one.layers == alone.layers
        for a, b in zip(one.plan.quantizers, alone.plan.quantizers, strict=True):
            assert (a.key, a.active) == (b.key, b.active)
            np.testing.assert_array_equal(a.scale, b.scale)


def test_targets_that_do_not_fit_are_left_out_on_request(model, config):
    """ModelOpt quantizes nothing of this net; asked for by name, that is an error."""
    path = model(DEEP)
    outcome = run_targets(path, config, ["onnxruntime", "tensorrt"], leave_out_unfit=True)
    assert [a.provenance.target for a in outcome.analyses] == ["onnxruntime"]
    assert "quantizes no layer" in outcome.refused["tensorrt"]
    with pytest.raises(TargetError, match="quantizes no layer"):
        run_targets(path, config, ["onnxruntime", "tensorrt"])


@pytest.fixture
def pictures(tmp_path) -> Config:
    np.save(tmp_path / "x.npy", np.random.default_rng(6).random((10, 8, 5, 5), dtype=np.float32))
    return Config(calib=str(tmp_path / "x.npy"), threads=1)


@pytest.mark.parametrize("target", TARGETS)
def test_scores_that_are_all_zero_are_seen(model, pictures, target):
    """Boxes in pixels and probabilities under one scale: a cosine of 0.999, and no score left."""
    whole, boxes, scores = run(model(HEADS), replace(pictures, target=target)).outputs
    assert whole.cosine > 0.999
    assert [(o.name, o.slice_of, o.lost) for o in (whole, boxes, scores)] == [
        ("y", None, False), ("y[:, :4]", "y", False), ("y[:, 4:]", "y", True)
    ]  # fmt: skip
    assert (scores.nsr, scores.cosine) == (1, 0)


def test_slices_asked_for(model, pictures):
    """They replace what would be cut by itself, do not count twice, and are equal per target."""
    path = model(HEADS)
    asked = replace(pictures, slices={"boxes": "y[:, :4]", "first score": "y[:, 4]"}, samples=4)
    names = ["esp32p4", "onnxruntime", "openvino"]
    sliced = run_targets(path, asked, names).analyses
    whole = run_targets(path, replace(pictures, samples=4), names).analyses
    for found, plain in zip(sliced, whole, strict=True):
        assert [o.name for o in found.outputs] == ["y", "boxes", "first score"]
        assert found.outputs[0] == plain.outputs[0]
        assert found.worst_output == found.outputs[0]
        assert [r.isolated_nsr for r in found.layers] == [r.isolated_nsr for r in plain.layers]
        assert found.provenance.config["slices"] == dict(asked.slices)
        assert found.provenance.model["nodes"] == plain.provenance.model["nodes"] == 4


def test_a_slice_that_does_not_fit_is_refused_before_anything_runs(model, pictures, monkeypatch):
    """Calibrating for minutes first would be unkind."""
    monkeypatch.setattr(pipeline.stages, "observe_all", lambda *a, **k: pytest.fail("calibrates"))
    with pytest.raises(ConfigError, match="The slice 'part': '9:' reaches beyond axis 1"):
        run(model(HEADS), replace(pictures, slices={"part": "y[:, 9:]"}))


def test_an_input_that_is_an_output_carries_no_noise(model, config):
    """It is neither measured nor counted in any mean."""
    text = DEEP.replace("float[N, 8] z)", "float[N, 8] z, float[N, 16] x)")
    plain, found = (run(model(t), replace(config, samples=8)) for t in (DEEP, text))
    assert found.outputs == plain.outputs
    assert found.layers == plain.layers


def test_model_explorer_needs_no_proposals(model, config):
    """What was measured is written without a plan, at the nodes of the user's file."""
    wanted = replace(config, export=("model-explorer",))
    outcome = run_targets(model(DEEP), wanted, ["onnxruntime"])
    (files,) = outcome.exports.values()
    assert "model-explorer/isolated.json" in files
    assert not outcome.analyses[0].proposals
