# SPDX-License-Identifier: Apache-2.0
"""The page as text: escaped, complete, self-contained, the same bytes every time."""

from __future__ import annotations

import base64
import copy
import dataclasses
import gzip
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from analyzer.records import Analysis, Quantizer
from analyzer.report.html import render_html
from analyzer.report.spreadsheets import render_csv
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


_PAGES: dict[str, str] = {}


def page_of(which: str, request: pytest.FixtureRequest) -> str:
    """The page of a fixture, rendered once for all tests."""
    if which not in _PAGES:
        _PAGES[which] = render_html(request.getfixturevalue(which))
    return _PAGES[which]


@pytest.fixture
def booked_page(request: pytest.FixtureRequest) -> str:
    return page_of("booked", request)


@pytest.fixture
def advised_page(request: pytest.FixtureRequest) -> str:
    return page_of("advised", request)


@pytest.mark.parametrize(("which", "plots"), [("analysis", 2), ("booked", 3), ("advised", 4)])
def test_names_never_become_elements(
    which: str, plots: int, request: pytest.FixtureRequest
) -> None:
    """The only script that runs is ours, the only images are the plots, no attribute is code."""
    page = Page(page_of(which, request))
    assert len([script for script in page.all("script") if "type" not in script]) == 1
    assert len(page.all("img")) == plots
    assert not [a for _, attributes in page.elements for a in attributes if a.startswith("on")]


def test_policy_names_exactly_our_script(booked_page: str) -> None:
    """The hash in the policy is that of the script in the page; nothing else is allowed."""
    text = booked_page
    script = re.search("<script>(.*)</script>", text, re.DOTALL)
    assert script
    digest = hashlib.sha256(script[1].encode()).digest()
    policy = Page(text).all("meta")[1]["content"]
    assert policy == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{base64.b64encode(digest).decode()}'; "
        "worker-src blob:; base-uri 'none'; form-action 'none'"
    )


@pytest.mark.parametrize("which", ["analysis", "booked", "advised"])
def test_page_is_self_contained(which: str, request: pytest.FixtureRequest) -> None:
    """Links stay in the page or are data, images are data; one h1; ids are unique."""
    page = Page(page_of(which, request))
    targets = [a["href"] or "" for a in page.all("a")]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(t.startswith("data:") or t[1:] in ids for t in targets)
    assert all((a["src"] or "").startswith("data:image/svg+xml;base64,") for a in page.all("img"))
    assert all(a["alt"] for a in page.all("img"))
    assert len(page.all("h1")) == 1


def test_sections_stand_in_the_order_of_questions(advised_page: str) -> None:
    """What hurts, where, how bad, why, how it adds up, what to do, how to do it, how measured."""
    ids = re.findall('<h2 id="([a-z]+)"', advised_page)
    assert ids == [
        "verdict", "network", "layers", "findings", "profiles", "outputs", "balance", "along",
        "proposals", "plan", "method", "download",
    ]  # fmt: skip
    nav = re.findall('href="#([a-z]+)"', advised_page.partition("</nav>")[0])
    assert nav == [
        "main", "verdict", "network", "layers", "findings", "profiles", "outputs", "balance",
        "proposals", "method", "download",
    ]  # fmt: skip


def test_every_layer_is_a_row_with_text_values(analysis: Analysis) -> None:
    """Values, intervals and the reason for a missing value are text."""
    text = render_html(analysis)
    assert re.findall('<tr id="layer-([0-9]+)" data-layer="([0-9]+)"', text) == [
        (n, n) for n in "2134056"
    ]
    assert "3.10 %" in text
    assert "2.80 .. 3.40 %" in text
    assert "isolated: not measured, time limit reached" in text
    assert "3 scales, 0.125 .. 0.5" in text
    assert "broken.png: not an image" in text
    assert r"clear\x1b[2J\n\u202egnp.exe|`$x$`" in text


def text_of(fragment: str) -> str:
    """What a reader sees of a piece of the page."""
    return " ".join(re.sub("<[^>]*>", " ", fragment).split())


def section(text: str, start: str) -> str:
    """From the element with that id to the next section."""
    return text[text.index(f' id="{start}"') :].partition("<section")[0]


