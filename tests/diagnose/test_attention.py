# SPDX-License-Identifier: Apache-2.0
"""QA110: probabilities below half a step, and scores rounded to the mask's grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analyzer.config import resolve
from analyzer.diagnose import diagnose
from analyzer.diagnose.attention import attention
from analyzer.pipeline import run

TOKENS = 512
NET = """g (float[1,2,512] s, float[1,512,4] v) => (float[1,2,4] y) {
    [mask] m = Add(s, hide)  [soft] p = Softmax<axis=2>(m)  [mix] y = MatMul(p, v)
}"""


@pytest.fixture
def net(bind):
    hide = np.zeros((1, 1, TOKENS), np.float32)
    hide[..., TOKENS // 2 :] = -10000
    return bind(NET, hide=hide)


def sample(sharp=0.0):
    """Scores that are all 0 but for one per row: 1/256 each, or nearly all in one place."""
    rng = np.random.default_rng(0)
    scores = np.zeros((1, 2, TOKENS), np.float32)
    scores[:, 0, 3] = scores[:, 1, 5] = sharp
    return {"s": scores, "v": rng.standard_normal((1, TOKENS, 4)).astype(np.float32)}


def test_probabilities_below_half_a_step(net, case_of, quantizer):
    """256 probabilities of 1/256 vanish on steps of 1/64: all values, all of their sum."""
    q = quantizer("soft", "out0", "p", 1 / 64, signed=False, qmin=0, qmax=255)
    (found,) = attention(case_of(net, [q], [sample()]))
    assert (found.code, found.layer) == ("QA110", "soft")
    assert found.evidence == {
        "what": "probabilities",
        "step": 1 / 64,
        "share_below_half_a_step": 1.0,
        "mass_below_half_a_step": 1.0,
    }
    new = found.changes["soft", "out0"]
    assert (new.scale.item(), new.qmin, new.qmax) == (1 / 1024, 0, 16 * 255)


def test_the_loss_goes_with_the_grid(net, case_of, quantizer):
    """Everything was lost; with steps of 1/1024, which 1/256 is four of, nothing is."""
    q = quantizer("soft", "out0", "p", 1 / 64, signed=False, qmin=0, qmax=255)
    findings = diagnose(case_of(net, [q], [sample()]))
    assert findings[0].code == "QA110"
    assert findings[0].gain == pytest.approx(1.0, abs=1e-6)


def test_sharp_attention_loses_nothing_that_counts(net, case_of, quantizer):
    """Most probabilities are below half a step, but together they are less than 1 %."""
    q = quantizer("soft", "out0", "p", 1 / 64, signed=False, qmin=0, qmax=255)
    assert not list(attention(case_of(net, [q], [sample(sharp=20.0)])))


def test_a_softmax_at_the_end_is_no_attention(bind, case_of, quantizer):
    """Class probabilities that nothing computes with are left to other rules."""
    net = bind("g (float[1,512] x) => (float[1,512] y) { [soft] y = Softmax<axis=1>(x) }")
    q = quantizer("soft", "out0", "y", 1 / 64, signed=False, qmin=0, qmax=255)
    assert not list(attention(case_of(net, [q], [{"x": np.zeros((1, 512), np.float32)}])))


def test_scores_on_the_grid_of_the_mask(net, case_of, quantizer):
    """A step of 10000 / 255 makes scores of 0 and 9 the same; what counts ends at 0."""
    quantizers = [
        quantizer("mask", "in1", "hide", 10000 / 255, 255, role="constant", qmin=0, qmax=255),
        quantizer("mask", "out0", "m", 10010 / 255, 255, qmin=0, qmax=255),
    ]
    case = case_of(net, quantizers, [sample(sharp=9.0)])
    (found,) = attention(case)
    assert (found.code, found.layer) == ("QA110", "mask")
    assert found.evidence == {
        "what": "scores",
        "step": pytest.approx(10010 / 255),
        "lowest": -10000.0,
        "highest": 9.0,
        "lowest_that_counts": 0.0,
    }
    assert found.changes == dict.fromkeys([("mask", "in1"), ("mask", "out0")])
    assert diagnose(case)[0].gain == pytest.approx(1.0)


def test_several_are_tried_together_too(bind, case_of, quantizer):
    """Two Softmax nodes hide each other's loss: one candidate takes both out, two take one."""
    net = bind(
        """g (float[1,2,512] s, float[1,512,512] v) => (float[1,2,512] y) {
            [a] p = Softmax<axis=2>(s)  [m] n = MatMul(p, v)
            [b] r = Softmax<axis=2>(n)  [o] y = MatMul(r, v)
        }"""
    )
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1, TOKENS, TOKENS)).astype(np.float32)
    given = {"s": np.zeros((1, 2, TOKENS), np.float32), "v": values}
    quantizers = [quantizer(n, "out0", t, 1 / 64, qmin=0, qmax=255) for n, t in ("ap", "br")]
    found = list(attention(case_of(net, quantizers, [given])))
    assert [c.layer for c in found] == [None, "a", "b"]
    assert found[0].evidence["layers"] == ["a", "b"]
    assert set(found[0].changes) == {("a", "out0"), ("b", "out0")}


def test_the_sample_model_names_its_softmax():
    """Attention over 256 tokens on 8 bits; what norms bring there is chance: not asked."""
    folder = Path(__file__).parents[2] / "sample_models"
    config = {"calib": str(folder / "tiny_attention"), "target": "onnxruntime", "samples": 8}
    analysis = run(folder / "tiny_attention.onnx", resolve({**config, "propose": False}))
    gains = {f.code: f.gain for f in reversed(analysis.findings)}  # the largest of each code
    assert gains["QA110"] > 0.1
