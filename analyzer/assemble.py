# SPDX-License-Identifier: Apache-2.0
"""From what the stages measured to the one `Analysis`: rows, outputs, provenance."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version

from analyzer.config import Config
from analyzer.probe import Isolated
from analyzer.records import (
    DataInfo,
    Finding,
    LayerError,
    Model,
    OutputError,
    Provenance,
    QuantPlan,
)
from analyzer.simulate import Simulation


def outputs(
    model: Model, simulation: Simulation, isolated: Mapping[str, Isolated]
) -> tuple[OutputError, ...]:
    """Return the accumulated error of every float output beside the sum of isolated ones."""
    errors = []
    for output in model.outputs:
        found = simulation.graphwise.get(output.name)
        if found is None:
            continue  # not a float tensor: it carries no noise of its own
        total = sum(i.by_output.get(output.name, 0.0) for i in isolated.values())
        errors.append(
            OutputError(
                name=output.name,
                nsr=found.nsr,
                sqnr_db=found.sqnr_db,
                cosine=found.cosine,
                max_abs=found.max_abs,
                isolated_sum=total if isolated else None,
                additivity=total / found.nsr if isolated and found.nsr > 0 else None,
            )
        )
    return tuple(errors)


def layers(
    model: Model,
    plan: QuantPlan,
    simulation: Simulation,
    isolated: Mapping[str, Isolated],
    config: Config,
    findings: Sequence[Finding] = (),
) -> tuple[LayerError, ...]:
    """Return one row per layer of the plan, in execution order."""
    groups = {q.node: q.group for q in plan.quantizers if q.group and q.active}
    types = {n.name: model.op_types.get(n.name, n.op_type) for n in model.proto.graph.node}
    carrying = {q.node for q in plan.quantizers if q.active}
    codes: dict[str | None, dict[str, None]] = {}
    for finding in findings:
        codes.setdefault(finding.layer, {})[finding.code] = None
    rows = []
    for name in plan.layers:
        graphwise = simulation.graphwise.get(simulation.layer_tensor[name])
        local = simulation.local.get(name)
        alone = isolated.get(name)
        rows.append(
            LayerError(
                name=name,
                op_type=types[name],
                source_nodes=tuple(model.source_nodes.get(name, (name,))),
                computing=name in plan.computing,
                macs=model.macs.get(name),
                precision=plan.precision[name],
                graphwise_nsr=_known(graphwise.nsr) if graphwise else None,
                graphwise_cosine=_known(graphwise.cosine) if graphwise else None,
                graphwise_sqnr_db=_known(graphwise.sqnr_db) if graphwise else None,
                graphwise_max_abs=_known(graphwise.max_abs) if graphwise else None,
                local_nsr=_known(local.nsr) if local else None if name in carrying else 0.0,
                isolated_nsr=alone.nsr if alone else None,
                isolated_ci=alone.interval if alone else None,
                isolated_samples=alone.samples if alone else 0,
                isolated_by_output=alone.by_output if alone else {},
                group=groups.get(name),
                findings=tuple(codes.get(name, ())),
                status=_status(
                    name,
                    plan,
                    alone,
                    config,
                    carrying=name in carrying,
                    overflows=any(e and math.isnan(e.nsr) for e in (graphwise, local)),
                ),
            )
        )
    return tuple(rows)


def _known(value: float) -> float | None:
    """None for NaN: the tensor holds infinities, or its power overflows float32."""
    return None if math.isnan(value) else value


def _status(
    name: str,
    plan: QuantPlan,
    alone: Isolated | None,
    config: Config,
    *,
    carrying: bool,
    overflows: bool,
) -> str:
    if overflows:
        return "graphwise and local error not measured: the tensor's power overflows float32"
    if alone is not None:
        return "ok"
    if not carrying:
        return "carries no quantizer of its own: it passes on the scale of its neighbours"
    if config.layers == "computing" and name not in plan.computing:
        return "isolated error not measured: not a computing layer, see --layers all"
    return "isolated error not measured"


def provenance(
    model: Model, config: Config, infos: Sequence[DataInfo], command: str
) -> Provenance:
    """Return what the numbers stand on."""
    from analyzer import __version__

    settings = asdict(replace(config, shapes=dict(config.shapes), dispatch=dict(config.dispatch)))
    settings["shapes"] = {name: list(dims) for name, dims in config.shapes.items()}
    return Provenance(
        tool_version=__version__,
        command=command,
        model={
            "name": model.path.name,
            "sha256": model.sha256,
            "nodes": len(model.proto.graph.node),
            "parameters": model.parameters,
            "macs": sum(model.macs.values()),
            "opset": model.opset,
        },
        target=config.target,
        data=tuple(infos),
        seed=config.seed,
        config=settings,
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "onnx", "onnxruntime")},
        },
    )
