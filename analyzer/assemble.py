# SPDX-License-Identifier: Apache-2.0
"""From what the stages measured to the one `Analysis`: rows, outputs, provenance."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version

from analyzer.balance import counted
from analyzer.config import Config
from analyzer.dissect import Dissection
from analyzer.probe import Isolated
from analyzer.records import (
    Balance,
    DataInfo,
    Finding,
    LayerError,
    Model,
    OutputError,
    Provenance,
    QuantPlan,
    Source,
)
from analyzer.simulate import Simulation

NOT_PROBED = "isolated error not measured: its noise is expected to be below 1 % of the whole"


def sources(
    model: Model,
    found: Sequence[Source],
    units: Mapping[str, str],
    isolated: Mapping[str, Isolated],
    simulation: Simulation,
    visits: Sequence[int],
) -> tuple[Source, ...]:
    """Return the sources of noise with what the probes measured of them.

    Sources saw different numbers of samples.  What they do to an output is compared with the
    accumulated error there, which was measured on all: their means are scaled by how much louder
    or quieter all quantizers together are on the samples they saw (a ratio estimator: what is hard
    for one is mostly hard for all).

    Args:
        model: its float outputs are those of the result.
        found: not measured yet.
        units: name of a source -> name of the unit that was probed for it.
        isolated: unit -> its error.
        simulation: of the same samples.
        visits: samples in the order in which units saw them.
    """
    rows = []
    for source in found:
        alone = isolated[units[source.name]]
        if not alone.samples:
            rows.append(replace(source, status=NOT_PROBED))
            continue
        scaled = {
            t: nsr * _louder(simulation.output_by_sample[t], visits[: alone.samples])
            for t, nsr in alone.by_output.items()
        }
        rows.append(
            replace(
                source,
                nsr=alone.nsr,
                ci=alone.interval,
                samples=alone.samples,
                by_output=scaled,
            )
        )
    return tuple(rows)


def _louder(by_sample: Sequence[float], seen: Sequence[int]) -> float:
    """Return the mean over all samples over that of the samples seen."""
    part = sum(by_sample[i] for i in seen) / len(seen)
    every = sum(by_sample) / len(by_sample)
    return every / part if part > 0 and math.isfinite(every) else 1.0


def outputs(model: Model, simulation: Simulation, balance: Balance) -> tuple[OutputError, ...]:
    """Return the accumulated error of every float output beside the sum of isolated ones."""
    errors = []
    for output in model.outputs:
        found = simulation.graphwise.get(output.name)
        if found is None:
            continue  # not a float tensor: it carries no noise of its own
        total = sum(s.by_output.get(output.name, 0.0) for s in balance.sources)
        effects = sum(i.effect for i in counted(balance.interactions, output.name))
        errors.append(
            OutputError(
                name=output.name,
                nsr=found.nsr,
                sqnr_db=found.sqnr_db,
                cosine=found.cosine,
                max_abs=found.max_abs,
                isolated_sum=total,
                additivity=total / found.nsr if found.nsr > 0 else None,
                explained=total + effects,
                slice_of=model.slices.get(output.name),
                lost=found.lost,
            )
        )
    return tuple(errors)


def layers(
    model: Model,
    plan: QuantPlan,
    simulation: Simulation,
    isolated: Mapping[str, Isolated],
) -> tuple[LayerError, ...]:
    """Return one row per layer of the plan, in execution order."""
    groups = {q.node: q.group for q in plan.quantizers if q.group and q.active}
    types = {n.name: model.op_types.get(n.name, n.op_type) for n in model.proto.graph.node}
    carrying = {q.node for q in plan.quantizers if q.active}
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
                isolated_nsr=alone.nsr if alone and alone.samples else None,
                isolated_ci=alone.interval if alone else None,
                isolated_samples=alone.samples if alone else 0,
                isolated_by_output=alone.by_output if alone else {},
                group=groups.get(name),
                status=_status(
                    alone,
                    carrying=name in carrying,
                    overflows=any(e and math.isnan(e.nsr) for e in (graphwise, local)),
                ),
            )
        )
    return tuple(rows)


def _known(value: float) -> float | None:
    """None for NaN: the tensor holds infinities, or its power overflows float32."""
    return None if math.isnan(value) else value


def _status(alone: Isolated | None, *, carrying: bool, overflows: bool) -> str:
    if overflows:
        return "graphwise and local error not measured: the tensor's power overflows float32"
    if not carrying:
        return "carries no quantizer of its own: it passes on the scale of its neighbours"
    if alone is None:
        return "isolated error not measured"
    return "ok" if alone.samples else NOT_PROBED


def with_findings(
    rows: Sequence[LayerError], findings: Sequence[Finding]
) -> tuple[LayerError, ...]:
    """Return the rows with the codes of what was found at them."""
    codes: dict[str | None, dict[str, None]] = {}
    for finding in findings:
        codes.setdefault(finding.layer, {})[finding.code] = None
    return tuple(replace(row, findings=tuple(codes.get(row.name, ()))) for row in rows)


def dissected(
    rows: Sequence[LayerError], balance: Balance, found: Dissection
) -> tuple[tuple[LayerError, ...], Balance]:
    """Return rows and balance with the parts of the worst of them."""
    whole = tuple(
        replace(
            row, parts=found.parts.get(row.name, {}), channels=found.channels.get(row.name, ())
        )
        for row in rows
    )
    priced = tuple(replace(s, alignment_price=found.prices.get(s.name)) for s in balance.sources)
    return whole, replace(balance, sources=priced)


def provenance(
    model: Model, config: Config, infos: Sequence[DataInfo], command: str
) -> Provenance:
    """Return what the numbers stand on."""
    from analyzer import __version__

    plain = replace(config, dispatch=dict(config.dispatch), slices=dict(config.slices))
    settings = asdict(replace(plain, shapes=dict(config.shapes)))
    # lists, so that a document that was written and read again equals this one
    settings["shapes"] = {name: list(dims) for name, dims in config.shapes.items()}
    settings["budget"], settings["export"] = list(config.budget), list(config.export)
    settings["goal"] = None if config.goal is None else list(config.goal)
    return Provenance(
        tool_version=__version__,
        command=command,
        model={
            "name": model.path.name,
            "sha256": model.sha256,
            "nodes": sum(n.output[0] not in model.slices for n in model.proto.graph.node),
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
