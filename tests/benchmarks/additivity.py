# SPDX-License-Identifier: Apache-2.0
"""The balance against brute force: every quantizer alone, on every sample, by whole-model runs.

    python tests/benchmarks/additivity.py [--models NAME ...] [--samples 8] [--target esp32p4]

`qanalyze --samples N` measures its sources by suffix runs; here each source, and then every single
quantizer, is one more session of the whole graph.  Printed are, per output, the isolated sum of
the command and of brute force over the same sources (must agree), the plain sum over single
quantizers (larger where one tensor is rounded twice), and the accumulated error of both.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from measure import SHARED, machine, qanalyze, table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import numpy as np
from full_runs import FullRuns
from real_inputs import samples_of

from analyzer.calibrate import calibrate
from analyzer.graph.families import sources_of
from analyzer.graph.view import GraphView
from analyzer.load import bind_shapes, load_model
from analyzer.place import place
from analyzer.records import Model, QuantPlan, Sample
from analyzer.targets import get_target

MODELS = ["resnet8_cifar10", "espdet_pico_cat"]
ALLOWED = 0.01  # between the two isolated sums


def main() -> None:
    """Print one row per output; end with 1 where the sums differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--target", default="esp32p4")
    parser.add_argument("--samples", type=int, default=8)
    chosen = parser.parse_args()
    print(machine())
    rows: list[list[object]] = []
    for name in chosen.models:
        rows += compared(name, chosen.target, samples_of(name, chosen.samples))
    table(
        ["model", "output", "accumulated", "brute", "isolated sum", "brute", "off %",
         "every quantizer", "additivity", "explained"],
        rows,
    )  # fmt: skip
    raise SystemExit(any(float(str(row[6])) > 100 * ALLOWED for row in rows))


def compared(name: str, target: str, samples: list[Sample]) -> list[list[object]]:
    """Run the command and brute force on the same arrays."""
    path = SHARED / "models" / name / "model.onnx"
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "samples.npz"
        arrays = {key: np.concatenate([s[key] for s in samples]) for key in samples[0]}
        np.savez(data, **arrays)
        count = len(samples)
        spent, found = qanalyze(
            path, "--calib", data, "--calib-samples", count, "--samples", count,
            "--target", target, out=Path(folder) / "out",
        )  # fmt: skip
    if found is None:
        raise SystemExit(f"{name}: {spent.err}")
    graph, plan = planned(path, target, samples)
    full = FullRuns(graph, samples)
    active = {q.key: q for q in plan.quantizers if q.active}
    everything = full.nsr(active.values())
    sources = [
        full.nsr([active[key] for key in source.quantizers])
        for source in sources_of(GraphView(graph.proto.graph), plan)
    ]
    single = [full.nsr([quantizer]) for quantizer in active.values()]
    rows: list[list[object]] = []
    for output in found["outputs"]:
        tensor, total = output["name"], float(output["isolated_sum"] or 0)
        if output.get("slice_of"):
            continue
        brute = sum(nsr[tensor] for nsr in sources)
        rows.append(
            [name, tensor, float(output["nsr"]), everything[tensor], total, brute,
             100 * abs(total / brute - 1), sum(nsr[tensor] for nsr in single),
             float(output["additivity"]), float(output["explained"])]
        )  # fmt: skip
    return rows


def planned(path: Path, target_name: str, samples: list[Sample]) -> tuple[Model, QuantPlan]:
    """Return the graph and the calibrated plan that the command has for these samples."""
    target = get_target(target_name)
    model = load_model(path, rewrite=target.rewrite, fold_norms=target.folds_norms)
    shapes = {name: array.shape for name, array in samples[0].items()}
    bound = bind_shapes(model, shapes, sample=samples[0], fold_norms=target.folds_norms)
    graph, plan = place(bound, target)
    return target.complete(graph, calibrate(graph, plan, target, samples), samples)


if __name__ == "__main__":
    main()
