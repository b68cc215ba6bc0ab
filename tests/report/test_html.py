# SPDX-License-Identifier: Apache-2.0
"""The page as text: escaped, complete, self-contained, the same bytes every time."""

from __future__ import annotations

import base64
import copy
import dataclasses
import hashlib
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from analyzer.records import Analysis, Quantizer
from analyzer.report.html import render_html
from analyzer.report.plots import graphwise_plot, isolated_plot
from analyzer.store import to_json

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


def test_names_never_become_elements(analysis: Analysis) -> None:
    """The only script is ours, the only images are the plots, and no attribute runs code."""
    page = Page(render_html(analysis))
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 2
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


def test_page_is_self_contained(analysis: Analysis) -> None:
    """Links stay in the page or are data, images are data; one h1; tables have captions."""
    page = Page(render_html(analysis))
    targets = [a["href"] or "" for a in page.all("a")]
    ids = {a["id"] for _, a in page.elements if "id" in a}
    assert all(t.startswith("data:") or t[1:] in ids for t in targets)
    assert all((a["src"] or "").startswith("data:image/svg+xml;base64,") for a in page.all("img"))
    assert all(a["alt"] for a in page.all("img"))
    assert len(page.all("h1")) == 1
    assert len(page.all("caption")) == 2


def test_every_layer_is_a_row_with_text_values(analysis: Analysis) -> None:
    """Values, intervals and the reason for a missing value are text."""
    text = render_html(analysis)
    assert text.count("<tr data-text=") == 7
    assert "3.10 %" in text
    assert "2.80 .. 3.40 %" in text
    assert "isolated: not measured, time limit reached" in text
    assert "3 scales, 0.125 .. 0.5" in text
    assert "broken.png: not an image" in text
    assert r"clear\x1b[2J\n\u202egnp.exe|`$x$`" in text
    assert 'data-sort="Infinity"' in text


def test_equal_analyses_give_equal_bytes(analysis: Analysis) -> None:
    """No date, no random id, no address of an object."""
    assert render_html(analysis) == render_html(copy.deepcopy(analysis))


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


@pytest.mark.parametrize("plot", [isolated_plot, graphwise_plot])
def test_plots_are_well_formed(plot, analysis: Analysis) -> None:
    """Hostile names, formulas, inf and zero give XML that parses, and repeat to the byte."""
    svg = plot(analysis)
    ET.fromstring(svg)
    assert svg == plot(analysis)
    assert "<script" not in svg


def test_plots_survive_extreme_values(analysis: Analysis) -> None:
    """One value, values 300 decades apart, and a name of only dollars are drawn."""
    first, second, *_ = analysis.layers
    tiny = dataclasses.replace(first, name="$$ $\\frac{$", isolated_nsr=1e-300, local_nsr=1e-300)
    for layers in ((tiny,), (tiny, second), (second,)):
        changed = dataclasses.replace(analysis, layers=layers)
        assert isolated_plot(changed)
        assert graphwise_plot(changed)
