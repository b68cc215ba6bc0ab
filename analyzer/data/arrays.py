# SPDX-License-Identifier: Apache-2.0
"""Samples from `.npy`, `.npz` and ONNX `test_data_set_*` files, read from disk on demand.

Only headers are read at first.  An `.npy` file is memory-mapped for each sample; a member of an
`.npz` file that holds many samples is unpacked once to a temporary `.npy` file, as a compressed
member cannot be entered in the middle.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import weakref
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, Protocol, cast

import numpy as np

from analyzer.data import fitting
from analyzer.data.fitting import Array, Fit, Shape
from analyzer.errors import DataError, nearest
from analyzer.records import TensorSpec

_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    SyntaxError,
    UnpicklingError,
    RuntimeError,  # zipfile: encrypted, or a compression that Python lacks
    zipfile.BadZipFile,
    zlib.error,
)


class StoredArray(Protocol):
    """An array that is known by its header, and read when it is asked for."""

    @property
    def label(self) -> str:
        """How messages name it."""

    @property
    def shape(self) -> Shape:
        """Of the whole array."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""

    def load(self, *, many: bool) -> Array:
        """Return the array, mapped from disk if `many` samples are going to be cut out of it."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An array in memory."""

    label: str
    array: Array

    @property
    def shape(self) -> Shape:
        """Of the whole array."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """As given."""
        return self.array.dtype

    def load(self, *, many: bool) -> Array:
        """Return the array."""
        return self.array


@dataclass(frozen=True, slots=True)
class Block:
    """Arrays for all inputs that belong together: one file, one folder, one yielded dict.

    Attributes:
        count: runs in it; an input with a single run serves all of them.
        parts: input name -> array and how it is cut.
        dropped: rows that do not fill a batch.
    """

    label: str
    count: int
    parts: Mapping[str, tuple[StoredArray, Fit]]
    dropped: int = 0

    @property
    def shapes(self) -> dict[str, Shape]:
        """Input name -> shape of one run."""
        return {name: fit.shape for name, (_, fit) in self.parts.items()}

    def read(self, index: int, inputs: tuple[TensorSpec, ...]) -> dict[str, Array]:
        """Return run `index` in the model's types."""
        sample = {}
        for spec in inputs:
            stored, fit = self.parts[spec.name]
            run = fit.cut(stored.load(many=fit.count > 1), index)
            sample[spec.name] = fitting.cast(run, spec, stored.label)
        return sample


def make_block(
    label: str, arrays: Mapping[str, StoredArray], inputs: tuple[TensorSpec, ...]
) -> tuple[Block, dict[str, str]]:
    """Check arrays against the inputs; return how they are cut, and doubts about input types.

    Raises:
        DataError: for a wrong shape or type, or if the inputs disagree on the number of runs.
    """
    parts: dict[str, tuple[StoredArray, Fit]] = {}
    doubts: dict[str, str] = {}
    for spec in inputs:
        stored = arrays[spec.name]
        if doubt := fitting.check_dtype(stored.dtype, spec, stored.label):
            doubts[spec.name] = doubt
        parts[spec.name] = stored, fitting.fit_or_raise(stored.shape, spec, stored.label)
    several = [(name, fit.count) for name, (_, fit) in parts.items() if fit.count > 1]
    for name, count in several[1:]:
        if count != several[0][1]:
            raise DataError(
                f"{label} holds {several[0][1]} samples for input {several[0][0]!r}, but {count}"
                f" for input {name!r}.",
                "Give as many for each input, or a single one that serves all samples.",
            )
    count = several[0][1] if several else 1
    dropped = max(fit.dropped for _, fit in parts.values())
    return Block(label, count, parts, dropped), doubts


def pick(
    found: Mapping[str, StoredArray], inputs: tuple[TensorSpec, ...], label: str
) -> dict[str, StoredArray]:
    """Choose the array of every input by name; a lone array serves a lone input.

    Raises:
        DataError: if an input has no array.
    """
    if len(inputs) == len(found) == 1:
        return {inputs[0].name: next(iter(found.values()))}
    for spec in inputs:
        if spec.name not in found:
            expected = fitting.join([each.name for each in inputs])
            raise DataError(
                f"{label} has no array for input {spec.name!r}: found"
                f" {fitting.join(list(found)) or 'nothing'}, expected {expected}.",
                nearest(spec.name, found) if found else "Name each array like its input.",
            )
    return {spec.name: found[spec.name] for spec in inputs}


