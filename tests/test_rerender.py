# SPDX-License-Identifier: Apache-2.0
"""An analysis.json in place of the model: reports again, without a runtime and without a run."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

import analyzer
from analyzer import cli
from analyzer.records import (
    Analysis,
    Balance,
    LayerError,
    OutputError,
    Proposal,
    Provenance,
    QuantPlan,
    TaskScore,
)
from analyzer.report.terminal import render_terminal
from analyzer.store import load_analysis, write_json

ROOT = Path(analyzer.__file__).parents[1]
REPORTS = {"report.html", "layers.csv", "sources.csv", "proposals.csv"}
WITHOUT_RUNTIME = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("onnx", "onnxruntime"):
            raise ImportError(f"{name} is not installed")
sys.meta_path.insert(0, Refuse())
sys.argv = ["qanalyze", *sys.argv[1:]]
from analyzer.cli import main
main()
"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def made(nsr: float = 0.2, agreement: float = 0.8, **more: object) -> Analysis:
    """One output, two layers, a plan that is recommended and the file of it."""
    names = ("/a/Conv", "/b/Conv")
    layers = (
        LayerError("/a/Conv", "Conv", isolated_nsr=nsr / 2, isolated_samples=4),
        LayerError("/b/Conv", "Conv", isolated_nsr=0.01, isolated_samples=4),
    )
    plan = Proposal("plan 1", True, (), 0.0, {"y": nsr}, {"y": nsr / 2}, left=0.5)
    return Analysis(
        Provenance(
            "0.1.0", "qanalyze m.onnx --calib d", {"name": "m.onnx", "sha256": "ab" * 32},
            "esp32p4", (), 0, {}, {"numpy": "2"},
        ),
        (OutputError("y", nsr, 7.0, 0.9, 1.0, nsr, 1.0, nsr),),
        layers,
        QuantPlan("esp32p4", names, frozenset(names), {}, ()),
        proposals=(plan,),
        balance=Balance(()),
        task=(TaskScore("top-1 agreement", agreement, None, "fp32", 32, ("y",)),),
        exports={"esp-ppq/setting.json": "{}\n", "esp-ppq/quantize.py": "pass\n"},
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path) -> Path:
    """Every test runs in a folder with an old and a new analysis, and nothing else."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("QANALYZE_") or name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name)
    write_json(made(), Path("run/analysis.json"))
    write_json(made(0.4, 0.7), Path("old.json"))
    return tmp_path


@pytest.fixture
def qanalyze(monkeypatch, capsys):
    """Run the command in this process."""

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["qanalyze", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Ran(ended.value.code, out, err)

    return run


@pytest.fixture
def quick(monkeypatch):
    """Leave the page out, which takes most of the time and is tested elsewhere."""
    from analyzer.report import files

    monkeypatch.setattr(files, "render_html", lambda *_: "<!doctype html>")


def files(folder: str) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file()}


