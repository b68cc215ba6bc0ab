# SPDX-License-Identifier: Apache-2.0
"""What every way to judge answers has in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from analyzer.records import TaskScore

Arrays = Mapping[str, npt.NDArray[Any]]  # graph output -> value; Any: whatever the model returns


class Judge(Protocol):
    """Takes in the answers of both models sample by sample, and keeps no more than it needs."""

    def add(self, index: int, plain: Arrays, noisy: Sequence[Arrays]) -> None:
        """Take in sample `index`: FP32 outputs, and those of every plan."""

    def scores(self, plan: int) -> tuple[TaskScore, ...]:
        """Return the scores of one plan over all samples so far."""


class Shares:
    """Means of shares, plan by plan: of how many things which part agrees."""

    def __init__(self, plans: int) -> None:
        self.count = 0
        self._sums = [0.0] * plans

    def add(self, values: Sequence[npt.NDArray[Any]]) -> None:
        """Add (N,) shares, 0 to 1 or bool, for every plan; what is not a number counts as 0."""
        self.count += len(values[0])
        for plan, each in enumerate(values):
            self._sums[plan] += float(np.nan_to_num(each.astype(np.float64), nan=0.0).sum())

    def mean(self, plan: int) -> float:
        """Return the mean of one plan; NaN where there is nothing."""
        return self._sums[plan] / self.count if self.count else float("nan")
