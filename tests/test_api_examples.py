# SPDX-License-Identifier: Apache-2.0
"""The Python of the page about notebooks runs as it stands, each example in a fresh folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / ".github" / "docs" / "notebook.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(number, tmp_path, monkeypatch, capsys):
    """It needs nothing but the sample models, and prints something."""
    (tmp_path / "sample_models").symlink_to(ROOT / "sample_models")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    exec(compile(EXAMPLES[number], f"notebook.md, example {number}", "exec"), namespace)
    assert capsys.readouterr().out
    assert all(path.stat().st_size > 1000 for path in tmp_path.glob("*.png"))


def test_there_are_three_examples_behind_the_first_lines():
    """The test above is not empty, and each has a heading."""
    assert len(EXAMPLES) == 4
    assert len(re.findall(r"^## ", PAGE, flags=re.MULTILINE)) == 3


def test_what_the_page_names_is_there():
    """Every attribute of the table is one of an analysis."""
    import analyzer

    table = PAGE[PAGE.index("| what | is |") : PAGE.index("Frames hold")]
    names = re.findall(r"`\.(\w+)", table)
    assert len(names) > 15
    shown = {name for name in dir(analyzer.Analysis) if not name.startswith("_")} | {"record"}
    assert set(names) == shown
