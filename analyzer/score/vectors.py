# SPDX-License-Identifier: Apache-2.0
"""Answers place by place: vectors by their direction, tokens and pixels by their class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from analyzer.records import TaskScore
from analyzer.score.judge import Arrays, Shares


class VectorJudge:
    """Mean cosine between the vectors of both models.

    Args:
        output: (N, D) or (N, T, D); with more axes one vector per row.
        plans: how many there are.
    """

    def __init__(self, output: str, plans: int) -> None:
        self._output = output
        self._cosines = Shares(plans)

    def add(self, index: int, plain: Arrays, noisy: Sequence[Arrays]) -> None:
        """Take in one sample, see `Judge`."""
        expected = _vectors(plain[self._output])
        self._cosines.add([_cosines(_vectors(a[self._output]), expected) for a in noisy])

    def scores(self, plan: int) -> tuple[TaskScore, ...]:
        """Return the scores of one plan, see `Judge`."""
        if not self._cosines.count:
            return ()
        value, count = self._cosines.mean(plan), self._cosines.count
        return (TaskScore("cosine", value, None, "fp32", count, (self._output,)),)


class PlacesJudge:
    """Share of places at which both models name the same class.

    Args:
        name: of the score.
        output: has the classes on axis `axis`; classes themselves where that is None.
        plans: how many there are.
    """

    def __init__(self, name: str, output: str, axis: int | None, plans: int) -> None:
        self._name = name
        self._output = output
        self._axis = axis
        self._shares = Shares(plans)

    def add(self, index: int, plain: Arrays, noisy: Sequence[Arrays]) -> None:
        """Take in one sample, see `Judge`."""
        expected = self._answers(plain[self._output])
        answers = [self._answers(arrays[self._output]) for arrays in noisy]
        # one number per sample: as many places belong to each
        self._shares.add([np.array([_share((a == expected) & (a >= 0))]) for a in answers])

    def scores(self, plan: int) -> tuple[TaskScore, ...]:
        """Return the scores of one plan, see `Judge`."""
        if not self._shares.count:
            return ()
        value, count = self._shares.mean(plan), self._shares.count
        return (TaskScore(self._name, value, None, "fp32", count, (self._output,)),)

    def _answers(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the class of every place, -1 where a value is not a number."""
        if self._axis is None:
            return values
        broken = np.isnan(values).any(axis=self._axis)
        return np.where(broken, -1, values.argmax(axis=self._axis))


def _vectors(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    width = values.shape[-1] if values.ndim <= 3 else values[0].size
    return values.reshape(-1, width).astype(np.float64)


def _cosines(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return (N,) cosines; 1 for two zero vectors, 0 for one, NaN where values are not finite."""
    with np.errstate(all="ignore"):
        dot = (first * second).sum(axis=1)
        squares = (first**2).sum(axis=1), (second**2).sum(axis=1)
        cosines: npt.NDArray[np.float64] = dot / np.sqrt(squares[0]) / np.sqrt(squares[1])
    zeros = (squares[0] == 0).astype(int) + (squares[1] == 0)
    return np.where(zeros == 2, 1.0, np.where(zeros == 1, 0.0, cosines))


def _share(equal: npt.NDArray[np.bool_]) -> float:
    return float(equal.mean()) if equal.size else 1.0
