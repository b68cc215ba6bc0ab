# SPDX-License-Identifier: Apache-2.0
"""Exported settings judged by esp-ppq itself: mAP of the graphs it makes, FP32 beside them.

    python tests/benchmarks/proposals_map.py --peer-python PYTHON [--target esp32p4] [FOLDER ...]

A FOLDER is one that qanalyze exported into (it has esp-ppq/setting.json, and model.fp32.onnx where
the plan edits the model), or a setting.json by itself.  The default setting is always judged too,
and with `--calibration NAME` one that changes nothing but that.  esp-ppq calibrates on the
48 pictures for calibration; precision is COCO's (101 points, confidence above 0.005, suppression
at IoU 0.7) on the 64 labelled pictures, which nothing else has seen.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from measure import SHARED, spend, table

from analyzer.config import resolve
from analyzer.export.esp_ppq_setting import Told, setting_of
from analyzer.graph.ends import EndRuns
from analyzer.load import bind_shapes, load_model
from analyzer.samples import Chosen, open_roles
from analyzer.score import Scorer

COCO = SHARED / "data" / "coco"


def main() -> None:
    """Quantize, answer, score, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exported", nargs="*", type=Path)
    parser.add_argument("--peer-python", required=True, help="interpreter with esp-ppq")
    model = SHARED / "models" / "yolo11n_heads" / "model.onnx"
    parser.add_argument("--model", type=Path, default=model)
    parser.add_argument("--target", default="esp32p4")
    parser.add_argument("--preset", default="yolo")
    parser.add_argument("--calibration", action="append", default=[], help="judge this one too")
    parser.add_argument("--images", type=int, help="calibrate on the first so many; all")
    parser.add_argument("--by-setting", action="store_true", help="without quantize.py")
    given = parser.parse_args()
    told = {
        "calib": str(COCO / "calib" / "images"),
        "eval": str(COCO / "val" / "images"),
        "labels": str(COCO / "val" / "labels"),
        "preset": given.preset,
        "samples": 1000,
        "calib_samples": given.images,
    }
    config = resolve(told)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        loaded = load_model(given.model)
        calib, val = open_roles(loaded, config, stack)
        jobs = jobs_of(given, folder)
        seconds = ask(given.peer_python, jobs, calib, val, folder)
        bound = bind_shapes(loaded, calib.data.shapes, sample=calib[0])
        scorer, plain = Scorer(bound, config, val, len(jobs)), EndRuns(bound)
        for i in range(len(val)):
            answers = [dict(np.load(Path(job["out"]) / f"{i:05}.npz")) for job in jobs]
            scorer.watch(i, plain.outputs(val[i]), answers)
        rows = []
        for number, job in enumerate(jobs):
            scores = {s.name: s for s in scorer.scores(number)}
            found = [scores[n] for n in ("mAP50:95", "mAP50")]
            if not rows:
                rows.append(["FP32", *(f"{s.reference:.4f}" for s in found), ""])
            values = (f"{s.value:.4f}" for s in found)
            rows.append([job["title"], *values, f"{seconds[number]:.0f}"])
        print(f"{given.model.parent.name}, {given.target}, {len(calib)} + {len(val)} pictures")
        table(["", "mAP50:95", "mAP50", "s to quantize"], rows)


def jobs_of(given: argparse.Namespace, folder: Path) -> list[dict[str, str]]:
    """Return what esp-ppq is to do: the default, other calibrations, what was exported."""
    jobs = []
    for number, observer in enumerate([None, *given.calibration]):
        path = folder / f"{number}.json"
        setting = setting_of(Told(given.target, "original", "int8", observer), ())
        path.write_text(json.dumps(setting), encoding="utf-8")
        title = f"calibration {observer}" if observer else "default"
        jobs.append({"title": title, "model": str(given.model), "setting": str(path)})
    for path in given.exported:
        setting = path if path.is_file() else path / "esp-ppq" / "setting.json"
        ours = setting.parents[1] / "model.fp32.onnx"
        script = setting.with_name("quantize.py")
        job = {"title": str(path), "setting": str(setting)}
        job["model"] = str(ours if ours.is_file() else given.model)
        if script.is_file() and not given.by_setting:
            job["script"] = str(script)
        jobs.append(job)
    for number, job in enumerate(jobs):
        job |= {"target": given.target, "quant_type": "w8a8", "out": str(folder / f"out{number}")}
    return jobs


def ask(
    python: str, jobs: list[dict[str, str]], calib: Chosen, val: Chosen, folder: Path
) -> list[float]:
    """Run esp-ppq in its environment on the prepared pictures; return the seconds of each job."""
    task = {"jobs": jobs}
    for name, chosen in (("calib", calib), ("val", val)):
        task[name] = str(folder / f"{name}.npy")
        np.save(task[name], np.concatenate([next(iter(sample.values())) for sample in chosen]))
    (folder / "jobs.json").write_text(json.dumps(task), encoding="utf-8")
    script = Path(__file__).with_name("esp_ppq_map.py")
    out = folder / "seconds.json"
    spent = spend([python, script, folder / "jobs.json", out], folder=folder)
    if spent.code:
        raise SystemExit(f"esp-ppq ended with {spent.code}:\n{spent.err[-2000:]}")
    return json.loads(out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
