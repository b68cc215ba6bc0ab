# SPDX-License-Identifier: Apache-2.0
"""The integer program: gains and prices of remedies go in, the best affordable set comes out.

Remedies multiply what is left of the noise, so that it is the logarithms that add up.  Solved by
HiGHS; HAWQ-V3 (arXiv 2011.10680) chooses bit widths in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

_LEAST = 1e-6  # of the noise: a remedy that leaves less counts as leaving this


def best_set(
    left: Sequence[float],
    prices: Sequence[float],
    limits: Sequence[tuple[Collection[int], int]],
    budget: float,
) -> list[int]:
    """Return the numbers of the remedies to take, in order.

    Args:
        left: of each remedy: the share of the noise that is left with it; from 1 on it is never
            taken.
        prices: of each, from 0 on.
        limits: sets of remedies, and how many of each can be taken.
        budget: that the prices must not exceed together.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    useful = [n for n, share in enumerate(left) if share < 1.0 and prices[n] <= budget]
    if not useful:
        return []
    place = {number: position for position, number in enumerate(useful)}
    gains = np.array([-math.log(max(left[n], _LEAST)) for n in useful])
    rows = [np.array([prices[n] for n in useful])]
    bounds = [budget]
    for group, most in limits:
        members = [place[n] for n in group if n in place]
        if len(members) > most:
            row = np.zeros(len(useful))
            row[members] = 1.0
            rows.append(row)
            bounds.append(float(most))
    found = milp(
        -gains,
        constraints=LinearConstraint(np.array(rows), ub=np.array(bounds)),
        integrality=np.ones(len(useful)),
        bounds=Bounds(0, 1),
        options={"time_limit": 10.0},
    )
    if found.x is None:
        return []
    return [number for number, taken in zip(useful, found.x, strict=True) if taken > 0.5]