class ArraySource:
    """Samples out of a list of files.

    Args:
        path: as the user gave it.
        inputs: as the model declares them.
        bound: the same with the user's `--shape` filled in; files of other shapes are skipped.

    Raises:
        DataError: if a file cannot be read or does not fit the model.
    """

    preprocessing = ""

    def __init__(
        self, path: Path, inputs: tuple[TensorSpec, ...], bound: tuple[TensorSpec, ...]
    ) -> None:
        self._inputs = inputs
        self._spool = Spool()
        self._warnings: list[str] = []
        self._skipped: list[str] = []
        self._blocks: list[Block] = []
        try:
            self._collect(_find(path, inputs, self._spool), bound, path)
        except BaseException:
            self._spool.close()
            raise
        self._ends = list(accumulate(block.count for block in self._blocks))
        self.shapes: Mapping[str, Shape] = self._blocks[0].shapes
        self.warnings = (*self._warnings, *self._summary())
        self.skipped = tuple(self._skipped)

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, index: int) -> dict[str, Array]:
        """Return run `index` in the model's types."""
        block, position = self._locate(index)
        try:
            return block.read(position, self._inputs)
        except _UNREADABLE as error:
            raise _unreadable(block.label, error) from error

    def label(self, index: int) -> str:
        """Name the file, and the sample within it."""
        block, position = self._locate(index)
        return block.label if block.count == 1 else f"{block.label} (sample {position})"

    def close(self) -> None:
        """Remove the unpacked copies."""
        self._spool.close()

    def _collect(
        self,
        found: Iterable[tuple[str, Mapping[str, StoredArray]]],
        bound: tuple[TensorSpec, ...],
        path: Path,
    ) -> None:
        doubted: set[str] = set()
        for label, arrays in found:
            chosen = pick(arrays, self._inputs, label)
            block, doubts = make_block(label, chosen, self._inputs)
            if bound != self._inputs:
                if any(fitting.fit(chosen[spec.name].shape, spec.shape) is None for spec in bound):
                    self._skipped.append(label)
                    continue
                block, doubts = make_block(label, chosen, bound)
            for name, doubt in doubts.items():
                if name not in doubted:  # one line per input, not one per file
                    doubted.add(name)
                    self._warnings.append(doubt)
            if self._blocks:
                _check_same_shapes(self._blocks[0], block)
            self._blocks.append(block)
        if not self._blocks:
            wanted = ", ".join(f"{spec.name}={spec.shape}" for spec in bound)
            raise DataError(
                f"None of {len(self._skipped)} samples in {path} has the shape that --shape gives:"
                f" {wanted}.",
                "Change --shape, or leave it out to take the shape of the data.",
            )

    def _summary(self) -> list[str]:
        lines = []
        dropped = sum(block.dropped for block in self._blocks)
        if dropped:
            batch = max(fit.batch for _, fit in self._blocks[0].parts.values())
            lines.append(
                f"{dropped} row{'s were' if dropped > 1 else ' was'} dropped, as the model takes"
                f" batches of {batch}: the first in"
                f" {next(block.label for block in self._blocks if block.dropped)}."
            )
        if self._skipped:
            lines.append(
                f"{len(self._skipped)} of {len(self._skipped) + len(self._blocks)} files do not"
                f" have the shape that --shape gives and were skipped:"
                f" {fitting.join(self._skipped)}."
            )
        return lines

    def _locate(self, index: int) -> tuple[Block, int]:
        number = bisect_right(self._ends, index)
        return self._blocks[number], index - (self._ends[number - 1] if number else 0)


class Spool:
    """A temporary folder of `.npy` files: made when needed, removed by `close` or at exit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None  # Any: finalize is generic
        self._members: dict[tuple[Path, str], Path] = {}

    def path(self, name: str) -> Path:
        """Return a path inside the folder."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="qanalyze-"))
            self._finalizer = weakref.finalize(self, shutil.rmtree, self._folder, True)
        return self._folder / name

    def unpack(self, archive: Path, member: str) -> Path:
        """Copy a member of an `.npz` file to disk once, in pieces; return its path."""
        with self._lock:
            key = (archive, member)
            if key not in self._members:
                target = self.path(f"{len(self._members)}.npy")
                with (
                    zipfile.ZipFile(archive) as packed,
                    packed.open(member) as source,
                    target.open("wb") as sink,
                ):
                    shutil.copyfileobj(source, sink, 1 << 20)
                self._members[key] = target
            return self._members[key]

    def close(self) -> None:
        """Remove the folder."""
        if self._finalizer is not None:
            self._finalizer()


