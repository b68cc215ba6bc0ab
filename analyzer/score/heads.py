# SPDX-License-Identifier: Apache-2.0
"""Outputs of detectors: a sample's arrays go in, detections come out.

Three ways in which exporters leave boxes: all joined in one output, one pair of maps per stride,
or boxes and scores of all places.  What their shapes leave open (pixels or cells, logits or
probabilities) is told once from the values of the FP32 model, and then holds for every plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from analyzer.score.anchors import Grid, Size
from analyzer.score.boxes import (
    CERTAIN_SCORE,
    LEAST_SCORE,
    Detections,
    Floats,
    Indices,
    suppress,
)

Unit = Literal["pixel", "share", "raw"]
Arrays = Mapping[str, npt.NDArray[Any]]  # Any: whatever type the model returns

# Boxes lie about the cells that find them.  Of a trained YOLO11n the median distance is half a
# stride; read in a wrong unit it is the distance to a corner of the picture.
_FARTHEST_STRIDES: Final = 4.0
_UNITS: Final[tuple[Unit, ...]] = ("pixel", "share", "raw")


class Heads(Protocol):
    """One way to leave detections."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Graph outputs that hold them."""

    @property
    def size(self) -> Size:
        """(height, width) of the input."""

    @property
    def classes(self) -> int:
        """How many classes there are."""

    def settled(self, arrays: Arrays) -> Heads | None:
        """Tell from FP32 outputs what shapes leave open; None: they hold no such boxes."""

    def pictures(self, arrays: Arrays) -> int:
        """Return how many pictures the outputs are of."""

    def read(self, arrays: Arrays, picture: int) -> Detections:
        """Return what was found in one of them, after suppression."""


