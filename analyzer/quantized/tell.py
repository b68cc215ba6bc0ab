# SPDX-License-Identifier: Apache-2.0
"""What reading a quantized model found, in sentences and findings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analyzer.quantized.form import FloatForm
from analyzer.quantized.plan import Drift, Placement
from analyzer.records import Finding, Model

# codes of the findings made here
RETRAINED = "QA301"
NOT_MATCHED = "QA302"
NOT_PLACED = "QA303"

# A layer whose weights moved in more than this share of values was not just quantized.
MOVED = 0.01


def matched_note(path: Path, matched: float, unmatched: Sequence[str]) -> str:
    """Say how much of the FP32 model is in the quantized file."""
    if not unmatched:
        return f"All computing layers were found in '{path.name}'."
    return f"Layers with {100 * matched:.1f} % of the MACs were found in '{path.name}'."


def plan_notes(placement: Placement) -> list[str]:
    """Say where the file's constants are not the FP32 model's, rounded."""
    found = []
    tuned = [d for d in placement.drifts if d.tuned > MOVED and d.share <= MOVED]
    moved = [d.layer for d in placement.drifts if d.share > MOVED]
    if tuned:
        found.append(
            f"The weights of {_listed([d.layer for d in tuned])} were not rounded to the nearest "
            "level (AdaRound or the like): they are taken as they are stored."
        )
    if moved:
        found.append(
            f"The weights of {_listed(moved)} differ from the FP32 ones by more than rounding: "
            "the difference counts as noise."
        )
    if placement.replaced:
        found.append(
            f"Float constants of {_listed(placement.replaced)} differ from the FP32 model's (a "
            "corrected bias, or one in half precision): they are taken as the file has them."
        )
    return found


def float_form_notes(form: FloatForm) -> list[str]:
    """Say what a file is held against that is analysed by itself."""
    name = form.path.name
    found = [f"'{name}' is analysed against its own float form: its network, all quantizers off."]
    if form.restored:
        found.append(
            f"{len(form.restored)} Relus that its quantizers stand in for were written out."
        )
    if form.stored:
        found.append(
            "Its weights are stored as integers: how much noise their rounding made is not "
            "known, and not part of any number here."
        )
    return found


def retrained_note(model: Model, form: FloatForm, moved: Sequence[Drift], known: int) -> str:
    """Say that the weights were trained further."""
    return (
        f"The weights of '{form.path.name}' differ from those of '{model.path.name}' by more than "
        f"rounding in {len(moved)} of {known} layers: it was trained further (QAT), or equalized. "
        "What isolated errors add up to is then only a hint."
    )


def retrained_finding(moved: Sequence[Drift], known: int) -> Finding:
    """Tell what the errors of a model trained further are measured against."""
    return Finding(
        RETRAINED,
        None,
        {
            "layers_moved": len(moved),
            "layers_compared": known,
            "largest_share": max(d.share for d in moved),
        },
        "Graphwise and local errors are those against the quantized model's own float form, and "
        "isolated ones need not add up: training lets layers make up for each other. Compare the "
        "task metric of both models to see what it gained.",
    )


def not_matched(model: Model, unmatched: Sequence[str], matched: float) -> list[Finding]:
    """List the FP32 model's computing layers that the file has not, with their share of MACs."""
    if not unmatched:
        return []
    macs = sum(model.macs.values()) or 1
    return [
        Finding(
            NOT_MATCHED,
            None,
            {
                "macs_share_not_matched": 1 - matched,
                "layers": {name: model.macs.get(name, 0) / macs for name in unmatched},
            },
            "These layers are taken as float. Give the FP32 file that was quantized, or analyse "
            "the quantized file by itself, giving it as both.",
        )
    ]


def not_placed(placement: Placement) -> list[Finding]:
    """List the readers whose quantizers found no place."""
    if not placement.lost:
        return []
    readers = sorted({name for name, _ in placement.lost})
    return [
        Finding(
            NOT_PLACED,
            None,
            {"quantizers": len(placement.lost), "readers": readers},
            "These quantizers of the file have no counterpart in the FP32 graph and are left "
            "out. Analyse the quantized file by itself, giving it as both, to have them all.",
        )
    ]


def _listed(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
