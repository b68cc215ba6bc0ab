# SPDX-License-Identifier: Apache-2.0
"""Which recipe is chosen, and what it does to a pixel value."""

from dataclasses import replace

import numpy as np
import pytest

from analyzer.data import PRESETS, Preprocess, resolve_preprocess
from analyzer.data.preprocess import lookup_table, resolve
from analyzer.errors import ConfigError, DataError
from analyzer.records import TensorSpec

NCHW = TensorSpec("images", "float32", (1, 3, 640, 640))
NHWC = TensorSpec("input", "float32", (None, 32, 32, 3))
ULTRALYTICS = {"author": "Ultralytics", "task": "detect", "stride": "32", "imgsz": "[640, 640]"}


def test_the_default_stretches_to_zero_one_and_is_a_guess():
    """Without any information, the recipe is zero-one, and is called a guess."""
    found = resolve(NCHW, {}, preset=None, overrides={}, toml=None)
    assert found.preprocess == replace(PRESETS["zero-one"], size=(640, 640), layout="nchw")
    assert found.is_guess
    assert found.origin == "the default"


def test_naming_the_scale_is_no_guess_any_more():
    """Who gives the scale, mean or deviation knows the range of values."""
    assert not resolve(NCHW, {}, preset=None, overrides={"scale": "1"}, toml=None).is_guess
    assert resolve(NCHW, {}, preset=None, overrides={"resize": "crop"}, toml=None).is_guess


def test_ultralytics_metadata_means_letterbox():
    """A model exported by Ultralytics says itself how pictures are prepared."""
    found, origin = resolve_preprocess(NCHW, ULTRALYTICS)
    assert found == replace(PRESETS["yolo"], size=(640, 640), layout="nchw")
    assert origin == "the model's own metadata (Ultralytics, task detect)"


def test_ultralytics_classifiers_crop():
    """Classifiers by Ultralytics resize the short side to the input's size and do not pad."""
    spec = TensorSpec("images", "float32", (1, 3, 224, 224))
    found, _ = resolve_preprocess(spec, {**ULTRALYTICS, "task": "classify", "imgsz": "[224, 224]"})
    assert (found.resize, found.short_side, found.scale) == ("crop", 224, 1 / 255)


def test_flags_beat_the_file_which_beats_the_metadata(tmp_path):
    """A key is taken from the highest rank that has it, and the line names the ranks."""
    toml = tmp_path / "qanalyze.toml"
    toml.write_text('[preprocess]\npad_value = 0\nchannels = "bgr"\n')
    found, origin = resolve_preprocess(
        NCHW, ULTRALYTICS, overrides={"channels": "rgb", "mean": None}, toml=toml
    )
    assert (found.resize, found.pad_value, found.channels) == ("letterbox", 0, "rgb")
    assert origin == (
        f"{toml} over the model's own metadata (Ultralytics, task detect),"
        " with channels from the command line"
    )


def test_a_preset_flag_replaces_file_and_metadata(tmp_path):
    """`--preset raw` means raw, whatever lies beside the data."""
    toml = tmp_path / "qanalyze.toml"
    toml.write_text('[preprocess]\npreset = "caffe"\nmean = [1, 2, 3]\n')
    found, origin = resolve_preprocess(NCHW, ULTRALYTICS, preset="raw", toml=toml)
    assert found == replace(PRESETS["raw"], size=(640, 640), layout="nchw")
    assert origin == "preset 'raw'"


def test_the_file_may_name_a_preset_and_change_it(tmp_path):
    """Fields beside `preset` are laid over it."""
    toml = tmp_path / "qanalyze.toml"
    toml.write_text('[preprocess]\npreset = "imagenet"\nresize = "stretch"\n')
    found, origin = resolve_preprocess(NHWC, {}, toml=toml)
    assert (found.resize, found.std, found.layout) == ("stretch", (0.229, 0.224, 0.225), "nhwc")
    assert (found.size, origin) == ((32, 32), str(toml))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[preprocess]\nchanels = "bgr"', "Unknown preprocessing key 'chanels' in {}. Did you"),
        ("[preproces]\nscale = 1", "Unknown table 'preproces' in {}. Did you mean 'preprocess'?"),
        ('[preprocess]\npreset = "yolov"', "Unknown preprocessing preset 'yolov'. Did you mean"),
        ("[preprocess]\nstd = [1, 0, 1]", "std is [1, 0, 1] in {}. Expected one number or one"),
        ("[preprocess]\nsize = true", "size is True in {}. Expected height x width, like 480x6"),
        ("[preprocess", "{} cannot be read as TOML: "),
        ("preprocess = 1", "'preprocess' in {} is 1, expected a table. Write [preprocess]."),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, text, message):
    """Unknown keys, tables, presets and values are errors that name the file."""
    toml = tmp_path / "qanalyze.toml"
    toml.write_text(text)
    with pytest.raises(ConfigError) as caught:
        resolve_preprocess(NCHW, {}, toml=toml)
    assert str(caught.value).startswith(message.format(toml))


