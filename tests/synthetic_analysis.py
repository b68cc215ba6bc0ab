# SPDX-License-Identifier: Apache-2.0
"""Analyses of any size, made by hand: what the reports have to show of a large network.

Every number follows from the number of the layer, so that two runs give the same analysis.
"""

from __future__ import annotations

import numpy as np

from analyzer.records import (
    Analysis,
    Balance,
    Change,
    Cost,
    DataInfo,
    Finding,
    LayerError,
    Network,
    OutputError,
    Proposal,
    Provenance,
    Quantizer,
    QuantPlan,
    Source,
    Step,
    sqnr_db,
)

_OPS = ("Conv", "Relu", "Conv", "Add")
_CHANNELS = 32


def synthetic(layers: int) -> Analysis:
    """Return an analysis of a chain of residual blocks with that many layers.

    Each layer has three quantizers, each block of four a source of its own; one layer in fifty has
    a finding, and the worst twelve know what their noise is made of.
    """
    rows = tuple(_layer(n) for n in range(layers))
    total = 0.2
    names = tuple(row.name for row in rows)
    return Analysis(
        provenance=Provenance(
            "0.1.0", "qanalyze large.onnx --calib data",
            {"name": "large.onnx", "sha256": "ab" * 32, "nodes": layers}, "esp32p4",
            (DataInfo("analysis", 32, 32, "data", "cd" * 32, {"x": (1, 3, 224, 224)}),),
            0, {}, {"numpy": "2"},
        ),
        outputs=(OutputError("out", total, sqnr_db(total), 0.9, 1.0, 0.21, 1.05, 0.21),),
        layers=rows,
        plan=QuantPlan(
            "esp32p4", names, frozenset(r.name for r in rows if r.computing),
            {row.name: row.precision for row in rows},
            tuple(q for row in rows for q in _quantizers(row.name)),
        ),
        findings=tuple(
            Finding("QA101", rows[n].name, {"range_ratio": 8.0 + n}, "Equalize.", 0.3 / (1 + n))
            for n in range(0, layers, 50)
        ),
        proposals=(_plan(names, total),),
        timing={"probe": 60.0},
        balance=_balance(rows, total),
        network=_network(layers),
    )  # fmt: skip


def _layer(n: int) -> LayerError:
    nsr = 0.05 / (1 + (n * 7919) % 4999)  # a prime spreads the worst ones over the network
    worst = nsr > 0.05 / 13
    return LayerError(
        f"/model.{n // 8}/blocks.{n % 8}/conv{n}/{_OPS[n % 4]}", _OPS[n % 4], (f"node_{n}",),
        computing=n % 2 == 0, macs=1000 * n, graphwise_nsr=min(0.2, 2e-5 * (n + 1)),
        graphwise_cosine=0.999, graphwise_sqnr_db=20.0, graphwise_max_abs=0.5, local_nsr=nsr / 2,
        isolated_nsr=nsr, isolated_ci=(nsr / 2, 2 * nsr), isolated_samples=8,
        isolated_by_output={"out": nsr},
        parts={"weight": 0.3, "output": 0.7, "rounding": 0.9, "clipping": 0.1} if worst else {},
        findings=("QA101",) if n % 50 == 0 else (),
    )  # fmt: skip


def _quantizers(name: str) -> tuple[Quantizer, ...]:
    scale, zero = np.full(1, 0.125), np.zeros(1, np.int64)
    scales, zeros = np.full(_CHANNELS, 0.03125), np.zeros(_CHANNELS, np.int64)
    return (
        Quantizer(name, "in0", f"{name}_in", "activation", 8, scale=scale, zero_point=zero),
        Quantizer(name, "in1", f"{name}_w", "weight", 8, axis=0, scale=scales, zero_point=zeros),
        Quantizer(name, "out0", f"{name}_out", "activation", 8, scale=scale, zero_point=zero),
    )


def _plan(names: tuple[str, ...], total: float) -> Proposal:
    wide = names[:: max(1, len(names) // 20)]
    return Proposal(
        "plan 1", True, (Change("precision", wide[0], "int8", "int16", 0.02, layers=wide),), 0.02,
        {"out": total}, {"out": total / 10}, costs=Cost(0.02, 0.02, time=1.02), left=0.1,
        samples=32, front=True, why="The least noise within the budget.",
    )  # fmt: skip


def _balance(rows: tuple[LayerError, ...], total: float) -> Balance:
    sources = tuple(
        Source(row.name, "layer", (row.name,), ((row.name, "out0"),), row.isolated_nsr,
               by_output={"out": row.isolated_nsr or 0.0}, samples=8)
        for row in rows
    )  # fmt: skip
    ends = [max(1, len(rows) * part // 16) for part in range(1, 17)]
    steps = tuple(Step(rows[end - 1].name, end, {"out": total * end / len(rows)}) for end in ends)
    return Balance(sources, steps=steps)


def _network(layers: int) -> Network:
    chain = [(n, n + 1) for n in range(layers - 1)]
    skips = [(n, n + 3) for n in range(0, layers - 3, 4)]
    return Network((*chain, *skips), {"x": (0,)}, {"out": (layers - 1,)})
