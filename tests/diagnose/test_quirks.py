# SPDX-License-Identifier: Apache-2.0
"""Quirks are told whatever their trial says, and undone as narrowly as they can be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer.diagnose.quirks import quirks
from analyzer.records import Finding
from analyzer.targets.espdl import ESP32P4


@pytest.fixture
def case(bind, case_of, quantizer):
    net = bind(
        "g (float[1,2] x) => (float[1,2] y) { [a] h = Gemm(x, w, b)  [r] y = Relu(h) }",
        w=np.array([[1.0, 0.0], [0.0, 1.9]], np.float32),
        b=np.ones(2, np.float32),
    )
    quantizers = [
        quantizer("a", "in0", "x", 0.25, observer="kl", range=(-100.0, 3.0)),
        quantizer("a", "in1", "w", 0.125, role="weight"),
        quantizer("a", "in2", "b", 0.5, role="bias"),
        replace(quantizer("a", "out0", "h", 0.5), active=False),
        quantizer("r", "out0", "y", 0.25, replaces_node=True, follows=("a", "in0")),
    ]
    return case_of(net, quantizers, [{"x": np.ones((1, 2), np.float32)}])


def undone(case, code, layer, **evidence):
    finding = Finding(code, layer, evidence, "")
    (found,) = quirks(replace(case, quirks=[finding], target=ESP32P4))
    assert found.certain
    assert (found.code, found.layer, found.evidence) == (code, layer, evidence)
    return found.changes


def test_a_saturated_bias_gets_more_levels(case):
    """And nothing else of its layer is changed."""
    changes = undone(case, "QA204", "a")
    assert list(changes) == [("a", "in2")]
    assert changes["a", "in2"].qmax > 1 << 40


def test_a_range_that_kl_cut_is_whole_again(case):
    """200 over 255 levels needs steps of 2**0; what follows has them too."""
    changes = undone(case, "QA203", "a", slot="in0")
    assert {key: q.scale.item() for key, q in changes.items()} == {
        ("a", "in0"): 1.0, ("r", "out0"): 1.0
    }  # fmt: skip


def test_a_cut_constant_gets_the_range_of_all_its_values(case):
    """3.8 over 255 levels is just below 2**-6."""
    changes = undone(case, "QA206", "a", slot="in1")
    assert {key: q.scale.item() for key, q in changes.items()} == {("a", "in1"): 1 / 64}


def test_a_dropped_relu_runs_again(case):
    """With its quantizer as it is."""
    changes = undone(case, "QA222", "r")
    assert list(changes) == [("r", "out0")]
    assert not changes["r", "out0"].replaces_node


@pytest.mark.parametrize("code", ["QA207", "QA208", "QA225"])
def test_what_is_about_a_file_is_told_only(case, code):
    """There is nothing in the simulation to take out."""
    assert undone(case, code, "a" if code == "QA207" else None) == {}
