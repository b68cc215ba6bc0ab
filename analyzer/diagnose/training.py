# SPDX-License-Identifier: Apache-2.0
"""QA117: signs that the model was trained for quantization.

Such a network has learned to make up for the noise of all its quantizers together: with only some
of them on, the rest of it is made up for without being there, and errors of single layers mislead.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from analyzer.diagnose.candidate import Candidate
from analyzer.diagnose.case import Case

LEVELS = 255  # of an 8-bit grid without its lowest one, which trained weights rarely use
LEAST_VALUES = 16  # different magnitudes from which a grid is no coincidence
MOST_LAYERS = 0.5  # share of the computing layers
ADDITIVITY = 10.0  # sum of isolated errors over the accumulated one, and
SMALL = 1e-3  # the accumulated error: small nets have reached 5.5 at 4e-3 by chance
_CLOSE = 1e-2  # of a step


def trained_for_it(case: Case) -> Iterator[Candidate]:
    """Yield one finding with every sign there is."""
    evidence = {**_said(case), **_on_a_grid(case), **_made_up_for(case)}
    if evidence:
        yield Candidate("QA117", None, evidence, certain=True)


def _said(case: Case) -> dict[str, float]:
    layers = sum(quirk.code == "QA301" for quirk in case.quirks)
    return {"layers_trained_further": layers} if layers else {}


def _on_a_grid(case: Case) -> dict[str, float]:
    """Count the layers whose FP32 weights take few, evenly spaced values."""
    view = case.view
    weights = {
        q.node: q for q in case.plan.quantizers
        if q.role == "weight" and q.node in case.plan.computing and view.is_constant(q.tensor)
    }  # fmt: skip
    told = [is_on_grid(view.array(q.tensor), q.axis) for q in weights.values()]
    judged = [answer for answer in told if answer is not None]
    on = sum(judged)
    if not on or on < MOST_LAYERS * len(judged):
        return {}
    return {"layers_on_an_8_bit_grid": on, "computing_layers": len(judged)}


def _made_up_for(case: Case) -> dict[str, float]:
    """Return the additivity where isolated errors are far too large."""
    whole = [o for o in case.outputs if o.slice_of is None and o.additivity is not None]
    worst = max(whole, key=lambda o: o.nsr, default=None)
    if worst is None or worst.additivity is None or worst.nsr > SMALL:
        return {}
    if worst.additivity < ADDITIVITY:
        return {}
    return {"additivity": worst.additivity, "nsr": worst.nsr}


def is_on_grid(weight: npt.NDArray[np.generic], axis: int | None) -> bool | None:
    """Tell whether a weight lies on one grid of 8 bits, or on one per channel; None: too small.

    Args:
        weight: any shape.
        axis: of its channels; None: one grid is looked for.
    """
    whole = weight.astype(np.float64)
    answer = _evenly_spaced(whole)
    if answer or axis is None or whole.ndim < 2:
        return answer
    channels = [_evenly_spaced(channel) for channel in np.moveaxis(whole, axis, 0)]
    judged = [a for a in channels if a is not None]
    return bool(np.mean(judged) > 0.9) if judged else answer


def _evenly_spaced(values: npt.NDArray[np.float64]) -> bool | None:
    """Tell whether all values are multiples of a common step, with few levels; None: too few."""
    found = np.unique(np.abs(values))
    if found.size < LEAST_VALUES:
        return None
    if found.size > (LEVELS + 1) // 2 + 1:
        return False
    top = found[-1]
    # equal but for rounding: float32 products of level and scale differ in the last bits
    gaps = np.diff(found)
    gaps = gaps[gaps > top / (LEVELS * 20)]
    if not gaps.size:
        return None
    for part in (1, 2, 3, 4):
        step = gaps.min() / part
        levels = np.rint(found / step)
        if levels[-1] > LEVELS:
            return False
        step = top / levels[-1]
        if np.abs(found / step - levels).max() < _CLOSE:
            return True
    return False
