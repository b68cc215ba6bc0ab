# SPDX-License-Identifier: Apache-2.0
"""Boxes: candidates go in, detections after suppression and how many two sets share come out.

Boxes are (left, top, right, bottom) in pixels of the model's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

LEAST_SCORE: Final = 0.005  # of a detection that counts for an average precision
CERTAIN_SCORE: Final = 0.25  # of a detection that is taken for an answer
SUPPRESSED_AT: Final = 0.7  # overlap with a better box of the same class
MOST_DETECTIONS: Final = 300  # of one picture
# A broken model may find something everywhere; the best ones are enough to say so.
_MOST_CANDIDATES: Final = 30_000


@dataclass(frozen=True, slots=True)
class Detections:
    """What was found in one picture, best first.

    Attributes:
        boxes: (N, 4).
        scores: (N,), 0 to 1.
        classes: (N,).
    """

    boxes: Floats
    scores: Floats
    classes: Indices

    def __len__(self) -> int:
        return len(self.scores)

    def pick(self, which: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Self:
        """Return some of them."""
        return type(self)(self.boxes[which], self.scores[which], self.classes[which])

    def at_least(self, score: float) -> Self:
        """Return those with a score of `score` or more."""
        return self.pick(self.scores >= score)


def suppress(found: Detections) -> Detections:
    """Keep the best of overlapping boxes of one class (greedy non-maximum suppression).

    Args:
        found: in any order.  Boxes that are not finite are dropped.

    Returns:
        `MOST_DETECTIONS` at most, best first; equal scores in the order given.
    """
    found = found.pick(np.isfinite(found.boxes).all(axis=1) & np.isfinite(found.scores))
    found = found.pick(np.argsort(-found.scores, kind="stable")[:_MOST_CANDIDATES])
    is_alive = np.ones(len(found), dtype=bool)
    edges = np.ascontiguousarray(found.boxes.T)  # one row per edge is several times as fast
    rivals: dict[int, tuple[Indices, Floats]] = {}
    for each in np.unique(found.classes).tolist():
        own = np.flatnonzero(found.classes == each)
        rivals[each] = own, edges[:, own]
    kept: list[int] = []
    for best, each in enumerate(found.classes.tolist()):
        if not is_alive[best]:
            continue
        kept.append(best)
        if len(kept) == MOST_DETECTIONS:
            break
        own, sides = rivals[each]  # those alive; `best` is their first
        own, sides = own[1:], sides[:, 1:]
        doubles = _overlaps(edges[:, best], sides) > SUPPRESSED_AT
        if doubles.any():
            is_alive[own[doubles]] = False
            own, sides = own[~doubles], sides[:, ~doubles]
        rivals[each] = own, sides
    return found.pick(np.array(kept, dtype=np.intp))


def iou(first: Floats, second: Floats) -> Floats:
    """Return the shares of common area: (N, 4) and (M, 4) -> (N, M); 0 for boxes without area.

    >>> iou(np.float32([[0, 0, 2, 2]]), np.float32([[1, 0, 3, 2]])).round(4).tolist()
    [[0.33329999446868896]]
    """
    edges = second.T
    rows = [_overlaps(box, edges) for box in first]
    return np.stack(rows) if rows else np.zeros((0, len(second)), dtype=np.float32)


def common_boxes(expected: Detections, found: Detections, *, overlap: float = 0.5) -> int:
    """Count boxes of both sets that pair up one to one: same class, IoU of `overlap` or more.

    The best box of `found` chooses first, and takes the free one that it overlaps most.
    """
    shares = iou(found.boxes, expected.boxes)
    shares[found.classes[:, None] != expected.classes[None]] = 0
    pairs = 0
    for row in shares:
        if row.size and row.max() >= overlap:
            shares[:, row.argmax()] = 0
            pairs += 1
    return pairs


def _overlaps(box: Floats, others: Floats) -> Floats:
    """Return the IoU of one box (4,) with others (4, N)."""
    left, top, right, bottom = others
    width = np.minimum(right, box[2]) - np.maximum(left, box[0])
    height = np.minimum(bottom, box[3]) - np.maximum(top, box[1])
    common = width.clip(0) * height.clip(0)
    own = max(box[2] - box[0], 0) * max(box[3] - box[1], 0)
    union = own + (right - left).clip(0) * (bottom - top).clip(0) - common
    shares: Floats = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return shares
