# SPDX-License-Identifier: Apache-2.0
"""How close the probe stage is to the arithmetic it cannot avoid.

    python tests/benchmarks/probe_floor.py [--model MODEL.onnx] [--samples 4]

Probing one layer on one sample means running the layer and everything behind it.  Counted in
multiply-accumulates and summed over the layers, that is so many forward passes; times
onnxruntime's own time of a pass on this machine, it is the floor.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from measure import SHARED, machine, measured, qanalyze, table

from analyzer.data import open_data
from analyzer.graph.view import GraphView
from analyzer.load import bind_shapes, load_model
from analyzer.place import place
from analyzer.records import Model
from analyzer.targets import get_target


def main() -> None:
    """Measure forward pass and probe stage side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    models = SHARED / "models"
    parser.add_argument("--model", type=Path, default=models / "yolo11n_heads" / "model.onnx")
    parser.add_argument("--calib", default=str(SHARED / "data" / "coco" / "calib" / "images"))
    parser.add_argument("--preset", default="yolo")
    parser.add_argument("--target", default="esp32p4")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--forwards", type=int, default=20)
    chosen = parser.parse_args()
    print(machine())
    model = load_model(chosen.model)
    data = open_data(chosen.calib, model.inputs, role="analysis", preset=chosen.preset)
    graph, _ = place(bind_shapes(model, data.shapes, sample=data[0]), get_target(chosen.target))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(chosen.repeat):
            forward = forward_seconds(chosen.model, data[0], chosen.forwards)
            spent, found = qanalyze(
                chosen.model, "--calib", chosen.calib, "--preset", chosen.preset,
                "--target", chosen.target, "--samples", chosen.samples,
                "--calib-samples", chosen.samples,
                out=Path(folder),
            )  # fmt: skip
            assert found is not None, spent.err
            passes = forward_passes(graph, list(measured(found)))
            floor = passes * forward * chosen.samples
            probe = found["timing"]["probe"]
            rows.append([f"{1e3 * forward:.1f}", passes, floor, probe, floor / probe])
    rows.append(["median", *(statistics.median(row[i] for row in rows) for i in range(1, 5))])
    table(["forward ms", "passes", "floor s", "probe s", "efficiency"], rows)


def forward_seconds(path: Path, sample: dict[str, np.ndarray], count: int) -> float:
    """Return the median time of one run in a session with onnxruntime's own defaults."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    seconds = []
    for _ in range(count + 2):
        start = time.perf_counter()
        session.run(None, sample)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def forward_passes(model: Model, layers: list[str]) -> float:
    """Return the arithmetic of all suffixes in units of one whole run."""
    view = GraphView(model.proto.graph)
    behind: dict[str, set[str]] = {}
    for name in reversed(view.nodes):
        readers = {n for t in view.nodes[name].output for n in view.consumers.get(t, ())}
        behind[name] = readers.union(*(behind[reader] for reader in readers))
    macs = {name: model.macs.get(name, 0) for name in view.nodes}
    total = sum(macs.values())
    return sum(macs[n] for name in layers for n in {name, *behind[name]}) / total


if __name__ == "__main__":
    main()
