# SPDX-License-Identifier: Apache-2.0
"""What the stages hand to each other: plain records, no behaviour beyond look-ups.

Importing this package imports numpy and nothing heavier, so that an old analysis can be rendered
on a machine without onnx and onnxruntime.
"""

from __future__ import annotations

from analyzer.records.analysis import Analysis, DataInfo, Provenance
from analyzer.records.model import Model, Sample, Samples, TensorSpec
from analyzer.records.noise import (
    ADDITIVE,
    Balance,
    Finding,
    Interaction,
    LayerError,
    OutputError,
    Source,
    Step,
    TaskScore,
    loudness,
    sqnr_db,
)
from analyzer.records.pictures import Network, TensorProfile
from analyzer.records.plan import (
    Edit,
    EditKind,
    Granularity,
    Observer,
    Quantizer,
    QuantPlan,
    Role,
    Rounding,
    Setting,
)
from analyzer.records.proposals import Attempt, Change, Cost, Proposal

__all__ = [
    "ADDITIVE",
    "Analysis",
    "Attempt",
    "Balance",
    "Change",
    "Cost",
    "DataInfo",
    "Edit",
    "EditKind",
    "Finding",
    "Granularity",
    "Interaction",
    "LayerError",
    "Model",
    "Network",
    "Observer",
    "OutputError",
    "Proposal",
    "Provenance",
    "QuantPlan",
    "Quantizer",
    "Role",
    "Rounding",
    "Sample",
    "Samples",
    "Setting",
    "Source",
    "Step",
    "TaskScore",
    "TensorProfile",
    "TensorSpec",
    "loudness",
    "sqnr_db",
]
