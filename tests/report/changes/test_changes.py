# SPDX-License-Identifier: Apache-2.0
"""Two analyses side by side: what is matched with what, and what is called better or worse."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.records import (
    Analysis,
    Balance,
    DataInfo,
    Finding,
    LayerError,
    OutputError,
    Source,
    TaskScore,
    sqnr_db,
)
from analyzer.report.changes import Changes, Pair, compare, judge
from analyzer.report.changes.footing import Difference
from analyzer.report.changes.matching import paired


def output(name: str, nsr: float, **more: object) -> OutputError:
    return OutputError(name, nsr, sqnr_db(nsr), 0.9, 1.0, **more)  # type: ignore[arg-type]


def layer(name: str, nsr: float | None, op: str = "Conv", **more: object) -> LayerError:
    return LayerError(name, op, isolated_nsr=nsr, **more)  # type: ignore[arg-type]


def plain(analysis: Analysis, *layers: LayerError, nsr: float = 0.1) -> Analysis:
    """One output and these layers."""
    return dataclasses.replace(
        analysis, layers=layers, outputs=(output("out", nsr),), findings=(), warnings=()
    )


def seen(changes: Changes) -> list[tuple[str, str, str]]:
    return [(c.new.name, c.old.name, c.verdict) for c in changes.layers]


def test_an_analysis_against_itself_is_unchanged(booked: Analysis) -> None:
    """Nothing differs, nothing is lost, every layer with an error is unchanged; also inf."""
    changes = compare(booked, booked)
    assert changes.differences == ()
    assert changes.same_data
    assert {c.verdict for c in changes.layers} == {"unchanged", "not measured"}
    assert {c.verdict for c in changes.outputs} == {"unchanged"}
    assert len(changes.layers) == len(booked.layers)
    assert [c.state for c in changes.findings] == ["still there"] * len(booked.findings)
    assert not any(
        (changes.outputs_gone, changes.outputs_new, changes.layers_gone, changes.layers_new,
         changes.scores_gone, changes.scores_new, changes.sources_gone, changes.sources_new)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "intervals", "verdict"),
    [
        (0.2, 0.1, (None, None), "better"),
        (0.1, 0.2, (None, None), "worse"),
        # 1 % of the larger one: another machine's rounding
        (0.1, 0.1009, (None, None), "unchanged"),
        (0.1, 0.1012, (None, None), "worse"),
        (0.2, 0.1, ((0.09, 0.3), (0.05, 0.095)), "within chance"),
        (0.2, 0.1, ((0.15, 0.3), (0.05, 0.14)), "better"),
        (0.2, 0.1, (None, (0.05, 0.3)), "better"),
        (None, 0.1, (None, None), "not measured"),
        (0.0, 0.0, (None, None), "unchanged"),
        (0.0, 5e-10, (None, None), "unchanged"),
        (0.0, 0.01, (None, None), "worse"),
        (math.inf, math.inf, (None, None), "unchanged"),
        (0.1, math.inf, (None, None), "worse"),
        (math.nan, 0.1, (None, None), "better"),
        (0.1, math.nan, (None, None), "worse"),
        (math.nan, math.inf, (None, None), "unchanged"),
    ],
)
def test_verdicts(
    old: float | None,
    new: float | None,
    intervals: tuple[tuple[float, float] | None, tuple[float, float] | None],
    verdict: str,
) -> None:
    """By the numbers, by the intervals where there are two, and never by what is missing."""
    assert judge(Pair(old, new), *intervals) == verdict


def test_factors() -> None:
    """New over old; nothing where that is no number."""
    assert Pair(0.2, 0.05).factor == 0.25
    for old, new in ((None, 1.0), (1.0, None), (0.0, 1.0), (math.inf, 1.0), (1.0, math.nan)):
        assert Pair(old, new).factor is None


def test_worst_changes_come_first(analysis: Analysis) -> None:
    """Losses of note, then all other changes by their size, then chance, then nothing."""
    old = plain(
        analysis, layer("same", 0.5), layer("better", 0.05), layer("a bit worse", 0.0001),
        layer("worse", 0.01), layer("worst", 0.01), layer("none", None),
        layer("chance", 0.2, isolated_ci=(0.1, 0.3)), layer("best", 0.09),
    )  # fmt: skip
    new = plain(
        analysis, layer("same", 0.5), layer("better", 0.01), layer("a bit worse", 0.0002),
        layer("worse", 0.02), layer("worst", 0.04), layer("none", None),
        layer("chance", 0.1, isolated_ci=(0.05, 0.2)), layer("best", 0.01),
    )  # fmt: skip
    # a loss of note is 1 % of the worst output's 10 %: 0.1 %, and 0.01 % is none
    assert [c.new.name for c in compare(new, old).layers] == [
        "worst", "worse", "best", "better", "a bit worse", "chance", "same", "none"
    ]  # fmt: skip


def test_layers_are_matched_by_name_then_by_nodes(analysis: Analysis) -> None:
    """One to one; the same op type and most nodes win; what is left is named on both sides."""
    old = plain(
        analysis,
        layer("/a/Conv", 0.1, source_nodes=("/a/Conv",)),
        layer("/b/Conv", 0.2, source_nodes=("/b/Conv", "/b/bn")),
        layer("/b/act", 0.3, "Relu", source_nodes=("/b/act",)),
        layer("/old/Conv", 0.4, source_nodes=("/old/Conv",)),
    )
    new = plain(
        analysis,
        layer("/a/Conv", 0.05, source_nodes=("x",)),
        layer("conv_7", 0.1, source_nodes=("/b/act", "/b/Conv")),
        layer("relu_7", 0.3, "Relu", source_nodes=("/b/act", "/b/Conv")),
        layer("/new/Conv", 0.4, source_nodes=("/new/Conv",)),
    )
    changes = compare(new, old)
    assert {(c.new.name, c.old.name, c.by) for c in changes.layers} == {
        ("/a/Conv", "/a/Conv", "name"),
        ("conv_7", "/b/Conv", "nodes"),
        ("relu_7", "/b/act", "nodes"),
    }
    assert (changes.layers_new, changes.layers_gone) == (("/new/Conv",), ("/old/Conv",))


def test_a_name_may_be_a_node_of_the_other(analysis: Analysis) -> None:
    """A quantizer that renames a layer still tells whose it was, or the old analysis does."""
    old = plain(analysis, layer("fused", 0.1, source_nodes=("/a/Conv", "/a/act")))
    new = plain(analysis, layer("/a/Conv", 0.1))
    assert seen(compare(new, old)) == [("/a/Conv", "fused", "unchanged")]
    assert seen(compare(old, new)) == [("fused", "/a/Conv", "unchanged")]


def test_other_networks_still_have_outputs(analysis: Analysis) -> None:
    """No layer matches; the only output of each is compared although it has another name."""
    old = dataclasses.replace(plain(analysis, layer("a", 0.1)), outputs=(output("logits", 0.2),))
    new = plain(analysis, layer("b", 0.1), nsr=0.1)
    changes = compare(new, old)
    assert (changes.same_network, changes.layers) == (False, ())
    assert (changes.findings, changes.sources_gone) == ((), ())
    assert (changes.layers_new, changes.layers_gone) == (("b",), ("a",))
    assert [(c.old.name, c.new.name, c.verdict) for c in changes.outputs] == [
        ("logits", "out", "better")
    ]


def test_outputs_and_slices(analysis: Analysis) -> None:
    """Slices by name; without as many outputs on both sides nothing is guessed."""
    boxes, scores = (output(n, 0.1, slice_of="out") for n in ("boxes", "scores"))
    old = dataclasses.replace(analysis, outputs=(output("out", 0.4), boxes, output("b", 0.1)))
    new = dataclasses.replace(
        analysis, outputs=(output("out", 0.2), boxes, scores, output("c", 1), output("d", 1))
    )
    changes = compare(new, old)
    assert [(c.new.name, c.nsr.factor) for c in changes.outputs] == [("out", 0.5), ("boxes", 1.0)]
    assert changes.outputs_new == ("scores", "c", "d")
    assert changes.outputs_gone == ("b",)


def test_scores(analysis: Analysis) -> None:
    """By name and by what they are held against."""
    old = dataclasses.replace(
        analysis,
        task=(TaskScore("top-1", 0.9, None, "fp32", 8), TaskScore("top-1", 0.8, 0.9, "labels", 8)),
    )
    new = dataclasses.replace(
        analysis,
        task=(TaskScore("top-1", 0.7, 0.9, "labels", 8), TaskScore("mAP", 0.5, None, "fp32", 8)),
    )
    changes = compare(new, old)
    assert [(c.old.value, c.new.value) for c in changes.scores] == [(0.8, 0.7)]
    assert (changes.scores_gone, changes.scores_new) == (("top-1",), ("mAP",))


def test_findings_follow_their_layer(analysis: Analysis) -> None:
    """Gone, new, still there; a renamed layer keeps its findings, slot by slot."""
    old = dataclasses.replace(
        plain(analysis, layer("a", 0.1, source_nodes=("n",)), layer("gone", 0.1)),
        findings=(
            Finding("QA101", "a", {"slot": "in0"}, "x", 0.5),
            Finding("QA101", "a", {"slot": "in1"}, "x", 0.1),
            Finding("QA103", "gone", {}, "x", 0.2),
            Finding("QA104", "a", {}, "x", 0.9),
        ),
    )
    new = dataclasses.replace(
        plain(analysis, layer("b", 0.1, source_nodes=("n",))),
        findings=(
            Finding("QA101", "b", {"slot": "in1"}, "x", 0.3),
            Finding("QA101", "b", {"slot": "in0"}, "x", 0.4),
            Finding("QA112", None, {}, "x"),
        ),
    )
    assert [
        (c.state, c.finding.code, c.old and c.old.gain, c.new and c.new.gain)
        for c in compare(new, old).findings
    ] == [
        ("gone", "QA104", 0.9, None),
        ("gone", "QA103", 0.2, None),
        ("new", "QA112", None, None),
        ("still there", "QA101", 0.5, 0.4),
        ("still there", "QA101", 0.1, 0.3),
    ]


def test_loud_sources_that_are_gone(analysis: Analysis) -> None:
    """A source of 1 % of the noise is missed, a quieter one is not; a renamed one is not gone."""

    def group(name: str, layers: tuple[str, ...], nsr: float | None) -> Source:
        return Source(name, "group", layers, (), nsr)

    old = dataclasses.replace(
        plain(analysis, layer("a", 0.1, source_nodes=("n",)), layer("c", 0.1)),
        balance=Balance((
            group("a:out0", ("a", "c"), 0.5), group("concat:out0", ("c",), 0.4),
            group("quiet:out0", ("q",), 0.0001), group("never:out0", ("r",), None),
            Source("c", "layer", ("c",), (), 0.1),
        )),
    )  # fmt: skip
    new = dataclasses.replace(
        plain(analysis, layer("b", 0.1, source_nodes=("n",)), layer("c", 0.1)),
        balance=Balance((
            group("b:out0", ("b", "c"), 0.5), Source("c", "layer", ("c",), (), 0.1),
            Source("b", "layer", ("b",), (), 0.1),
        )),
    )  # fmt: skip
    changes = compare(new, old)
    assert [s.name for s in changes.sources_gone] == ["concat:out0"]
    assert [s.name for s in changes.sources_new] == ["b"]
    assert compare(dataclasses.replace(new, balance=None), old).sources_gone == ()


def test_what_the_two_stand_on(analysis: Analysis) -> None:
    """Model, target, data, settings and versions; what says nothing about numbers is left out."""
    before = analysis.provenance
    calibration, analysed = before.data
    now = dataclasses.replace(
        before,
        target="onnxruntime",
        model={**before.model, "name": "fixed", "sha256": "12" * 32},
        data=(calibration, dataclasses.replace(analysed, count=4, sha256="34" * 32)),
        config={**before.config, "observer": "minmax", "max_nsr": 0.1, "slices": {}},
        tool_version="0.2.0",
        versions={"numpy": "2.1", "onnx": "1.2"},
        command="qanalyze other",
    )
    changes = compare(dataclasses.replace(analysis, provenance=now), analysis)
    assert changes.differences == (
        Difference("model", "model", "net (sha256 abababababab)", "fixed (sha256 121212121212)"),
        Difference("target", "target", "esp32p4", "onnxruntime"),
        Difference("data", "analysis data", "8 of data (sha256 efefefefefef)",
                   "4 of data (sha256 343434343434)"),
        Difference("setting", "observer", "kl", "minmax"),
        Difference("tool", "qanalyze", "0.1.0", "0.2.0"),
        Difference("tool", "numpy", "2.0", "2.1"),
        Difference("tool", "onnx", "none", "1.2"),
    )  # fmt: skip
    assert not changes.same_data


def test_another_calibration_alone_is_the_same_data(analysis: Analysis) -> None:
    """Errors of two calibration sets, measured on the same samples, compare two plans."""
    provenance = analysis.provenance
    other = DataInfo("calibration", 16, 16, "other", "00" * 32, {})
    new = dataclasses.replace(
        analysis, provenance=dataclasses.replace(provenance, data=(other, provenance.data[1]))
    )
    changes = compare(new, analysis)
    assert [d.what for d in changes.differences] == ["calibration data"]
    assert changes.same_data


@given(
    st.lists(st.integers(0, 5), max_size=8),
    st.lists(st.integers(0, 5), max_size=8),
)
def test_pairs_use_every_row_once(new: list[int], old: list[int]) -> None:
    """As many pairs as two multisets have in common, and nothing lost."""
    found, fresh, gone = paired(new, old, [(lambda x: x, lambda x: x)])
    assert all(a == b for a, b in found)
    assert len(found) == sum(min(new.count(x), old.count(x)) for x in set(new))
    assert sorted([a for a, _ in found] + fresh) == sorted(new)
    assert sorted([b for _, b in found] + gone) == sorted(old)
