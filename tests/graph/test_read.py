# SPDX-License-Identifier: Apache-2.0
"""Files that are no models, are damaged, or reach for other files, are refused with a sentence."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from analyzer.errors import ModelError
from analyzer.graph.read import read_model

TEXT = """<ir_version: 8, opset_import: ["": 13]>
g (float[1, 2] x) => (float[1, 2] y) <float[1, 2] w = {1, 2}> { y = Add(x, w) }"""


@pytest.fixture
def model():
    return onnx.parser.parse_model(TEXT)


def save(model, path):
    path.write_bytes(model.SerializeToString())
    return path


def external(model, location, **entries):
    """Move the weight of `model` into an external file, by name only."""
    weight = model.graph.initializer[0]
    weight.ClearField("float_data")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=str(value))
    return model


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "is a PNG image"),
        (b"\xff\xd8\xff\xe0", "is a JPEG image"),
        (b"PK\x03\x04" + bytes(20), "PyTorch"),
        (b"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"),
        (b"Dear reader, this is a text.", "starts with b'Dear rea'"),
        (bytes(range(255, 100, -1)), "starts with b'\\xff\\xfe"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path, content, says):
    """The message tells what the file is instead of a model, and what to do."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as error:
        read_model(path)
    assert says in error.value.message
    assert error.value.remedy


def test_a_missing_file_is_named(tmp_path):
    """The path is in the message."""
    with pytest.raises(ModelError, match=r"no file '.*nothing\.onnx'"):
        read_model(tmp_path / "nothing.onnx")


def test_a_folder_is_refused_with_the_models_in_it(tmp_path, model):
    """A folder given by mistake lists the models that could have been meant."""
    save(model, tmp_path / "inside.onnx")
    with pytest.raises(ModelError, match=r"is a folder.*inside\.onnx"):
        read_model(tmp_path)


def test_every_truncation_is_refused(tmp_path, model):
    """However many bytes are left of a model, none of them is taken for one."""
    data = model.SerializeToString()
    path = tmp_path / "cut.onnx"
    end_of_graph = data.rindex(b"B\x04\n\x00\x10\x0d")  # the opset comes last
    for length in range(end_of_graph):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError):
            read_model(path)


def test_names_that_are_not_text_are_refused(tmp_path, model):
    """A damaged name is reported as it is stored."""
    path = save(model, tmp_path / "model.onnx")
    path.write_bytes(path.read_bytes().replace(b"Add", b"A\xffd"))
    with pytest.raises(ModelError, match="not UTF-8 text"):
        read_model(path)


@pytest.mark.parametrize("what", ["node", "output"])
def test_an_empty_graph_is_refused(tmp_path, model, what):
    """A graph without nodes or outputs computes nothing."""
    del getattr(model.graph, what)[:]
    with pytest.raises(ModelError, match=f"has no {what}s"):
        read_model(save(model, tmp_path / "model.onnx"))


def test_a_huge_declared_shape_allocates_nothing(tmp_path, model):
    """A tensor that declares 4 TB and stores 8 bytes is refused by its numbers."""
    weight = model.graph.initializer[0]
    weight.ClearField("float_data")
    weight.raw_data = bytes(8)
    weight.dims[:] = [1000000, 1000000]
    with pytest.raises(ModelError, match="needs 4000000000000 bytes, but 8 are stored"):
        read_model(save(model, tmp_path / "model.onnx"))


def test_typed_fields_are_counted_too(tmp_path, model):
    """A shape that disagrees with the number of stored floats is refused."""
    model.graph.initializer[0].dims[:] = [3]
    with pytest.raises(ModelError, match="needs 3 values, but 2 are stored"):
        read_model(save(model, tmp_path / "model.onnx"))


def test_negative_axes_are_refused(tmp_path, model):
    """Two negative axes have a positive product, and are no shape all the same."""
    model.graph.initializer[0].dims[:] = [-1, -2]
    with pytest.raises(ModelError, match="no negative axis"):
        read_model(save(model, tmp_path / "model.onnx"))


def test_external_data_is_read_and_hashed(tmp_path, model):
    """External weights come in at their offset, and the digest covers both files."""
    data = bytes(4) + struct.pack("<2f", 5, 7)
    (tmp_path / "weights.bin").write_bytes(data)
    path = save(external(model, "weights.bin", offset=4, length=8), tmp_path / "model.onnx")
    file = read_model(path)
    weight = file.proto.graph.initializer[0]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), [[5, 7]])
    assert weight.data_location == TensorProto.DEFAULT
    assert file.sha256 == hashlib.sha256(path.read_bytes() + data).hexdigest()


def test_a_missing_external_file_is_named(tmp_path, model):
    """The message names the data file that has to be copied along."""
    path = save(external(model, "weights.bin"), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"data file 'weights\.bin' .* is missing"):
        read_model(path)


@pytest.mark.parametrize("location", ["/weights.bin", "../weights.bin", "a/../../w", "", "a\\b"])
def test_external_data_elsewhere_is_refused(tmp_path, model, location):
    """A model cannot make us read files outside of its folder."""
    (tmp_path / "weights.bin").write_bytes(bytes(8))
    folder = tmp_path / "folder"
    folder.mkdir()
    path = save(external(model, location), folder / "model.onnx")
    with pytest.raises(ModelError, match="expected a file below the folder"):
        read_model(path)


def test_external_data_behind_a_link_is_refused(tmp_path, model):
    """A symbolic link does not lead out of the folder either."""
    (tmp_path / "secret").write_bytes(bytes(8))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "weights.bin").symlink_to(tmp_path / "secret")
    path = save(external(model, "weights.bin"), folder / "model.onnx")
    with pytest.raises(ModelError, match="expected a file below the folder"):
        read_model(path)


@pytest.mark.parametrize(
    "entries", [{"offset": 4}, {"length": 4}, {"offset": -8}, {"length": "many"}]
)
def test_external_data_out_of_bounds_is_refused(tmp_path, model, entries):
    """Offset and length must lie in the file and fit the shape."""
    (tmp_path / "weights.bin").write_bytes(bytes(8))
    path = save(external(model, "weights.bin", **entries), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="needs 8 bytes, but names"):
        read_model(path)
