# SPDX-License-Identifier: Apache-2.0
"""How an array that the user gave fits one input of the model: its runs, shapes and type.

A *run* is what one call of the model takes.  The axes of an array decide how it is cut:

    same number of axes     axis 0 is the batch axis: rows, grouped by the model's batch size
    one axis more           axis 0 counts runs, each with its own batch axis
    one axis less           one run of a model with batch 1, its batch axis left out
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from analyzer.data.preprocess import image_layout
from analyzer.errors import ConfigError, DataError, nearest
from analyzer.records import TensorSpec

Array: TypeAlias = npt.NDArray[Any]  # Any: the dtype is the model's, known at run time only
Shape: TypeAlias = tuple[int, ...]
FreeShape: TypeAlias = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Fit:
    """How one array is cut into runs.

    Attributes:
        kind: "rows" (grouped by `batch`), "runs" (indexed by axis 0) or "whole" (a single run).
        count: runs in the array.
        shape: of one run, batch axis included.
        dropped: rows left over, fewer than one batch.
    """

    kind: Literal["rows", "runs", "whole"]
    count: int
    shape: Shape
    batch: int = 1
    dropped: int = 0

    def cut(self, array: Array, index: int) -> Array:
        """Return run `index`; an array of a single run gives it for every index."""
        if self.count == 1:
            index = 0
        if self.kind == "whole":
            return array.reshape(self.shape)
        if self.kind == "runs":
            return np.asarray(array[index])
        return array[index * self.batch : (index + 1) * self.batch]


def fit(shape: Shape, expected: FreeShape) -> Fit | None:
    """Decide how an array of `shape` is cut for an input; None if it does not fit."""
    rank = len(expected)
    if len(shape) == rank + 1 and _agrees(shape[1:], expected):
        return Fit("runs", shape[0], shape[1:])
    if len(shape) == rank == 0:
        return Fit("whole", 1, ())
    if len(shape) == rank and _agrees(shape[1:], expected[1:]):
        batch = expected[0] or 1
        count, dropped = divmod(shape[0], batch)
        return Fit("rows", count, (batch, *shape[1:]), batch, dropped)
    if len(shape) == rank - 1 and expected[0] in (None, 1) and _agrees(shape, expected[1:]):
        return Fit("whole", 1, (1, *shape))
    return None


def fit_or_raise(shape: Shape, spec: TensorSpec, label: str) -> Fit:
    """Do as `fit`, with a message that names the file.

    Raises:
        DataError: if the array does not fit, or holds less than one run.
    """
    found = fit(shape, spec.shape)
    if found is None:
        raise DataError(
            f"{label} holds arrays of shape {shape}, expected {expected_shape(spec)} for input"
            f" {spec.name!r}.",
            _shape_remedy(shape, spec),
        )
    if found.count == 0:
        held = f"{shape[0]} rows" if shape[0] else "no samples"
        raise DataError(
            f"{label} holds {held}, expected at least {found.batch} for input {spec.name!r}.",
            "Give more data." if found.batch == 1 else "The model's batch size is fixed.",
        )
    return found


def expected_shape(spec: TensorSpec) -> str:
    """Write the shape of a batch of samples, like `(N, 3, 640, 640)`; `?` is a free axis."""
    if not spec.shape:
        return "() or (N,)"
    axes = ["N", *("?" if axis is None else str(axis) for axis in spec.shape[1:])]
    return f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"


def bind(inputs: tuple[TensorSpec, ...], shapes: Mapping[str, Shape]) -> tuple[TensorSpec, ...]:
    """Replace free axes by the user's `--shape`.

    Raises:
        ConfigError: for an unknown input, or a shape that the model contradicts.
    """
    names = [spec.name for spec in inputs]
    for name in shapes:
        if name not in names:
            raise ConfigError(f"--shape names an unknown input {name!r}.", nearest(name, names))
    return tuple(_bind_one(spec, shapes.get(spec.name)) for spec in inputs)


def check_dtype(found: np.dtype[Any], spec: TensorSpec, label: str) -> str | None:
    """Decide whether values of a type may be fed; return a warning where they are to be doubted.

    Raises:
        DataError: if the type would lose what the data or the model means.
    """
    expected = numpy_dtype(spec)
    if found.hasobject:
        raise DataError(
            f"{label} holds Python objects, which are never unpickled.",
            "Use a plain array of numbers.",
        )
    if expected.kind == "f" and found.kind == "f":
        return None
    if expected.kind == "f" and found.kind in "iub":
        shown = "values 0..255" if found == np.uint8 else "values"
        return (
            f"{label} holds {found} for the {expected} input {spec.name!r}: {shown} are used as"
            " they are, nothing is divided or subtracted."
        )
    if expected.kind in "iu" and found.kind in "iub":
        return None
    if expected.kind == found.kind == "b":
        return None
    raise DataError(
        f"{label} holds {found}, expected {expected} for input {spec.name!r}.",
        f"Save it with .astype(np.{expected.name if expected.kind != 'b' else 'bool_'}), if that"
        " is what the numbers mean.",
    )


def numpy_dtype(spec: TensorSpec) -> np.dtype[Any]:
    """Return the numpy type of an input.

    Raises:
        DataError: if numpy has none (bfloat16, strings).
    """
    try:
        expected = np.dtype(spec.dtype)
    except TypeError:
        expected = np.dtype(object)
    if expected.kind not in "fiub":
        raise DataError(
            f"Input {spec.name!r} has the type {spec.dtype}, which cannot be fed from data.",
            "Expected a float, an integer or a boolean input.",
        )
    return expected


def cast(array: Array, spec: TensorSpec, label: str) -> Array:
    """Return a contiguous copy of `array` in the input's type.

    Raises:
        DataError: if an integer input cannot hold the values.
    """
    expected = numpy_dtype(spec)
    if expected.kind in "iu" and not np.can_cast(array.dtype, expected, "safe") and array.size:
        limits = np.iinfo(expected)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            raise DataError(
                f"{label} ranges {low} to {high}, but input {spec.name!r} is {expected} and holds"
                f" {limits.min} to {limits.max}.",
                "Check that the data belongs to this model.",
            )
    # An overflow to infinity is reported by check_inputs, with the file's name.
    with np.errstate(over="ignore"):
        return np.array(array, dtype=expected, order="C", copy=True)


def join(names: list[str]) -> str:
    """Write at most five quoted names, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _agrees(shape: Shape, expected: FreeShape) -> bool:
    return len(shape) == len(expected) and all(
        wanted is None or axis == wanted for axis, wanted in zip(shape, expected, strict=True)
    )


