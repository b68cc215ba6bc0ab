# SPDX-License-Identifier: Apache-2.0
"""The house rules that a reader relies on: imports go one way, one module prints, examples run."""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path

import pytest

import analyzer

ROOT = Path(analyzer.__file__).parent
STAGES = frozenset(
    """
    load data place calibrate quantized simulate probe balance dissect diagnose score propose
    verify export
    """.split()
)
CALLERS = frozenset({"cli", "pipeline", "api", "__main__"})
RUNTIMES = {"onnx", "onnxruntime"}
FILES = sorted(ROOT.rglob("*.py"))
MODULES = [".".join(("analyzer", *f.relative_to(ROOT).with_suffix("").parts)) for f in FILES]


def imports(path):
    """Return every module named in an import statement, those inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module or "")
            if node.module == "analyzer":
                found.update(f"analyzer.{alias.name}" for alias in node.names)
    return found


def at_run_time(path):
    """As `imports`, without what stands under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    only_types = {
        alias.name if isinstance(inner, ast.Import) else inner.module
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in node.body
        if isinstance(inner, ast.Import | ast.ImportFrom)
        for alias in inner.names
    }
    return imports(path) - only_types


def part(module):
    """Return the stage, package or module below `analyzer` that `module` belongs to."""
    return module.split(".")[1] if module.startswith("analyzer.") else ""


def home(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def files_of(*parts):
    return [path for path in FILES if home(path) in parts]


def ids(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", files_of(*STAGES), ids=ids)
def test_stages_do_not_import_each_other(path):
    """Stages meet in records only.

    But verify is two of them again, quantized loads a second file, and score has to know how
    pictures were prepared to put boxes back.
    """
    again = {"verify": {"simulate", "probe"}, "quantized": {"load"}, "score": {"data"}}
    allowed = {home(path)} | again.get(home(path), set())
    others = {part(m) for m in imports(path)} & (STAGES | CALLERS | {"report"})
    assert others <= allowed


@pytest.mark.parametrize("path", files_of("graph", "quant", "targets", "fixes"), ids=ids)
def test_the_lower_floors_import_no_stage(path):
    """graph, quant, fixes and targets know nothing of the flow."""
    assert not {part(m) for m in imports(path)} & (STAGES | CALLERS | {"report", "store"})


@pytest.mark.parametrize("path", files_of("graph", "quant"), ids=ids)
def test_graph_and_quant_import_no_target(path):
    """The numbers and the graphs are the same for every quantizer."""
    assert "targets" not in {part(m) for m in imports(path)}


@pytest.mark.parametrize("path", files_of("quant"), ids=ids)
def test_quant_is_numpy_only(path):
    """And quant does not know graphs."""
    foreign = {m.split(".")[0] for m in imports(path)} & {*RUNTIMES, "pandas", "scipy", "torch"}
    assert not foreign
    assert {part(m) for m in imports(path)} <= {"", "quant", "records", "errors"}


@pytest.mark.parametrize(
    "path",
    files_of("report", "records", "errors", "codes", "store", "notebook", "node_data"),
    ids=ids,
)
def test_a_report_needs_no_runtime(path):
    """An old analysis renders on a machine without onnx and onnxruntime."""
    assert not {m.split(".")[0] for m in at_run_time(path)} & RUNTIMES
    assert {part(m) for m in at_run_time(path)} <= {
        "", "report", "records", "errors", "codes", "formats", "store", "__version__", "memory"
    }  # fmt: skip


@pytest.mark.parametrize("path", files_of("records", "errors", "codes", "formats"), ids=ids)
def test_the_ground_floor_stands_alone(path):
    """records and errors import nothing of ours; an unknown code is an error."""
    allowed = {"records"} if home(path) == "records" else {"errors"} - {home(path)}
    assert {part(m) for m in imports(path)} <= {"", *allowed}


@pytest.mark.parametrize("path", [p for p in FILES if home(p) not in CALLERS], ids=ids)
def test_nobody_below_imports_the_callers(path):
    """Only the command line and the public API start a run."""
    if path.name == "__init__.py" and path.parent == ROOT:
        return
    assert not {part(m) for m in imports(path)} & CALLERS


@pytest.mark.parametrize("path", [p for p in FILES if home(p) != "cli"], ids=ids)
def test_only_the_command_line_prints_or_exits(path):
    """No other module calls print, exit or sys.exit."""
    calls = [
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    assert not {"print", "exit", "quit", "sys.exit", "os._exit"} & set(calls)


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_every_file_names_its_licence(path):
    """One SPDX line on top."""
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# SPDX-License-Identifier: Apache-2.0"


@pytest.mark.parametrize("name", [m for m in MODULES if not m.endswith("__main__")])
def test_the_examples_in_docstrings_run(name):
    """Every doctest of the package gives what it shows."""
    module = importlib.import_module(name.removesuffix(".__init__"))
    assert doctest.testmod(module).failed == 0


def test_there_are_examples():
    """The test above is not empty."""
    finder = doctest.DocTestFinder()
    found = sum(
        bool(test.examples)
        for name in ("analyzer.quant.fake", "analyzer.quant.metrics", "analyzer.errors")
        for test in finder.find(importlib.import_module(name))
    )
    assert found >= 3
