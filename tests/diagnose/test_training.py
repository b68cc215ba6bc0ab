# SPDX-License-Identifier: Apache-2.0
"""QA117: weights on a grid, a file that was trained further, errors that cancel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer.diagnose.training import is_on_grid, trained_for_it
from analyzer.records import Finding, OutputError

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(-127, 128, (8, 64))
SCALES = np.geomspace(0.01, 1, 8).reshape(8, 1)


@pytest.mark.parametrize(
    ("weight", "axis", "answer"),
    [
        (LEVELS * 0.013, None, True),
        (LEVELS * SCALES, 0, True),
        (LEVELS * SCALES, None, False),
        (RNG.standard_normal((8, 64)), 0, False),
        (np.round(RNG.standard_normal((8, 64)), 4), 0, False),
        (np.arange(16.0).reshape(1, 16), None, True),
        (np.ones((8, 8)), None, None),
    ],
    ids=["tensor", "channel", "many scales", "free", "decimals", "few", "constant"],
)
def test_what_lies_on_a_grid_of_8_bits(weight, axis, answer):
    """Multiples of one step per tensor or channel, in float32; few values do not tell."""
    assert is_on_grid(weight.astype(np.float32), axis) is answer


def case_with(case_of, quantizer, bind, weight):
    net = bind("g (float[1,8] x) => (float[1,64] y) { [a] y = MatMul(x, w) }", w=weight)
    q = quantizer("a", "in1", "w", 0.01, role="weight")
    case = case_of(net, [q], [{"x": np.ones((1, 8), np.float32)}])
    return replace(case, plan=replace(case.plan, computing=frozenset("a")))


def test_weights_that_were_trained_on_a_grid(case_of, quantizer, bind):
    """All computing layers are, so the model was made for it."""
    weight = (LEVELS * 0.013).astype(np.float32)
    (found,) = trained_for_it(case_with(case_of, quantizer, bind, weight))
    assert (found.code, found.layer, found.certain) == ("QA117", None, True)
    assert found.evidence == {"layers_on_an_8_bit_grid": 1, "computing_layers": 1}


def test_ordinary_weights(case_of, quantizer, bind):
    """Nothing to say."""
    weight = RNG.standard_normal((8, 64)).astype(np.float32)
    assert not list(trained_for_it(case_with(case_of, quantizer, bind, weight)))


def test_what_the_file_says_and_what_errors_say(case_of, quantizer, bind):
    """QA301 is such a sign; so are isolated errors of twenty times a small accumulated one."""
    case = case_with(case_of, quantizer, bind, RNG.standard_normal((8, 64)).astype(np.float32))
    output = OutputError("y", 0.0005, 33.0, 0.999, 1.0, isolated_sum=0.01, additivity=20.0)
    case = replace(case, quirks=[Finding("QA301", "a", {}, "")], outputs=[output])
    (found,) = trained_for_it(case)
    assert found.evidence == {"layers_trained_further": 1, "additivity": 20.0, "nsr": 0.0005}
