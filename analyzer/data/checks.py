# SPDX-License-Identifier: Apache-2.0
"""A look at a handful of samples before anything runs: is this what the model expects?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np

from analyzer.data.dataset import Dataset
from analyzer.data.fitting import Array, join
from analyzer.data.preprocess import image_layout, is_ultralytics
from analyzer.errors import DataError
from analyzer.records import TensorSpec

_NO_METADATA: Final[Mapping[str, str]] = MappingProxyType({})
_NO_RANGES: Final[Mapping[str, tuple[float, float]]] = MappingProxyType({})
# A normalized picture never stays below that; one divided by 255 twice always does (1/255).
_TOO_SMALL: Final = 0.005


@dataclass(slots=True)
class _Seen:
    """What was seen of one input."""

    low: float = np.inf
    high: float = -np.inf
    whole: bool = True
    constant: list[str] = field(default_factory=list)
    identical: bool = True


def check_inputs(
    dataset: Dataset,
    inputs: tuple[TensorSpec, ...],
    indices: Sequence[int],
    *,
    metadata: Mapping[str, str] = _NO_METADATA,
    expected_ranges: Mapping[str, tuple[float, float]] = _NO_RANGES,
) -> tuple[str, ...]:
    """Look for data that cannot be right; return one sentence per doubt.

    Args:
        dataset: to be read.
        inputs: of the model.
        indices: the samples to look at.
        metadata: `metadata_props` of the model, which may tell the range it takes.
        expected_ranges: input name -> (lowest, highest) value that a quantized model represents.

    Raises:
        DataError: if a sample holds NaN or infinity.
    """
    seen = {spec.name: _Seen() for spec in inputs}
    first: dict[str, Array] = {}
    for index in indices:
        sample = dataset[index]
        for spec in inputs:
            _look(seen[spec.name], sample[spec.name], first.get(spec.name), spec, dataset, index)
        first = first or sample
    if not first:
        return ()
    lines: list[str] = []
    if len(indices) > 1 and all(each.identical for each in seen.values()):
        lines.append(
            f"All {len(indices)} samples that were looked at are identical: {dataset.origin} is"
            " one sample repeated."
        )
    # Beside inputs that vary, one that never does is a setting (a rate, a state at the start).
    alone = all(each.identical for each in seen.values())
    for spec in inputs:
        found = seen[spec.name]
        if found.constant and (alone or not found.identical):
            lines.append(_constant(spec, found, len(indices)))
        elif line := _range(spec, found, dataset, metadata, expected_ranges.get(spec.name)):
            lines.append(line)
    return tuple(lines)


def _look(
    seen: _Seen,
    array: Array,
    first: Array | None,
    spec: TensorSpec,
    dataset: Dataset,
    index: int,
) -> None:
    if array.size == 0:
        return
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(array.size - np.isfinite(array).sum())
        kind = "NaN" if np.isnan(array).any() else "infinite"
        raise DataError(
            f"{dataset.label(index)} holds {bad} {kind} value{'s' if bad > 1 else ''} for input"
            f" {spec.name!r}, expected finite numbers.",
            "Remove that sample, or correct how it was made.",
        )
    seen.low, seen.high = min(seen.low, low), max(seen.high, high)
    if low == high and array.size > 1:
        seen.constant.append(dataset.label(index))
    if seen.whole and array.dtype.kind == "f":
        seen.whole = bool((array == np.rint(array)).all())
    if seen.identical and first is not None:
        seen.identical = np.array_equal(array, first)


def _constant(spec: TensorSpec, seen: _Seen, count: int) -> str:
    value = f" ({seen.low:g} everywhere)" if seen.low == seen.high else ""
    return (
        f"Input {spec.name!r} is constant{value} in {len(seen.constant)} of {count} samples:"
        f" {join(seen.constant)}."
    )


def _range(
    spec: TensorSpec,
    seen: _Seen,
    dataset: Dataset,
    metadata: Mapping[str, str],
    expected: tuple[float, float] | None,
) -> str | None:
    """Compare the range with what the model's metadata, or a quantized model, says."""
    ranges = f"Input {spec.name!r} ranges {seen.low:g} to {seen.high:g}"
    if spec.dtype not in ("float16", "float32", "float64"):
        return None
    if image_layout(spec) is not None:
        if is_ultralytics(metadata) and (seen.low < 0 or seen.high > 1):
            return f"{ranges} but the model's metadata (Ultralytics) expects 0 to 1."
        if 0 <= seen.low < seen.high < _TOO_SMALL:
            return f"{ranges}: it looks as if pixels were divided by 255 twice."
        if not dataset.preprocessing and seen.whole and seen.low >= 0 and 16 < seen.high <= 255:
            return (
                f"{ranges} in whole numbers, as raw pixels do: right only if the model was trained"
                " on 0 to 255."
            )
    if expected is not None:
        width, found = expected[1] - expected[0], seen.high - seen.low
        reach = max(seen.high - expected[1], expected[0] - seen.low)
        if reach > 0.5 * width or found < 0.1 * width:
            return (
                f"{ranges} but the quantized model's input covers {expected[0]:g} to"
                f" {expected[1]:g}: check the preprocessing."
            )
    return None
