# SPDX-License-Identifier: Apache-2.0
"""esp-ppq's own plan and errors: jobs go in, configurations and noise-to-signal ratios come out.

    PEER_PYTHON esp_ppq_plans.py JOBS.json OUT.json

A job is {"model": path, "inputs": npz path, and optionally "target", "precision", "algorithm",
"table" {op: "int8"|"int16"|"w8a16"|"fp32"}, and what is wanted: "layerwise" (its report), "plain"
(outputs of the first sample, nothing quantized), "isolated" and "graphwise" (the same two as its
reports, but whole tensors and one ratio per sample), and "float64" (these, computed so)}.
The npz holds one array per graph input, samples along a new first axis.  OUT is a list in the
order of the jobs: {"configs", and what was asked for} or {"error"}.  Imports nothing of qanalyze.
"""

from __future__ import annotations

import contextlib
import gc
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
from esp_ppq.api import espdl_quantize_onnx, get_target_platform
from esp_ppq.core import TargetPlatform
from esp_ppq.executor import TorchExecutor
from esp_ppq.IR import BaseGraph
from esp_ppq.IR.quantize import QuantableOperation
from esp_ppq.quantization.analyse import layerwise_error_analyse

SCALED = {"ACTIVATED", "PASSIVE", "OVERLAPPED"}
QUANT_TYPES = {"int8": "w8a8", "int16": "w16a16", "w8a16": "w8a16"}


