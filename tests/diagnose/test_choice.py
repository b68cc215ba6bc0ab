# SPDX-License-Identifier: Apache-2.0
"""Of the causes tried at some quantizers one is told: that which says most and does enough."""

from __future__ import annotations

import pytest

from analyzer.diagnose.candidate import Candidate
from analyzer.diagnose.choice import Tried, told


def tried(code, gain, *nodes, layer="layer", certain=False):
    changes = {(node, "out0"): None for node in nodes or ("a",)}
    return Tried(Candidate(code, layer, {}, changes, certain), gain)


def codes(*found, least=0.01):
    return [t.candidate.code for t in told(found, least=least)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param([("QA104", 0.9), ("QA101", 0.46)], ["QA101"], id="half of a generic one"),
        pytest.param([("QA104", 0.9), ("QA101", 0.4)], ["QA104"], id="less than half"),
        pytest.param([("QA101", 0.9), ("QA107", 0.8)], ["QA107"], id="constant before outlier"),
        pytest.param([("QA101", 0.9), ("QA105", 0.8)], ["QA105"], id="members before outlier"),
        pytest.param([("QA101", 0.9), ("QA105", 0.3)], ["QA101"], id="but not for a third of it"),
        pytest.param([("QA103", 0.5), ("QA104", 0.5)], ["QA103"], id="clipped before coarse"),
        pytest.param([("QA103", 0.5), ("QA104", 0.6)], ["QA103"], id="nearly as much"),
        pytest.param([("QA101", 0.005)], [], id="too little"),
        pytest.param([("QA101", None)], [], id="not tried"),
    ],
)
def test_one_cause_for_the_same_quantizers(found, expected):
    """A generic cause gives way to half of it, a specific one to most of it."""
    assert codes(*(tried(code, gain) for code, gain in found)) == expected


def test_other_quantizers_are_other_causes():
    """Both are told, the larger gain first; one that shares a quantizer with either is not."""
    found = [
        tried("QA104", 0.2, "a"), tried("QA101", 0.5, "b", "c"), tried("QA104", 0.3, "c", "d"),
    ]  # fmt: skip
    assert codes(*found) == ["QA101", "QA104"]


def test_one_layer_before_all_of_them_where_it_does_as_much():
    """The same code at one place and everywhere: the place, unless it is one of many."""
    one, every = tried("QA111", 0.5, "a"), tried("QA111", 0.6, "a", "b", layer=None)
    assert told([every, one], least=0.01) == [one]
    one = tried("QA111", 0.2, "a")
    assert told([every, one], least=0.01) == [every]


def test_what_is_removed_at_many_places_makes_up_for_all_of_them():
    """Half of one of them is not enough."""
    here = [tried("QA103", 0.2, "a"), tried("QA103", 0.3, "b")]
    assert codes(*here, tried("QA114", 0.2, "a", "b", layer=None)) == ["QA103", "QA103"]
    assert codes(*here, tried("QA114", 0.26, "a", "b", layer=None)) == ["QA114"]


def test_facts_are_always_told():
    """Whatever a trial says: by gain where there is one, at the end where not."""
    fact, unknown = tried("QA201", 0.0, certain=True), tried("QA208", None, certain=True)
    found = told([unknown, fact, tried("QA104", 0.3, "b")], least=0.01)
    assert [t.candidate.code for t in found] == ["QA104", "QA201", "QA208"]


def test_a_fact_stands_behind_the_cause_of_its_noise():
    """A layer in float loses everything; the cause that accounts for most of that comes first."""
    fact, cause = tried("QA203", 0.9, "a", "b", certain=True), tried("QA101", 0.8, "a")
    assert told([fact, cause], least=0.01) == [cause, fact]
    cause = tried("QA101", 0.3, "a")
    assert told([fact, cause], least=0.01) == [fact, cause]


def test_a_fact_that_names_the_cause_stands_for_it():
    """An infinite scale makes everything coarse: nothing else is told of its quantizer."""
    fact = tried("QA113", 0.8, "a", certain=True)
    assert told([fact, tried("QA110", 0.8, "a"), tried("QA104", 0.9, "a")], least=0.01) == [fact]
    more = tried("QA110", 0.9, "a", "b")
    assert told([tried("QA113", 0.1, "a", certain=True), more], least=0.01)[0] == more


def test_the_list_ends_where_nobody_reads_on():
    """Ten causes, the largest gains."""
    found = [tried("QA104", n / 100, f"n{n}") for n in range(1, 31)]
    gains = [t.gain for t in told(found, least=0.01)]
    assert gains == [n / 100 for n in range(30, 20, -1)]
