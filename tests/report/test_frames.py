# SPDX-License-Identifier: Apache-2.0
"""Frames for notebooks, of analyses made by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from analyzer.records import Analysis, LayerError, OutputError, Provenance, QuantPlan
from analyzer.report.changes import compare
from analyzer.report.frames import (
    attempts_frame,
    changes_frame,
    findings_frame,
    layers_frame,
    outputs_frame,
    proposals_frame,
    scores_frame,
    sources_frame,
)

# names in the analysis of conftest.py
SCRIPT, MARKUP = "</script><img src=x onerror=alert(1)>", "/head[red]/Conv[/head]"

ALL = (
    layers_frame, outputs_frame, scores_frame, proposals_frame, findings_frame, sources_frame,
    attempts_frame,
)  # fmt: skip


def bare(layers=(), nsr=0.5):
    outputs = (OutputError("y", nsr, 3.0, 0.9, 1.0),)
    plan = QuantPlan("esp32p4", (), frozenset(), {}, ())
    return Analysis(Provenance("", "", {}, "esp32p4", (), 0, {}, {}), outputs, layers, plan)


def test_layers_are_found_by_name(analysis):
    """In execution order; inf stays inf, what was not measured is NaN."""
    frame = layers_frame(analysis)
    assert list(frame.index) == [layer.name for layer in analysis.layers]
    assert frame.index.name == "layer"
    assert frame.loc[SCRIPT, "isolated_nsr"] == 0.031
    assert (frame.loc[SCRIPT, "isolated_low"], frame.loc[SCRIPT, "isolated_high"]) == (
        0.028,
        0.034,
    )
    assert frame.loc[MARKUP, "isolated_nsr"] == math.inf
    assert math.isnan(frame.loc["softmax", "isolated_nsr"])
    assert list(frame["number"]) == list(range(7))
    assert frame.loc[SCRIPT, "findings"] == "QA999"
    assert frame.loc["conv_first", "source_nodes"] == ("conv_first", "bn_first")
    assert frame.loc["conv_first", "isolated_nsr:out"] == 0.00002
    assert frame.loc["conv_first", "part:weight"] == 0.75
    assert frame.loc["conv_first", "macs"] == 1_000_000
    assert frame.iloc[4]["group"] == "g1"


def test_numbers_are_numbers_even_where_nothing_was_measured():
    """A column of nothing sorts, and has the type it has elsewhere."""
    frame = layers_frame(bare((LayerError("a", "Conv"), LayerError("b", "Conv"))))
    assert frame["isolated_nsr"].dtype == "float64"
    assert frame["macs"].dtype == "Int64"
    assert len(frame.nlargest(1, "isolated_nsr")) == 1


@pytest.mark.parametrize("frame", ALL)
def test_a_frame_of_nothing_has_its_columns(frame, advised):
    """Code that was written for a frame with rows runs on one without."""
    full = set(frame(advised).columns)
    empty = {c for c in frame(bare()).columns if ":" not in c}
    assert empty == {column for column in full if ":" not in column}


def test_outputs_before_and_after(advised):
    """The NSR after is that of the recommended proposal."""
    best = next(plan for plan in advised.proposals if plan.recommended)
    frame = outputs_frame(advised)
    assert frame.loc["out", "nsr"] == advised.outputs[0].nsr
    assert frame.loc["out", "nsr_after"] == best.outputs_after["out"]
    assert outputs_frame(bare())["nsr_after"].isna().all()


def test_proposals_side_by_side(advised):
    """One row each, with what it changes in words and what every output becomes."""
    frame = proposals_frame(advised)
    assert list(frame.index) == [plan.name for plan in advised.proposals]
    assert frame["recommended"].sum() == 1
    for plan in advised.proposals:
        assert frame.loc[plan.name, "macs"] == plan.costs.macs
        for name, nsr in plan.outputs_after.items():
            assert frame.loc[plan.name, f"nsr_after:{name}"] == nsr


def test_findings_keep_their_evidence(analysis):
    """As a dict; a code that is not known has its advice for a title."""
    row = findings_frame(analysis).iloc[0]
    assert (row["code"], row["layer"], row["evidence"]) == ("QA999", SCRIPT, {"ratio": 38.5})
    assert row["title"] == "Use a percentile observer"


def test_sources_add_up(booked):
    """A column of an output is the balance of it: 4 % + 1 % + 0.001 %."""
    frame = sources_frame(booked)
    assert frame["nsr:out"].sum() == pytest.approx(0.05001, abs=1e-12)
    assert frame.loc["conv_first", "layers"] == ("conv_first",)


def test_what_changed():
    """Outputs first, then layers; what only one has keeps its number."""

    def conv(name, nsr):
        return LayerError(name, "Conv", isolated_nsr=nsr)

    old = bare((conv("a", 0.2), conv("gone", 0.1)))
    new = bare((conv("a", 0.1), conv("fresh", 0.3)), nsr=0.25)
    frame = changes_frame(compare(new, old))
    expected = pd.DataFrame(
        {
            "what": ["output", "layer", "layer", "layer"],
            "old": [0.5, 0.2, 0.1, math.nan],
            "new": [0.25, 0.1, math.nan, 0.3],
            "factor": [0.5, 0.5, math.nan, math.nan],
            "verdict": ["better", "better", "only in the old one", "only in the new one"],
        },
        index=pd.Index(["y", "a", "gone", "fresh"], name="name"),
    )
    pd.testing.assert_frame_equal(frame, expected)


def test_frames_are_copies(analysis):
    """Changing one changes nothing else."""
    frame = layers_frame(analysis)
    frame["isolated_nsr"] = 0.0
    assert layers_frame(analysis).loc[SCRIPT, "isolated_nsr"] == 0.031
