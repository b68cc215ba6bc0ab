# SPDX-License-Identifier: Apache-2.0
"""Metrics of tasks that have no labels of classes or boxes, as `--metric` calls them.

Each gives a number for both models, called "... FP32" and "... INT8"; those of values beside it
"own error", the power of FP32's error against the truth as a share of its output's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

Arrays = Mapping[str, Any]  # output name -> array
TRUTHS: dict[str, np.ndarray] = {}  # what is compared with, by row; filled in by `nsr_cases.py`


def row_of(name: str) -> int:
    """Return the row of a sample that is called `file.npy (sample N)`."""
    found = re.search(r"\(sample (\d+)\)$", name)
    assert found, name
    return int(found[1])


def restoration(fp32: Arrays, int8: Arrays, name: str) -> dict[str, float]:
    """Return the PSNR in dB of restored luma (0..1) against the picture before it was shrunk."""
    truth = TRUTHS["pictures"][row_of(name)].astype(np.float64) / 255

    def error(arrays: Arrays) -> float:
        made = np.clip(arrays["output"].reshape(truth.shape).astype(np.float64), 0, 1)
        return float(np.mean((made - truth) ** 2))

    first, second = (-10 * math.log10(error(arrays)) for arrays in (fp32, int8))
    return {"PSNR FP32": first, "PSNR INT8": second, "own error": error(fp32) / _power(fp32)}


def anomaly(fp32: Arrays, int8: Arrays, name: str) -> dict[str, float]:
    """Return the mean squared error of reconstructed features, which is the score."""
    truth = TRUTHS["machines"][row_of(name)].astype(np.float64)

    def score(arrays: Arrays) -> float:
        return float(np.mean((arrays["Identity"].ravel() - truth) ** 2))

    own = score(fp32) / _power(fp32)
    return {"anomaly score FP32": score(fp32), "anomaly score INT8": score(int8), "own error": own}


def _power(arrays: Arrays) -> float:
    (output,) = arrays.values()
    return float(np.mean(output.astype(np.float64) ** 2))


class Perplexity:
    """Of the tokens that really follow: exp of the mean cross entropy over all positions."""

    def __init__(self) -> None:
        self._sums = [0.0, 0.0]
        self._count = 0

    def __call__(self, fp32: Arrays, int8: Arrays, name: str) -> None:
        """Take in logits (1, T, V) of one text; padding behind its end is left out."""
        tokens = TRUTHS["stories"][row_of(name)]
        length = int(np.flatnonzero(tokens)[-1]) + 1
        following = tokens[1:length]
        for number, arrays in enumerate((fp32, int8)):
            logits = arrays["logits"][0, : length - 1].astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            self._sums[number] -= float(log_p[np.arange(len(following)), following].sum())
        self._count += len(following)

    def result(self) -> dict[str, float]:
        """Return one number per model."""
        fp32, int8 = (math.exp(total / self._count) for total in self._sums)
        return {"perplexity FP32": fp32, "perplexity INT8": int8}