def test_findings_are_cards(booked_page: str) -> None:
    """Largest gain first, with evidence, advice and why; untried ones together by code."""
    page = section(booked_page, "findings")
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


def test_the_recommended_plan_is_a_card(advised_page: str) -> None:
    """Why, what is left, what it costs, every change, and outputs and scores before and after."""
    page = section(advised_page, "proposals")
    best, free = (text_of(card) for card in page.split("<article")[1:])
    assert "recommended plan 2 The least noise within the budget of &lt;/script&gt;" in best
    assert "Noise left 10 % Predicted 19 % Cost 2.10 % of the MACs moved, 1.00 % of" in best
    assert "1 calibration all layers kl /head[red]/Conv[/head] 0 % 1.40 % 1.20 %" in best
    assert f"int8 int16 2.10 % {DASH} 0.300 %" in best
    assert r"clear\x1b[2J\n\u202egnp.exe|`$x$`" in best
    assert "2 more #3 , #4" in best
    assert "NSR of out 3.00 % 0.300 %" in best
    assert "NSR of scores 100 % 10.0 %" in best
    assert "box AP50 0.940 0.970 cosine 0.999000 0.999900" in best
    assert "Best at no cost: plan 1 40 % of the output noise is left , 50 % predicted" in free


def test_plans_to_choose_from(advised_page: str) -> None:
    """One row per plan of the front, the present state in the head, changes folded below."""
    page = advised_page
    seen = text_of(section(page, "plans"))
    assert "Predictions of what goes were off by 10 % of it (median over 3)" in seen
    assert "NSR at the worst output now 3.00 %" in seen
    assert "box AP50 now 0.940 cosine now 0.999000" in seen
    assert "plan 1 best at no cost calibration /head[red]/Conv[/head] 0 % 1.00x 1.20 %" in seen
    assert "2.10 % 1.02x 0.300 % 19 % 10 % 0.970 0.999900" in seen
    assert "12.0 % 1.12x 0.150 % 4.0 % 5.0 % 1.000 0.999990" in seen
    assert "Changes of &lt;/script&gt;" not in seen
    assert "Changes of dear &lt;/script&gt;" in seen
    assert "2 more nodes" in seen


def test_the_log_holds_predictions_against_what_was_measured(advised_page: str) -> None:
    """Every simulation with its verdict; those of no use are grey."""
    page = section(advised_page, "plans")
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
    seen = text_of(section(page, "plans"))
    assert "Your table" in seen
    assert "1.12x 12.3 ms 0.150 %" in seen
    assert f"1.02x {DASH} 0.300 %" in seen
    assert "Your table" not in render_html(advised)


def test_why_there_are_no_proposals(advised: Analysis) -> None:
    """One sentence, and the log where something was tried; an old file has no section."""
    bare = dataclasses.replace(advised, proposals=())
    seen = text_of(section(render_html(bare), "proposals"))
    assert "Nothing is proposed: in 4 simulations nothing left clearly less noise." in seen
    assert "Log: 4 simulations" in seen
    old = dataclasses.replace(bare, attempts=())
    assert 'id="proposals"' not in render_html(old)
    off = dataclasses.replace(
        old, provenance=dataclasses.replace(old.provenance, config={"propose": False})
    )
    assert "Proposals were switched off with --no-propose." in render_html(off)


def test_outputs_slices_and_the_answer(booked_page: str) -> None:
    """A lost slice is marked; scores stand with what they were held against."""
    page = booked_page
    seen = text_of(section(page, "outputs"))
    assert "boxes 0.0400 % 34.0 dB 0.999900" in seen
    assert "scores lost: always 0 100 % 0.0 dB" in seen
    assert "box AP50 0.940 is the truth the FP32 model's answers ( agreement ) 8 out ," in seen
    assert "top-1/head[red]/Conv[/head] 0.750 0.875 labels 1" in seen
    assert page.count('class="badge"') == 1


