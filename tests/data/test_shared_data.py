# SPDX-License-Identifier: Apache-2.0
"""Real pictures and arrays, prepared as the notes beside the real models say."""

from pathlib import Path

import numpy as np
import pytest

from analyzer.data import check_inputs, open_data
from analyzer.errors import DataError
from analyzer.records import TensorSpec

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the shared real data is not here")


def found(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"shared data {name} is not here")
    return str(path)


# Model, its input, the pictures, preset and overrides, then lowest and highest possible value.
CASES = {
    "yolo11n_heads": ((1, 3, 640, 640), "coco/calib/images", "yolo", {}, 0, 1),
    "espdet_pico_cat": ((1, 3, 416, 416), "coco_cat/images", "yolo", {}, 0, 1),
    "yolox_nano": ((1, 3, 416, 416), "coco/val/images", "yolox", {}, 0, 255),
    "face_rfb320": ((1, 3, 240, 320), "faces/images", "ultraface", {}, -127 / 128, 1),
    "mobilenet_v1_025": ((None, 224, 224, 3), "imagenet/images", "tf", {}, -1, 1),
    "squeezenet": ((1, 3, 224, 224), "imagenet/images", "caffe", {}, -123, 151),
    "shufflenet_v2": ((1, 3, 224, 224), "imagenet/images", "imagenet", {}, -2.12, 2.65),
    "ppocrv3_det": (
        (None, 3, None, None),
        "text/images",
        "imagenet",
        {"resize": "stretch", "channels": "bgr", "size": "736x736"},
        -2.12,
        2.65,
    ),
    "resnet8_cifar10": ((None, 32, 32, 3), "cifar10/images", "raw", {}, 0, 255),
    "superres_subpixel": (
        (None, 1, 224, 224),
        "coco/calib/images",
        "zero-one",
        {"channels": "y"},
        0,
        1,
    ),
    "vww_mobilenet": ((None, 96, 96, 3), "coco/val/images", "zero-one", {}, 0, 1),
}


@pytest.mark.parametrize("model", CASES)
def test_real_pictures_fit_real_models(model):
    """Presets and overrides express every preparation, without a warning, in the right range."""
    shape, folder, preset, overrides, low, high = CASES[model]
    inputs = (TensorSpec("x", "float32", shape),)
    with open_data(
        found(folder), inputs, role="calibration", preset=preset, overrides=overrides, limit=3
    ) as data:
        assert (len(data), data.warnings) == (3, ())
        assert check_inputs(data, inputs, range(3)) == ()
        for sample in data:
            array = sample["x"]
            assert array.shape == data.shapes["x"]
            assert low - 0.01 <= array.min() < array.max() <= high + 0.01
            # Pictures use most of their range; a division too many or too few would show.
            assert array.max() - array.min() > 0.4 * (high - low)


def test_letterbox_of_a_real_picture_is_its_pixels():
    """A COCO picture is 640 wide already: inside the padding, nothing is interpolated."""
    from PIL import Image

    folder = Path(found("coco/calib/images"))
    for path in sorted(folder.glob("*.jpg")):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        if pixels.shape[1] == 640:
            break
    data = open_data(
        str(path), (TensorSpec("x", "float32", (1, 3, 640, 640)),), role="x", preset="yolo"
    )
    top = (640 - pixels.shape[0]) // 2
    inner = data[0]["x"][0, :, top : top + pixels.shape[0]]
    assert np.array_equal(inner, pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    assert (data[0]["x"][0, :, :top] == np.float32(114) / np.float32(255)).all()


def test_machine_sounds():
    """40 windows of 640 features, float32."""
    inputs = (TensorSpec("input_1", "float32", (None, 640)),)
    data = open_data(found("toycar/normal_id_01_features.npy"), inputs, role="calibration")
    assert (len(data), dict(data.shapes), data.warnings) == (40, {"input_1": (1, 640)}, ())
    assert check_inputs(data, inputs, range(8)) == ()


def test_story_tokens():
    """64 stories of 128 token ids, int64."""
    inputs = (TensorSpec("input_ids", "int64", (1, 128)),)
    data = open_data(found("tinystories/tokens.npy"), inputs, role="calibration")
    assert (len(data), data[63]["input_ids"][0, 0], data.warnings) == (64, 1, ())


def test_mnist_needs_a_key_and_a_channel_axis(tmp_path):
    """As stored, digits have the wrong name; renamed and reshaped, they are pixels for a float."""
    path = found("mnist/mnist_t10k_500.npz")
    inputs = (TensorSpec("Input3", "float32", (1, 1, 28, 28)),)
    with pytest.raises(DataError, match="found 'images', 'labels', expected 'Input3'"):
        open_data(path, inputs, role="calibration")
    with np.load(path) as stored:
        np.savez(tmp_path / "a.npz", Input3=stored["images"].reshape(500, 1, 28, 28))
    with open_data(str(tmp_path), inputs, role="calibration") as data:
        assert len(data) == 500
        assert "used as they are" in data.warnings[0]
        assert data[0]["Input3"].max() == 255
