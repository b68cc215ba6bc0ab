# SPDX-License-Identifier: Apache-2.0
"""Where the boxes of a picture are after it was prepared for the model.

Labels are brought into the input's pixels, where detections are: overlaps are the same there as
in the picture, as preparing stretches all boxes alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from analyzer.data import Preprocess
from analyzer.score.average_precision import Truth

_ORIENTATION: Final = 0x0112  # EXIF tag; from 5 on, width and height change places


def picture_extent(path: Path) -> tuple[int, int]:
    """Return (height, width) of a picture as it is shown; only its header is read."""
    from PIL import Image

    with Image.open(path) as image:
        width, height = image.size
        return (width, height) if image.getexif().get(_ORIENTATION, 1) >= 5 else (height, width)


def place_boxes(truth: Truth, extent: tuple[int, int], preprocess: Preprocess) -> Truth:
    """Bring boxes into the pixels of the input.

    Args:
        truth: boxes in shares of the picture.
        extent: (height, width) of the picture.
        preprocess: with `size` known.

    Returns:
        boxes cut at the edges of the input; those outside are left out.
    """
    assert preprocess.size is not None, "the data stage fills it in"
    (height, width), (left, top) = _inner(extent, preprocess)
    scale = np.array([width, height, width, height], dtype=np.float32)
    shift = np.array([left, top, left, top], dtype=np.float32)
    limits = np.array([*preprocess.size[::-1]] * 2, dtype=np.float32)
    boxes = (truth.boxes * scale + shift).clip(0, limits)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return Truth(boxes[inside], truth.classes[inside], truth.is_crowd[inside])


def _inner(
    extent: tuple[int, int], preprocess: Preprocess
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (height, width) of the resized picture, and its (left, top) in the input.

    The same arithmetic as in `analyzer.data.images`, which a test holds against it.
    """
    assert preprocess.size is not None, "the data stage fills it in"
    height, width = preprocess.size
    if preprocess.resize == "letterbox":
        ratio = min(height / extent[0], width / extent[1])
        new = max(1, round(extent[0] * ratio)), max(1, round(extent[1] * ratio))
        centred = preprocess.pad_side == "centre"
        offset = ((width - new[1]) // 2, (height - new[0]) // 2) if centred else (0, 0)
        return new, offset
    if preprocess.resize == "crop":
        side = preprocess.crop_side
        assert side is not None, "the data stage fills it in"
        if extent[1] < extent[0]:
            new = int(side * extent[0] / extent[1]), side
        else:
            new = side, int(side * extent[1] / extent[0])
        return new, (-round((new[1] - width) / 2), -round((new[0] - height) / 2))
    return (height, width), (0, 0)