def has_test_data(path: Path) -> bool:
    """Tell whether a folder is an ONNX `test_data_set_*`, or holds some."""
    return bool(_test_data_sets(path))


def array_files(folder: Path) -> list[Path]:
    """Return the `.npy` and `.npz` files right in a folder, sorted by name."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in (".npy", ".npz")
        and not entry.name.startswith(".")
        and entry.is_file()
    )


def has_input_folders(folder: Path, inputs: tuple[TensorSpec, ...]) -> bool:
    """Tell whether a folder holds a subfolder of `.npy` files for one of several inputs."""
    return len(inputs) > 1 and any(
        (folder / spec.name).is_dir() and array_files(folder / spec.name) for spec in inputs
    )


@dataclass(frozen=True, slots=True)
class _Npy:
    path: Path
    label: str
    shape: Shape
    dtype: np.dtype[Any]

    def load(self, *, many: bool) -> Array:
        # Mapped anew for each sample: no file stays open, and pages do not pile up.
        return cast(Array, np.load(self.path, mmap_mode="r", allow_pickle=False))


@dataclass(frozen=True, slots=True)
class _NpzMember:
    path: Path
    member: str
    label: str
    shape: Shape
    dtype: np.dtype[Any]
    spool: Spool

    def load(self, *, many: bool) -> Array:
        if many:
            unpacked = self.spool.unpack(self.path, self.member)
            return cast(Array, np.load(unpacked, mmap_mode="r", allow_pickle=False))
        with zipfile.ZipFile(self.path) as packed, packed.open(self.member) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


@dataclass(frozen=True, slots=True)
class _Tensor:
    path: Path
    label: str
    shape: Shape
    dtype: np.dtype[Any]

    def load(self, *, many: bool) -> Array:
        return _read_tensor(self.path)[1]


_Found = tuple[str, Mapping[str, StoredArray]]


def _find(path: Path, inputs: tuple[TensorSpec, ...], spool: Spool) -> Iterable[_Found]:
    """Yield a label and the arrays of each block, in order."""
    if path.is_file():
        yield _open_file(path, inputs, spool, path.name)
    elif sets := _test_data_sets(path):
        for folder in sets:
            yield folder.name, _open_test_data(folder, inputs)
    elif has_input_folders(path, inputs):
        yield from _open_input_folders(path, inputs)
    else:
        files = array_files(path)
        by_stem = {file.stem: file for file in files if file.suffix.lower() == ".npy"}
        if len(inputs) > 1 and any(spec.name in by_stem for spec in inputs):
            yield path.name, {stem: _open_npy(file) for stem, file in by_stem.items()}
        else:
            for file in files:
                yield _open_file(file, inputs, spool, file.name)


def _open_file(path: Path, inputs: tuple[TensorSpec, ...], spool: Spool, label: str) -> _Found:
    if path.suffix.lower() == ".npz":
        return label, _open_npz(path, spool)
    if len(inputs) > 1:
        names = fitting.join([spec.name for spec in inputs])
        raise DataError(
            f"{label} holds one array, but the model has {len(inputs)} inputs: {names}.",
            "Save an .npz file with one key per input, or one folder of .npy files per input.",
        )
    return label, {inputs[0].name: _open_npy(path)}


def _open_npy(path: Path) -> StoredArray:
    try:
        with path.open("rb") as stream:
            shape, dtype = _header(stream)
    except _UNREADABLE as error:
        raise _unreadable(path.name, error) from error
    return _Npy(path, path.name, shape, dtype)


def _open_npz(path: Path, spool: Spool) -> dict[str, StoredArray]:
    found: dict[str, StoredArray] = {}
    try:
        with zipfile.ZipFile(path) as packed:
            for member in packed.namelist():
                if not member.endswith(".npy"):
                    continue
                key = member.removesuffix(".npy")
                label = f"{path.name}[{key!r}]"
                with packed.open(member) as stream:
                    shape, dtype = _header(cast(BinaryIO, stream))
                found[key] = _NpzMember(path, member, label, shape, dtype, spool)
    except _UNREADABLE as error:
        raise _unreadable(path.name, error) from error
    return found


def _open_input_folders(path: Path, inputs: tuple[TensorSpec, ...]) -> Iterable[_Found]:
    """Pair the n-th files of all subfolders; a lone file serves all samples."""
    files: dict[str, list[Path]] = {}
    for spec in inputs:
        folder = path / spec.name
        files[spec.name] = array_files(folder) if folder.is_dir() else []
        if not files[spec.name]:
            raise DataError(
                f"{path} has no folder of .npy files for input {spec.name!r}.",
                f"Expected one subfolder per input: {fitting.join([s.name for s in inputs])}.",
            )
    several = [(name, len(found)) for name, found in files.items() if len(found) > 1]
    for name, count in several[1:]:
        if count != several[0][1]:
            raise DataError(
                f"{path} holds {several[0][1]} files for input {several[0][0]!r}, but {count} for"
                f" input {name!r}.",
                "Give as many for each input, or a single one that serves all samples.",
            )
    for index in range(several[0][1] if several else 1):
        chosen = {name: found[min(index, len(found) - 1)] for name, found in files.items()}
        arrays = {name: _open_npy(file) for name, file in chosen.items()}
        leading = several[0][0] if several else inputs[0].name
        yield f"{leading}/{chosen[leading].name}", arrays


def _test_data_sets(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    candidates = [path, *(entry for entry in path.glob("test_data_set_*") if entry.is_dir())]
    return sorted((folder for folder in candidates if any(folder.glob("input_*.pb"))), key=_number)


def _number(path: Path) -> tuple[int, str]:
    """Sort `test_data_set_10` behind `test_data_set_9`."""
    digits = re.search(r"(\d+)$", path.stem)
    return int(digits.group()) if digits else -1, path.name


def _open_test_data(folder: Path, inputs: tuple[TensorSpec, ...]) -> dict[str, StoredArray]:
    """Read `input_0.pb` ...: by the names inside where they are the inputs', else by position."""
    files = sorted(folder.glob("input_*.pb"), key=_number)
    tensors: list[tuple[str, StoredArray]] = []
    for file in files:
        label = f"{folder.name}/{file.name}"
        name, array = _read_tensor(file)
        tensors.append((name, _Tensor(file, label, array.shape, array.dtype)))
    named = dict(tensors)
    if all(spec.name in named for spec in inputs):
        return named
    if len(tensors) != len(inputs):
        raise DataError(
            f"{folder.name} holds {len(tensors)} inputs, expected {len(inputs)}:"
            f" {fitting.join([spec.name for spec in inputs])}.",
            "Give one input_N.pb per input of the model, in its order.",
        )
    return {spec.name: stored for spec, (_, stored) in zip(inputs, tensors, strict=True)}


