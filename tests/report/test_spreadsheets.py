# SPDX-License-Identifier: Apache-2.0
"""CSV that other programs read back."""

from __future__ import annotations

import csv
import io
import json

from analyzer.records import Analysis
from analyzer.report.spreadsheets import render_csv, render_sources_csv


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
