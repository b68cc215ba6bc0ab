# SPDX-License-Identifier: Apache-2.0
"""What a notebook shows: on analyses with every name and value that hurts."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

from analyzer.records import Proposal
from analyzer.report.html.notebook import in_one_line, render_notebook

SCRIPT = "</script><img src=x onerror=alert(1)>"  # a name in the analysis of conftest.py


class Page(HTMLParser):
    """Collects tags, their attributes, and the text of cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data):
        self.words.append(data.strip())


def test_names_are_shown_as_text(analysis):
    """No tag and no attribute comes out of a name; control codes are escapes."""
    page = Page(render_notebook(analysis))
    assert set(page.tags) <= {"div", "table", "caption", "tr", "th", "td", "span"}
    assert page.attributes <= {"style", "scope", "title"}
    assert SCRIPT in page.words
    assert any(word.startswith("clear\\x1b[2J") for word in page.words)


def test_the_worst_layers_come_first(analysis):
    """By isolated error, ten at most, long names shortened in their middle."""
    layers = tuple(
        dataclasses.replace(analysis.layers[0], name=f"conv{i}", isolated_nsr=i / 100)
        for i in range(14)
    )
    page = render_notebook(dataclasses.replace(analysis, layers=layers))
    assert re.findall(r">(conv\d+)<", page) == [f"conv{i}" for i in range(13, 3, -1)]
    assert "4 more in .layers" in page
    assert "/block" * 10 not in re.sub(r'title="[^"]*"', "", render_notebook(analysis))


def test_colours_are_those_of_the_page_around(analysis):
    """No fixed text or background colour: it is read in light and dark notebooks."""
    page = render_notebook(analysis)
    assert set(re.findall(r"[^-]color:([^;\"]+)", page)) == {"inherit"}
    assert not re.search(r"background:(?!linear-gradient\([^)]*rgba\()", page)


def test_plans_say_what_they_change_and_cost(advised):
    """The recommended one is marked, and its reason stands on top."""
    page = " ".join(Page(render_notebook(advised)).words)
    best = next(p for p in advised.proposals if p.recommended)
    assert f"{best.name} (recommended)" in page
    assert "noise left" in page


def test_an_analysis_of_nothing(analysis):
    """No layers, findings and plans: no empty tables."""
    bare = dataclasses.replace(analysis, layers=(), findings=(), warnings=())
    assert "table" not in Page(render_notebook(bare)).tags
    assert "Worst output out: NSR" in render_notebook(bare)
    plan = Proposal("p", False, (), 0.0, {}, {})
    assert "Plans" in render_notebook(dataclasses.replace(bare, proposals=(plan,)))


def test_one_line_is_one_line(analysis):
    """Also with line breaks in names."""
    outputs = (dataclasses.replace(analysis.outputs[0], name="a\nb"),)
    text = in_one_line(dataclasses.replace(analysis, outputs=outputs))
    assert "\n" not in text
    assert text.startswith("<Analysis net · 7 layers")
    assert "NSR 3.10 %" in text


def test_two_renderings_are_equal(analysis):
    """To the byte."""
    assert render_notebook(analysis) == render_notebook(analysis)
