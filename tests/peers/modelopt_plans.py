# SPDX-License-Identifier: Apache-2.0
"""qanalyze's TensorRT plans beside what NVIDIA ModelOpt writes."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace

import numpy as np
import onnx
from edges import compare, edges_of_plan, edges_of_qdq

from analyzer.calibrate import calibrate
from analyzer.load import bind_shapes, load_model
from analyzer.place import place
from analyzer.records import Model, QuantPlan, Setting
from analyzer.simulate import simulate
from analyzer.targets.tensorrt import TENSORRT

OBSERVERS = {"max": "minmax", "entropy": "entropy"}


@dataclass(frozen=True)
class Planned:
    """A graph as the target quantizes it, and its calibrated plan."""

    graph: Model
    plan: QuantPlan


def planned(path, samples, *, method, precision="fp16", excluded=()):
    """Return what qanalyze expects ModelOpt to do with the model at `path`."""
    target = replace(TENSORRT, fp16_scales=precision == "fp16")
    setting = Setting(observer=OBSERVERS[method], table=dict.fromkeys(excluded, "fp32"))
    norms = target.folds_norms
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_model(path, rewrite=target.rewrite, fold_norms=norms)
        shapes = {n: a.shape for n, a in samples[0].items()}
        model = bind_shapes(model, shapes, sample=samples[0], fold_norms=norms)
        graph, plan = place(model, target, setting)
        plan = calibrate(graph, plan, target, samples, workers=2)
        return Planned(*target.complete(graph, plan, samples))


def write_question(folder, samples, *, method, analysed, precision="fp16", excluded=()):
    """Write what the judge reads; return its arguments after the model."""
    stacked = {name: np.stack([s[name] for s in samples]) for name in samples[0]}
    np.savez(folder / "inputs.npz", **stacked)
    settings = {
        "method": method, "precision": precision, "analysed": analysed, "exclude": list(excluded),
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    return [folder / "inputs.npz", folder / "settings.json", folder / "produced.onnx"]


def agreement(mine, produced):
    """Compare a plan with the model that ModelOpt wrote, edge by edge (see `edges.py`)."""
    proto = onnx.load(produced)
    _name_alike(mine.graph, proto)
    return compare(edges_of_plan(mine.graph, mine.plan), edges_of_qdq(proto))


def decibels_apart(mine, samples, nsr):
    """Return output -> dB that our simulated noise is above theirs, where they have some."""
    errors = simulate(mine.graph, mine.plan, samples, workers=2).graphwise
    return {out: 10 * np.log10(errors[out].nsr / theirs) for out, theirs in nsr.items() if theirs}


def _name_alike(graph, proto):
    """Name nodes by what they make: ModelOpt invents other names for those without."""
    makers = {t: node.name for node in graph.proto.graph.node for t in node.output}
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Cast"):
            continue
        for tensor in node.output:
            # what makes a graph output was renamed for the pair or the cast behind it
            plain = tensor.removesuffix("_cast_to_fp32_input")
            for known in (tensor, plain, plain.removesuffix("_QuantizeLinear_Input")):
                if known in makers:
                    node.name = makers[known]
