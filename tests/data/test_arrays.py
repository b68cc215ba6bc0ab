# SPDX-License-Identifier: Apache-2.0
"""Samples from .npy, .npz and ONNX test_data_set files: how they are cut, and what is refused."""

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from analyzer.data import open_data
from analyzer.data.fitting import fit
from analyzer.errors import ConfigError, DataError
from analyzer.records import TensorSpec


def spec(name, *shape, dtype="float32"):
    return TensorSpec(name, dtype, shape)


def save(path, array):
    np.save(path, array)
    return path


def rows(*shape, dtype="float32"):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def opened(path, *inputs, **options):
    return open_data(str(path), inputs, role="calibration", **options)


def refusal(path, *inputs, **options):
    with pytest.raises(DataError) as caught:
        opened(path, *inputs, **options)
    return str(caught.value)


def write_set(folder, *arrays, names=None):
    folder.mkdir(parents=True)
    for index, array in enumerate(arrays):
        tensor = numpy_helper.from_array(array, names[index] if names else "")
        (folder / f"input_{index}.pb").write_bytes(tensor.SerializeToString())


@pytest.mark.parametrize("batch", [1, None])
def test_rows_are_samples(tmp_path, batch):
    """(3, 2) for an input [1, 2] or [N, 2] is three runs of one row."""
    data = opened(save(tmp_path / "a.npy", rows(3, 2)), spec("x", batch, 2))
    assert data.shapes == {"x": (1, 2)}
    assert [sample["x"].tolist() for sample in data] == [[[0, 1]], [[2, 3]], [[4, 5]]]
    assert data.label(2) == "a.npy (sample 2)"


def test_rows_are_grouped_by_a_fixed_batch(tmp_path):
    """Five rows for batch 2 are two runs; the fifth is dropped, and that is said."""
    data = opened(save(tmp_path / "a.npy", rows(5, 1)), spec("x", 2, 1))
    assert [sample["x"].tolist() for sample in data] == [[[0], [1]], [[2], [3]]]
    assert data.warnings == (
        "1 row was dropped, as the model takes batches of 2: the first in a.npy.",
    )
    assert refusal(save(tmp_path / "b.npy", rows(1, 1)), spec("x", 2, 1)) == (
        "b.npy holds 1 rows, expected at least 2 for input 'x'. The model's batch size is fixed."
    )


def test_an_extra_axis_counts_samples(tmp_path):
    """(3, 2, 4) for an input [2, 4] is three runs, each with its own batch of two."""
    data = opened(save(tmp_path / "a.npy", rows(3, 2, 4)), spec("x", 2, 4))
    assert len(data) == 3
    assert data[1]["x"].tolist() == rows(3, 2, 4)[1].tolist()


def test_a_missing_batch_axis_is_one_sample(tmp_path):
    """Files of single samples without batch axis are common in folders."""
    for index in range(2):
        save(tmp_path / f"{index}.npy", np.full((3, 4), index, dtype=np.float32))
    data = opened(tmp_path, spec("x", 1, 3, 4))
    assert len(data) == 2
    assert data[1]["x"].shape == (1, 3, 4)
    assert data.label(1) == "1.npy"


@given(st.integers(1, 5), st.integers(1, 30), st.integers(1, 4))
def test_every_row_is_in_one_run_or_dropped(batch, count, width):
    """Runs, batch by batch, are the rows in order, but for fewer than one batch at the end."""
    array = rows(count, width)
    found = fit(array.shape, (batch, width))
    runs = [found.cut(array, index) for index in range(found.count)]
    kept = count - found.dropped
    assert 0 <= found.dropped < batch
    if runs:
        assert np.array_equal(np.concatenate(runs), array[:kept])


