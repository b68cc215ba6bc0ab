# SPDX-License-Identifier: Apache-2.0
"""The files of a run: an `Analysis` in, `report.html`, `analysis.json` and CSV out."""

from __future__ import annotations

from pathlib import Path

from analyzer.records import Analysis
from analyzer.report.html import render_html
from analyzer.report.spreadsheets import render_csv, render_sources_csv
from analyzer.store import to_json, write_files


def write_reports(analysis: Analysis, out: Path) -> dict[str, Path]:
    """Write all reports into the folder `out`, all or none; it is created where missing.

    Returns:
        File name -> path of what was written.

    Raises:
        StoreError: if the folder or the disk refuses; previous reports are then untouched.
    """
    texts = {
        "report.html": render_html(analysis),
        "analysis.json": to_json(analysis),
        "layers.csv": render_csv(analysis),
        "sources.csv": render_sources_csv(analysis),
    }
    paths = {name: Path(out) / name for name in texts}
    write_files({paths[name]: text for name, text in texts.items()})
    return paths
