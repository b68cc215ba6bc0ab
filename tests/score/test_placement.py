# SPDX-License-Identifier: Apache-2.0
"""Boxes of labels lie where the data stage puts the picture's own pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from analyzer.data import open_data, resolve_preprocess
from analyzer.records import TensorSpec
from analyzer.score.average_precision import Truth
from analyzer.score.placement import picture_extent, place_boxes

SPEC = TensorSpec("x", "float32", (1, 3, 64, 96))


def truth(*boxes):
    count = len(boxes)
    return Truth(np.float32(boxes), np.arange(count), np.zeros(count, dtype=bool))


def seen(array):
    """Return the box of bright pixels in a prepared picture."""
    rows, columns = np.nonzero(array[0, 0] > 0.5)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("extent", [(120, 100), (100, 240), (64, 96), (31, 57)])
@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("yolo", {}),
        ("yolox", {"scale": "1/255"}),
        ("zero-one", {}),
        ("zero-one", {"resize": "crop", "short_side": "110"}),
    ],
)
def test_a_box_is_where_its_pixels_are(tmp_path, extent, preset, overrides):
    """A white patch on black, found again after every way of resizing, to a pixel."""
    height, width = extent
    left, top, right, bottom = width // 4, height // 3, width * 3 // 4, height * 3 // 4
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[top:bottom, left:right] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    data = open_data(str(tmp_path), (SPEC,), role="analysis", preset=preset, overrides=overrides)
    preprocess, _ = resolve_preprocess(SPEC, {}, preset=preset, overrides=overrides)
    box = [left / width, top / height, right / width, bottom / height]
    placed = place_boxes(truth(box), picture_extent(tmp_path / "a.png"), preprocess)
    assert placed.boxes[0] == pytest.approx(np.array(seen(data[0]["x"])), abs=1.1)


def test_a_camera_on_its_side_swaps_the_sides(tmp_path):
    """EXIF orientation 6: the data stage turns the picture, and labels are for the turned one."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert picture_extent(tmp_path / "a.jpg") == (40, 20)


def test_what_is_cropped_away_is_no_box():
    """Of 64x192, the crop of 64x96 keeps columns 48 to 144: one box lost, one cut."""
    preprocess, _ = resolve_preprocess(
        SPEC, {}, preset="zero-one", overrides={"resize": "crop", "short_side": "96"}
    )
    placed = place_boxes(truth([0, 0, 0.1, 1], [0.2, 0.25, 0.5, 0.75]), (96, 192), preprocess)
    assert placed.classes.tolist() == [1]
    assert placed.boxes.tolist() == [[0, 8, 48, 56]]
