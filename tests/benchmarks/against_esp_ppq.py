# SPDX-License-Identifier: Apache-2.0
"""qanalyze against esp-ppq on the same pixels: time, memory and agreement.

    python tests/benchmarks/against_esp_ppq.py --peer-python PYTHON [--images 32] [--exact-too]

Both are whole processes.  esp-ppq's time is that of its own calibration, graphwise and layerwise
analysis with its imports; qanalyze's that of the command with everything it writes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from measure import SHARED, Spent, machine, measured, qanalyze, spearman, spend, table

from analyzer.data import open_data
from analyzer.load import load_model

ON = frozenset({"ACTIVATED", "PASSIVE", "BAKED", "PASSIVE_BAKED"})


def main() -> None:
    """Measure both and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", required=True, help="interpreter with esp-ppq")
    models = SHARED / "models"
    parser.add_argument("--model", type=Path, default=models / "yolo11n_heads" / "model.onnx")
    parser.add_argument("--pictures", default=str(SHARED / "data" / "coco" / "calib" / "images"))
    parser.add_argument("--preset", default="yolo")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1, help="of esp-ppq")
    parser.add_argument("--samples", default="auto", help="of qanalyze; auto, or a number")
    parser.add_argument("--repeat", type=int, default=1, help="runs of qanalyze; medians count")
    parser.add_argument("--exact-too", action="store_true", help="also every layer on all images")
    chosen = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = pixels(chosen.model, chosen.pictures, chosen.preset, chosen.images, folder)
        peer, reference = run_peer(chosen.peer_python, chosen.model, inputs, chosen.batch, folder)
        common = (chosen.model, "--calib", inputs, "--target", "esp32p4")
        runs = [
            qanalyze(*common, "--samples", chosen.samples, out=folder / "ours")
            for _ in range(chosen.repeat)
        ]
        ours, found = runs[-1]
        if found is None:
            raise SystemExit(ours.err)
        report_time(reference, peer, [spent for spent, _ in runs], found)
        report_agreement(reference, found)
        if chosen.exact_too:
            exact, every = qanalyze(*common, "--samples", chosen.images, out=folder / "exact")
            assert every is not None, exact.err
            print(f"\nevery layer on all {chosen.images} images ({exact.seconds:.1f} s)")
            report_agreement(reference, every)
            few, all_ = measured(found), measured(every)
            rho = spearman(list(few.values()), [all_[layer] for layer in few])
            print(
                f"Spearman of the isolated column, --samples {chosen.samples} to exact {rho:.4f}"
            )


def pixels(model: Path, pictures: str, preset: str, count: int, folder: Path) -> Path:
    """Prepare the pictures once, for both."""
    specs = load_model(model).inputs
    data = open_data(pictures, specs, role="calibration", preset=preset, limit=count)
    stacked = np.concatenate([data[index][specs[0].name] for index in range(len(data))])
    np.save(folder / "inputs.npy", stacked)
    return folder / "inputs.npy"


def run_peer(
    python: str, model: Path, inputs: Path, batch: int, folder: Path
) -> tuple[Spent, dict]:
    """Run esp-ppq in a process of its own."""
    out = folder / "peer.json"
    script = Path(__file__).with_name("esp_ppq_reference.py")
    spent = spend([python, script, model, inputs, batch, "esp32p4", out], folder=folder)
    if spent.code:
        raise SystemExit(f"esp-ppq ended with {spent.code}:\n{spent.err[-2000:]}")
    return spent, json.loads(out.read_text(encoding="utf-8"))


def report_time(reference: dict, peer: Spent, runs: list[Spent], found: dict) -> None:
    """Print stages, totals, the ratio and both peaks of memory."""
    theirs = reference["seconds"]
    mine = found["timing"]
    whole = statistics.median(spent.seconds for spent in runs)
    total = sum(theirs.values())
    table(
        ["", "esp-ppq s", "qanalyze s"],
        [
            ["calibration", theirs["calibration"], mine["calibrate"]],
            ["graphwise", theirs["graphwise"], mine["simulate"]],
            ["layerwise / isolated", theirs["layerwise"], mine["probe"]],
            ["all of it, imports too", total, whole],
            ["peak MB", f"{peer.peak_mb:.0f}", f"{max(r.peak_mb for r in runs):.0f}"],
        ],
    )
    print(f"ratio {total / whole:.1f}")


def report_agreement(reference: dict, found: dict) -> None:
    """Print how many configurations are equal, and how far the columns are apart."""
    ours = {(q["node"], q["slot"]): q for q in found["plan"]["quantizers"]}
    unequal = [config for config in reference["configs"] if not is_equal(config, ours)]
    total = len(reference["configs"])
    print(f"configurations equal {total - len(unequal)} of {total}")
    for config in unequal[:10]:
        print(f"  {config['node']} {config['slot']} {config['state']}")
    for title, column in (("layerwise", "isolated_nsr"), ("graphwise", "graphwise_nsr")):
        mine = measured(found, column)
        theirs = {name: v for name, v in reference[title].items() if name in mine}
        a, b = np.array([mine[name] for name in theirs]), np.array(list(theirs.values()))
        apart = np.abs(a / np.where(b == 0, 1, b) - 1)[b != 0]
        print(
            f"{title}: {len(theirs)} of {len(reference[title])} rows, largest relative difference"
            f" {apart.max():.2%}, median {np.median(apart):.2%}, Spearman {spearman(a, b):.4f}"
        )


def is_equal(config: dict, ours: dict[tuple[str, str], dict]) -> bool:
    """Tell whether one slot is quantized here as there: not at all, or with the same scales."""
    mine = ours.get((config["node"], config["slot"]))
    active = mine is not None and mine["active"]
    if config["state"] not in ON:
        return not active
    if not active or mine["bits"] != config["bits"]:
        return False
    return np.array_equal(np.ravel(mine["scale"]), config["scale"])  # a scale, or one per channel


if __name__ == "__main__":
    main()
