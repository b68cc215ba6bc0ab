# SPDX-License-Identifier: Apache-2.0
"""The page as text: escaped, complete, self-contained, the same bytes every time."""

from __future__ import annotations

import base64
import copy
import dataclasses
import hashlib
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from analyzer.records import Analysis, Quantizer
from analyzer.report.html import render_html
from analyzer.report.plots import graphwise_plot, isolated_plot, pareto_plot, steps_plot
from analyzer.store import to_json

DASH = "\N{EN DASH}"
VOID = {"meta", "input", "img", "br"}


class Page(HTMLParser):
    """Collects the elements and complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.mark.parametrize(("which", "plots"), [("analysis", 2), ("booked", 3), ("advised", 4)])
def test_names_never_become_elements(
    which: str, plots: int, request: pytest.FixtureRequest
) -> None:
    """The only script is ours, the only images are the plots, and no attribute runs code."""
    page = Page(render_html(request.getfixturevalue(which)))
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == plots
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]


def test_policy_names_exactly_our_script(analysis: Analysis) -> None:
    """The hash in the policy is that of the script in the page; nothing else is allowed."""
    text = render_html(analysis)
    script = re.search("<script>(.*)</script>", text, re.DOTALL)
    assert script
    digest = hashlib.sha256(script[1].encode()).digest()
    policy = Page(text).all("meta")[1]["content"]
    assert policy == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{base64.b64encode(digest).decode()}'; "
        "base-uri 'none'; form-action 'none'"
    )


@pytest.mark.parametrize("which", ["analysis", "booked", "advised"])
def test_page_is_self_contained(which: str, request: pytest.FixtureRequest) -> None:
    """Links stay in the page or are data, images are data; one h1; ids are unique."""
    page = Page(render_html(request.getfixturevalue(which)))
    targets = [a["href"] or "" for a in page.all("a")]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(t.startswith("data:") or t[1:] in ids for t in targets)
    assert all((a["src"] or "").startswith("data:image/svg+xml;base64,") for a in page.all("img"))
    assert all(a["alt"] for a in page.all("img"))
    assert len(page.all("h1")) == 1


def test_every_layer_is_a_row_with_text_values(analysis: Analysis) -> None:
    """Values, intervals and the reason for a missing value are text."""
    text = render_html(analysis)
    assert text.count(" data-text=") == 7
    assert "3.10 %" in text
    assert "2.80 .. 3.40 %" in text
    assert "isolated: not measured, time limit reached" in text
    assert "3 scales, 0.125 .. 0.5" in text
    assert "broken.png: not an image" in text
    assert r"clear\x1b[2J\n\u202egnp.exe|`$x$`" in text
    assert 'data-sort="Infinity"' in text


def text_of(fragment: str) -> str:
    """What a reader sees of a piece of the page."""
    return " ".join(re.sub("<[^>]*>", " ", fragment).split())


def section(text: str, start: str, end: str) -> str:
    return text[text.index(f'id="{start}"') : text.index(f'id="{end}"')]


def test_findings_are_cards(booked: Analysis) -> None:
    """Largest gain first, with evidence, advice and why; untried ones together by code."""
    page = section(render_html(booked), "findings", "outputs")
    cards = [text_of(card) for card in page.split("<article")[1:]]
    assert [re.findall("QA[0-9]+", card)[0] for card in cards] == [
        "QA203", "QA206", "QA205", "QA204",
    ]  # fmt: skip
    assert (
        "93 % of the output noise goes without it range ratio 128 channels 3, 17, 5, 9" in cards[0]
    )
    assert "What to do: Compare with minmax." in cards[0]
    assert "Why this hurts" in cards[0]
    assert r"clear\x1b[2J\n\u202egnp.exe|`$x$` , /model/block" in cards[3]
    assert 'style="width:93%"' in page
    assert 'style="width:0%"' in page  # a cause whose removal makes it worse has an empty bar


def test_the_recommended_plan_is_a_card(advised: Analysis) -> None:
    """Why, what is left, what it costs, every change, and outputs and scores before and after."""
    page = section(render_html(advised), "proposals", "plans")
    best, free = (text_of(card) for card in page.split("<article")[1:])
    assert "recommended plan 2 The least noise within the budget of &lt;/script&gt;" in best
    assert "Noise left 10 % Predicted 19 % Cost 2.10 % of the MACs moved, 1.00 % of" in best
    assert "1 calibration all layers kl /head[red]/Conv[/head] 0 % 1.40 % 1.20 %" in best
    assert f"int8 int16 2.10 % {DASH} 0.300 %" in best
    assert r"clear\x1b[2J\n\u202egnp.exe|`$x$`" in best
    assert "2 more /model/block" in best
    assert "NSR of out 3.00 % 0.300 %" in best
    assert "NSR of scores 100 % 10.0 %" in best
    assert "box AP50 0.940 0.970 cosine 0.999000 0.999900" in best
    assert "Best at no cost: plan 1 40 % of the output noise is left , 50 % predicted" in free


def test_plans_to_choose_from(advised: Analysis) -> None:
    """One row per plan of the front, the present state in the head, changes folded below."""
    page = render_html(advised)
    seen = text_of(section(page, "plans", "findings"))
    assert "Predictions of what goes were off by 10 % of it (median over 3)" in seen
    assert "NSR at the worst output now 3.00 %" in seen
    assert "box AP50 now 0.940 cosine now 0.999000" in seen
    assert "plan 1 best at no cost calibration /head[red]/Conv[/head] 0 % 1.00x 1.20 %" in seen
    assert "2.10 % 1.02x 0.300 % 19 % 10 % 0.970 0.999900" in seen
    assert "12.0 % 1.12x 0.150 % 4.0 % 5.0 % 1.000 0.999990" in seen
    assert "Changes of &lt;/script&gt;" not in seen
    assert "Changes of dear &lt;/script&gt;" in seen
    assert "2 more nodes" in seen
    assert "Noise left with plan 2 10 %" in text_of(page[: page.index("<nav")])


def test_the_log_holds_predictions_against_what_was_measured(advised: Analysis) -> None:
    """Every simulation with its verdict; those of no use are grey."""
    page = section(render_html(advised), "plans", "findings")
    seen = text_of(page)
    assert "Log: 4 simulations on the way, median error of the predictions 22 %" in seen
    assert "off by 22 % (median of 2, where at least 1.00 % of the noise went or came)" in seen
    assert "weight split a: one → two ; /head[red]/Conv[/head] clear" in seen
    assert f"harm start {DASH} inf 2 hurts" in seen
    assert page.count('class="dropped"') == 2


def test_milliseconds_have_a_column_where_there_are_any(advised: Analysis) -> None:
    """A plan without says so."""
    first, *others = advised.proposals
    timed = dataclasses.replace(first, costs=dataclasses.replace(first.costs, milliseconds=12.3))
    page = render_html(dataclasses.replace(advised, proposals=(timed, *others)))
    seen = text_of(section(page, "plans", "findings"))
    assert "Your table" in seen
    assert "1.12x 12.3 ms 0.150 %" in seen
    assert f"1.02x {DASH} 0.300 %" in seen
    assert "Your table" not in render_html(advised)


def test_why_there_are_no_proposals(advised: Analysis) -> None:
    """One sentence, and the log where something was tried; an old file has no section."""
    bare = dataclasses.replace(advised, proposals=())
    seen = text_of(section(render_html(bare), "proposals", "findings"))
    assert "Nothing is proposed: in 4 simulations nothing left clearly less noise." in seen
    assert "Log: 4 simulations" in seen
    old = dataclasses.replace(bare, attempts=())
    assert 'id="proposals"' not in render_html(old)
    off = dataclasses.replace(
        old, provenance=dataclasses.replace(old.provenance, config={"propose": False})
    )
    assert "Proposals were switched off with --no-propose." in render_html(off)


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


def test_outputs_slices_and_the_answer(booked: Analysis) -> None:
    """A lost slice is marked; scores stand with what they were held against."""
    page = render_html(booked)
    seen = text_of(section(page, "outputs", "balance"))
    assert "boxes 0.0400 % 34.0 dB 0.999900" in seen
    assert "scores lost: always 0 100 % 0.0 dB" in seen
    assert "box AP50 0.940 is the truth the FP32 model's answers ( agreement ) 8 out ," in seen
    assert "top-1/head[red]/Conv[/head] 0.750 0.875 labels 1" in seen
    assert page.count('class="badge"') == 1


def test_balance_of_every_output(booked: Analysis) -> None:
    """Accumulated, sum, additivity, interactions, explained, rest; then who contributes."""
    seen = text_of(section(render_html(booked), "balance", "makeup"))
    assert "out 3.00 % 5.00 % 1.67 far from 1 \u22122.00 % 100 % +0 %" in seen
    assert "onerror=alert(1)&gt; 0.200 % 0.300 % 1.50 none measured 150 % \u22120.100 %" in seen
    assert f"boxes 0.0400 % {' '.join(DASH * 5)} scores" in seen
    assert "MatMul group /head[red]/Conv[/head] (2 layers) its layers" in seen
    assert "80 % 4.00 % +2.50 %" in seen
    assert "1 other source: 0 % (1 not probed: their noise is expected to be small)" in seen
    assert "together 3.00 %: \u22122.00 %" in seen
    assert "1 2 layers up to /head[red]/Conv[/head] 1.00 % 5.00 % +4.00 %" in seen


def test_parts_of_the_worst_rows(booked: Analysis) -> None:
    """Bars are drawn of what is there, and say it in text."""
    page = section(render_html(booked), "makeup", "layers")
    seen = text_of(page)
    assert "weight 20 %, input 50 %, output 30 % rounding 25 %, clipping 75 %" in seen
    assert "clipped: 90 % of input 17 (60 %), 3 (&lt;1 %)" in seen
    assert 'class="piece bias"' not in page


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


def test_equal_analyses_give_equal_bytes(advised: Analysis) -> None:
    """No date, no random id, no address of an object."""
    assert render_html(advised) == render_html(copy.deepcopy(advised))


def test_download_holds_the_analysis_or_is_left_out(analysis: Analysis) -> None:
    """The link carries analysis.json; where that is large, the page points at the file."""
    (link,) = [a for a in Page(render_html(analysis)).all("a") if "download" in a]
    data = base64.b64decode((link["href"] or "").partition(",")[2])
    assert data.decode() == to_json(analysis)
    scale = np.linspace(0.1, 0.2, 30_000)
    large = Quantizer("conv_first", "in1", "w", "weight", 8, axis=0, scale=scale,
                      zero_point=np.zeros(30_000, np.int64))  # fmt: skip
    plan = dataclasses.replace(analysis.plan, quantizers=(large,))
    text = render_html(dataclasses.replace(analysis, plan=plan))
    assert "written beside it" in text
    assert len(text) < 200_000


def test_page_without_any_measurement(analysis: Analysis) -> None:
    """Nothing measured, nothing found: a page without plots, not an error."""
    layers = tuple(
        dataclasses.replace(layer, isolated_nsr=None, isolated_ci=None, local_nsr=None,
                            graphwise_nsr=None)
        for layer in analysis.layers
    )  # fmt: skip
    bare = dataclasses.replace(
        analysis, layers=layers, findings=(), proposals=(), warnings=(), timing={},
        peak_rss_bytes=0,
    )  # fmt: skip
    assert Page(render_html(bare)).all("img") == []


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
