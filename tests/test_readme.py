# SPDX-License-Identifier: Apache-2.0
"""What the README shows is what happens: its commands run, its links and options exist."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
LINES = [line for block in BLOCKS for line in block.splitlines()]
FIRST = "pip install . && qanalyze sample_models/digits_dw.onnx --calib sample_models/digits_dw/"
TESTS = 'pip install ".[test]" && pytest'
# the part of each line that calls the command; `pip` lines as a whole need a clean environment
COMMANDS = [line[line.index("qanalyze ") :] for line in LINES if "qanalyze " in line]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A folder that holds the sample models, as a checkout does."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "sample_models", folder / "sample_models")
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program, *arguments = shlex.split(command)
    assert program == "qanalyze"
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("QANALYZE_", "FORCE_COLOR", "COLUMNS"))
    }
    return subprocess.run(
        [sys.executable, "-m", "analyzer", *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )


def test_the_two_lines_to_copy_stand_there_word_for_word():
    """One line installs and analyses, one installs and tests; each is a block of its own."""
    assert [block.strip() for block in BLOCKS].count(FIRST) == 1
    assert [block.strip() for block in BLOCKS].count(TESTS) == 1
    assert [line for line in LINES if line.startswith("pip")] == [FIRST, TESTS]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command, checkout):
    """Every qanalyze command exits with 0 where the sample models are."""
    ran = run(command, checkout)
    assert (ran.returncode, "Traceback" in ran.stderr) == (0, False), ran.stderr
    assert ran.stdout


@pytest.mark.parametrize("index", range(len(re.findall(r"^```text$", README, re.MULTILINE))))
def test_shown_output_is_real(index, checkout):
    """What is shown has the lines, columns, worst layer, causes and words of a real run."""
    pairs = re.findall(
        r"^```bash\n([^\n]*)\n```\n\n```text\n(.*?)\n```", README, flags=re.DOTALL | re.MULTILINE
    )
    line, shown = pairs[index]
    command = line[line.index("qanalyze ") :]
    real, expected = run(command, checkout).stdout.splitlines(), shown.splitlines()
    if "--explain" in command:
        assert real == expected
        return
    assert len(real) == len(expected)
    assert (real[0], real[2].split()) == (expected[0], expected[2].split())
    assert real[3].split()[:2] == expected[3].split()[:2]  # digits depend on the libraries
    start = expected.index("", 3)
    for number in range(start, len(expected)):
        assert words(real[number])[:2] == words(expected[number])[:2]
    assert real[-1] == expected[-1]


def words(line: str) -> list[str]:
    """Cut a line down to its words and codes."""
    return re.findall(r"QA[0-9]{3}|[A-Za-z]+", line)


def test_every_option_is_explained(checkout):
    """The table of options and --help know the same options."""
    helped = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", run("qanalyze --help", checkout).stdout))
    table = README.split("## Options")[1].split("## ")[0]
    assert helped == set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", table))


def test_every_target_and_preset_is_named():
    """The README leaves no target and no preset out."""
    from analyzer.data import PRESETS
    from analyzer.targets import target_names

    assert all(f"`{name}`" in README for name in (*target_names(), *PRESETS))


def test_the_table_of_targets_is_what_was_measured():
    """The README's table is the one that the script writes from the measurements."""
    path = ROOT / "tests" / "benchmarks" / "fidelity_table.py"
    spec = importlib.util.spec_from_file_location("fidelity_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.written(README) == README


def test_links_lead_somewhere():
    """Every relative link of the README and the contributor guide points to a file."""
    for page in (ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"):
        for link in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
            if not link.startswith("https://"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"
