# SPDX-License-Identifier: Apache-2.0
"""Which plans are verified, which one is recommended, and what is told about each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.fixes.remedy import Remedy
from analyzer.propose.choice import FEWEST, MOST, Checked, Wish, choose, finalists, proposals
from analyzer.propose.point import Point, knee
from analyzer.records import Change, Cost, Setting, TaskScore

START = Point((), Setting(), Cost(), 0.0, {"y": 0.4}, 1.0)


def remedy(number):
    return Remedy("precision", (f"l{number}",), "int8", "int16", {f"l{number}": "int16"})


def point(number, price, left, predicted=None):
    """One remedy, with a setting of its own."""
    table = {f"l{number}": "int16"}
    cost = Cost(macs=price)
    return Point(
        (remedy(number),), Setting(table=table), cost, price, {"y": left}, left, predicted
    )


def checked(price, left, score=None, nsr=None, number=0):
    scores = () if score is None else (TaskScore("top1", score, None, "fp32", 10),)
    nsr = {"y": 0.4 * left} if nsr is None else nsr
    return Checked(point(number, price, left), nsr, left, scores)


def start(score=None):
    scores = () if score is None else (TaskScore("top1", score, None, "fp32", 10),)
    return Checked(START, {"y": 0.4}, 1.0, scores)


def wish(budget=0.05, goal=None):
    return Wish(budget, goal, ["y"])


def test_the_least_noise_within_the_budget():
    """Half at 1 %, a third at 4 %, a tenth at 6 %, which is more than 5 %."""
    half, third, tenth = checked(0.01, 0.5), checked(0.04, 0.33), checked(0.06, 0.1)
    best, why = choose(start(), [half, third, tenth], wish())
    assert best is third
    assert why.startswith("the least noise within the budget: 33")
    assert choose(start(), [half, third, tenth], wish(budget=0.1))[0] is tenth
    assert choose(start(), [half, third, tenth], wish(budget=0))[0].point is START


def test_a_step_that_brings_little_is_not_taken():
    """0.49 is 98 % of 0.5: not worth another 3 % of the multiply-accumulates."""
    half, hardly = checked(0.01, 0.5), checked(0.04, 0.49)
    assert choose(start(), [half, hardly], wish())[0] is half


@pytest.mark.parametrize("left", [1.0, 1.2, 0.98])
def test_nothing_better_leaves_the_start(left):
    """As loud, louder, or quieter by less than 3 %."""
    plain = start()
    best, why = choose(plain, [checked(0.0, left)], wish())
    assert best is plain
    assert "nothing" in why


def test_free_is_told():
    """A price of 0 is called free."""
    assert choose(start(), [checked(0.0, 0.5)], wish())[1].startswith("free: 50")


def test_less_noise_that_costs_score_is_refused():
    """Half of the noise, and 5 points of accuracy less: no; half a thousandth less: yes."""
    worse, same = checked(0.0, 0.5, score=0.85), checked(0.0, 0.5, score=0.8996)
    plain = start(score=0.9)
    assert choose(plain, [worse], wish())[0] is plain
    assert choose(plain, [same], wish())[0] is same


def test_many_steps_do_not_lose_the_score():
    """Six plans, each a point less accurate than the one before: not 6 points less in the end."""
    plans = [checked(n / 1000, 0.9**n, score=0.9 - n / 100) for n in range(1, 7)]
    assert choose(start(score=0.9), plans, wish())[0].score >= 0.87


def test_a_higher_score_is_worth_its_price():
    """As much noise as the cheaper plan's, but 5 points more: taken; not if louder than asked."""
    cheap, better = checked(0.01, 0.5, score=0.9), checked(0.03, 0.5, score=0.95)
    assert choose(start(score=0.9), [cheap, better], wish())[0] is better
    plain, louder = start(score=0.9), checked(0.03, 1.1, score=0.95)
    assert choose(plain, [louder], wish())[0] is plain


def test_a_goal_takes_the_cheapest_that_reaches_it():
    """NSR of at most 0.2: half of 0.4 does at 1 %; the quieter ones are not needed."""
    half, third = checked(0.01, 0.5), checked(0.04, 0.33)
    best, why = choose(start(), [third, half], wish(goal=("nsr", 0.2)))
    assert best is half
    assert why == "the cheapest plan that reaches the goal"


def test_a_goal_may_cost_more_than_the_budget():
    """The goal comes first."""
    dear = checked(0.5, 0.1)
    assert choose(start(), [dear], wish(goal=("nsr", 0.05)))[0] is dear


def test_a_goal_that_the_start_reaches():
    """Nothing is paid for then."""
    plain = start()
    assert choose(plain, [checked(0.01, 0.1)], wish(goal=("nsr", 0.4)))[0] is plain


def test_a_goal_is_about_the_worst_whole_output():
    """A slice of an output is not asked for."""
    plan = checked(0, 0.5, nsr={"y": 0.1, "z": 0.3, "y[:4]": 9.0})
    assert Wish(1, ("nsr", 0.3), ["y", "z"]).fulfilled(plan)
    assert not Wish(1, ("nsr", 0.2), ["y", "z"]).fulfilled(plan)


