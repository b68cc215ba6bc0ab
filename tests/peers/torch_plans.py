# SPDX-License-Identifier: Apache-2.0
"""qanalyze's PyTorch plans beside what `torch.ao.quantization` makes of the same network."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import onnx
from edges import Grid, compare, edges_of_plan

from analyzer.calibrate import calibrate
from analyzer.load import bind_shapes, load_model
from analyzer.place import place
from analyzer.records import Model, QuantPlan, Setting
from analyzer.simulate import simulate
from analyzer.targets.pytorch import QNNPACK, X86

TARGETS = {"x86": X86, "qnnpack": QNNPACK}


@dataclass(frozen=True)
class Planned:
    """A graph as the target quantizes it, and its calibrated plan."""

    graph: Model
    plan: QuantPlan


def planned(path, samples, backend, observer="histogram", *, floats=()):
    """Return what qanalyze expects torch to do with the model at `path`."""
    target = TARGETS[backend]
    setting = Setting(observer=observer, table=dict.fromkeys(floats, "fp32"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_model(path, fold_norms=target.folds_norms)
        shapes = {n: a.shape for n, a in samples[0].items()}
        model = bind_shapes(model, shapes, sample=samples[0], fold_norms=target.folds_norms)
        graph, plan = place(model, target, setting)
        return Planned(graph, calibrate(graph, plan, target, samples, workers=2))


def write_question(folder, mine, samples):
    """Write the graph and the samples for the judge `torch_fx`; return its first arguments."""
    onnx.save(mine.graph.proto, folder / "model.onnx")
    stacked = {name: np.stack([s[name] for s in samples]) for name in samples[0]}
    np.savez(folder / "samples.npz", **stacked)
    return [folder / "model.onnx", folder / "samples.npz"]


def agreement(mine, edges):
    """Compare a plan with a judge's edges."""
    theirs = {(node, where): Grid.of(*grid) for node, where, *grid in edges}
    return compare(edges_of_plan(mine.graph, mine.plan), theirs)


def decibels_apart(mine, samples, outputs):
    """Return graph output -> dB that our simulated noise is above theirs.

    Args:
        mine: the plan.
        samples: inputs to run on.
        outputs: graph output -> (float, quantized) arrays of the judge, one row per sample.
    """
    errors = simulate(mine.graph, mine.plan, samples, workers=2).graphwise
    return {name: 10 * np.log10(errors[name].nsr / nsr(*pair)) for name, pair in outputs.items()}


def outputs_of(mine, path):
    """Return what `decibels_apart` takes from the file that the judge `torch_fx` wrote."""
    found = np.load(path)
    names = [o.name for o in mine.graph.proto.graph.output]
    return {n: (found[f"float_{k}"], found[f"quantized_{k}"]) for k, n in enumerate(names)}


def nsr(plain, quantized):
    """Return the mean over samples of noise power by signal power."""
    plain, quantized = (a.reshape(len(a), -1).astype(np.float64) for a in (plain, quantized))
    return float(np.mean(((quantized - plain) ** 2).sum(1) / (plain**2).sum(1)))