def test_scalars_serve_every_sample(tmp_path):
    """A 0-d array goes with all samples; a 1-d one gives each sample its own scalar."""
    inputs = spec("x", None, 2), spec("sr", dtype="int64")
    np.savez(tmp_path / "a.npz", x=rows(2, 2), sr=np.int64(16000))
    np.savez(tmp_path / "b.npz", x=rows(2, 2), sr=np.array([8000, 16000]))
    assert [s["sr"].item() for s in opened(tmp_path / "a.npz", *inputs)] == [16000, 16000]
    assert [s["sr"].item() for s in opened(tmp_path / "b.npz", *inputs)] == [8000, 16000]
    assert opened(tmp_path / "a.npz", *inputs).shapes == {"x": (1, 2), "sr": ()}


def test_a_single_state_serves_every_sample(tmp_path):
    """A state whose axis 0 is no batch axis is given once, exactly as the model takes it."""
    np.savez(tmp_path / "a.npz", x=rows(3, 4), state=rows(2, 1, 8))
    data = opened(tmp_path / "a.npz", spec("x", None, None), spec("state", 2, None, 8))
    assert len(data) == 3
    assert data.shapes == {"x": (1, 4), "state": (2, 1, 8)}
    assert np.array_equal(data[2]["state"], rows(2, 1, 8))


def test_inputs_must_agree_on_the_number_of_samples(tmp_path):
    """The message names both counts."""
    np.savez(tmp_path / "a.npz", x=rows(3, 2), y=rows(4, 2))
    assert refusal(tmp_path / "a.npz", spec("x", 1, 2), spec("y", 1, 2)) == (
        "a.npz holds 3 samples for input 'x', but 4 for input 'y'."
        " Give as many for each input, or a single one that serves all samples."
    )


def test_a_lone_key_serves_a_lone_input(tmp_path):
    """np.savez without names is fine for a model with one input; extra keys need the name."""
    np.savez(tmp_path / "a.npz", rows(2, 2))
    assert len(opened(tmp_path / "a.npz", spec("x", 1, 2))) == 2
    np.savez(tmp_path / "b.npz", x=rows(2, 2), labels=np.array(["a", "b"], dtype=object))
    assert len(opened(tmp_path / "b.npz", spec("x", 1, 2))) == 2
    np.savez(tmp_path / "c.npz", image=rows(2, 2), labels=rows(2))
    assert refusal(tmp_path / "c.npz", spec("images", 1, 2)) == (
        "c.npz has no array for input 'images': found 'image', 'labels', expected 'images'."
        " Did you mean 'image'?"
    )


def test_a_wrong_shape_names_found_and_expected(tmp_path):
    """The sentence that users of calibration data meet most."""
    path = save(tmp_path / "calib.npy", np.zeros((3, 224, 224), dtype=np.float32))
    assert refusal(path, spec("images", 1, 3, 640, 640)) == (
        "calib.npy holds arrays of shape (3, 224, 224), expected (N, 3, 640, 640) for input"
        " 'images'. Save the arrays as the model takes them, already resized and normalized."
    )


def test_a_wrong_axis_order_gets_the_transposition(tmp_path):
    """NHWC data for an NCHW model, and the other way round."""
    nhwc = save(tmp_path / "nhwc.npy", rows(2, 8, 9, 3))
    nchw = save(tmp_path / "nchw.npy", rows(2, 3, 8, 9))
    assert refusal(nhwc, spec("x", 1, 3, 8, 9)).endswith("save array.transpose(0, 3, 1, 2).")
    assert refusal(nchw, spec("x", 1, 8, 9, 3)).endswith("save array.transpose(0, 2, 3, 1).")


def test_a_missing_channel_axis_gets_the_reshape(tmp_path):
    """(5, 28, 28) for a model of one channel."""
    path = save(tmp_path / "a.npy", rows(5, 28, 28))
    assert refusal(path, spec("x", 1, 1, 28, 28)).endswith("Save array.reshape(5, 1, 28, 28).")


