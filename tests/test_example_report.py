# SPDX-License-Identifier: Apache-2.0
"""The committed example: it loads, is what the code renders, and tells nothing of a machine."""

from __future__ import annotations

import re

import pytest
from doc_pages import DOCS, ROOT

from analyzer.store import load_analysis

EXAMPLE = ROOT / "reports" / "example"
REMEDY = "run python tests/benchmarks/example_report.py --render (or without, to measure anew)"
NAMES = ("analysis.json", "layers.csv", "proposals.csv", "report.html", "sources.csv")


@pytest.fixture(scope="module")
def analysis():
    return load_analysis(EXAMPLE / "analysis.json")


def test_the_example_finds_its_planted_fault(analysis):
    """The committed analysis loads, is of the sample model, and names the layer at fault."""
    assert analysis.provenance.model["name"] == "digits_dw_outlier_channel.onnx"
    worst = max(analysis.layers, key=lambda layer: layer.isolated_nsr or 0)
    assert (worst.name, worst.findings) == ("/pw1/act/Relu", ("QA101",))
    assert any(proposal.recommended for proposal in analysis.proposals)


def test_the_example_is_what_is_rendered_now(analysis):
    """The committed page is the one that its analysis gives, but for plots and the version."""
    from analyzer.report.html import render_html

    committed = (EXAMPLE / "report.html").read_text(encoding="utf-8")
    assert steady(render_html(analysis)) == steady(committed), REMEDY


def test_the_tables_of_the_example_are_what_is_rendered_now(analysis):
    """So are its CSV files."""
    from analyzer.report import spreadsheets

    made = {
        "layers.csv": spreadsheets.render_csv, "sources.csv": spreadsheets.render_sources_csv,
        "proposals.csv": spreadsheets.render_proposals_csv,
    }  # fmt: skip
    for name, render in made.items():
        committed = (EXAMPLE / name).read_bytes().decode("utf-8")
        assert render(analysis).splitlines() == committed.splitlines(), f"{name}: {REMEDY}"


def test_the_example_names_no_folder_of_a_machine():
    """Paths in all files of it are relative to the checkout."""
    found = {
        (path.name, place)
        for path in EXAMPLE.rglob("*")
        if path.is_file()
        for place in re.findall(
            r"(?:/(?:home|root|tmp|usr(?!/bin/env)|work|Users)/|[A-Z]:\\\\)[\w./-]*",
            path.read_text(encoding="utf-8"),
        )
    }
    assert not found


def test_the_example_is_small():
    """It holds the five files of a run, less than 1 MB together, and pictures below 200 kB."""
    files = [path for path in EXAMPLE.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == list(NAMES)
    assert sum(path.stat().st_size for path in files) < 1_000_000
    for theme in ("light", "dark"):
        assert 5_000 < (DOCS / f"report-{theme}.png").stat().st_size < 200_000


def steady(page: str) -> str:
    """Leave out what depends on the versions of matplotlib, of zlib and of qanalyze."""
    page = re.sub(r"data:(image|application)/[a-z+]+;base64,[A-Za-z0-9+/=]*", "DATA", page)
    return re.sub(r"qanalyze \d+\.\d+\.\d+\S*", "VERSION", page)
