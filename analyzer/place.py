# SPDX-License-Identifier: Apache-2.0
"""The place stage: in a bound model, out the target's own graph and a plan without scales."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from analyzer.errors import TargetError, nearest
from analyzer.graph.build import in_execution_order
from analyzer.graph.view import GraphView
from analyzer.records import Model, QuantPlan, Setting
from analyzer.targets.base import Target

_ANY = Setting()


def place(model: Model, target: Target, setting: Setting = _ANY) -> tuple[Model, QuantPlan]:
    """Place the quantizers of `target`.

    Returns:
        the graph that the target really quantizes, and its plan without scales.

    Raises:
        TargetError: if the target quantizes no layer of the model, or does not offer what
            `setting` asks for.
    """
    check_setting(target, setting)
    prepared = target.prepare(model)
    _check_names(prepared, target, setting)
    plan = target.place(prepared, setting)
    if not plan.layers:
        kinds = sorted({node.op_type for node in prepared.proto.graph.node})
        raise TargetError(
            f"Target {target.name!r} quantizes no layer of this model, whose op types are "
            f"{', '.join(kinds[:12])}.",
            "Choose another target, see --list-targets.",
        )
    view = GraphView(prepared.proto.graph)
    return prepared, replace(plan, quantizers=in_execution_order(view, plan.quantizers))


def check_setting(target: Target, setting: Setting) -> None:
    """Refuse what the target does not offer.

    Raises:
        TargetError: naming the nearest thing it does.
    """
    asked = [
        ("calibration", setting.observer, target.observers),
        ("granularity", setting.granularity, target.granularities),
        ("precision", setting.precision, target.precisions),
        *(("precision", precision, target.precisions) for precision in setting.table.values()),
    ]
    for what, value, offered in asked:
        if value is not None and value not in offered:
            raise TargetError(
                f"Target {target.name!r} has no {what} {value!r}.", nearest(value, offered)
            )


def _check_names(model: Model, target: Target, setting: Setting) -> None:
    """Refuse names that no layer has: most quantizers would ignore them without a word."""
    names: Collection[str] = {node.name for node in model.proto.graph.node}
    for name in setting.table:
        if name not in names:
            raise TargetError(
                f"There is no layer {name!r} in the graph that {target.name!r} quantizes.",
                nearest(name, names),
            )
