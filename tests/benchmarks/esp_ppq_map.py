# SPDX-License-Identifier: Apache-2.0
"""esp-ppq quantizes by exported settings and answers pictures; run by `proposals_map.py`.

    PEER_PYTHON esp_ppq_map.py JOBS.json OUT.json

JOBS is {"calib", "val": .npy of prepared pictures along the first axis, "jobs": list of {"model",
"setting", "target", "quant_type", "out": folder, and optionally "script"}}.  Every `out` gets one
.npz per picture of `val` with the quantized graph's outputs; OUT the seconds.  Imports nothing of
qanalyze.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers" / "judges"))

from esp_ppq import QuantizationSettingFactory
from esp_ppq.executor import TorchExecutor
from esp_ppq_exported import as_it_is, by_script


def main() -> None:
    """Do all jobs."""
    told, out = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2])
    calib, val = (np.load(told[name], mmap_mode="r") for name in ("calib", "val"))
    runs = [[torch.from_numpy(np.array(calib[i : i + 1]))] for i in range(len(calib))]
    seconds = []
    for job in told["jobs"]:
        begun = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            graph = quantized(job, runs)
        seconds.append(time.perf_counter() - begun)
        executor, names = TorchExecutor(graph=graph, device="cpu"), list(graph.outputs)
        Path(job["out"]).mkdir(parents=True)
        for i in range(len(val)):
            with torch.no_grad():
                found = executor.forward([torch.from_numpy(np.array(val[i : i + 1]))])
            arrays = {n: t.numpy() for n, t in zip(names, found, strict=True)}
            np.savez(Path(job["out"]) / f"{i:05}.npz", **arrays)
    out.write_text(json.dumps(seconds), encoding="utf-8")


def quantized(job: dict[str, str], runs: list[list[torch.Tensor]]):
    """Quantize by the script where there is one, else by the setting alone."""
    if job.get("script"):
        return by_script(job, runs)
    text = Path(job["setting"]).read_text(encoding="utf-8")
    return as_it_is(job, runs, QuantizationSettingFactory.from_json(text))


if __name__ == "__main__":
    main()
