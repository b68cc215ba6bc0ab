# SPDX-License-Identifier: Apache-2.0
"""The comparison of targets: layers that are called differently meet by the user's nodes."""

from __future__ import annotations

from dataclasses import replace

from analyzer.records import LayerError
from analyzer.report.comparison import CommonLayer, common_layers


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
