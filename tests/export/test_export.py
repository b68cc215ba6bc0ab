# SPDX-License-Identifier: Apache-2.0
"""The export stage as a whole: which files there are, the FP32 model among them, and refusals."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny_orders import NET, tiny_order, write_net

from analyzer import cli
from analyzer import export as exports
from analyzer.errors import ExportError
from analyzer.export import check_formats, export
from analyzer.export.source import source_bytes
from analyzer.formats import SOURCE, TOOLS, own_format
from analyzer.graph.slices import with_slices
from analyzer.records import Edit, Setting
from analyzer.targets import target_names

OUR_NAMES = NET.replace("[stem] ", "")


@pytest.fixture
def formats(monkeypatch):
    """Return a function: name and writer of a format -> nothing; it takes the place of all."""
    monkeypatch.setattr(exports, "FORMATS", {})

    def use(name, writer):
        monkeypatch.setitem(exports.FORMATS, name, writer)

    return use


def refuse(order):
    raise ExportError("There are no wings.", "Grow some.")


def run(model, sample):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, sample)


def test_every_format_has_its_tool_and_every_target_a_format():
    """The table of tools and that of writers have the same names; targets are known ones."""
    assert list(exports.FORMATS) == list(TOOLS)
    assert {target for tool in TOOLS.values() for target in tool.targets} == set(target_names())
    assert own_format("esp32s3") == "esp-ppq"
    assert {own_format(target) for target in target_names()} <= set(TOOLS)


def test_formats_are_read_from_one_text():
    """Separated by commas, each once; `all` swallows the others."""
    assert check_formats(["esp-ppq, qdq", "qdq"]) == ("esp-ppq", "qdq")
    assert check_formats(["qdq,all"]) == ("all",)
    with pytest.raises(ExportError, match=r"no export format 'esp-pq'.*Did you mean 'esp-ppq'"):
        check_formats(["esp-pq"])


def test_an_unknown_format_writes_nothing(tmp_path):
    """It is refused before any other is written."""
    with pytest.raises(ExportError, match="Did you mean 'rknn'"):
        export(tiny_order(tmp_path), ["quark", "rkn"])


def test_files_of_a_format_come_with_names_and_a_readme(formats, tmp_path):
    """No FP32 model where nothing asks for it."""
    formats("rknn", lambda order: {"rknn/a.cfg": "text"})
    files = export(tiny_order(tmp_path), ["rknn"])
    assert list(files) == ["README.txt", "names.csv", "rknn/a.cfg"]
    assert "RKNN-Toolkit2 (--export rknn)\n  rknn/a.cfg\n" in files["README.txt"]
    assert "Measured with the rules of onnxruntime, not with" in files["README.txt"]


def test_one_refusal_refuses_all_that_were_named(formats, tmp_path):
    """The user asked for both: nothing is returned, so nothing is written."""
    formats("rknn", lambda order: {"rknn/a.cfg": "text"})
    formats("quark", refuse)
    with pytest.raises(ExportError, match="no wings"):
        export(tiny_order(tmp_path), ["rknn", "quark"])


def test_all_writes_what_can_be_written_and_says_why_the_rest_is_not(formats, tmp_path):
    """A format without a file is one that the plan cannot be told."""
    formats("rknn", lambda order: {"rknn/a.cfg": "text"})
    formats("quark", refuse)
    formats("aimet", lambda order: {})
    files = export(tiny_order(tmp_path), ["all"])
    assert list(files) == ["README.txt", "names.csv", "rknn/a.cfg"]
    said = files["README.txt"].partition("Not written:\n")[2]
    assert "  quark: There are no wings. Grow some.\n" in said
    assert "  aimet: The plan changes nothing that AIMET can be told." in said


def test_the_model_is_written_where_a_file_asks_for_it(formats, tmp_path):
    """By its name, in the text of any format."""
    formats("quark", lambda order: {"quark/config.py": f"MODEL = {SOURCE!r}"})
    files = export(tiny_order(tmp_path), ["quark"])
    onnx.checker.check_model(onnx.load_from_string(files[SOURCE]), full_check=True)
    assert f"{SOURCE}\n  The FP32 model to give to the tools" in files["README.txt"]


def test_the_model_is_written_where_the_users_has_no_names(formats, tmp_path):
    """Then every tool needs it."""
    formats("rknn", lambda order: {"rknn/a.cfg": "text"})
    order = tiny_order(tmp_path, setting=Setting(table={"Conv_0": "s16s8"}), text=OUR_NAMES)
    names = [n.name for n in onnx.load_from_string(export(order, ["rknn"])[SOURCE]).graph.node]
    assert names == ["Conv_0", "act", "pool", "flat", "head"]


@pytest.mark.parametrize("target", ["onnxruntime", "esp32p4", "tensorrt", "openvino"])
def test_the_model_computes_what_the_users_does(tmp_path, target):
    """A split weight, too, is the same function."""
    edit = Edit("weight_split", ("stem",), "balance", 0.5)
    order = tiny_order(tmp_path, target, Setting(edits=(edit,)))
    model = source_bytes(order)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    sample = {"x": np.random.default_rng(5).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    for ours, theirs in zip(run(model, sample), run(str(order.original), sample), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_slices_of_outputs_are_not_in_the_model(tmp_path):
    """They were added to look at them."""
    order = tiny_order(tmp_path)
    sample = {"x": np.ones((1, 3, 8, 8), np.float32)}
    sliced = with_slices(order.source, {"first": "y[:, :1]"}, sample)
    assert [o.name for o in sliced.proto.graph.output] == ["y", "first"]
    model = onnx.load_from_string(source_bytes(replace(order, source=sliced)))
    assert [o.name for o in model.graph.output] == ["y"]
    assert [n.name for n in model.graph.node] == ["stem", "act", "pool", "flat", "head"]


def test_two_exports_give_the_same_bytes(tmp_path):
    """Of everything, with the FP32 model."""
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        setting = Setting(table={"Conv_0": "s16s8"}, observer="percentile")
        order = tiny_order(tmp_path / name, setting=setting, text=OUR_NAMES)
        files.append(export(order, ["rknn", "tpu-mlir", "quark"]))
    assert files[0] == files[1]
    assert len(files[0]) == 10


def test_a_dispatch_table_of_unknown_layers_ends_in_one_sentence(tmp_path, monkeypatch, capsys):
    """The whole chain: exit code 2, the nearest name, and not a file."""
    write_net(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.qanalyze.dispatch]\nstm = "int16"\n')
    before = sorted(tmp_path.rglob("*"))
    arguments = ["net.onnx", "--calib", "samples.npz", "--out", "out", "--export", "rknn,quark"]
    monkeypatch.setattr(sys, "argv", ["qanalyze", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert "There is no layer 'stm'" in said.err
    assert "Did you mean 'stem'?" in said.err
    assert "Traceback" not in said.err
    assert sorted(tmp_path.rglob("*")) == before
