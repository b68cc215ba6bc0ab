# SPDX-License-Identifier: Apache-2.0
"""The onnxruntime target against `quantize_static` on random networks, every choice it offers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ort_judge import agreement, bound_model
from random_graphs import random_model

from analyzer.errors import TargetError
from analyzer.records import Setting

CHOICES = list(
    itertools.product(
        ["int8", "u8s8", "u8u8", "s16s8", "u16s8"],
        ["channel", "tensor"],
        ["minmax", "percentile", "entropy"],
    )
)
WIDER = {"int8": "s16s8", "u8s8": "u16s8", "s16s8": "int8", "u16s8": "u8s8"}


def compare(tmp_path, seed, make_setting, *, more_ops=False, run=True):
    """Return what differs on the network of one seed; None where nothing is quantized."""
    proto, samples = random_model(seed, more_ops=more_ops)
    model = bound_model(proto, samples[0], tmp_path)
    try:
        return agreement(model, samples, "onnxruntime", make_setting(model), run=run)
    except TargetError:
        return None


def table(model, seed, precision, share):
    """Give some of the nodes another precision."""
    rng = np.random.default_rng(seed)
    return {n.name: precision for n in model.proto.graph.node if rng.random() < share}


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_random_networks_agree(tmp_path, choice):
    """Every slot alike and the outputs equal, on seven networks for each of 30 choices.

    16-bit types raise the opset, and the AveragePool of opset 19 sums in another order: where its
    output shares its input's grid, sums that fall half-way between two steps may part.
    """
    precision, granularity, observer = choice
    setting = Setting(precision=precision, granularity=granularity, observer=observer)
    first = 7 * CHOICES.index(choice)
    for seed in range(first, first + 7):
        found = compare(tmp_path, seed, lambda model: setting, more_ops=seed % 2 == 1)
        if found is not None:
            assert not found.differences, seed
            assert found.error <= (1e-3 if "16" in precision else 1e-4), seed


@pytest.mark.parametrize("precision", ["int8", "u8u8", "u16s8"])
def test_networks_with_layers_in_float_agree(tmp_path, precision):
    """A quarter of the nodes excluded."""
    for seed in range(300, 305):

        def setting(model, seed=seed):
            return Setting(precision=precision, table=table(model, seed, "fp32", 0.25))

        found = compare(tmp_path, seed, setting)
        if found is not None:
            assert not found.differences, seed


@pytest.mark.parametrize("precision", WIDER)
def test_networks_of_mixed_precision_agree(tmp_path, precision):
    """A fifth of the nodes in the other width, converted around as the real fixer does.

    Two Q/DQ pairs in a row need two slots; where there is one, the narrower stands for both (see
    `Slots._converted`): only there the type may differ, and with it the scale of a bias.
    """
    for seed in range(400, 406):

        def setting(model, seed=seed):
            return Setting(precision=precision, table=table(model, seed, WIDER[precision], 0.2))

        found = compare(tmp_path, seed, setting, run=False)
        for line in found.differences if found else ():
            assert "int8[1] is " in line or "'in2')" in line, (seed, line)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 2000, 100))
def test_a_thousand_networks_agree(tmp_path, start):
    """The same, for longer, over all choices."""
    for seed in range(start, start + 100):
        precision, granularity, observer = CHOICES[seed % len(CHOICES)]
        setting = Setting(precision=precision, granularity=granularity, observer=observer)
        found = compare(tmp_path, seed, lambda model, s=setting: s, more_ops=seed % 2 == 1)
        if found is not None:
            assert not found.differences, seed
            assert found.error <= (1e-2 if "16" in precision else 1e-4), seed
