# SPDX-License-Identifier: Apache-2.0
"""Other observers for all activations, and scales per channel: what a target has, no more."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.fixes.calibration import calibration_remedies
from analyzer.fixes.remedy import applied
from analyzer.place import place
from analyzer.records import Setting
from analyzer.targets import get_target


def samples_of(model, count=2):
    rng = np.random.default_rng(3)
    shapes = {spec.name: spec.shape for spec in model.inputs}
    return [
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("name", "setting", "asked"),
    [
        ("esp32p4", Setting(), ["minmax", "percentile", "mse"]),
        ("esp32p4", Setting(observer="mse"), ["kl", "minmax", "percentile"]),
        ("esp32s3", Setting(), ["minmax", "percentile", "mse"]),
        ("tflite", Setting(), []),
        ("litert", Setting(), ["minmax"]),
    ],
)
def test_observers_are_those_that_the_plan_does_not_have(two_ends, told, name, setting, asked):
    """In the order in which the target names them."""
    found = calibration_remedies(told(two_ends, get_target(name), samples_of(two_ends), setting))
    assert [r.observer for r in found] == asked
    assert {(r.kind, r.layers) for r in found} <= {("calibration", ())}


@pytest.mark.parametrize(
    ("name", "setting", "offered"),
    [
        ("pytorch-qnnpack", Setting(), True),
        ("pytorch-qnnpack", Setting(granularity="channel"), False),
        ("onnxruntime", Setting(), False),
        ("onnxruntime", Setting(granularity="tensor"), True),
        ("esp32s3", Setting(), False),
    ],
)
def test_scales_per_channel_are_offered_where_there_are_none(
    two_ends, told, name, setting, offered
):
    """And where the target knows them at all."""
    found = calibration_remedies(told(two_ends, get_target(name), samples_of(two_ends), setting))
    assert [r.granularity for r in found if r.kind == "granularity"] == ["channel"] * offered


def test_every_remedy_is_one_that_the_target_takes(two_ends, told):
    """Each by itself makes a plan with the observer asked for."""
    situation = told(two_ends, get_target("qnn"), samples_of(two_ends))
    for remedy in calibration_remedies(situation):
        setting = applied(situation.setting, [remedy])
        _, plan = place(two_ends, situation.target, setting)
        if remedy.observer:
            used = {q.observer for q in plan.quantizers if q.role == "activation" and q.observer}
            assert used == {remedy.observer}
