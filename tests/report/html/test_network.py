# SPDX-License-Identifier: Apache-2.0
"""What the drawing of the network is made of: classes, colours, names, sizes, vendored files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest

from analyzer.records import Analysis, Change, LayerError, Network, Proposal
from analyzer.report.html import network, render_html

REPORT = Path(str(resources.files("analyzer.report.html")))


def wired(analysis: Analysis) -> Analysis:
    """The analysis with its layers in a row, and the second one also feeding the fourth."""
    count = len(analysis.layers)
    edges = ((0, 1), (1, 2), (1, 3), *((i, i + 1) for i in range(2, count - 1)))
    ends = Network(tuple(sorted(edges)), {"x": (0,)}, {"</script>": (count - 1,)})
    return dataclasses.replace(analysis, network=ends)


def of(analysis: Analysis, count: int) -> Analysis:
    """A chain of layers with long names, nothing else."""
    layers = tuple(
        LayerError(
            f"/model.{i // 9}/m/m.{i % 9}/attention/projection/Conv",
            "Conv",
            isolated_nsr=0.0123 / (i + 1),
            local_nsr=0.000123,
            graphwise_nsr=0.0456,
        )
        for i in range(count)
    )
    chain = Network(tuple((i - 1, i) for i in range(1, count)), {"x": (0,)}, {"y": (count - 1,)})
    return dataclasses.replace(analysis, layers=layers, network=chain, findings=(), proposals=())


@pytest.mark.parametrize(
    ("worst", "first", "last"),
    [
        (0.0476, 1e-5, 3e-2),
        (0.03, 1e-5, 3e-2),
        (0.0299, 3e-6, 1e-2),
        (1e-9, 1e-6, 3e-3),  # harmless: the brightest class begins at 0.3 % at least
        (25.0, 3e-4, 1.0),
        (math.inf, 1e-6, 3e-3),
        (math.nan, 1e-6, 3e-3),
    ],
)
def test_classes_end_at_the_worst(worst: float, first: float, last: float) -> None:
    """Eight bounds, ones and threes of decades; the last is the highest one below the worst."""
    found = network.bounds([worst, 1e-12, None])
    assert (len(found), found[0], found[-1]) == (8, first, last)
    assert all(round(b / a, 6) in (3, 3.333333) for a, b in pairwise(found))


def test_infinite_and_unknown_noise_have_classes() -> None:
    """inf and NaN are in the brightest class, 0 in the darkest, what was not measured in none."""
    found = network.bounds([0.05])
    assert [network.shade(x, found) for x in (math.inf, math.nan, 0.0, None)] == [8, 8, 0, None]
    assert network.shade(2e-5, found) == 1  # from 0.001 %, below 0.003 %


def test_colours_are_cividis() -> None:
    """The nine colours are those of matplotlib; the ink on each has a contrast of 4.5 at least."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    css = REPORT.joinpath("assets", "network.css").read_text("utf-8")
    fills = re.findall(r"--shade(\d): (#[0-9a-f]{6})", css)
    assert fills == [(str(i), to_hex(colormaps["cividis"](i / 8))) for i in range(9)]
    inks = re.findall(r"\.shade\d \{ --fill: var\(--shade\d\); --ink: (#\w+);", css)
    for (_, fill), ink in zip(fills, inks, strict=True):
        parts = [int(fill[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        light = sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
        contrast = 1.05 / (light + 0.05) if ink == "#fff" else (light + 0.05) / 0.05
        assert contrast >= 4.5


def test_labels_leave_out_what_all_share() -> None:
    """The common scope and the op type at the end go; a name is never left empty."""
    names = {
        "/net/model.2/cv1/conv/Conv": "Conv",
        "/net/model.2/cv1/conv/Conv/Swish": "Swish",
        "/net/Concat": "Concat",
        "/net/model.10/m/m.0/attention/MatMul_1": "MatMul",
    }
    found = network.labels([LayerError(name, op) for name, op in names.items()])
    assert found[:3] == ["model.2/cv1", "model.2/cv1", "Concat"]
    assert found[3].startswith("model.10/")
    assert found[3].endswith("/MatMul_1")
    assert len(found[3]) == 22
    assert network.labels([LayerError("Conv", "Conv")]) == ["Conv"]
    assert network.labels([LayerError("", "Conv"), LayerError("/", "Add")]) == ["", ""]


def test_cells_say_everything_in_words(analysis: Analysis) -> None:
    """Number, name, op, errors with rank, findings, shared scale and change of a layer."""
    layers = list(analysis.layers)
    layers[1] = dataclasses.replace(layers[1], group="g1")
    change = Change("precision", layers[1].name, "int8", "int16", layers=(layers[1].name,))
    plan = Proposal("plan 2", True, (change,), 0.0, {}, {})
    changed = dataclasses.replace(analysis, layers=tuple(layers), proposals=(plan,))
    cell = network.context(wired(changed))["network_cells"][1]
    assert cell.title == (
        "1 \u2066</script><img src=x onerror=alert(1)>\u2069 · Conv · isolated 3.10 % (rank 2) · "
        "local 1.00 % · graphwise 4.00 % · QA999 · shares scale s1 · "
        "plan 2: precision int8 → int16"
    )
    assert (cell.layer, cell.rank, cell.style) == (1, 2, "shade8 found")


def test_hostile_names_stay_text(analysis: Analysis) -> None:
    """Names close neither the script that holds the data nor an attribute of the strip."""
    page = render_html(wired(analysis))
    data = re.search(r'class="network-data">(.*?)</script>', page, re.S)
    assert data
    read = json.loads(data[1])
    assert read["outputs"] == [["</script>", "</script>", [6]]]
    assert read["inputs"] == [["x", "x", [0]]]
    assert read["edges"] == [0, 1, 1, 2, 1, 3, 2, 3, 3, 4, 4, 5, 5, 6]
    assert len(read["layers"]) == 7
    assert read["worst"] == [2, 1, 3, 4, 0]
    assert "<img src=x" not in page


def test_a_group_of_one_layer_is_not_marked(analysis: Analysis) -> None:
    """A scale is shared by two at least."""
    read = json.loads(network.context(wired(analysis))["network_data"])
    assert [layer[2] for layer in read["layers"]] == [0, 0, 0, 0, 1, 1, 0]
    layers = tuple(dataclasses.replace(x, group=None) for x in analysis.layers[5:])
    alone = dataclasses.replace(analysis, layers=(*analysis.layers[:5], *layers))
    read = json.loads(network.context(wired(alone))["network_data"])
    assert [layer[2] for layer in read["layers"]] == [0] * 7


def test_edges_of_damaged_files_are_left_out(analysis: Analysis) -> None:
    """Layers that do not exist and edges backwards are not drawn."""
    broken = Network(((0, 1), (3, 2), (4, 4), (5, 99), (-1, 2)), {"x": (0, 77)}, {"y": (-2, 6)})
    read = json.loads(
        network.context(dataclasses.replace(analysis, network=broken))["network_data"]
    )
    assert read["edges"] == [0, 1]
    assert (read["inputs"], read["outputs"]) == ([["x", "x", [0]]], [["y", "y", [6]]])


def test_old_files_have_a_strip_and_a_line(analysis: Analysis) -> None:
    """Without a network nothing is drawn and no library is in the page."""
    page = render_html(dataclasses.replace(analysis, network=None))
    assert "this file does not say how the layers hang together" in page
    assert "network-worker" not in page.split("<script>")[0]
    assert page.count('<a href="#layer-') >= 7


def test_no_layers_no_section(analysis: Analysis) -> None:
    """There is nothing to draw of a model without layers."""
    assert network.context(dataclasses.replace(analysis, layers=(), network=Network())) == {
        "network_cells": []
    }


def test_page_stays_small(analysis: Analysis) -> None:
    """Strip and data of 264 layers take less than 120 kB beside the library."""
    found = network.context(of(analysis, 264))
    strip = sum(len(f'<a href="#layer-264" class="{c.style}" tabindex="-1" title="{c.title}"></a>')
                for c in found["network_cells"])  # fmt: skip
    assert strip + len(found["network_data"].encode()) < 120_000


def test_large_networks_have_a_short_strip_and_no_drawing(analysis: Analysis) -> None:
    """Of 5,000 layers a cell stands for 13 and leads to the worst; the page says why no graph."""
    found = network.context(of(analysis, 5000))
    assert found["network_data"] is None
    assert found["network_note"] == (
        "Not drawn as a graph: 5,000 layers are more than can be read in one."
    )
    cells = found["network_cells"]
    assert (found["network_run"], len(cells)) == (13, 385)  # 385 = ceil(5000 / 13)
    assert cells[1].layer == 13
    assert cells[1].title.startswith("13 to 25, the worst: 13 \u2066/model.1/")


def test_vendored_files_are_unchanged() -> None:
    """Files and hashes are those of VENDOR.md; nothing in them could close a script element."""
    folder = REPORT / "vendor"
    text = (folder / "VENDOR.md").read_text("utf-8")
    listed = dict(re.findall(r"^\| `(\S+)` .*`([0-9a-f]{64})`", text, re.M))
    scripts = {path.name: path.read_bytes() for path in folder.glob("*.js")}
    assert listed == {name: hashlib.sha256(data).hexdigest() for name, data in scripts.items()}
    assert not any(b"</script" in data or b"<!--" in data for data in scripts.values())
    assert len(list(folder.glob("*LICENSE*"))) == len(scripts)


def test_licence_is_in_the_page(analysis: Analysis) -> None:
    """Who gets the page gets the licence of what is in it."""
    page = render_html(wired(analysis))
    licence = (REPORT / "vendor" / "dagre.LICENSE.txt").read_text("utf-8").strip()
    assert licence in page
    assert "sourceMappingURL" not in page
