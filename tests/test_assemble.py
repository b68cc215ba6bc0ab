# SPDX-License-Identifier: Apache-2.0
"""The result: sources made comparable, outputs with their sums, rows with what was found."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from analyzer.assemble import NOT_PROBED, dissected, layers, outputs, sources, with_findings
from analyzer.dissect import Dissection
from analyzer.probe import Isolated
from analyzer.quant.metrics import Comparison, ErrorSums
from analyzer.records import (
    Balance,
    Finding,
    Interaction,
    LayerError,
    Quantizer,
    QuantPlan,
    Source,
    TensorSpec,
)
from analyzer.simulate import Simulation


@pytest.fixture
def model(bind):
    return bind(
        """g (float[1,4] x) => (float[1,4] y, float[1,4] z, int64[2] n) {
            [a] y = Relu(x)  [b] z = Neg(y)  [c] n = Shape(z)
        }"""
    )


def errors(*nsrs):
    """Return the sums of samples with these NSRs."""
    sums = ErrorSums()
    for nsr in nsrs:
        sums.add(Comparison(noise=nsr, signal=1.0, quantized=1.0, max_abs=0.5))
    return sums


def source(name, nsr=None, **changes):
    return Source(name, "layer", (name,), ((name, "out0"),), nsr, **changes)


@pytest.mark.parametrize(
    ("by_sample", "samples", "expected"),
    [
        # visited are samples 1, 3, 0, 2; their mean is 2
        ([1.0, 3.0, 2.0, 2.0], 1, 0.3 * 2 / 3),
        ([1.0, 3.0, 2.0, 2.0], 2, 0.3 * 2 / 2.5),
        ([1.0, 3.0, 2.0, 2.0], 4, 0.3),
        ([4.0, 0.0, 0.0, 0.0], 2, 0.3),  # nothing is known of how loud the samples seen are
        ([math.inf, 1.0, 1.0, 1.0], 2, 0.3),
        ([math.nan, 1.0, 1.0, 1.0], 2, 0.3),
    ],
)
def test_sources_are_compared_on_all_samples(model, by_sample, samples, expected):
    """By how much louder all quantizers together are on them than on those that were seen."""
    simulation = Simulation(output_by_sample={"y": by_sample, "z": [1.0] * 4})
    alone = Isolated({"y": 0.3, "z": 0.1}, 0.2, (0.1, 0.4), samples)
    (found,) = sources(
        model, [source("a")], {"a": "unit"}, {"unit": alone}, simulation, [1, 3, 0, 2]
    )
    assert found == source(
        "a", 0.2, ci=(0.1, 0.4), samples=samples,
        by_output={"y": pytest.approx(expected), "z": pytest.approx(0.1)},
    )  # fmt: skip


def test_a_source_that_was_not_probed_says_so(model):
    """It has no number, which is not the number 0."""
    (found,) = sources(model, [source("a")], {"a": "a"}, {"a": Isolated()}, Simulation(), [0])
    assert found == source("a", status=NOT_PROBED)


def test_outputs_have_their_sums(model):
    """Isolated errors add up to 0.4 of 0.5; with what the first two do together, to 0.45."""
    model = replace(
        model, outputs=(*model.outputs, TensorSpec("y[:2]", "float32", (1, 2))),
        slices={"y[:2]": "y"},
    )  # fmt: skip
    lost = ErrorSums()
    lost.add(Comparison(noise=4.0, signal=4.0, quantized=0.0, max_abs=2.0))
    simulation = Simulation({"y": errors(0.4, 0.6), "z": errors(0.0), "y[:2]": lost})
    books = Balance(
        (
            source("a", 0.3, by_output={"y": 0.3}),
            source("b", 0.1, by_output={"y": 0.1, "y[:2]": 0.8}),
            source("c", status=NOT_PROBED),
        ),
        (
            Interaction("y", "a", None, (), (0.3, 0.1), 0.45, 2),
            Interaction("z", "a", None, (), (0.1, 0.1), 0.9, 2),
            Interaction("y", "a", "b", (), (0.3, 0.1), 0.9, 2),  # a pair is shown, not counted
        ),
    )
    y, z, part = outputs(model, simulation, books)
    assert (y.name, y.nsr, y.max_abs, y.slice_of, y.lost) == ("y", 0.5, 0.5, None, False)
    assert (y.isolated_sum, y.additivity) == (pytest.approx(0.4), pytest.approx(0.8))
    assert y.explained == pytest.approx(0.45)
    assert (z.name, z.nsr, z.isolated_sum, z.additivity) == ("z", 0.0, 0, None)
    assert (part.name, part.slice_of, part.lost, part.nsr) == ("y[:2]", "y", True, 1.0)
    assert part.additivity == pytest.approx(0.8)


def test_every_row_says_what_was_not_measured(model):
    """Probed, expected to be quiet, without a quantizer, not even asked for, beyond float32."""
    carrying = [Quantizer(n, "out0", "t", "activation", 8) for n in "abc"]
    plan = QuantPlan("t", tuple("abc"), frozenset("a"), dict.fromkeys("abc", "int8"),
                     tuple(carrying[:2]))  # fmt: skip
    simulation = Simulation(
        {"y": errors(0.5), "z": errors(0.25)}, {"a": errors(0.5)},
        layer_tensor={"a": "y", "b": "z", "c": "n"},
    )  # fmt: skip
    isolated = {"a": Isolated({"y": 0.5, "z": 0.1}, 0.3, (0.2, 0.4), 3), "b": Isolated()}
    a, b, c = layers(model, plan, simulation, isolated)
    assert (a.isolated_nsr, a.isolated_ci, a.isolated_samples) == (0.3, (0.2, 0.4), 3)
    assert (a.isolated_by_output, a.status) == ({"y": 0.5, "z": 0.1}, "ok")
    assert (b.isolated_nsr, b.isolated_samples, b.status) == (None, 0, NOT_PROBED)
    assert (c.isolated_nsr, c.local_nsr, c.graphwise_nsr) == (None, 0.0, None)
    assert c.status.startswith("carries no quantizer of its own")
    simulation.graphwise["y"] = errors(math.nan)
    (a, *_) = layers(model, plan, simulation, isolated)
    assert a.graphwise_nsr is None
    assert "overflows float32" in a.status


def test_findings_and_parts_come_to_their_rows():
    """A code once per row, in the order found; rows without parts keep none."""
    rows = (LayerError("a", "Conv"), LayerError("b", "Add"))
    found = [Finding("QA103", "b", {}, ""), Finding("QA101", "b", {}, ""),
             Finding("QA103", "b", {"again": 1}, ""), Finding("QA115", None, {}, "")]  # fmt: skip
    assert [row.findings for row in with_findings(rows, found)] == [(), ("QA103", "QA101")]
    books = Balance((source("a", 0.1), source("b", 0.1)))
    parts = Dissection({"a": {"weight": 1.0}}, {"a": ((3, 0.5),)}, {"b": -0.1})
    whole, priced = dissected(rows, books, parts)
    assert [(row.parts, row.channels) for row in whole] == [
        ({"weight": 1.0}, ((3, 0.5),)), ({}, ())
    ]  # fmt: skip
    assert [s.alignment_price for s in priced.sources] == [None, -0.1]
