# SPDX-License-Identifier: Apache-2.0
"""Progress: a line per stage in a log, a bar on a terminal, silence on request."""

from __future__ import annotations

import io
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from analyzer.report.progress import Progress


def test_a_log_gets_one_line_per_finished_stage() -> None:
    """No control codes, no half bars: stage, count, time."""
    stream = io.StringIO()
    progress = Progress(Console(file=stream, width=20))
    with progress.stage("calibrate", total=3) as step:
        step(2)
        step(1)
    with progress.stage("probe [x]", total=1, unit="layer") as step:
        step(1)
    with progress.stage("load", total=0):
        pass
    lines = stream.getvalue().splitlines()
    assert re.fullmatch(r"calibrate: 3 samples, \d+\.\d s", lines[0])
    assert re.fullmatch(r"probe \[x\]: 1 layer, \d+\.\d s", lines[1])
    assert re.fullmatch(r"load: \d+\.\d s", lines[2])
    assert len(lines) == 3


def test_quiet_is_silent() -> None:
    """-q prints no progress at all."""
    stream = io.StringIO()
    with Progress(Console(file=stream), quiet=True).stage("probe", total=3) as step:
        step(3)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_failing_stage_is_not_reported_as_finished(terminal: bool) -> None:
    """The exception passes, the bar is gone, and the next stage works."""
    stream = io.StringIO()
    progress = Progress(Console(file=stream, force_terminal=terminal, width=80))

    def fail() -> None:
        with progress.stage("probe", total=2) as step:
            step(1)
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert "probe: " not in stream.getvalue()
    with progress.stage("verify", total=1) as step:
        step(1)
    assert "verify: 1 sample, " in stream.getvalue()


def test_a_terminal_gets_a_bar_and_nested_stages() -> None:
    """Stages inside each other share one display; the cursor comes back."""
    stream = io.StringIO()
    progress = Progress(Console(file=stream, force_terminal=True, width=80))
    with progress.stage("outer [b]", total=2) as outer, progress.stage("inner", total=5) as inner:
        inner(5)
        outer(2)
    text = stream.getvalue()
    assert "outer [b]" in text
    assert "0/5" in text
    assert re.search(r"inner: 5 samples, .*outer \[b\]: 2 samples, ", text, re.DOTALL)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


def test_steps_may_come_from_threads() -> None:
    """No step is lost between threads."""
    stream = io.StringIO()
    with (
        Progress(Console(file=stream)).stage("probe", total=4000) as step,
        ThreadPoolExecutor(8) as pool,
    ):
        list(pool.map(lambda _: [step(1) for _ in range(500)], range(8)))
    assert stream.getvalue().startswith("probe: 4,000 samples, ")
