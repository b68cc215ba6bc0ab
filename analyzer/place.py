# SPDX-License-Identifier: Apache-2.0
"""The place stage: in a bound model, out the target's own graph and a plan without scales."""

from __future__ import annotations

from dataclasses import replace

from analyzer.errors import TargetError
from analyzer.records import Model, Observer, Quantizer, QuantPlan
from analyzer.targets.base import Target


def place(
    model: Model, target: Target, *, observer: Observer | None = None
) -> tuple[Model, QuantPlan]:
    """Place the quantizers of `target`.

    Returns:
        the graph that the target really quantizes, and its plan without scales.

    Raises:
        TargetError: if the target quantizes no layer of the model.
    """
    prepared = target.prepare(model)
    plan = target.place(prepared, observer=observer)
    if not plan.layers:
        kinds = sorted({node.op_type for node in prepared.proto.graph.node})
        raise TargetError(
            f"Target {target.name!r} quantizes no layer of this model, whose op types are "
            f"{', '.join(kinds[:12])}.",
            "Choose another target, see --list-targets.",
        )
    return prepared, replace(plan, quantizers=_sorted(prepared, plan))


def _sorted(model: Model, plan: QuantPlan) -> tuple[Quantizer, ...]:
    order = {node.name: i for i, node in enumerate(model.proto.graph.node)}
    return tuple(sorted(plan.quantizers, key=lambda q: (order[q.node], q.slot)))
