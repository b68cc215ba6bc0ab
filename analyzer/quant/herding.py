# SPDX-License-Identifier: Apache-2.0
"""Which samples to look at first, so that a few stand for all."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_TINY = 1e-30


def representative_order(profile: npt.NDArray[np.float64], count: int) -> list[int]:
    """Order samples so that the mean profile of the first few is near the mean of all.

    Greedy herding: each next sample is the one that brings the logarithm of the mean profile,
    summed over rows, nearest to that of all samples (Welling 2009, "Herding dynamical weights
    to learn", with the log NSRs of layers as features).

    Args:
        profile: (rows, samples), not negative: a cheap NSR per layer and sample.
        count: how many samples to order by it; the rest follow in their own order.

    Returns:
        every sample index once.
    """
    rows = np.nan_to_num(profile, nan=0.0, posinf=0.0)
    everywhere = rows[(rows > 0).all(axis=1)]
    samples = profile.shape[1]
    order: list[int] = []
    if not everywhere.size:
        return list(range(samples))
    goal = np.log(everywhere.mean(axis=1))
    total = np.zeros(len(everywhere))
    left = list(range(samples))
    while left and len(order) < count:
        means = (total[:, None] + everywhere[:, left]) / (len(order) + 1)
        distance = np.sum((np.log(np.maximum(means, _TINY)) - goal[:, None]) ** 2, axis=0)
        best = left.pop(int(np.argmin(distance)))
        total += everywhere[:, best]
        order.append(best)
    return order + left
