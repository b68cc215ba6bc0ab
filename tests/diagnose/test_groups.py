# SPDX-License-Identifier: Apache-2.0
"""QA105: what a join puts onto one grid, and the grids of the members' own."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.diagnose.groups import unequal_members
from analyzer.records import Source


def samples_of(**reaches):
    ramp = np.linspace(-1, 1, 32, dtype=np.float32).reshape(1, 2, 4, 4)
    return [{name: ramp * np.float32(reach) for name, reach in reaches.items()}]


@pytest.fixture
def concat(bind):
    return bind(
        """g (float[1,2,4,4] x, float[1,2,4,4] z) => (float[1,4,4,4] y) {
            [a] s = Neg(x)  [b] t = Neg(z)  [c] j = Concat<axis=1>(s, t)
            [o] y = Relu(j)
        }"""
    )


def test_every_member_of_a_concat_gets_its_scale(concat, case_of, quantizer):
    """Members reach 4 and 127 on steps of 1: 1/16 (a power of two) and 1, in blocks behind."""
    grid = [
        quantizer("a", "out0", "s", 1.0),
        quantizer("b", "out0", "t", 1.0),
        quantizer("c", "out0", "j", 1.0),
    ]
    (found,) = unequal_members(case_of(concat, grid, samples_of(x=4, z=127)))
    assert (found.code, found.layer) == ("QA105", "c")
    assert found.evidence["range_ratio"] == pytest.approx(127 / 4)
    assert (found.evidence["narrowest"], found.evidence["widest"]) == ("s", "t")
    scales = {key: q.scale.tolist() for key, q in found.changes.items()}
    assert scales == {
        ("a", "out0"): [0.03125],
        ("b", "out0"): [1.0],
        ("c", "out0"): [0.03125, 0.03125, 1.0, 1.0],
    }


def test_members_need_not_share_the_grid_before_they_are_joined(concat, case_of, quantizer):
    """Only the Concat's output is quantized: its blocks get the ranges of what it reads."""
    grid = [quantizer("c", "out0", "j", 1.1)]
    (found,) = unequal_members(case_of(concat, grid, samples_of(x=6.35, z=127)))
    np.testing.assert_allclose(found.changes["c", "out0"].scale, [0.05, 0.05, 1.0, 1.0])


def test_equal_members_are_no_cause(concat, case_of, quantizer):
    """Three times the range is not worth a word."""
    grid = [quantizer("c", "out0", "j", 1.0)]
    assert not list(unequal_members(case_of(concat, grid, samples_of(x=40, z=120))))


def test_an_add_is_a_join_where_its_operands_share_the_grid(bind, case_of, quantizer):
    """Aligned operands: a finding with the price of alignment; one on its own grid: none."""
    model = bind(
        """g (float[1,2,4,4] x, float[1,2,4,4] z) => (float[1,2,4,4] y) {
            [a] s = Neg(x)  [b] t = Neg(z)  [p] u = Add(s, t)  [o] y = Relu(u)
        }"""
    )
    aligned = [
        quantizer("p", "in0", "s", 1.0),
        quantizer("p", "in1", "t", 1.0),
        quantizer("p", "out0", "u", 1.0),
    ]
    keys = tuple(q.key for q in aligned)
    source = Source("g", "group", ("p",), keys, nsr=0.5, alignment_price=0.2)
    samples = samples_of(x=4, z=127)
    (found,) = unequal_members(case_of(model, aligned, samples, source=source))
    assert found.layer == "p"
    assert found.evidence["price_of_alignment"] == pytest.approx(0.4)
    assert found.changes["p", "in0"].scale.item() == 0.03125
    own = [quantizer("p", "in0", "s", 0.03125), *aligned[1:]]
    assert not list(unequal_members(case_of(model, own, samples)))


def test_parts_of_an_output_that_differ_a_lot_are_left_to_their_own_rule(bind, case_of, quantizer):
    """Boxes and scores in one output are QA106's, from where that begins."""
    model = bind(
        """g (float[1,2,4,4] x, float[1,2,4,4] z) => (float[1,4,4,4] y) {
            [a] s = Neg(x)  [b] t = Neg(z)  [c] y = Concat<axis=1>(s, t)
        }"""
    )
    grid = [quantizer("c", "out0", "y", 1.0)]
    assert not list(unequal_members(case_of(model, grid, samples_of(x=4, z=127))))
    assert list(unequal_members(case_of(model, grid, samples_of(x=16, z=127))))
