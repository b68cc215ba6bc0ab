# SPDX-License-Identifier: Apache-2.0
"""Verified plans: means of whole runs, and what every sample said."""

from __future__ import annotations

import numpy as np
import pytest
from full_runs import FullRuns

from analyzer.calibrate import calibrate
from analyzer.place import place
from analyzer.records import Setting
from analyzer.targets.espdl import ESP32P4
from analyzer.verify import verify


def test_means_of_whole_runs(two_ends):
    """Two plans on four samples: as FullRuns has them; the mean is that of the samples."""
    rng = np.random.default_rng(1)
    samples = [{"x": rng.standard_normal((1, 8)).astype(np.float32)} for _ in range(4)]
    graph, _ = place(two_ends, ESP32P4)
    tables = ({}, {"a": "int16", "r": "int16"})
    plans = [place(two_ends, ESP32P4, Setting("minmax", table=t))[1] for t in tables]
    plans = [calibrate(graph, plan, ESP32P4, samples) for plan in plans]
    shown, told = [], []
    found = verify(
        graph, [(graph, plan) for plan in plans], samples, workers=2, step=told.append,
        watch=lambda index, plain, noisy: shown.append((index, len(noisy))),
    )  # fmt: skip
    full = FullRuns(graph, samples)
    assert len(found) == 2
    for one, plan in zip(found, plans, strict=True):
        assert one.nsr == pytest.approx(full.nsr(plan.quantizers), rel=1e-4)
        assert len(one.by_sample) == 4
        for output in ("y", "z"):
            mean = np.mean([row[output] for row in one.by_sample])
            assert one.nsr[output] == pytest.approx(mean, rel=1e-12)
    assert found[1].nsr["y"] < found[0].nsr["y"]
    assert shown == [(0, 2), (1, 2), (2, 2), (3, 2)]
    assert sum(told) == 8
