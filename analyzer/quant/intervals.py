# SPDX-License-Identifier: Apache-2.0
"""How sure a mean over few samples is, and whether two means are in a settled order.

NSRs of one layer vary between samples by a factor, not by an amount, and the factor is much the
same for all layers (a hard image is hard everywhere).  So spreads are taken of logarithms, the
spread of a single row is drawn towards that of rows that vary much, and two rows are compared
sample by sample, where the common factor cancels.  The constants of `intervals` were chosen
on eight real models of which every sample was known, so that at least 90 % of the rows' intervals
from 2 to 12 samples hold the mean over all (tests/benchmarks/coverage_of_intervals.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

_TINY = 1e-30
# How many samples' weight the spread of all rows has against a row's own.  Low, because it comes
# from the same few samples: where one of them is missing that is hard, it is so for every row.
_PRIOR = 2.0
_TYPICAL = 0.75  # quantile of the rows' spreads; rows that vary more cannot be told yet
_QUIET = 0.002  # of the mean: samples below do not move it, however far below they are
_UPWARD = 0.3  # of the half width: few samples rather miss the loud ones than have too many
_POOLED = 6.0  # as `_PRIOR`, for the order of rows, where what is common to all cancels
_SAME = 0.02  # means closer than this share are a tie that no sample needs to break
_Z95 = 1.959964


def t95(degrees: float) -> float:
    """Return the 97.5 % quantile of Student's t, within 1 % from 3 degrees of freedom on.

    Cornish-Fisher expansion in 1/degrees (Abramowitz and Stegun 26.7.5).

    >>> round(t95(10), 2)
    2.23
    """
    z = _Z95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def intervals(rows: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float] | None]:
    """Return a 95 % interval for the mean of every row.

    Args:
        rows: row -> one NSR per sample, samples in the same order in every row.

    Returns:
        row -> (low, high) around the arithmetic mean, farther above than below it; None where
        nothing is known about spread (one sample in all rows), or where the mean is not finite;
        (0, 0) for an all-zero row.
    """
    spreads = {name: _log_variance(values) for name, values in rows.items()}
    known = [variance for variance in spreads.values() if variance is not None]
    if not known:
        return dict.fromkeys(rows)
    common = float(np.quantile(known, _TYPICAL))
    result: dict[str, tuple[float, float] | None] = {}
    for name, values in rows.items():
        mean = float(np.mean(values)) if len(values) else math.nan
        if not math.isfinite(mean):
            result[name] = None
            continue
        own = spreads[name]
        freedom = len(values) - 1 if own is not None else 0
        variance = (_PRIOR * common + freedom * (own or 0.0)) / (_PRIOR + freedom)
        half = t95(_PRIOR + freedom) * math.sqrt(variance / len(values))
        result[name] = (
            mean * math.exp((_UPWARD - 1) * half),
            mean * math.exp((_UPWARD + 1) * half),
        )
    return result


def unsettled(rows: Mapping[str, Sequence[float]], *, top: int) -> set[str]:
    """Return the rows whose place among the `top` worst is not settled yet.

    Neighbours in the order are compared on the samples they share; a place is open when their
    mean log ratio lies within its 95 % noise and the means differ by more than 2 %.
    """
    order = sorted(rows, key=lambda name: -float(np.mean(rows[name])))
    spread = _residual_variance(rows)
    found: set[str] = set()
    for upper, lower in itertools.pairwise(order[: top + 1]):
        shared = min(len(rows[upper]), len(rows[lower]))
        ratio = _logs(rows[upper][:shared]) - _logs(rows[lower][:shared])
        distance = abs(float(np.mean(ratio)))
        noise = t95(_POOLED + shared - 1) * math.sqrt(2 * spread / shared)
        if _SAME < distance < noise or (distance <= _SAME and shared < 4):
            found |= {upper, lower}
    return found


def _logs(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.log(np.maximum(np.nan_to_num(np.asarray(values, np.float64), nan=1.0), _TINY))


def _log_variance(values: Sequence[float]) -> float | None:
    finite = [v for v in values if math.isfinite(v)]
    if len(finite) < 2 or not any(finite):
        return None
    quiet = _QUIET * float(np.mean(finite))
    return float(np.var(_logs([max(v, quiet) for v in finite]), ddof=1))


def _median_share(degrees: int) -> float:
    """Return the median of a chi-squared variable over its mean (Wilson and Hilferty).

    Variances of two samples are mostly far below the truth and now and then far above it: their
    plain median would be less than half of it.
    """
    return (1 - 2 / (9 * degrees)) ** 3


def _residual_variance(rows: Mapping[str, Sequence[float]]) -> float:
    """Variance of log NSR left when every row and every sample has its own mean."""
    spread = [values for values in rows.values() if len(values) > 1]  # one value has no spread
    shared = min(map(len, spread), default=0)
    table = np.array([_logs(v[:shared]) for v in spread if any(v[:shared])])
    if shared < 2 or len(table) < 2:
        return 1.0
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    # the median is not carried away by a few rows that behave unlike all others
    typical = float(np.median(np.sum(rest**2, axis=1))) / _median_share(shared - 1)
    return typical / (shared - 1)
