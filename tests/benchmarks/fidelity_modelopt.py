# SPDX-License-Identifier: Apache-2.0
"""Hold the `tensorrt` target against NVIDIA ModelOpt itself: placement, scales, output noise.

    python tests/benchmarks/fidelity_modelopt.py [--models NAME ...] [--methods max entropy]
        [--samples N] [--precision fp16|fp32] [--differing N] [--json FILE]

Needs the environment `modelopt` (tests/peers/environments.py) and the shared models and data.
Noise is that of the model ModelOpt wrote, run by onnxruntime with every Q/DQ pair as it stands.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / "peers"
sys.path[:0] = [str(HERE), str(PEERS)]

from conftest import interpreter  # noqa: E402
from measure import SHARED, show_rows  # noqa: E402
from modelopt_plans import agreement, decibels_apart, planned, write_question  # noqa: E402
from real_inputs import CASES, samples_of  # noqa: E402

# transformers are quantized by another tool of theirs
MODELS = [name for name in CASES if name != "stories260k"]


def row(name, method, precision, samples):
    """Compare one model; return one row of the table and what differs."""
    path = SHARED / "models" / name / "model.onnx"
    mine = planned(path, samples, method=method, precision=precision)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        question = write_question(
            folder, samples, method=method, analysed=len(samples), precision=precision
        )
        command = [interpreter("modelopt"), PEERS / "judges" / "modelopt_ptq.py", path, *question]
        done = subprocess.run(
            [str(part) for part in (*command, folder / "answer.json")],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        found = agreement(mine, folder / "produced.onnx")
    apart = decibels_apart(mine, samples, answer["nsr"])
    theirs = (-10 * np.log10(nsr) if nsr else np.inf for nsr in answer["nsr"].values())
    return {
        "model": name,
        "method": method,
        "samples": len(samples),
        "edges": found.edges,
        "quantized": found.quantized,
        "alike": found.alike,
        "placed %": round(100 * found.placed, 2),
        "scales off": sum(d > 1e-6 for d in found.scales.values()),
        "scale max": f"{max(found.scales.values(), default=0):.1e}",
        "dB apart": " ".join(f"{d:+.2f}" for d in apart.values()),
        "theirs dB": " ".join(f"{d:.1f}" for d in theirs),
        "their s": round(answer["seconds"], 1),
    }, list(found.differing.items())


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=list(CASES))
    parser.add_argument("--methods", nargs="+", default=["max", "entropy"])
    parser.add_argument("--samples", type=int)
    parser.add_argument("--precision", default="fp16", choices=["fp16", "fp32"])
    parser.add_argument("--differing", type=int, default=0, metavar="N", help="print N of them")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = (
        row(name, method, given.precision, samples)
        for name in given.models
        for samples in [samples_of(name, given.samples)]
        for method in given.methods
    )
    show_rows(found, given.differing, given.json)


if __name__ == "__main__":
    main()
