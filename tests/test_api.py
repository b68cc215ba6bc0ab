# SPDX-License-Identifier: Apache-2.0
"""The public API: what a notebook may give, what it gets, and what that costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from matplotlib.figure import Figure
from onnx import numpy_helper
from tiny_orders import write_net

import analyzer
from analyzer import cli
from analyzer.errors import ConfigError, DataError, ModelError
from analyzer.records import TensorProfile


@pytest.fixture
def net(tmp_path):
    """Return the paths of a model and of 4 samples for it."""
    return write_net(tmp_path)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return an analysis with proposals."""
    model, data = write_net(tmp_path_factory.mktemp("net"))
    return analyzer.analyze(model, data, target="onnxruntime", budget="100%")


def quick(model, calib, **options):
    return analyzer.analyze(model, calib, propose=False, **options)


def python(code):
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def test_importing_costs_nothing():
    """Nothing heavy comes with it, and the names are there all the same."""
    code = (
        "import sys, analyzer; heavy = {'numpy', 'pandas', 'onnx', 'onnxruntime', 'matplotlib'};"
        "print(heavy & set(sys.modules), set(analyzer.__all__) <= set(dir(analyzer)))"
    )
    assert python(code) == "set() True"
    with pytest.raises(AttributeError, match="no attribute 'analyse'"):
        analyzer.analyse  # noqa: B018


def test_every_public_name_is_there():
    """And is what it says."""
    for name in analyzer.__all__:
        assert getattr(analyzer, name).__doc__, name
    assert analyzer.analyze.__module__ == "analyzer.api"


def test_a_path_gives_what_the_command_gives(net, tmp_path, monkeypatch):
    """The same figures to the bit; options are called as in the configuration."""
    model, data = net
    out = tmp_path / "out"
    arguments = f"qanalyze {model} --calib {data} --out {out} --samples 2 --no-propose -q"
    monkeypatch.setattr(sys, "argv", arguments.split())
    with pytest.raises(SystemExit):
        cli.main()
    here, there = quick(model, data, samples=2), analyzer.load_analysis(out / "analysis.json")
    assert here.record.layers == there.record.layers
    assert here.record.outputs == there.record.outputs
    assert here.layers.equals(there.layers)


def test_a_model_in_memory_gives_what_its_file_gives(net, tmp_path):
    """It is not changed, and nothing of it stays on disk."""
    model, data = net
    proto = onnx.load(model)
    before = proto.SerializeToString(deterministic=True)
    there, here = quick(model, data), quick(proto, data)
    assert here.record.layers == there.record.layers
    assert proto.SerializeToString(deterministic=True) == before
    assert here.record.provenance.model["name"] == "model.onnx"


def test_large_models_get_their_weights_beside_them(net, monkeypatch):
    """Protobuf has a limit, which is made small here."""
    from analyzer import api

    model, data = net
    proto = onnx.load(model)
    rng = np.random.default_rng(0)
    large = numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype("f4"), "w0")
    large.raw_data += b""
    monkeypatch.setattr(api, "_TWO_GIB", 10)
    assert quick(proto, data).record.layers == quick(model, data).record.layers
    assert all(t.data_location == onnx.TensorProto.DEFAULT for t in proto.graph.initializer)


def test_a_model_without_its_weights_is_refused(net, tmp_path):
    """They are in a file that nobody can find from here."""
    model, data = net
    path = tmp_path / "external.onnx"
    onnx.save(onnx.load(model), path, save_as_external_data=True, size_threshold=0)
    with pytest.raises(ModelError, match=r"'w0' among them.*Give the path"):
        quick(onnx.load(path, load_external_data=False), data)
    assert len(quick(path, data).layers) > 0
    with pytest.raises(ModelError, match=r"The model is int, expected a path or an onnx"):
        quick(7, data)


def test_data_in_memory_give_what_their_file_gives(net):
    """An array, a list of dicts, a generator; reports say where the data were."""
    model, data = net
    x = np.load(data)["x"]
    there = quick(model, data).record
    for given, kind in (
        (x, "ndarray"),
        ([{"x": row} for row in x], "list"),
        (({"x": row[None]} for row in x), "generator"),
    ):
        here = quick(model, given).record
        assert here.layers == there.layers
        assert [d.origin for d in here.provenance.data] == [f"<{kind} in memory>"] * 2
        assert here.provenance.config["calib"] == f"<{kind} in memory>"
        assert "analyzer.data" not in json.dumps(here.provenance.command)


