# SPDX-License-Identifier: Apache-2.0
"""What `--target all` saves: one run for all targets against one run each, in time and memory.

python tests/benchmarks/all_targets.py [--models NAME ...] [--repeat N]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from measure import SHARED, Spent, machine, qanalyze, table
from real_inputs import CASES, samples_of

from analyzer.targets import target_names


def main() -> None:
    """Print one row per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    models = ["resnet8_cifar10", "mobilenet_v1_025_imagenet", "yolox_nano"]
    parser.add_argument("--models", nargs="+", default=models, choices=list(CASES))
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    print(machine())
    rows = []
    for name in given.models:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            samples = samples_of(name)
            stacked = {key: np.concatenate([s[key] for s in samples]) for key in samples[0]}
            np.savez(folder / "inputs.npz", **stacked)
            rows.append([name, *measured(name, folder, given.repeat)])
    heads = ["model", "targets", "all, s", "each, s", "ratio", "all, MB", "largest of each, MB"]
    table(heads, rows)


def measured(name: str, folder: Path, repeat: int) -> list[object]:
    """Return medians of both ways of analysing one model."""
    path = SHARED / "models" / name / "model.onnx"

    def spent(targets: str) -> Spent:
        found, _ = qanalyze(
            path, "--calib", folder / "inputs.npz", "--target", targets, out=folder / "out"
        )
        return found

    names = [name for name in target_names() if spent(name).code == 0]
    together = [spent(",".join(names)) for _ in range(repeat)]
    alone = [[spent(one) for one in names] for _ in range(repeat)]
    seconds = statistics.median(run.seconds for run in together)
    each = statistics.median(sum(run.seconds for run in runs) for runs in alone)
    memory = statistics.median(run.peak_mb for run in together)
    largest = statistics.median(max(run.peak_mb for run in runs) for runs in alone)
    return [len(names), seconds, each, each / seconds, f"{memory:.0f}", f"{largest:.0f}"]


if __name__ == "__main__":
    main()
