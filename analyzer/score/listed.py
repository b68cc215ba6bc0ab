# SPDX-License-Identifier: Apache-2.0
"""Detections that a graph has chosen by itself, as YOLOv10 and other end-to-end models do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from analyzer.score.anchors import Size
from analyzer.score.boxes import LEAST_SCORE, Detections
from analyzer.score.heads import Arrays


@dataclass(frozen=True, slots=True)
class ListedHead:
    """(N, K, 6): left, top, right and bottom in pixels, score, class.

    Nothing is suppressed any more.

    Attributes:
        size: (height, width) of the input.
        classes: at most.
    """

    output: str
    size: Size
    classes: int

    @property
    def outputs(self) -> tuple[str, ...]:
        """Graph outputs that hold them."""
        return (self.output,)

    def settled(self, arrays: Arrays) -> Self | None:
        """Check FP32 values: ordered corners, scores of 0 to 1, whole classes."""
        table = arrays[self.output][0]
        scores, classes = table[:, 4], table[:, 5]
        is_list = (
            np.isfinite(table).all()
            and (table[:, 2:4] >= table[:, :2]).all()
            and ((scores >= 0) & (scores <= 1)).all()
            and ((classes == classes.round()) & (classes >= 0)).all()
        )
        return self if is_list else None

    def pictures(self, arrays: Arrays) -> int:
        """Return how many pictures the outputs are of."""
        return len(arrays[self.output])

    def read(self, arrays: Arrays, picture: int) -> Detections:
        """Return what was found in one of them, best first."""
        table = arrays[self.output][picture].astype(np.float32, copy=False)
        table = table[np.isfinite(table).all(axis=1) & (table[:, 4] > LEAST_SCORE)]
        table = table[np.argsort(-table[:, 4], kind="stable")]
        limits = np.array([*self.size[::-1]] * 2, dtype=np.float32)
        # quantized classes need not be whole any more: the nearest one is the answer
        classes = table[:, 5].round().astype(np.intp)
        return Detections(table[:, :4].clip(0, limits), table[:, 4], classes)
