# SPDX-License-Identifier: Apache-2.0
"""What each change of a plan costs by itself, and a budget that a run as it is breaks."""

from __future__ import annotations

import pytest

from analyzer.fixes.remedy import Remedy
from analyzer.propose.choice import Checked, Wish, choose, proposals
from analyzer.propose.point import Point
from analyzer.records import Cost, Setting

WIDE, SPLIT = (
    Remedy("precision", ("a", "b"), "int8", "int16"),
    Remedy("weight_split", ("c",), "whole", "split"),
)
START = Point((), Setting(), Cost(), 0.0, {"y": 0.4}, 1.0)


def point(*remedies, macs):
    return Point(remedies, Setting(), Cost(macs=macs), macs, {"y": 0.1}, 0.25)


def costs(points, **given):
    start, plan = (Checked(p, p.nsr, p.left, ()) for p in (START, points[-1]))
    (found,) = proposals(start, [plan], plan, "", 1, [START, *points], **given)
    return [change.cost for change in found.changes]


def test_what_was_not_simulated_one_by_one_is_not_told_apart():
    """Two changes that were put on at once cost 3 % together: neither gets all of it."""
    both = point(WIDE, SPLIT, macs=0.03)
    assert costs([both]) == [0.0, 0.0]
    assert costs([point(WIDE, macs=0.01), both]) == pytest.approx([0.01, 0.02])


def test_layers_that_get_more_bits_cost_their_share():
    """2 and 4 of 600 multiply-accumulates are 1 %, whatever else was simulated."""
    both = point(WIDE, SPLIT, macs=0.03)
    assert costs([both], macs={"a": 2, "b": 4, "c": 594}) == pytest.approx([0.01, 0.0])


def test_a_run_that_takes_longer_than_the_budget_may_still_be_better():
    """8 ms as it is, 5 ms wanted: what takes no longer than now is recommended."""
    start, same, longer = (
        Checked(Point(r, Setting(), Cost(), price, {"y": left}, left), {"y": left}, left, ())
        for r, price, left in (((), 8.0, 1.0), ((WIDE,), 8.0, 0.5), ((SPLIT,), 9.0, 0.1))
    )
    assert choose(start, [same, longer], Wish(5.0, None, ["y"]))[0] is same
