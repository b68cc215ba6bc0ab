# SPDX-License-Identifier: Apache-2.0
"""What proposals bring on real models: noise left, cost, how well it was foretold, time, memory.

python tests/benchmarks/proposals.py [--target NAME ...] [--models NAME ...] [--budget 10%]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from all_models import CASES
from measure import SHARED, machine, qanalyze, table

MODELS = (
    "espdet_pico_cat", "mobilenet_v1_025_imagenet", "face_rfb320", "ppocrv3_det",
    "superres_subpixel",
)  # fmt: skip
HEAD = [
    "model", "target", "NSR before %", "after %", "times lower", "MACs %", "elements %", "free",
    "plans", "front", "off %", "seconds", "peak MB",
]  # fmt: skip


def main() -> None:
    """Print one row per model and target, and the median error of all predictions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", nargs="+", default=["esp32p4", "onnxruntime"])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=list(CASES))
    parser.add_argument("--budget", default="10%")
    chosen = parser.parse_args()
    print(machine())
    rows, errors = [], []
    with tempfile.TemporaryDirectory() as name:
        for model in chosen.models:
            for target in chosen.target:
                cells, off = row(model, target, chosen.budget, Path(name))
                rows.append(cells)
                errors += off
                print(*cells, flush=True)
    table(HEAD, rows)
    print(f"median error of {len(errors)} predicted gains: {100 * np.median(errors):.1f} %")


def row(model: str, target: str, budget: str, folder: Path) -> tuple[list[object], list[float]]:
    """Run one model for one target; return its row, and how far off its predictions were."""
    where, flags = CASES[model]
    data = where if isinstance(where, Path) else where(folder)
    path = SHARED / "models" / model / "model.onnx"
    spent, found = qanalyze(
        path, "--calib", data, "--target", target, "--budget", budget, *flags.split(),
        out=folder / "out",
    )  # fmt: skip
    if found is None:
        return [model, target, *[""] * 8, spent.err.splitlines()[-1], spent.seconds, 0], []
    plans = found["proposals"]
    best = next((p for p in plans if p["recommended"]), None)
    free = min((p["left"] for p in plans if not p["cost"]), default=1.0)
    errors = [off for p in plans if (off := off_by(p)) is not None]
    before, after = (
        mean(best[key]) if best else np.nan for key in ("outputs_before", "outputs_after")
    )
    costs = best["costs"] if best else {"macs": 0.0, "elements": 0.0}
    median = 100 * float(np.median(errors)) if errors else np.nan
    cells = [
        model, target, 100 * before, 100 * after, before / after, 100 * costs["macs"],
        100 * costs["elements"], free, len(plans), sum(p["front"] for p in plans), median,
        spent.seconds, f"{spent.peak_mb:.0f}",
    ]  # fmt: skip
    return cells, errors


def mean(nsr: dict[str, Any]) -> float:
    """Return the mean NSR over the outputs."""
    return float(np.mean([float(value) for value in nsr.values()]))


def off_by(plan: dict[str, Any]) -> float | None:
    """Return how far the predicted gain was off, as a share of the measured one."""
    gain, foretold = 1 - float(plan["left"]), 1 - float(plan["predicted"])
    return abs(foretold - gain) / abs(gain) if abs(gain) > 0.01 else None


if __name__ == "__main__":
    main()
