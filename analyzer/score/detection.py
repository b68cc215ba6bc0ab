# SPDX-License-Identifier: Apache-2.0
"""Detectors: how far the boxes of both models agree, and their precision by labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from analyzer.errors import ConfigError
from analyzer.records import TaskScore
from analyzer.score.average_precision import (
    Precision,
    Truth,
    as_truth,
    average_precision,
    has_evaluator,
)
from analyzer.score.boxes import CERTAIN_SCORE, Detections, common_boxes
from analyzer.score.heads import Heads
from analyzer.score.judge import Arrays

# Number of a sample, and of a picture in it -> what there is; None: not known.
TruthOf = Callable[[int, int], Truth | None]


class DetectionJudge:
    """Holds the boxes of every plan against those of FP32 and, where given, the true ones.

    Of the FP32 model, boxes with a score of 0.25 or more are its answer.  Boxes of one class that
    overlap by half or more are the same.

    Args:
        heads: how detections are read; not settled yet.
        plans: how many there are.
        truth: None without labels.
        is_sure: the user said that these are detections: what does not look like it is an error.
    """

    def __init__(
        self, heads: Heads, plans: int, *, truth: TruthOf | None = None, is_sure: bool = False
    ) -> None:
        self._heads: Heads | None = heads
        self._outputs = heads.outputs
        self._is_settled = False
        self._is_sure = is_sure or truth is not None
        self._truth_of = truth
        self._plain: list[Detections] = []
        self._noisy: list[list[Detections]] = [[] for _ in range(plans)]
        self._truths: list[Truth | None] = []
        self._common = [0] * plans
        self._reference: Precision | None = None  # of FP32 by labels, the same for all plans

    def add(self, index: int, plain: Arrays, noisy: Sequence[Arrays]) -> None:
        """Take in one sample, see `Judge`."""
        with np.errstate(all="ignore"):  # a broken model's numbers are dropped where they arise
            heads = self._settle(plain)
            if heads is None:
                return
            for picture in range(heads.pictures(plain)):
                expected = heads.read(plain, picture)
                self._plain.append(expected)
                self._truths.append(self._truth_of(index, picture) if self._truth_of else None)
                for plan, arrays in enumerate(noisy):
                    found = heads.read(arrays, picture)
                    self._noisy[plan].append(found)
                    self._common[plan] += common_boxes(
                        expected.at_least(CERTAIN_SCORE), found.at_least(CERTAIN_SCORE)
                    )

    def scores(self, plan: int) -> tuple[TaskScore, ...]:
        """Return the scores of one plan, see `Judge`."""
        if self._heads is None or not self._plain:
            return ()
        return (*self._by_labels(plan), *self._by_agreement(plan))

    def _settle(self, plain: Arrays) -> Heads | None:
        if not self._is_settled and self._heads is not None:
            self._heads = self._heads.settled(plain)
            self._is_settled = True
            if self._heads is None and self._is_sure:
                names = ", ".join(self._outputs)
                raise ConfigError(
                    f"{names}: shaped like detections, but their FP32 values on the first sample"
                    " are none that are known.",
                    "Decode them in --metric MODULE:FUNCTION, and leave out --labels and --task.",
                )
        return self._heads

    def _by_labels(self, plan: int) -> tuple[TaskScore, ...]:
        known = [i for i, truth in enumerate(self._truths) if truth is not None]
        truths = [truth for truth in self._truths if truth is not None]
        if not known:
            return ()
        if self._reference is None:
            self._reference = average_precision(truths, [self._plain[i] for i in known])
        plain = self._reference
        noisy = average_precision(truths, [self._noisy[plan][i] for i in known])
        if plain is None or noisy is None:
            return ()
        return tuple(
            TaskScore(name, own, reference, "labels", len(known), self._outputs)
            for name, own, reference in (
                ("mAP50", noisy.at_50, plain.at_50),
                ("mAP50:95", noisy.at_50_95, plain.at_50_95),
            )
        )

    def _by_agreement(self, plan: int) -> tuple[TaskScore, ...]:
        answers = [found.at_least(CERTAIN_SCORE) for found in self._plain]
        own = sum(len(found.at_least(CERTAIN_SCORE)) for found in self._noisy[plan])
        boxes = own + sum(map(len, answers))
        if not boxes:
            return ()
        named = [("box agreement", 2 * self._common[plan] / boxes)]
        precision: Precision | None = None
        if has_evaluator():
            precision = average_precision([as_truth(a) for a in answers], self._noisy[plan])
        if precision is not None:
            named.insert(0, ("box AP50", precision.at_50))
            named.insert(1, ("box AP50:95", precision.at_50_95))
        return tuple(
            TaskScore(name, value, None, "fp32", len(answers), self._outputs)
            for name, value in named
        )
