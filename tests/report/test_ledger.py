# SPDX-License-Identifier: Apache-2.0
"""The balance as rows: shares, what is explained, and the steps along the graph."""

from __future__ import annotations

import dataclasses
import math

import pytest

from analyzer.records import Analysis, OutputError, Source
from analyzer.report import ledger


def test_contributors_are_shares_of_the_isolated_sum(booked: Analysis) -> None:
    """4 % of 5.001 % is 80 %; the unprobed one is last and no share of anything."""
    found = ledger.contributors(booked, "out")
    assert [c.nsr for c in found] == [0.04, 0.01, 0.00001, None]
    assert [c.share for c in found[:2]] == pytest.approx([0.04 / 0.05001, 0.01 / 0.05001])
    assert found[3].share is None
    assert ledger.contributors(dataclasses.replace(booked, balance=None), "out") == []


def test_a_source_without_limits_has_no_share(booked: Analysis) -> None:
    """inf of inf is no number; the source still comes first."""
    assert booked.balance
    first, *others = booked.balance.sources
    wild = dataclasses.replace(others[0], by_output={"out": math.inf})
    balance = dataclasses.replace(booked.balance, sources=(first, wild))
    found = ledger.contributors(dataclasses.replace(booked, balance=balance), "out")
    assert [(c.nsr, c.share) for c in found] == [(math.inf, None), (0.04, None)]


def test_groups_are_called_by_the_layer_that_makes_them() -> None:
    """`/cat:out0` of a Concat is a Concat group; any other name stays."""
    types = {"/cat": "Concat", "/a": "Conv"}
    group = Source("/cat:out0", "group", ("/a", "/cat"), ())
    assert ledger.title(group, types) == "Concat group /cat (2 layers)"
    tensor = dataclasses.replace(group, name="x:0", layers=("/a",))
    assert ledger.title(tensor, types) == "group x:0 (1 layer)"
    assert ledger.title(Source("/a", "layer", ("/a",), ()), types) == "/a"


def test_account() -> None:
    """5 % alone, 2 % less together, is 3 % of 4 %: three quarters, and 1 % is left."""
    account = ledger.account(OutputError("y", 0.04, 14, 1, 1, 0.05, 1.25, 0.03))
    assert account.effects == pytest.approx(-0.02)
    assert account.explained == pytest.approx(0.75)
    assert account.rest == pytest.approx(0.01)
    for output in (
        OutputError("y", math.inf, 0, 1, 1, 0.05, 0.0, 0.03),
        OutputError("y", 0.1, 0, 1, 1),
        OutputError("y", 0.1, 0, 1, 1, math.inf, math.inf, math.inf),
    ):
        found = ledger.account(output)
        assert (found.effects, found.explained, found.rest) == (None, None, None)


def test_slices_stand_behind_their_output() -> None:
    """A slice of an output that is not there stays where it is."""
    outputs = [
        OutputError(name, 0, 0, 1, 0, slice_of=of)
        for name, of in [("a1", "a"), ("a", None), ("b", None), ("a2", "a"), ("c1", "c")]
    ]
    assert [o.name for o in ledger.in_families(outputs)] == ["a", "a1", "a2", "b", "c1"]


def test_rises_lead_from_nothing_to_the_whole(booked: Analysis) -> None:
    """Changes add up to the last step; the largest are those that add."""
    found = ledger.rises(booked, "out")
    assert [(r.start, r.end, r.after, r.layer) for r in found] == [
        (0, 1, None, "conv_first"), (1, 3, "conv_first", "/head[red]/Conv[/head]"),
        (3, 7, "/head[red]/Conv[/head]", "softmax"),
    ]  # fmt: skip
    assert [r.change for r in found] == pytest.approx([0.01, 0.04, -0.02])
    assert [r.place for r in ledger.largest(found)] == [1, 0]


@pytest.mark.parametrize(("additivity", "fine"), [(0.69, False), (0.7, True), (1.5, True),
                                                  (1.51, False), (None, True)])  # fmt: skip
def test_band(additivity: float | None, fine: bool) -> None:
    """Between 0.7 and 1.5 isolated errors may be read as shares of the total."""
    assert ledger.is_additive(OutputError("y", 0.1, 10, 1, 1, 0.1, additivity)) is fine