def _read_tensor(path: Path) -> tuple[str, Array]:
    import onnx
    from google.protobuf.message import (  # type: ignore[import-untyped]  # ships no types
        DecodeError,
    )
    from onnx import numpy_helper

    label = f"{path.parent.name}/{path.name}"
    try:
        tensor = onnx.TensorProto.FromString(path.read_bytes())
        return tensor.name, numpy_helper.to_array(tensor)
    except (OSError, DecodeError, ValueError, TypeError, KeyError) as error:
        raise _unreadable(label, error) from error


def _header(stream: BinaryIO) -> tuple[Shape, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        # 3.0 differs from 2.0 only in the encoding of field names, which plain arrays lack.
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    return shape, dtype


def _unreadable(label: str, error: BaseException) -> DataError:
    reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    return DataError(f"{label} cannot be read: {reason}.", "Write it again, or remove it.")


def _check_same_shapes(first: Block, other: Block) -> None:
    for name, shape in first.shapes.items():
        found = other.shapes[name]
        if found != shape:
            raise DataError(
                f"{first.label} has shape {shape} for input {name!r}, but {other.label} has"
                f" {found}: all samples of a run need one shape.",
                f"Pass --shape {name}={','.join(map(str, shape))} to use the samples of that"
                " shape only, or pad the others.",
            )
