# SPDX-License-Identifier: Apache-2.0
"""How tests ask a real quantizer: a judge script, run by the interpreter of its environment.

Judges stand in `judges/`, import nothing of qanalyze, and write their answer into the JSON file
that is their last argument.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = Path(os.environ.get("QPEERS", HERE.parents[1] / ".peers"))


def interpreter(peer):
    """Return the interpreter of a peer's environment, or skip."""
    path = ENVIRONMENTS / peer / "bin" / "python"
    if not path.exists():
        pytest.skip(f"{peer} is not installed: python tests/peers/environments.py {peer}")
    return path


@pytest.fixture(scope="session")
def judge(tmp_path_factory):
    """Return a function: peer, judge's name and its arguments -> what it wrote, from JSON."""

    def ask(peer, name, *arguments, timeout=1800):
        out = tmp_path_factory.mktemp(name) / "answer.json"
        command = [interpreter(peer), HERE / "judges" / f"{name}.py", *arguments, out]
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(out.read_text(encoding="utf-8"))

    return ask
