# SPDX-License-Identifier: Apache-2.0
"""From image files to input arrays: geometry, channels, and files that cannot be used."""

import numpy as np
import pytest
from PIL import Image

from analyzer.data import open_data
from analyzer.errors import DataError
from analyzer.records import TensorSpec

RAW = {"scale": 1}  # leaves pixel values as they are, so that expectations can be read


def spec(*shape, dtype="float32", name="x"):
    return TensorSpec(name, dtype, shape)


def save(path, pixels, **options):
    Image.fromarray(np.array(pixels, dtype=np.uint8)).save(path, **options)
    return path


def read(path, *shape, **overrides):
    with open_data(
        str(path), (spec(*shape),), role="calibration", overrides={**RAW, **overrides}
    ) as data:
        return data[0]["x"]


def test_nchw_and_nhwc_hold_the_same_pixels(tmp_path):
    """A 1x2 picture, red and dark blue: channel planes or channel triples."""
    path = save(tmp_path / "a.png", [[[255, 0, 0], [0, 0, 9]]])
    nchw, nhwc = read(path, 1, 3, 1, 2), read(path, 1, 1, 2, 3, layout="nhwc")
    assert nchw.tolist() == [[[[255, 0]], [[0, 0]], [[0, 9]]]]
    assert nhwc.tolist() == [[[[255, 0, 0], [0, 0, 9]]]]
    assert nchw.dtype == nhwc.dtype == np.float32
    assert nchw.flags.c_contiguous
    assert nhwc.flags.c_contiguous


def test_bgr_swaps_and_mean_follows_the_fed_order(tmp_path):
    """RGB 10, 20, 30 minus B, G, R means of 1, 2, 3 is 29, 18, 7."""
    path = save(tmp_path / "a.png", [[[10, 20, 30]]])
    found = read(path, 1, 3, 1, 1, channels="bgr", mean="1,2,3")
    assert found.ravel().tolist() == [29, 18, 7]


def test_letterbox_centres_a_wide_picture(tmp_path):
    """2x1 pixels into 4x4: twice as large, a row of 114 above and below."""
    path = save(tmp_path / "a.png", [[[0, 0, 0], [0, 0, 0]]])
    found = read(path, 1, 3, 4, 4, resize="letterbox")
    assert found[0, 0].tolist() == [[114] * 4, [0] * 4, [0] * 4, [114] * 4]


def test_letterbox_puts_the_odd_row_below(tmp_path):
    """3x2 pixels (w x h) into 3x3 leave one row: left and top are rounded down."""
    path = save(tmp_path / "a.png", np.zeros((2, 3, 3)))
    found = read(path, 1, 3, 3, 3, resize="letterbox", pad_value=7)
    assert found[0, 2].tolist() == [[0] * 3, [0] * 3, [7] * 3]


def test_letterbox_bottom_right_keeps_the_corner(tmp_path):
    """YOLOX pads right and below only."""
    path = save(tmp_path / "a.png", np.zeros((4, 2, 3)))
    found = read(path, 1, 3, 4, 4, resize="letterbox", pad_side="bottom_right")
    assert found[0, 0].tolist() == [[0, 0, 114, 114]] * 4


def test_bilinear_without_antialias_samples_at_pixel_centres(tmp_path):
    """0 and 100 doubled: 0, 25, 75, 100, as OpenCV's INTER_LINEAR gives."""
    path = save(tmp_path / "a.png", [[[0] * 3, [100] * 3]])
    found = read(path, 1, 3, 1, 4, antialias=False)
    assert found[0, 0].tolist() == [[0, 25, 75, 100]]


def test_antialias_averages_when_shrinking(tmp_path):
    """Of 0 0 0 0 | 200 x 4 shrunk to two, point sampling keeps 0, 200; averaging mixes them."""
    path = save(tmp_path / "a.png", [[[0] * 3] * 4 + [[200] * 3] * 4])
    assert read(path, 1, 3, 1, 2, antialias=False)[0, 0].tolist() == [[0, 200]]
    low, high = read(path, 1, 3, 1, 2, antialias=True)[0, 0, 0]
    assert 0 < low < 100 < high < 200


def test_crop_takes_the_centre(tmp_path):
    """Short side 2 of a 6x2 picture (w x h) is as it was; columns 2 and 3 are the centre."""
    columns = np.arange(6, dtype=np.uint8) * 10
    path = save(tmp_path / "a.png", np.tile(columns[None, :, None], (2, 1, 3)))
    found = read(path, 1, 3, 2, 2, resize="crop", short_side=2)
    assert found[0, 0].tolist() == [[20, 30], [20, 30]]


