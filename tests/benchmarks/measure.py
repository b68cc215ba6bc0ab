# SPDX-License-Identifier: Apache-2.0
"""What the benchmark scripts share: timed processes, ranks, and tables in plain text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "sample_models"
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT))  # the checkout is measured, installed or not


# A process starts with the peak of the one it was forked from, so a small one stands between.
_BETWEEN = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
seconds = time.perf_counter() - start
os.write(int(sys.argv[1]), json.dumps([process.returncode, seconds, usage.ru_maxrss]).encode())
"""


@dataclass(frozen=True)
class Spent:
    """One finished process: exit code, wall time, peak memory of itself, and what it printed."""

    code: int
    seconds: float
    peak_mb: float
    out: str
    err: str


def spend(command: Sequence[object], *, folder: Path | None = None) -> Spent:
    """Run a process to its end and measure it alone."""
    reading, writing = os.pipe()
    with open(reading, "rb") as report:
        done = subprocess.run(
            [sys.executable, "-ISc", _BETWEEN, str(writing), *map(str, command)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            pass_fds=[writing],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        os.close(writing)
        code, seconds, peak = json.loads(report.read())
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return Spent(code, seconds, peak * kilobyte / 1e6, done.stdout, done.stderr)


def qanalyze(*arguments: object, out: Path) -> tuple[Spent, dict[str, Any] | None]:
    """Run the command; return what it cost, and analysis.json where it wrote one."""
    written = Path(out) / "analysis.json"
    written.unlink(missing_ok=True)
    spent = spend([sys.executable, "-m", "analyzer", *arguments, "--out", out, "-q"])
    return spent, json.loads(written.read_text("utf-8")) if written.exists() else None


def measured(analysis: dict[str, Any], column: str = "isolated_nsr") -> dict[str, float]:
    """Return layer -> NSR, where there is one; "inf" and its like become floats."""
    rows = {row["name"]: row[column] for row in analysis["layers"]}
    return {name: float(value) for name, value in rows.items() if value is not None}


def ranks(values: Sequence[float]) -> np.ndarray:
    """Return ranks from 1 on, equal values sharing the mean of theirs."""
    array = np.asarray(values, np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the rank correlation of two columns."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def machine() -> str:
    """Describe what the numbers of this run depend on."""
    import onnxruntime

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return f"{cores} cores, load {load:.1f}, onnxruntime {onnxruntime.__version__}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns; the first column to the left, the others to the right."""
    cells = [list(head), *([_text(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        first, *rest = (
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *rest]).rstrip())


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def show_rows(
    found: Iterable[tuple[dict[str, Any], list[Any]]], differing: int, file: Path | None
) -> None:
    """Print rows as they come, then all as a table.

    Args:
        found: column -> value, and what differs behind them.
        differing: how much of what differs to print below each row.
        file: where the rows go as JSON, if anywhere.
    """
    rows = []
    for row, details in found:
        rows.append(row)
        print(row, flush=True)
        for detail in details[:differing]:
            print("   ", detail)
    table(list(rows[0]), [list(row.values()) for row in rows])
    if file:
        file.write_text(json.dumps(rows, indent=1), encoding="utf-8")
