# SPDX-License-Identifier: Apache-2.0
"""Orders for exporters: a setting is placed, calibrated and measured, without a search."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.assemble import provenance
from analyzer.config import resolve
from analyzer.export.order import Order
from analyzer.fixes.edits import apply_edits
from analyzer.pipeline.stages import Job, Run
from analyzer.pipeline.variants import Variants
from analyzer.propose.costs import cost_of
from analyzer.records import Analysis, Change, LayerError, OutputError, Proposal, Setting, sqnr_db
from analyzer.verify import verify


def order_of(
    path: Path | str, data: Path | str, target: str, setting: Setting | None = None, **config: Any
) -> Order:
    """Return the order for one setting of one target.

    Args:
        path: of the model.
        data: as for `--calib`; all of it is calibrated on and run.
        target: its name.
        setting: what is asked of the target; None: nothing.
        config: further fields of the configuration, as text.
    """
    setting = setting or Setting()
    given = {"calib": str(data), "target": target, "propose": False, **config}
    with ExitStack() as stack:
        run = Run(Path(path), resolve(given), None, "", stack)
        (job,) = run.calibrate(run.place(run.targets([target])))
        variants = Variants(run, job)
        graph, plan = variants.exact(setting)
        samples = [run.samples(1)[i] for i in range(len(run.samples(1)))]
        before, after = verify(
            job.graph, [(job.graph, job.plan), (graph, plan)], samples, workers=run.workers
        )
        analysis = _analysis(run, job, before.nsr)
    assert job.target is not None
    costs = cost_of((job.graph, job.plan), (graph, plan), job.target)
    left = float(np.mean([after.nsr[t] / before.nsr[t] for t in before.nsr if before.nsr[t]]))
    proposal = Proposal(
        name="plan 1",
        recommended=True,
        changes=_changes(job, setting),
        cost=costs.macs,
        outputs_before=before.nsr,
        outputs_after=after.nsr,
        costs=costs,
        left=left,
        samples=len(samples),
        front=True,
        setting=setting,
    )
    own = [e for e in setting.edits if e.kind not in job.target.native_edits]
    source = apply_edits(variants.source, own)
    return Order(analysis, proposal, Path(path), source, graph, plan, job.target)


def _analysis(run: Run, job: Job, nsr: dict[str, float]) -> Analysis:
    infos = [run.samples(0).info("calibration"), run.samples(1).info("analysis")]
    layers = tuple(
        LayerError(
            name,
            job.graph.op_types.get(name, ""),
            job.graph.source_nodes.get(name, ()),
            computing=name in job.plan.computing,
            macs=job.graph.macs.get(name),
            precision=job.plan.precision.get(name, "fp32"),
        )
        for name in job.plan.layers
    )
    outputs = tuple(OutputError(t, x, sqnr_db(x), 1.0, 0.0) for t, x in nsr.items())
    return Analysis(provenance(job.graph, run.config, infos, ""), outputs, layers, job.plan)


def _changes(job: Job, setting: Setting) -> tuple[Change, ...]:
    changes = [
        Change("precision", name, job.plan.default_precision, precision, layers=(name,))
        for name, precision in setting.table.items()
    ]
    if setting.observer:
        changes.append(Change("calibration", "", "default", setting.observer))
    changes += (
        Change("range", tensor, "observed", f"{lo:g} .. {hi:g}", layers=(tensor,))
        for tensor, (lo, hi) in setting.ranges.items()
    )
    changes += (
        Change(edit.kind, edit.layers[0], "none", edit.method or edit.kind, layers=edit.layers)
        for edit in setting.edits
    )
    return tuple(changes)
