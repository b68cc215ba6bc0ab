# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows is what happens: commands run, outputs, options and links are real.

All pages are meant: the README and `.github/docs/`.  The lines of a page run in their order, in a
folder of the page's own that holds the sample models, as a checkout does.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from doc_pages import DOCS, PAGES, ROOT, Line, Page, lay_out, page_of, part, run

READ = {path.name: page_of(path) for path in PAGES}
README = READ["README.md"]
FIRST = "pip install . && qanalyze sample_models/digits_dw.onnx --calib sample_models/digits_dw/"
TESTS = 'pip install ".[test]" && pytest'
OTHER = [ROOT / ".github" / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def cases(*, shown: bool) -> list[Any]:
    """Return (page, number of a line) for pytest; slow ones carry the marker."""
    return [
        pytest.param(
            page.name, number, marks=[pytest.mark.slow] if line.is_slow else [],
            id=f"{page.name}:{number} {line.command[:60]}",
        )
        for page in READ.values()
        for number, line in enumerate(page.lines)
        if not shown or line.shown
    ]  # fmt: skip


def python_of(page: Page) -> str:
    """Return all Python of a page that is not a file by itself."""
    blocks = [b.text for b in page.blocks if b.language == "python" and not b.note]
    return "\n".join(blocks)


class Runs:
    """Runs the lines of one page, each once, and the ones before it first."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page = page
        self.folder = folder
        self._done: dict[int, subprocess.CompletedProcess[str]] = {}
        lay_out(page, folder)

    def line(self, number: int) -> subprocess.CompletedProcess[str]:
        """Return what became of a line; slow ones before it are left out."""
        for earlier, line in enumerate(self.page.lines[: number + 1]):
            if earlier not in self._done and (earlier == number or not line.is_slow):
                self._done[earlier] = run(line.command, self.folder)
        return self._done[number]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made: dict[str, Runs] = {}

    def of(name: str) -> Runs:
        if name not in made:
            made[name] = Runs(READ[name], tmp_path_factory.mktemp("page") / "checkout")
        return made[name]

    return of


@pytest.fixture(scope="module")
def helped(tmp_path_factory) -> str:
    """What --help says, on one line per option."""
    folder = tmp_path_factory.mktemp("help") / "checkout"
    lay_out(README, folder)
    return run("qanalyze --help", folder, COLUMNS="400").stdout


def test_the_two_lines_to_copy_stand_there_word_for_word():
    """One line installs and analyses, one installs and tests; each is a block of its own."""
    blocks = [block.text.strip() for block in README.blocks if block.language == "bash"]
    assert blocks.count(FIRST) == 1
    assert blocks.count(TESTS) == 1
    lines = README.text.splitlines()
    assert [line for line in lines if line.startswith("pip")] == [FIRST, TESTS]


def test_the_first_result_is_on_the_first_screen():
    """Command, output, picture and how to install it come within 50 lines, the rest is short."""
    lines = README.text.splitlines()
    assert lines.index("## Install") < 50
    assert len(lines) < 130


@pytest.mark.parametrize(("name", "number"), cases(shown=False))
def test_commands_run(name, number, runs):
    """Every line ends with 0 where the sample models are, and says something."""
    ran = runs(name).line(number)
    assert (ran.returncode, "Traceback" in ran.stderr) == (0, False), ran.stderr
    assert ran.stdout


@pytest.mark.parametrize(("name", "number"), cases(shown=True))
def test_shown_output_is_real(name, number, runs):
    """What is shown has the lines, columns, worst layer, causes and words of a real run."""
    line: Line = READ[name].lines[number]
    assert line.shown is not None
    real = part(runs(name).line(number).stdout, line.shown.note).splitlines()
    expected = line.shown.text.splitlines()
    if "--explain" in line.command:
        assert real == expected
        return
    assert len(real) == len(expected)
    assert (real[0], real[2].split()) == (expected[0], expected[2].split())
    assert real[3].split()[:2] == expected[3].split()[:2]  # digits depend on the libraries
    start = expected.index("", 3)
    for place in range(start, len(expected)):
        assert words(real[place])[:2] == words(expected[place])[:2]
    assert real[-1] == expected[-1]


@pytest.mark.parametrize("name", [p.name for p in READ.values() if python_of(p)])
def test_python_examples_run(name, tmp_path):
    """The Python of a page runs, one block after the other, with the page's files around."""
    folder = tmp_path / "checkout"
    lay_out(READ[name], folder)
    (folder / "blocks.py").write_text(python_of(READ[name]), encoding="utf-8")
    ran = run("python -W error blocks.py", folder)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout


def words(line: str) -> list[str]:
    """Cut a line down to its words and codes."""
    return re.findall(r"QA[0-9]{3}|[A-Za-z]+", line)


def test_every_option_is_explained(helped):
    """The table of options and --help know the same options."""
    table = READ["options.md"].text.split("\n## ")[0]
    assert options_in(helped) == options_in(table)


def test_options_named_anywhere_exist(helped):
    """No page names an option that neither the command has nor a tool that is meant."""
    others = {"--group", "--body-file", "--into", "--models", "--quantization_overrides"}
    for page in READ.values():
        assert options_in(page.text) - options_in(helped) <= others, page.name


def options_in(text: str) -> set[str]:
    """Return all long options of a text."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*", text))


def test_every_variable_is_named(helped):
    """The table of variables is that of --help, and of what a misspelt one is held against."""
    from analyzer.config import ENVIRONMENT

    rows = re.findall(r"^\| `(QANALYZE_\w+)` \| `(--[\w-]+)` \|$", READ["options.md"].text, re.M)
    assert {name for name, _ in rows} == set(ENVIRONMENT)
    for name, option in rows:
        line = next(line for line in helped.splitlines() if f"{option} " in line)
        assert f"env var: {name}" in line


def test_the_keys_of_the_example_file_are_known(tmp_path):
    """Every [tool.qanalyze] that a page shows is accepted."""
    from analyzer.config import resolve

    found = 0
    for page in READ.values():
        for block in page.blocks:
            if block.language == "toml" and "[tool.qanalyze]" in block.text:
                (tmp_path / "pyproject.toml").write_text(block.text, encoding="utf-8")
                assert tomllib.loads(block.text)["tool"]["qanalyze"]
                resolve({}, folder=tmp_path)
                found += 1
    assert found == 2


def test_exit_codes_are_those_of_the_command():
    """The table of exit codes names the five that the command documents, in order."""
    import analyzer.cli

    table = READ["ci.md"].text.split("## Exit codes")[1].split("\n## ")[0]
    codes = re.findall(r"^\| (\d+) \|", table, re.MULTILINE)
    said = (analyzer.cli.__doc__ or "").partition("codes:")[2]
    assert codes == re.findall(r"\b(\d+) [a-z]", said)


def test_exit_codes_happen(runs):
    """A gate ends with 1, a model that is not there with 2, each with one sentence why."""
    page = runs("ci.md")
    page.line(0)
    gate = run("qanalyze before/analysis.json --max-nsr 0.001% -q", page.folder)
    assert gate.returncode == 1
    missing = run("qanalyze no.onnx --calib sample_models/digits_dw/", page.folder)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 2)


def test_every_target_preset_and_format_is_named():
    """The pages leave no target, preset or export out."""
    from analyzer.data import PRESETS
    from analyzer.export import FORMATS
    from analyzer.targets import target_names

    assert all(f"| `{name}` |" in READ["targets.md"].text for name in target_names())
    assert all(f"`{name}`" in READ["options.md"].text for name in PRESETS)
    presets = [f"| `{name}` | {told} |" for name, told in PRESETS.items()]
    assert "\n".join(presets) in READ["data.md"].text
    rows = re.findall(r"^\| `([\w-]+)` \|", READ["proposals.md"].text, re.MULTILINE)
    assert set(FORMATS) <= set(rows)


@pytest.mark.parametrize(
    ("script", "page"), [("fidelity_table", "targets.md"), ("nsr_table", "nsr.md")]
)
def test_tables_are_what_was_measured(script, page, monkeypatch):
    """The tables of targets, and of NSR and metric, are those that the scripts write."""
    folder = ROOT / "tests" / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location(script, folder / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.written(READ[page].text) == READ[page].text


def test_the_parts_of_the_page_are_named():
    """What the page on reading a result lists is what the links of a report name, in order."""
    page = (ROOT / "reports" / "example" / "report.html").read_text(encoding="utf-8")
    (links,) = re.findall(r"<nav[^>]*>(.*?)</nav>", page, re.DOTALL)
    named = re.findall(r"<a [^>]*>([^<]+)</a>", links)
    table = READ["reading.md"].text.split("<!-- parts of the page -->")[1].split("\n\n")[0]
    assert re.findall(r"^\| ([A-Z][\w ]+) \|", table, re.MULTILINE) == named


def test_links_lead_somewhere():
    """Every relative link points to a file, and to a heading in it where it names one."""
    for path in (*PAGES, *OTHER):
        text = path.read_text(encoding="utf-8")
        for link in re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\s\"]+)", text):
            if link.startswith("https://"):
                continue
            file, _, place = link.partition("#")
            to = path.parent / file if file else path
            assert to.exists(), f"{path.name}: {link}"
            if place:
                assert place in anchors(to.read_text(encoding="utf-8")), f"{path.name}: {link}"


def anchors(text: str) -> set[str]:
    """Return what the headings of a page are called in links, as GitHub does it."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_can_be_reached():
    """The README links every page of the documentation."""
    assert all(f"](.github/docs/{path.name})" in README.text for path in DOCS.glob("*.md"))


def test_scripts_that_are_named_exist():
    """Scripts of the checkout that a page calls are there."""
    for path in (*PAGES, *OTHER):
        for script in re.findall(r"python (tests/\S+\.py)", path.read_text(encoding="utf-8")):
            assert (ROOT / script).is_file(), f"{path.name}: {script}"


def test_the_action_of_the_readme_runs(tmp_path):
    """The job parses, names its steps' actions with a version, and its commands end with 0."""
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    (block,) = [block for block in README.blocks if block.language == "yaml"]
    steps = yaml.safe_load(block.text)["jobs"]["qanalyze"]["steps"]
    used = [step["uses"] for step in steps if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", name) for name in used)
    commands = [step["run"] for step in steps if "qanalyze " in step.get("run", "")]
    folder, summary = tmp_path / "checkout", tmp_path / "summary.md"
    lay_out(README, folder)
    before = re.sub(r" --(max-nsr|min-agreement|no-worse-than) \S+", "", commands[0])
    run(before.replace("--out int8", "--out before"), folder)
    shutil.copy(folder / "before" / "analysis.json", folder / "int8-baseline.json")
    for command in commands:
        ran = run(command, folder, GITHUB_STEP_SUMMARY=str(summary))
        assert ran.returncode == 0, ran.stderr
    assert summary.read_text(encoding="utf-8").count("logits") >= 2
