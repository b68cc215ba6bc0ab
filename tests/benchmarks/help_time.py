# SPDX-License-Identifier: Apache-2.0
"""How long `qanalyze --help` takes, beside an interpreter that does nothing.

python tests/benchmarks/help_time.py [--repeat 15]
"""

from __future__ import annotations

import argparse
import statistics
import sys

from measure import machine, spend, table


def main() -> None:
    """Print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=15)
    repeat = parser.parse_args().repeat
    print(machine())
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "qanalyze --help": [sys.executable, "-m", "analyzer", "--help"],
        "qanalyze --version": [sys.executable, "-m", "analyzer", "--version"],
        "qanalyze --list-targets": [sys.executable, "-m", "analyzer", "--list-targets"],
    }
    rows = []
    for name, command in commands.items():
        runs = [spend(command) for _ in range(repeat)]
        assert not any(run.code for run in runs), runs[0].err
        seconds = [run.seconds for run in runs]
        rows.append([name, statistics.median(seconds), min(seconds), f"{runs[0].peak_mb:.0f}"])
    table(["command", "median s", "fastest s", "peak MB"], rows)


if __name__ == "__main__":
    main()
