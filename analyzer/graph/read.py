# SPDX-License-Identifier: Apache-2.0
"""Reading an ONNX file: a path goes in, the ModelProto with all its weights inside comes out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs
from onnx import TensorProto

from analyzer.errors import ModelError
from analyzer.graph.view import subgraphs

# protobuf cannot serialize a message of 2 GiB, so no later stage could run it
_MAX_BYTES = 2**31 - 1

# (offset, bytes, what it is): files that people give by mistake
_MAGIC = (
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"PK\x03\x04", "a ZIP archive (PyTorch saves its checkpoints so)"),
    (0, b"\x89HDF", "an HDF5 file (Keras saves its models so)"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "a model in onnxruntime's own ORT format"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
)


def _count_int32(tensor: TensorProto) -> int:
    return len(tensor.int32_data)


# typed fields of a TensorProto; everything narrower than 32 bits shares int32_data
_FIELDS: dict[int, Callable[[TensorProto], int]] = {
    TensorProto.FLOAT: lambda t: len(t.float_data),
    TensorProto.COMPLEX64: lambda t: len(t.float_data) // 2,
    TensorProto.DOUBLE: lambda t: len(t.double_data),
    TensorProto.COMPLEX128: lambda t: len(t.double_data) // 2,
    TensorProto.INT64: lambda t: len(t.int64_data),
    TensorProto.UINT32: lambda t: len(t.uint64_data),
    TensorProto.UINT64: lambda t: len(t.uint64_data),
    TensorProto.STRING: lambda t: len(t.string_data),
}
_BITS_BELOW_8 = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model as the user saved it, external data read in.

    Attributes:
        sha256: hex digest of the file, then of its external data files by sorted name.
    """

    proto: onnx.ModelProto
    sha256: str


def read_model(path: Path) -> ModelFile:
    """Read an ONNX file and its external data.

    No more memory is taken than the files have bytes, whatever shapes they declare.

    Raises:
        ModelError: if the file or its external data is missing, unreadable or not ONNX.
    """
    data = _read(path)
    proto = _parse(data, path)
    _check_names(proto)
    digest = hashlib.sha256(data)
    for external in _load_external(proto, path, len(data)):
        with external.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    for tensor in all_tensors(proto):
        _check_size(tensor)
    return ModelFile(proto, digest.hexdigest())


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield `graph` and every body below it."""
    yield graph
    for node in graph.node:
        for body in subgraphs(node):
            yield from all_graphs(body)


def all_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of the graph, of all bodies below it and of the model's functions."""
    for graph in all_graphs(proto.graph):
        yield from graph.node
    for function in proto.functions:
        for node in function.node:
            yield node
            for body in subgraphs(node):
                for graph in all_graphs(body):
                    yield from graph.node


