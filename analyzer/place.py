# SPDX-License-Identifier: Apache-2.0
"""The place stage: in a bound model, out the target's own graph and a plan without scales."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from analyzer.errors import TargetError, nearest
from analyzer.fixes.edits import apply_edits
from analyzer.graph.build import in_execution_order
from analyzer.graph.view import view_of
from analyzer.records import Edit, Model, Quantizer, QuantPlan, Setting
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
    prepared = prepare(model, target, setting.edits)
    return prepared, place_on(prepared, target, setting)


def place_on(prepared: Model, target: Target, setting: Setting) -> QuantPlan:
    """Place the quantizers of `target` on the graph that `prepare` returned, see `place`."""
    _check_names(prepared, target, setting)
    plan = target.place(prepared, setting)
    if not plan.layers:
        kinds = sorted({node.op_type for node in prepared.proto.graph.node})
        raise TargetError(
            f"Target {target.name!r} quantizes no layer of this model, whose op types are "
            f"{', '.join(kinds[:12])}.",
            "Choose another target, see --list-targets.",
        )
    view = view_of(prepared.proto)
    quantizers = _with_ranges(prepared, target, setting, plan.quantizers)
    return replace(plan, quantizers=in_execution_order(view, quantizers))


def prepare(model: Model, target: Target, edits: Collection[Edit] = ()) -> Model:
    """Return the graph that the target really quantizes, with edits of the user's choice."""
    by_target = [edit for edit in edits if edit.kind in target.native_edits]
    prepared = target.prepare(apply_edits(model, (e for e in edits if e not in by_target)))
    for edit in by_target:
        prepared = target.edit(prepared, edit)
    return prepared


def _with_ranges(
    model: Model, target: Target, setting: Setting, quantizers: Sequence[Quantizer]
) -> tuple[Quantizer, ...]:
    """Give tensors the ranges that the user wants them to have."""
    for name in setting.ranges:
        if name not in model.shapes:
            raise TargetError(
                f"There is no tensor {name!r} in the graph that {target.name!r} quantizes.",
                nearest(name, model.shapes),
            )
    return tuple(
        replace(q, fixed_range=setting.ranges[q.tensor])
        if q.tensor in setting.ranges and q.follows is None and q.role in ("input", "activation")
        else q
        for q in quantizers
    )


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
