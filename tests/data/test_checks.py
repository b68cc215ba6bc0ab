# SPDX-License-Identifier: Apache-2.0
"""Data that cannot be right is doubted in one sentence; NaN ends the run."""

import numpy as np
import pytest
from PIL import Image

from analyzer.data import check_inputs, open_data
from analyzer.errors import DataError
from analyzer.records import TensorSpec

IMAGES = (TensorSpec("images", "float32", (1, 3, 4, 4)),)
ULTRALYTICS = {"author": "Ultralytics", "task": "detect"}
RNG = np.random.default_rng(5)


def doubts(tmp_path, inputs=IMAGES, metadata=None, ranges=None, **arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    data = open_data(str(tmp_path / "a.npz"), inputs, role="calibration")
    return check_inputs(
        data, inputs, range(len(data)), metadata=metadata or {}, expected_ranges=ranges or {}
    )


def test_good_data_raises_no_doubt(tmp_path):
    """Varied values of 0 to 1."""
    assert doubts(tmp_path, images=RNG.random((3, 3, 4, 4))) == ()


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_what_is_not_finite_is_an_error(tmp_path, value, word):
    """File, sample and input are named."""
    images = RNG.random((3, 3, 4, 4))
    images[1, 0, 0, 0] = value
    with pytest.raises(DataError) as caught:
        doubts(tmp_path, images=images)
    assert str(caught.value) == (
        f"a.npz (sample 1) holds 1 {word} value for input 'images', expected finite numbers."
        " Remove that sample, or correct how it was made."
    )


def test_a_float16_overflow_is_found(tmp_path):
    """70000 does not fit into float16 and becomes infinite."""
    inputs = (TensorSpec("x", "float16", (1, 2)),)
    with pytest.raises(DataError, match="holds 1 infinite value for input 'x'"):
        doubts(tmp_path, inputs, x=np.array([[1.0, 70000.0]]))


def test_constant_samples_are_named(tmp_path):
    """A black picture among others."""
    images = RNG.random((3, 3, 4, 4))
    images[1] = 0
    assert doubts(tmp_path, images=images) == (
        "Input 'images' is constant in 1 of 3 samples: 'a.npz (sample 1)'.",
    )


def test_identical_samples_are_doubted(tmp_path):
    """One sample, repeated, calibrates nothing."""
    images = np.repeat(RNG.random((1, 3, 4, 4)), 3, axis=0)
    (line,) = doubts(tmp_path, images=images)
    assert line.startswith("All 3 samples that were looked at are identical: ")


def test_a_constant_setting_beside_varied_inputs_is_fine(tmp_path):
    """A state of zeros and a rate are no doubtful data."""
    inputs = (
        TensorSpec("x", "float32", (None, 4)),
        TensorSpec("state", "float32", (2, None, 3)),
        TensorSpec("sr", "int64", ()),
    )
    arrays = {"x": RNG.random((3, 4)), "state": np.zeros((2, 1, 3)), "sr": np.int64(16000)}
    assert doubts(tmp_path, inputs, **arrays) == ()


def test_raw_pixels_contradict_ultralytics(tmp_path):
    """The model says 0 to 1, the data ranges to 255."""
    images = np.linspace(0, 255, 96).reshape(2, 3, 4, 4)
    assert doubts(tmp_path, metadata=ULTRALYTICS, images=images) == (
        "Input 'images' ranges 0 to 255 but the model's metadata (Ultralytics) expects 0 to 1.",
    )


def test_a_wrong_preset_contradicts_ultralytics(tmp_path):
    """The same for pictures prepared as the user asked for."""
    pixels = np.linspace(0, 255, 48).reshape(4, 4, 3).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    data = open_data(str(tmp_path), IMAGES, role="x", metadata=ULTRALYTICS, preset="raw")
    assert check_inputs(data, IMAGES, [0], metadata=ULTRALYTICS) == (
        "Input 'images' ranges 0 to 255 but the model's metadata (Ultralytics) expects 0 to 1.",
    )


def test_whole_numbers_look_like_pixels(tmp_path):
    """Arrays whose preparation nobody told us about."""
    images = np.linspace(0, 255, 96).round().reshape(2, 3, 4, 4)
    (line,) = doubts(tmp_path, images=images)
    assert line == (
        "Input 'images' ranges 0 to 255 in whole numbers, as raw pixels do: right only if the"
        " model was trained on 0 to 255."
    )


def test_divided_twice(tmp_path):
    """0 to 1/255 is what a second division leaves."""
    (line,) = doubts(tmp_path, images=RNG.random((2, 3, 4, 4)) / 255)
    assert line.endswith("it looks as if pixels were divided by 255 twice.")


@pytest.mark.parametrize("factor", [255, 0.01])
def test_a_quantized_model_knows_its_range(tmp_path, factor):
    """Data far wider or narrower than the quantized input are prepared in another way."""
    images = np.linspace(0, factor, 96).reshape(2, 3, 4, 4) + 1e-5
    (line,) = doubts(tmp_path, images=images, ranges={"images": (0.0, 1.0)})
    assert line.endswith("quantized model's input covers 0 to 1: check the preprocessing.")


def test_nothing_to_look_at(tmp_path):
    """No indices, no doubts."""
    np.save(tmp_path / "a.npy", RNG.random((1, 3, 4, 4)))
    data = open_data(str(tmp_path), IMAGES, role="x")
    assert check_inputs(data, IMAGES, []) == ()
