# SPDX-License-Identifier: Apache-2.0
"""The rules of diagnosis, in one list."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from analyzer.diagnose.activations import (
    constant_channels,
    outlier_channels,
    outlier_values,
    shifted,
)
from analyzer.diagnose.attention import attention
from analyzer.diagnose.biases import saturating_biases, unusable_scales
from analyzer.diagnose.calibration import narrow_calibration
from analyzer.diagnose.candidate import Candidate
from analyzer.diagnose.case import Case
from analyzer.diagnose.generic import clipping, rounding, rounding_of_weights
from analyzer.diagnose.groups import unequal_members
from analyzer.diagnose.inputs import foreign_inputs
from analyzer.diagnose.norms import norms
from analyzer.diagnose.outputs import lost_outputs, shared_outputs
from analyzer.diagnose.quirks import quirks
from analyzer.diagnose.training import trained_for_it
from analyzer.diagnose.weights import unequal_channels

Rule = Callable[[Case], Iterable[Candidate]]

RULES: tuple[Rule, ...] = (
    quirks,
    outlier_channels,
    outlier_values,
    clipping,
    rounding,
    rounding_of_weights,
    unequal_members,
    shared_outputs,
    constant_channels,
    unequal_channels,
    shifted,
    attention,
    norms,
    saturating_biases,
    unusable_scales,
    narrow_calibration,
    foreign_inputs,
    lost_outputs,
    trained_for_it,
)
