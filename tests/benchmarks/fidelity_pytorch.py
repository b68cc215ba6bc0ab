# SPDX-License-Identifier: Apache-2.0
"""Hold the `pytorch` targets against torch.ao.quantization: placement, scales, output noise.

    python tests/benchmarks/fidelity_pytorch.py [--models NAME ...] [--backends x86 qnnpack]
        [--observers histogram minmax] [--samples N] [--differing N] [--json FILE]

Needs the environment `pytorch` (tests/peers/environments.py) and the shared models and data.
Noise is that of the reference quantized model (`convert_to_reference_fx`), run by torch.
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
from measure import SHARED, table  # noqa: E402
from real_inputs import CASES, samples_of  # noqa: E402
from torch_plans import (  # noqa: E402
    agreement,
    decibels_apart,
    outputs_of,
    planned,
    write_question,
)

MODELS = (
    "resnet8_cifar10", "mobilenet_v1_025_imagenet", "vww_mobilenet", "face_rfb320",
    "squeezenet_imagenet", "yolox_nano", "espdet_pico_cat", "yolo11n_heads",
)  # fmt: skip


def row_of(name, backend, observer, limit, differing):
    """Compare one model under one setting; return its row."""
    samples = samples_of(name, limit)
    mine = planned(SHARED / "models" / name / "model.onnx", samples, backend, observer)
    with tempfile.TemporaryDirectory() as folder:
        question = write_question(Path(folder), mine, samples)
        answer = Path(folder) / "answer.json"
        command = [interpreter("pytorch"), PEERS / "judges" / "torch_fx.py", *question]
        command += [backend, observer, "", answer]
        subprocess.run([str(part) for part in command], check=True)
        theirs = json.loads(answer.read_text(encoding="utf-8"))
        found = agreement(mine, theirs["edges"])
        apart = decibels_apart(mine, samples, outputs_of(mine, theirs["outputs"]))
    for edge, (ours, other) in list(found.differing.items())[:differing]:
        print(f"  {name} {edge}: ours {ours}, theirs {other}")
    scales = np.array(list(found.scales.values()))
    return {
        "model": name,
        "backend": backend,
        "observer": observer,
        "samples": len(samples),
        "edges": found.quantized,
        "placed": found.placed,
        "equal": float((scales < 1e-5).mean()),
        "median_scale": found.median_scale,
        "worst_scale": float(scales.max()),
        "db_apart": max(apart.values(), key=abs),
    }


def main() -> None:
    """Print a table, a row per model and setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(CASES))
    parser.add_argument("--backends", nargs="+", default=["x86", "qnnpack"])
    parser.add_argument("--observers", nargs="+", default=["histogram"])
    parser.add_argument("--samples", type=int, help="per model, instead of the usual number")
    parser.add_argument("--differing", type=int, default=0, help="edges to print per model")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = [
        row_of(name, backend, observer, given.samples, given.differing)
        for name in given.models
        for backend in given.backends
        for observer in given.observers
    ]
    heads = ("model", "backend", "samples", "edges", "placed alike", "scales within 1e-5",
             "median", "worst", "dB apart")  # fmt: skip
    table(heads, [
        (r["model"], f"{r['backend']} {r['observer']}", str(r["samples"]), str(r["edges"]),
         f"{r['placed']:.2%}", f"{r['equal']:.1%}", f"{r['median_scale']:.1e}",
         f"{r['worst_scale']:.1e}", f"{r['db_apart']:+.2f}")
        for r in rows
    ])  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
