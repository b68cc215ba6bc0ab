# SPDX-License-Identifier: Apache-2.0
"""QA112 and QA113: biases beyond their last level, and scales that are no positive numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from analyzer.diagnose.candidate import Candidate
from analyzer.diagnose.case import Case
from analyzer.quant.fake import calibrated
from analyzer.records import Quantizer

WIDE = 62  # bits: what no bias exceeds, and float64 and int64 still hold
_SMALLEST = float(np.finfo(np.float32).tiny)


def saturating_biases(case: Case) -> Iterator[Candidate]:
    """Yield layers whose biases need more levels than there are; with more bits they have them."""
    view = case.view
    for q in case.plan.quantizers:
        if q.role != "bias" or not q.active or not view.is_constant(q.tensor):
            continue
        bias = view.array(q.tensor).astype(np.float64).ravel()
        scale, zero = calibrated(q)
        if not _sound(q):
            continue
        levels = np.rint(bias / scale) + zero
        beyond = (levels > q.qmax) | (levels < q.qmin)
        if not beyond.any():
            continue
        evidence = {
            "bits": q.bits,
            "channels": int(beyond.sum()),
            "share": float(beyond.mean()),
            "largest_level": float(np.abs(levels).max()),
            "last_level": q.qmax,
            "largest_bias": float(np.abs(bias[beyond]).max()),
        }
        yield Candidate("QA112", q.node, evidence, {q.key: widened(q)})


def widened(quantizer: Quantizer) -> Quantizer:
    """Return the bias's quantizer with more levels than any bias needs."""
    return replace(quantizer, bits=WIDE, qmin=-(1 << WIDE), qmax=(1 << WIDE) - 1, stored=None)


def unusable_scales(case: Case) -> Iterator[Candidate]:
    """Yield quantizers with a scale that is NaN, infinite, not above 0, or subnormal."""
    for q in case.plan.quantizers:
        if not q.active or q.scale is None or _sound(q):
            continue
        bad = ~_usable(q)
        evidence = {
            "slot": q.slot,
            "tensor": q.tensor,
            "scale": str(float(q.scale[bad][0])),  # as text: JSON knows no NaN
            "channels": int(bad.sum()),
        }
        yield Candidate("QA113", q.node, evidence, {q.key: None}, certain=True)


def _sound(quantizer: Quantizer) -> bool:
    return bool(_usable(quantizer).all())


def _usable(quantizer: Quantizer) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    scale = np.atleast_1d(calibrated(quantizer)[0])
    return np.isfinite(scale) & (scale >= _SMALLEST)
