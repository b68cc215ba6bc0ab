# SPDX-License-Identifier: Apache-2.0
"""What esp-ppq makes of exported files: jobs go in, configurations and noise come out.

    PEER_PYTHON esp_ppq_exported.py JOBS.json OUT.json

A job is {"model", "inputs" (npz, one array per graph input, samples along a new first axis),
"setting": path of a setting.json, "outputs": npz to write, and either "script": path of the
quantize.py beside it, or "target" and "quant_type" to give the setting to esp-ppq as it is}.  OUT
is a list in the order of the jobs: {"configs", "warned" (of the setting), "setting" and "espdl"
(all of it, and of espdl_setting)} or {"error"}; the npz gets what every graph output is on every
sample.  Imports nothing of qanalyze.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from esp_ppq import QuantizationSettingFactory
from esp_ppq.api import espdl_quantize_onnx
from esp_ppq.executor import TorchExecutor
from esp_ppq.IR import BaseGraph
from esp_ppq_plans import configs, load, run


def main() -> None:
    """Answer all jobs; one that is refused does not end the others."""
    jobs, out = sys.argv[1:]
    torch.set_num_threads(1)
    gc.freeze()
    answers = []
    for job in json.loads(Path(jobs).read_text(encoding="utf-8")):
        warnings.simplefilter("ignore")
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                answers.append(answer(job))
        except (Exception, SystemExit) as error:
            answers.append({"error": f"{type(error).__name__}: {error}"})
    Path(out).write_text(json.dumps(answers), encoding="utf-8")


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Quantize one model and measure it."""
    runs = [run if isinstance(run, list) else [run] for run in load(job["inputs"])]
    text = Path(job["setting"]).read_text(encoding="utf-8")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        setting = QuantizationSettingFactory.from_json(text)
    graph = by_script(job, runs) if "script" in job else as_it_is(job, runs, setting)
    outputs = list(graph.outputs)
    executor = TorchExecutor(graph=graph, device="cpu")
    made = [run(executor, batch, outputs) for batch in runs]
    columns = zip(*made, strict=True)
    found = {
        name: np.stack([t.numpy() for t in c]) for name, c in zip(outputs, columns, strict=True)
    }
    np.savez(job["outputs"], **found)
    wide = setting.quantize_parameter_setting.calib_algorithm == "minmax"
    bits = 16 if wide else 8
    return {
        "configs": configs(graph),
        "warned": said.getvalue(),
        "setting": json.loads(setting.to_json()),
        "espdl": json.loads(QuantizationSettingFactory.espdl_setting(bits).to_json()),
    }


def by_script(job: dict[str, Any], runs: list[Any]) -> BaseGraph:
    """Let the exported script quantize."""
    spec = importlib.util.spec_from_file_location("exported", job["script"])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    from esp_ppq.quantization.quantizer import base

    kept = base.HorizontalLayerSplitPass, base.QuantConfigModifyPass
    try:
        spec.loader.exec_module(module)
        return module.quantize(Path(job["model"]), Path(job["setting"]), runs)
    finally:  # it replaces passes for good, as a script may
        base.HorizontalLayerSplitPass, base.QuantConfigModifyPass = kept


def as_it_is(job: dict[str, Any], runs: list[Any], setting: Any) -> BaseGraph:
    """Give the setting to esp-ppq without the script."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.onnx"
        copy.write_bytes(Path(job["model"]).read_bytes())
        return espdl_quantize_onnx(
            onnx_import_file=str(copy), espdl_export_file=str(copy.with_suffix(".espdl")),
            calib_dataloader=runs, calib_steps=len(runs), inputs=runs[0],
            input_shape=[list(t.shape) for t in runs[0]], target=job["target"],
            quant_type=job["quant_type"], device="cpu", error_report=False, skip_export=True,
            verbose=0, setting=setting, collate_fn=lambda x: x,
        )  # fmt: skip


if __name__ == "__main__":
    main()