def _bind_one(spec: TensorSpec, shape: Shape | None) -> TensorSpec:
    if shape is None:
        return spec
    if not _agrees(tuple(shape), spec.shape) or any(axis < 1 for axis in shape):
        free = "(" + ", ".join("?" if axis is None else str(axis) for axis in spec.shape) + ")"
        raise ConfigError(
            f"--shape gives {tuple(shape)} for input {spec.name!r}, expected {free}.",
            "Only axes shown as '?' can be chosen, with whole numbers of at least 1.",
        )
    return TensorSpec(spec.name, spec.dtype, tuple(shape))


def _shape_remedy(shape: Shape, spec: TensorSpec) -> str:
    """Say what would make the array fit: another axis order, another reshape."""
    layout = image_layout(spec)
    if len(shape) == 4 and layout is not None:
        order = (0, 3, 1, 2) if layout == "nchw" else (0, 2, 3, 1)
        if fit(tuple(shape[axis] for axis in order), spec.shape):
            return f"The axes are in another order: save array.transpose{order}."
    inner = spec.shape[1:]
    known = [axis for axis in inner if axis is not None]
    if shape and len(known) == len(inner) and np.prod(shape[1:]) == np.prod(known):
        return f"Save array.reshape({', '.join(map(str, (shape[0], *known)))})."
    return "Save the arrays as the model takes them, already resized and normalized."
