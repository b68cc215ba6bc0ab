# SPDX-License-Identifier: Apache-2.0
"""The comparison of targets: layers that are called differently meet by the user's nodes."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from analyzer.records import LayerError
from analyzer.report.comparison import (
    CommonLayer,
    Comparison,
    common_layers,
    render_comparison,
    render_comparison_json,
    render_comparison_markdown,
)


def row(name, nsr, *nodes):
    return LayerError(name, name.title(), nodes, isolated_nsr=nsr)


def test_layers_meet_by_the_nodes_of_the_file(analysis):
    """One target fuses what another keeps apart, and a third has another name for it."""

    def of(target, *rows):
        return replace(
            analysis, layers=rows, provenance=replace(analysis.provenance, target=target)
        )

    found = common_layers(
        [
            of("one", row("conv", 0.3, "c"), row("mul", 0.1, "m"), row("add", None, "a")),
            of("two", row("swish", 0.2, "c", "m")),
            of("three", row("mul_1", 0.4, "m"), row("mul_2", 0.5, "m"), row("own", 0.05)),
        ]
    )
    assert found == [
        CommonLayer("m", "Mul", {"one": 0.1, "three": 0.5}),
        CommonLayer("c", "Conv", {"one": 0.3, "two": 0.2}),
        CommonLayer("own", "Own", {"three": 0.05}),
    ]


def test_targets_are_compared_by_what_can_be_left(analysis, advised):
    """A target without proposals has empty cells; without any the columns are not there."""
    other = replace(advised, provenance=replace(advised.provenance, target="other"))
    both = Comparison((analysis, other), {}, {}, {"other": Path("r/other/export")})
    stream = io.StringIO()
    render_comparison(both, console=Console(file=stream, width=40))
    lines = stream.getvalue().splitlines()
    assert lines[2].split("   ")[-2].strip() != ""
    assert "best free   recommended" in lines[2]
    row = next(line for line in lines if line.startswith("other"))
    assert "40 % left     10 % left" in row
    assert lines[-1] == "Export   r/other/export"
    assert "| best free | recommended |" in render_comparison_markdown(both)
    assert "recommended" not in render_comparison_markdown(replace(both, analyses=(analysis,)))
    found = {
        t["target"]: t["proposals"] for t in json.loads(render_comparison_json(both))["targets"]
    }
    assert found["esp32p4"] == []
    assert found["other"][1] == {
        "name": "plan 2", "recommended": True, "macs": 0.021, "time": 1.02, "predicted": 0.19,
        "left": 0.1,
    }  # fmt: skip
