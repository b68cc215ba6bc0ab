# SPDX-License-Identifier: Apache-2.0
"""The quantized stage: a model that somebody's quantizer wrote goes in, its plan comes out.

It takes the place of placing and calibrating: all scales are those of the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx

from analyzer.errors import ModelError
from analyzer.graph.names import all_names, rename_reads, unique
from analyzer.graph.read import read_model
from analyzer.graph.view import GraphView
from analyzer.load import bind_shapes, canonicalize
from analyzer.quantized.form import FloatForm
from analyzer.quantized.match import Match, identity, match_graphs, pairs
from analyzer.quantized.plan import Drift, Placement, make_plan
from analyzer.quantized.read import read_float_form
from analyzer.quantized.tell import (
    MOVED,
    float_form_notes,
    matched_note,
    not_matched,
    not_placed,
    plan_notes,
    retrained_finding,
    retrained_note,
)
from analyzer.records import Finding, Model, QuantPlan
from analyzer.targets.base import COMPUTING

__all__ = ["QuantizedModel", "load_float_form", "read_quantized"]

# More than this share of the MACs in such layers: the network was trained further.
_RETRAINED = 0.1

Arrays = Mapping[str, npt.NDArray[Any]]  # Any: float32, int64 ...


@dataclass(frozen=True, slots=True)
class QuantizedModel:
    """A quantized file, told as a plan.

    Attributes:
        graph: what is to be analysed: the FP32 model, or the file's own float form.
        plan: calibrated; belongs to `graph`.
        retrained: whether `graph` is the own float form because the weights differ from the
            FP32 ones by more than rounding.
        matched: share of the FP32 model's MACs in layers that the file has too, 0 to 1.
        unmatched: names of its computing layers that it has not.
        notes: one sentence each.
        findings: what the user should know.
        grids: how many quantizations the file tells, and of what.
    """

    graph: Model
    plan: QuantPlan
    retrained: bool
    matched: float
    unmatched: tuple[str, ...]
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    grids: Mapping[str, int] = field(default_factory=dict)


def load_float_form(path: Path) -> Model:
    """Load the own float form of a quantized file: all quantizers off, weights dequantized.

    For a file that is to be analysed without an FP32 model beside it; shapes still unbound.

    Raises:
        ModelError: as `read_quantized`.
    """
    return _canonical(read_float_form(path))


def read_quantized(model: Model, path: Path, *, sample: Arrays | None = None) -> QuantizedModel:
    """Read the quantized form of `model` into a plan.

    Args:
        model: FP32, bound; or the own float form of the same file, bound.
        path: of the quantized file.
        sample: one run of the model, used where shapes depend on the data.

    Raises:
        ModelError: if the file cannot be read, is not quantized, finds its scales while it runs,
            or shares no layer with `model`.
    """
    form = read_float_form(path)
    _name_inputs(form, model)
    own = _bound_like(model, _canonical(form), sample)
    if model.sha256 == form.sha256:
        return _own_form(own, form, model, Match(), retrained=False)
    model, match = _best_match(model, own, sample)
    matched, unmatched = _coverage(model, match)
    if not match.ours & set(model.macs):
        raise ModelError(
            f"'{path}' shares no computing layer with '{model.path}', expected a quantized form "
            "of it.",
            f"Give the FP32 model it was made from, or '{path}' as both.",
        )
    placement = make_plan(model, own, form, match)
    if _moved_share(model, placement) > _RETRAINED:
        return _own_form(own, form, model, match, retrained=True, drifts=placement.drifts)
    return QuantizedModel(
        graph=model,
        plan=placement.plan,
        retrained=False,
        matched=matched,
        unmatched=unmatched,
        notes=(matched_note(path, matched, unmatched), *plan_notes(placement)),
        findings=(*not_matched(model, unmatched, matched), *not_placed(placement)),
        grids=dict(form.grids),
    )


def _canonical(form: FloatForm) -> Model:
    proto = onnx.ModelProto()
    proto.CopyFrom(form.proto)
    return canonicalize(proto, form.path, form.sha256, as_in_file=False, fold_norms=False)


def _name_inputs(form: FloatForm, model: Model) -> None:
    """Give the inputs of the float form the names they have in `model`: data comes under those."""
    graph = form.proto.graph
    constants = {tensor.name for tensor in graph.initializer}
    theirs = [value.name for value in graph.input if value.name not in constants]
    names = [spec.name for spec in model.inputs]
    renamed = dict(pairs(names, theirs))
    if len(renamed) != len(theirs) or len(renamed) != len(names):
        raise ModelError(
            f"'{form.path}' has the inputs {', '.join(theirs)}, expected those of the FP32 model "
            f"({', '.join(names)}).",
            "Give the FP32 model it was made from.",
        )
    renamed = {old: new for old, new in renamed.items() if old != new}
    taken = all_names(graph) | set(renamed.values())
    # another tensor of that name makes way
    moved = {new: unique(new, taken) for new in renamed.values() if new in all_names(graph)}
    moved.update(renamed)
    _rename(graph, moved)
    form.outputs = {moved.get(name, name): grids for name, grids in form.outputs.items()}


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        rename_reads(node, lambda name: names.get(name, name))
        node.output[:] = [names.get(name, name) for name in node.output]
    for values in (graph.input, graph.output, graph.initializer):
        for value in values:
            value.name = names.get(value.name, value.name)


def _bound_like(model: Model, own: Model, sample: Arrays | None) -> Model:
    """Fix the inputs of the own float form to the shapes that `model` has."""
    shapes = {spec.name: tuple(d or 1 for d in spec.shape) for spec in model.inputs}
    return bind_shapes(own, shapes, sample=sample, fold_norms=False)


def _best_match(model: Model, own: Model, sample: Arrays | None) -> tuple[Model, Match]:
    """Match with `model`; with its BatchNormalizations unfolded where the file kept its own."""
    match = match_graphs(model, own)
    if not any(node.op_type == "BatchNormalization" for node in own.proto.graph.node):
        return model, match
    plain = canonicalize(read_model(model.path).proto, model.path, model.sha256, fold_norms=False)
    dims = {spec.name: tuple(d or 1 for d in spec.shape) for spec in model.inputs}
    plain = bind_shapes(plain, dims, sample=sample, fold_norms=False)
    other = match_graphs(plain, own)
    better = len(other.nodes) > len(match.nodes)
    return (plain, other) if better else (model, match)


def _own_form(
    own: Model,
    form: FloatForm,
    model: Model,
    match: Match,
    *,
    retrained: bool,
    drifts: Sequence[Drift] = (),
) -> QuantizedModel:
    """Analyse the own float form; its layers still know the user's nodes."""
    sources = {
        name: model.source_nodes.get(match.nodes.get(name, ""), source)
        for name, source in own.source_nodes.items()
    }
    own = replace(own, source_nodes=sources)
    placement = make_plan(own, own, form, identity(GraphView(own.proto.graph)))
    matched, unmatched = _coverage(model, match) if retrained else (1.0, ())
    notes = float_form_notes(form)
    findings = not_placed(placement)
    if retrained:
        moved = [d for d in drifts if d.share > MOVED]
        notes.append(retrained_note(model, form, moved, len(drifts)))
        findings = [retrained_finding(moved, len(drifts)), *findings]
        findings += not_matched(model, unmatched, matched)
    return QuantizedModel(
        graph=own,
        plan=placement.plan,
        retrained=retrained,
        matched=matched,
        unmatched=unmatched,
        notes=tuple(notes),
        findings=tuple(findings),
        grids=dict(form.grids),
    )


def _coverage(model: Model, match: Match) -> tuple[float, tuple[str, ...]]:
    """Return the share of MACs in matched layers, and the computing layers left over."""
    ours = match.ours
    layers = [n.name for n in model.proto.graph.node if n.op_type in COMPUTING]
    total = sum(model.macs.values())
    known = sum(macs for name, macs in model.macs.items() if name in ours)
    return (known / total if total else 1.0), tuple(n for n in layers if n not in ours)


def _moved_share(model: Model, placement: Placement) -> float:
    """Return the share of MACs in layers whose weights are not the FP32 ones, rounded."""
    total = sum(model.macs.get(d.layer, 0) for d in placement.drifts)
    moved = sum(model.macs.get(d.layer, 0) for d in placement.drifts if d.share > MOVED)
    return moved / total if total else 0.0
