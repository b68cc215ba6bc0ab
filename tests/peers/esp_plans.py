# SPDX-License-Identifier: Apache-2.0
"""qanalyze's ESP-DL plans beside those of esp-ppq: which slots differ, and in what."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analyzer.calibrate import calibrate
from analyzer.load import bind_shapes, load_model
from analyzer.place import place
from analyzer.probe import probe, units_of
from analyzer.records import Model, QuantPlan, Setting
from analyzer.simulate import simulate
from analyzer.targets import get_target

ON = frozenset({"ACTIVATED", "PASSIVE"})
ROUNDINGS = {"ROUND_HALF_EVEN": "half_even", "ROUND_HALF_UP": "half_up"}


@dataclass(frozen=True)
class Planned:
    """A graph as the target quantizes it, and its calibrated plan."""

    graph: Model
    plan: QuantPlan


def planned(path, samples, *, target="esp32p4", precision=None, algorithm=None, table=None):
    """Return what qanalyze expects esp-ppq to do with the model at `path`."""
    found = get_target(target)
    setting = Setting(observer=algorithm, precision=precision, table=table or {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_model(Path(path), rewrite=found.rewrite)
        model = bind_shapes(model, {n: a.shape for n, a in samples[0].items()}, sample=samples[0])
        graph, plan = place(model, found, setting)
        plan = calibrate(graph, plan, found, samples, workers=2)
        return Planned(*found.complete(graph, plan, samples))


def job(path, inputs, **wanted):
    """Return a job for the judge `esp_ppq_plans` (see there)."""
    return {"model": str(path), "inputs": str(inputs), **wanted}


def save_samples(path, samples):
    """Write samples as the judge reads them: per input, one array of all."""
    np.savez(path, **{name: np.stack([s[name] for s in samples]) for name in samples[0]})
    return path


def differences(configs, mine):
    """Return slot -> (theirs, ours) where they differ, and how many slots there are.

    A slot is off (float, or left to another config of the tensor), or it is on with bits, rounding
    and scales.
    """
    ours = {q.key: q for q in mine.plan.quantizers if q.active}
    inputs = {n.name: list(n.input) for n in mine.graph.proto.graph.node}
    found = {}
    total = 0
    for config in configs:
        key = (config["node"], config["slot"])
        if config["type"] == "Clip" and _is_filled_in(key, inputs):
            continue
        total += 1
        theirs = _grid(config) if config["state"] in ON else None
        q = ours.pop(key, None)
        here = None if q is None else (q.bits, q.rounding, q.scale.ravel().tolist())
        if theirs != here:
            found[key] = (theirs, here)
    for key, q in ours.items():
        total += 1
        found[key] = (None, (q.bits, q.rounding, q.scale.ravel().tolist()))
    return found, total


def _grid(config):
    return config["bits"], ROUNDINGS[config["rounding"]], config["scale"]


def _is_filled_in(key, inputs):
    """Tell whether the slot is a bound of a Clip that esp-ppq adds, -+2^31, and nobody reaches."""
    node, slot = key
    if node not in inputs or not slot.startswith("in"):
        return False
    index = int(slot[2:])
    return index >= len(inputs[node]) or not inputs[node][index]


def isolated(mine, samples):
    """Return computing layer -> NSR at the graph outputs with that layer alone quantized."""
    rows = [name for name in mine.plan.layers if name in mine.plan.computing]
    found = probe(mine.graph, units_of(mine.plan, rows), samples, every_sample=True, workers=2)
    return {name: row.nsr for name, row in found.items()}


def accumulated(mine, samples):
    """Return computing layer and `output:` tensor -> NSR with everything quantized."""
    found = simulate(mine.graph, mine.plan, samples, workers=2)
    rows = {n: found.layer_tensor[n] for n in mine.plan.layers if n in mine.plan.computing}
    rows.update({f"output:{o.name}": o.name for o in mine.graph.outputs})
    return {row: found.graphwise[t].nsr for row, t in rows.items() if t in found.graphwise}


def relative(ours, theirs, floor=1e-7):
    """Return row -> |ours - theirs| / theirs, or / `floor` where theirs is below it.

    Kernels add up in another order: ratios near 1e-9 (16 bits) are made of float32 rounding, and
    esp-ppq adds 1e-7 to the signal.
    """
    return {row: abs(ours[row] - v) / max(v, floor) for row, v in theirs.items() if row in ours}
