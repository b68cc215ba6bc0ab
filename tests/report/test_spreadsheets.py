# SPDX-License-Identifier: Apache-2.0
"""CSV that other programs read back."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

from analyzer.records import Analysis
from analyzer.report.spreadsheets import render_csv, render_proposals_csv, render_sources_csv


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_layers_read_back(analysis: Analysis) -> None:
    """Names are exact, missing is empty, numbers have all their digits."""
    rows = read(render_csv(analysis))
    assert [row["name"] for row in rows] == [layer.name for layer in analysis.layers]
    first, second, third, *_, last = rows
    assert float(first["isolated_nsr"]) == 0.000042
    assert (first["isolated_low"], first["isolated_high"]) == ("3e-05", "6e-05")
    assert first["isolated_nsr:out"] == "2e-05"
    assert (first["part:input"], first["part:weight"]) == ("0.25", "0.75")
    assert (first["index"], first["computing"], first["macs"]) == ("0", "true", "1000000")
    assert json.loads(first["source_nodes"]) == ["conv_first", "bn_first"]
    assert second["findings"] == "QA999"
    assert third["graphwise_nsr"] == "inf"
    assert (last["isolated_nsr"], last["status"]) == ("", "float: left in FP32")


def test_parts_and_channels_are_columns(booked: Analysis) -> None:
    """What a row consists of is there for those taken apart, and empty for the others."""
    _, second, third, *_ = read(render_csv(booked))
    assert (second["part:clipping"], second["part:input_clipping"]) == ("0.75", "0.9")
    assert json.loads(second["channels"]) == [[17, 0.6], [3, 0.004]]
    assert (third["part:clipping"], third["channels"]) == ("", "")


def test_sources_add_up_to_the_isolated_sum(booked: Analysis) -> None:
    """The column of an output sums to its isolated sum; an unprobed source says why."""
    rows = read(render_sources_csv(booked))
    assert booked.balance
    assert [row["name"] for row in rows] == [s.name for s in booked.balance.sources]
    total = sum(float(row["nsr:out"] or 0) for row in rows)
    assert abs(total - booked.outputs[0].isolated_sum) < 1e-12
    assert (rows[0]["kind"], rows[0]["alignment_price"], rows[0]["samples"]) == (
        "group", "0.025", "8",
    )  # fmt: skip
    assert json.loads(rows[0]["quantizers"])[0] == [booked.balance.sources[0].layers[0], "out0"]
    assert (rows[3]["nsr"], rows[3]["nsr:out"]) == ("", "")
    assert rows[3]["status"] == "isolated error not measured: too small"


def test_sources_without_a_balance(analysis: Analysis) -> None:
    """An old analysis gives a header and no rows."""
    assert read(render_sources_csv(analysis)) == []
    assert render_sources_csv(analysis).startswith("index,name,kind,nsr,")


def test_proposals_have_a_row_per_change(advised: Analysis) -> None:
    """What the plan brings is repeated, so that every row stands alone."""
    rows = read(render_proposals_csv(advised))
    assert [row["proposal"] for row in rows].count("plan 2") == 2
    assert len(rows) == 3 + 2 + 1 + 1
    second = [row for row in rows if row["proposal"] == "plan 2"][1]
    assert (second["recommended"], second["front"], second["macs"]) == ("true", "true", "0.021")
    assert (second["nsr_before:out"], second["nsr_after:out"]) == ("0.03", "0.003")
    assert (second["task_before:box AP50"], second["task_after:box AP50"]) == ("0.94", "0.97")
    assert (second["predicted"], second["left"], second["milliseconds"]) == ("0.19", "0.1", "")
    assert (second["change"], second["kind"], second["from"], second["to"]) == (
        "2", "precision", "int8", "int16",
    )  # fmt: skip
    assert json.loads(second["layers"])[0] == "</script><img src=x onerror=alert(1)>"
    assert (second["change_predicted_nsr"], second["change_nsr"]) == ("", "0.003")
    assert json.loads(rows[0]["layers"]) == []
    assert rows[-1]["nsr_after:scores"] == "inf"


def test_plans_without_changes_and_no_plans(advised: Analysis) -> None:
    """A plan always has a row; without plans there is a header."""
    plan = dataclasses.replace(advised.proposals[0], changes=())
    (row,) = read(render_proposals_csv(dataclasses.replace(advised, proposals=(plan,))))
    assert (row["left"], row["change"], row["kind"]) == ("0.05", "", "")
    assert read(render_proposals_csv(dataclasses.replace(advised, proposals=()))) == []
