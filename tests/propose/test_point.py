# SPDX-License-Identifier: Apache-2.0
"""The front of points by its definition, and the knee of it by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from analyzer.fixes.remedy import Remedy
from analyzer.propose.point import Point, front_of, knee
from analyzer.records import Cost, Edit, Setting


def point(price, left, remedies=1):
    remedy = Remedy("precision", ("a",), "int8", "int16")
    return Point((remedy,) * remedies, Setting(), Cost(macs=price), price, {"y": left}, left)


LEVELS = st.integers(0, 6).map(lambda n: n / 4)  # few, so that there are ties
POINTS = st.lists(st.builds(point, LEVELS, LEVELS, st.integers(1, 3)), max_size=12)


@given(POINTS)
def test_the_front_by_its_definition(points):
    """A pair is on it exactly if no other point is as cheap and as good, and better in one."""

    def beaten(p):
        return any(
            q.price <= p.price and q.left <= p.left and (q.price, q.left) != (p.price, p.left)
            for q in points
        )

    expected = {(p.price, p.left) for p in points if not beaten(p)}
    front = front_of(points)
    assert [(p.price, p.left) for p in front] == sorted(expected)


@given(POINTS)
def test_of_equals_the_one_with_the_fewest_remedies_stands(points):
    """Price and noise alike: what is less to write down."""
    for found in front_of(points):
        alike = [p for p in points if (p.price, p.left) == (found.price, found.left)]
        assert len(found.remedies) == min(len(p.remedies) for p in alike)


def test_the_knee_by_hand():
    """0.9 is worth a price; 0.88 is 98 % of it and is not; 0.6 is; 0.1 is beyond the budget."""
    start, some, hardly, much, dear = (
        point(*pair) for pair in [(0, 1), (0.01, 0.9), (0.02, 0.88), (0.04, 0.6), (0.06, 0.1)]
    )
    points = [dear, much, hardly, some, start]
    assert knee(points, 0.05) is much
    assert knee(points, 0.03) is some
    assert knee(points, 0.06) is dear
    assert knee(points, 0) is start
    assert knee([dear], 0.05) is None


def test_small_steps_are_held_against_what_was_taken():
    """0.98, 0.96: neither step is 3 % by itself, but the second is 4 % below the start."""
    points = [point(0, 1), point(1, 0.98), point(2, 0.96)]
    assert knee(points, 2) is points[2]


def test_what_is_free():
    """Nothing moved and nothing added; larger weights cost no time."""
    free = Point((), Setting(), Cost(weight_bytes=0.5), 0, {}, 1)
    assert free.is_free
    assert not free.has_edits
    for cost in (Cost(macs=0.1), Cost(elements=0.1), Cost(nodes=1)):
        assert not Point((), Setting(), cost, 0, {}, 1).is_free
    edited = Setting(edits=(Edit("equalization", ("a", "b")),))
    assert Point((), edited, Cost(), 0, {}, 1).has_edits
