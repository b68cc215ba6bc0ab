# SPDX-License-Identifier: Apache-2.0
"""QA115: calibration inputs that are not what the model takes.

What can be told without knowing the model's preprocessing: inputs that hold nothing (constant, all
alike, noise), inputs that differ from the analysis data by a factor, and inputs that the first
layer drowns in its bias, or that drown the bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from analyzer.diagnose.calibration import refitted
from analyzer.diagnose.candidate import Candidate
from analyzer.diagnose.case import Case
from analyzer.diagnose.flow import behind
from analyzer.graph.tensors import TensorRuns

SAMPLES = 8  # calibration samples that are looked at
FACTOR = 6.0  # between the sizes of calibration and analysis inputs
NOISE = 0.1  # correlation of neighbouring pixels; pictures have 0.8 and more
LEAST_PIXELS = 16  # per side
# Spread of the first layer's products over its biases.  Trained networks with pixels as they want
# them have 0.1 to 5; a factor of 255 leads far out.
DROWNED, DROWNING = 0.02, 30.0
RAW = 16.0  # largest value of pixels that were not divided by anything
_Array = npt.NDArray[Any]
_Evidence = dict[str, Any]


def foreign_inputs(case: Case) -> Iterator[Candidate]:
    """Yield one finding per graph input that gives reason to doubt."""
    if case.calibration is None:
        return
    few = [case.calibration[i] for i in range(min(len(case.calibration), SAMPLES))]
    floats = [s.name for s in case.model.inputs if s.dtype.startswith("float")]
    alike = len(few) > 1 and all(
        np.array_equal(sample[s.name], few[0][s.name])
        for sample in few[1:]
        for s in case.model.inputs
    )
    for name in floats:
        values = [np.asarray(sample[name], np.float64) for sample in few]
        if len(floats) > 1 and not alike and _same(values):
            continue  # a setting beside inputs that vary
        evidence = _empty(values, alike=alike) or _wrong_size(case, name, values, few[0])
        if not evidence:
            continue
        changes = refitted(case) if "size_over_analysis" in evidence else {}
        yield Candidate("QA115", None, {"input": name, **evidence}, changes, certain=True)


def _same(values: Sequence[_Array]) -> bool:
    return len(values) > 1 and all(np.array_equal(v, values[0]) for v in values[1:])


def _empty(values: Sequence[_Array], *, alike: bool) -> _Evidence:
    """Say so where the samples show a network nothing."""
    constant = sum(v.size > 1 and bool(v.min() == v.max()) for v in values)
    if constant == len(values):
        return {"what": "constant", "value": float(values[0].flat[0]), "samples": len(values)}
    if alike:
        return {"what": "one sample repeated", "samples": len(values)}
    near = [c for v in values if (c := _neighbours(v)) is not None]
    if near and max(near) < NOISE:
        return {"what": "noise", "correlation_of_neighbours": max(near), "samples": len(values)}
    return {}


def _neighbours(picture: _Array) -> float | None:
    """Return how much a pixel is like the next; None where there is no NCHW or NHWC picture."""
    if picture.ndim != 4:
        return None
    if picture.shape[-1] in (1, 3) and picture.shape[1] not in (1, 3):
        picture = np.moveaxis(picture, -1, 1)
    if picture.shape[1] not in (1, 3) or min(picture.shape[2:]) < LEAST_PIXELS:
        return None
    centred = picture - picture.mean((2, 3), keepdims=True)
    power = float((centred**2).sum())
    if not power:
        return None
    return float((centred[..., 1:] * centred[..., :-1]).sum()) / power


def _wrong_size(
    case: Case, name: str, values: Sequence[_Array], sample: Mapping[str, _Array]
) -> _Evidence:
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    here = {"low": float(low), "high": float(high)}
    size = _size(values)
    there = [np.asarray(sample[name], np.float64) for sample in case.samples]
    factor = size / _size(there) if _size(there) > 0 else 1.0
    if not 1 / FACTOR < factor < FACTOR:
        return {
            "what": "other than the analysis data",
            **here,
            "size_over_analysis": factor,
            "analysis_low": float(min(v.min() for v in there)),
            "analysis_high": float(max(v.max() for v in there)),
        }
    response = _response(case, name, sample)
    if response is None:
        return {}
    raw = low >= 0 and high > RAW
    if response < DROWNED:
        return {"what": "too small for the first layer", **here, "response_over_bias": response}
    if response > DROWNING and raw:
        return {"what": "too large for the first layer", **here, "response_over_bias": response}
    return {}


def _size(values: Sequence[_Array]) -> float:
    return float(np.sqrt(np.mean([np.mean(v**2) for v in values])))


def _response(case: Case, name: str, sample: Mapping[str, _Array]) -> float | None:
    """Return the spread of the products of the first Conv over its biases; None: not known."""
    view = case.view
    first = next(
        (
            view.nodes[reader]
            for tensor in behind(view, name)
            for reader in view.consumers.get(tensor, ())
            if view.nodes[reader].op_type == "Conv"
        ),
        None,
    )
    if first is None or len(first.input) < 3 or not view.is_constant(first.input[2]):
        return None
    bias = view.array(first.input[2]).astype(np.float64)
    size = float(np.sqrt(np.mean(bias**2)))
    made = TensorRuns(case.model, [first.output[0]]).run(sample)[first.output[0]]
    channels = np.moveaxis(made.astype(np.float64), 1, 0).reshape(made.shape[1], -1)
    return float(np.sqrt(np.mean(channels.std(1) ** 2))) / size if size > 0 else None
