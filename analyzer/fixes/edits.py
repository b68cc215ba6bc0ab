# SPDX-License-Identifier: Apache-2.0
"""Edits: a bound model and what is to be done with it go in, the rewritten model comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from analyzer.fixes.bias_correction import correct_biases
from analyzer.fixes.channel_split import split_channels
from analyzer.fixes.equalization import equalize
from analyzer.fixes.smoothing import smooth
from analyzer.fixes.weight_split import split_weights
from analyzer.records import Edit, Model

_EDITORS: dict[str, Callable[[Model, Edit], Model]] = {
    "weight_split": split_weights,
    "channel_split": split_channels,
    "equalization": equalize,
    "smoothing": smooth,
    "bias_correction": correct_biases,
}


def apply_edits(model: Model, edits: Iterable[Edit]) -> Model:
    """Apply edits one after the other; `model` itself is not changed.

    Raises:
        ModelError: if a layer is not there, or not of a kind the edit is for.
    """
    for edit in edits:
        model = _EDITORS[edit.kind](model, edit)
    return model
