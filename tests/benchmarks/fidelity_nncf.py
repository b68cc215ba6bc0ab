# SPDX-License-Identifier: Apache-2.0
"""Hold the `openvino` target against NNCF itself: placement, scales, biases, output noise.

    python tests/benchmarks/fidelity_nncf.py [--models NAME ...] [--samples N] [--json FILE]
        [--backend openvino|onnx] [--preset performance|mixed] [--no-bias-correction]

Needs the environment `nncf` (tests/peers/environments.py) and the shared models and data.  Noise
is that of float32 emulation on both sides, in dB of the mean over samples; with --integer the peer
runs its integer kernels, as a user's CPU does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "peers")]

import onnx  # noqa: E402
from conftest import interpreter  # noqa: E402
from edges import compare, edges_of_plan, edges_of_qdq  # noqa: E402
from measure import SHARED, show_rows  # noqa: E402
from nncf_answers import edges_of_openvino  # noqa: E402
from real_inputs import CASES, samples_of  # noqa: E402

from analyzer.calibrate import calibrate  # noqa: E402
from analyzer.load import bind_shapes, load_model  # noqa: E402
from analyzer.place import place  # noqa: E402
from analyzer.records import Setting  # noqa: E402
from analyzer.simulate import simulate  # noqa: E402
from analyzer.targets.openvino import OPENVINO  # noqa: E402

MODELS = [name for name in CASES if name != "superres_subpixel"]


def ask(path, samples, settings, folder):
    """Return the judge's answer."""
    stacked = {name: np.stack([s[name] for s in samples]) for name in samples[0]}
    np.savez(folder / "inputs.npz", **stacked)
    command = [
        interpreter("nncf"), HERE.parent / "peers" / "judges" / "nncf_ptq.py", path,
        folder / "inputs.npz", json.dumps(settings), folder / "answer.json",
    ]  # fmt: skip
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads((folder / "answer.json").read_text(encoding="utf-8"))


def row(name, settings, limit):
    """Compare one model; return one row of the table and what differs."""
    path = SHARED / "models" / name / "model.onnx"
    model = load_model(path)
    samples = samples_of(name, limit)
    settings = {**settings, "analysed": len(samples)}
    with tempfile.TemporaryDirectory() as folder:
        answer = ask(path, samples, settings, Path(folder))
        qdq = onnx.load(answer["file"]) if "file" in answer else None
    target = replace(OPENVINO, bias_correction=settings["bias_correction"])
    setting = Setting(precision="int8-mixed" if settings["preset"] == "mixed" else None)
    model = bind_shapes(model, {k: v.shape for k, v in samples[0].items()}, sample=samples[0])
    graph, plan = place(model, target, setting)
    plan = calibrate(graph, plan, target, samples, workers=2)
    graph, plan = target.complete(graph, plan, samples)
    biases = {(q.node, int(q.slot[2:])) for q in plan.quantizers if q.role == "bias"}
    ours = {edge: g for edge, g in edges_of_plan(graph, plan).items() if edge not in biases}
    if qdq is not None:
        theirs, lost = edges_of_qdq(qdq), []
    else:
        answered = edges_of_openvino(graph, answer["operations"])
        theirs, lost = answered.edges, answered.lost
    found = compare(ours, theirs)
    errors = simulate(graph, plan, samples, workers=2).graphwise
    apart = {
        out: 10 * np.log10(errors[out].nsr / nsr) for out, nsr in answer["nsr"].items() if nsr
    }
    return {
        "model": name,
        "edges": found.edges,
        "quantized": found.quantized,
        "alike": found.alike,
        "lost": len(lost),
        "placed %": round(100 * found.alike / (found.quantized + len(lost)), 2),
        "scale median": f"{found.median_scale:.1e}",
        "scale max": f"{max(found.scales.values(), default=0):.1e}",
        "zero points off": sum(z != 0 for z in found.zero_points.values()),
        "biases": corrected(graph, plan, answer),
        "dB": " ".join(f"{d:+.2f}" for d in apart.values()),
        "theirs dB": " ".join(
            f"{-10 * np.log10(n):.1f}" if n else "inf" for n in answer["nsr"].values()
        ),
    }, [*found.differing.items(), *(("lost", port) for port in lost)]


def corrected(graph, plan, answer):
    """Compare stored biases with the peer's: how many, and the largest relative difference."""
    made = {t: n.name for n in graph.proto.graph.node for t in n.output}
    theirs = {}
    for operation in answer.get("operations", ()):
        bias = answer["biases"].get(operation["name"])
        for tensor in operation["outputs"][0] if bias else ():
            theirs[made.get(tensor)] = np.array(bias)
    off = []
    for q in plan.quantizers:
        if q.role == "bias" and q.stored is not None and q.node in theirs:
            bias = theirs[q.node]
            off.append(np.abs(q.stored.ravel() - bias).max() / np.abs(bias).max())
    count = sum(q.role == "bias" for q in plan.quantizers)
    return f"{len(off)}/{count}: {max(off, default=0):.0e}"


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=list(CASES))
    parser.add_argument("--samples", type=int)
    parser.add_argument("--backend", default="openvino", choices=["openvino", "onnx"])
    parser.add_argument("--preset", default="performance", choices=["performance", "mixed"])
    parser.add_argument("--no-bias-correction", action="store_true")
    parser.add_argument("--integer", action="store_true")
    parser.add_argument("--differing", type=int, default=0, metavar="N", help="print N of them")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    settings = {
        "backend": given.backend,
        "preset": given.preset,
        "bias_correction": not given.no_bias_correction,
        "integer": given.integer,
    }
    found = (row(name, settings, given.samples) for name in given.models)
    show_rows(found, given.differing, given.json)


if __name__ == "__main__":
    main()