def attribute_tensors(node: onnx.NodeProto) -> Iterator[TensorProto]:
    """Yield the tensors among the attributes of one node."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
            if sparse.HasField("values"):
                yield sparse.values
                yield sparse.indices


def all_tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yield every stored tensor of the model: initializers and attributes, at any depth."""
    for graph in all_graphs(proto.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
    for node in all_nodes(proto):
        yield from attribute_tensors(node)


def _read(path: Path) -> bytes:
    if path.is_dir():
        inside = sorted(p.name for p in path.glob("*.onnx"))
        remedy = f"Give one of its files: {', '.join(inside[:5])}." if inside else ""
        raise ModelError(
            f"'{path}' is a folder, expected an ONNX file.", remedy or "Give the .onnx file."
        )
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise _too_large(path, path.stat().st_size)
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(
            f"There is no file '{path}', expected an ONNX model.", "Check the path."
        ) from None
    except OSError as error:
        raise ModelError(
            f"'{path}' cannot be read ({error.strerror}), expected an ONNX model.",
            "Check the path and its permissions.",
        ) from error


def _too_large(path: Path, size: int) -> ModelError:
    return ModelError(
        f"'{path}' holds {size / 1e9:.1f} GB with its weights, expected less than "
        f"{_MAX_BYTES / 1e9:.1f} GB.",
        "Analyze a part of the model, cut out with onnx.utils.extract_model.",
    )


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    export = "Export the model to ONNX and give that file."
    if not data:
        raise ModelError(f"'{path}' is empty, expected an ONNX model.", export)
    for offset, magic, kind in _MAGIC:
        if data[offset : offset + len(magic)] == magic:
            raise ModelError(f"'{path}' is {kind}, expected an ONNX model.", export)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        # field 1, the IR version, is what every exporter writes first
        if data[0] == 0x08:
            raise ModelError(
                f"'{path}' is damaged or cut short after {len(data)} bytes, "
                "expected a whole ONNX model.",
                "Export or download it again.",
            ) from error
        raise ModelError(
            f"'{path}' starts with {data[:8]!r}, which is not an ONNX model.", export
        ) from error
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError(f"'{path}' holds no graph, which an ONNX model has.", export)
    for what, found in (("nodes", proto.graph.node), ("outputs", proto.graph.output)):
        if not found:
            raise ModelError(
                f"The graph of '{path}' has no {what}, expected at least one.",
                "Export or download the model again.",
            )
    return proto


def _check_names(proto: onnx.ModelProto) -> None:
    """Refuse names that are not text; protobuf hands those over as bytes."""
    names = [name for n in all_nodes(proto) for name in (n.op_type, n.domain, n.name)]
    names += [name for n in all_nodes(proto) for slots in (n.input, n.output) for name in slots]
    names += [a.name for n in all_nodes(proto) for a in n.attribute]
    names += [o.domain for o in proto.opset_import]
    names += [text for p in proto.metadata_props for text in (p.key, p.value)]
    for graph in all_graphs(proto.graph):
        names += [v.name for values in (graph.input, graph.output) for v in values]
        names += [t.name for t in graph.initializer]
    for name in names:
        if not isinstance(name, str):
            raise ModelError(
                f"The model has a name that is not UTF-8 text ({name!r}), expected one that is.",
                "Export or download the model again.",
            )


def _load_external(proto: onnx.ModelProto, path: Path, size: int) -> list[Path]:
    """Read external tensors into `proto`, and return the files they came from, sorted."""
    files: dict[str, Path] = {}
    for tensor in all_tensors(proto):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {e.key: e.value for e in tensor.external_data}
        location = entries.get("location", "")
        if location not in files:
            files[location] = _resolve(location, tensor.name, path)
        size += _read_external(tensor, entries, files[location])
        if size > _MAX_BYTES:
            raise _too_large(path, size)
    return [files[name] for name in sorted(files)]


def _resolve(location: str, tensor: str, path: Path) -> Path:
    """Return the file behind an external location; a model must not make us read others."""
    name = Path(location)
    folder = path.parent.resolve()
    outside = name.is_absolute() or ".." in name.parts or "\\" in location or not location
    file = folder / name
    if outside or not file.resolve().is_relative_to(folder):
        raise ModelError(
            f"Tensor '{tensor}' is stored in '{location}', expected a file below the folder of "
            f"'{path.name}'.",
            "Copy the data file beside the model, under a plain name.",
        )
    if not file.is_file():
        raise ModelError(
            f"The external data file '{location}' of '{path}' is missing, expected it at "
            f"'{file}'.",
            "Copy it beside the model.",
        )
    return file


def _read_external(tensor: TensorProto, entries: dict[str, str], file: Path) -> int:
    needed = _expected_bytes(tensor)
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", needed))
    except ValueError:
        offset = length = -1
    available = file.stat().st_size
    if offset < 0 or length != needed or offset + length > available:
        raise ModelError(
            f"Tensor '{tensor.name}' of shape {tuple(tensor.dims)} needs {needed} bytes, but "
            f"names bytes {entries.get('offset', 0)}+{entries.get('length', needed)} of the "
            f"{available} in '{entries['location']}'.",
            "Export or download the model and its data file again.",
        )
    with file.open("rb") as stream:
        stream.seek(offset)
        tensor.raw_data = stream.read(length)
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]
    return length


def _bits(data_type: int) -> int:
    name: str = TensorProto.DataType.Name(data_type)
    if name in _BITS_BELOW_8:
        return _BITS_BELOW_8[name]
    if name.startswith("FLOAT8"):
        return 8
    if name == "BFLOAT16":
        return 16
    return 8 * int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(data_type)).itemsize)


def _expected_bytes(tensor: TensorProto) -> int:
    known = tensor.data_type in TensorProto.DataType.values() and tensor.data_type
    if not known or any(d < 0 for d in tensor.dims):
        raise ModelError(
            f"Tensor '{tensor.name}' has data type {tensor.data_type} and shape "
            f"{tuple(tensor.dims)}, expected a known type and no negative axis.",
            "Export or download the model again.",
        )
    count: int = math.prod(tensor.dims)
    return -(-count * _bits(tensor.data_type) // 8)


def _check_size(tensor: TensorProto) -> None:
    """Hold the declared shape against the stored bytes, before anybody allocates it."""
    expected = _expected_bytes(tensor)
    count = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        held, unit = len(tensor.raw_data), "bytes"
    else:
        held, unit = _FIELDS.get(tensor.data_type, _count_int32)(tensor), "values"
        expected = count
        bits = _bits(tensor.data_type)
        if bits < 8:  # packed, as raw bytes are
            expected = -(-count * bits // 8)
    if held != expected:
        raise ModelError(
            f"Tensor '{tensor.name}' of shape {tuple(tensor.dims)} needs {expected} {unit}, but "
            f"{held} are stored.",
            "Export or download the model again.",
        )
