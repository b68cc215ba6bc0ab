# SPDX-License-Identifier: Apache-2.0
"""Random pictures with structure, where real ones are not worth their time."""

from __future__ import annotations

import numpy as np


def octaves(rng, shape):
    """Return noise of three octaves, from 0 up, so that nothing is Gaussian."""
    x = np.zeros(shape)
    for coarse in (8, 2, 1):
        small = rng.random([max(1, d // coarse) if d > 4 else d for d in shape])
        for axis, d in enumerate(shape):
            small = np.take(small, np.arange(d) * small.shape[axis] // d, axis=axis)
        x += small * coarse
    return x