def test_a_goal_for_a_score():
    """By its name, from its value on."""
    low, high = checked(0.01, 0.5, score=0.9), checked(0.02, 0.5, score=0.95)
    assert choose(start(score=0.8), [low, high], wish(goal=("top1", 0.95)))[0] is high
    assert not wish(goal=("map", 0.1)).fulfilled(high)


def test_a_goal_that_nothing_reaches_is_said():
    """The best within the budget is recommended all the same."""
    half = checked(0.01, 0.5)
    best, why = choose(start(), [half], wish(goal=("nsr", 1e-6)))
    assert best is half
    assert why.endswith("no plan that was simulated reaches the goal")


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 0.01, 0.02, 0.04, 0.08]), st.sampled_from([0.1, 0.3, 0.9, 1.2])
        ),
        max_size=20,
    )
)
def test_finalists_are_enough_and_hold_the_best(pairs):
    """Five where so many were simulated, eight at most, each once, sorted; the best among them."""
    points = [START, *(point(n, *pair) for n, pair in enumerate(pairs))]
    best = knee(points, 0.05)
    found = finalists(points, best)
    assert min(FEWEST, len(pairs)) <= len(found) <= MOST
    assert all(p.remedies for p in found)
    assert best is START or best in found
    settings = [repr(p.setting) for p in found]
    assert len(set(settings)) == len(settings)
    assert [p.price for p in found] == sorted(p.price for p in found)


def test_a_long_front_keeps_its_ends():
    """Of 20 points on the front, the cheapest and the dearest are verified."""
    points = [START, *(point(n, n / 100, 1 - n / 25) for n in range(1, 21))]
    found = finalists(points, points[3])
    assert points[1] in found
    assert points[20] in found
    assert points[3] in found


def test_a_setting_that_was_reached_twice_is_verified_once():
    """By two ways, in two orders: one plan."""
    first, twin = point(1, 0.01, 0.5), point(1, 0.01, 0.5)
    assert finalists([START, first, twin], first) == [first]


def test_proposals_by_hand():
    """Names, costs, what is left, which are on the front, and why not."""
    few, best, beaten, dear, worse = (
        checked(0.0, 0.8, number=1), checked(0.01, 0.5, number=2), checked(0.02, 0.6, number=3),
        checked(0.1, 0.2, number=4), checked(0.2, 1.1, number=5),
    )  # fmt: skip
    plans = [few, best, beaten, dear, worse]
    points = [START, *(c.point for c in plans)]
    found = proposals(start(score=0.9), plans, best, "because", 7, points)
    assert [p.name for p in found] == [f"plan {n}" for n in range(1, 6)]
    assert [p.recommended for p in found] == [False, True, False, False, False]
    assert [p.front for p in found] == [True, True, False, True, False]
    assert [p.why for p in found] == [
        "cheaper, but leaves more noise",
        "because",
        "another plan is no dearer and leaves less noise",
        "costs more than it brings, or than the budget allows",
        "makes the outputs no better",
    ]
    first = found[1]
    assert (first.cost, first.left, first.samples) == (0.01, 0.5, 7)
    assert first.outputs_before == {"y": 0.4}
    assert first.outputs_after == {"y": 0.2}
    assert first.task_before == {"top1": 0.9}
    assert first.task_after == {}
    assert first.setting == Setting(table={"l2": "int16"})
    assert first.changes == (Change("precision", "l2", "int8", "int16", 0.01, None, 0.5, ("l2",)),)


def test_changes_tell_what_each_of_them_brought():
    """Two remedies at 1 % and 3 %; foretold 0.2 of the start's 0.4, measured 0.25 of it."""
    one = Point(
        (remedy(1),), Setting(table={"l1": "int16"}), Cost(macs=0.01), 0.01, {"y": 0.2}, 0.5
    )
    both = Point(
        (remedy(1), remedy(2)), Setting(table={"l1": "int16", "l2": "int16"}), Cost(macs=0.04),
        0.04, {"y": 0.1}, 0.25, 0.2,
    )  # fmt: skip
    plan = Checked(both, {"y": 0.1}, 0.25, ())
    (proposal,) = proposals(start(), [plan], plan, "", 1, [START, one, both])
    first, second = proposal.changes
    assert (first.cost, first.measured_nsr, first.predicted_nsr) == (0.01, 0.2, None)
    assert second.cost == pytest.approx(0.03)
    assert second.measured_nsr == pytest.approx(0.1)
    assert second.predicted_nsr == pytest.approx(0.08)  # 0.2 of 0.4
    assert proposal.predicted == 0.2


def test_nothing_recommended_where_the_start_stays():
    """The start is no proposal."""
    plain, louder = start(), checked(0, 1.2)
    found = proposals(plain, [louder], plain, "nothing", 1, [START, louder.point])
    assert [p.recommended for p in found] == [False]