def test_types_are_converted_where_nothing_is_lost(tmp_path):
    """Floats of any width fit float inputs; integers fit wider integers, and narrower if small."""
    for name, array, given_spec in (
        ("f64", rows(1, 2, dtype="float64"), spec("x", 1, 2)),
        ("f16", rows(1, 2, dtype="float16"), spec("x", 1, 2)),
        ("i32", rows(1, 2, dtype="int32"), spec("x", 1, 2, dtype="int64")),
        ("i64", rows(1, 2, dtype="int64"), spec("x", 1, 2, dtype="int32")),
        ("big", rows(1, 2, dtype=">f4"), spec("x", 1, 2)),
    ):
        data = opened(save(tmp_path / f"{name}.npy", array), given_spec)
        found = data[0]["x"]
        assert (found.dtype, found.tolist()) == (np.dtype(given_spec.dtype), [[0, 1]])
        assert data.warnings == ()


def test_pixels_for_a_float_input_are_used_with_a_warning(tmp_path):
    """uint8 data is not divided by anything, and that is said once for all files."""
    for index in range(2):
        save(tmp_path / f"{index}.npy", np.full((1, 2), 255, dtype=np.uint8))
    data = opened(tmp_path, spec("x", 1, 2))
    assert data[1]["x"].tolist() == [[255.0, 255.0]]
    (warning,) = data.warnings
    assert warning == (
        "0.npy holds uint8 for the float32 input 'x': values 0..255 are used as they are, nothing"
        " is divided or subtracted."
    )


def test_types_that_lose_something_are_refused(tmp_path):
    """Floats are no token ids, and an int32 input cannot hold 2**40."""
    path = save(tmp_path / "a.npy", rows(1, 2))
    assert refusal(path, spec("ids", 1, 2, dtype="int64")) == (
        "a.npy holds float32, expected int64 for input 'ids'."
        " Save it with .astype(np.int64), if that is what the numbers mean."
    )
    data = opened(save(tmp_path / "b.npy", np.array([[2**40]])), spec("ids", 1, 1, dtype="int32"))
    with pytest.raises(DataError, match=r"b.npy ranges 1099511627776 to 1099511627776, but input"):
        data[0]


def test_an_input_type_without_numpy_is_refused(tmp_path):
    """Strings cannot be fed from arrays."""
    path = save(tmp_path / "a.npy", rows(1, 2))
    assert refusal(path, spec("x", 1, 2, dtype="string")).startswith(
        "Input 'x' has the type string, which cannot be fed from data."
    )


def test_pickles_are_never_read(tmp_path):
    """An array of Python objects could run code when read."""
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", np.array([{}], dtype=object))
    assert refusal(tmp_path / "a.npy", spec("x", 1)).startswith(
        "a.npy holds Python objects, which are never unpickled. Use a plain array of numbers."
    )
    assert "b.npz['arr_0'] holds Python objects" in refusal(tmp_path / "b.npz", spec("x", 1))


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_nonsense_is_named(tmp_path, name):
    """A file that is not what its name says."""
    (tmp_path / name).write_bytes(b"nonsense")
    text = refusal(tmp_path / name, spec("x", 1))
    assert text.startswith(f"{name} cannot be read: ")
    assert text.endswith("Write it again, or remove it.")


def test_an_empty_array_has_no_samples(tmp_path):
    """Zero rows are an error at once."""
    path = save(tmp_path / "a.npy", np.zeros((0, 2), dtype=np.float32))
    assert refusal(path, spec("x", 1, 2)).startswith("a.npy holds no samples, expected at least 1")


def test_samples_of_different_shapes_are_refused_or_chosen(tmp_path):
    """A free axis must be the same in all samples; --shape uses those that fit."""
    save(tmp_path / "a.npy", rows(2, 5))
    save(tmp_path / "b.npy", rows(2, 7))
    inputs = (spec("x", None, None),)
    assert refusal(tmp_path, *inputs) == (
        "a.npy has shape (1, 5) for input 'x', but b.npy has (1, 7): all samples of a run need"
        " one shape. Pass --shape x=1,5 to use the samples of that shape only, or pad the others."
    )
    data = opened(tmp_path, *inputs, shapes={"x": (1, 7)})
    assert (len(data), data.shapes, data.skipped) == (2, {"x": (1, 7)}, ("a.npy",))
    assert data.warnings == (
        "1 of 2 files do not have the shape that --shape gives and were skipped: 'a.npy'.",
    )
    assert refusal(tmp_path, *inputs, shapes={"x": (1, 6)}).startswith("None of 2 samples in ")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"image": (1, 2)}, "--shape names an unknown input 'image'. Did you mean 'images'?"),
        ({"images": (1, 3)}, r"--shape gives (1, 3) for input 'images', expected (?, 2)."),
        ({"images": (1,)}, r"--shape gives (1,) for input 'images', expected (?, 2)."),
        ({"images": (0, 2)}, r"--shape gives (0, 2) for input 'images', expected (?, 2)."),
    ],
)
def test_a_wrong_shape_option_is_refused(tmp_path, shapes, message):
    """--shape may choose free axes of known inputs only."""
    path = save(tmp_path / "a.npy", rows(1, 2))
    with pytest.raises(ConfigError) as caught:
        opened(path, spec("images", None, 2), shapes=shapes)
    assert str(caught.value).startswith(message)


