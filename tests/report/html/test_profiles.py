# SPDX-License-Identifier: Apache-2.0
"""The section of the worst layers: what is drawn, what is said, and that nothing is empty."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html import unescape

import pytest

from analyzer.records import Finding, TensorProfile
from analyzer.report.html import render_html
from analyzer.report.html.profile_pictures import HEIGHT, WIDTH, channels, histogram
from analyzer.report.html.profiles import context
from analyzer.report.profile_plots import channels_figure, histogram_figure
from analyzer.report.profile_wording import channels_in_words, facts_of, number, told, wide
from analyzer.store import load_analysis, write_json

SCRIPT = "</script><img src=x onerror=alert(1)>"

# 8 channels of 0 .. 1, but the fourth reaches 32; the grid ends at 15.875 in steps of 0.125.
OUTLIER = TensorProfile(
    SCRIPT, "out0", f"y{SCRIPT}", "activation", -0.5, 32.5, (0.9, 0.0, 0.04, 0.06),
    (0.95, 0.05, 0.0, 0.0), (0.0, 32.0), (-16.0, 15.875), 0.125, 0.0625, axis=1,
    channels=(*[(0.0, 1.0)] * 3, (0.0, 32.0), *[(0.0, 1.0)] * 4),
    noise=(0.25, 0.01, 0.02, 0.4, 0.0, math.inf, 0.03, 0.03), count=8, samples=4, nsr=0.0421,
    arriving=0.0833,
)  # fmt: skip
WEIGHT = replace(
    OUTLIER, slot="in1", tensor="w", role="weight", axis=0, scales=8, noise=(1e-4,) * 8,
    clipped=0.0, samples=0, arriving=None, limits=(-40.0, 39.0),
)  # fmt: skip


@pytest.fixture
def profiled(advised):
    """The hostile analysis with two tensors of its layer `SCRIPT`, and one of the first layer."""
    quiet = replace(OUTLIER, layer="conv_first", slot="in0", holder=SCRIPT, channels=(), noise=())
    return replace(advised, profiles=(OUTLIER, WEIGHT, quiet))


def section(page):
    start = page.index('<h2 id="profiles"')
    return page[start : page.index("</section>", start)]


def alts(text):
    return [unescape(alt) for alt in re.findall(r'role="img" aria-label="([^"]*)"', text)]


def test_every_layer_looked_into_has_a_card(profiled):
    """Worst first, by the number of its row; rows link there."""
    found = context(profiled)
    assert [card.number for card in found["profile_cards"]] == [1, 0]
    assert found["profiled"] == {0, 1}
    text = section(render_html(profiled))
    assert re.findall(r'id="profile-(\d+)"', text) == ["1", "0"]
    assert 'href="#layer-1"' in text


def test_a_page_without_profiles_has_no_section(analysis):
    """No heading over nothing."""
    bare = replace(analysis, layers=tuple(replace(x, parts={}) for x in analysis.layers))
    assert context(bare)["profile_cards"] == []
    assert 'id="profiles"' not in render_html(bare)


def test_profiles_of_unknown_layers_are_left_out(analysis):
    """A file that was edited by hand."""
    odd = replace(analysis, profiles=(replace(OUTLIER, layer="gone"),))
    assert all(not card.tensors for card in context(odd)["profile_cards"])


def test_names_are_text(profiled):
    """Nothing of a name is markup, neither in text nor in what is read aloud."""
    text = section(render_html(profiled))
    assert "<img" not in text
    assert "<script" not in text
    assert any(SCRIPT in alt for alt in alts(text))


def test_pictures_are_told_with_their_numbers(profiled):
    """Range, grid, step, clipped share, noise, and the channel that sticks out."""
    said = alts(section(render_html(profiled)))
    first = next(alt for alt in said if alt.startswith("Histogram of Output"))
    for number_ in ("0 .. 32", "-16 .. 15.9", "step 0.125", "6.25 %", "4.21 %", "8.33 %"):
        assert number_ in first
    spread = next(alt for alt in said if alt.startswith("Ranges and noise of 8 channels"))
    assert "channel 3 reaches 32, the median 1 (8 steps)" in spread


def test_nothing_is_empty(profiled):
    """No list, paragraph or path without content, no frame around nothing."""
    text = section(render_html(profiled))
    for tag in ("p", "ul", "li", "dd", "dt", "div", "h4", "strong"):
        assert not re.search(rf"<{tag}[^>]*>\s*</{tag}>", text), tag
    assert ' d=""' not in text
    assert "NaN," not in text
    assert "inf " not in re.sub(r'aria-label="[^"]*"', "", text)


def test_two_pages_are_equal(profiled):
    """To the byte."""
    assert render_html(profiled) == render_html(profiled)


def test_the_file_keeps_profiles(profiled, tmp_path):
    """As they were, infinite noise included."""
    write_json(profiled, tmp_path / "analysis.json")
    assert load_analysis(tmp_path / "analysis.json").profiles == profiled.profiles


def test_causes_remedy_gain_and_plan_are_named(profiled):
    """QA203 at the layer, its gain, its remedy; and what plan 2 does there."""
    card = context(profiled)["profile_cards"][0]
    (cause,) = card.causes
    assert (cause.code, cause.gain) == ("QA203", "93 % of the output noise goes without it")
    assert cause.advice == "Compare with minmax."
    assert "channels 3, 17, 5, 9" in cause.evidence
    assert card.planned[0].startswith("plan 2: precision int8 → int16, with 4 other layers")
    assert "calibration kl" in card.planned[0]
    assert card.planned[1] == "with all of it 10 % of the output noise is left"
    assert [(p.kind, p.text) for p in card.origins] == [
        ("weight", "20 %"), ("input", "50 %"), ("output", "30 %")
    ]  # fmt: skip
    assert card.balance == ("80 % MatMul group /head[red]/Conv[/head] (2 layers)",)
    assert "clipped: 90 % of input" in card.made_of


def test_a_scale_shared_with_the_layer_at_fault_is_told(profiled):
    """QA105 at one member of a group is a cause at the others."""
    ranges = Finding("QA105", "/head[red]/Conv[/head]", {"range_ratio": 45.0}, "Split.", 0.9)
    other = Finding("QA104", "/head[red]/Conv[/head]", {}, "Use 16 bits.", 0.5)
    both = replace(profiled, findings=(ranges, other))
    card = context(both)["profile_cards"][0]
    assert [(c.code, c.elsewhere) for c in card.causes] == [
        ("QA105", ("/head[red]/Conv[/head]", 2))
    ]
    assert context(both)["profile_cards"][1].causes == ()


def test_loud_cards_are_open(profiled):
    """The first always, others from a twentieth of its noise, six at most."""
    assert [card.is_open for card in context(profiled)["profile_cards"]] == [True, False]
    many = tuple(replace(profiled.layers[1], name=f"n{k}") for k in range(9))
    found = context(replace(profiled, layers=many))
    assert [card.is_open for card in found["profile_cards"]] == [True] * 6 + [False] * 3


def test_the_histogram_by_hand():
    """Four bins over -0.5 .. 32.5 on 58 .. 352: 73.5 wide; decades 0.01 to 1 on 106 .. 14."""
    picture = histogram(OUTLIER)
    assert picture.fp32.startswith("M58,106V16.1H131.5V106H205V78.3")
    assert picture.fp32.endswith("H352V106Z")
    assert picture.made.startswith("M58,106V15H131.5")
    assert picture.rules == ("106", "14")
    # 15.875 is 16.375 of 33; what lies beyond -16 is beyond the axis too
    assert picture.cuts == ("203.9",)
    ((start, width),) = [(area.x, area.width) for area in picture.beyond]
    assert (start, width) == ("203.9", "148.1")
    assert (picture.values.x, picture.grid.x, picture.grid.width) == ("62.5", "58", "145.9")


def test_channels_by_hand():
    """0 .. 32 on 98 .. 14; eight bars of 36.75; the limit 15.875 halfway up."""
    picture = channels(OUTLIER)
    assert picture.bars.startswith("M76.4,98V95.4M113.1,98V95.4")
    assert "M186.6,98V14" in picture.bars
    assert picture.cuts == ("56.3",)
    assert [label.text for label in picture.labels if label.text == "3"] == ["3", "3"]


def test_what_cannot_be_drawn_is_not():
    """All values alike, no bins, infinite limits; one channel, or channels like each other."""
    assert histogram(replace(OUTLIER, range=(1.0, 1.0))) is None
    assert histogram(replace(OUTLIER, fp32=(), int8=())) is None
    assert histogram(replace(OUTLIER, limits=(-math.inf, math.inf))) is None
    assert channels(replace(OUTLIER, channels=OUTLIER.channels[:1])) is None
    alike = replace(OUTLIER, channels=((0.0, 1.0),) * 8, noise=(0.01,) * 8)
    assert channels(alike) is None
    assert channels(WEIGHT) is None, "each channel has a scale of its own"


@pytest.mark.parametrize("ends", [(0.0, 1e-30), (-1e30, 1e30), (-5.0, 0.0), (999.9, 1000.1)])
@pytest.mark.parametrize("count", [2, 3, 128])
def test_everything_stays_inside_the_picture(ends, count):
    """Whatever the numbers, and labels do not lie upon each other."""
    low, high = ends
    spans = ((low, high), *((low / 9, high / 9),) * (count - 1))
    profile = replace(
        OUTLIER, low=low, high=high, range=ends, limits=(low / 2 - 1e-31, high / 2), per=3,
        channels=spans, noise=(1.0, *((1e-9,) * (count - 1))), count=3 * count - 1,
    )  # fmt: skip
    for picture in (histogram(profile), channels(profile)):
        assert picture is not None
        for label in picture.labels:
            half = 3 * len(label.text)
            left = {"start": 0, "middle": half, "end": 2 * half}[label.anchor]
            assert float(label.x) - left >= -6, label
            assert float(label.x) - left + 2 * half <= WIDTH + 6, label
            assert 0 < float(label.y) < HEIGHT


def test_channels_are_counted_in_groups():
    """Entry 1 of three channels each is 3 to 5; the last one of 10 channels stands alone."""
    grouped = replace(OUTLIER, per=3, count=10)
    assert number(grouped, 1) == "3\N{EN DASH}5"
    assert number(grouped, 3) == "9"
    assert wide(OUTLIER) == [3]
    assert channels_in_words(grouped).startswith("channel 9 reaches 32")


def test_how_values_fit_is_told():
    """Clipped, loose, or all alike."""
    assert told(OUTLIER) == "6.25 % of the values are clipped"
    loose = replace(OUTLIER, clipped=0.0, range=(0.0, 4.0))
    assert told(loose) == "nothing is clipped; the values take up 13 % of the grid"
    assert told(replace(loose, range=(2.5, 2.5))) == "all values are 2.5"
    assert told(replace(loose, range=(-16.0, 15.0))) == "nothing is clipped"
    lost = list(facts_of(replace(OUTLIER, not_finite=0.01)))
    assert lost[-1] == "1.00 % of the values are NaN or infinite"
    assert "the widest of 8 scales" in next(iter(facts_of(WEIGHT)))


def test_figures_for_notebooks(profiled):
    """One panel per tensor, two where channels are drawn; nothing for other layers."""
    figure = histogram_figure(profiled, SCRIPT)
    assert len(figure.axes) == 2
    assert figure.axes[0].get_yscale() == "log"
    assert SCRIPT[:20] in figure.axes[0].get_title(loc="left")
    drawn = channels_figure(profiled, SCRIPT)
    assert len(drawn.axes) == 4
    heights = [bar.get_height() for bar in drawn.axes[0].patches]
    assert heights == [1.0] * 3 + [32.0] + [1.0] * 4
    assert histogram_figure(profiled, "softmax") is None
    assert channels_figure(profiled, "conv_first") is None


def test_ten_layers_cost_less_than_the_budget(profiled):
    """Thirty tensors of 64 bins and 128 channels, none of them alike: 300 kB at most."""
    full = [
        replace(
            OUTLIER, slot=f"in{k}", per=8, count=1024,
            fp32=tuple(((7 * i + k) % 13 + 1) / 500 for i in range(64)),
            int8=tuple(((5 * i + k) % 11) / 400 for i in range(64)),
            channels=tuple((-float(i * 7 % 19), float(i * 5 % 23 + (i == 9) * 900))
                           for i in range(128)),
            noise=tuple(0.001 * (i * 3 % 17 + 1) for i in range(128)),
        )
        for k in range(3)
    ]  # fmt: skip
    layers = tuple(replace(profiled.layers[1], name=f"n{k}") for k in range(10))
    looks = tuple(replace(p, layer=layer.name) for layer in layers for p in full)
    page = render_html(replace(profiled, layers=layers, profiles=looks))
    drawings = re.findall(r"<svg class=\"profile-plot\".*?</svg>", page, re.DOTALL)
    assert len(drawings) == 60
    assert sum(map(len, drawings)) < 300_000