def main() -> None:
    """Answer all jobs; one that esp-ppq refuses does not end the others."""
    jobs, out = sys.argv[1:]
    torch.set_num_threads(1)  # two wait for each other: ten times as long on small tensors
    gc.freeze()  # it collects garbage after every pass: 0.1 s each, were the libraries looked at
    answers = []
    for job in json.loads(Path(jobs).read_text(encoding="utf-8")):
        warnings.simplefilter("ignore")
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                answers.append(answer(job))
        except Exception as error:
            answers.append({"error": f"{type(error).__name__}: {error}"})
    Path(out).write_text(json.dumps(answers), encoding="utf-8")


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Quantize one model and report on it."""
    batches = load(job["inputs"])
    graph = quantize(job, batches)
    found: dict[str, Any] = {"configs": configs(graph)}
    executor = TorchExecutor(graph=graph, device="cpu")
    if job.get("float64"):
        for operation in quantized(graph):  # its "high precision": other kernels, same configs
            operation.platform = TargetPlatform.ESPDL_H_PRE_INT16
    if job.get("layerwise"):
        found["layerwise"] = layerwise_error_analyse(
            graph=graph, running_device="cpu", dataloader=batches, collate_fn=lambda x: x,
            steps=len(batches),
        ) or {}  # fmt: skip
    if job.get("plain"):
        dequantize(graph)
        found["plain"] = [t.tolist() for t in run(executor, batches[0], list(graph.outputs))]
        for operation in quantized(graph):
            operation.restore_quantize_state()
    if job.get("isolated"):
        found["isolated"] = isolated(graph, executor, batches)
    if job.get("graphwise"):
        found["graphwise"] = graphwise(graph, executor, batches)
    return found


def load(path: str) -> list[Any]:
    """Return one batch per sample: a tensor, or a list of them in the order of the inputs."""
    with np.load(path) as arrays:
        columns = [torch.from_numpy(arrays[name]) for name in arrays.files]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return [row[0] if len(row) == 1 else row for row in rows]


def quantize(job: dict[str, Any], batches: list[Any]) -> BaseGraph:
    """Run esp-ppq as its users do, but for reports and export."""
    precision = job.get("precision", "int8")
    setting = QuantizationSettingFactory.espdl_setting(
        num_of_bits=8 if precision == "int8" else 16
    )
    if job.get("algorithm"):
        setting.quantize_activation_setting.calib_algorithm = job["algorithm"]
    target = job.get("target", "esp32p4")
    for name, wanted in job.get("table", {}).items():
        platform = (
            TargetPlatform.FP32
            if wanted == "fp32"
            else get_target_platform(target, QUANT_TYPES[wanted])
        )
        setting.dispatching_table.append(name, platform.value)
    first = batches[0] if isinstance(batches[0], list) else [batches[0]]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.onnx"  # it writes over the model
        copy.write_bytes(Path(job["model"]).read_bytes())
        return espdl_quantize_onnx(
            onnx_import_file=str(copy), espdl_export_file=str(copy.with_suffix(".espdl")),
            calib_dataloader=batches, calib_steps=len(batches), inputs=first,
            input_shape=[list(t.shape) for t in first], target=target,
            quant_type=QUANT_TYPES[precision], device="cpu", error_report=False, skip_export=True,
            verbose=0, setting=setting, collate_fn=lambda x: x,
        )  # fmt: skip


def configs(graph: BaseGraph) -> list[dict[str, Any]]:
    """Return one entry per slot: its state and bits, and its scales where it has any."""
    found = []
    for operation in quantized(graph):
        inputs = len(operation.inputs)
        for index, (config, variable) in enumerate(operation.config_with_variable):
            scale = config.scale if config.state.name in SCALED else None
            found.append(
                {
                    "node": operation.name,
                    "type": operation.type,
                    "slot": f"in{index}" if index < inputs else f"out{index - inputs}",
                    "state": config.state.name,
                    "bits": config.num_of_bits,
                    "rounding": config.rounding.name,
                    "constant": bool(variable.is_parameter),
                    "present": not variable.is_parameter or variable.value is not None,
                    "scale": None if scale is None else scale.double().reshape(-1).tolist(),
                }
            )
    return found


def isolated(graph: BaseGraph, executor: TorchExecutor, batches: list[Any]) -> dict[str, float]:
    """Return the NSR at the graph outputs with one computing op quantized, mean over outputs.

    As esp-ppq's layerwise report, but for its idea that the first axis is the batch.
    """
    outputs = list(graph.outputs)
    dequantize(graph)
    plain = [run(executor, batch, outputs) for batch in batches]
    rows = {}
    for operation in quantized(graph):
        if operation.is_computing_op:
            operation.restore_quantize_state()
            ratios = [
                ratio(y, reference)
                for batch, references in zip(batches, plain, strict=True)
                for y, reference in zip(run(executor, batch, outputs), references, strict=True)
            ]
            rows[operation.name] = sum(ratios) / len(ratios)
            operation.dequantize()
    for operation in quantized(graph):
        operation.restore_quantize_state()
    return rows


def quantized(graph: BaseGraph) -> list[QuantableOperation]:
    """Return the operations that have a configuration."""
    return [o for o in graph.operations.values() if isinstance(o, QuantableOperation)]


def dequantize(graph: BaseGraph) -> None:
    """Switch every configuration off."""
    for operation in quantized(graph):
        operation.dequantize()


def run(executor: TorchExecutor, batch: Any, wanted: list[str]) -> list[torch.Tensor]:
    """Return copies of the tensors called `wanted`."""
    return [t.clone() for t in executor.forward(batch, output_names=wanted)]


def graphwise(graph: BaseGraph, executor: TorchExecutor, batches: list[Any]) -> dict[str, float]:
    """Return the NSR of every computing op's first output, and of every graph output.

    As esp-ppq's report, but over whole tensors: its own looks at 4096 elements.
    """
    rows = {o.name: o.outputs[0].name for o in quantized(graph) if o.is_computing_op}
    rows.update({f"output:{name}": name for name in graph.outputs})
    wanted = list(dict.fromkeys(rows.values()))
    dequantize(graph)
    plain = [run(executor, batch, wanted) for batch in batches]
    for operation in quantized(graph):
        operation.restore_quantize_state()
    total = dict.fromkeys(wanted, 0.0)
    for batch, references in zip(batches, plain, strict=True):
        for name, y, reference in zip(
            wanted, run(executor, batch, wanted), references, strict=True
        ):
            total[name] += ratio(y, reference)
    return {row: total[tensor] / len(batches) for row, tensor in rows.items()}


def ratio(y: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the power of the noise over that of the signal, summed in float64."""
    noise = (y.double() - reference.double()).pow(2).sum().item()
    signal = reference.double().pow(2).sum().item()
    return noise / signal if noise else 0.0


if __name__ == "__main__":
    main()