def test_shape_chooses_the_batch(tmp_path):
    """--shape x=2,3 groups rows in twos on a model whose batch is free."""
    data = opened(save(tmp_path / "a.npy", rows(4, 3)), spec("x", None, 3), shapes={"x": (2, 3)})
    assert (len(data), data.shapes) == (2, {"x": (2, 3)})


def test_one_npz_per_sample(tmp_path):
    """Files of a folder are samples in the order of their names."""
    for index in range(3):
        np.savez(tmp_path / f"{index}.npz", x=np.full((1, 2), index, np.float32), y=rows(1, 1))
    data = opened(tmp_path, spec("x", 1, 2), spec("y", 1, 1))
    assert [sample["x"][0, 0] for sample in data] == [0, 1, 2]


def test_one_folder_of_npy_per_input(tmp_path):
    """The n-th files of the subfolders belong together; a lone one serves all."""
    for name, count in (("x", 3), ("y", 3), ("z", 1)):
        (tmp_path / name).mkdir()
        for index in range(count):
            save(tmp_path / name / f"{index}.npy", np.full((1, 2), index, dtype=np.float32))
    inputs = [spec(name, 1, 2) for name in "xyz"]
    data = opened(tmp_path, *inputs)
    assert [s["x"][0, 0] + 10 * s["y"][0, 0] + s["z"][0, 0] for s in data] == [0, 11, 22]
    assert data.label(1) == "x/1.npy"
    (tmp_path / "y" / "2.npy").unlink()
    assert refusal(tmp_path, *inputs).startswith(
        f"{tmp_path} holds 3 files for input 'x', but 2 for input 'y'. Give as many"
    )
    assert f"{tmp_path} has no folder of .npy files for input 'w'" in refusal(
        tmp_path, *inputs, spec("w", 1)
    )


def test_one_npy_per_input(tmp_path):
    """Files called like the inputs, rows as samples."""
    save(tmp_path / "ids.npy", rows(2, 3, dtype="int64"))
    save(tmp_path / "mask.npy", rows(2, 3, dtype="int64"))
    inputs = [spec(name, None, 3, dtype="int64") for name in ("ids", "mask")]
    assert len(opened(tmp_path, *inputs)) == 2


def test_an_npy_cannot_feed_two_inputs(tmp_path):
    """The message says how to save them instead."""
    path = save(tmp_path / "a.npy", rows(1, 2))
    assert refusal(path, spec("x", 1, 2), spec("y", 1, 2)) == (
        "a.npy holds one array, but the model has 2 inputs: 'x', 'y'."
        " Save an .npz file with one key per input, or one folder of .npy files per input."
    )


def test_onnx_test_data_sets(tmp_path):
    """Sets are in numerical order; the folder itself or its parent may be given."""
    for index in (0, 2, 10):
        write_set(tmp_path / f"test_data_set_{index}", np.full((1, 2), index, dtype=np.float32))
    data = opened(tmp_path, spec("x", 1, 2))
    assert [sample["x"][0, 0] for sample in data] == [0, 2, 10]
    single = opened(tmp_path / "test_data_set_2", spec("x", 1, 2))
    assert [sample["x"].tolist() for sample in single] == [[[2, 2]]]


