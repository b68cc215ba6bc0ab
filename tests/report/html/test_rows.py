# SPDX-License-Identifier: Apache-2.0
"""The rows of the table of layers: what they say, and which ones are problems."""

from __future__ import annotations

import dataclasses

import pytest

from analyzer.records import Analysis, LayerError, OutputError
from analyzer.report.html.rows import Cell, Piece, Row, rows


def test_a_row_in_full(booked: Analysis) -> None:
    """Numbers with units, bars on a log scale from 1e-6 to 1, parts, and facts to unfold."""
    first = next(row for row in rows(booked) if row.number == 0)
    assert first == Row(
        number=0, name="conv_first", op_type="Conv", precision="int8",
        cells=(
            # log10(4.2e-5 / 1e-6) = 1.623 of 6 decades, log10(2e-3 / 1e-6) = 3.301
            Cell("0.0042 %", "27", "0.0030 .. 0.0060 %"), Cell("0.200 %", "55"),
            Cell("0.200 %", "55"), Cell("0.999000"),
        ),
        status="", codes=(),
        origins=(Piece("weight", "75.00", "75 %"), Piece("input", "25.00", "25 %")),
        kinds=(), facts=(("Nodes in the file", "conv_first, bn_first"),), hurts=False,
    )  # fmt: skip


def test_a_problem_tells_all_there_is(booked: Analysis) -> None:
    """Facts that no column has are folded into rows that hurt."""
    layer = dataclasses.replace(
        booked.layers[1], macs=1_234_567, graphwise_max_abs=0.25, graphwise_sqnr_db=14.0,
        isolated_by_output={"out": 0.031}, group="g",
    )  # fmt: skip
    (row,) = rows(dataclasses.replace(booked, layers=(layer,)))
    assert row.facts == (
        ("Shares a scale in", "g"),
        ("Clipped", "90 % of input"),
        ("Channels with most of the local noise", "17 (60 %), 3 (<1 %)"),
        ("MACs", "1,234,567"),
        ("SQNR (graphwise)", "14.0 dB"),
        ("Max abs (graphwise)", "0.25"),
        ("Samples (isolated)", "8"),
        ("Isolated at out", "3.10 %"),
    )


@pytest.mark.parametrize(
    ("layer", "hurts"),
    [
        # accumulated: mean of 4 % and 2 %; 1 % of it is 3e-4
        (LayerError("a", "Conv", isolated_nsr=3.1e-4), True),
        (LayerError("a", "Conv", isolated_nsr=2.9e-4), False),
        (LayerError("a", "Conv", isolated_nsr=float("inf")), True),
        (LayerError("a", "Conv", isolated_nsr=float("nan")), True),
        (LayerError("a", "Conv", isolated_nsr=None, graphwise_nsr=1.0), False),
        (LayerError("a", "Conv", isolated_nsr=0.0), False),
        (LayerError("a", "Conv", findings=("QA101",)), True),
    ],
)
def test_what_a_problem_is(analysis: Analysis, layer: LayerError, hurts: bool) -> None:
    """A finding, at least 1 % of the accumulated error alone, or no finite number."""
    outputs = (
        OutputError("out", 0.04, 14.0, 0.9, 1.0),
        OutputError("other", 0.02, 17.0, 0.9, 1.0),
        OutputError("slice", 1.0, 0.0, 0.9, 1.0, slice_of="out"),
    )
    small = dataclasses.replace(analysis, layers=(layer,), outputs=outputs)
    assert [row.hurts for row in rows(small)] == [hurts]


def test_without_noise_there_is_no_problem(analysis: Analysis) -> None:
    """Outputs without any error make no layer of no error a problem."""
    outputs = (OutputError("out", 0.0, float("inf"), 1.0, 0.0),)
    layers = (LayerError("a", "Conv", isolated_nsr=0.0),)
    (row,) = rows(dataclasses.replace(analysis, layers=layers, outputs=outputs))
    assert not row.hurts
