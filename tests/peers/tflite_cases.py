# SPDX-License-Identifier: Apache-2.0
"""What ai-edge-quantizer and the TFLite targets are compared on, and the comparison itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from edges import Grid, compare, edges_of_plan
from onnx import helper, numpy_helper

from analyzer.calibrate import calibrate
from analyzer.graph.build import GraphBuilder, emit, slots_by_node
from analyzer.graph.session import open_session
from analyzer.graph.view import GraphView
from analyzer.place import place
from analyzer.records import Setting
from analyzer.targets.tflite import LITERT


@dataclass
class Case:
    """One model with samples, and what both sides are asked for."""

    name: str
    model: object
    samples: list
    setting: Setting = field(default_factory=Setting)
    floats: tuple = ()  # outputs of the operators that the setting's table leaves in float
    evaluate: int = 1


@dataclass
class Result:
    """How far both sides agree on one case.

    Attributes:
        agreement: of the edges.
        ours_db, theirs_db: SQNR of the quantized outputs, each against its own float model.
        float_gap: largest relative difference of the two float models' outputs.
    """

    agreement: object
    ours_db: float
    theirs_db: float
    float_gap: float


def ask(judge, folder, cases):
    """Let the judge quantize all cases; return name -> `Result`, without what it cannot write."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        write(Path(folder), case)
    told = [
        {
            "name": c.name,
            "recipe": c.setting.precision or "int8",
            "average": c.setting.observer in (None, "moving_average"),
            "floats": list(c.floats),
            "evaluate": c.evaluate,
        }
        for c in cases
    ]
    (folder / "cases.json").write_text(json.dumps(told), encoding="utf-8")
    answers = judge("ai-edge-quantizer", "litert_plans", folder)
    return {c.name: result(c, answers[c.name]) for c in cases if "edges" in answers[c.name]}


def write(folder, case):
    """Write the graph as JSON and arrays: onnx is not installed where the judge runs."""
    graph = case.model.proto.graph
    nodes = [
        {
            "name": n.name,
            "op": n.op_type,
            "inputs": list(n.input),
            "outputs": list(n.output),
            "attributes": {a.name: plain(helper.get_attribute_value(a)) for a in n.attribute},
        }
        for n in graph.node
    ]
    told = {
        "nodes": nodes,
        "shapes": {name: list(shape) for name, shape in case.model.shapes.items()},
        "inputs": [spec.name for spec in case.model.inputs],
        "outputs": [spec.name for spec in case.model.outputs],
    }
    (folder / f"{case.name}.json").write_text(json.dumps(told), encoding="utf-8")
    arrays = {f"c:{t.name}": numpy_helper.to_array(t) for t in graph.initializer}
    for number, sample in enumerate(case.samples):
        arrays.update({f"s:{number}:{name}": array for name, array in sample.items()})
    np.savez(folder / f"{case.name}.npz", **arrays)


def plain(value):
    return value.decode() if isinstance(value, bytes) else value


def result(case, answer):
    """Compare our plan and its simulation with the judge's answer."""
    graph, plan = place(case.model, LITERT, case.setting)
    plan = calibrate(graph, plan, LITERT, case.samples)
    theirs = {
        (node, index): Grid.of(bits, True, scales, zeros)
        for node, index, bits, scales, zeros in answer["edges"]
    }
    signal = ours_noise = theirs_noise = gap = 0.0
    for number, outputs in enumerate(answer["outputs"]):
        floats = simulated(graph, (), case.samples[number])
        rounded = simulated(graph, plan.quantizers, case.samples[number])
        for name, told in outputs.items():
            x, y = floats[name].ravel(), rounded[name].ravel()
            x_theirs = np.array(told["float"])
            y_theirs = np.array(told["quantized"], float)  # NaN where it could not be run
            gap = max(gap, float(np.abs(x - x_theirs).max() / max(np.abs(x).max(), 1e-9)))
            signal += float(np.sum(x.astype(float) ** 2))
            ours_noise += float(np.sum((y.astype(float) - x) ** 2))
            theirs_noise += float(np.sum((y_theirs - x_theirs) ** 2))
    agreement = compare(edges_of_plan(graph, plan), theirs)
    return Result(agreement, decibel(signal, ours_noise), decibel(signal, theirs_noise), gap)


def decibel(signal, noise):
    return 10 * np.log10(signal / noise) if noise else np.inf


def simulated(model, quantizers, feeds):
    """Run the graph with `quantizers`; return output -> array."""
    view = GraphView(model.proto.graph)
    builder = GraphBuilder(model, view)
    made = emit(
        builder, model.proto.graph.node, prefix="", outside=lambda t: builder.input(t, t),
        slots=slots_by_node(quantizers),
    )  # fmt: skip
    for tensor in view.outputs:
        builder.output(made[tensor], tensor)
    session = open_session(builder.serialize(), optimize=False)
    arrays = session.run([made[t] for t in view.outputs], dict(feeds))
    return dict(zip(view.outputs, arrays, strict=True))
