# SPDX-License-Identifier: Apache-2.0
"""What a grid does to its values where no more can be said: it clips them, or it is coarse."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from analyzer.diagnose.candidate import Candidate
from analyzer.diagnose.case import Case
from analyzer.diagnose.grids import ends, finer, wider
from analyzer.diagnose.sites import Site, worst
from analyzer.quant.fake import calibrated, fake_quantize
from analyzer.records import Quantizer

SOME = 0.25  # of the noise made here
FAR_OUT = 2.0  # times the end of the grid: clipped values may be too few to be among those seen


def clipping(case: Case) -> Iterator[Candidate]:
    """QA103: values beyond the end of the grid."""
    for site in case.sites:
        tensor = max(site.tensors, key=lambda t: site.facts[t].reach)
        facts, quantizer = site.facts[tensor], site.on(tensor)
        end = max(map(abs, ends(quantizer)))
        share, noise = _clipped(site, tensor)
        if noise < SOME and facts.reach < FAR_OUT * end:
            continue
        low, high = facts.range
        evidence = {
            "tensor": tensor,
            "reach": facts.reach,
            "end": end,
            "clipped_share": share,
            "clipped_noise": noise,
        }
        changes = {q.key: wider(q, low, high) for q in site.quantizers}
        layer = site.layer(case.view, case.plan.layers, tensor)
        yield Candidate("QA103", layer, evidence, changes, expected=0.9 * site.share)


def rounding(case: Case) -> Iterator[Candidate]:
    """QA104: steps too coarse for the values between the ends of the grid."""
    for site in case.sites:
        tensor = max(site.tensors, key=lambda t: site.facts[t].counts * site.facts[t].low.size)
        facts = site.facts[tensor]
        if _clipped(site, tensor)[1] > 1 - SOME:
            continue
        rms = float(np.sqrt(np.mean(np.square(facts.seen, dtype=np.float64))))
        evidence = {"tensor": tensor, "step": site.scale, "rms_in_steps": rms / site.scale}
        changes = {q.key: finer(q) for q in site.quantizers}
        layer = site.layer(case.view, case.plan.layers)
        yield Candidate("QA104", layer, evidence, changes, expected=0.9 * site.share)


def rounding_of_weights(case: Case) -> Iterator[Candidate]:
    """QA104: steps too coarse for a layer's weights."""
    parts = {row.name: row.parts for row in case.rows}
    by_key = {q.key: q for q in case.plan.quantizers}
    for source, share in worst(case.balance):
        for quantizer in (by_key[key] for key in source.quantizers):
            if quantizer.role != "weight" or quantizer.bits > 16:
                continue
            part = parts.get(quantizer.node, {}).get("weight", 0.5)
            evidence = {"tensor": quantizer.tensor, **_in_steps(case, quantizer)}
            changes = {quantizer.key: finer(quantizer)}
            yield Candidate(
                "QA104", quantizer.node, evidence, changes, expected=0.9 * part * share
            )


def _clipped(site: Site, tensor: str) -> tuple[float, float]:
    """Return the share of values beyond the grid, and their share of the noise made here."""
    quantizer, seen = site.on(tensor), site.facts[tensor].seen
    low, high = ends(quantizer)
    noise = np.square(fake_quantize(seen, quantizer) - seen, dtype=np.float64)
    half = site.scale / 2
    beyond = (seen < low - half) | (seen > high + half)
    total = float(noise.sum())
    share = float(beyond.mean()) if seen.size else 0.0
    return share, float(noise[beyond].sum()) / total if total else 0.0


def _in_steps(case: Case, quantizer: Quantizer) -> dict[str, float]:
    values = case.view.array(quantizer.tensor).astype(np.float64)
    step = float(calibrated(quantizer)[0].max())
    return {"step": step, "rms_in_steps": float(np.sqrt(np.mean(values * values))) / step}
