# SPDX-License-Identifier: Apache-2.0
"""esp-ppq's own calibration, graphwise and layerwise analysis, timed; run by `against_esp_ppq.py`.

    PEER_PYTHON esp_ppq_reference.py MODEL.onnx INPUTS.npy BATCH TARGET OUT.json

Imports nothing of qanalyze, so that the interpreter needs esp-ppq alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

start = time.perf_counter()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from esp_ppq.api import espdl_quantize_onnx  # noqa: E402
from esp_ppq.IR.quantize import QuantableOperation  # noqa: E402
from esp_ppq.quantization.analyse import (  # noqa: E402
    graphwise_error_analyse,
    layerwise_error_analyse,
)


def main() -> None:
    """Quantize, analyse, write times, errors and configurations as JSON."""
    model, inputs, batch, target, out = sys.argv[1:]
    seconds = {"import": time.perf_counter() - start}
    data = torch.from_numpy(np.load(inputs))
    loader = [data[i : i + int(batch)] for i in range(0, len(data), int(batch))]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.onnx"  # it writes beside the model
        copy.write_bytes(Path(model).read_bytes())
        begun = time.perf_counter()
        graph = espdl_quantize_onnx(
            onnx_import_file=str(copy),
            espdl_export_file=str(copy.with_suffix(".espdl")),
            calib_dataloader=loader,
            calib_steps=len(loader),
            input_shape=[1, *data.shape[1:]],
            target=target,
            num_of_bits=8,
            device="cpu",
            error_report=False,
            skip_export=True,
            verbose=0,
        )
        seconds["calibration"] = time.perf_counter() - begun
        options = {
            "graph": graph,
            "running_device": "cpu",
            "dataloader": loader,
            "collate_fn": lambda x: x,
            "steps": len(loader),
        }
        begun = time.perf_counter()
        graphwise = graphwise_error_analyse(**options)
        seconds["graphwise"] = time.perf_counter() - begun
        begun = time.perf_counter()
        layerwise = layerwise_error_analyse(**options)
        seconds["layerwise"] = time.perf_counter() - begun
    record = {
        "seconds": seconds,
        "graphwise": graphwise,
        "layerwise": layerwise,
        "configs": [
            config
            for operation in graph.operations.values()
            if isinstance(operation, QuantableOperation)
            for config in configs(operation)
        ],
    }
    Path(out).write_text(json.dumps(record), encoding="utf-8")


def configs(operation: QuantableOperation) -> list[dict[str, object]]:
    """Return one entry per slot: its state, and its scales where it has any."""
    found = []
    inputs = len(operation.inputs)
    for index, (config, _) in enumerate(operation.config_with_variable):
        scale = None
        if config.state.name not in ("FP32", "INITIAL"):
            scale = config.scale.detach().double().reshape(-1).tolist()
        found.append(
            {
                "node": operation.name,
                "slot": f"in{index}" if index < inputs else f"out{index - inputs}",
                "state": config.state.name,
                "bits": config.num_of_bits,
                "scale": scale,
            }
        )
    return found


if __name__ == "__main__":
    main()