def test_without_resize_the_size_must_be_right(tmp_path):
    """resize none passes pixels through, and refuses any other size."""
    path = save(tmp_path / "a.png", [[[1] * 3, [2] * 3]])
    assert read(path, 1, 3, 1, 2, resize="none")[0, 0].tolist() == [[1, 2]]
    with pytest.raises(DataError) as caught:
        read(path, 1, 3, 2, 2, resize="none")
    assert str(caught.value) == (
        "a.png is 1x2 (height x width), expected 2x2, as resize is none."
        " Choose resize stretch, letterbox or crop."
    )


def test_luma_follows_its_definition(tmp_path):
    """Y = 0.299 R + 0.587 G + 0.114 B: pure red of 255 gives 76."""
    path = save(tmp_path / "a.png", [[[255, 0, 0]]])
    assert read(path, 1, 1, 1, 1, channels="y").item() == 76
    assert read(path, 1, 1, 1, 1, channels="gray").item() == 76


def test_every_mode_becomes_rgb(tmp_path):
    """Gray, palette, transparency, CMYK, 1 bit and 16 bit pictures all give three channels."""
    rgb = Image.new("RGB", (2, 2), (255, 255, 255))
    for mode in ("L", "P", "RGBA", "LA", "1"):
        rgb.convert(mode).save(tmp_path / f"{mode}.png")
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    Image.fromarray(np.full((2, 2), 65535, dtype=np.uint16)).save(tmp_path / "sixteen.png")
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(tmp_path / "transparent.png", transparency=b"\x00\xff")
    data = open_data(str(tmp_path), (spec(1, 3, 2, 2),), role="calibration", overrides=RAW)
    assert len(data) == 8
    for sample in data:
        assert sample["x"].min() >= 254  # JPEG may lose one