def test_other_data_and_a_metric_may_be_in_memory(net):
    """The analysis sees them, calibration does not."""
    model, data = net
    x = np.load(data)["x"]

    def loss(fp32, int8, name):
        return float(np.abs(fp32["y"] - int8["y"]).max())

    found = quick(model, data, eval=[{"x": x[0]}], metric=loss)
    calibration, analysis = found.record.provenance.data
    assert (calibration.count, analysis.count) == (4, 1)
    assert analysis.origin == "<list in memory>"
    assert found.scores.index[-1] == "loss"
    assert found.record.provenance.config["metric"] == "<loss in memory>"


def test_errors_name_what_was_given(net):
    """Not the place it was put in for the run."""
    model, _ = net
    with pytest.raises(
        DataError, match=r"^<list in memory> \(item 0\) holds arrays of shape \(7,\)"
    ):
        quick(model, [{"x": np.zeros(7, "f4")}])


def test_the_call_is_kept(net):
    """As it could be made again, long things in words."""
    model, data = net
    found = quick(model, data, samples=2, dispatch={"stem": "int16"})
    assert found.record.provenance.command == (
        f"analyzer.analyze({str(model)!r}, {str(data)!r}, 'esp32p4', propose=False, samples=2, "
        "dispatch={'stem': 'int16'})"
    )
    assert found.layers.loc["stem", "precision"] == "int16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bugdet": "5%"}, r"no option 'bugdet'.*Did you mean 'budget'"),
        ({"target": "esp32p5"}, r"no target 'esp32p5'.*Did you mean 'esp32p4'"),
        ({"target": "esp32p4,esp32s3"}, r"takes one target.*analyze_targets"),
        ({"target": "all"}, r"takes one target"),
        ({"max_nsr": "10%"}, r"max_nsr is a gate"),
        ({"samples": "many"}, r"samples: "),
        ({"export": "esp-pq"}, r"no export format 'esp-pq'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(net, options, message):
    """With the nearest match, or the place where it belongs."""
    with pytest.raises(analyzer.QAnalyzeError, match=message):
        analyzer.analyze(*net, **options)


def test_neither_file_nor_environment_is_read(net, tmp_path, monkeypatch):
    """A notebook gives the same figures in every folder."""
    (tmp_path / "pyproject.toml").write_text("[tool.qanalyze]\nsamples = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QANALYZE_SAMPLES", "2")
    assert quick(*net).record.provenance.config["samples"] is None


def test_progress_is_quiet_unless_asked_for(net, capsys):
    """stdout is nobody's."""
    quick(*net)
    assert capsys.readouterr() == ("", "")
    quick(*net, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "calibrate" in err


def test_several_targets(net):
    """In the order asked for, each as it is alone."""
    found = analyzer.analyze_targets(*net, ["tflite", "esp32p4"], propose=False)
    assert list(found) == ["tflite", "esp32p4"]
    assert found["esp32p4"].record.outputs == quick(*net).record.outputs
    with pytest.raises(ConfigError, match="There is no target"):
        analyzer.analyze_targets(*net, [])


def test_a_quantized_model(net, tmp_path):
    """By path or in memory; a target has no place beside it."""
    model, data = net
    exported = analyzer.analyze(model, data, target="onnxruntime", export="qdq", budget="100%")
    paths = exported.save(tmp_path / "reports")
    (int8,) = [path for name, path in paths.items() if name.endswith("/model.onnx")] or [None]
    if int8 is None:
        int8 = next(path for name, path in paths.items() if name.startswith("export/qdq"))
    by_path = analyzer.analyze(model, data, quantized=int8)
    in_memory = analyzer.analyze(model, data, quantized=onnx.load(int8))
    assert in_memory.record.outputs == by_path.record.outputs
    with pytest.raises(ConfigError, match="no effect on --quantized"):
        analyzer.analyze(model, data, "esp32s3", quantized=int8)
    with pytest.raises(ConfigError, match="has no targets"):
        analyzer.analyze_targets(model, data, ["esp32s3"], quantized=int8)


def test_what_one_looks_at(found):
    """One line, a piece of HTML, frames and the record behind them."""
    assert repr(found).startswith("<Analysis net.onnx · 5 layers (2 computing) · onnxruntime")
    assert "Worst layers" in found._repr_html_()
    assert list(found.layers.index) == [layer.name for layer in found.record.layers]
    assert list(found.outputs.index) == ["y"]
    assert len(found.proposals) == len(found.record.proposals) > 0
    assert len(found.sources) == len(found.record.balance.sources)
    assert len(found.findings) == len(found.record.findings)
    assert len(found.attempts) == len(found.record.attempts)
    assert found.recommended in (None, *found.record.proposals)
    assert "<!doctype html>" in found.to_html()[:100].lower()


@pytest.mark.parametrize("name", ["isolated", "graphwise", "steps"])
def test_plots_are_figures_that_notebooks_show(found, name):
    """Of matplotlib; what the notebook asks for is drawn when it asks."""
    figure = getattr(found, f"plot_{name}")()
    assert isinstance(figure, Figure)
    figure.suptitle("mine")
    assert "mine" in figure._repr_svg_()


def test_what_cannot_be_drawn_says_why(net):
    """Instead of None."""
    found = quick(*net)
    with pytest.raises(ConfigError, match=r"nothing to draw: there are no two proposals"):
        found.plot_pareto()
    with pytest.raises(ConfigError, match=r"no layer 'steem'.*Did you mean 'stem'"):
        found.plot_histogram("steem")


def test_profiles_are_drawn_by_layer(found):
    """Of the layers that were looked into."""
    from dataclasses import replace

    profile = TensorProfile(
        "stem", "in1", "w0", "weight", -1.0, 1.0, (0.5, 0.5), (0.4, 0.6), (-1.0, 1.0),
        (-1.0, 1.0), 0.1, 0.0, channels=((-1.0, 1.0), (0.0, 0.5)),
    )  # fmt: skip
    looked = analyzer.Analysis(replace(found.record, profiles=(profile,)))
    assert len(looked.plot_histogram("stem").axes) == 1
    assert len(looked.plot_channels("stem").axes) == 2  # ranges, and the noise below them
    with pytest.raises(ConfigError, match=r"'head' was not looked into.*Looked into: stem"):
        looked.plot_channels("head")
    flat = replace(profile, channels=())
    with pytest.raises(ConfigError, match="have no channels"):
        analyzer.Analysis(replace(found.record, profiles=(flat,))).plot_channels("stem")


def test_saving_and_loading(found, tmp_path):
    """All reports, and back again without a runtime."""
    paths = found.save(tmp_path / "reports")
    assert {"report.html", "analysis.json", "layers.csv"} <= set(paths)
    assert all(path.is_file() for path in paths.values())
    again = analyzer.load_analysis(paths["analysis.json"])
    assert type(again) is analyzer.Analysis
    assert again.layers.equals(found.layers)
    code = (
        "import sys, analyzer\n"
        f"found = analyzer.load_analysis({str(paths['analysis.json'])!r})\n"
        "found.layers, found._repr_html_(), found.plot_graphwise()\n"
        "print({'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    assert python(code) == "set()"


def test_what_was_exported_is_saved(net, tmp_path):
    """Texts are at hand; all files, long and binary ones too, lie beside the reports."""
    found = analyzer.analyze(*net, target="onnxruntime", export=["qdq", "model-explorer"])
    assert "model-explorer/graphwise.json" in found.exports
    paths = found.save(tmp_path / "reports")
    binary = [path for name, path in paths.items() if name.endswith(".onnx")]
    assert binary
    assert isinstance(onnx.load(binary[0]), onnx.ModelProto)


def test_comparing(net):
    """A frame of what changed; a record is as good as an analysis."""
    old, new = quick(*net), quick(*net, dispatch={"stem": "int16"})
    frame = new.compare(old)
    assert frame.loc["y", "old"] == old.record.outputs[0].nsr
    assert frame.loc["stem", "new"] == new.layers.loc["stem", "isolated_nsr"]
    assert new.compare(old.record).equals(frame)


def test_two_runs_give_the_same_bytes(net):
    """But for the time they took."""
    one, two = (quick(*net) for _ in range(2))
    assert one._repr_html_() == two._repr_html_()
    assert one.layers.equals(two.layers)
    assert Path(net[0]).exists()
