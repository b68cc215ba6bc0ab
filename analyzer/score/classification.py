# SPDX-License-Identifier: Apache-2.0
"""Classifiers: how often both models name the same class, and how often the true one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from analyzer.errors import ConfigError
from analyzer.records import TaskScore
from analyzer.score.judge import Arrays, Shares

MANY: Final = 5  # the FP32 answer may be among so many of INT8

Classes = npt.NDArray[np.int64]
ClassesOf = Callable[[int], Classes]  # number of a sample -> class of every row; -1: not known


class ClassJudge:
    """Counts equal answers: the class with the highest value, or one of the highest five.

    A row with a value that is not a number gives no answer, and so never the same one.

    Args:
        output: (N, classes), with axes of length 1 anywhere; (classes,) is one row.  One value
            per row says yes or no.
        classes: how many there are; 1: yes or no.
        threshold: of a yes, for one value per row.
        plans: how many there are.
        labels: None without labels.
    """

    def __init__(
        self,
        output: str,
        classes: int,
        plans: int,
        *,
        threshold: float = 0.0,
        labels: ClassesOf | None = None,
    ) -> None:
        self._output = output
        self._classes = classes
        self._threshold = threshold
        self._labels = labels
        kinds = ("top-1", "top-5") if classes > MANY else ("top-1",)
        self._agreement = {kind: Shares(plans) for kind in kinds}
        self._metric = {kind: Shares(plans + 1) for kind in kinds}  # FP32 behind the plans

    def add(self, index: int, plain: Arrays, noisy: Sequence[Arrays]) -> None:
        """Take in one sample, see `Judge`."""
        answers = [self._ranked(arrays[self._output]) for arrays in (*noisy, plain)]
        expected = np.where(answers[-1][:, 0] < 0, -2, answers[-1][:, 0])
        for shares, hits in self._hits(self._agreement, answers[:-1], expected):
            shares.add(hits)
        if self._labels is None:
            return
        true = self._labels(index)
        self._check(true)
        known = true >= 0
        for shares, hits in self._hits(self._metric, [a[known] for a in answers], true[known]):
            shares.add(hits)

    def scores(self, plan: int) -> tuple[TaskScore, ...]:
        """Return the scores of one plan, see `Judge`."""
        ends = (self._output,)
        by_labels = [
            TaskScore(kind, shares.mean(plan), shares.mean(-1), "labels", shares.count, ends)
            for kind, shares in self._metric.items()
            if shares.count
        ]
        agreement = [
            TaskScore(f"{kind} agreement", shares.mean(plan), None, "fp32", shares.count, ends)
            for kind, shares in self._agreement.items()
            if shares.count
        ]
        return (*by_labels, *agreement)

    @staticmethod
    def _hits(
        into: dict[str, Shares], ranked: Sequence[Classes], expected: Classes
    ) -> list[tuple[Shares, list[npt.NDArray[np.bool_]]]]:
        """Tell which rows have the expected class first, and among the first five."""
        depth = {"top-1": 1, "top-5": MANY}
        return [
            (shares, [(r[:, : depth[kind]] == expected[:, None]).any(axis=1) for r in ranked])
            for kind, shares in into.items()
        ]

    def _ranked(self, values: npt.NDArray[Any]) -> Classes:
        """Return (rows, up to 5) classes, highest first; -1: no answer.

        Of equal values the first one counts as higher, as for ArgMax.
        """
        rows = values.reshape(-1, self._classes)
        if self._classes == 1:
            best = (rows > self._threshold).astype(np.int64)
        else:
            best = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :MANY]
        return np.where(np.isnan(rows).any(axis=1, keepdims=True), -1, best)

    def _check(self, true: Classes) -> None:
        most = max(self._classes, 2)
        if true.max(initial=0) >= most:
            raise ConfigError(
                f"A label is class {true.max()}, but output {self._output!r} has {most} classes"
                f" (0 to {most - 1}).",
                "Number the classes in the file as the model does.",
            )
