# SPDX-License-Identifier: Apache-2.0
"""How often the 95 % interval from a few samples holds the mean over all of them.

    python tests/benchmarks/coverage_of_intervals.py [--models NAME ...] [--draws 200]

Every layer and every source of noise is measured alone on every sample, once.  Then few samples
are drawn without replacement, all rows get their intervals from the same draw, as in a run, and
the rows whose interval holds the mean over all samples are counted.  Must be at least 90 %.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from measure import SHARED, machine, table
from real_inputs import samples_of

from analyzer.calibrate import calibrate
from analyzer.graph.families import sources_of
from analyzer.graph.session import release_unused
from analyzer.graph.suffix import SuffixRuns
from analyzer.graph.view import GraphView
from analyzer.load import bind_shapes, load_model
from analyzer.place import place
from analyzer.probe import units_for, units_of
from analyzer.quant.intervals import intervals
from analyzer.records import Sample
from analyzer.targets import get_target

MODELS = ["yolo11n_heads", "resnet8_cifar10", "mobilenet_v1_025_imagenet", "stories260k"]
COUNTS = [2, 3, 6, 12]


def main() -> None:
    """Print one row per model and count; end with 1 where coverage is below 90 %."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--target", default="esp32p4")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--draws", type=int, default=200)
    chosen = parser.parse_args()
    print(machine())
    rows = []
    for model in chosen.models:
        values = isolated(model, chosen.target, samples_of(model, chosen.samples))
        for count in COUNTS:
            found = coverage(values, count, chosen.draws)
            rows.append([model, values.shape[0], values.shape[1], count, *found.row])
        print(".", end="", flush=True)
    print()
    head = ["model", "rows", "of", "samples", "covered %", "loudest 30 %", "too low %", "factor"]
    table(head, rows)
    raise SystemExit(min(row[4] for row in rows) < 90)


def isolated(name: str, target_name: str, samples: list[Sample]) -> np.ndarray:
    """Return the mean NSR over the outputs, (rows, samples), each row alone on each sample."""
    target = get_target(target_name)
    model = load_model(SHARED / "models" / name / "model.onnx", rewrite=target.rewrite,
                       fold_norms=target.folds_norms)  # fmt: skip
    shapes = {name: array.shape for name, array in samples[0].items()}
    bound = bind_shapes(model, shapes, sample=samples[0], fold_norms=target.folds_norms)
    graph, plan = place(bound, target)
    plan = calibrate(graph, plan, target, samples)
    graph, plan = target.complete(graph, plan, samples)
    sources = sources_of(GraphView(graph.proto.graph), plan)
    units, _ = units_for(plan, units_of(plan, plan.layers), sources)
    runs = SuffixRuns(graph, units, samples=len(samples))
    columns = []
    with ThreadPoolExecutor(2) as pool:
        for sample in samples:
            plain = runs.plain(sample)
            found = pool.map(lambda unit, plain=plain: runs.nsr(unit.name, plain), units)
            columns.append([float(np.mean(list(row.values()))) for row in found])
            del plain
            release_unused()
    return np.array(columns).T


@dataclass(frozen=True)
class Coverage:
    """Shares in percent.

    Attributes:
        covered: of all rows.
        loudest: of the 30 loudest.
        below: whose interval ends below the mean over all samples.
        factor: median of upper over lower bound.
    """

    covered: float
    loudest: float
    below: float
    factor: float

    @property
    def row(self) -> list[float]:
        return [self.covered, self.loudest, self.below, self.factor]


def coverage(values: np.ndarray, count: int, draws: int) -> Coverage:
    """Hold intervals from `count` samples against the means over all of (rows, samples)."""
    rng = np.random.default_rng(count)
    truth = values.mean(axis=1)
    heard = np.flatnonzero(truth > 0)
    loudest = np.isin(heard, np.argsort(-truth)[:30])
    inside, below, factors = [], [], []
    for _ in range(draws):
        drawn = rng.choice(values.shape[1], count, replace=False)
        found = intervals({str(i): values[i, drawn].tolist() for i in range(len(values))})
        low, high = np.array([found[str(i)] for i in heard], np.float64).T
        inside.append((low <= truth[heard]) & (truth[heard] <= high))
        below.append(high < truth[heard])
        factors.append(np.median(high / np.maximum(low, 1e-300)))
    hits = np.mean(inside, axis=0)
    return Coverage(
        100 * float(hits.mean()),
        100 * float(hits[loudest].mean()),
        100 * float(np.mean(below)),
        float(np.median(factors)),
    )


if __name__ == "__main__":
    main()
