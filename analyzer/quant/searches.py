# SPDX-License-Identifier: Apache-2.0
"""Searches for a threshold: a histogram of magnitudes goes in, the number of bins to keep out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]

KL_FIRST_BINS = 0.002  # share of the bins nearest zero that the KL search ignores


def kl_bins(counts: I64, levels: int) -> int:
    """Return how many bins the KL search keeps, a multiple of `levels` up to `counts.size`."""
    hist = counts.astype(np.float32)
    zeroed = int(KL_FIRST_BINS * hist.size)
    hist[:zeroed] = 0
    hist[zeroed] = 1
    total = hist.sum(dtype=np.float32)
    shares = (hist / total).astype(np.float64)
    log_shares = np.log10(shares + 1e-30)
    nothing = np.log10(1e-30)
    best, best_divergence = hist.size, np.inf
    for kept in range(levels, hist.size + 1, levels):
        p, log_p = shares[:kept].copy(), log_shares[:kept].copy()
        last = hist[kept - 1] + hist[kept:].sum(dtype=np.float32)
        p[-1] = last / total
        log_p[-1] = np.log10(p[-1] + 1e-30)
        groups = hist[:kept].reshape(levels, -1)
        filled = groups > 0
        sums = groups.sum(axis=1, dtype=np.float32)
        means = sums / np.maximum(filled.sum(axis=1), 1).astype(np.float32)
        q = (filled * means[:, None]).ravel()
        # of a group all bins are alike, but for the empty ones
        log_means = np.log10((means / q.sum(dtype=np.float32)).astype(np.float64) + 1e-30)
        log_q = np.where(filled, log_means[:, None], nothing).ravel()
        divergence = float(np.sum(p * (log_p - log_q)))
        if divergence < best_divergence:
            best, best_divergence = kept, divergence
    return best


def mse_end(counts: I64, values: int) -> int:
    """Return the range end, in bins, with the smallest expected squared error."""
    hist = counts.astype(np.float64)
    index = np.arange(hist.size)
    widest = hist.size // values
    best, best_loss = hist.size, np.inf
    for step in [widest + 1, *range(1, widest + 1)]:
        end = values * step
        left = index % step
        right = step - left - 1
        inside = np.where(left == right, left + 0.25, np.minimum(left, right) + 0.5)
        error = np.where(index > end, index - end + 0.5, inside)
        loss = float(np.sum(hist * error**2))
        if loss < best_loss:
            best, best_loss = end, loss
    return best
