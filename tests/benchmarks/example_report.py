# SPDX-License-Identifier: Apache-2.0
"""Make the example report in reports/example/ anew, or only its pages.

    python tests/benchmarks/example_report.py [--render]

A sample model with a planted fault is analysed with paths that are relative to the checkout, so
that what is committed names no folder of a machine.  With `--render` nothing is measured: the
pages are made from the `analysis.json` that is there, as is enough when only the page changed.
Afterwards `screenshots.py` makes the pictures of the README.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from measure import ROOT

EXAMPLE = "reports/example"
MEASURE = (
    "sample_models/digits_dw_outlier_channel.onnx", "--calib", "sample_models/digits_dw/",
    "--out", EXAMPLE,
)  # fmt: skip
RENDER = (f"{EXAMPLE}/analysis.json", "-q")


def main() -> None:
    """Run the command in the checkout, and say what is there then."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--render", action="store_true", help="measure nothing")
    arguments = RENDER if parser.parse_args().render else MEASURE
    kept = {k: v for k, v in os.environ.items() if not k.startswith("QANALYZE_")}
    command = [sys.executable, "-m", "analyzer", *arguments]
    subprocess.run(command, cwd=ROOT, env={**kept, "PYTHONPATH": str(ROOT)}, check=True)
    for path in sorted((ROOT / EXAMPLE).rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size / 1000:8.1f} kB  {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
