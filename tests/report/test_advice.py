# SPDX-License-Identifier: Apache-2.0
"""Proposals: which are shown, what is free, what they are called, and why there are none."""

from __future__ import annotations

import dataclasses
import math

import pytest

from analyzer.records import Analysis, Change, Cost, Proposal
from analyzer.report import advice

SCRIPT = "</script><img src=x onerror=alert(1)>"


def names(plans: list[Proposal]) -> list[str]:
    return [plan.name for plan in plans]


def configured(analysis: Analysis, **config: object) -> Analysis:
    return dataclasses.replace(
        analysis, provenance=dataclasses.replace(analysis.provenance, config=config)
    )


def test_the_front_is_ordered_by_cost(advised: Analysis) -> None:
    """The cheapest first; what is not on the front comes after it, the least noise first."""
    assert names(advice.front(advised)) == ["plan 1", "plan 2", f"dear {SCRIPT}"]
    assert names(advice.others(advised)) == ["worse"]


def test_the_recommended_and_the_free_plan_are_always_shown(advised: Analysis) -> None:
    """Whether they were put on the front or not; without any front all plans are shown."""
    first, second, third, fourth = advised.proposals
    off = (first, *(dataclasses.replace(p, front=False) for p in (second, third)), fourth)
    assert len(advice.front(dataclasses.replace(advised, proposals=off))) == 3
    none = tuple(dataclasses.replace(p, front=False) for p in advised.proposals)
    assert len(advice.front(dataclasses.replace(advised, proposals=none))) == 4


def test_the_best_free_plan_helps(advised: Analysis) -> None:
    """Of several without a cost the one that leaves least; one that makes it worse is none."""
    plan = advised.proposals[2]
    assert advice.free(advised) is plan
    worse = dataclasses.replace(plan, left=1.01)
    better = dataclasses.replace(plan, name="better", left=0.3)
    changed = dataclasses.replace(advised, proposals=(worse, plan, better))
    assert advice.free(changed) is better
    assert advice.free(dataclasses.replace(advised, proposals=(worse,))) is None


@pytest.mark.parametrize(
    ("cost", "free"),
    [
        (Cost(), True), (Cost(milliseconds=12.0), True), (Cost(weight_bytes=0.01), True),
        (Cost(macs=0.001), False), (Cost(elements=0.001), False), (Cost(nodes=1), False),
    ],
)  # fmt: skip
def test_what_is_free(cost: Cost, free: bool) -> None:
    """Nothing is moved and no node is added: the run takes as long as it did."""
    assert advice.is_free(cost) is free


def test_a_budget_in_time_orders_by_time(advised: Analysis) -> None:
    """Milliseconds count where the budget is in them and all plans have them."""
    spent = {"plan 1": 30.0, "plan 2": 20.0, f"dear {SCRIPT}": 10.0, "worse": 5.0}
    timed = dataclasses.replace(
        configured(advised, budget=[25.0, "ms"]),
        proposals=tuple(
            dataclasses.replace(p, costs=dataclasses.replace(p.costs, milliseconds=spent[p.name]))
            for p in advised.proposals
        ),
    )
    assert names(advice.front(timed)) == [f"dear {SCRIPT}", "plan 2", "plan 1"]
    assert names(advice.front(configured(timed, budget=[0.05, "share"])))[0] == "plan 1"
    some = (dataclasses.replace(timed.proposals[0], costs=Cost(0.12)), *timed.proposals[1:])
    assert advice.priced_in(dataclasses.replace(timed, proposals=some)) == "macs"


def test_slices_are_not_the_worst_output(advised: Analysis) -> None:
    """Only whole outputs are; a number that is none is the worst of all."""
    assert advice.worst({"out": 0.03, "scores": 1.0}, advised) == 0.03
    assert math.isnan(advice.worst({"out": math.nan, SCRIPT: 5.0}, advised) or 0.0)
    assert advice.worst({"scores": 1.0}, advised) is None


def test_changes_in_words(advised: Analysis) -> None:
    """Layers of one kind of change are counted together, each once."""
    dear = advised.proposals[0]
    assert advice.in_words(dear) == (
        "calibration /head[red]/Conv[/head]; int16 at </script><img…rror=alert(1)> +4; "
        "weight split at conv_first"
    )
    twice = (Change("range", "a", "0 .. 1", "0 .. 2"), Change("range", "b", "0 .. 1", "0 .. 3"),
             Change("range", "a", "0 .. 1", "0 .. 2"))  # fmt: skip
    assert advice.in_words(dataclasses.replace(dear, changes=twice)) == "range at a +1"
    assert advice.in_words(dataclasses.replace(dear, changes=())) == "nothing is changed"


def test_costs_in_words(advised: Analysis) -> None:
    """What is not spent is not said."""
    dear, _, free, _ = advised.proposals
    assert advice.costs(dear.costs) == [
        "12.0 % of the MACs moved", "10.0 % of the written elements moved", "+3.00 % weight bytes",
        "2 more nodes", "1.12x the time",
    ]  # fmt: skip
    assert advice.costs(free.costs) == ["no run-time cost"]
    assert advice.costs(Cost(milliseconds=12.34)) == ["12.3 ms by your table"]


def test_the_error_of_predictions(advised: Analysis) -> None:
    """As a share of what went, by hand: 1/95, 9/90 and 10/60; the middle one is 10 %."""
    found = advice.prediction_error((p.predicted, p.left) for p in advised.proposals)
    assert found == (pytest.approx(0.1), 3)
    # 10/40 and 5/25; next to nothing and inf do not count
    found = advice.prediction_error((a.predicted, a.measured) for a in advised.attempts)
    assert found == (pytest.approx(0.225), 2)
    assert advice.prediction_error([(None, 0.5), (0.5, 1.0)]) is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, ""),
        ({"propose": False}, "switched off with --no-propose"),
        ({"propose": False, "quantized": "a.onnx"}, "not for a model that is quantized already"),
        ({"propose": True}, "nothing that is worth a try"),
    ],
)
def test_why_nothing_is_proposed(advised: Analysis, config: dict[str, object], words: str) -> None:
    """An old file does not tell; with a log the log is counted; with plans nothing is said."""
    bare = dataclasses.replace(configured(advised, **config), proposals=())
    without_log = dataclasses.replace(bare, attempts=())
    assert words in advice.silence(without_log)
    assert bool(words) is bool(advice.silence(without_log))
    if "quantized" not in config:
        assert "in 4 simulations nothing left clearly" in advice.silence(bare)
    assert advice.silence(configured(advised, **config)) == ""
