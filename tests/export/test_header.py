# SPDX-License-Identifier: Apache-2.0
"""The header of exported files: what it says, and that nothing of a model can break out of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_orders import tiny_order

from analyzer.export.header import header, percent
from analyzer.records import Change, Cost, Proposal, Setting
from analyzer.report import tables

MOVED = "# cost: 3.10 % of all MACs in more than 8 bits or float"
PROPOSAL = Proposal(
    name="plan 2",
    recommended=True,
    changes=(
        Change("precision", "a", "int8", "int16", layers=("a", "b")),
        Change("calibration", "", "kl", "percentile"),
        Change("weight_split", "c", "whole", "above 1.2", layers=("c",)),
    ),
    cost=0.031,
    outputs_before={"y": 0.312, "z": 0.00001},
    outputs_after={"y": 0.0123, "z": 0.0},
    task_before={"top-1": 0.5},
    task_after={"top-1": 0.75},
    costs=Cost(macs=0.031, weight_bytes=0.125, nodes=2, time=1.25),
    samples=4,
)


@pytest.fixture
def order(tmp_path):
    return replace(tiny_order(tmp_path), proposal=PROPOSAL)


def test_everything_that_was_measured_is_said(order):
    """Model, data, every output and score before and after, cost, and every change."""
    provenance = order.analysis.provenance
    lines = header(order, left_out=["No ranges."]).splitlines()
    (data,) = {info.sha256 for info in provenance.data}
    assert lines == [
        f"# qanalyze {provenance.tool_version}, plan 2",
        f"# model: net.onnx, sha256 {order.source.sha256}",
        "# target: onnxruntime",
        f"# calibration: 4 of 4 samples, sha256 {data}",
        f"# analysis: 4 of 4 samples, sha256 {data}",
        "# measured on 4 samples, simulated with the target's rules, without the plan -> with it:",
        "#   noise (NSR) of output y: 31.2 % -> 1.23 %",
        "#   noise (NSR) of output z: 0.0010 % -> 0 %",
        "#   top-1: 0.5000 -> 0.7500",
        f"{MOVED}, weights +12.5 %, 2 nodes added, time 1.25",
        "#   times of what it was, by rough factors",
        "# the plan changes:",
        "#   precision, a, b: int8 -> int16",
        "#   calibration, everywhere: kl -> percentile",
        "#   weight split, c: whole -> above 1.2",
        "# Not expressed here:",
        "#   No ranges.",
    ]


@pytest.mark.parametrize(("tool", "own"), [("onnxruntime", True), ("esp-ppq", False)])
def test_another_tool_is_told_whose_rules_were_measured(order, tool, own):
    """A plan of one target, written for another tool, was not measured with that tool's rules."""
    doubt = "Measured with the rules of onnxruntime, not with those of esp-ppq"
    assert (doubt in header(order, tool=tool)) is not own


def test_a_name_cannot_break_out_of_its_comment(order):
    """Line breaks and control codes of a model's names are written as escapes."""
    evil = "conv\nimport os\r\u2028\x1b[2J"
    change = Change("precision", evil, "int8", "fp32", layers=(evil,))
    outputs = {evil: 0.5}
    bad = replace(PROPOSAL, changes=(change,), outputs_before=outputs, outputs_after=outputs)
    text = header(replace(order, proposal=bad))
    assert all(line.startswith("#") for line in text.splitlines())
    assert r"conv\nimport os\r\u2028\x1b[2J" in text


def test_many_layers_are_counted(order):
    """Of a change with many layers the first ones are named, and the place of the others."""
    names = tuple(f"conv{i}" for i in range(40))
    change = Change("precision", names[0], "int8", "int16", layers=names)
    text = header(replace(order, proposal=replace(PROPOSAL, changes=(change,))))
    assert "conv11 and 28 more (see names.csv)" in text.replace("\n#    ", "")


def test_two_runs_give_the_same_bytes(tmp_path):
    """There is no date and no path in it."""
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        texts.append(header(tiny_order(tmp_path / name, setting=Setting(observer="percentile"))))
    assert texts[0] == texts[1]
    assert str(tmp_path) not in texts[0]


@pytest.mark.parametrize("nsr", [0.0, 4.2e-5, 1e-4, 0.0312, 0.9994, 0.9996, 123.0, float("inf")])
def test_noise_is_written_as_in_the_reports(nsr):
    """A header and a report of the same run agree to the last digit."""
    assert percent(nsr) == tables.percent(nsr)
