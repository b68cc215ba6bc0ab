# SPDX-License-Identifier: Apache-2.0
"""Whether memory grows with the number of samples: it must not; time may, no faster than they do.

python tests/benchmarks/growth.py [--model MODEL.onnx --calib DATA] [--counts 8 64]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from measure import SHARED, machine, qanalyze, table

from analyzer.data import open_data
from analyzer.load import load_model


def main() -> None:
    """Run with each count and compare with the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    models = SHARED / "models"
    parser.add_argument("--model", type=Path, default=models / "vww_mobilenet" / "model.onnx")
    parser.add_argument("--calib", default=str(SHARED / "data" / "coco" / "calib" / "images"))
    parser.add_argument("--preset", default=None)
    parser.add_argument("--target", default="esp32p4")
    parser.add_argument("--counts", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--repeat", type=int, default=3)
    chosen = parser.parse_args()
    print(machine())
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = enough(chosen.model, chosen.calib, chosen.preset, max(chosen.counts), folder)
        for count in chosen.counts:
            runs = [
                qanalyze(
                    chosen.model, "--calib", inputs, "--calib-samples", count, "--samples", count,
                    "--target", chosen.target, out=folder / "out",
                )[0]
                for _ in range(chosen.repeat)
            ]  # fmt: skip
            if any(run.code for run in runs):
                raise SystemExit(runs[0].err)
            rows.append([
                count,
                statistics.median(run.seconds for run in runs),
                statistics.median(run.peak_mb for run in runs),
            ])  # fmt: skip
    _, seconds, peak = rows[0]
    table(
        ["samples", "seconds", "peak MB", "time ratio", "memory ratio"],
        [[n, s, f"{p:.0f}", s / seconds, p / peak] for n, s, p in rows],
    )


def enough(model: Path, calib: str, preset: str | None, count: int, folder: Path) -> Path:
    """Write `count` samples as one array, starting over where the data is shorter."""
    specs = load_model(model).inputs
    data = open_data(calib, specs, role="calibration", preset=preset)
    samples = [data[index % len(data)][specs[0].name] for index in range(count)]
    np.save(folder / "inputs.npy", np.concatenate(samples))
    return folder / "inputs.npy"


if __name__ == "__main__":
    main()