def test_exif_orientation_is_applied(tmp_path):
    """Orientation 6 means: turn by 90 degrees clockwise; the left pixel becomes the upper one."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.png", [[[0] * 3, [200] * 3]], exif=exif)
    assert read(path, 1, 3, 2, 1)[0, 0].tolist() == [[0], [200]]


def test_files_are_sorted_and_others_ignored(tmp_path):
    """Labels, notes and hidden files are no samples, capital suffixes are."""
    for name, value in (("b.JPEG", 2), ("a.png", 1), ("c.bmp", 3), (".hidden.png", 9)):
        save(tmp_path / name, np.full((2, 2, 3), value))
    for name in ("a.txt", "labels.csv", "README.md"):
        (tmp_path / name).write_text("")
    data = open_data(str(tmp_path), (spec(1, 3, 2, 2),), role="calibration", overrides=RAW)
    assert [data.label(index) for index in range(3)] == ["a.png", "b.JPEG", "c.bmp"]
    assert [sample["x"].max() for sample in data] == [1, 2, 3]
    assert data.warnings == ()


def test_subfolders_count_only_without_images_at_the_top(tmp_path):
    """A folder of class folders is searched; a picture at the top ends the search there."""
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "1.png", np.zeros((2, 2, 3)))
    inputs = (spec(1, 3, 2, 2),)
    data = open_data(str(tmp_path), inputs, role="calibration")
    assert [data.label(0), data.label(1)] == ["cat/1.png", "dog/1.png"]
    save(tmp_path / "top.png", np.zeros((2, 2, 3)))
    assert len(open_data(str(tmp_path), inputs, role="calibration")) == 1


def test_a_broken_image_is_skipped_and_named(tmp_path):
    """Cut-off and nonsensical files are counted, named, and left out of the samples."""
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3))
    save(tmp_path / "a.png", noise)
    whole = save(tmp_path / "b.jpg", noise).read_bytes()
    (tmp_path / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    inputs = (spec(1, 3, 8, 8),)
    data = open_data(str(tmp_path), inputs, role="calibration", preset="raw")
    assert len(data) == data.available == 2
    assert data.skipped == ("broken.jpg",)
    assert data.warnings == ("1 of 3 images could not be read and was skipped: broken.jpg.",)
    (tmp_path / "c.png").write_bytes(b"no picture")
    data = open_data(str(tmp_path), inputs, role="calibration", preset="raw")
    assert data.warnings == (
        "2 of 4 images could not be read and were skipped: broken.jpg, c.png.",
    )


def test_nothing_readable_is_an_error(tmp_path):
    """A folder of broken pictures gives no analysis."""
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 1 images cannot be read, the first is a.png;"):
        open_data(str(tmp_path), (spec(1, 3, 8, 8),), role="calibration")


def test_a_decompression_bomb_is_not_decoded(tmp_path, monkeypatch):
    """A picture over Pillow's limit of pixels counts as unreadable."""
    save(tmp_path / "a.png", np.zeros((2, 2, 3)))
    save(tmp_path / "bomb.png", np.zeros((40, 40, 3)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = open_data(str(tmp_path), (spec(1, 3, 2, 2),), role="calibration")
    assert data.skipped == ("bomb.png",)


def test_a_fixed_batch_groups_pictures(tmp_path):
    """Five pictures make two runs of a model with batch 2; the fifth is dropped with a warning."""
    for index in range(5):
        save(tmp_path / f"{index}.png", np.full((2, 2, 3), index))
    inputs = (spec(2, 3, 2, 2),)
    data = open_data(str(tmp_path), inputs, role="calibration", overrides=RAW)
    assert len(data) == 2
    assert data[1]["x"][:, 0, 0, 0].tolist() == [2, 3]
    assert data.label(1) == "2.png to 3.png"
    assert data.warnings == ("1 of 5 images was dropped, as the model takes batches of 2.",)
    with pytest.raises(DataError, match="5 images are less than the model's batch of 8"):
        open_data(str(tmp_path), (spec(8, 3, 2, 2),), role="calibration")


def test_limit_reads_no_further(tmp_path):
    """With two samples wanted, the third file is not even opened."""
    for name in ("a.png", "b.png"):
        save(tmp_path / name, np.zeros((2, 2, 3)))
    (tmp_path / "c.png").write_bytes(b"no picture")
    data = open_data(str(tmp_path), (spec(1, 3, 2, 2),), role="calibration", limit=2)
    assert (len(data), data.available, data.skipped) == (2, 3, ())


def test_a_guess_is_a_warning_and_a_file_beside_the_data_ends_it(tmp_path):
    """The default recipe says that it is one, and what to do about it."""
    save(tmp_path / "a.png", np.zeros((2, 2, 3)))
    inputs = (spec(1, 3, 2, 2),)
    data = open_data(str(tmp_path), inputs, role="calibration")
    (warning,) = data.warnings
    assert warning == (
        "How images are prepared is a guess: stretched to 2x2, RGB, x/255, NCHW. Name what the"
        " model was trained with by --preset, or in [preprocess] of qanalyze.toml beside the"
        " data."
    )
    (tmp_path / "qanalyze.toml").write_text('[preprocess]\npreset = "minus-one-one"\n')
    data = open_data(str(tmp_path / "a.png"), inputs, role="calibration")
    assert data.warnings == ()
    assert data.preprocessing == (
        f"stretched to 2x2, RGB, x/127.5 - 1, NCHW (from {tmp_path / 'qanalyze.toml'})"
    )
    assert data[0]["x"].tolist() == np.full((1, 3, 2, 2), -1).tolist()


def test_shape_binds_free_height_and_width(tmp_path):
    """A dynamic model gets the size, and the batch, that the user chose."""
    save(tmp_path / "a.png", np.zeros((9, 9, 3)))
    inputs = (spec(None, 3, None, None),)
    data = open_data(str(tmp_path), inputs, role="calibration", shapes={"x": (1, 3, 4, 8)})
    assert data.shapes == {"x": (1, 3, 4, 8)}
    assert data[0]["x"].shape == (1, 3, 4, 8)
    with pytest.raises(DataError, match="leaves its height and width free"):
        open_data(str(tmp_path), inputs, role="calibration")


def test_images_need_a_single_image_input(tmp_path):
    """Two inputs, or one that is no picture, cannot be fed from pictures."""
    save(tmp_path / "a.png", np.zeros((2, 2, 3)))
    with pytest.raises(DataError) as caught:
        open_data(str(tmp_path), (spec(1, 3, 2, 2), spec(1, name="y")), role="calibration")
    assert str(caught.value) == (
        f"{tmp_path} holds images, but the model has 2 inputs: 'x', 'y'."
        " Give .npz files with one key per input, or module:function."
    )
    with pytest.raises(DataError, match=r"shape \(1, 640\), which takes no pictures"):
        open_data(str(tmp_path), (spec(1, 640),), role="calibration")


def test_float16_inputs_get_float16(tmp_path):
    """Values are rounded once, from the exact result."""
    path = save(tmp_path / "a.png", [[[255] * 3]])
    data = open_data(str(path), (spec(1, 3, 1, 1, dtype="float16"),), role="x", preset="imagenet",
                     overrides={"resize": "stretch"})  # fmt: skip
    found = data[0]["x"]
    assert found.dtype == np.float16
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert found.ravel().tolist() == np.array(expected, dtype=np.float16).tolist()


def test_a_picture_that_vanishes_is_named(tmp_path):
    """What could be read at the start and not later is an error, not a skipped sample."""
    path = save(tmp_path / "a.png", np.zeros((2, 2, 3)))
    data = open_data(str(tmp_path), (spec(1, 3, 2, 2),), role="calibration")
    path.unlink()
    with pytest.raises(DataError, match=r"a\.png could be read before, but not any more"):
        data[0]