def test_neither_onnx_nor_onnxruntime_is_imported(folder):
    """On a machine without them all reports come out, compared with an older analysis."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RUNTIME, "run/analysis.json", "--baseline", "old.json",
         "--export", "esp-ppq,model-explorer", "--format", "markdown"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        encoding="utf-8", timeout=60,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert done.stdout.startswith("**Output y: NSR 40.0 % → 20.0 %, 2.0 times less noise**")
    assert "Compared with the baseline" in Path("run/report.html").read_text(encoding="utf-8")
    assert files("run") >= {*REPORTS, "analysis.json", "export/esp-ppq/setting.json"}


def test_the_analysis_is_left_alone(qanalyze, quick):
    """Its reports are rewritten beside it, whatever it is called; a second one is untouched."""
    path = Path("run/analysis.json")
    before = path.read_bytes()
    assert qanalyze(str(path)).code == 0
    assert files("run") == {*REPORTS, "analysis.json"}
    assert path.read_bytes() == before
    Path("old.json").rename("run/other.json")
    assert qanalyze("run/other.json").code == 0
    assert path.read_bytes() == before


def test_the_table_is_that_of_the_run(qanalyze, quick):
    """stdout has what a run would have printed, but the next command needs no run."""
    stream = io.StringIO()
    render_terminal(load_analysis(Path("old.json")), console=Console(file=stream))
    shown = qanalyze("old.json").out
    assert shown.startswith(stream.getvalue())
    assert shown.splitlines()[-2:] == [
        "Report   report.html", "Next     qanalyze old.json --export esp-ppq"
    ]  # fmt: skip


@pytest.mark.parametrize("format_", ["json", "csv", "markdown"])
def test_formats(qanalyze, quick, format_):
    """Each is what the run would have written."""
    ran = qanalyze("run/analysis.json", "--format", format_)
    assert ran.code == 0
    if format_ == "json":
        assert ran.out == Path("run/analysis.json").read_text(encoding="utf-8")
    elif format_ == "csv":
        assert ran.out == Path("run/layers.csv").read_text(encoding="utf-8")
    else:
        assert ran.out.startswith("**Output y: NSR 20.0 %")


def test_another_folder_gets_everything(qanalyze, quick):
    """--out takes a copy of the analysis, too, and suggests to go on from there."""
    ran = qanalyze("run/analysis.json", "--out", "new")
    assert files("new") == {*REPORTS, "analysis.json"}
    assert files("run") == {"analysis.json"}
    assert ran.out.splitlines()[-1] == "Next     qanalyze new/analysis.json --export esp-ppq"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--calib", "d"], "--calib has no effect on an analysis"),
        (["--target", "all", "--slice", "a=b[0]"], "--target and --slice have no effect"),
        (["--no-propose"], "--no-propose has no effect"),
        (["--eval", "d", "--samples", "3"], "--eval and --samples have no effect"),
    ],
)
def test_what_only_a_run_can_do_is_refused(qanalyze, options, named):
    """By name, in one sentence, with nothing written."""
    ran = qanalyze("run/analysis.json", *options)
    assert ran.code == 2
    assert ran.err.startswith(f"Error: {named}")
    assert files("run") == {"analysis.json"}


def test_what_is_set_for_runs_does_not_concern_an_analysis(qanalyze, quick, monkeypatch):
    """Neither pyproject.toml nor environment make it fail; their gate holds all the same."""
    monkeypatch.setenv("QANALYZE_CALIB", "d")
    Path("pyproject.toml").write_text(
        '[tool.qanalyze]\ntarget = "all"\nbudget = "3ms"\nmax-nsr = "1%"\n', encoding="utf-8"
    )
    ran = qanalyze("run/analysis.json")
    assert ran.code == 1
    assert "above --max-nsr 1.000%" in ran.err
    assert qanalyze("run/analysis.json", "--max-nsr", "30%").code == 0
    monkeypatch.setenv("QANALYZE_MIN_AGREEMENT", "90%")
    assert qanalyze("run/analysis.json", "--max-nsr", "30%").code == 1
    Path("pyproject.toml").write_text("[tool.qanalyze]\ntargte = 1\n", encoding="utf-8")
    assert qanalyze("run/analysis.json").code == 2


def test_export_of_what_is_carried(qanalyze, quick):
    """Files join those that are there, and their check sums the list; nothing else moves."""
    other = Path("run/export/qdq/model.onnx")
    other.parent.mkdir(parents=True)
    other.write_bytes(b"x")
    sums = Path("run/export/SHA256SUMS")
    sums.write_text(f"{hashlib.sha256(b'x').hexdigest()}  qdq/model.onnx\n", encoding="utf-8")
    ran = qanalyze("run/analysis.json", "--export", "esp-ppq")
    assert f"Export   {Path('run/export')}" in ran.out.splitlines()
    assert files("run/export") == {
        "SHA256SUMS", "qdq/model.onnx", "esp-ppq/setting.json", "esp-ppq/quantize.py"
    }  # fmt: skip
    listed = dict(
        reversed(line.split("  ")) for line in sums.read_text(encoding="utf-8").splitlines()
    )
    assert listed == {
        name: hashlib.sha256(Path("run/export", name).read_bytes()).hexdigest()
        for name in files("run/export") - {"SHA256SUMS"}
    }


def test_export_of_what_takes_a_run(qanalyze):
    """One sentence and the command that does it; an unknown name gets the nearest one."""
    ran = qanalyze("run/analysis.json", "--export", "qdq")
    assert ran.code == 2
    assert "'run/analysis.json' does not carry the files of qdq" in ran.err
    assert ran.err.splitlines()[-1] == "Run: qanalyze m.onnx --calib d --export qdq"
    ran = qanalyze("run/analysis.json", "--export", "esp-pqp")
    assert ran.code == 2
    assert "Did you mean 'esp-ppq'?" in ran.err
    assert files("run") == {"analysis.json"}


@pytest.mark.parametrize("text", ["", "for model.fp32.onnx beside this folder"])
def test_half_an_export_is_none(qanalyze, text):
    """Where a file was too long to be carried, or another one is asked for, a run is needed."""
    half = replace(made(), exports={"esp-ppq/setting.json": text, "esp-ppq/quantize.py": "pass"})
    write_json(half, Path("half.json"))
    assert qanalyze("half.json", "--export", "esp-ppq").code == 2


def test_nothing_recommended_nothing_exported(qanalyze, quick):
    """As in a run it is said, and is no error."""
    write_json(replace(made(), proposals=(), exports={}), Path("none.json"))
    ran = qanalyze("none.json", "--export", "esp-ppq")
    assert ran.code == 0
    assert ran.err.splitlines()[-1] == "Nothing exported: no proposal is recommended."


def test_baseline(qanalyze, quick):
    """The table is that of the changes, the verdict before the paths; -q is the verdict alone."""
    lines = qanalyze("run/analysis.json", "--baseline", "old.json").out.splitlines()
    verdict = "Output y: NSR 40.0 % → 20.0 %, 2.0 times less noise"
    assert lines[-4:-2] == ["Answer   top-1 agreement against FP32 0.700 → 0.800", verdict]
    assert lines[-2].startswith("Report ")
    assert qanalyze("run/analysis.json", "--baseline", "old.json", "-q").out == f"{verdict}\n"
    ran = qanalyze("run/analysis.json", "--baseline", "old.json", "--format", "json")
    assert json.loads(ran.out)["verdicts"] == [verdict]


def test_no_worse_than(qanalyze, quick):
    """Better passes; worse is exit 1 with a line for each, and the reports are there."""
    assert qanalyze("run/analysis.json", "--no-worse-than", "old.json").code == 0
    ran = qanalyze("old.json", "--no-worse-than", "run/analysis.json", "--out", "out")
    assert ran.code == 1
    nsr, score = ran.err.splitlines()
    assert nsr.startswith("Gate failed: output 'y' has an NSR of 40.000%, more than 1 % above ")
    assert score.startswith("Gate failed: 'top-1 agreement' is 0.700, more than 0.001 below ")
    assert nsr.endswith("the 20.000% in run/analysis.json.")
    assert files("out") >= REPORTS


def test_missing_files(qanalyze):
    """One sentence, exit 2, nothing written."""
    for arguments in (["nowhere.json"], ["run/analysis.json", "--baseline", "nowhere.json"]):
        ran = qanalyze(*arguments)
        assert ran.code == 2
        assert "nowhere.json" in ran.err
    assert files("run") == {"analysis.json"}


def test_stages_of_the_run(qanalyze, quick):
    """-v shows what the run took."""
    write_json(replace(made(), timing={"probe": 4.25}), Path("timed.json"))
    assert "probe           4.25 s" in qanalyze("timed.json", "-v").err.splitlines()
