# SPDX-License-Identifier: Apache-2.0
"""Pairs of NSR and task metric: models under many settings of the noise, all outputs measured.

    python tests/benchmarks/nsr_and_metric.py [--models NAME ...] [--into FILE.json]

Every pair is one model quantized by one setting (target, calibration, precision, granularity, a
part of the layers in 16 bits, one picture to calibrate on, ...), run beside FP32 on all its
samples: the NSR of its worst output, the metric against labels for both models where there are
labels, and how often the quantized model answers as FP32 does.  Rows are kept in
`nsr_and_metric.json`, where those of models that are measured again are replaced;
`nsr_table.py` writes them into the page.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measure import SAMPLES, SHARED, machine, table
from nsr_cases import CASES, Case, Noise

from analyzer.config import Config, resolve
from analyzer.errors import TargetError
from analyzer.pipeline.stages import Run
from analyzer.records import TaskScore
from analyzer.score import Scorer
from analyzer.verify import verify

KEPT = Path(__file__).with_suffix(".json")


def main() -> None:
    """Measure, keep, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--into", type=Path, default=KEPT)
    given = parser.parse_args()
    print(machine())
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for model in given.models:
            started = time.perf_counter()
            for row in pairs(model, CASES[model], Path(name)):
                rows.append(row)
                print(".", end="", flush=True)
            print(f" {model} {time.perf_counter() - started:.0f} s", flush=True)
    keep(rows, given.into)
    head = ["model", "setting", "worst NSR %", "metric", "FP32", "INT8", "agreement"]
    table(head, [shown(row) for row in rows])


def pairs(model: str, case: Case, folder: Path) -> Iterator[dict[str, Any]]:
    """Measure one model under every setting that fits it."""
    options = case.options(folder)
    for noise in case.noises:
        path = (SHARED / "models" / model / "model.onnx") if case.shared else None
        path = path or SAMPLES / f"{noise.copy or model}.onnx"
        config = resolve({"propose": False, **options, **noise.options}, folder=folder)
        try:
            found = pair(path, config, noise)
        except TargetError as error:
            print(f"\n{model}, {noise.title}: {error.message}")
            continue
        yield {"model": model, "task": case.task, "setting": noise.title, **found}


def pair(path: Path, config: Config, noise: Noise) -> dict[str, Any]:
    """Quantize and run one model; return NSRs of its outputs and scores of its answers."""
    with ExitStack() as stack:
        run = Run(path, config, None, "", stack)
        targets = run.targets([config.target])
        jobs = run.place(targets)
        if noise.wide:
            run.config = replace(config, dispatch=part(jobs[0].plan.layers, noise))
            jobs = run.place(targets)
        ((graph, plan),) = [(j.graph, j.plan) for j in run.slice(run.calibrate(jobs))]
        samples = run.samples(1)
        scorer = Scorer(graph, config, samples, 1)
        (found,) = verify(
            graph, [(graph, plan)], samples, workers=run.workers, watch=scorer.watch
        )  # fmt: skip
        outputs = {name: float(f"{nsr:.4g}") for name, nsr in found.nsr.items()}
        whole = [nsr for name, nsr in outputs.items() if name not in graph.slices]
        scores = [_score(score) for score in scorer.scores(0)]
        return {
            "samples": len(samples), "worst_nsr": max(whole), "outputs": outputs,
            "scores": _paired(scores),
        }  # fmt: skip


def _score(score: TaskScore) -> dict[str, Any]:
    fp32 = None if score.reference is None else _rounded(score.reference)
    value = _rounded(score.value)
    return {"name": score.name, "fp32": fp32, "int8": value, "against": score.against}


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _paired(scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join what a metric of our own says of both models, see `nsr_metrics.py`."""
    said = {score["name"]: score["int8"] for score in scores}
    found = []
    for score in scores:
        name = score["name"].removesuffix(" INT8")
        if name != score["name"]:
            found.append({**score, "name": name, "fp32": said[f"{name} FP32"], "against": "truth"})
        elif name == "own error":
            found.append({**score, "against": "truth"})
        elif not name.endswith(" FP32"):
            found.append(score)
    return found


def part(layers: tuple[str, ...], noise: Noise) -> dict[str, str]:
    """Return the table that gives a part of the layers, in execution order, more bits."""
    assert noise.wide is not None
    start, end, precision = noise.wide
    first, last = (int(np.ceil(share * len(layers))) for share in (start, end))
    return dict.fromkeys(layers[first:last], precision)


def keep(rows: list[dict[str, Any]], path: Path) -> None:
    """Put rows into the file in the place of older ones of the same models."""
    anew = {row["model"] for row in rows}
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    every = [row for row in old if row["model"] not in anew] + rows
    order = list(CASES)
    every.sort(key=lambda row: order.index(row["model"]))
    lines = ",\n".join(json.dumps(row) for row in every)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def shown(row: dict[str, Any]) -> list[object]:
    """Return the cells of a row."""
    metric = next((s for s in row["scores"] if s["fp32"] is not None), None)
    same = next((s for s in row["scores"] if s["against"] == "fp32"), None)
    cells: list[object] = [row["model"], row["setting"], 100 * row["worst_nsr"]]
    cells += [metric["name"], metric["fp32"], metric["int8"]] if metric else ["", "", ""]
    return [*cells, f"{same['name']} {same['int8']:.4g}" if same else ""]


if __name__ == "__main__":
    main()
