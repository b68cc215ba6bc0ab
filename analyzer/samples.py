# SPDX-License-Identifier: Apache-2.0
"""Which samples a run calibrates on and which it analyses: a configuration in, two choices out."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.config import Config
from analyzer.data import Dataset, check_inputs, open_data
from analyzer.records import DataInfo, Model

ANALYSIS_SAMPLES = 32  # how many samples are analysed where the user leaves it open
CHECKED_SAMPLES = 4


@dataclass(frozen=True, slots=True)
class Chosen:
    """Some samples of a data set, in order."""

    data: Dataset
    indices: tuple[int, ...]
    selection: str

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.data[self.indices[position]]

    def info(self, role: str) -> DataInfo:
        """Return the record of these samples in a role."""
        return self.data.info(role, self.selection, self.indices)


def open_roles(model: Model, config: Config, stack: ExitStack) -> tuple[Chosen, Chosen]:
    """Open the data in both roles and choose the samples of each."""

    def opened(spec: str, role: str, limit: int | None) -> Dataset:
        data = open_data(
            spec,
            model.inputs,
            role=role,
            metadata=model.metadata,
            preset=config.preset,
            overrides=config.preprocessing,
            limit=limit,
            shapes=config.shapes,
        )
        stack.callback(data.close)
        return data

    data = opened(config.calib, "calibration", config.calib_samples)
    selection = f"the first {len(data)}" if len(data) < data.available else "all"
    calibration = Chosen(data, tuple(range(len(data))), selection)
    other = opened(config.eval, "analysis", None) if config.eval else data
    name = "samples of --eval" if config.eval else "calibration samples"
    return calibration, _spread(other, config.samples or ANALYSIS_SAMPLES, name)


def _spread(data: Dataset, wanted: int, name: str) -> Chosen:
    """Choose `wanted` samples evenly over the data set, or all where there are not more."""
    if wanted >= len(data):
        return Chosen(data, tuple(range(len(data))), f"all {len(data)} {name}")
    indices = np.linspace(0, len(data) - 1, wanted).round().astype(int)
    return Chosen(data, tuple(indices.tolist()), f"{wanted} of {len(data)} {name}, evenly spread")


def check_roles(
    model: Model, config: Config, calibration: Chosen, analysis: Chosen
) -> tuple[str, ...]:
    """Look at a few samples of each role before anything runs."""
    lines: dict[str, None] = {}
    if config.samples is not None and config.samples > len(analysis):
        few = f"--samples asks for {config.samples}, there are {len(analysis)}: all are analysed."
        lines[few] = None
    for chosen in (calibration, analysis):
        lines.update(dict.fromkeys(chosen.data.warnings))
        some = chosen.indices[:CHECKED_SAMPLES]
        lines.update(
            dict.fromkeys(check_inputs(chosen.data, model.inputs, some, metadata=model.metadata))
        )
        if chosen.data is calibration.data and chosen is not calibration:
            break
    return tuple(lines)
