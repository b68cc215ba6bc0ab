# SPDX-License-Identifier: Apache-2.0
"""The command: exit codes, what goes to stdout and what to stderr, and the files it writes."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import analyzer
from analyzer import cli, pipeline
from analyzer.cli import run as command
from analyzer.export import FORMATS
from analyzer.records import Change, Cost, Proposal
from analyzer.targets import target_names

ROOT = Path(analyzer.__file__).parents[1]
TINY = """<ir_version: 8, opset_import: ["": 13]>
tiny (float[N, 3, 8, 8] x) => (float[N, 4] y) {
    c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w)
    r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm(f, v)
}"""
WRITTEN = {"report.html", "analysis.json", "layers.csv", "sources.csv", "proposals.csv"}
DATA = ("tiny.onnx", "--calib", "good.npy")
QUICK = (*DATA, "--no-propose")
STAGES = ["load", "calibrate", "simulate", "probe", "balance", "dissect", "diagnose"]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path) -> Path:
    """Every test runs in a folder with a model, its data, and nothing else."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("QANALYZE_") or name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name)
    model = onnx.parser.parse_model(TINY)
    rng = np.random.default_rng(1)
    for name, shape in (("w", (4, 3, 3, 3)), ("v", (4, 4))):
        weight = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    onnx.save(model, "tiny.onnx")
    np.save("good.npy", rng.random((4, 3, 8, 8), dtype=np.float32))
    return tmp_path


