# SPDX-License-Identifier: Apache-2.0
"""Which outputs of a graph are heads of a detector, told by shapes, operators and metadata."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Final

from analyzer.records import Model
from analyzer.score.anchors import Size, grid_of, strides_of
from analyzer.score.ends import End, ends_of, picture_size
from analyzer.score.heads import Heads, JoinedHead, Level, PairedHeads, SplitHeads
from analyzer.score.listed import ListedHead

_BINS: Final = (16, 8, 17, 1)  # of a distance: YOLOv8 on, PicoDet and NanoDet, YOLOv6; a number
_MOST_CLASSES: Final = 1 << 16  # where nothing tells how many there are
_BOX_WORDS: Final = ("box", "bbox", "reg", "loc", "dist")


def find_heads(model: Model) -> Heads | None:
    """Return how to read the detections of a bound model; None where it shows none.

    What the values must tell besides is left to `Heads.settled`.
    """
    size = picture_size(model)
    ends = [end for end in ends_of(model) if end.is_float]
    if size is None or not ends:
        return None
    return (
        _joined(ends, size, model.metadata)
        or _listed(ends, size, model.metadata)
        or _paired(ends, size)
        or _split(ends, size)
    )


def _joined(ends: Sequence[End], size: Size, metadata: Mapping[str, str]) -> JoinedHead | None:
    tables = [end for end in ends if len(end.shape) == 3]
    masks = _mask_weights([end for end in ends if len(end.shape) != 3])
    if len(tables) != 1 or masks is None or metadata.get("task") == "obb":
        return None
    (table,) = tables
    fits = []
    for channels_last in (False, True):
        channels, count = table.shape[:0:-1] if channels_last else table.shape[1:]
        found = strides_of(size, count)
        if found is not None and channels >= 5:
            fits.append((sum(table.parts) != channels, found[1], channels_last, channels, found))
    if not fits:
        return None
    # where both ways fit: the one that the parts say, then one box per cell
    *_, channels_last, channels, found = min(fits)
    named = _named_classes(metadata)
    has_objectness = (
        channels == 5 + named + masks if named else _has_objectness(table, channels_last)
    )
    classes = named or channels - 4 - int(has_objectness) - masks
    if classes < 1:
        return None
    grid = grid_of(size, *found)
    return JoinedHead(table.name, size, grid, classes, has_objectness, channels_last)


def _mask_weights(others: Sequence[End]) -> int | None:
    """Return how many channels behind the classes weigh prototypes of masks; None: not clear.

    Maps of five axes are what YOLOv5 leaves beside its joined output.
    """
    prototypes = [end for end in others if len(end.shape) != 5]
    if not prototypes:
        return 0
    return prototypes[0].shape[1] if len(prototypes) == 1 == len(prototypes[0].shape) - 3 else None


def _has_objectness(table: End, channels_last: bool) -> bool:
    """Tell whether channel 4 says that there is anything: by its parts, else as is the custom."""
    channels = table.shape[2 if channels_last else 1]
    if sum(table.parts) == channels:
        return len(table.parts) > 2 and table.parts[1] == 1
    return channels_last


def _named_classes(metadata: Mapping[str, str]) -> int:
    """Return how many class names an Ultralytics export lists, 0 where it lists none."""
    try:
        names = ast.literal_eval(metadata.get("names", ""))
    except (ValueError, SyntaxError):
        return 0
    return len(names) if isinstance(names, dict | list) else 0


def _listed(ends: Sequence[End], size: Size, metadata: Mapping[str, str]) -> ListedHead | None:
    if len(ends) != 1 or len(ends[0].shape) != 3 or ends[0].shape[2] != 6:
        return None
    return ListedHead(ends[0].name, size, _named_classes(metadata) or _MOST_CLASSES)


def _paired(ends: Sequence[End], size: Size) -> PairedHeads | None:
    by_stride: dict[int, list[End]] = {}
    for end in ends:
        stride = _stride(end, size)
        if stride is None:
            return None
        by_stride.setdefault(stride, []).append(end)
    levels = [by_stride[stride] for stride in sorted(by_stride)]
    if len({len(level) for level in levels}) != 1 or len(levels[0]) not in (2, 3):
        return None
    channels = [sorted(end.shape[1] for end in level) for level in levels]
    if any(each != channels[0] for each in channels):
        return None
    box = _box_channels(levels)
    if box is None:
        return None
    rest = sorted(channels[0])
    rest.remove(box)
    if len(rest) == 2 and rest[0] != 1:
        return None
    classes = rest[-1]
    bins = next(n for n in _BINS if box == 4 * n)
    found = [
        _level(level, box, stride) for stride, level in zip(sorted(by_stride), levels, strict=True)
    ]
    return PairedHeads(tuple(found), size, bins, classes)


def _stride(end: End, size: Size) -> int | None:
    """Return the pixels per cell of a map, None if it is none of a detector."""
    if len(end.shape) != 4 or end.shape[2] < 1 or size[0] % end.shape[2]:
        return None
    stride = size[0] // end.shape[2]
    fits = stride >= 4 and end.shape[3] * stride == size[1]
    return stride if fits and stride & (stride - 1) == 0 else None


def _box_channels(levels: Sequence[Sequence[End]]) -> int | None:
    """Return the channels of the maps that hold boxes, None where it is not clear."""
    told = {end.shape[1] for level in levels for end in level if end.mentions(*_BOX_WORDS)} & {
        4 * n for n in _BINS
    }
    possible = [4 * n for n in _BINS if any(e.shape[1] == 4 * n for e in levels[0])]
    if len(told) == 1:
        return told.pop()
    return possible[0] if len(possible) == 1 else None


def _level(ends: Sequence[End], box: int, stride: int) -> Level:
    """Name the maps of one stride by their channels, and where these are equal by their names."""
    boxes = [end for end in ends if end.shape[1] == box]
    boxes.sort(key=lambda end: not end.mentions(*_BOX_WORDS))
    rest = sorted((e for e in ends if e is not boxes[0]), key=_is_objectness)
    return Level(boxes[0].name, rest[0].name, rest[1].name if len(rest) > 1 else None, stride)


def _is_objectness(end: End) -> tuple[bool, bool]:
    return end.shape[1] == 1, end.mentions("obj", "conf")


def _split(ends: Sequence[End], size: Size) -> SplitHeads | None:
    tables = [end for end in ends if len(end.shape) == 3]
    if len(ends) != 2 or len(tables) != 2 or tables[0].shape[1] != tables[1].shape[1]:
        return None
    boxes = [end for end in tables if end.shape[2] == 4 and end.operator != "Softmax"]
    if len(boxes) == 2:
        boxes = [end for end in boxes if end.mentions(*_BOX_WORDS)]
    if len(boxes) != 1:
        return None
    (scores,) = [end for end in tables if end is not boxes[0]]
    # of two channels under one Softmax the first means that there is nothing, as in SSD
    if scores.operator == "Softmax" and scores.shape[2] > 1:
        return SplitHeads(
            boxes[0].name, scores.name, size, scores.shape[2] - 1, has_background=True
        )
    if scores.operator == "Sigmoid":
        return SplitHeads(boxes[0].name, scores.name, size, scores.shape[2], has_background=False)
    return None
