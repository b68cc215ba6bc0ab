# SPDX-License-Identifier: Apache-2.0
"""qanalyze's ESP-DL plans against esp-ppq on shared models: one line per way to quantize.

    python tests/benchmarks/fidelity_esp.py --peer-python PYTHON [--models NAME,...]
        [--targets esp32p4,...] [--precisions int8,...] [--algorithms default,...] [--images 2]
        [--float64]

Configurations: state, bits, rounding and all scales of every slot.  Isolated and graphwise: the
relative difference of noise-to-signal ratios above 1e-7, whole tensors; isolated against esp-ppq's
own layerwise report.  With `--float64` two more columns tell how far that report is from itself,
computed in float64: values near a rounding tie fall on either side of it, here and there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS.parent))  # the checkout is measured, installed or not
sys.path.insert(0, str(TESTS / "peers"))

from esp_plans import (  # noqa: E402
    accumulated,
    differences,
    isolated,
    job,
    planned,
    relative,
    save_samples,
)
from measure import SHARED, table  # noqa: E402
from real_inputs import samples_of  # noqa: E402

JUDGE = TESTS / "peers" / "judges" / "esp_ppq_plans.py"
HEAD = "model target precision algorithm configs isolated 90% graphwise 90% own own".split()


def main() -> None:
    """Measure what the command line names and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", required=True, help="interpreter with esp-ppq")
    parser.add_argument("--models", default="resnet8_cifar10")
    parser.add_argument("--targets", default="esp32p4")
    parser.add_argument("--precisions", default="int8")
    parser.add_argument("--algorithms", default="default")
    parser.add_argument("--table", default="{}", help="JSON, layer -> precision")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--no-errors", action="store_true", help="compare configurations only")
    parser.add_argument("--show", type=int, default=0, help="print this many differences")
    parser.add_argument("--float64", action="store_true", help="ask esp-ppq twice")
    chosen = parser.parse_args()
    ways = list(
        itertools.product(
            chosen.models.split(","),
            chosen.targets.split(","),
            chosen.precisions.split(","),
            chosen.algorithms.split(","),
        )
    )
    with tempfile.TemporaryDirectory() as name:
        table(HEAD, [compare(way, chosen, Path(name)) for way in ways])


def compare(way: tuple[str, ...], chosen: argparse.Namespace, folder: Path) -> list[object]:
    """Quantize one model one way with both; return a row."""
    name, target, precision, algorithm = way
    options = {"target": target, "precision": precision, "table": json.loads(chosen.table)}
    if algorithm != "default":
        options["algorithm"] = algorithm
    path = SHARED / "models" / name / "model.onnx"
    samples = samples_of(name, chosen.images)
    wanted = {} if chosen.no_errors else {"layerwise": True, "graphwise": True}
    inputs = save_samples(folder / "inputs.npz", samples)
    theirs = ask(chosen.peer_python, job(path, inputs, **options, **wanted), folder)
    mine = planned(path, samples, **options)
    differing, total = differences(theirs["configs"], mine)
    for key, (there, here) in list(differing.items())[: chosen.show]:
        print(*way, *key, "theirs", there, "ours", here)
    row: list[object] = [*way, f"{total - len(differing)}/{total}"]
    if wanted:
        apart = [
            relative(isolated(mine, samples), theirs["layerwise"]),
            relative(accumulated(mine, samples), theirs["graphwise"]),
        ]
        for found in apart:
            worst = sorted(found.items(), key=lambda item: -item[1])[: chosen.show]
            for row_name, value in worst:
                print(*way, row_name, f"{value:.2e}")
            values = list(found.values())
            row += [f"{max(values):.1e}", f"{np.quantile(values, 0.9):.1e}"]
    if wanted and chosen.float64:
        exact = ask(
            chosen.peer_python, job(path, inputs, float64=True, **options, **wanted), folder
        )
        for column in wanted:
            off = relative(exact[column], theirs[column])
            worst = sorted(off.items(), key=lambda item: -item[1])[: chosen.show]
            for row_name, value in worst:
                print(*way, row_name, f"{value:.2e}, esp-ppq in float64 against itself")
            row.append(f"{max(off.values()):.1e}")
    return row + [""] * (len(HEAD) - len(row))


def ask(python: str, wanted: dict, folder: Path) -> dict:
    """Run esp-ppq on one job."""
    jobs, out = folder / "jobs.json", folder / "answers.json"
    jobs.write_text(json.dumps([wanted]), encoding="utf-8")
    subprocess.run([python, str(JUDGE), str(jobs), str(out)], check=True, capture_output=True)
    (answer,) = json.loads(out.read_text(encoding="utf-8"))
    if "error" in answer:
        raise SystemExit(f"esp-ppq: {answer['error']}")
    return answer


if __name__ == "__main__":
    main()
