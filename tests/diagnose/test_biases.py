# SPDX-License-Identifier: Apache-2.0
"""QA112 and QA113: biases beyond their levels, scales that are no numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer.diagnose import diagnose
from analyzer.diagnose.biases import saturating_biases, unusable_scales


@pytest.fixture
def net(bind):
    return bind(
        "g (float[1,2] x) => (float[1,2] y) { [a] y = Gemm(x, w, b) }",
        w=np.eye(2, dtype=np.float32),
        b=np.array([3.0, 0.25], np.float32),
    )


SAMPLE = {"x": np.ones((1, 2), np.float32)}


def bias(quantizer, scale):
    q = quantizer("a", "in2", "b", scale, role="bias", axis=0)
    return replace(q, bits=20, qmin=-(1 << 19), qmax=(1 << 19) - 1)


def test_a_bias_that_does_not_fit(net, case_of, quantizer):
    """3.0 in steps of 2**-20 is level 3 * 2**20, beyond 2**19 - 1; 0.25 is level 2**18."""
    case = case_of(net, [bias(quantizer, [2.0**-20, 2.0**-20])], [SAMPLE])
    (found,) = saturating_biases(case)
    assert (found.code, found.layer) == ("QA112", "a")
    assert found.evidence == {
        "bits": 20,
        "channels": 1,
        "share": 0.5,
        "largest_level": 3 * 2.0**20,
        "last_level": 2**19 - 1,
        "largest_bias": 3.0,
    }
    (finding,) = diagnose(case)
    assert finding.gain == pytest.approx(1.0)


def test_a_bias_that_fits(net, case_of, quantizer):
    """Level 3 * 2**17 is below 2**19."""
    assert not list(saturating_biases(case_of(net, [bias(quantizer, 2.0**-17)], [SAMPLE])))


@pytest.mark.parametrize("scale", [np.nan, np.inf, 0.0, -1.0, 1e-39])
def test_scales_that_are_no_numbers(net, case_of, quantizer, scale):
    """They are told as text, which JSON can hold, and whatever a trial would say."""
    q = quantizer("a", "in1", "w", [0.5, scale], role="weight", axis=1)
    (found,) = unusable_scales(case_of(net, [q], [SAMPLE]))
    assert (found.code, found.layer, found.certain) == ("QA113", "a", True)
    assert found.evidence == {"slot": "in1", "tensor": "w", "scale": str(scale), "channels": 1}


def test_usable_and_inactive_scales(net, case_of, quantizer):
    """The smallest normal float32 is usable, and what is off does no harm."""
    tiny = float(np.finfo(np.float32).tiny)
    off = replace(quantizer("a", "in0", "x", np.nan), active=False)
    case = case_of(net, [quantizer("a", "in1", "w", tiny, role="weight"), off], [SAMPLE])
    assert not list(unusable_scales(case))
