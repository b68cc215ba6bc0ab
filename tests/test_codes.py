# SPDX-License-Identifier: Apache-2.0
"""The table of codes: whatever a run may find is explained, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import analyzer
from analyzer.codes import CODES


def test_every_code_is_explained_and_used():
    """The codes named in the package are those of the table."""
    root = Path(analyzer.__file__).parent
    named = {
        code
        for path in root.rglob("*.py")
        if path.name != "codes.py"
        for code in re.findall(r"\"(QA[0-9]{3})\"", path.read_text(encoding="utf-8"))
    }
    assert named == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_a_code_says_what_why_and_what_to_do(code):
    """A title without a full stop, then sentences."""
    entry = CODES[code]
    assert not entry.title.endswith(".")
    assert entry.why.endswith(".")
    assert entry.remedy.endswith(".")