def test_onnx_test_data_is_matched_by_name_or_position(tmp_path):
    """Names inside the tensors count where they are the inputs', else the numbers of the files."""
    one, two = np.ones((1, 1), np.float32), np.full((1, 1), 2, np.float32)
    write_set(tmp_path / "a" / "test_data_set_0", one, two)
    write_set(tmp_path / "b" / "test_data_set_0", one, two, names=["y", "x"])
    inputs = spec("x", 1, 1), spec("y", 1, 1)
    assert opened(tmp_path / "a", *inputs)[0]["x"].item() == 1
    assert opened(tmp_path / "b", *inputs)[0]["x"].item() == 2
    write_set(tmp_path / "c" / "test_data_set_0", one)
    assert refusal(tmp_path / "c", *inputs).startswith(
        "test_data_set_0 holds 1 inputs, expected 2: 'x', 'y'."
    )


def test_a_broken_tensor_file_is_named(tmp_path):
    """A cut-off protobuf message."""
    write_set(tmp_path / "test_data_set_0", rows(1, 2))
    path = tmp_path / "test_data_set_0" / "input_0.pb"
    path.write_bytes(path.read_bytes()[:-3])
    text = refusal(tmp_path, spec("x", 1, 2))
    assert text.startswith("test_data_set_0/input_0.pb cannot be read: ")
    path.write_bytes(onnx.TensorProto(data_type=99).SerializeToString())
    assert "input_0.pb cannot be read: " in refusal(tmp_path, spec("x", 1, 2))


def test_nothing_to_read(tmp_path):
    """Missing paths, empty folders, other files and mixed folders each get their own sentence."""
    inputs = (spec("images", 1, 3, 640, 640),)
    assert refusal(tmp_path / "no", *inputs).startswith(f"{tmp_path / 'no'} does not exist. Give")
    (tmp_path / "notes.txt").write_text("")
    assert refusal(tmp_path, *inputs) == (
        f"{tmp_path}/ has no .npy, .npz or image files. Expected batches shaped (N, 3, 640, 640)"
        " for input 'images'. Give a folder of images or of .npy or .npz files, one such file, a"
        " folder with ONNX test_data_set_* folders, or module:function."
    )
    assert refusal(tmp_path / "notes.txt", *inputs).startswith(
        f"{tmp_path / 'notes.txt'} is neither an image (PNG, JPEG, BMP) nor an .npy or .npz file."
    )
    save(tmp_path / "a.npy", rows(1, 2))
    (tmp_path / "b.png").write_bytes(b"")
    assert refusal(tmp_path, *inputs).startswith(
        f"{tmp_path} holds both images (b.png) and arrays (a.npy), expected one kind."
    )


def test_preprocessing_does_not_touch_arrays(tmp_path):
    """Who gives a preset with arrays is told that it has no effect."""
    data = opened(save(tmp_path / "a.npy", rows(1, 2)), spec("x", 1, 2), preset="yolo")
    assert data.warnings == ("Arrays are used as they are: preset concerns images only.",)
    assert data.preprocessing == ""


def test_memory_does_not_grow_with_the_file(tmp_path):
    """80 samples of 1 MB: reading all, from .npy and compressed .npz, keeps the cache, no more."""
    array = np.zeros((80, 2**18), dtype=np.float32)
    save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", array)
    del array
    for name in ("a.npy", "a.npz"):
        tracemalloc.start()
        data = opened(tmp_path / name, spec("x", 1, 2**18))
        for sample in data:
            assert not sample["x"].any()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        data.close()
        assert 24 * 2**20 < peak < 40 * 2**20


def test_unpacked_copies_are_removed(tmp_path, monkeypatch):
    """A member with many samples is unpacked once, and gone after close."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    np.savez(tmp_path / "a.npz", rows(3, 2))
    data = opened(tmp_path / "a.npz", spec("x", 1, 2))
    assert [sample["x"][0, 0] for sample in data] == [0, 2, 4]
    assert len(list(scratch.rglob("*.npy"))) == 1
    data.close()
    assert list(Path(scratch).iterdir()) == []