@pytest.mark.parametrize(
    ("overrides", "field", "value"),
    [
        ({"scale": "1/255"}, "scale", 1 / 255),
        ({"mean": "0.5, 0.25,0"}, "mean", (0.5, 0.25, 0.0)),
        ({"mean": 104}, "mean", (104.0,)),
        ({"size": "640"}, "size", (640, 640)),
        ({"size": [640, 640]}, "size", (640, 640)),
        ({"pad_side": "center"}, "pad_side", "centre"),
        ({"resize": "none"}, "resize", None),
        ({"channels": "BGR"}, "channels", "bgr"),
        ({"antialias": "false"}, "antialias", False),
    ],
)
def test_flags_are_text(overrides, field, value):
    """Values may be written as on a command line, or typed."""
    found, _ = resolve_preprocess(NCHW, {}, overrides=overrides)
    assert getattr(found, field) == value


def test_pixels_are_scaled_then_shifted_then_divided():
    """(255 * 1/255 - 0.5) / 0.25 = 2 and (0 - 0.5) / 0.25 = -2, channel by channel."""
    recipe = Preprocess(mean=(0.5, 0.0, 1.0), std=(0.25, 1.0, 0.5))
    table = lookup_table(recipe, 3, "float32")
    assert table.dtype == np.float32
    assert table[:, 255].tolist() == [2.0, 1.0, 0.0]
    assert table[:, 0].tolist() == [-2.0, 0.0, -2.0]


def test_integer_inputs_take_whole_pixels():
    """An int8 input holds pixel minus 128, and refuses what does not fit."""
    table = lookup_table(Preprocess(scale=1, mean=(128.0,)), 1, "int8")
    assert (table.dtype, table[0, 0], table[0, 255]) == (np.int8, -128, 127)
    with pytest.raises(ConfigError, match="range 0 to 255, but the input is int8 and holds -128"):
        lookup_table(Preprocess(scale=1), 1, "int8")


def test_int8_default_subtracts_128():
    """Without other information an int8 input gets the pixels, shifted to fit."""
    found, _ = resolve_preprocess(TensorSpec("x", "int8", (1, 32, 32, 3)), {})
    assert (found.scale, found.mean) == (1, (128.0,))


def test_a_colour_preset_turns_gray_on_a_model_of_one_channel():
    """Who asks for nothing else gets the single channel that the model takes."""
    spec = TensorSpec("x", "float32", (1, 1, 28, 28))
    assert resolve_preprocess(spec, {}, preset="raw")[0].channels == "gray"
    with pytest.raises(ConfigError, match="channels is 'rgb', but input 'x' takes 1 channel"):
        resolve_preprocess(spec, {}, overrides={"channels": "rgb"})
    with pytest.raises(ConfigError, match="mean has 3 values, but input 'x' takes 1 channels"):
        resolve_preprocess(spec, {}, preset="imagenet")


def test_free_height_and_width_need_a_size():
    """Pictures cannot be resized for an input whose size nobody gave."""
    spec = TensorSpec("x", "float32", (None, 3, None, None))
    with pytest.raises(DataError) as caught:
        resolve_preprocess(spec, {})
    assert str(caught.value) == (
        "Input 'x' leaves its height and width free, so images cannot be resized for it."
        " Pass --shape x=1,3,640,640, or give size in the preprocessing."
    )
    assert resolve_preprocess(spec, {}, preset="imagenet")[0].size == (224, 224)
    assert resolve_preprocess(spec, {}, overrides={"size": "96x128"})[0].size == (96, 128)


def test_a_size_that_the_model_contradicts_is_an_error():
    """The model's own size cannot be overridden."""
    with pytest.raises(ConfigError, match=r"size is 320x320 .* 'images' takes 640x640"):
        resolve_preprocess(NCHW, {}, overrides={"size": 320})


def test_a_layout_that_the_model_contradicts_is_an_error():
    """640 channels are no picture."""
    with pytest.raises(ConfigError, match="layout is 'nhwc', but input 'images' has 640 on its"):
        resolve_preprocess(NCHW, {}, overrides={"layout": "nhwc"})


def test_a_crop_must_fit_into_the_short_side():
    """A picture of short side 200 has no crop of 640."""
    with pytest.raises(ConfigError, match=r"short_side 200 is smaller than the crop 640x640"):
        resolve_preprocess(NCHW, {}, preset="imagenet", overrides={"short_side": "200"})


def test_the_default_short_side_is_256_for_224():
    """224 / 0.875 = 256, and 299 / 0.875 = 341.7."""
    assert Preprocess(size=(224, 224)).crop_side == 256
    assert Preprocess(size=(299, 299)).crop_side == 342


@pytest.mark.parametrize("shape", [(1, 16), (1, 7, 8, 9), (1, 2, 640, 640)])
def test_what_is_no_picture_is_refused(shape):
    """Four axes with 1, 3 or 4 channels are a picture, nothing else."""
    with pytest.raises(DataError, match="takes no pictures: expected four axes, 1, 3 or 4"):
        resolve_preprocess(TensorSpec("x", "float32", shape), {})


def test_a_recipe_prints_as_one_line():
    """Reports show geometry, channels and formula."""
    assert str(replace(PRESETS["caffe"], layout="nchw")) == (
        "short side 256, centre crop to 224x224, BGR, x - (104, 117, 123), NCHW"
    )
    assert str(PRESETS["imagenet"]).endswith(
        "RGB, (x/255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)"
    )
    assert str(PRESETS["ultraface"]) == "stretched, RGB, (x - 127) / 128"