@dataclass(frozen=True, slots=True)
class JoinedHead:
    """All boxes in one output: (N, 4 + classes, A) or (N, A, 5 + classes), and transposed.

    Centre, width and height, then (with `has_objectness`) whether there is anything, then one
    score per class.  As Ultralytics, YOLOv5 and YOLOX export.

    Attributes:
        size: (height, width) of the input.
        channels_last: (N, A, channels).
        unit: of boxes: pixels; shares of the input; or raw: centre relative to the cell, sides
            as logarithms, both in strides (YOLOX).  None: not told yet.
    """

    output: str
    size: Size
    grid: Grid
    classes: int
    has_objectness: bool
    channels_last: bool
    unit: Unit | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Graph outputs that hold them."""
        return (self.output,)

    def settled(self, arrays: Arrays) -> Self | None:
        """Tell what is open from FP32 values, see `Heads`."""
        table = self._table(arrays, 0)
        scores = table[4 : 5 + self.classes if self.has_objectness else 4 + self.classes]
        if not np.isfinite(table).all() or scores.min() < 0 or scores.max() > 1:
            return None
        everywhere = np.arange(table.shape[1])
        told = []
        for unit in _UNITS:
            tried = replace(self, unit=unit)
            boxes = tried._boxes(table, everywhere)
            offset = (boxes[:, :2] + boxes[:, 2:]) / 2 - self.grid.centres
            far = np.median(np.abs(offset).max(axis=1) / self.grid.strides[:, 0])
            told.append((float(far), tried))
        nearest, found = min(told, key=lambda pair: pair[0])
        return found if nearest <= _FARTHEST_STRIDES else None

    def pictures(self, arrays: Arrays) -> int:
        """Return how many pictures the outputs are of."""
        return len(arrays[self.output])

    def read(self, arrays: Arrays, picture: int) -> Detections:
        """Return what was found in one of them, see `Heads`."""
        table = self._table(arrays, picture)
        start = 5 if self.has_objectness else 4
        scores = table[start : start + self.classes]
        if self.has_objectness:
            scores = scores * table[4]
        classes, places = np.nonzero(scores > LEAST_SCORE)
        boxes = self._boxes(table, places)
        return _detections(boxes, scores[classes, places], classes, self.size)

    def _table(self, arrays: Arrays, picture: int) -> Floats:
        """Return (channels, A)."""
        table: Floats = arrays[self.output][picture].astype(np.float32, copy=False)
        return table.T if self.channels_last else table

    def _boxes(self, table: Floats, places: Indices) -> Floats:
        centre, sides = table[:2, places].T, table[2:4, places].T
        if self.unit == "raw":
            strides = self.grid.strides[places]
            centre = (centre + self.grid.corners[places]) * strides
            sides = np.exp(sides) * strides
        elif self.unit == "share":
            scale = np.array(self.size[::-1], dtype=np.float32)
            centre, sides = centre * scale, sides * scale
        return np.concatenate([centre - sides / 2, centre + sides / 2], axis=1)


@dataclass(frozen=True, slots=True)
class Level:
    """The maps of one stride: (N, channels, H, W) each."""

    box: str
    score: str
    objectness: str | None
    stride: int


@dataclass(frozen=True, slots=True)
class PairedHeads:
    """A map of boxes and a map of scores per stride, as they leave the last convolutions.

    Boxes are distances from the centre of the cell to left, top, right and bottom, in cells:
    one number each, or the logits of `bins` equally spaced distances from 0 on, whose expectation
    it is (distribution focal loss, Li et al. 2020, equation 5).

    Attributes:
        size: (height, width) of the input.
        is_logit: scores need a sigmoid.  None: not told yet.
    """

    levels: tuple[Level, ...]
    size: Size
    bins: int
    classes: int
    is_logit: bool | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Graph outputs that hold them."""
        names = ((each.box, each.score, each.objectness) for each in self.levels)
        return tuple(name for level in names for name in level if name)

    def settled(self, arrays: Arrays) -> Self | None:
        """Tell what is open from FP32 values, see `Heads`."""
        scores = [arrays[each.score] for each in self.levels]
        if not all(np.isfinite(arrays[name]).all() for name in self.outputs):
            return None
        is_logit = any(map_.min() < 0 or map_.max() > 1 for map_ in scores)
        told = replace(self, is_logit=is_logit)
        if self.bins > 1:
            return told
        # distances of what is found point outwards; centres and logarithms would not
        found = [told._places(arrays, each, 0, CERTAIN_SCORE) for each in self.levels]
        distances = [
            _flat(arrays[each.box], 0)[:, places]
            for each, (_, _, places) in zip(self.levels, found, strict=True)
        ]
        values = np.concatenate([each.ravel() for each in distances])
        return told if not values.size or np.mean(values >= 0) >= 0.9 else None

    def pictures(self, arrays: Arrays) -> int:
        """Return how many pictures the outputs are of."""
        return len(arrays[self.levels[0].box])

    def read(self, arrays: Arrays, picture: int) -> Detections:
        """Return what was found in one of them, see `Heads`."""
        boxes, scores, classes = [], [], []
        for level in self.levels:
            score, kind, places = self._places(arrays, level, picture, LEAST_SCORE)
            boxes.append(self._boxes(arrays, level, picture, places))
            scores.append(score)
            classes.append(kind)
        return _detections(
            np.concatenate(boxes), np.concatenate(scores), np.concatenate(classes), self.size
        )

    def _places(
        self, arrays: Arrays, level: Level, picture: int, least: float
    ) -> tuple[Floats, Indices, Indices]:
        """Return score, class and cell of everything above `least`."""
        scores = _flat(arrays[level.score], picture)
        # the inverse of the sigmoid at the threshold spares the sigmoid of everything below it
        cut = float(np.log(least / (1 - least))) if self.is_logit else least
        classes, places = np.nonzero(scores > cut)
        found = self._chance(scores[classes, places])
        if level.objectness is not None:
            found = found * self._chance(_flat(arrays[level.objectness], picture)[0, places])
            strong = found > least
            found, classes, places = found[strong], classes[strong], places[strong]
        return found, classes, places

    def _chance(self, values: Floats) -> Floats:
        if not self.is_logit:
            return values
        with np.errstate(over="ignore"):
            return np.float32(1) / (np.float32(1) + np.exp(-values))

    def _boxes(self, arrays: Arrays, level: Level, picture: int, places: Indices) -> Floats:
        distances = _flat(arrays[level.box], picture)[:, places]
        if self.bins > 1:
            logits = distances.reshape(4, self.bins, -1)
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            steps = np.arange(self.bins, dtype=np.float32)
            distances = np.einsum("kbn,b->kn", weights, steps) / weights.sum(axis=1)
        width = arrays[level.box].shape[3]
        centre = np.stack([places % width, places // width]).astype(np.float32) + np.float32(0.5)
        edges = np.concatenate([centre - distances[:2], centre + distances[2:]])
        boxes: Floats = edges.T * np.float32(level.stride)
        return boxes


@dataclass(frozen=True, slots=True)
class SplitHeads:
    """Boxes (N, A, 4) and probabilities (N, A, classes) of the same places, decoded inside.

    Attributes:
        size: (height, width) of the input.
        has_background: the first class means that there is nothing.
        form: how boxes are written: corners, or centre and sides; and whether in pixels.  None:
            not told yet.
    """

    boxes: str
    scores: str
    size: Size
    classes: int
    has_background: bool
    form: tuple[Literal["corners", "centre"], bool] | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Graph outputs that hold them."""
        return self.scores, self.boxes

    def settled(self, arrays: Arrays) -> Self | None:
        """Tell what is open from FP32 values, see `Heads`."""
        boxes, scores = arrays[self.boxes][0], arrays[self.scores][0]
        if not np.isfinite(boxes).all() or scores.min() < 0 or scores.max() > 1:
            return None
        in_pixels = bool(np.abs(boxes).max() > 4)
        extent = np.array(self.size[::-1]) if in_pixels else 1
        if np.mean((boxes[:, 2:] >= boxes[:, :2]).all(axis=1)) > 0.99:
            return replace(self, form=("corners", in_pixels))
        middle, sides = boxes[:, :2], boxes[:, 2:]
        fits = (middle >= 0) & (middle <= extent) & (sides >= 0) & (sides <= 2 * extent)
        return replace(self, form=("centre", in_pixels)) if np.mean(fits) > 0.99 else None

    def pictures(self, arrays: Arrays) -> int:
        """Return how many pictures the outputs are of."""
        return len(arrays[self.boxes])

    def read(self, arrays: Arrays, picture: int) -> Detections:
        """Return what was found in one of them, see `Heads`."""
        assert self.form is not None, "the form is settled before anything is read"
        scores = arrays[self.scores][picture].astype(np.float32, copy=False)
        places, classes = np.nonzero(scores[:, int(self.has_background) :] > LEAST_SCORE)
        found = scores[places, classes + int(self.has_background)]
        boxes = arrays[self.boxes][picture].astype(np.float32, copy=False)[places]
        how, in_pixels = self.form
        if not in_pixels:
            boxes = boxes * np.tile(np.array(self.size[::-1], dtype=np.float32), 2)
        if how == "centre":
            half = boxes[:, 2:] / 2
            boxes = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
        return _detections(boxes, found, classes, self.size)


def _flat(maps: npt.NDArray[Any], picture: int) -> Floats:
    """Return (channels, cells) of one picture."""
    flat: Floats = maps[picture].reshape(maps.shape[1], -1).astype(np.float32, copy=False)
    return flat


def _detections(boxes: Floats, scores: Floats, classes: Indices, size: Size) -> Detections:
    """Cut boxes at the edges of the picture, as evaluators expect them, and suppress doubles."""
    height, width = size
    limits = np.array([width, height, width, height], dtype=np.float32)
    return suppress(Detections(boxes.clip(0, limits), scores, classes))
