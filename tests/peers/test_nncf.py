# SPDX-License-Identifier: Apache-2.0
"""The OpenVINO target against NNCF itself: every grid, every corrected bias, the output noise.

The scripts' table over ten models comes from `tests/benchmarks/fidelity_nncf.py`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from analyzer.calibrate import calibrate
from analyzer.load import bind_shapes, load_model
from analyzer.place import place
from analyzer.records import Setting
from analyzer.simulate import simulate
from analyzer.targets.openvino import OPENVINO

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from edges import compare, edges_of_plan  # noqa: E402
from nncf_answers import edges_of_openvino  # noqa: E402
from pictures import octaves  # noqa: E402
from random_graphs import random_model  # noqa: E402

MODELS = HERE.parents[2] / "shared" / "models"
INPUTS = {
    "resnet8_cifar10": ("input_1", (1, 32, 32, 3), 255),
    "vww_mobilenet": ("input_1", (1, 96, 96, 3), 1),
    "face_rfb320": ("input", (1, 3, 240, 320), 1),
}
SEEDS = range(16)
pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


def ours(path, samples, precision=None, *, bias_correction=True):
    target = replace(OPENVINO, bias_correction=bias_correction)
    model = bind_shapes(load_model(path), {k: v.shape for k, v in samples[0].items()})
    graph, plan = place(model, target, Setting(precision=precision))
    plan = calibrate(graph, plan, target, samples)
    return target.complete(graph, plan, samples)


def stacked(samples):
    return {name: np.stack([s[name] for s in samples]) for name in samples[0]}


def pictures(name):
    """Random pictures with structure: blocks of three sizes."""
    tensor, shape, high = INPUTS[name]
    rng = np.random.default_rng(0)
    found = []
    for _ in range(8):
        x = octaves(rng, shape)
        found.append({tensor: np.float32(x / x.max() * high * rng.uniform(0.5, 1))})
    return found


@pytest.mark.parametrize("preset", ["performance", "mixed"])
@pytest.mark.parametrize("name", list(INPUTS))
def test_real_models(judge, name, preset, tmp_path):
    """Every grid within 1e-4, every bias within 1 %, noise before the Softmax within 1 dB."""
    path = MODELS / name / "model.onnx"
    if not path.is_file():
        pytest.skip(f"the shared model {name} is not here")
    samples = pictures(name)
    np.savez(tmp_path / "inputs.npz", **stacked(samples))
    settings = {"preset": preset, "bias_correction": True, "analysed": len(samples)}
    answer = judge("nncf", "nncf_ptq", path, tmp_path / "inputs.npz", json.dumps(settings))
    graph, plan = ours(path, samples, "int8-mixed" if preset == "mixed" else None)
    biases = {(q.node, int(q.slot[2:])) for q in plan.quantizers if q.role == "bias"}
    theirs = edges_of_openvino(graph, answer["operations"])
    mine = {edge: grid for edge, grid in edges_of_plan(graph, plan).items() if edge not in biases}
    found = compare(mine, theirs.edges)
    assert not theirs.lost
    assert not found.differing
    assert found.quantized > 20
    assert max(found.scales.values()) < 1e-4
    assert not any(found.zero_points.values())
    changed = corrected(graph, answer)
    stored = {q.node: q.stored.ravel() for q in plan.quantizers if q.role == "bias"}
    for node, bias in stored.items():
        assert np.abs(changed[node] - bias).max() <= 0.01 * np.abs(bias).max(), node
    errors = simulate(graph, plan, samples).graphwise
    for output, nsr in answer["nsr"].items():
        # a Softmax turns small differences between kernels into large ones near its edge
        assert abs(10 * np.log10(errors[output].nsr / nsr)) < (3 if softmax(graph, output) else 1)


def softmax(graph, output):
    return any(n.op_type == "Softmax" and output in n.output for n in graph.proto.graph.node)


def corrected(graph, answer):
    """Return node -> bias that the peer's model holds."""
    made = {t: n.name for n in graph.proto.graph.node for t in n.output}
    return {
        made[tensor]: np.array(answer["biases"][operation["name"]])
        for operation in answer["operations"]
        if operation["name"] in answer["biases"]
        for tensor in operation["outputs"][0]
        if tensor in made
    }


def test_random_networks(judge, tmp_path):
    """Every grid of small random networks, without exceptions."""
    samples = {}
    for seed in SEEDS:
        proto, samples[seed] = random_model(seed)
        onnx.save(proto, tmp_path / f"{seed}.onnx")
        np.savez(tmp_path / f"{seed}.npz", **stacked(samples[seed]))
    settings = {"bias_correction": False, "analysed": 1}
    answers = judge("nncf", "nncf_ptq", tmp_path, "-", json.dumps(settings))
    compared = 0
    for seed in SEEDS:
        answer = answers[str(seed)]
        if not any(grid for o in answer["operations"] for grid in o["inputs"]):
            continue  # nothing that NNCF quantizes
        graph, plan = ours(tmp_path / f"{seed}.onnx", samples[seed], bias_correction=False)
        theirs = edges_of_openvino(graph, answer["operations"])
        found = compare(edges_of_plan(graph, plan), theirs.edges)
        assert not theirs.lost, seed
        assert not found.differing, (seed, found.differing)
        assert max(found.scales.values()) < 1e-4, (seed, found.scales)
        compared += found.alike
    assert compared > 60