@pytest.fixture
def qanalyze(monkeypatch, capsys):
    """Run the command in this process, with model and data and no search unless told otherwise."""

    def run(*arguments: str, base: tuple[str, ...] = QUICK) -> Ran:
        monkeypatch.setattr(sys, "argv", ["qanalyze", *base, *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Ran(ended.value.code, out, err)

    return run


def start(*arguments: str, **environment: str) -> Ran:
    """Run the command as a process of its own, its output going into pipes."""
    done = subprocess.run(
        [sys.executable, "-m", "analyzer", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def files(folder: str) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def test_default_run(qanalyze):
    """Exit 0: worst layers and verdict on stdout, stages on stderr, files below reports/."""
    ran = qanalyze(base=DATA)
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].startswith("tiny.onnx")
    assert "esp32p4" in lines[0]
    assert lines[-3].startswith("Output y: NSR ")
    assert lines[-2] == f"Report   {Path('reports/tiny.esp32p4/report.html')}"
    assert lines[-1] == "Next     qanalyze tiny.onnx --calib good.npy --export esp-ppq"
    stages = [line.split(":")[0] for line in ran.err.splitlines()]
    assert stages == [*STAGES, "propose", "verify"]
    assert files("reports/tiny.esp32p4") == WRITTEN


def test_run_without_proposals(qanalyze):
    """The search is left out, and what is next is to read about the first finding."""
    ran = qanalyze()
    assert [line.split(":")[0] for line in ran.err.splitlines()] == STAGES
    assert ran.out.splitlines()[-1].startswith("Next     qanalyze --explain QA1")
    assert not any(line.startswith(("Advice", "Free")) for line in ran.out.splitlines())
    assert len(Path("reports/tiny.esp32p4/proposals.csv").read_text().splitlines()) == 1
    assert files("reports/tiny.esp32p4") == WRITTEN


def test_piped_process():
    """A process with piped output prints plain rows, one line each, however narrow the window."""
    ran = start(*QUICK, "--all", COLUMNS="20")
    assert ran.code == 0
    assert "\x1b" not in ran.out + ran.err
    header = next(line for line in ran.out.splitlines() if line.startswith("layer"))
    assert header.split()[:3] == ["layer", "op", "isolated"]
    assert "graphwise" in header
    assert sum("Conv" in line.split()[1:2] for line in ran.out.splitlines()) == 1


def test_narrow_terminal_drops_columns():
    """On a terminal of 40 columns no row of the tables is longer than the window."""
    ran = start(*QUICK, COLUMNS="40", FORCE_COLOR="1", NO_COLOR="1")
    assert ran.code == 0
    table = ran.out.split("\n\n")[1].splitlines()
    plain = [line.replace("\x1b[2m", "").replace("\x1b[0m", "") for line in table]
    assert plain[0].split() == ["layer", "isolated", "graphwise"]
    assert max(map(len, plain)) <= 40


def test_no_color():
    """NO_COLOR takes the colours out of what a terminal would show."""
    colours = ("\x1b[31m", "\x1b[33m")
    shown = {
        no_color: start(*QUICK, FORCE_COLOR="1", NO_COLOR=no_color, COLUMNS="120").out
        for no_color in ("", "1")
    }
    assert not any(colour in shown["1"] for colour in colours)
    assert "\x1b[1m" in shown[""]


def test_reader_of_the_pipe_goes_away():
    """`qanalyze ... | head` is no failed gate: the exit code stays 0."""
    for format_ in ("table", "csv"):
        command = [sys.executable, "-m", "analyzer", *QUICK]
        process = subprocess.Popen(
            [*command, "--format", format_, "--all"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        process.stdout.close()
        err = process.stderr.read()
        process.stderr.close()
        assert (process.wait(60), b"Traceback" in err) == (0, False)


@pytest.mark.parametrize("format_", ["table", "json", "csv", "markdown"])
def test_formats(qanalyze, format_):
    """stdout carries the result and nothing else, in each format."""
    ran = qanalyze("--format", format_)
    assert ran.code == 0
    assert ran.out.endswith("\n")
    if format_ == "json":
        assert ran.out == Path("reports/tiny.esp32p4/analysis.json").read_text(encoding="utf-8")
        assert json.loads(ran.out)["outputs"][0]["name"] == "y"
    elif format_ == "csv":
        rows = list(csv.DictReader(io.StringIO(ran.out)))
        assert [row["op_type"] for row in rows].count("Conv") == 1
    elif format_ == "markdown":
        assert "| layer" in ran.out
    if format_ != "table":
        assert ran.err.splitlines()[-1].startswith("Report   ")


def test_several_targets(qanalyze):
    """Each target gets a folder of its own, below --out where that is given."""
    assert qanalyze("--target", "esp32p4,onnxruntime").code == 0
    assert files("reports") == {"tiny.esp32p4", "tiny.onnxruntime", "tiny.targets.csv"}
    assert qanalyze("--target", "esp32p4,onnxruntime,esp32p4", "--out", "both").code == 0
    assert files("both") == {"esp32p4", "onnxruntime", "targets.csv"}
    assert files("both/onnxruntime") == WRITTEN
    assert qanalyze("--target", "onnxruntime", "--out", "one").code == 0
    assert files("one") == WRITTEN


def test_gate_fails(qanalyze):
    """Exit 1 above --max-nsr, with one line that says why; the reports are there all the same."""
    ran = qanalyze("--max-nsr", "0.0001%")
    assert ran.code == 1
    last = ran.err.splitlines()[-1]
    assert last.startswith("Gate failed: output 'y'")
    assert "esp32p4" in last
    assert files("reports/tiny.esp32p4") == WRITTEN


def test_gate_fails_for_one_of_two_targets(qanalyze):
    """One target above the limit is enough, and the other is still analysed."""
    ran = qanalyze("--target", "onnxruntime,esp32p4", "--max-nsr", "0")
    assert ran.code == 1
    assert len([line for line in ran.err.splitlines() if line.startswith("Gate failed")]) == 2


def test_gate_on_agreement(qanalyze):
    """Four samples agree fully or not; where no task is known the gate cannot hold."""
    ran = qanalyze("--min-agreement", "100%", "--task", "none")
    assert ran.code == 1
    last = ran.err.splitlines()[-1]
    assert last.startswith("Gate failed: no agreement with FP32 was measured for esp32p4")
    assert qanalyze("--min-agreement", "0%", "--task", "classification").code == 0
    assert qanalyze("--min-agreement", "99").code == 2


def test_baseline_of_a_run(qanalyze):
    """The last run of a model is a baseline, although the run writes over it."""
    old = "reports/tiny.esp32p4/analysis.json"
    assert qanalyze("-q").code == 0
    ran = qanalyze("--baseline", old, "--no-worse-than", old)
    assert ran.code == 0
    assert ran.out.splitlines()[1].startswith("Baseline: tiny.onnx · ")
    assert any(line.startswith("Output y: NSR ") and line.endswith(", unchanged")
               for line in ran.out.splitlines())  # fmt: skip
    page = Path("reports/tiny.esp32p4/report.html").read_text(encoding="utf-8")
    assert "Compared with the baseline" in page
    assert qanalyze("--precision", "int16", "-q", "--out", "fine").code == 0
    ran = qanalyze("--no-worse-than", "fine/analysis.json")
    assert ran.code == 1
    assert ran.err.splitlines()[-1].endswith("in fine/analysis.json.")


def test_old_analyses_are_read_first(qanalyze, monkeypatch):
    """A path that leads nowhere costs no run, and several targets have no single baseline."""
    monkeypatch.setattr(command, "run_targets", None)
    ran = qanalyze("--no-worse-than", "nowhere.json")
    assert ran.code == 2
    assert "nowhere.json" in ran.err
    ran = qanalyze("--baseline", "old.json", "--target", "esp32p4,onnxruntime")
    assert ran.code == 2
    assert "--baseline is one analysis of one target, and several targets are asked" in ran.err


def test_several_targets_are_compared(qanalyze):
    """One row per target and one column per target for the layers, in every format."""
    both = ["--target", "onnxruntime,esp32p4"]
    shown = qanalyze(*both).out
    assert [line.split()[0] for line in shown.splitlines() if "tiny." in line] == [
        "tiny.onnx", "Report", "Report"
    ]  # fmt: skip
    document = json.loads(qanalyze(*both, "--format", "json").out)
    assert {t["target"] for t in document["targets"]} == {"onnxruntime", "esp32p4"}
    measured = {row["op_type"]: set(row["isolated_nsr"]) for row in document["layers"]}
    assert measured["Conv"] == measured["Gemm"] == {"onnxruntime", "esp32p4"}
    table = qanalyze(*both, "--format", "csv").out
    assert table == Path("reports/tiny.targets.csv").read_text(encoding="utf-8")
    assert len(table.splitlines()) == 3
    assert qanalyze(*both, "--format", "markdown").out.startswith("| target | worst output |")


def test_all_targets(qanalyze):
    """`all` leaves out what does not fit and says why; named targets have to fit."""
    ran = qanalyze("--target", "all", "--calibration", "kl")
    assert ran.code == 0
    left_out = [line for line in ran.out.splitlines() if line.startswith("Left out ")]
    assert any("has no calibration 'kl'" in line for line in left_out)
    named = qanalyze("--target", "esp32p4,onnxruntime", "--calibration", "entropy")
    assert named.code == 2
    assert "'esp32p4' has no calibration 'entropy'" in named.err


def test_unknown_variable(qanalyze, monkeypatch):
    """A misspelt environment variable is an error with the nearest known name."""
    monkeypatch.setenv("QANALYZE_SAMPELS", "4")
    ran = qanalyze()
    assert ran.code == 2
    assert "There is no variable 'QANALYZE_SAMPELS'." in ran.err
    assert "Did you mean 'QANALYZE_SAMPLES'?" in ran.err


def test_gate_holds(qanalyze):
    """Exit 0 where every output is below --max-nsr, given as a percentage or as a ratio."""
    assert qanalyze("--max-nsr", "99%").code == 0
    assert qanalyze("--max-nsr", "0.99").code == 0


def test_not_a_number_fails_the_gate(qanalyze, monkeypatch):
    """An NSR that is no number is not below any limit."""

    def run(*arguments, **options):
        (analysis,) = pipeline_run(*arguments, **options).analyses
        bad = replace(analysis, outputs=(replace(analysis.outputs[0], nsr=float("nan")),))
        return pipeline.Outcome((bad,), {})

    pipeline_run = pipeline.run_targets
    monkeypatch.setattr(command, "run_targets", run)
    assert qanalyze("--max-nsr", "50%").code == 1


def test_internal_error(qanalyze, monkeypatch):
    """Exit 3 for a bug of ours: the traceback and a request to report it."""

    def run(*arguments, **options):
        raise RuntimeError("surprise")

    monkeypatch.setattr(command, "run_targets", run)
    ran = qanalyze()
    assert ran.code == 3
    assert "RuntimeError: surprise" in ran.err
    assert f"bug in qanalyze {analyzer.__version__}" in ran.err
    assert "report it" in ran.err.splitlines()[-1]
    assert ran.out == ""


def test_interrupted(qanalyze, monkeypatch):
    """Exit 130 on Ctrl-C, without a traceback."""

    def run(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_targets", run)
    ran = qanalyze()
    assert ran.code == 130
    assert ran.err.strip() == "Interrupted: no report was written for the run at hand."
    assert not Path("reports").exists()


def test_quiet(qanalyze):
    """-q prints the verdict and nothing else."""
    ran = qanalyze("-q")
    assert len(ran.out.splitlines()) == 1
    assert ran.out.startswith("Output y: NSR ")
    assert ran.err == ""


def test_verbose(qanalyze):
    """-v adds the time of every stage and the peak of memory to stderr."""
    err = qanalyze("-v").err
    for stage in STAGES:
        assert any(line.startswith(f"{stage}  ") for line in err.splitlines())
    assert "peak memory" in err


def test_all_prints_every_layer(qanalyze):
    """--all prints as many rows as the CSV has."""
    rows = len(Path(csv_of(qanalyze)).read_text(encoding="utf-8").splitlines()) - 1
    table = qanalyze("--all").out.split("\n\n")[1].splitlines()
    assert len(table) == rows + 1


def csv_of(qanalyze) -> str:
    assert qanalyze("-q").code == 0
    return "reports/tiny.esp32p4/layers.csv"


def test_slices(qanalyze):
    """Parts of an output have rows of their own below it, under the names given."""
    ran = qanalyze("--slice", "first two=y[:, :2]", "--slice", "last=y[:, -1]", "--format", "json")
    assert ran.code == 0
    outputs = json.loads(ran.out)["outputs"]
    assert [(o["name"], o["slice_of"]) for o in outputs] == [
        ("y", None), ("first two", "y"), ("last", "y")
    ]  # fmt: skip
    shown = qanalyze("--slice", "first two=y[:, :2]").out
    assert any(line.strip().startswith("first two ") for line in shown.splitlines())


@pytest.fixture
def proposing(monkeypatch):
    """Make a plan of every run, and files of every plan that is to be exported."""

    def run(path, config, names, **options):
        outcome = run_targets(path, replace(config, propose=False), names, **options)
        plan = Proposal(
            "plan 1", True, (Change("calibration", "", "kl", "minmax"),), 0.0, {"y": 0.02},
            {"y": 0.01}, costs=Cost(), left=0.5, front=True, why="it is free",
        )  # fmt: skip
        asked.append(config)
        return SimpleNamespace(
            analyses=tuple(replace(a, proposals=(plan,)) for a in outcome.analyses),
            refused=outcome.refused,
            exports={n: {f"{f}.txt": f"{f} for {n}" for f in config.export} for n in names},
        )

    run_targets, asked = pipeline.run_targets, []
    monkeypatch.setattr(command, "run_targets", run)
    return asked


def test_a_plan_is_proposed_and_its_export_suggested(qanalyze, proposing):
    """The table has the plan and why; the next command is this one with the format to export."""
    ran = qanalyze(base=DATA)
    assert (ran.code, proposing[0].export) == (0, ())
    lines = ran.out.splitlines()
    assert "* plan 1          0 %   2.00 % → 1.00 %         50 %   calibration minmax" in lines
    assert "Advice   plan 1: it is free" in lines
    assert lines[-1] == "Next     qanalyze tiny.onnx --calib good.npy --export esp-ppq"
    assert not Path("reports/tiny.esp32p4/export").exists()
    other = qanalyze("--target", "onnxruntime", base=DATA).out.splitlines()[-1]
    assert other.endswith("--target onnxruntime --export onnxruntime")


def test_export(qanalyze, proposing):
    """Files go below export/, and are said where they are; another export replaces them."""
    folder = Path("reports/tiny.esp32p4/export")
    ran = qanalyze("--export", "qdq,esp-ppq", base=DATA)
    assert ran.code == 0
    assert f"Export   {folder}" in ran.out.splitlines()
    assert "--export" not in ran.out.splitlines()[-1]
    assert files(folder) == {"qdq.txt", "esp-ppq.txt", "SHA256SUMS"}
    assert (folder / "qdq.txt").read_text(encoding="utf-8") == "qdq for esp32p4"
    assert f"Export   {folder}" in qanalyze("--export", "nncf", "--format", "csv", base=DATA).err
    assert files(folder) == {"nncf.txt", "SHA256SUMS"}
    assert qanalyze("--export", "all,qdq", "-q", base=DATA).code == 0
    assert proposing[-1].export == ("all",)


def test_export_all_writes_what_can_be_written(qanalyze):
    """A folder per format that can carry the plan; README.txt has a paragraph on each one."""
    ran = qanalyze("--export", "all", base=DATA)
    assert ran.code == 0
    folder = Path("reports/tiny.esp32p4/export")
    assert f"Export   {folder}" in ran.out.splitlines()
    assert files(folder) > {
        "README.txt",
        "names.csv",
        "SHA256SUMS",
        "esp-ppq",
        "qdq",
        "onnxruntime",
    }
    text = (folder / "README.txt").read_text(encoding="utf-8")
    assert all(f"(--export {name})" in text for name in FORMATS)
    sums = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    written = [p for p in folder.rglob("*") if p.is_file()]
    assert len(sums) == len(written) - 1


def test_export_of_several_targets(qanalyze, proposing):
    """Each target has its own plan, and its own folder for it."""
    ran = qanalyze(
        "--target", "esp32p4,onnxruntime", "--export", "qdq", "--out", "both", base=DATA
    )
    assert ran.code == 0
    for name in ("esp32p4", "onnxruntime"):
        path = Path("both", name, "export")
        assert (path / "qdq.txt").read_text(encoding="utf-8") == f"qdq for {name}"
        assert f"Export   {path}" in ran.out.splitlines()


def test_unknown_formats_and_tables_are_refused_at_once(qanalyze, monkeypatch):
    """Before the model is read, with the nearest name."""
    monkeypatch.setattr(command, "run_targets", None)
    ran = qanalyze("--export", "qdq,esp-pqp", base=DATA)
    assert ran.code == 2
    assert "There is no export format 'esp-pqp'." in ran.err
    assert "Did you mean 'esp-ppq'?" in ran.err
    ran = qanalyze("--latency", "times.csv", "--budget", "3ms", base=DATA)
    assert ran.code == 2
    assert "There is no table 'times.csv'." in ran.err
    assert not Path("reports").exists()


@pytest.mark.parametrize(("entry", "known"), [("Conx=int16", "Conv_0"), ("Conv_0=int61", "int16")])
def test_unknown_layers_and_precisions_are_refused(qanalyze, entry, known):
    """Of --dispatch, with the nearest name; nothing is written."""
    ran = qanalyze("--dispatch", entry, "--export", "qdq", base=DATA)
    assert ran.code == 2
    assert f"Did you mean {known!r}?" in ran.err
    assert not Path("reports").exists()


def test_quantized_models_are_not_exported(qanalyze):
    """Nothing is searched for them."""
    ran = qanalyze("--quantized", "tiny.onnx", "--export", "qdq", base=DATA)
    assert ran.code == 2
    assert "--export needs proposals, which there are none of with --quantized." in ran.err


def test_what_is_asked_of_the_search(qanalyze, proposing, monkeypatch):
    """Flags and environment reach the configuration; --no-propose takes nothing with it."""
    monkeypatch.setenv("QANALYZE_TIME_LIMIT", "2m")
    qanalyze("--budget", "10%", "--goal", "top-1=98%", base=DATA)
    qanalyze("--no-propose", base=DATA)
    first, second = proposing
    assert (first.budget, first.goal) == ((0.1, "share"), ("top-1", 0.98))
    assert (first.time_limit, first.propose, second.propose) == (120.0, True, False)
    assert qanalyze("--no-propose", "--export", "qdq", base=DATA).code == 2


def test_nothing_to_export(qanalyze, proposing, monkeypatch):
    """Where no plan is recommended, nothing is written, and that is said."""

    def run(*arguments, **options):
        found = of_fixture(*arguments, **options)
        return SimpleNamespace(analyses=found.analyses, refused={}, exports={})

    of_fixture = command.run_targets
    monkeypatch.setattr(command, "run_targets", run)
    ran = qanalyze("--export", "qdq", base=DATA)
    assert ran.code == 0
    assert "Nothing exported for esp32p4: no proposal is recommended." in ran.err
    assert not Path("reports/tiny.esp32p4/export").exists()


def test_explain(qanalyze):
    """--explain prints the page of a code, and needs no model."""
    ran = qanalyze("--explain", "QA201", base=())
    assert ran.code == 0
    assert ran.out.startswith("QA201")
    assert qanalyze("--explain", "QA999", base=()).code == 2


def test_configuration_file_and_environment(qanalyze, monkeypatch):
    """A flag beats QANALYZE_*, which beats [tool.qanalyze], which beats the default."""

    def target(*arguments: str) -> str:
        ran = qanalyze("--format", "json", *arguments)
        return json.loads(ran.out)["provenance"]["target"]

    Path("pyproject.toml").write_text('[tool.qanalyze]\ntarget = ["onnxruntime"]\n')
    assert target() == "onnxruntime"
    monkeypatch.setenv("QANALYZE_TARGET", "esp32p4")
    assert target() == "esp32p4"
    assert target("--target", "onnxruntime") == "onnxruntime"


def test_configuration_file_alone(qanalyze):
    """[tool.qanalyze] may hold everything, written with dashes or underscores."""
    Path("pyproject.toml").write_text(
        '[tool.qanalyze]\ncalib = "good.npy"\nmax-nsr = "0%"\nsamples = 2\n'
        "shapes = { x = [2, 3, 8, 8] }\n"
    )
    assert qanalyze(base=("tiny.onnx",)).code == 1


def test_version(qanalyze):
    """--version needs no model."""
    assert qanalyze("--version", base=()) == Ran(0, f"qanalyze {analyzer.__version__}\n", "")


def test_list_targets(qanalyze):
    """--list-targets tells what every target offers, and how near it was measured to be."""
    ran = qanalyze("--list-targets", base=())
    assert ran.code == 0
    heads = [line.split(":")[0] for line in ran.out.splitlines() if not line.startswith(" ")]
    assert heads == target_names()
    assert ran.out.count("--precision ") == ran.out.count("placed alike") == len(heads)


def test_help(qanalyze):
    """--help explains the options with their defaults, and shows no markup that got lost."""
    ran = qanalyze("--help", base=())
    assert ran.code == 0
    for word in ("--calib", "--target", "--max-nsr", "MODEL", "[default: esp32p4]"):
        assert word in ran.out


def test_help_imports_nothing_heavy():
    """Printing the help loads none of the libraries that take long to import."""
    code = (
        "import sys; sys.argv = ['qanalyze', '--help']\n"
        "from analyzer.cli import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "heavy = {'onnx', 'onnxruntime', 'pandas', 'matplotlib', 'PIL', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
