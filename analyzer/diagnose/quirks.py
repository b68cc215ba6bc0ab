# SPDX-License-Identifier: Apache-2.0
"""What the target itself had to say: its quirks, tried by undoing exactly what each is about."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from analyzer.diagnose.biases import widened
from analyzer.diagnose.candidate import Candidate, Changes
from analyzer.diagnose.case import Case
from analyzer.graph.view import weight_output_axis
from analyzer.records import Finding, Quantizer
from analyzer.targets.base import F64, Target

QUIET = 0.002  # of the noise of all rows
_Undo = Callable[[Case, Finding], Changes]


def quirks(case: Case) -> Iterator[Candidate]:
    """Yield every quirk, whatever its trial says.

    Some are about the file and cannot be tried; a layer that makes next to no noise needs not.
    """
    known = {row.name: row.isolated_nsr for row in case.rows if row.isolated_nsr is not None}
    least = QUIET * sum(nsr for nsr in known.values() if math.isfinite(nsr))
    loud = {q.node for q in case.plan.quantizers if not known.get(q.node, math.inf) < least}
    for finding in case.quirks:
        undo = _UNDO.get(finding.code)
        changes = undo(case, finding) if undo and finding.layer in loud else {}
        yield Candidate(finding.code, finding.layer, finding.evidence, changes, certain=True)


def _here(case: Case, finding: Finding) -> list[Quantizer]:
    return [q for q in case.plan.quantizers if q.active and q.node == finding.layer]


def _outputs_off(case: Case, finding: Finding) -> Changes:
    """Leave the layer's outputs in float."""
    return {q.key: None for q in _here(case, finding) if q.slot.startswith("out")}


def _slot_off(case: Case, finding: Finding) -> Changes:
    """Leave the slot that the evidence names in float."""
    return {q.key: None for q in _here(case, finding) if q.slot == finding.evidence.get("slot")}


def _layer_off(case: Case, finding: Finding) -> Changes:
    return {q.key: None for q in _here(case, finding)}


def _whole_range(case: Case, finding: Finding) -> Changes:
    """Give the slot, and all that follow it, the scale of everything that was seen."""
    slot = finding.evidence.get("slot")
    root = next(
        (q for q in case.plan.quantizers if q.node == finding.layer and q.slot == slot), None
    )
    if root is None or root.range is None or case.target is None:
        return {}
    lo, hi = (np.array([end]) for end in root.range)
    scale, zero = case.target.scale(root, lo, hi, "minmax")
    return {
        q.key: replace(q, scale=scale, zero_point=zero)
        for q in case.plan.quantizers
        if q.active and root.key in (q.key, q.follows)
    }


def _whole_constant(case: Case, finding: Finding) -> Changes:
    """Give the constant the scale of all its values."""
    return _rescaled_constant(case, finding, per_channel=False)


def _per_channel(case: Case, finding: Finding) -> Changes:
    """Give the weight one scale per output channel."""
    return _rescaled_constant(case, finding, per_channel=True)


def _rescaled_constant(case: Case, finding: Finding, *, per_channel: bool) -> Changes:
    view = case.view
    named = (finding.evidence.get("slot"), finding.evidence.get("weight"))
    changes: Changes = {}
    for q in _here(case, finding):
        if case.target is None or not view.is_constant(q.tensor):
            continue
        if q.slot in named or q.tensor in named:
            array = view.array(q.tensor).astype(np.float32)
            node = view.nodes[q.node]
            axis = weight_output_axis(node, array.ndim) if per_channel else q.axis
            changes[q.key] = _scaled_to(case.target, replace(q, axis=axis), array)
    return changes


def _scaled_to(target: Target, quantizer: Quantizer, array: np.ndarray) -> Quantizer:
    axes = tuple(a for a in range(array.ndim) if a != quantizer.axis)
    lo, hi = (_flat(end(array, axis=axes)) for end in (np.min, np.max))
    scale, zero = target.scale(quantizer, lo, hi, "minmax")
    return replace(quantizer, scale=scale, zero_point=zero)


def _flat(values: np.ndarray) -> F64:
    return np.atleast_1d(np.asarray(values, np.float64))


def _wide_bias(case: Case, finding: Finding) -> Changes:
    return {q.key: widened(q) for q in _here(case, finding) if q.role == "bias"}


def _node_kept(case: Case, finding: Finding) -> Changes:
    """Let the Relu or Clip run that the quantizer stands for."""
    return {
        q.key: replace(q, replaces_node=False) for q in _here(case, finding) if q.replaces_node
    }


# What is not named here is about an exported file or a reference, not about numbers here.
_UNDO: Mapping[str, _Undo] = {
    "QA201": _outputs_off,
    "QA202": _outputs_off,
    "QA203": _whole_range,
    "QA204": _wide_bias,
    "QA205": _wide_bias,
    "QA206": _whole_constant,
    "QA221": _outputs_off,
    "QA222": _node_kept,
    "QA241": _per_channel,
    "QA242": _slot_off,
}
