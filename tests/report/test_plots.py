# SPDX-License-Identifier: Apache-2.0
"""The plots: drawn of whatever was measured, well-formed, small, the same bytes every time."""

from __future__ import annotations

import dataclasses
import math
import re
import xml.etree.ElementTree as ET

import pytest

from analyzer.records import Analysis
from analyzer.report import plots
from analyzer.report.plots import graphwise_plot, isolated_plot, pareto_plot, steps_plot


def test_plans_alone_make_no_plot(advised: Analysis) -> None:
    """One plan has nothing to be held against; plans without noise or with inf are not drawn."""
    first, second, *_ = advised.proposals
    for left, drawn in ((0.5, True), (0.0, False), (math.inf, False)):
        pair = (first, dataclasses.replace(second, left=left))
        svg = pareto_plot(dataclasses.replace(advised, proposals=pair))
        assert (svg is not None) is drawn
    assert pareto_plot(dataclasses.replace(advised, proposals=(first,))) is None
    idle = tuple(dataclasses.replace(p, left=1.0) for p in advised.proposals)
    assert pareto_plot(dataclasses.replace(advised, proposals=idle)) is not None


def test_waterfall_needs_steps(analysis: Analysis, booked: Analysis) -> None:
    """No steps, no plot; steps that are inf for another output do not matter."""
    assert steps_plot(analysis) is None
    assert "noise is damped" in (steps_plot(booked) or "")
    assert booked.balance
    steps = tuple(
        dataclasses.replace(step, by_output={"out": math.inf}) for step in booked.balance.steps
    )
    balance = dataclasses.replace(booked.balance, steps=steps)
    assert steps_plot(dataclasses.replace(booked, balance=balance)) is None


@pytest.mark.parametrize("plot", [isolated_plot, graphwise_plot, steps_plot, pareto_plot])
def test_plots_are_well_formed(plot, advised: Analysis) -> None:
    """Hostile names, formulas, inf and zero give XML that parses, and repeat to the byte."""
    svg = plot(advised)
    ET.fromstring(svg)
    assert svg == plot(advised)
    assert "<script" not in svg


def test_plots_survive_extreme_values(analysis: Analysis) -> None:
    """One value, values 300 decades apart, and a name of only dollars are drawn."""
    first, second, *_ = analysis.layers
    tiny = dataclasses.replace(first, name="$$ $\\frac{$", isolated_nsr=1e-300, local_nsr=1e-300)
    for layers in ((tiny,), (tiny, second), (second,)):
        changed = dataclasses.replace(analysis, layers=layers)
        assert isolated_plot(changed)
        assert graphwise_plot(changed)


def test_figures_are_there_for_notebooks(advised: Analysis) -> None:
    """Every plot of the page is also a figure, drawn in the same look."""
    for name in ("isolated", "graphwise", "steps", "pareto"):
        figure = getattr(plots, f"{name}_figure")(advised)
        assert figure.axes[0].get_xlabel()
        assert figure.axes[0].xaxis.label.get_color() == "#767676"


def test_svg_keeps_names_and_is_small(advised: Analysis) -> None:
    """Numbers and spaces in a name stay; comments, indents and unused ids are gone."""
    first, *others = advised.layers
    odd = dataclasses.replace(first, name='/a  b/0.123456" id="x')
    svg = isolated_plot(dataclasses.replace(advised, layers=(odd, *others))) or ""
    texts = ["".join(e.itertext()) for e in ET.fromstring(svg).iter() if e.tag.endswith("}text")]
    assert '/a  b/0.123456" id="x' in texts
    assert "<!--" not in svg
    assert "\n" not in svg
    assert 'id="axes_1"' not in svg
    references = set(re.findall(r'(?:href="|url\()#(\w+)', svg))
    assert references <= set(re.findall(r' id="(\w+)"', svg))


def test_thousands_of_layers_make_a_small_plot(analysis: Analysis) -> None:
    """Dots become an image where there are too many of them."""
    layer = analysis.layers[0]
    many = tuple(
        dataclasses.replace(layer, name=str(n), local_nsr=1e-4 * (1 + n % 97)) for n in range(5000)
    )
    svg = graphwise_plot(dataclasses.replace(analysis, layers=many)) or ""
    ET.fromstring(svg)
    assert len(svg) < 150_000