def test_balance_of_every_output(booked_page: str) -> None:
    """Accumulated, sum, additivity, interactions, explained, rest; then who contributes."""
    seen = text_of(section(booked_page, "balance"))
    assert "out 3.00 % 5.00 % 1.67 far from 1 \u22122.00 % 100 % +0 %" in seen
    assert "onerror=alert(1)&gt; 0.200 % 0.300 % 1.50 none measured 150 % \u22120.100 %" in seen
    assert f"boxes 0.0400 % {' '.join(DASH * 5)} scores" in seen
    assert "MatMul group /head[red]/Conv[/head] (2 layers) its layers" in seen
    assert "80 % 4.00 % +2.50 %" in seen
    assert "1 other source: 0 % (1 not probed: their noise is expected to be small)" in seen
    assert "together 3.00 %: \u22122.00 %" in seen
    assert "1 2 layers up to /head[red]/Conv[/head] 1.00 % 5.00 % +4.00 %" in seen


def test_parts_of_the_worst_rows(booked_page: str) -> None:
    """Bars are drawn of what is there, and say it in text."""
    page = section(booked_page, "layers")
    seen = text_of(page)
    assert "weight 20 %, input 50 %, output 30 % rounding 25 %, clipping 75 %" in seen
    assert (
        "Clipped 90 % of input Channels with most of the local noise 17 (60 %), 3 (&lt;1 %)"
        in seen
    )
    assert 'class="piece bias"' not in page


def test_equal_analyses_give_equal_bytes(advised: Analysis) -> None:
    """No date, no random id, no address of an object."""
    assert render_html(advised) == render_html(copy.deepcopy(advised))


def test_downloads_hold_the_files(analysis: Analysis) -> None:
    """The links carry what is written beside the page, compressed."""
    links = [a for a in Page(render_html(analysis)).all("a") if "download" in a]
    assert [a["download"] for a in links] == ["analysis.json.gz", "layers.csv.gz"]
    for link, content in zip(links, (to_json(analysis), render_csv(analysis)), strict=True):
        data = base64.b64decode((link["href"] or "").partition(",")[2])
        assert gzip.decompress(data).decode() == content


def test_a_page_stays_below_a_megabyte(analysis: Analysis) -> None:
    """What does not fit is left out of the page, which says where it is."""
    scale = np.random.default_rng(0).uniform(0.1, 0.2, 100_000)
    large = Quantizer("conv_first", "in1", "w", "weight", 8, axis=0, scale=scale,
                      zero_point=np.zeros(100_000, np.int64))  # fmt: skip
    plan = dataclasses.replace(analysis.plan, quantizers=(large,))
    text = render_html(dataclasses.replace(analysis, plan=plan))
    assert "analysis.json</code> is too large for this page; it was written beside it." in text
    assert 'data-name="layers.csv"' in text
    assert len(text) < 300_000


def test_a_long_plan_is_left_to_the_data(analysis: Analysis) -> None:
    """Hundreds of quantizers are not listed."""
    one = analysis.plan.quantizers[0]
    plan = dataclasses.replace(analysis.plan, quantizers=(one,) * 301)
    text = render_html(dataclasses.replace(analysis, plan=plan))
    assert "301 quantizers: too many to be listed here" in text_of(section(text, "plan"))


def test_exports_are_text_to_copy(advised: Analysis) -> None:
    """Files by tool with the command that writes them; what a browser would obey is escaped."""
    exports = {
        "esp-ppq/setting.json": '{"a": "</pre><script>x"}\n\tb\u202e\n',
        "esp-ppq/quantize.py": "print()\n",
        "<b>tool/x": "x",
        "qdq/model.onnx": "",  # no text
    }
    text = render_html(dataclasses.replace(advised, exports=exports))
    page = section(text, "exports")
    assert re.findall("<h3>(.*)</h3>", page) == ["esp-ppq", "&lt;b&gt;tool"]
    assert "qanalyze net.onnx --calib data --export esp-ppq</pre>" in page
    assert "&lt;/pre&gt;&lt;script&gt;x&#34;}\n\tb\\u202e\n</pre>" in page
    assert 'esp-ppq/quantize.py</code> <span class="soft">0.0 kB' in page
    assert 'href="#exports"' in text.partition("</nav>")[0]


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
